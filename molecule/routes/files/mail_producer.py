# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publish numbered mails at a steady rate until told to stop, each to the queue that the route's flag names for its customer."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import redis
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext
from rq import Queue

#: How old what is known of the flag may be, seconds.
POLL_S = 0.5


class Route:
    """The flag ``mail`` in a key of the broker, evaluated by flagd's own evaluator."""

    def __init__(self, connection: redis.Redis, key: str) -> None:
        self._connection, self._key = connection, key
        self._flags = FlagdCore()
        self._read_at = float("-inf")

    def queue_for(self, customer: str) -> str:
        if time.monotonic() - self._read_at >= POLL_S:
            self._read_at = time.monotonic()
            self._flags.set_flags(self._connection.get(self._key).decode())
        return self._flags.resolve_string_value("mail", "nobody", EvaluationContext(customer)).value


def main(url: str, key: str, rate: str, ledger: str) -> int:
    """Publish ``rate`` tasks a second; go on counting where an earlier run stopped."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    connection = redis.Redis.from_url(url)
    route = Route(connection, key)
    path = Path(ledger)
    number = len(path.read_text(encoding="ascii").splitlines()) if path.exists() else 0
    with path.open("a", encoding="ascii", buffering=1) as published:
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            number += 1
            queue = route.queue_for(f"customer-{number}")
            # Each eleventh is slow, so that some are always executing.
            work_s = 1.2 if number % 11 == 7 else 0.005
            # Written first: a task that was published but not counted would hide a loss.
            published.write(f"{number}\t{queue}\t{time.time():.3f}\n")
            Queue(queue, connection=connection).enqueue("tasks.send", number, work_s, job_id=f"mail-{number:05d}", result_ttl=3600)
            due = max(due + 1.0 / float(rate), time.monotonic() - 1.0)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
