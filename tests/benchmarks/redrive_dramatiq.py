# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redriving Dramatiq's dead letters on Redis: ours against the way that is left to its users, enqueuing each again by its API.

Dramatiq has no redrive. What dashboards do is: read the message, ``broker.enqueue`` it with its retries reset, delete the dead
letter. Prints a row for each size: tasks a second, median and range of the pairs, and the ratio of the medians.

    python tests/benchmarks/redrive_dramatiq.py [tasks] [pairs]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend
from dramatiq.brokers.redis import RedisBroker
from dramatiq.message import Message

from tests.unit.conftest import RedisServer

DEAD = "dramatiq:mail.XQ"
TRACEBACK = 'Traceback (most recent call last):\n  File "app.py", line 9, in send\n    raise ValueError("no good")\nValueError: no good\n'


def fill(client: Any, count: int) -> None:
    """``count`` dead letters of about 500 bytes."""
    client.flushall()
    for first in range(0, count, 1000):
        pipe = client.pipeline(transaction=False)
        for number in range(first, min(first + 1000, count)):
            key = str(uuid.uuid4())
            options = {"redis_message_id": key, "retries": 3, "traceback": TRACEBACK, "requeue_timestamp": 1790000000000}
            message: Message[Any] = Message("mail", "send", (number, "somebody@example.org"), {"subject": "x" * 40}, options)
            pipe.zadd(DEAD, {key: 1790000000000 + number})
            pipe.hset(DEAD + ".msgs", key, message.encode())
        pipe.execute()


def by_api(client: Any, broker: Any) -> None:
    """One by one; a task that is between the two steps when this dies is there twice."""
    for key in client.zrange(DEAD, 0, -1):
        message = Message.decode(client.hget(DEAD + ".msgs", key))
        for name in ("retries", "traceback", "requeue_timestamp"):
            message.options.pop(name, None)
        broker.enqueue(message)
        pipe = client.pipeline()
        pipe.zrem(DEAD, key)
        pipe.hdel(DEAD + ".msgs", key)
        pipe.execute()


def ours(url: str, rule: Rule) -> None:
    report = redrive(open_backend("dramatiq", {"url": url}), RedriveRequest("mail", rules=(rule,)))
    assert report.conservation["verdict"] == "proven"


def told(rates: list[float]) -> str:
    return "%.0f (%.0f to %.0f)" % (statistics.median(rates), min(rates), max(rates))


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    with tempfile.TemporaryDirectory(prefix="qo-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            client: Any = redis.Redis.from_url(server.url)
            maker: Any = RedisBroker
            broker = maker(url=server.url, middleware=[], maintenance_chance=0)
            ways: dict[str, Callable[[], None]] = {
                "enqueue again by Dramatiq's API": lambda: by_api(client, broker),
                "queue_redrive, all, proven by identity": lambda: ours(server.url, Rule()),
                "queue_redrive, by error": lambda: ours(server.url, Rule(Match(error="no good"))),
            }
            rates: dict[str, list[float]] = {name: [] for name in ways}
            for _pair in range(pairs):
                for name, way in ways.items():
                    fill(client, count)
                    began = time.monotonic()
                    way()
                    rates[name].append(count / (time.monotonic() - began))
                    assert client.llen("dramatiq:mail") == count and not client.exists(DEAD)
            base = statistics.median(rates["enqueue again by Dramatiq's API"])
            sys.stdout.write("| %d dead letters | tasks a second, median (range) of %d | ratio |\n|---|---|---|\n" % (count, pairs))
            for name, found in rates.items():
                sys.stdout.write("| %s | %s | %.1f |\n" % (name, told(found), statistics.median(found) / base))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
