# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the messages of an application on RabbitMQ mean, and which queues a redrive of them touches."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Mapping

from .amqp_message import AmqpMessage
from .api import Task

#: Headers of our own: how often a task was redriven, and by which run last.
REDRIVES = "x-queueops-redrives"
RUN = "x-queueops-run"
#: How the identity of a message without an id of its own begins.
HASHED = "sha-"
#: The user in whose name the message was published at first.
USER = "x-queueops-user-id"
#: The header by which RabbitMQ sends copies to other queues too, and where it is kept in what we publish.
CC = "CC"
COPIES = "x-queueops-cc"


@dataclass(frozen=True)
class Places:
    """The queues of one redrive, by their real names on the broker.

    :ivar source: where the tasks are taken from.
    :ivar home: where a task goes whose origin the message does not tell; None: it is skipped, saying so.
    :ivar actions: the queue for each of ``park``, ``fail`` and ``dead_letter`` that the system has. The parking place is made if
        it is missing; the others have to exist.
    :ivar only: take only tasks that came from this queue (a dead-letter queue may serve several); None: any.
    :ivar label: what the source is called in the counts of the report (``failed``, ``dead_lettered``, ``parked``, ``queued``).
    """

    source: str
    home: str | None = None
    actions: Mapping[str, str] = field(default_factory=dict)
    only: str | None = None
    label: str = "failed"


@dataclass(frozen=True)
class Change:
    """How the copy that is published differs from the message: headers set and left out, properties set (None: left out), body."""

    headers: Mapping[str, Any] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    properties: Mapping[str, Any] = field(default_factory=dict)
    body: bytes | None = None


class Dialect:
    """What the messages of a plain RabbitMQ application mean. Celery and Dramatiq override what is different with them.

    Ask a message for single headers and properties (``message.header("id")``), not for all: what is not asked for is not decoded.
    """

    def identity(self, message: AmqpMessage) -> str:
        """What tells this task from others: the property ``message_id``, else a hash of the properties and the payload."""
        found = message.prop("message_id")
        if found:
            return str(found)
        digest = hashlib.blake2b(message.raw_properties(), digest_size=12)
        digest.update(message.body_frames)
        return HASHED + digest.hexdigest()

    def identity_before(self, message: AmqpMessage) -> str:
        """The identity that the message had before a redrive published it, as far as that can be told."""
        found = self.identity(message)
        if not found.startswith(HASHED) or not message.has_header(RUN):
            return found
        copy = AmqpMessage(0, False, b"", b"")
        copy.take(message.rewritten({}, frozenset((RUN, REDRIVES, USER, COPIES))))
        copy.body_frames = message.body_frames
        return self.identity(copy)

    def describe(self, message: AmqpMessage, task: Task) -> None:
        """Fill in ``name``, ``version`` and ``ended_at`` of ``task``, as far as the message tells."""
        task.name, task.version = self.label(message)
        task.ended_at = self.ended_at(message)

    def ended_at(self, message: AmqpMessage) -> float | None:
        """When it was last dead-lettered (s since 1970), else when it was published; None where neither is recorded."""
        deaths = message.header("x-death")
        times = [death.get("time") for death in deaths or () if isinstance(death, dict)]
        ended = max((int(at) for at in times if at is not None), default=None)
        return message.prop("timestamp") if ended is None else ended

    def load(self, message: AmqpMessage, task: Task, what: frozenset[str]) -> None:
        """Fill in ``error``, ``headers`` (name to text) or ``fields`` (the payload if it is JSON) of ``task``, as ``what`` says."""
        if "error" in what:
            task.error = self.error(message)
        if "headers" in what:
            task.headers = {name: str(value) for name, value in message.headers.items()}
        if "fields" in what:
            task.fields = self.fields(message)

    def error(self, message: AmqpMessage) -> str | None:
        """Why it was dead-lettered: rejected, expired, maxlen or delivery_limit. None where the message does not tell."""
        reason = message.header("x-last-death-reason") or message.header("x-first-death-reason")
        return None if reason is None else str(reason)

    def fields(self, message: AmqpMessage) -> Any:
        """The payload, decoded if it is JSON, else None."""
        try:
            return json.loads(message.body)
        except (ValueError, RecursionError):
            return None

    def origin(self, message: AmqpMessage) -> str | None:
        """The queue it came from: the one in which it first died. None where the message does not tell."""
        first = message.header("x-first-death-queue")
        if first:
            return str(first)
        deaths = message.header("x-death")
        queue = deaths[-1].get("queue") if isinstance(deaths, list) and deaths and isinstance(deaths[-1], dict) else None
        return str(queue) if queue else None

    def label(self, message: AmqpMessage) -> tuple[str | None, str | None]:
        """The task's name and its worker's version, as far as the message tells."""
        name = message.prop("type") or message.header("task")
        version = message.header("version")
        return None if name is None else str(name), None if version is None else str(version)

    def redrives(self, message: AmqpMessage) -> int:
        """How often it was redriven by us."""
        count = message.header(REDRIVES)
        return count if isinstance(count, int) else 0

    def run_of(self, message: AmqpMessage) -> str | None:
        """The run that redrove it last; None: none has."""
        run = message.header(RUN)
        return None if run is None else str(run)

    def change(self, message: AmqpMessage, action: str, queue: str) -> Change:
        """How the copy for ``action``, sent to ``queue``, differs, besides our own two headers.

        All else is kept: ids, priority, timestamp, headers.

        A message that died loses its own time to live on the way, and gets it back when it is requeued.
        """
        if action not in ("requeue", "compensate") or message.prop("expiration") is not None:
            return NO_CHANGE
        # Decoding is dear, and few messages have had a time to live.
        if b"original-expiration" not in message.raw_properties():
            return NO_CHANGE
        deaths = message.header("x-death")
        for death in deaths if isinstance(deaths, list) else ():
            if isinstance(death, dict) and death.get("original-expiration"):
                return Change(properties={"expiration": death["original-expiration"]})
        return NO_CHANGE


#: The copy is as the message was.
NO_CHANGE = Change()
