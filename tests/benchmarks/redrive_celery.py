# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery's tasks on Redis against Celery's own ways: ``python -m tests.benchmarks.redrive_celery``.

Celery has two: ``celery.contrib.migrate.move`` takes messages from one queue to another, and what failed can only be sent again, one by
one, from what its result holds.
"""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any

import redis
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveRequest, Rule
from celery import Celery
from celery.contrib.migrate import move

from tests.benchmarks.common import started
from tests.benchmarks.paired import Comparison, Ours, Race, Side, main, parser, seconds
from tests.unit.conftest import RedisServer

ARGUMENTS = ["somebody@example.org", {"subject": "x" * 120}]
#: A failed task's result, as a worker stores it.
META = {
    "status": "FAILURE",
    "result": {"exc_type": "ValueError", "exc_message": ["no good"], "exc_module": "builtins"},
    "traceback": 'Traceback (most recent call last):\n  File "app.py", line 9, in send\nValueError: no good\n',
    "children": [],
    "date_done": "2026-01-31T12:00:01.000000+00:00",
    "name": "app.note",
    "args": ARGUMENTS,
    "kwargs": {},
    "worker": "mailer@2.0.0:worker1",
    "retries": 0,
    "queue": "mail",
}


class Lab:
    """Celery on one server."""

    def __init__(self, server: RedisServer) -> None:
        path = "redis+socket://%s?virtual_host=0" % server.socket
        self.client: Any = redis.Redis.from_url(server.url)
        self.app = Celery("bench", broker=path, backend=path)
        self.app.conf.update(result_extended=True, task_create_missing_queues=True)
        self._failed: list[str] = []

    def queued(self, count: int) -> int:
        """Messages of one queue, made by Celery's producer and then repeated with other ids."""
        self.client.flushall()
        with self.app.connection_for_write() as connection:
            for queue in ("mail", "other"):
                self.app.amqp.queues[queue](connection.default_channel).declare()
        first = self.app.send_task("app.note", args=ARGUMENTS, queue="mail").id
        raw = self.client.lpop("mail")
        tag = json.loads(raw)["properties"]["delivery_tag"]
        for begin in range(0, count, 1000):
            some = range(begin, min(count, begin + 1000))
            ids = [(str(uuid.uuid4()).encode(), str(uuid.uuid4()).encode()) for _number in some]
            self.client.lpush("mail", *(raw.replace(first.encode(), task).replace(tag.encode(), other) for task, other in ids))
        return count

    def failed(self, count: int) -> int:
        """Results of as many tasks."""
        self.queued(0)
        self._failed = [str(uuid.uuid4()) for _number in range(count)]
        for begin in range(0, count, 1000):
            some = self._failed[begin : begin + 1000]
            self.client.mset({"celery-task-meta-" + task: json.dumps(dict(META, task_id=task)) for task in some})
        return count

    def check(self, queue: str, count: int) -> None:
        assert self.client.llen(queue) == count, "%d of %d tasks arrived" % (self.client.llen(queue), count)

    def move(self, count: int) -> None:
        move(lambda _body, _message: ("other", "other"), source=["mail"], app=self.app, limit=count)

    def send_again(self) -> None:
        """With what would be lost if it died in between: the task is sent, then its failed result is forgotten."""
        with self.app.connection_for_write() as connection, connection.Producer() as producer:
            for task in self._failed:
                meta = self.app.backend.get_task_meta(task, cache=False)
                self.app.send_task(
                    meta["name"], args=meta["args"], kwargs=meta["kwargs"], task_id=task, queue=meta["queue"], producer=producer
                )
                self.app.backend.forget(task)


def measure(folder: Path, chosen: Any) -> Generator[Race]:
    with started(RedisServer(folder)) as server:
        lab = Lab(server)

        def at(queue: str) -> Any:
            return lambda count: lab.check(queue, count)

        def ours(fill: Any, check: Any, request: RedriveRequest) -> Ours:
            return Ours("all", chosen.tasks, fill, check, "celery", {"url": server.url}, request)

        queued = RedriveRequest("mail", source="queued", rules=(Rule(destination="other"),))
        moved = Side("`celery.contrib.migrate.move`", chosen.own, lab.queued, lambda: seconds(lambda: lab.move(chosen.own)), at("other"))
        yield Race("Celery on Redis, queued tasks to another queue", [Comparison(ours(lab.queued, at("other"), queued), moved)])

        sent = Side("sent again by their results, one by one", chosen.own, lab.failed, lambda: seconds(lab.send_again), at("mail"))
        yield Race("Celery on Redis, failed tasks", [Comparison(ours(lab.failed, at("mail"), RedriveRequest("mail")), sent)])


if __name__ == "__main__":
    sys.exit(main(parser(__doc__, tasks=20_000, own=2_000), measure))
