# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sidekiq's dead set against its own ``DeadSet#retry_all``: ``python -m tests.benchmarks.redrive_sidekiq``.

Tasks are as Sidekiq writes them when they have failed for the last time. The bar is for a redrive of all, as ``retry_all`` is one.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import redis
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveRequest, Rule

from tests.benchmarks.common import started
from tests.benchmarks.paired import Comparison, Ours, Race, Side, main, parser, seconds
from tests.unit.conftest import RedisServer

HELPER = Path(__file__).parents[1] / "contract" / "apps" / "sidekiq" / "helper.rb"
TASK = (
    '{"retry":true,"queue":"mail","class":"Note","args":["hunter2",%d],"jid":"%s","created_at":%.7f,"enqueued_at":%.7f,'
    '"error_message":"no good","error_class":"ValueError","failed_at":%.7f,"retry_count":25,"retried_at":%.7f}'
)


def fill(client: Any, count: int) -> list[str]:
    """The ids, oldest first."""
    client.flushall()
    client.sadd("queues", "mail")
    chance, now, ids = random.Random(count), time.time(), []
    for begin in range(0, count, 5000):
        entries = {}
        for number in range(begin, min(count, begin + 5000)):
            jid = "%024x" % chance.getrandbits(96)
            ids.append(jid)
            times = [now - age - chance.random() for age in (9000, 9000, 8000, 1000)]
            entries[TASK % (number, jid, *times)] = now - 1000 + number / 1000
        client.zadd("dead", entries)
    return ids


def arrived(client: Any) -> list[str]:
    """The ids of what is queued, in order."""
    assert not client.zcard("dead"), "tasks were left"
    return [json.loads(task)["jid"] for task in reversed(client.lrange("queue:mail", 0, -1))]


def check_ours(client: Any, ids: list[str]) -> None:
    assert arrived(client) == ids, "the tasks did not all arrive in their order"


def check_theirs(client: Any, ids: list[str]) -> None:
    # Sidekiq itself begins with the latest.
    assert sorted(arrived(client)) == sorted(ids), "the tasks did not all arrive"


def retry_all(ruby: subprocess.Popen[str]) -> None:
    assert ruby.stdin is not None and ruby.stdout is not None
    ruby.stdin.write('["retry_all", "dead"]\n')
    ruby.stdin.flush()
    assert ruby.stdout.readline() == "[true]\n", "retry_all did not end well"


def measure(folder: Path, chosen: Any) -> Generator[Race]:
    with started(RedisServer(folder)) as server:
        environment = dict(os.environ, REDIS_URL="unix://" + server.socket)
        ruby = subprocess.Popen(["ruby", str(HELPER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        client: Any = redis.Redis.from_url(server.url)

        def make(count: int) -> list[str]:
            return fill(client, count)

        def ours(name: str, match: Match) -> Ours:
            request = RedriveRequest("mail", source="dead_lettered", rules=(Rule(match),))
            return Ours(name, chosen.tasks, make, lambda ids: check_ours(client, ids), "sidekiq", {"url": server.url}, request)

        try:
            retry = Side(
                "`DeadSet#retry_all`", chosen.own, make, lambda: seconds(lambda: retry_all(ruby)), lambda ids: check_theirs(client, ids)
            )
            matched = Comparison(ours("by match.error", Match(error="no good")), retry)
            yield Race("Sidekiq, dead set", [Comparison(ours("all", Match()), retry, 20), matched])
        finally:
            ruby.kill()
            ruby.wait(10)


if __name__ == "__main__":
    sys.exit(main(parser(__doc__, tasks=50_000, own=20_000), measure))
