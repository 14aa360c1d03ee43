# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""1,000,000 tasks on Redis: a look takes as long as on 10 and changes nothing, and a redrive of all of them stays under 100 MB.

The redrive is measured twice, in a process of its own each time: once without a match, and once by a rule that all tasks fit.

    PYTHONPATH=build python -m tests.benchmarks.scale [--tasks 1000000] [system...]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveReport, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

from tests.unit.conftest import RedisServer

LIMIT_MB = 100
LOOKS = 200
FEW = 10
#: Tasks that one script of ``fill`` makes.
FILLED = 5000


@dataclass(frozen=True)
class Scaled:
    """One queue system.

    :ivar fill: a Lua script that makes the tasks numbered ARGV[2] to ARGV[3] of the queue ARGV[1], as the system leaves failed ones, with
        a payload of about 200 bytes and the task's name ``tasks.note``.
    :ivar source: where they are then.
    :ivar match: a rule's condition that all of them fit.
    :ivar destination: where they are redriven to; None: where they came from.
    :ivar settings: options of the backend.
    """

    fill: str
    source: str = "failed"
    match: Match = field(default_factory=lambda: Match(task="tasks.note"))
    destination: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


SYSTEMS = {
    "rq": Scaled(
        """
        redis.call('SADD', 'rq:queues', 'rq:queue:' .. ARGV[1])
        local payload = string.rep('x', 200)
        for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
          local id = string.format('%08d-0000-4000-8000-000000000000', number) .. ARGV[1]
          redis.call('HSET', 'rq:job:' .. id, 'status', 'failed', 'origin', ARGV[1], 'data', payload, 'description', 'tasks.note(1)',
                     'created_at', '2026-01-31T12:00:00.000000Z', 'enqueued_at', '2026-01-31T12:00:00.000000Z', 'last_heartbeat', '',
                     'started_at', '2026-01-31T12:00:01.000000Z', 'ended_at', '2026-01-31T12:00:01.000000Z', 'timeout', '180',
                     'worker_name', 'mailer@2.0.0:worker1:1', 'success_callback_name', '', 'failure_callback_name', '')
          redis.call('EXPIRE', 'rq:job:' .. id, 31536000)
          redis.call('ZADD', 'rq:failed:' .. ARGV[1], 1900000000 + number, id)
        end
        """
    ),
    "bullmq": Scaled(
        """
        local base = 'bull:' .. ARGV[1] .. ':'
        redis.call('HSET', base .. 'meta', 'version', 'bullmq:6.7.0', 'opts.maxLenEvents', '10000')
        redis.call('SET', base .. 'id', tonumber(ARGV[3]) + 1)
        local payload = '{"to":"' .. string.rep('x', 200) .. '"}'
        local stack = '["ValueError: no good\\\\n    at work (/srv/app/worker.js:24:11)\\\\n    at Worker.callProcessJob (/srv/app:1:1)"]'
        for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
          redis.call('HSET', base .. (number + 1), 'name', 'tasks.note', 'data', payload, 'opts', '{"attempts":1}', 'atm', '1',
                     'timestamp', '1769860800000', 'delay', '0', 'priority', '0', 'ats', '1', 'processedOn', '1769860801000',
                     'finishedOn', '1769860801000', 'pb', 'mailer@2.0.0:worker1:1', 'failedReason', 'no good', 'stacktrace', stack)
          redis.call('ZADD', base .. 'failed', 1769860801000 + number, number + 1)
        end
        """
    ),
    "sidekiq": Scaled(
        """
        redis.call('SADD', 'queues', ARGV[1])
        local payload = string.rep('x', 200)
        for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
          local task = '{"retry":true,"queue":"' .. ARGV[1] .. '","class":"tasks.note","args":["' .. payload .. '"],"jid":"'
                       .. string.format('%020d%04x', number, #ARGV[1]) .. '","created_at":1769860800.25,"enqueued_at":1769860800.5,'
                       .. '"error_message":"no good","error_class":"ValueError","failed_at":1769860801.5,"retry_count":25,'
                       .. '"retried_at":1769860802.5}'
          redis.call('ZADD', 'dead', 1769860803 + number, task)
        end
        """,
        source="dead_lettered",
    ),
    "dramatiq": Scaled(
        """
        local payload, dead = string.rep('x', 200), 'dramatiq:' .. ARGV[1] .. '.XQ'
        for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
          local id = string.format('%08d-0000-4000-8000-000000000000', number)
          local message = '{"queue_name":"' .. ARGV[1] .. '","actor_name":"tasks.note","args":["' .. payload .. '"],"kwargs":{},"options":'
                          .. '{"redis_message_id":"' .. id .. '","retries":3,"traceback":"ValueError: no good\\n",'
                          .. '"requeue_timestamp":1769860801000},"message_id":"' .. id .. '","message_timestamp":1769860800000}'
          redis.call('HSET', dead .. '.msgs', id, message)
          redis.call('ZADD', dead, 1769860801000 + number, id)
        end
        """
    ),
    "celery": Scaled(
        """
        redis.call('SADD', '_kombu.binding.' .. ARGV[1], ARGV[1] .. '\\6\\22\\6\\22' .. ARGV[1])
        local payload = string.rep('x', 200)
        for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
          local id = string.format('%08d-0000-4000-8000-%012d', number, #ARGV[1])
          redis.call('SET', 'celery-task-meta-' .. id,
                     '{"status":"FAILURE","result":{"exc_type":"ValueError","exc_message":["no good"],"exc_module":"builtins"},'
                     .. '"traceback":"ValueError: no good","children":[],"date_done":"2026-01-31T12:00:01.000000+00:00",'
                     .. '"name":"tasks.note","args":["' .. payload .. '"],"kwargs":{},"worker":"mailer@2.0.0:worker1","retries":0,'
                     .. '"queue":"' .. ARGV[1] .. '","task_id":"' .. id .. '"}')
        end
        """,
        # To ask workers, a private list takes their answers.
        settings={"ask_workers": False},
    ),
    "redis_list": Scaled(
        """
        local payload = string.rep('x', 200)
        for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
          redis.call('RPUSH', ARGV[1] .. ':failed', '{"id":"' .. number .. '","task":"tasks.note","to":"' .. payload .. '"}')
        end
        """,
        match=Match(field={"task": "tasks.note"}),
        settings={"id_field": "id"},
    ),
    "redis_stream": Scaled(
        """
        if ARGV[2] == '0' then redis.call('XGROUP', 'CREATE', ARGV[1], 'workers', '0', 'MKSTREAM') end
        local payload = string.rep('x', 200)
        for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
          redis.call('XADD', ARGV[1] .. ':failed', '*', 'task', 'tasks.note', 'to', payload)
        end
        """,
        match=Match(header={"task": "tasks.note"}),
    ),
}


