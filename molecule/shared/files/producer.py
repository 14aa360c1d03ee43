# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publish numbered tasks at a steady rate until told to stop, and write down each one's number."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import redis
from rq import Queue


def main(url: str, name: str, rate: str, ledger: str) -> int:
    """Publish ``rate`` tasks a second to the queue ``name``; go on counting where an earlier run stopped."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    queue = Queue(name, connection=redis.Redis.from_url(url))
    path = Path(ledger)
    number = len(path.read_text(encoding="ascii").splitlines()) if path.exists() else 0
    with path.open("a", encoding="ascii", buffering=1) as published:
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            number += 1
            # Each eleventh is slow, so that some are always executing.
            work_s = 1.2 if number % 11 == 7 else 0.005
            # Written first: a task that was published but not counted would hide a loss.
            published.write(f"{number}\n")
            queue.enqueue("tasks.send", number, work_s, job_id=f"mail-{number:05d}", description=f"mail {number}", result_ttl=3600)
            due = max(due + 1.0 / float(rate), time.monotonic() - 1.0)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
