# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Celery application: delivering one parcel is appending one row to the ledger."""

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


@app.task(name="parcel.deliver")
def deliver(number: int, work_s: float) -> None:
    """Deliver parcel ``number``, which takes ``work_s`` seconds."""
    time.sleep(work_s)
    handle = os.open(CONFIG["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{number}\t{VERSION}\t{CONFIG['version']}\t{time.time():.3f}\n".encode())
    finally:
        os.close(handle)
