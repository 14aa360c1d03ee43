# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redriving a plain Redis list against LMOVE one by one, in pairs on one server: ``python -m tests.benchmarks.redrive_redis_list``.

Each side moves tasks of 200 bytes from one list to another; both are checked for count and order.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import redis
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveReport, RedriveRequest
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

from tests.unit.conftest import RedisServer

PAYLOAD = '{"id": "%08d", "kind": "note", "text": "' + 158 * "x" + '"}'


def fill(client: Any, count: int) -> list[bytes]:
    client.flushall()
    payloads = [(PAYLOAD % number).encode() for number in range(count)]
    for begin in range(0, count, 10000):
        client.rpush("mail:failed", *payloads[begin : begin + 10000])
    return payloads


def check(client: Any, payloads: list[bytes]) -> None:
    if client.lrange("mail", 0, -1) != payloads or client.llen("mail:failed"):
        raise SystemExit("the tasks did not all arrive in their order")


def one_by_one(client: Any, count: int) -> float:
    payloads = fill(client, count)
    began = time.perf_counter()
    while client.lmove("mail:failed", "mail", "LEFT", "RIGHT") is not None:
        pass
    seconds = time.perf_counter() - began
    check(client, payloads)
    return count / seconds


def ours(client: Any, url: str, count: int, id_field: str | None) -> float:
    payloads = fill(client, count)
    backend = open_backend("redis_list", {"url": url, "id_field": id_field})
    began = time.perf_counter()
    report: RedriveReport = redrive.redrive(backend, RedriveRequest("mail"))
    seconds = time.perf_counter() - began
    check(client, payloads)
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
    parser.add_argument("--tasks", type=int, default=100000, help="tasks that a redrive moves")
    parser.add_argument("--one-by-one", type=int, default=20000, help="tasks that are moved one by one")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    server = RedisServer(folder)
    server.start()
    try:
        client = redis.Redis.from_url(server.url)
        base, unread, by_id = [], [], []
        for _pair in range(chosen.pairs):
            base.append(one_by_one(client, chosen.one_by_one))
            unread.append(ours(client, server.url, chosen.tasks, None))
            by_id.append(ours(client, server.url, chosen.tasks, "id"))
        print("| Redis list, tasks a second (median, range of %d) | rate | ratio in its pair |" % chosen.pairs)
        print("| --- | --- | --- |")
        print(row("LMOVE one by one", base, base))
        print(row("queue_redrive, proof by count", unread, base))
        print(row("queue_redrive with id_field: marks, counter, proof by identity", by_id, base))
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
