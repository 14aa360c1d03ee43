# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publish numbered parcels at a steady rate until told to stop, and write down each one's number."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

from celery import Celery


def main(url: str, queue: str, rate: str, ledger: str) -> int:
    """Publish ``rate`` parcels a second; go on counting where an earlier run stopped."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    app = Celery("parcel", broker=url)
    path = Path(ledger)
    number = len(path.read_text(encoding="ascii").splitlines()) if path.exists() else 0
    with path.open("a", encoding="ascii", buffering=1) as published:
        while not stop.wait(1.0 / float(rate)):
            number += 1
            # Written first: a task that was published but not counted would hide a loss.
            published.write(f"{number}\n")
            work_s = 1.2 if number % 11 == 7 else 0.005
            app.send_task("parcel.deliver", (number, work_s), queue=queue, task_id=f"parcel-{number:05d}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
