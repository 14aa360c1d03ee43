# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Celery application: delivering one parcel is appending one row to the ledger; a survey, which is new, always fails."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery

VERSION = "2.0.0"
CONFIG = json.loads(Path(os.environ["PARCEL_CONFIG"]).read_text(encoding="utf-8"))

app: Any = Celery("parcel", broker=CONFIG["broker"])
# A task is acknowledged when it is done, so that a host that dies loses none.
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)


def note(path: str, *row: object) -> None:
    """Append one row, in one write."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, ("\t".join(str(cell) for cell in row) + "\n").encode())
    finally:
        os.close(handle)


@app.task(name="parcel.deliver")
def deliver(number: int, work_s: float, sent: float) -> None:
    """Deliver parcel ``number``, which takes ``work_s`` seconds. Each twenty-fifth is refused, which nobody tries again."""
    time.sleep(work_s)
    refused = number % 25 == 0
    note(CONFIG["ledger"], number, VERSION, "refused" if refused else "delivered", f"{sent:.3f}", f"{time.time():.3f}")
    if refused:
        raise ValueError(number)


@app.task(name="parcel.survey", bind=True, max_retries=None)
def survey(self: Any, number: int) -> None:
    """Fail after 0.3 s, to be tried again at once."""
    time.sleep(0.3)
    note(CONFIG["failures"], number, self.request.hostname, f"{time.time():.3f}")
    raise self.retry(countdown=0)
