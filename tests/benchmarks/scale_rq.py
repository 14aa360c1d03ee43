# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RQ with 1,000,000 failed and queued tasks: a look takes as long as on 10, and a redrive of all stays under 100 MB.

PYTHONPATH=build python -m tests.benchmarks.scale_rq [tasks]
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import redis
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveReport, RedriveRequest
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

from tests.unit.conftest import RedisServer

LIMIT_MB = 100
LOOKS = 200

# As RQ leaves a task that failed, with a payload of 200 bytes. KEYS: -. ARGV: queue, first, last.
_FAIL = """
redis.call('SADD', 'rq:queues', 'rq:queue:' .. ARGV[1])
local payload = string.rep('x', 200)
for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
  local id = string.format('%s-0000-4000-8000-%012d', ARGV[1], number)
  redis.call('HSET', 'rq:job:' .. id, 'status', 'failed', 'origin', ARGV[1], 'data', payload, 'description', 'tasks.note(1)',
             'worker_name', 'mailer@2.0.0:worker1:1', 'enqueued_at', '2026-01-31T12:00:00.000000Z',
             'ended_at', '2026-01-31T12:00:01.000000Z')
  redis.call('ZADD', 'rq:failed:' .. ARGV[1], 1900000000 + number, id)
end
"""


def fill(client: Any, queue: str, count: int) -> None:
    for first in range(0, count, 5000):
        client.eval(_FAIL, 0, queue, first, min(first + 5000, count) - 1)


def looks(url: str, queue: str) -> list[float]:
    backend = open_backend("rq", {"url": url})
    spent = []
    for _index in range(LOOKS):
        began = time.perf_counter()
        backend.look([queue])
        spent.append((time.perf_counter() - began) * 1000)
    return spent


def redriven(url: str, queue: str) -> tuple[int, float, float]:
    """Tasks moved, seconds, and the most memory that a process of its own took (MB)."""
    source, sink = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            report: RedriveReport = redrive(open_backend("rq", {"url": url}), RedriveRequest(queue))
            assert report.conservation["verdict"] == "proven", report.conservation
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            os.write(sink, ("%d %f %f" % (report.moved, report.seconds, most)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(sink)
    with open(source) as answer:
        told = answer.read().split()
    os.waitpid(child, 0)
    return int(told[0]), float(told[1]), float(told[2])


def main(count: int = 1_000_000) -> None:
    with tempfile.TemporaryDirectory(prefix="qo-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            client = redis.Redis.from_url(server.url)
            fill(client, "few", 10)
            fill(client, "many", count)
            few, many = looks(server.url, "few"), looks(server.url, "many")
            moved, seconds, most = redriven(server.url, "many")
            after = looks(server.url, "many")
        finally:
            server.stop()
    print("| RQ, %d tasks | |\n| --- | --- |" % count)
    for name, spent in (("a look at 10 failed tasks", few), ("at %d failed" % count, many), ("at %d queued" % count, after)):
        print(
            "| %s (ms, median of %d; 90 %% below) | %.2f; %.2f |" % (name, LOOKS, statistics.median(spent), sorted(spent)[LOOKS * 9 // 10])
        )
    print("| redrive of all (tasks/s) | %d |\n| its memory (MB) | %.0f |" % (moved / seconds, most))
    assert moved == count
    assert most < LIMIT_MB, "%.0f MB" % most


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
