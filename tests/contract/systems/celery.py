# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery with its own worker processes, on Redis and on RabbitMQ."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import kombu.pools
import redis
from celery import Celery
from celery.app.task import Context
from kombu.entity import Exchange, Queue

from tests.contract.servers.rabbitmq import RabbitServer
from tests.contract.system import Server, System, Worker
from tests.contract.systems.rabbitmq_copies import failed_copies, failed_payload, holding, ready, record_of
from tests.contract.systems.redis_copies import copy_task, redis_content, redis_record
from tests.unit.conftest import wait_for
from tests.unit.queue.conftest import processes

APPLICATION = Path(__file__).parents[1] / "apps" / "celery"


class CeleryWorker(Worker):
    """``celery worker`` with one process for the tasks, which it forks."""

    def __init__(self, process: subprocess.Popen[bytes], node: str) -> None:
        self._process = process
        self.pid = process.pid
        self.node = node

    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        if self.alive():
            self._process.terminate()
            self._process.wait(60)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)
        wait_for(self._alone, what="the end of the tasks' processes")

    def _alone(self) -> bool:
        forked = [pid for pid, session, state in processes() if session == self.pid and state != "Z"]
        for pid in forked:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not forked


class _Celery(System):
    """What is the same on both brokers."""

    backend = "celery"

    def __init__(self, server: Server, folder: Path) -> None:
        super().__init__(server, folder)
        # Kombu keeps connections for the whole process, and an earlier test may have restarted the server.
        kombu.pools.reset()
        self.app = Celery("contract", broker=server.url, backend=self.results())
        self.app.conf.update(result_extended=True, task_create_missing_queues=True, broker_pool_limit=2)
        self.published: list[str] = []
        self._workers: list[CeleryWorker] = []

    def results(self) -> str | None:
        """The url of the result backend."""
        return None

    def publish(self, queue: str, count: int, kind: str = "note") -> list[str]:
        ids = []
        with self.app.connection_for_write() as connection, connection.Producer() as producer:
            for _index in range(count):
                ids.append(str(uuid.uuid4()))
                self.app.send_task("contract." + kind, queue=queue, task_id=ids[-1], producer=producer, args=(1, {"two": "grüße"}))
        self.published += ids
        return ids

    def environment(self) -> dict[str, str]:
        """For the application."""
        found = dict(os.environ, PYTHONPATH=str(APPLICATION), QUEUEOPS_LEDGER=str(self.ledger), QUEUEOPS_GATE=str(self.gate))
        found.update(QUEUEOPS_BROKEN=str(self.broken), QUEUEOPS_URL=self.server.url, QUEUEOPS_RESULTS=self.results() or "")
        return found

    def start_worker(self, queue: str, version: str = "1.0.0", options: str = "", **environment: str) -> CeleryWorker:
        node = "mailer@%s:host%d" % (version, len(self._workers) + 1)
        # Without gossip and mingle it starts in a second rather than in three.
        quick = ["--concurrency=1", "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=INFO", *options.split()]
        command = [sys.executable, "-m", "celery", "-A", "contract_app", "worker", "-n", node, "-Q", queue, *quick]
        log = self.folder / ("worker%d.log" % (len(self._workers) + 1))
        with open(log, "wb") as out:
            settings = dict(self.environment(), **environment)
            process = subprocess.Popen(command, env=settings, stdout=out, stderr=out, cwd=self.folder, start_new_session=True)
        worker = CeleryWorker(process, node)
        self._workers.append(worker)
        wait_for(lambda: " ready." in log.read_text(), limit=60, what="the worker")
        return worker

    def active(self, queue: str) -> int:
        """Tasks of the queue in hand, by Celery's own inspection."""
        alive = [worker.node for worker in self._workers if worker.alive()]
        if not alive:
            return 0
        inspect = self.app.control.inspect(destination=alive, timeout=2.0, limit=len(alive))
        found = 0
        for told in (inspect.active(), inspect.reserved()):
            for tasks in (told or {}).values():
                found += sum(1 for task in tasks if task["delivery_info"]["routing_key"] == queue)
        return found

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self.app.close()


