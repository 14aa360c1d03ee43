# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery's remote control over RabbitMQ: questions go to the exchange ``celery.pidbox``, answers to a queue of this connection alone."""

from __future__ import annotations

import json
import socket
import time
from typing import Any, Mapping

from .amqp_connection import AmqpConnection
from .celery_control import Answers, control_body
from .celery_message import read_object
from .rabbitmq_management import Management


class AmqpMailbox:
    """Asks the workers.

    :ivar receivers: how many workers listen, as RabbitMQ's management tells; None: it does not tell.
    """

    def __init__(self, connection: AmqpConnection, management: Management, settings: Mapping[str, Any]) -> None:
        self._amqp = connection
        self._management = management
        self._exchange = "%s.pidbox" % (settings.get("control_exchange") or "celery")
        self._timeout = float(settings.get("inspect_timeout") or 1.0)
        self.receivers: int | None = None

    def nodes(self, queues: Mapping[str, Any] | None) -> list[str] | None:
        """The nodes that listen now: each has a queue of its own, which ends with its connection. None: the broker does not tell."""
        tail = "." + self._exchange
        return None if queues is None else sorted(name[: -len(tail)] for name in queues if name.endswith(tail))

    def ask(self, questions: Mapping[str, Mapping[str, Any]], known_nodes: list[str] | None, nodes: list[str] | None = None) -> Answers:
        """Ask ``nodes`` (None: every worker) and wait for all that are known to listen, else for the whole time-out."""
        found = Answers(nodes=known_nodes)
        self.receivers = None if found.nodes is None else len(found.nodes)
        wanted = set(found.nodes or []) if nodes is None else set(nodes)
        known = nodes is not None or found.nodes is not None
        if found.nodes is None:
            found.why_not = "it is not known which workers listen: %s" % self._management.reason
        with self._amqp.asking("ask the workers") as channel:
            if not self._listened(channel.connection):
                # No worker has ever listened since the exchange was last there.
                found.complete = found.nodes == []
                return found
            own = channel.connection.channel()
            try:
                self._exchange_questions(own, questions, nodes, wanted if known else None, found)
            finally:
                own.close()
        found.complete = known and all(wanted <= set(found.by.get(question, {})) for question in questions)
        return found

    def _listened(self, connection: Any) -> bool:
        probe = connection.channel()
        try:
            probe.exchange_declare(self._exchange, "fanout", passive=True)
        except self._amqp.amqp.exceptions.NotFound:
            return False
        probe.close()
        return True

    def _exchange_questions(
        self, channel: Any, questions: Mapping[str, Mapping[str, Any]], nodes: list[str] | None, wanted: set[str] | None, found: Answers
    ) -> None:
        """``wanted`` None: it is not known who will answer."""
        # Deleted by the broker with this channel's consumer, whatever happens to us.
        box = channel.queue_declare(queue="", exclusive=True, auto_delete=True).queue

        def take(message: Any) -> None:
            body = message.body
            told = read_object(body)
            question = str((message.headers or {}).get("ticket"))
            if told is not None and question in questions:
                found.add(question, told)

        channel.basic_consume(queue=box, no_ack=True, callback=take)
        for question, arguments in questions.items():
            # To the default exchange, which needs no binding: nothing is left behind for a late answer.
            body = control_body(question, arguments, nodes, question, "", box)
            headers = {"clock": 1, "expires": time.time() + self._timeout}
            message = self._amqp.amqp.Message(
                json.dumps(body), content_type="application/json", content_encoding="utf-8", application_headers=headers, delivery_mode=1
            )
            channel.basic_publish(message, exchange=self._exchange, routing_key="")
        end = time.monotonic() + self._timeout
        while time.monotonic() < end:
            if wanted is not None and all(wanted <= set(found.by.get(question, {})) for question in questions):
                return
            try:
                channel.connection.drain_events(timeout=max(0.01, end - time.monotonic()))
            except socket.timeout:
                return
