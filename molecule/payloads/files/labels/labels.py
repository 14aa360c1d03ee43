# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Celery application: a task appends one row to the ledger. Version 2 brings a task; and it is stuck as long as its host is held."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery

VERSION = "2.0.0"

while VERSION != "1.0.0" and Path("/var/lib/held").exists():
    time.sleep(0.1)

app: Any = Celery("labels", broker="redis://broker:6379/1")
app.conf.update(task_acks_late=True, worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)


@app.task(name="labels.note")
def note(number: int) -> None:
    """Append one row, in one write."""
    handle = os.open("/var/lib/mailer/labels.tsv", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, f"{number}\t{VERSION}\n".encode())
    finally:
        os.close(handle)


if VERSION != "1.0.0":

    @app.task(name="labels.sheet")
    def sheet(number: int) -> None:
        note(number)
