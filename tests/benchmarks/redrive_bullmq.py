# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""BullMQ's failed tasks against its own ``queue.retryJobs``: ``python -m tests.benchmarks.redrive_bullmq``."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveRequest

from tests.benchmarks.common import started
from tests.benchmarks.paired import Comparison, Ours, Race, Side, main, parser
from tests.contract.servers.redis import open_server
from tests.contract.systems.bullmq import Bullmq

QUEUE = "mail"


def fill(system: Bullmq, tasks: int) -> int:
    """``tasks`` failed tasks with the fields that BullMQ's own worker leaves, written directly: failing each would take minutes."""
    system.client.flushall()
    system.declare(QUEUE)
    stack = '["ValueError: no good\\\\n    at work (/srv/app/worker.js:24:11)\\\\n    at Worker.callProcessJob (/srv/app/worker.js:1:1)"]'
    now = int(time.time() * 1000)
    for first in range(0, tasks, 5000):
        pipe = system.client.pipeline(transaction=False)
        for number in range(first, min(first + 5000, tasks)):
            task = str(number + 1)
            fields = {"name": "note", "data": '{"number":%d,"to":"somebody@example.com"}' % number, "opts": '{"attempts":1}', "atm": 1}
            fields.update(timestamp=now, delay=0, priority=0, ats=1, processedOn=now, finishedOn=now, pb="mailer@2.0.0:worker1:1")
            pipe.hset(system.key(QUEUE, task), mapping=dict(fields, failedReason="no good", stacktrace=stack))
            pipe.zadd(system.key(QUEUE, "failed"), {task: now - tasks + number})
        pipe.execute()
    return tasks


def check(system: Bullmq, tasks: int) -> None:
    """All are queued, and as they are left by a retry."""
    sample = system.client.hkeys(system.key(QUEUE, str(tasks // 2)))
    assert system.client.llen(system.key(QUEUE, "wait")) == tasks, "not all of the %d tasks were redriven" % tasks
    assert b"failedReason" not in sample and b"finishedOn" not in sample, sample


def measure(folder: Path, chosen: Any) -> Generator[Race]:
    with started(open_server("redis7", folder)) as server:
        system = Bullmq(server, folder)
        try:
            both = (chosen.tasks, lambda tasks: fill(system, tasks))
            theirs = Side(
                "`queue.retryJobs` (count=1000)",
                *both,
                lambda: float(system.tool("retryJobs", QUEUE, count=1000)),
                lambda tasks: check(system, tasks),
            )
            ours = Ours("all", *both, lambda tasks: check(system, tasks), "bullmq", system.settings(), RedriveRequest(QUEUE))
            yield Race("BullMQ", [Comparison(ours, theirs, 0.8)])
        finally:
            system.close()


if __name__ == "__main__":
    sys.exit(main(parser(__doc__, tasks=100_000, own=100_000, pairs=5), measure))
