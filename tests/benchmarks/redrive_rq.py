# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RQ's failed tasks against ``rq requeue --all``: ``python -m tests.benchmarks.redrive_rq``.

Both start from the same failed tasks, made by RQ's own code. RQ is measured without the start of its interpreter, by the loop that its
command runs.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import redis
import rq
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveRequest

from tests.benchmarks.common import started
from tests.benchmarks.paired import Comparison, Ours, Race, Side, main, parser, seconds
from tests.unit.conftest import RedisServer
from tests.unit.queue.conftest import Broker


def measure(folder: Path, chosen: Any) -> Generator[Race]:
    with started(RedisServer(folder)) as server:
        client: Any = redis.Redis.from_url(server.url)
        Broker(server, folder).fail(chosen.tasks)
        state = [(key, client.dump(key), client.ttl(key)) for key in client.scan_iter(count=1000)]

        def fill(count: int) -> int:
            client.flushall()
            pipe = client.pipeline(transaction=False)
            for key, dumped, ttl in state:
                pipe.restore(key, max(0, ttl) * 1000, dumped)
            pipe.execute()
            return count

        def check(count: int) -> None:
            """All are queued, as RQ leaves them."""
            ids = client.lrange("rq:queue:mail", 0, -1)
            assert len(set(ids)) == len(ids) == count and not client.exists("rq:failed:mail")
            for task in ids[:: max(1, count // 100)]:
                status, ended = client.hmget(b"rq:job:" + task, "status", "ended_at")
                assert (status, ended) == (b"queued", b""), (task, status, ended)

        def requeue() -> None:
            registry = rq.Queue("mail", connection=client).failed_job_registry
            for task in registry.get_job_ids():
                registry.requeue(task)

        theirs = Side("`rq requeue --all`", chosen.tasks, fill, lambda: seconds(requeue), check)
        ours = Ours("all", chosen.tasks, fill, check, "rq", {"url": server.url}, RedriveRequest("mail"))
        yield Race("RQ", [Comparison(ours, theirs, 50)])


if __name__ == "__main__":
    sys.exit(main(parser(__doc__, tasks=10_000, own=10_000, pairs=5), measure))