def fill(client: Any, system: str, queue: str, count: int) -> None:
    script = client.register_script(SYSTEMS[system].fill)
    for first in range(0, count, FILLED):
        script(args=[queue, first, min(first + FILLED, count) - 1])


class Measured:
    """The table of one system, and what of it is not as promised."""

    def __init__(self, system: str, count: int) -> None:
        self.system = system
        self.count = count
        self.rows: list[str] = []
        self.missed: list[str] = []

    def looks(self, client: Any, url: str, state: str) -> None:
        """Look at few and at many tasks in turns, so that both meet the same noise; the broker counts no change."""
        backend = open_backend(self.system, {"url": url, **SYSTEMS[self.system].settings})
        queues: dict[str, list[float]] = {"few": [], "many": []}
        changes = client.info("persistence")["rdb_changes_since_last_save"]
        for _index in range(LOOKS):
            for queue, spent in queues.items():
                began = time.perf_counter()
                backend.look([queue])
                spent.append((time.perf_counter() - began) * 1000)
        if client.info("persistence")["rdb_changes_since_last_save"] != changes:
            self.missed.append("a look changed something")
        told = "| look at %d %s tasks, %d looks | median %.2f ms, 90 %% within %.2f ms |"
        for number, spent in ((FEW, queues["few"]), (self.count, queues["many"])):
            self.rows.append(told % (number, state, LOOKS, statistics.median(spent), usual(spent)))
        if statistics.median(queues["many"]) > usual(queues["few"]):
            self.missed.append("a look at %d %s tasks takes longer than most at %d" % (self.count, state, FEW))

    def redrive(self, url: str, match: Match, what: str) -> None:
        moved, seconds, most = redriven(url, self.system, match)
        self.rows.append("| redrive of %s | %.0f tasks/s, %.0f MB |" % (what, moved / seconds, most))
        if moved != self.count:
            self.missed.append("%d of %d tasks were moved" % (moved, self.count))
        if most >= LIMIT_MB:
            self.missed.append("the redrive of %s took %.0f MB" % (what, most))

    def all(self) -> None:
        with tempfile.TemporaryDirectory(prefix="qo-") as folder:
            server = RedisServer(Path(folder))
            server.start()
            try:
                client = redis.Redis.from_url(server.url)
                fill(client, self.system, "few", FEW)
                fill(client, self.system, "many", self.count)
                self.looks(client, server.url, "failed")
                self.redrive(server.url, Match(), "all")
                redriven(server.url, self.system, Match(), "few")
                self.looks(client, server.url, "queued")
                client.flushall(asynchronous=True)
                fill(client, self.system, "many", self.count)
                self.redrive(server.url, SYSTEMS[self.system].match, "all by a rule that they fit")
            finally:
                server.stop()


def usual(spent: list[float]) -> float:
    """What nine of ten stay within."""
    return sorted(spent)[len(spent) * 9 // 10]


def redriven(url: str, system: str, match: Match, queue: str = "many") -> tuple[int, float, float]:
    """Tasks moved, seconds with all that belongs to it, and the most memory that a process of its own took (MB)."""
    source, sink = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            scaled = SYSTEMS[system]
            began = time.perf_counter()
            request = RedriveRequest(queue, source=scaled.source, rules=(Rule(match, destination=scaled.destination),))
            report: RedriveReport = redrive(open_backend(system, {"url": url, **scaled.settings}), request)
            seconds = time.perf_counter() - began
            assert report.conservation["verdict"] == "proven", report.conservation
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            os.write(sink, ("%d %f %f" % (report.moved, seconds, most)).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(status)
    os.close(sink)
    with open(source) as answer:
        told = answer.read().split()
    os.waitpid(child, 0)
    assert told, "the redrive failed, see above"
    return int(told[0]), float(told[1]), float(told[2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", nargs="*", metavar="system", help="of %s (default: all)" % ", ".join(SYSTEMS))
    parser.add_argument("--tasks", type=int, default=1_000_000)
    options = parser.parse_args()
    unknown = set(options.systems) - set(SYSTEMS)
    if unknown:
        parser.error("no such system: %s" % ", ".join(sorted(unknown)))
    missed = []
    for system in options.systems or SYSTEMS:
        measured = Measured(system, options.tasks)
        measured.all()
        print("| %s, %d tasks | |\n| --- | --- |" % (system, options.tasks))
        print("\n".join(measured.rows) + "\n", flush=True)
        missed += ["%s: %s" % (system, problem) for problem in measured.missed]
    print("\n".join(missed), file=sys.stderr, end="\n" if missed else "")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
