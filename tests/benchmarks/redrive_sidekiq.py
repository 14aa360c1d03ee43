# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redriving Sidekiq's dead set against its own ``retry_all``, in pairs on one server: ``python -m tests.benchmarks.redrive_sidekiq``.

Tasks are as Sidekiq writes them when they have failed for the last time; both sides are checked for count and order.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import redis
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveReport, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

from tests.unit.conftest import RedisServer

HELPER = Path(__file__).parents[1] / "contract" / "apps" / "sidekiq" / "helper.rb"
TASK = (
    '{"retry":true,"queue":"mail","class":"Note","args":["hunter2",%d],"jid":"%s","created_at":%.7f,"enqueued_at":%.7f,'
    '"error_message":"no good","error_class":"ValueError","failed_at":%.7f,"retry_count":25,"retried_at":%.7f}'
)


def fill(client: Any, count: int) -> list[str]:
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


def check(client: Any, ids: list[str], ordered: bool) -> None:
    there = [json.loads(task)["jid"] for task in reversed(client.lrange("queue:mail", 0, -1))]
    # Sidekiq itself begins with the latest.
    if (there if ordered else sorted(there)) != (ids if ordered else sorted(ids)) or client.zcard("dead"):
        raise SystemExit("the tasks did not all arrive")


def retry_all(client: Any, ruby: subprocess.Popen[str], count: int) -> float:
    ids = fill(client, count)
    assert ruby.stdin is not None and ruby.stdout is not None
    began = time.perf_counter()
    ruby.stdin.write('["retry_all", "dead"]\n')
    ruby.stdin.flush()
    if ruby.stdout.readline() != "[true]\n":
        raise SystemExit("retry_all did not end well")
    seconds = time.perf_counter() - began
    check(client, ids, False)
    return count / seconds


def ours(client: Any, url: str, count: int, rule: Rule) -> float:
    ids = fill(client, count)
    backend = open_backend("sidekiq", {"url": url})
    began = time.perf_counter()
    report: RedriveReport = redrive.redrive(backend, RedriveRequest("mail", source="dead_lettered", rules=(rule,)))
    seconds = time.perf_counter() - began
    check(client, ids, True)
    if report.moved != count or report.conservation["verdict"] != "proven":
        raise SystemExit("the redrive says %s" % report)
    return count / seconds


def row(name: str, rates: list[float], base: list[float]) -> str:
    ratios = [mine / theirs for mine, theirs in zip(rates, base, strict=True)]
    told = (name, statistics.median(rates), min(rates), max(rates), statistics.median(ratios), min(ratios), max(ratios))
    return "| %s | %.0f (%.0f to %.0f) | %.1f (%.1f to %.1f) |" % told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=50000, help="tasks that a redrive moves")
    parser.add_argument("--own", type=int, default=20000, help="tasks that retry_all moves")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    server = RedisServer(folder)
    server.start()
    environment = dict(os.environ, REDIS_URL="unix://" + server.socket)
    ruby = subprocess.Popen(["ruby", str(HELPER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        client = redis.Redis.from_url(server.url)
        base, swept, matched = [], [], []
        for _pair in range(chosen.pairs):
            base.append(retry_all(client, ruby, chosen.own))
            swept.append(ours(client, server.url, chosen.tasks, Rule()))
            matched.append(ours(client, server.url, chosen.tasks, Rule(Match(error="no good"))))
        print("| Sidekiq's dead set, tasks a second (median, range of %d) | rate | ratio in its pair |" % chosen.pairs)
        print("| --- | --- | --- |")
        print(row("DeadSet#retry_all", base, base))
        print(row("queue_redrive, marks and proof by identity", swept, base))
        print(row("the same with match.error", matched, base))
    finally:
        ruby.kill()
        ruby.wait(10)
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
