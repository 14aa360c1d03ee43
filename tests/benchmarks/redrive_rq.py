# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A redrive of RQ's failed tasks against ``rq requeue --all``, on the same server, in turns.

Both start from the same 10,000 failed tasks, and end with all of them queued; ours with the run marked and conservation proven by
identity. Each is measured without the start of its interpreter: RQ by the loop that its command runs.

    PYTHONPATH=build python -m tests.benchmarks.redrive_rq [pairs] [tasks]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
import rq
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveRequest
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

from tests.unit.conftest import RedisServer
from tests.unit.queue.conftest import Broker

#: Ours has to be this many times as fast as theirs.
TARGET = 50.0


def moved(client: Any, count: int) -> None:
    """End unless all are queued, as RQ leaves them."""
    ids = client.lrange("rq:queue:mail", 0, -1)
    assert len(set(ids)) == len(ids) == count and not client.exists("rq:failed:mail")
    for task in ids[:: max(1, count // 100)]:
        status, ended = client.hmget(b"rq:job:" + task, "status", "ended_at")
        assert (status, ended) == (b"queued", b""), (task, status, ended)


def theirs(client: Any, count: int) -> float:
    registry = rq.Queue("mail", connection=client).failed_job_registry
    began = time.perf_counter()
    for task in registry.get_job_ids():
        registry.requeue(task)
    spent = time.perf_counter() - began
    return count / spent


def ours(url: str, count: int) -> float:
    backend = open_backend("rq", {"url": url})
    began = time.perf_counter()
    report = redrive(backend, RedriveRequest("mail", run="benchmark"))
    spent = time.perf_counter() - began
    assert report.moved == count and report.conservation["verdict"] == "proven" and report.conservation["by"] == "identity"
    return count / spent


def measure(server: RedisServer, pairs: int, count: int) -> list[tuple[float, float]]:
    client: Any = redis.Redis.from_url(server.url)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(server, Path(folder))
        broker.fail(count)
        state = [(key, client.dump(key), client.ttl(key)) for key in client.scan_iter(count=1000)]
        ways: tuple[Callable[[], float], ...] = (lambda: theirs(client, count), lambda: ours(server.url, count))
        for _index in range(pairs):
            rates = []
            for way in ways:
                client.flushall()
                pipe: Any = client.pipeline(transaction=False)
                for key, dumped, ttl in state:
                    pipe.restore(key, max(0, ttl) * 1000, dumped)
                pipe.execute()
                rates.append(way())
                moved(client, count)
            found.append((rates[0], rates[1]))
    return found


def row(name: str, values: list[float], digits: int = 0) -> str:
    told = tuple(format(value, ",.%df" % digits) for value in (statistics.median(values), min(values), max(values)))
    return "| %s | %s | %s to %s |" % (name, *told)


def main(pairs: int = 5, count: int = 10_000) -> int:
    with tempfile.TemporaryDirectory(prefix="qo-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            found = measure(server, pairs, count)
        finally:
            server.stop()
    print("| %d failed tasks of RQ, %d pairs | median | range |\n| --- | --- | --- |" % (count, pairs))
    print(row("rq requeue --all (tasks/s)", [left for left, _right in found]))
    print(row("queue_redrive (tasks/s)", [right for _left, right in found]))
    ratios = [right / left for left, right in found]
    print(row("ratio", ratios, 1))
    return 0 if statistics.median(ratios) >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in sys.argv[1:])))
