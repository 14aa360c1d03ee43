# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""1,000,000 tasks of each queue system on Redis: ``python -m tests.benchmarks.scale_redis``; see scale.py.

Few and many are on a server each: Celery's results and Sidekiq's dead set are those of all queues.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import redis

from tests.benchmarks.common import scratch, started
from tests.benchmarks.own_process import Place
from tests.benchmarks.scale import Scaled, Table, main, parser
from tests.unit.conftest import RedisServer

#: Tasks that one script makes.
FILLED = 5000


@dataclass(frozen=True)
class Failed:
    """The failed tasks of one queue system.

    :ivar fill: a Lua script that makes the tasks numbered ARGV[2] to ARGV[3] of the queue ARGV[1], as the system leaves failed ones, with
        a payload of about 200 bytes and the task's name ``tasks.note``.
    :ivar source: where they are then.
    :ivar match: a rule's condition that all of them fit.
    :ivar settings: options of the backend.
    """

    fill: str
    source: str = "failed"
    match: dict[str, Any] = field(default_factory=lambda: {"task": "tasks.note"})
    settings: dict[str, Any] = field(default_factory=dict)


SYSTEMS = {
    "rq": Failed(
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
    "bullmq": Failed(
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
    "sidekiq": Failed(
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
    "dramatiq": Failed(
        """
        local payload, dead = string.rep('x', 200), 'dramatiq:' .. ARGV[1] .. '.XQ'
        for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
          local id = string.format('%08d-0000-4000-8000-000000000000', number)
          local message = '{"queue_name":"' .. ARGV[1] .. '","actor_name":"tasks.note","args":["' .. payload .. '"],"kwargs":{},"options":'
                          .. '{"redis_message_id":"' .. id .. '","retries":3,"traceback":"ValueError: no good\\\\n",'
                          .. '"requeue_timestamp":1769860801000},"message_id":"' .. id .. '","message_timestamp":1769860800000}'
          redis.call('HSET', dead .. '.msgs', id, message)
          redis.call('ZADD', dead, 1769860801000 + number, id)
        end
        """
    ),
    "celery": Failed(
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
    "redis_list": Failed(
        """
        local payload = string.rep('x', 200)
        for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
          redis.call('RPUSH', ARGV[1] .. ':failed', '{"id":"' .. number .. '","task":"tasks.note","to":"' .. payload .. '"}')
        end
        """,
        match={"field": {"task": "tasks.note"}},
        settings={"id_field": "id"},
    ),
    "redis_stream": Failed(
        """
        if ARGV[2] == '0' then redis.call('XGROUP', 'CREATE', ARGV[1], 'workers', '0', 'MKSTREAM') end
        local payload = string.rep('x', 200)
        for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
          redis.call('XADD', ARGV[1] .. ':failed', '*', 'task', 'tasks.note', 'to', payload)
        end
        """,
        match={"header": {"task": "tasks.note"}},
    ),
}


def scaled(system: str, *servers: RedisServer) -> Scaled:
    failed = SYSTEMS[system]
    few, many = (
        Place(system, {"url": server.url, **failed.settings}, queue, failed.source)
        for queue, server in zip(("few", "many"), servers, strict=True)
    )
    clients: dict[Place, Any] = {place: redis.Redis.from_url(place.settings["url"]) for place in (few, many)}

    def fill(place: Place, count: int) -> None:
        script = clients[place].register_script(failed.fill)
        for first in range(0, count, FILLED):
            script(args=[place.queue, first, min(first + FILLED, count) - 1])

    def clear() -> None:
        for client in clients.values():
            # Emptying a server of millions of keys takes longer than a client waits.
            client.flushall(asynchronous=True)

    def changes() -> list[int]:
        return [client.info("persistence")["rdb_changes_since_last_save"] for client in clients.values()]

    return Scaled(system, few, many, fill, clear, failed.match, changes)


def measure(table: Table, chosen: Any) -> None:
    for system in chosen.systems.split(","):
        with scratch() as few, scratch() as many, started(RedisServer(few)) as server_of_few, started(RedisServer(many)) as server_of_many:
            table.measure(scaled(system, server_of_few, server_of_many))


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--systems", default=",".join(SYSTEMS), help="which of them, with commas between them (%s)" % ",".join(SYSTEMS))
    sys.exit(main(options, measure))
