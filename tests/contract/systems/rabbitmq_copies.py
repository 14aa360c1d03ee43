# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages of RabbitMQ, whichever system they are of: read and put back, and copies of one published, rejected and dead-lettered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import amqp

from tests.contract.servers.rabbitmq import RabbitServer
from tests.unit.conftest import wait_for

#: Messages that are rejected at once.
BATCH = 1000
#: Messages that one consumer is given without acknowledging any.
PREFETCH = 50_000
#: No message for so long (s): somebody else has taken the others.
SILENCE_S = 5.0


def ready(server: RabbitServer, queue: str) -> list[Any]:
    """All messages that are ready in a queue, in their order if they are not more than PREFETCH; they are put back where they were."""
    found: list[Any] = []
    with server.connection() as connection:
        told = connection.channel().queue_declare(queue, passive=True)
        count = told.message_count
        for _consumer in range(0, count, PREFETCH):
            channel = connection.channel()
            channel.basic_qos(0, PREFETCH, False)
            channel.basic_consume(queue, callback=found.append)
        while len(found) < count:
            try:
                connection.drain_events(timeout=SILENCE_S)
            except TimeoutError:
                break
    # A quorum queue puts them back some time after the connection has ended: until then the next look would miss them.
    if not told.consumer_count:
        wait_for(lambda: _depth(server, queue) >= len(found), what="what was looked at to be back in %s" % queue)
    return found


def _depth(server: RabbitServer, queue: str) -> int:
    with server.connection() as connection:
        return int(connection.channel().queue_declare(queue, passive=True).message_count)


def failed_copies(server: RabbitServer, queue: str, dead: str, ids: list[str]) -> None:
    """Of the one task that waits in ``queue``, ``ids[0]``, publish copies under the other ids, and reject them all as a worker does."""
    with server.connection() as connection:
        channel = connection.channel()
        before = channel.queue_declare(dead, passive=True).message_count
        model = wait_for(lambda: channel.basic_get(queue), what="the task that is copied")
        assert channel.queue_declare(queue, passive=True).message_count == 0, "it would reject tasks that wait"
        for task in ids[1:]:
            channel.basic_publish(_copy(model, ids[0], task), model.delivery_info["exchange"], model.delivery_info["routing_key"], True)
        channel.basic_reject(model.delivery_tag, requeue=False)
        _reject(channel, queue, len(ids) - 1)
        wait_for(lambda: channel.queue_declare(dead, passive=True).message_count == before + len(ids), limit=60, what="the dead letters")


def failed_payload(server: RabbitServer, queue: str, dead: str, data: bytes) -> None:
    """Give the one task that waits in ``queue`` another payload, as of an application that pickles, and reject it."""
    with server.connection() as connection:
        channel = connection.channel()
        model = wait_for(lambda: channel.basic_get(queue), what="the task")
        changed = amqp.Message(data, **{**model.properties, "content_type": "application/x-python-serialize", "content_encoding": "binary"})
        channel.basic_publish(changed, model.delivery_info["exchange"], model.delivery_info["routing_key"], True)
        channel.basic_ack(model.delivery_tag)
        _reject(channel, queue, 1)
        wait_for(lambda: channel.queue_declare(dead, passive=True).message_count == 1, what="the dead letter")


def holding(server: RabbitServer, data: bytes) -> int:
    """How many messages of all queues have this payload."""
    bodies = [message.body for name in server.queues() if ".pidbox" not in name for message in ready(server, name)]
    return sum((body.encode("latin-1") if isinstance(body, str) else body) == data for body in bodies)


def _reject(channel: Any, queue: str, count: int) -> None:
    """Take so many messages and reject them, many in one frame."""
    taken: list[int] = []

    def take(message: Any) -> None:
        taken.append(message.delivery_tag)
        if len(taken) % BATCH == 0 or len(taken) == count:
            channel.send_method(amqp.spec.Basic.Nack, "Lbb", (taken[-1], True, False))

    channel.basic_qos(0, 5 * BATCH, False)
    if count:
        channel.basic_consume(queue, callback=take)
    while len(taken) < count:
        channel.connection.drain_events(timeout=30)


def record_of(server: RabbitServer, queue: str, task: str) -> Any:
    """All of the message of a task, its id written as ``ID``, without when it was dead-lettered and how often we looked at it."""
    # What was looked at before is put back a moment later.
    return wait_for(lambda: _record_of(server, queue, task), what="the task %s in %s" % (task, queue))


def _record_of(server: RabbitServer, queue: str, task: str) -> Any:
    for message in ready(server, queue):
        found = _replaced((message.properties, message.body), lambda text: text.replace(task, "ID"))
        if found != (message.properties, message.body):
            headers = found[0]["application_headers"]
            headers.pop("x-delivery-count", None)
            for death in headers["x-death"]:
                del death["time"]
            return found
    return None


def _copy(model: Any, task: str, other: str) -> Any:
    body, properties = _replaced((model.body, model.properties), lambda text: text.replace(task, other))
    return amqp.Message(body, **properties)


def _replaced(value: Any, change: Callable[[str], str]) -> Any:
    """``value`` with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, bytes):
        return change(value.decode("latin-1")).encode("latin-1")
    if isinstance(value, dict):
        return {name: _replaced(one, change) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_replaced(one, change) for one in value)
    return value
