# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker of the consumer group ``workers`` of a Redis stream: ``worker.py <url> <queue> <name>``."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import redis


def work(kind: str, task: str) -> None:
    """Do one task: note, hold, fail or flaky."""
    if kind == "fail" or (kind == "flaky" and os.path.exists(os.environ["QUEUEOPS_BROKEN"])):
        raise ValueError("no good")
    while kind == "hold" and not os.path.exists(os.environ["QUEUEOPS_GATE"]):
        time.sleep(0.02)
    descriptor = os.open(os.environ["QUEUEOPS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, (task + "\n").encode())
    os.close(descriptor)


def main() -> None:
    url, queue, name = sys.argv[1:]
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_arguments: stopping.append(True))
    client: Any = redis.Redis.from_url(url, client_name=name)
    while not stopping:
        for _stream, entries in client.xreadgroup("workers", name, {queue: ">"}, count=1, block=500) or []:
            for entry_id, fields in entries:
                pipe = client.pipeline()
                try:
                    # A redriven task is an entry of its own; what it was first is kept in a field.
                    work(fields[b"kind"].decode(), fields.get(b"queueops_id", entry_id).decode())
                except ValueError:
                    pipe.xadd(queue + ":failed", fields)
                pipe.xack(queue, "workers", entry_id)
                pipe.xdel(queue, entry_id)
                pipe.execute()


if __name__ == "__main__":
    main()
