# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NATS JetStream: one work-queue stream, a durable consumer and a dead-letter stream a queue, and workers with nats-py."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nats.js.errors

from tests.contract.servers.nats import NatsServer
from tests.contract.system import Server, System, Worker
from tests.unit.conftest import wait_for

APPLICATION = Path(__file__).parents[1] / "apps" / "nats" / "worker.py"
STREAM = "WORK"


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("contract_nats_worker", APPLICATION)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


application = _load()


class NatsWorker(Worker):
    """One worker process. It has no way to be told to stop but to be asked when it is idle."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(30)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)


class Nats(System):
    """Consumers of one stream; the queue's name is the consumer's.

    :ivar stream: its name.
    :ivar root: what its subjects begin with.
    """

    backend = "nats"
    servers = ("nats",)
    odd_names = ("grüße_邮件", "two-words", "a+b=c&d")

    def __init__(self, server: Server, folder: Path) -> None:
        super().__init__(server, folder)
        assert isinstance(server, NatsServer)
        self.nats = server
        self.stream, self.root = STREAM, "work"
        self._workers: list[NatsWorker] = []

    def settings(self) -> dict[str, Any]:
        return {"url": self.server.url, "stream": self.stream}

    def dead(self, queue: str) -> str:
        """The dead-letter stream of a queue."""
        return "%s_%s_DLQ" % (self.stream, queue)

    def declare(self, queue: str) -> None:
        async def create(client: Any) -> None:
            manager = client.jetstream()
            names = [info.config.name for info in await manager.streams_info()]
            if self.stream not in names:
                await manager.add_stream(name=self.stream, subjects=[self.root + ".>"], retention="workqueue")
            await manager.add_stream(name=self.dead(queue), subjects=["dlq.%s.%s.>" % (self.root, queue)])
            await manager.add_consumer(
                self.stream, durable_name=queue, filter_subject="%s.%s.>" % (self.root, queue), ack_policy="explicit", ack_wait=120
            )

        self.nats.ask(create)

    def publish(self, queue: str, count: int, kind: str = "note") -> list[str]:
        return self._publish("%s.%s.%s" % (self.root, queue, kind), count, kind, {})

    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        subject = "%s.%s.%s" % (self.root, queue, kind)
        more = application.dead_headers({}, subject, "mailer@2.0.0:worker1:1", "ValueError: no good")
        return self._publish(application.dead_subject(subject), count, kind, more)

    def _publish(self, subject: str, count: int, kind: str, more: dict[str, str]) -> list[str]:
        async def publish(client: Any) -> list[str]:
            ids = []
            for _index in range(count):
                task, data, headers = application.new_task(kind)
                await client.jetstream().publish(subject, data, headers={**headers, **more})
                ids.append(task)
            return ids

        found: list[str] = self.nats.ask(publish)
        return found

    def fail_many(self, queue: str, count: int) -> list[str]:
        """What :meth:`fail` publishes, without waiting for each answer."""
        subject = "%s.%s.note" % (self.root, queue)
        more = application.dead_headers({}, subject, "mailer@2.0.0:worker1:1", "ValueError: no good")

        async def publish(client: Any) -> list[str]:
            ids = []
            for number in range(count):
                task, data, headers = application.new_task("note")
                await client.publish(application.dead_subject(subject), data, headers={**headers, **more})
                ids.append(task)
                if number % 1000 == 999:
                    await client.flush()
            await client.flush()
            return ids

        before = self.native(queue)["failed"]
        found: list[str] = self.nats.ask(publish)
        wait_for(lambda: self.native(queue)["failed"] == before + count, limit=60, what="the dead letters")
        return found

    def record(self, queue: str, task: str) -> Any:
        for message in self._stored(queue, self.dead(queue)):
            if json.loads(message.data)["id"] == task:
                headers = {name: value.replace(task, "ID") for name, value in message.headers.items()}
                return message.subject, headers, message.data.decode().replace(task, "ID")
        raise AssertionError("there is no failed task %s" % task)

    def plant(self, queue: str, data: bytes) -> bytes:
        subject = "%s.%s.note" % (self.root, queue)
        headers = application.dead_headers({}, subject, "mailer@2.0.0:worker1:1", "ValueError: no good")
        self.nats.ask(lambda client: client.jetstream().publish(application.dead_subject(subject), data, headers=headers))
        return data

    def holding(self, queue: str, data: bytes) -> int:
        return sum(data in message.data for message in self._stored(queue))

    def put(self, source: str, queue: str, count: int) -> list[str]:
        if source != "abandoned":
            return super().put(source, queue, count)
        ids = self.publish(queue, count)

        async def exhaust(client: Any) -> None:
            # One delivery, which nobody acknowledges.
            options = {"filter_subject": "%s.%s.>" % (self.root, queue), "ack_policy": "explicit", "ack_wait": 0.2, "max_deliver": 1}
            await client.jetstream().add_consumer(self.stream, durable_name=queue, **options)
            pull = await client.jetstream().pull_subscribe_bind(queue, self.stream)
            taken: list[Any] = []
            while len(taken) < count:
                taken += await pull.fetch(count - len(taken), timeout=5)

        self.nats.ask(exhaust)
        wait_for(lambda: self._info(queue).num_ack_pending == 0, what="the end of the deliveries")
        return ids

    def arrived(self, queue: str) -> int:
        return int(self._info(queue).num_pending)

    def start_worker(self, queue: str, version: str = "1.0.0") -> NatsWorker:
        name = "mailer@%s:worker1:%d" % (version, len(self._workers) + 1)
        environment = dict(os.environ, QUEUEOPS_URL=self.server.url, QUEUEOPS_LEDGER=str(self.ledger))
        environment.update(QUEUEOPS_GATE=str(self.gate), QUEUEOPS_BROKEN=str(self.broken))
        command = [sys.executable, str(APPLICATION), self.stream, queue, name]

        def pulls() -> int:
            info = self._info(queue)
            return int(info.num_waiting) + int(info.num_ack_pending) + int(info.delivered.consumer_seq)

        before = pulls()
        with open(self.folder / "worker.log", "ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.folder)
        worker = NatsWorker(process)
        self._workers.append(worker)
        wait_for(lambda: pulls() > before, limit=40, what="the worker's first pull")
        return worker

    def _info(self, queue: str) -> Any:
        return self.nats.ask(lambda client: client.jetstream().consumer_info(self.stream, queue))

    def native(self, queue: str) -> dict[str, int]:
        info = self._info(queue)
        dead = self.nats.ask(lambda client: client.jetstream().stream_info(self.dead(queue)))
        return {"queued": info.num_pending, "executing": info.num_ack_pending, "failed": dead.state.messages}

    def _stored(self, queue: str, *streams: str) -> list[Any]:
        """The messages of a queue in these streams, or in all."""

        async def get(manager: Any, stream: str, seq: int) -> Any:
            try:
                return await manager.get_msg(stream, seq)
            except nats.js.errors.NotFoundError:
                return None

        async def read(client: Any, stream: str, numbers: Sequence[int]) -> list[Any]:
            manager, found = client.jetstream(), []
            for first in range(0, len(numbers), 500):
                found += await asyncio.gather(*(get(manager, stream, seq) for seq in numbers[first : first + 500]))
            return found

        found: list[Any] = []
        for info in self.nats.ask(lambda client: client.jetstream().streams_info()):
            name = info.config.name
            numbers = range(max(1, info.state.first_seq), info.state.last_seq + 1)
            # A few thousand in one question, which has to be answered in a minute.
            for first in range(0, len(numbers) if not streams or name in streams else 0, 5000):
                found += self.nats.ask(functools.partial(read, stream=name, numbers=numbers[first : first + 5000]))
        return [one for one in found if one is not None and ".%s" % queue in one.subject and not one.subject.startswith("$")]

    def identities(self, queue: str) -> list[str]:
        return [json.loads(message.data)["id"] for message in self._stored(queue)]

    def dump(self) -> Any:
        async def read(client: Any) -> list[Any]:
            manager = client.jetstream()
            found: list[Any] = []
            for info in await manager.streams_info():
                found.append((info.config.name, info.state.messages, info.state.bytes, info.state.first_seq, info.state.last_seq))
                for consumer in await manager.consumers_info(info.config.name):
                    counts = (consumer.num_pending, consumer.num_ack_pending, consumer.num_redelivered)
                    floors = (consumer.delivered.consumer_seq, consumer.ack_floor.consumer_seq)
                    found.append((consumer.name, counts, floors, consumer.config.metadata))
            return sorted(found, key=str)

        return self.nats.ask(read)

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
