# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dramatiq's dead letters on Redis against the way that is left to its users: ``python -m tests.benchmarks.redrive_dramatiq``.

Dramatiq has no redrive. What dashboards do is: read the message, ``broker.enqueue`` it with its retries reset, delete the dead letter.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import redis
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveRequest, Rule
from dramatiq.brokers.redis import RedisBroker
from dramatiq.message import Message

from tests.benchmarks.common import started
from tests.benchmarks.paired import Comparison, Ours, Race, Side, main, parser, seconds
from tests.contract.systems.dramatiq import TRACEBACK
from tests.unit.conftest import RedisServer

DEAD = "dramatiq:mail.XQ"


def enqueue_again(client: Any, broker: Any) -> None:
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


def measure(folder: Path, chosen: Any) -> Generator[Race]:
    with started(RedisServer(folder)) as server:
        client: Any = redis.Redis.from_url(server.url)
        maker: Any = RedisBroker
        broker = maker(url=server.url, middleware=[], maintenance_chance=0)

        def fill(count: int) -> int:
            """Dead letters of about 500 bytes."""
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
            return count

        def check(count: int) -> None:
            assert client.llen("dramatiq:mail") == count and not client.exists(DEAD), "the tasks did not all arrive"

        def ours(name: str, match: Match) -> Ours:
            request = RedriveRequest("mail", rules=(Rule(match),))
            return Ours(name, chosen.tasks, fill, check, "dramatiq", {"url": server.url}, request)

        api = Side(
            "`broker.enqueue` and delete one by one", chosen.own, fill, lambda: seconds(lambda: enqueue_again(client, broker)), check
        )
        by_error = ours("by match.error", Match(error="no good"))
        yield Race("Dramatiq on Redis, dead letters", [Comparison(ours("all", Match()), api), Comparison(by_error, api)])


if __name__ == "__main__":
    sys.exit(main(parser(__doc__, tasks=10_000, own=10_000), measure))
