# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redriving Celery's tasks on Redis against Celery's own ways, in pairs on one server: ``python -m tests.benchmarks.redrive_celery``.

Celery has two: ``celery.contrib.migrate.move`` takes messages from one queue to another, and what failed can only be sent again, one by
one, from what its result holds. Both sides are checked for count.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveReport, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend
from celery import Celery
from celery.contrib.migrate import move

from tests.unit.conftest import RedisServer

ARGUMENTS = ["somebody@example.org", {"subject": "x" * 120}]


class Lab:
    """Celery on one server."""

    def __init__(self, server: RedisServer) -> None:
        path = "redis+socket://%s?virtual_host=0" % server.socket
        self.url = server.url
        self.client: Any = redis.Redis.from_url(server.url)
        self.app = Celery("bench", broker=path, backend=path)
        self.app.conf.update(result_extended=True, task_create_missing_queues=True)

    def queued(self, count: int) -> None:
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

    def failed(self, count: int) -> list[str]:
        """Results as a worker stores them."""
        self.queued(0)
        ids = [str(uuid.uuid4()) for _number in range(count)]
        for begin in range(0, count, 1000):
            self.client.mset({"celery-task-meta-" + task: _meta(task) for task in ids[begin : begin + 1000]})
        return ids

    def move(self, count: int) -> float:
        self.queued(count)
        began = time.perf_counter()
        move(lambda _body, _message: ("other", "other"), source=["mail"], app=self.app, limit=count)
        return self._rate(count, began, "other")

    def send_again(self, count: int) -> float:
        """With what would be lost if it died in between: the task is sent, then its failed result is forgotten."""
        ids = self.failed(count)
        began = time.perf_counter()
        with self.app.connection_for_write() as connection, connection.Producer() as producer:
            for task in ids:
                meta = self.app.backend.get_task_meta(task, cache=False)
                self.app.send_task(
                    meta["name"], args=meta["args"], kwargs=meta["kwargs"], task_id=task, queue=meta["queue"], producer=producer
                )
                self.app.backend.forget(task)
        return self._rate(count, began, "mail")

    def ours(self, count: int, source: str, destination: str | None) -> float:
        (self.failed if source == "failed" else self.queued)(count)
        backend = open_backend("celery", {"url": self.url})
        began = time.perf_counter()
        report: RedriveReport = redrive.redrive(
            backend, RedriveRequest("mail", source=source, rules=(Rule(destination=destination),), run=uuid.uuid4().hex)
        )
        rate = self._rate(count, began, destination or "mail")
        if report.moved != count or report.conservation["verdict"] != "proven":
            raise SystemExit("the redrive says %s" % report)
        return rate

    def _rate(self, count: int, began: float, queue: str) -> float:
        seconds = time.perf_counter() - began
        if self.client.llen(queue) != count:
            raise SystemExit("%d of %d tasks arrived" % (self.client.llen(queue), count))
        return count / seconds


def _meta(task: str) -> str:
    return json.dumps(
        {
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
            "task_id": task,
        }
    )


def row(name: str, rates: list[float], base: list[float]) -> str:
    ratios = [mine / theirs for mine, theirs in zip(rates, base, strict=True)]
    told = (name, statistics.median(rates), min(rates), max(rates), statistics.median(ratios), min(ratios), max(ratios))
    return "| %s | %.0f (%.0f to %.0f) | %.1f (%.1f to %.1f) |" % told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=20000, help="tasks that a redrive moves")
    parser.add_argument("--own", type=int, default=2000, help="tasks that Celery moves")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    server = RedisServer(folder)
    server.start()
    try:
        lab = Lab(server)
        ways: dict[str, Callable[[], float]] = {
            "celery.contrib.migrate.move": lambda: lab.move(chosen.own),
            "queue_redrive of queued tasks, marks and proof by identity": lambda: lab.ours(chosen.tasks, "queued", "other"),
            "sent again by their results": lambda: lab.send_again(chosen.own),
            "queue_redrive of failed tasks, marks and proof by identity": lambda: lab.ours(chosen.tasks, "failed", None),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _pair in range(chosen.pairs):
            for name, way in ways.items():
                rates[name].append(way())
        print("| Celery on Redis, tasks a second (median, range of %d) | rate | ratio in its pair |" % chosen.pairs)
        print("| --- | --- | --- |")
        names = list(ways)
        for own, mine in (names[:2], names[2:]):
            print(row(own, rates[own], rates[own]))
            print(row(mine, rates[mine], rates[own]))
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
