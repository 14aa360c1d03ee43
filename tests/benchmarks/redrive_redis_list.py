# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain Redis list against LMOVE one by one: ``python -m tests.benchmarks.redrive_redis_list``.

Each side moves tasks of 200 bytes from one list to another, in order. The bar is for lists whose tasks are not read, as LMOVE does not:
with ``id_field`` each task is read, marked as moved by the run, its redrives are counted, and conservation is proven by identity.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import redis
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveRequest

from tests.benchmarks.common import started
from tests.benchmarks.paired import Comparison, Ours, Race, Side, main, parser, seconds
from tests.unit.conftest import RedisServer

PAYLOAD = '{"id": "%08d", "kind": "note", "text": "' + 158 * "x" + '"}'


def measure(folder: Path, chosen: Any) -> Generator[Race]:
    with started(RedisServer(folder)) as server:
        client: Any = redis.Redis.from_url(server.url)

        def fill(count: int) -> list[bytes]:
            client.flushall()
            payloads = [(PAYLOAD % number).encode() for number in range(count)]
            for begin in range(0, count, 10000):
                client.rpush("mail:failed", *payloads[begin : begin + 10000])
            return payloads

        def check(payloads: list[bytes]) -> None:
            arrived = client.lrange("mail", 0, -1) == payloads and not client.llen("mail:failed")
            assert arrived, "the tasks did not all arrive in their order"

        def one_by_one() -> None:
            while client.lmove("mail:failed", "mail", "LEFT", "RIGHT") is not None:
                pass

        def ours(name: str, **settings: str) -> Ours:
            return Ours(name, chosen.tasks, fill, check, "redis_list", {"url": server.url, **settings}, RedriveRequest("mail"))

        theirs = Side("LMOVE one by one", chosen.own, fill, lambda: seconds(one_by_one), check)
        yield Race("Redis list", [Comparison(ours("all"), theirs, 20), Comparison(ours("all, with id_field", id_field="id"), theirs)])


if __name__ == "__main__":
    sys.exit(main(parser(__doc__, tasks=100_000, own=20_000), measure))