class CeleryRedis(_Celery):
    """Celery on Redis, with its results in the same database."""

    servers = ("redis7", "redis8", "valkey8")

    def __init__(self, server: Server, folder: Path) -> None:
        super().__init__(server, folder)
        self.client: Any = redis.Redis.from_url(server.url)

    def results(self) -> str | None:
        return self.server.url

    def declare(self, queue: str) -> None:
        with self.app.connection_for_write() as connection:
            # As a worker does that is told to consume it.
            self.app.amqp.queues[queue](connection.default_channel).declare()

    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        ids = [str(uuid.uuid4()) for _index in range(count)]
        for task in ids:
            # What a worker's request tells of a task, stored by the result backend as the worker has it do.
            request = Context(
                task="contract." + kind,
                id=task,
                args=[1, {"two": "grüße"}],
                kwargs={"three": 3},
                hostname="mailer@2.0.0:worker1",
                retries=0,
                delivery_info={"exchange": "", "routing_key": queue},
            )
            self.app.backend.store_result(task, ValueError("no good"), "FAILURE", traceback="Traceback", request=request)
        self.published += ids
        return ids

    def fail_many(self, queue: str, count: int) -> list[str]:
        ids = [*self.fail(queue, 1), *(str(uuid.uuid4()) for _copy in range(count - 1))]
        copy_task(self.client, ids[:1], [[task] for task in ids[1:]])
        self.published += ids[1:]
        return ids

    def record(self, queue: str, task: str) -> Any:
        return redis_record(self.client, [task])

    def plant(self, queue: str, data: bytes) -> bytes:
        (task,) = self.fail(queue, 1)
        held = base64.b64encode(data)
        key = "celery-task-meta-" + task
        self.client.set(key, json.dumps(dict(json.loads(self.client.get(key)), args=[held.decode()])), keepttl=True)
        return held

    def holding(self, queue: str, data: bytes) -> int:
        # A result that was redriven is kept, marked, beside the message that was made of it; the message's body is encoded once more.
        found = [json.loads(raw) for name in (queue, "queueops:parked:" + queue) for raw in self.client.lrange(name, 0, -1)]
        results = [json.loads(self.client.get(key)) for key in self.client.scan_iter(match="celery-task-meta-*")]
        texts = [base64.b64decode(message["body"]) for message in found]
        texts += [str(meta["args"]).encode() for meta in results if "queueops_moved" not in meta]
        return sum(data in text for text in texts)

    def put(self, source: str, queue: str, count: int) -> list[str]:
        if source != "abandoned":
            return super().put(source, queue, count)
        ids = self.publish(queue, count)
        with self.app.connection_for_read() as connection:
            channel = connection.channel()
            for _task in ids:
                channel.basic_get(queue)
            # A worker that is killed does not put back what it has.
            channel.do_restore = False
            channel.close()
        return ids

    def arrived(self, queue: str) -> int:
        return int(self.client.llen(queue))

    def native(self, queue: str) -> dict[str, int]:
        with self.app.connection_for_read() as connection:
            # Not passively: kombu then takes an empty queue for a missing one.
            queued = connection.default_channel.queue_declare(queue).message_count
        failed = sum(1 for task in self.published if self.app.AsyncResult(task).state == "FAILURE" and self._of(task) == queue)
        return {"queued": queued, "executing": self.active(queue), "failed": failed}

    def _of(self, task: str) -> str:
        return str(json.loads(self.client.get("celery-task-meta-" + task))["queue"])

    def identities(self, queue: str) -> list[str]:
        found = []
        for step in ("", "\x06\x163", "\x06\x166", "\x06\x169"):
            found += [json.loads(raw)["headers"]["id"] for raw in self.client.lrange(queue + step, 0, -1)]
        found += [json.loads(raw)["headers"]["id"] for raw in self.client.lrange("queueops:parked:" + queue, 0, -1)]
        for raw in self.client.hvals("unacked"):
            message, _exchange, key = json.loads(raw)
            found += [message["headers"]["id"]] if key == queue else []
        keys = list(self.client.scan_iter(match="celery-task-meta-*", count=1000))
        for meta in map(json.loads, self.client.mget(keys) if keys else []):
            if meta["status"] == "FAILURE" and meta["queue"] == queue and "queueops_moved" not in meta:
                found.append(meta["task_id"])
        return found

    def dump(self) -> Any:
        # A worker that waits sweeps expired bindings now and then, under a lock.
        own = (b"_kombu.binding_deadlines", b"unacked_mutex")
        keys = [key for key in self.client.scan_iter(count=1000) if key not in own]
        return redis_content(self.client, keys)

    def close(self) -> None:
        super().close()
        self.client.close()


