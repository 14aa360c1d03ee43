# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redriving failed tasks of BullMQ against its own ``queue.retryJobs``, in turn on one server, with the same end state checked.

Ours includes all that a redrive does: the record of the run and the proof of conservation by identity.
``python -m tests.benchmarks.redrive_bullmq [--tasks 100000] [--pairs 5]``
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveRequest

from tests.contract.servers.redis import open_server
from tests.contract.systems.bullmq import Bullmq

QUEUE = "mail"
#: Ours has to reach this share of theirs.
TARGET = 0.8


def fill(system: Bullmq, tasks: int) -> None:
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


def moved(system: Bullmq, tasks: int) -> None:
    """End unless all are queued and as they were left by a retry."""
    sample = system.client.hkeys(system.key(QUEUE, str(tasks // 2)))
    if system.client.llen(system.key(QUEUE, "wait")) != tasks or b"failedReason" in sample or b"finishedOn" in sample:
        sys.exit("not all of the %d tasks were redriven" % tasks)


def spread(values: list[float], form: str) -> str:
    low, high = min(values), max(values)
    return "%s (%s to %s)" % (form % statistics.median(values), form % low, form % high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100000)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    server = open_server("redis7", folder)
    server.start()
    system = Bullmq(server, folder)
    ours, theirs = [], []
    try:
        for _pair in range(options.pairs):
            fill(system, options.tasks)
            theirs.append(options.tasks / system.tool("retryJobs", QUEUE, count=1000))
            moved(system, options.tasks)
            fill(system, options.tasks)
            began = time.monotonic()
            report = engine.redrive(system.open(), RedriveRequest(QUEUE))
            ours.append(options.tasks / (time.monotonic() - began))
            moved(system, options.tasks)
            if report.moved != options.tasks or report.conservation["verdict"] != "proven":
                sys.exit("the redrive moved %d tasks: %s" % (report.moved, report.conservation))
    finally:
        system.close()
        server.stop()
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    print("| BullMQ, %d failed tasks, %d pairs | tasks/s: median (range) |" % (options.tasks, options.pairs))
    print("| --- | --- |")
    print("| `queue.retryJobs` (count=1000) | %s |" % spread(theirs, "%.0f"))
    print("| redrive, run recorded, conservation proven | %s |" % spread(ours, "%.0f"))
    print("| ratio, pair by pair | %s |" % spread(ratios, "%.2f"))
    return 0 if statistics.median(ratios) >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
