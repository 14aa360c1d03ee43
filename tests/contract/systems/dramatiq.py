# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dramatiq with its own worker processes, on Redis and on RabbitMQ."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from abc import abstractmethod
from pathlib import Path
from typing import Any

import redis
from dramatiq.broker import Broker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.message import Message

from tests.contract.system import Server, System, Worker
from tests.contract.systems.rabbitmq_copies import failed_copies, failed_payload, holding, ready, record_of
from tests.contract.systems.redis_copies import copy_task, redis_content, redis_holding, redis_record
from tests.unit.conftest import wait_for

APPLICATION = Path(__file__).parents[1] / "apps" / "dramatiq"
TRACEBACK = 'Traceback (most recent call last):\n  File "app.py", line 9, in fail\n    raise ValueError("no good")\nValueError: no good\n'


class DramatiqWorker(Worker):
    """``dramatiq`` with one process of one thread; the process with the workers in it is a child of the one we started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(60)

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)


class _Dramatiq(System):
    """What is the same on both brokers."""

    backend = "dramatiq"
    # Actors of a queue by any other name are refused when they are declared.
    odd_names = ("two-words", "a.b", "_under_score")

    def __init__(self, server: Server, folder: Path) -> None:
        super().__init__(server, folder)
        self.broker: Any = self._broker()
        self._workers: list[DramatiqWorker] = []

    @abstractmethod
    def _broker(self) -> Broker:
        """Dramatiq's own broker."""

    def message(self, queue: str, kind: str, **options: Any) -> Message[Any]:
        task = str(uuid.uuid4())
        return Message(queue_name=queue, actor_name=kind, args=(task,), kwargs={}, options=options, message_id=task)

    def publish(self, queue: str, count: int, kind: str = "note") -> list[str]:
        self.declare(queue)
        return [self.broker.enqueue(self.message(queue, kind)).message_id for _index in range(count)]

    def failed(self, queue: str, kind: str) -> Message[Any]:
        """A message as it is when all its attempts have failed."""
        return self.message(queue, kind, retries=1, traceback=TRACEBACK, requeue_timestamp=1)

    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        self.declare(queue)
        ids = [self.broker.enqueue(self.failed(queue, kind)).message_id for _index in range(count)]
        consumer = self.broker.consume(queue, prefetch=max(1, count), timeout=1000)
        for _task in ids:
            message = wait_for(lambda: next(consumer), what="a message")
            assert message.message_id in ids, "declare the failed tasks before the queued ones"
            consumer.nack(message)
        consumer.close()
        return ids

    def start_worker(self, queue: str, version: str = "1.0.0") -> DramatiqWorker:
        environment = dict(os.environ, PYTHONPATH=str(APPLICATION), QUEUEOPS_LEDGER=str(self.ledger), QUEUEOPS_GATE=str(self.gate))
        environment.update(QUEUEOPS_BROKEN=str(self.broken), QUEUEOPS_URL=self.server.url, QUEUEOPS_QUEUE=queue)
        # Without it a worker fetches twice as many tasks as it has threads.
        environment.update(QUEUEOPS_VERSION=version, dramatiq_queue_prefetch="1")
        command = [sys.executable, "-m", "dramatiq", "contract_app", "--processes", "1", "--threads", "1"]
        with open(self.folder / "worker.log", "ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        worker = DramatiqWorker(process)
        self._workers.append(worker)
        self._wait_for_worker(queue, len(self._workers))
        return worker

    @abstractmethod
    def _wait_for_worker(self, queue: str, count: int) -> None:
        """Until ``count`` workers that we started are known to the broker."""

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self.broker.close()


class DramatiqRedis(_Dramatiq):
    """Dramatiq on Redis."""

    servers = ("redis7", "redis8", "valkey8")
    tells_missing = False

    def _broker(self) -> Broker:
        maker: Any = RedisBroker
        broker: Broker = maker(url=self.server.url, middleware=[], maintenance_chance=0)
        self.client: Any = redis.Redis.from_url(self.server.url)
        return broker

    def declare(self, queue: str) -> None:
        self.broker.declare_queue(queue)

    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        ids = super().fail(queue, count, kind)
        dead = "dramatiq:%s.XQ" % queue
        # Those that died in the same millisecond are sorted by their key there.
        keys = self.client.zrange(dead, 0, -1)
        found = [json.loads(text)["message_id"] for text in self.client.hmget(dead + ".msgs", keys)] if keys else []
        return [task for task in found if task in set(ids)]

    def fail_many(self, queue: str, count: int) -> list[str]:
        ids = [*self.fail(queue, 1), *(str(uuid.uuid4()) for _copy in range(count - 1))]
        # Beside its own id a message has one by which Redis knows it.
        (key,) = self.client.zrange("dramatiq:%s.XQ" % queue, 0, -1)
        copy_task(self.client, [ids[0], key.decode()], [[task, str(uuid.uuid4())] for task in ids[1:]])
        return ids

    def record(self, queue: str, task: str) -> Any:
        for key, text in self.client.hgetall("dramatiq:%s.XQ.msgs" % queue).items():
            if json.loads(text)["message_id"] == task:
                return redis_record(self.client, [task, key.decode()])
        raise AssertionError("there is no failed task %s" % task)

    def plant(self, queue: str, data: bytes) -> bytes:
        self.fail(queue, 1)
        dead = "dramatiq:%s.XQ" % queue
        (key,) = self.client.zrange(dead, 0, -1)
        self.client.hset(dead + ".msgs", key, data)
        return data

    def holding(self, queue: str, data: bytes) -> int:
        return redis_holding(self.client, data)

    def put(self, source: str, queue: str, count: int) -> list[str]:
        if source != "abandoned":
            return super().put(source, queue, count)
        ids = self.publish(queue, count)
        maker: Any = RedisBroker
        gone = maker(url=self.server.url, middleware=[], maintenance_chance=0)
        gone.declare_queue(queue)
        assert len(gone.do_fetch(queue, count)) == count
        # As when it has been silent for long.
        self.client.zadd("dramatiq:__heartbeats__", {gone.broker_id: 1})
        gone.close()
        return ids

    def arrived(self, queue: str) -> int:
        return int(self.client.llen("dramatiq:" + queue))

    def _wait_for_worker(self, queue: str, count: int) -> None:
        wait_for(lambda: self._beating() >= count, limit=40, what="the worker's heartbeat")

    def _beating(self) -> int:
        return sum(1 for name in self.client.zrange("dramatiq:__heartbeats__", 0, -1) if name.startswith(b"mailer@"))

    def _held(self, queue: str) -> list[bytes]:
        pattern = "dramatiq:__acks__.*.%s" % queue
        return [member for key in self.client.scan_iter(match=pattern, count=1000) for member in self.client.smembers(key)]

    def native(self, queue: str) -> dict[str, int]:
        # Its own size counts the delayed ones with it, and what is in hand as well.
        size = int(self.broker.do_qsize(queue))
        return {"queued": size - len(self._held(queue)) - self.client.hlen("dramatiq:%s.DQ.msgs" % queue)}

    def identities(self, queue: str) -> list[str]:
        found = []
        base = "dramatiq:" + queue
        for keys, messages in (
            (self.client.lrange(base, 0, -1) + self._held(queue), base),
            (self.client.lrange(base + ".DQ", 0, -1) + self._held(queue + ".DQ"), base + ".DQ"),
            (self.client.zrange(base + ".XQ", 0, -1), base + ".XQ"),
            (self.client.zrange("queueops:parked:" + base, 0, -1), "queueops:parked:" + base),
        ):
            found += [json.loads(text)["message_id"] for text in (self.client.hmget(messages + ".msgs", keys) if keys else [])]
        return found

    def dump(self) -> Any:
        # A worker writes its own heartbeat all the time, and looks for delayed messages.
        keys = [key for key in self.client.scan_iter(count=1000) if key != b"dramatiq:__heartbeats__"]
        return redis_content(self.client, keys)


class DramatiqRabbitmq(_Dramatiq):
    """Dramatiq on RabbitMQ. Its queues are classic ones."""

    servers = ("rabbitmq3", "rabbitmq4")
    parts = ("", ".DQ", ".XQ", ".parked")

    @property
    def rabbit(self) -> Any:
        return self.server

    def settings(self) -> dict[str, Any]:
        return dict(super().settings(), management_url=self.rabbit.management)

    def _broker(self) -> Broker:
        # Heartbeats are only sent while the broker is called.
        return RabbitmqBroker(url=self.server.url + "?heartbeat=0", middleware=[])

    def declare(self, queue: str) -> None:
        self.broker.queues.discard(queue)
        self.broker.declare_queue(queue, ensure=True)

    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        before = self.native(queue)["failed"] if queue in self.broker.queues else 0
        ids = super().fail(queue, count, kind)
        wait_for(lambda: self.native(queue)["failed"] == before + count, what="the dead letters")
        return ids

    def fail_many(self, queue: str, count: int) -> list[str]:
        self.declare(queue)
        model = self.broker.enqueue(self.failed(queue, "note")).message_id
        ids = [model, *(str(uuid.uuid4()) for _copy in range(count - 1))]
        failed_copies(self.rabbit, queue, queue + ".XQ", ids)
        return ids

    def record(self, queue: str, task: str) -> Any:
        return record_of(self.rabbit, queue + ".XQ", task)

    def plant(self, queue: str, data: bytes) -> bytes:
        self.broker.enqueue(self.failed(queue, "note"))
        failed_payload(self.rabbit, queue, queue + ".XQ", data)
        return data

    def holding(self, queue: str, data: bytes) -> int:
        return holding(self.rabbit, data)

    def arrived(self, queue: str) -> int:
        return int(self.rabbit.depth(queue))

    def _wait_for_worker(self, queue: str, count: int) -> None:
        wait_for(lambda: self._count(queue).consumer_count > 0, limit=40, what="the worker's consumer")

    def _count(self, queue: str) -> Any:
        connection = self.rabbit.connection()
        found = connection.channel().queue_declare(queue, passive=True)
        connection.close()
        return found

    def native(self, queue: str) -> dict[str, int]:
        queued, _delayed, failed = self.broker.get_queue_message_counts(queue)
        return {"queued": queued, "failed": failed}

    def _bodies(self, queue: str) -> list[Any]:
        """All messages that are ready, in their order; they are put back where they were."""
        return [message.body for message in ready(self.rabbit, queue)]

    def identities(self, queue: str) -> list[str]:
        there = set(self.rabbit.queues())
        names = [queue + part for part in self.parts if queue + part in there]
        return [json.loads(body)["message_id"] for name in names for body in self._bodies(name)]

    def dump(self) -> Any:
        return {name: self._bodies(name) for name in self.rabbit.queues()}
