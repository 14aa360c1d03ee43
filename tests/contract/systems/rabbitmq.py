# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain application on RabbitMQ, with classic and with quorum queues; failed tasks go to ``<queue>.dead``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import amqp

from tests.contract.servers.rabbitmq import RabbitServer
from tests.contract.system import Server, System, Worker
from tests.contract.systems.rabbitmq_copies import failed_copies, failed_payload, holding, ready, record_of
from tests.unit.conftest import wait_for

APP = Path(__file__).parents[1] / "apps" / "rabbitmq" / "worker.py"


class PlainWorker(Worker):
    """The process of apps/rabbitmq/worker.py."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, start_new_session=True)
        self.pid = self._process.pid

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(30)


class Rabbitmq(System):
    """Classic queues."""

    backend = "rabbitmq"
    servers = ("rabbitmq3", "rabbitmq4")
    kind = "classic"
    error = "rejected"
    server: RabbitServer

    def __init__(self, server: Server, folder: Path) -> None:
        super().__init__(server, folder)
        assert isinstance(server, RabbitServer)
        self.server = server
        self._workers: list[PlainWorker] = []

    def settings(self) -> dict[str, Any]:
        return {"url": self.server.url, "management_url": self.server.management}

    def wrong_login(self) -> dict[str, Any]:
        return dict(self.settings(), username="nobody", password="wrong-pw-9")

    def arguments(self, **more: Any) -> dict[str, Any]:
        """Arguments of a queue of this type."""
        return {"x-queue-type": self.kind, **more}

    def declare(self, queue: str) -> None:
        with self.server.connection() as connection:
            channel = connection.channel()
            dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue + ".dead"}
            channel.queue_declare(queue, durable=True, auto_delete=False, arguments=self.arguments(**dead))
            channel.queue_declare(queue + ".dead", durable=True, auto_delete=False, arguments=self.arguments())

    def message(self, task: str, kind: str, **properties: Any) -> amqp.Message:
        """A task as the application publishes it."""
        body = json.dumps({"id": task, "kind": kind})
        return amqp.Message(body, message_id=task, type=kind, delivery_mode=2, content_type="application/json", **properties)

    def publish(self, queue: str, count: int, kind: str = "note") -> list[str]:
        ids = [uuid.uuid4().hex for _number in range(count)]
        with self.server.connection() as connection:
            channel = connection.channel()
            channel.confirm_select()
            for task in ids:
                channel.basic_publish(self.message(task, kind), routing_key=queue, mandatory=True)
            channel.wait_for_confirms() if hasattr(channel, "wait_for_confirms") else channel.queue_declare(queue, passive=True)
        return ids

    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        with self.server.connection() as connection:
            channel = connection.channel()
            assert channel.queue_declare(queue, passive=True).message_count == 0, "it would fail tasks that wait"
            before = channel.queue_declare(queue + ".dead", passive=True).message_count
            ids = self.publish(queue, count, kind)
            left = count
            while left:
                found = wait_for(lambda: channel.basic_get(queue), what="the published task")
                channel.basic_reject(found.delivery_tag, requeue=False)
                left -= 1
            wait_for(lambda: channel.queue_declare(queue + ".dead", passive=True).message_count == before + count, what="the dead letters")
        return ids

    def fail_many(self, queue: str, count: int) -> list[str]:
        (model,) = self.publish(queue, 1)
        ids = [model, *(uuid.uuid4().hex for _copy in range(count - 1))]
        failed_copies(self.server, queue, queue + ".dead", ids)
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

    def start_worker(self, queue: str, version: str = "1.0.0") -> Worker:
        with self.server.connection() as connection:
            channel = connection.channel()
            before = channel.queue_declare(queue, passive=True).consumer_count
            worker = PlainWorker([sys.executable, str(APP), "127.0.0.1:%d" % self.server.port, queue, version, str(self.folder)])
            self._workers.append(worker)
            wait_for(lambda: channel.queue_declare(queue, passive=True).consumer_count > before, limit=40, what="the worker's consumer")
        return worker

    def _listed(self) -> dict[str, tuple[int, int]]:
        """Ready and unacknowledged messages of each queue, by rabbitmqctl."""
        columns = ("name", "messages_ready", "messages_unacknowledged", "--formatter", "json")
        told = json.loads(self.server.ctl("list_queues", "-p", unquote(self.server.vhost), *columns))
        return {entry["name"]: (entry["messages_ready"], entry["messages_unacknowledged"]) for entry in told}

    def native(self, queue: str) -> dict[str, int]:
        listed = self._listed()
        return {"queued": listed[queue][0], "executing": listed[queue][1], "failed": listed[queue + ".dead"][0]}

    def contents(self, queue: str) -> list[Any]:
        """The messages of a queue, taken and put back."""
        return ready(self.server, queue) if queue in self.server.queues() else []

    def identities(self, queue: str) -> list[str]:
        names = (queue, queue + ".dead", queue + ".parked")
        return [str(message.properties["message_id"]) for name in names for message in self.contents(name)]

    def dump(self) -> Any:
        (listed,) = wait_for(self._settled, what="rabbitmqctl to tell what the queues do")
        return {name: counts for name, counts in listed.items() if any(counts)}

    def _settled(self) -> list[dict[str, tuple[int, int]]]:
        """What rabbitmqctl tells, once it has caught up with the queues: of quorum queues it tells what was true some seconds ago."""
        listed = self._listed()
        with self.server.connection() as connection:
            channel = connection.channel()
            ready = {name: channel.queue_declare(name, passive=True).message_count for name in listed}
        return [listed] if all(ready[name] == counts[0] for name, counts in listed.items()) else []

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()


class RabbitmqQuorum(Rabbitmq):
    """Quorum queues."""

    kind = "quorum"
    lacks = frozenset(("check",))
