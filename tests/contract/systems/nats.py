# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NATS JetStream: one work-queue stream, a durable consumer and a dead-letter stream a queue, and workers with nats-py."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
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
    """Consumers of one stream; the queue's name is the consumer's."""

    backend = "nats"
    servers = ("nats",)
    odd_names = ("grüße_邮件", "two-words", "a+b=c&d")

    def __init__(self, server: Server, folder: Path) -> None:
        super().__init__(server, folder)
        assert isinstance(server, NatsServer)
        self.nats = server
        self._workers: list[NatsWorker] = []

    def settings(self) -> dict[str, Any]:
        return {"url": self.server.url, "stream": STREAM}

    def dead(self, queue: str) -> str:
        """The dead-letter stream of a queue."""
        return "%s_%s_DLQ" % (STREAM, queue)

    def declare(self, queue: str) -> None:
        async def create(client: Any) -> None:
            manager = client.jetstream()
            names = [info.config.name for info in await manager.streams_info()]
            if STREAM not in names:
                await manager.add_stream(name=STREAM, subjects=["work.>"], retention="workqueue")
            await manager.add_stream(name=self.dead(queue), subjects=["dlq.work.%s.>" % queue])
            await manager.add_consumer(STREAM, durable_name=queue, filter_subject="work.%s.>" % queue, ack_policy="explicit", ack_wait=120)

        self.nats.ask(create)

    def publish(self, queue: str, count: int, kind: str = "note") -> list[str]:
        return self._publish("work.%s.%s" % (queue, kind), count, kind, {})

    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        subject = "work.%s.%s" % (queue, kind)
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

    def start_worker(self, queue: str, version: str = "1.0.0") -> NatsWorker:
        name = "mailer@%s:worker1:%d" % (version, len(self._workers) + 1)
        environment = dict(os.environ, QUEUEOPS_URL=self.server.url, QUEUEOPS_LEDGER=str(self.ledger))
        environment.update(QUEUEOPS_GATE=str(self.gate), QUEUEOPS_BROKEN=str(self.broken))
        command = [sys.executable, str(APPLICATION), STREAM, queue, name]

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
        return self.nats.ask(lambda client: client.jetstream().consumer_info(STREAM, queue))

    def native(self, queue: str) -> dict[str, int]:
        info = self._info(queue)
        dead = self.nats.ask(lambda client: client.jetstream().stream_info(self.dead(queue)))
        return {"queued": info.num_pending, "executing": info.num_ack_pending, "failed": dead.state.messages}

    def identities(self, queue: str) -> list[str]:
        async def read(client: Any) -> list[str]:
            found = []
            manager = client.jetstream()
            for info in await manager.streams_info():
                for seq in range(max(1, info.state.first_seq), info.state.last_seq + 1):
                    try:
                        message = await manager.get_msg(info.config.name, seq)
                    except nats.js.errors.NotFoundError:
                        continue
                    if ".%s" % queue in message.subject and not message.subject.startswith("$"):
                        found.append(json.loads(message.data)["id"])
            return found

        found: list[str] = self.nats.ask(read)
        return found

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
