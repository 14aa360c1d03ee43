# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of RabbitMQ alone share: one server with classic and quorum queues, and redrives of it that die where they are told to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_connection import AmqpConnection
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_link import Link
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_message import AmqpMessage
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import QueueBackend, RedriveReport, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

from tests.contract.conftest import Servers
from tests.contract.servers.rabbitmq import RabbitServer
from tests.contract.systems.rabbitmq import Rabbitmq, RabbitmqQuorum

QUEUE, DEAD = "mail", "mail.dead"


class Rabbit:
    """One server, both types of queues."""

    def __init__(self, server: RabbitServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.classic, self.quorum = Rabbitmq(server, folder), RabbitmqQuorum(server, folder)

    def of(self, kind: str) -> Rabbitmq:
        """The system with queues of this type."""
        return self.classic if kind == "classic" else self.quorum

    def open(self, **more: Any) -> QueueBackend:
        return open_backend("rabbitmq", dict(self.classic.settings(), **more))

    def request(self, *rules: Rule, **more: Any) -> RedriveRequest:
        options: dict[str, Any] = {"state_dir": str(self.folder / "state"), "queue": QUEUE, **more}
        return RedriveRequest(rules=rules or (Rule(),), **options)

    def redriven(self, *rules: Rule, check: bool = False, settings: dict[str, Any] | None = None, **more: Any) -> RedriveReport:
        return redrive(self.open(**(settings or {})), self.request(*rules, **more), check)

    def put(self, queue: str, *messages: amqp.Message) -> None:
        with self.server.connection() as connection:
            channel = connection.channel()
            channel.confirm_select()
            for message in messages:
                channel.basic_publish_confirm(message, routing_key=queue, mandatory=True)

    def make(self, queue: str, **arguments: Any) -> None:
        with self.server.connection() as connection:
            connection.channel().queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)

    def depth(self, queue: str) -> int:
        with self.server.connection() as connection:
            return int(connection.channel().queue_declare(queue, passive=True).message_count)

    def ids(self, queue: str) -> list[str]:
        return [str(message.properties["message_id"]) for message in self.classic.contents(queue)]

    def move_all(self, queue: str, destination: str) -> None:
        """Publish each message of a queue, as it is, to another: as a worker that fails every task."""
        with self.server.connection() as connection:
            channel = connection.channel()
            channel.confirm_select()
            while (message := channel.basic_get(queue)) is not None:
                copy = amqp.Message(message.body, **message.properties)
                channel.basic_publish_confirm(copy, routing_key=destination, mandatory=True)
                channel.basic_ack(message.delivery_tag)

    def fill(self, queue: str, ids: list[str], body: bytes = b"{}") -> None:
        """Publish that many messages quickly."""
        link = Link(AmqpConnection({"url": self.server.url}), "fill")
        frames, blank = link.frames(body), AmqpMessage(0, False, b"", b"")
        for number, task in enumerate(ids, 1):
            link.publish(queue, blank.rewritten({}, properties={"message_id": task, "delivery_mode": 2}), frames, len(body))
            if number % 2000 == 0 or number == len(ids):
                link.commit()
        link.close()

    def drained(self, queue: str, count: int) -> list[str]:
        """The ids of so many messages, taken out quickly."""
        link = Link(AmqpConnection({"url": self.server.url}), "drain")
        link.consume(queue, 5000)
        found: list[str] = []
        while len(found) < count:
            messages = link.receive(2000, 10.0)
            assert messages, "only %d messages came" % len(found)
            found += [message.prop("message_id") for message in messages]
            link.ack(messages[-1].tag, multiple=True)
            link.commit()
        link.close()
        return found


class Died(BaseException):
    """A redrive has died, as of SIGKILL: nothing of it is cleaned up."""


def dying_at(backend: Any, number: int, end: Callable[[], None] | None = None, batch: int = 20, sends: bool = True) -> Any:
    """``backend``, whose redrive sends off its commit of that number while ``end`` happens to the broker.

    Without ``end`` it dies itself, before the broker has answered; with ``sends=False`` before the broker has got anything of it.
    """
    opened = backend.open_store

    def store(request: RedriveRequest, check: bool) -> Any:
        found = opened(request, check)
        found.batch = batch
        link = found._link
        commit, close, commits, died = link.commit, found.close, [], []

        def commit_or_die(*meanwhile: Any) -> None:
            commits.append(1)
            if len(commits) != number:
                commit(*meanwhile)
                return
            if sends:
                link.begin_commit()
            if end is not None:
                end()
            if end is not None and sends:
                # Its answer may have come before the end; nothing more does.
                link.end_commit()
                commit()
            died.append(1)
            link._sock.close()
            found._ledger.close()
            found._amqp.close()
            raise Died

        def close_unless_dead() -> None:
            if not died:
                close()

        link.commit, found.close = commit_or_die, close_unless_dead
        return found

    backend.open_store = store
    return backend


@pytest.fixture(params=["rabbitmq3", "rabbitmq4"])
def rabbit(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Rabbit]:
    server = servers.get(request.param)
    assert isinstance(server, RabbitServer)
    if server._process is None:
        server.start()  # A test that failed has left it dead.
    server.clear()
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    found = Rabbit(server, folder)
    yield found
    found.classic.close()
    found.quorum.close()
    shutil.rmtree(folder)
