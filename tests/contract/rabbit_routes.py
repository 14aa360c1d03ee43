# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of routes on RabbitMQ share: versions with queues of their own, a fast publisher, and the module's steps."""

from __future__ import annotations

import struct
import urllib.error
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._route.rabbitmq import RabbitmqRouter
from ansible_collections.queueops.fleet.plugins.module_utils._route.route import Route, Router, planned

from tests.contract.rabbit import Rabbit

ROUTE, TEMPLATE = "orders", "orders-{version}"
OLD, NEW = "orders-1.0.0", "orders-2.0.0"
KEYS = [f"customer-{number}" for number in range(10_000)]


@pytest.fixture
def routes(rabbit: Rabbit) -> Iterator[Rabbit]:
    """With a queue of each of three versions, and no route."""
    ask = rabbit.server.ask
    for version in ("1.0.0", "2.0.0", "3.0.0"):
        rabbit.make(TEMPLATE.replace("{version}", version))
    yield rabbit
    for exchange in ask("GET", "/api/exchanges/%2F?columns=name"):
        if exchange["name"].startswith(ROUTE):
            ask("DELETE", "/api/exchanges/%2F/" + quote(exchange["name"], safe=""))
    for queue in rabbit.server.queues():
        if queue.startswith(ROUTE):
            with suppress(urllib.error.HTTPError):
                ask("DELETE", "/api/queues/%2F/" + quote(queue, safe=""))


def router(rabbit: Rabbit, **more: Any) -> Router:
    return RabbitmqRouter({"url": rabbit.server.url, "management_url": rabbit.server.management, **more})


def looked(rabbit: Rabbit) -> Route:
    found = router(rabbit).look(ROUTE)
    assert found is not None
    return found


def divide(rabbit: Rabbit, weights: dict[str, int], *, key: str = "routing_key", remove: tuple[str, ...] = ()) -> bool:
    """What the module does; whether anything had to be done."""
    own = router(rabbit)
    change = planned(own.look(ROUTE), weights, TEMPLATE, remove)
    own.preflight(ROUTE, key, change)
    if change:
        own.apply(ROUTE, key, change)
    assert +Counter(looked(rabbit).weights()) == +Counter(weights)
    return bool(change)


def short(text: str) -> bytes:
    """A short string on the wire."""
    return struct.pack(">B", len(text)) + text.encode()


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


class Publisher:
    """Publishes to the route, mandatory and with confirms, and counts what came back."""

    def __init__(self, rabbit: Rabbit) -> None:
        self._connection = rabbit.server.connection()
        self._channel = self._connection.channel()
        self._channel.confirm_select()
        self.unroutable = 0
        self._channel.events["basic_ack"].add(self._acked)
        self._channel.events["basic_return"].add(self._returned)
        self._tag = 0
        self._open: set[int] = set()

    def _acked(self, tag: int, multiple: bool) -> None:
        self._open -= {one for one in self._open if one <= tag} if multiple else {tag}

    def _returned(self, *_told: Any) -> None:
        self.unroutable += 1

    def publish(self, keys: list[str], correlation_id: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Returns when all are confirmed. Writes the frames itself: the client library manages some hundred messages a second."""
        number, frames = self._channel.channel_id, []
        flags, properties = 0, b""
        if headers:
            table = b"".join(
                short(name) + b"S" + struct.pack(">I", len(value.encode())) + value.encode() for name, value in headers.items()
            )
            flags, properties = 0x2000, struct.pack(">I", len(table)) + table
        if correlation_id:
            flags, properties = flags | 0x0400, properties + short(correlation_id)
        for key in keys:
            self._tag += 1
            self._open.add(self._tag)
            body = key.encode()
            frames.append(frame(1, number, struct.pack(">HHH", 60, 40, 0) + short(ROUTE) + short(key) + b"\1"))
            frames.append(frame(2, number, struct.pack(">HHQH", 60, 0, len(body), flags) + properties))
            frames.append(frame(3, number, body))
        self._connection.transport.write(b"".join(frames))
        while self._open:
            self._connection.drain_events(timeout=20)

    def close(self) -> None:
        self._connection.close()


def text_of(body: str | bytes) -> str:
    return body if isinstance(body, str) else bytes(body).decode()


def taken(rabbit: Rabbit, queue: str) -> list[str]:
    """The bodies of all that is in a queue, which is empty after it."""
    found: list[str] = []
    with rabbit.server.connection() as connection:
        channel = connection.channel()
        wanted = channel.queue_declare(queue, passive=True).message_count
        channel.basic_consume(queue, no_ack=True, callback=lambda message: found.append(text_of(message.body)))
        while len(found) < wanted:
            connection.drain_events(timeout=20)
    return found


def listening(rabbit: Rabbit, queue: str) -> int:
    with rabbit.server.connection() as connection:
        return int(connection.channel().queue_declare(queue, passive=True).consumer_count)
