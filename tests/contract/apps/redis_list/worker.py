# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker on a plain Redis list, as the Redis documentation draws it: ``worker.py <url> <queue> <name>``."""

from __future__ import annotations

import hashlib
import json
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
    mine = "%s:processing:%s" % (queue, name)
    while not stopping:
        payload = client.blmove(queue, mine, 0.5, "LEFT", "RIGHT")
        if payload is None:
            continue
        task = json.loads(payload)
        pipe = client.pipeline()
        pipe.lrem(mine, 1, payload)
        try:
            work(task["kind"], task.get("id") or hashlib.blake2b(payload, digest_size=8).hexdigest())
        except ValueError:
            pipe.rpush(queue + ":failed", payload)
        pipe.execute()


if __name__ == "__main__":
    main()