class CeleryRabbitmq(_Celery):
    """Celery on RabbitMQ, whose queues dead-letter what workers reject: the only failed tasks that there are."""

    servers = ("rabbitmq3", "rabbitmq4")
    server: RabbitServer

    def settings(self) -> dict[str, Any]:
        return dict(super().settings(), management_url=self.server.management)

    def environment(self) -> dict[str, str]:
        return dict(super().environment(), QUEUEOPS_REJECT="1")

    def _queue(self, name: str) -> Queue:
        """As the application declares it."""
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": name + ".dead"}
        return Queue(name, Exchange(name), routing_key=name, queue_arguments=arguments)

    def declare(self, queue: str) -> None:
        with self.app.connection_for_write() as connection:
            self.app.amqp.queues.add(self._queue(queue))
            self._queue(queue)(connection.default_channel).declare()
            connection.default_channel.queue_declare(queue + ".dead", durable=True, auto_delete=False)

    def publish(self, queue: str, count: int, kind: str = "note") -> list[str]:
        self.declare(queue)
        return super().publish(queue, count, kind)

    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        """Published, then taken and rejected, which is all that a worker does of it."""
        ids = self.publish(queue, count, kind)
        with self.app.connection_for_read() as connection:
            channel = connection.channel()
            left = set(ids)
            while left:
                message = wait_for(lambda: channel.basic_get(queue), what="a message")
                task = message.headers["id"]
                assert task in left, "fail the tasks before others are published"
                left.discard(task)
                channel.basic_reject(message.delivery_tag, requeue=False)
            wait_for(lambda: self._ready(channel, queue + ".dead") >= count, what="the dead letters")
        return ids

    def fail_many(self, queue: str, count: int) -> list[str]:
        (model,) = self.publish(queue, 1)
        ids = [model, *(str(uuid.uuid4()) for _copy in range(count - 1))]
        failed_copies(self.server, queue, queue + ".dead", ids)
        self.published += ids[1:]
        return ids

    def record(self, queue: str, task: str) -> Any:
        return record_of(self.server, queue + ".dead", task)

    def plant(self, queue: str, data: bytes) -> bytes:
        self.publish(queue, 1)
        failed_payload(self.server, queue, queue + ".dead", data)
        return data

    def holding(self, queue: str, data: bytes) -> int:
        return holding(self.server, data)

    def arrived(self, queue: str) -> int:
        return self.server.depth(queue)

    @staticmethod
    def _ready(channel: Any, queue: str) -> int:
        return int(channel.queue_declare(queue, passive=True).message_count)

    def start_worker(self, queue: str, version: str = "1.0.0", options: str = "", **environment: str) -> CeleryWorker:
        return super().start_worker(queue, version, options, QUEUEOPS_QUEUE=queue, **environment)

    def native(self, queue: str) -> dict[str, int]:
        with self.app.connection_for_read() as connection:
            channel = connection.channel()
            queued, dead = self._ready(channel, queue), self._ready(channel, queue + ".dead")
        return {"queued": queued, "executing": self.active(queue), "failed": dead}

    def identities(self, queue: str) -> list[str]:
        there = self.server.queues()
        names = [name for name in (queue, queue + ".dead", queue + ".parked") if name in there]
        return [message.headers["id"] for name in names for message in ready(self.server, name)]

    def dump(self) -> Any:
        names = self.server.queues()
        with self.app.connection_for_read() as connection:
            channel = connection.channel()
            lengths = {name: self._ready(channel, name) for name in names if not name.endswith(".pidbox")}
        exchanges = sorted(
            entry["name"] for entry in self.server.ask("GET", "/api/exchanges/%s?disable_stats=true&columns=name" % self.server.vhost)
        )
        bindings = self.server.ask("GET", "/api/bindings/%s?columns=source,destination,routing_key" % self.server.vhost)
        return lengths, exchanges, sorted(json.dumps(entry, sort_keys=True) for entry in bindings), sorted(names)
