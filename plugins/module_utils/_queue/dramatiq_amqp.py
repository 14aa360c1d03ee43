# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dramatiq on RabbitMQ (run against Dramatiq 2.2): a queue ``<q>``, its delayed tasks ``<q>.DQ``, which workers hold until they are due,
and its dead letters ``<q>.XQ``, kept for 7 days.

A message's body is what it is on Redis. A worker that tries a task again publishes it anew, without the headers of the message: what has
to last is written into the options of the body.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Mapping

from .._errors import Refused
from .amqp_connection import AmqpConnection
from .amqp_message import AmqpMessage
from .amqp_store import AmqpStore, Change, Dialect, Places
from .api import Capabilities, Look, RedriveRequest, Task, TaskStore
from .dramatiq_message import Message, spliced
from .dramatiq_redis import CAPABILITIES as ON_REDIS
from .dramatiq_redis import refuse_part
from .dramatiq_redis_store import NOT_JSON
from .rabbitmq import CAPABILITIES as ON_RABBITMQ
from .rabbitmq import RabbitmqBackend
from .rabbitmq_management import Management

CAPABILITIES = Capabilities(
    system="dramatiq",
    can=ON_RABBITMQ.can - {"oldest_age"},
    sources={
        "failed": "the dead letters of the queue (<queue>.XQ), which Dramatiq keeps for 7 days",
        "dead_lettered": "the same as failed",
        "parked": "the queue <queue>.parked",
        "queued": "the queue itself, without what is delayed",
        "other": "another queue by its name; <queue>.DQ holds delayed tasks that no worker has fetched yet",
    },
    actions={
        "requeue": ON_REDIS.actions["requeue"],
        "fail": "published to <queue>.XQ; from then on it is kept for 7 days",
        "dead_letter": "the same as fail",
        "park": ON_RABBITMQ.actions["park"],
        "discard": ON_RABBITMQ.actions["discard"],
        "compensate": ON_REDIS.actions["compensate"],
    },
    match=ON_REDIS.match,
    instead=dict(
        {name: text for name, text in ON_RABBITMQ.instead.items() if name not in ("source:queued", "action:fail")},
        **{
            "match:version": ON_REDIS.instead["match:version"],
            "oldest_age": "Look at how many are queued; Dramatiq keeps the time in the message, which would have to be taken to be read",
        },
    ),
    guarantee=dict(
        ON_RABBITMQ.guarantee,
        redrive_count="kept in the options of the message (queueops_redrives), as retries do; of a message that is not JSON in a header",
        breaker="by the lengths of the queues; a task counts as failed again as soon as it waits for another attempt, and others that fail"
        " meanwhile count as well",
    ),
)


class DramatiqDialect(Dialect):
    """What Dramatiq's messages mean.

    :param run: noted in each message that is requeued.
    :param fresh: what is requeued gets all its attempts again.
    """

    def __init__(self, run: str | None, fresh: bool) -> None:
        self._run = run
        self._fresh = fresh
        self._read: tuple[AmqpMessage | None, Message] = (None, Message(b""))

    def message(self, message: AmqpMessage) -> Message:
        """The body, read; it is asked for several times in a row."""
        if self._read[0] is not message:
            self._read = (message, Message(message.body))
        return self._read[1]

    def identity(self, message: AmqpMessage) -> str:
        return self.message(message).id or super().identity(message)

    def describe(self, message: AmqpMessage, task: Task) -> None:
        task.name = self.message(message).actor
        task.ended_at = self.ended_at(message)

    def load(self, message: AmqpMessage, task: Task, what: frozenset[str]) -> None:
        read = self.message(message)
        if "error" in what:
            task.error = read.error
        if "headers" in what:
            task.headers = read.headers
        if "fields" in what:
            task.fields = read.fields

    def label(self, message: AmqpMessage) -> tuple[str | None, str | None]:
        return self.message(message).actor, None

    def origin(self, message: AmqpMessage) -> str | None:
        """Its queue's delayed tasks, if its time has not come. Otherwise the queue that was asked for, whose dead letters are its own."""
        read = self.message(message)
        waits = read.eta is not None and read.eta > time.time() * 1000 and (read.queue or "").endswith(".DQ")
        return read.queue if waits else None

    def redrives(self, message: AmqpMessage) -> int:
        return self.message(message).redrives or super().redrives(message)

    def run_of(self, message: AmqpMessage) -> str | None:
        """One that a worker has tried since and published anew has no headers of the message that was redriven."""
        return self.message(message).run or super().run_of(message)

    def change(self, message: AmqpMessage, action: str, queue: str) -> Change:
        found = super().change(message, action, queue)
        read = self.message(message)
        if action not in ("requeue", "compensate") or read.options is None:
            return found
        compensate = action == "compensate"
        splices = read.readdressed(queue, self._fresh or compensate, not queue.endswith(".DQ"), compensate, self._run)
        return replace(found, body=spliced(read.data, splices))


class DramatiqAmqpStore(AmqpStore):
    """The messages of one of Dramatiq's queues."""

    def __init__(
        self,
        connection: AmqpConnection,
        management: Management,
        request: RedriveRequest,
        check: bool,
        places: Places,
        dialect: DramatiqDialect,
    ) -> None:
        self._dramatiq = dialect
        self._delayed = request.queue + ".DQ"
        super().__init__(connection, management, request, check, places, dialect)
        self._delayed_before = self._delayed_now() if request.breaker is not None and not check else 0

    def _delayed_now(self) -> int:
        found = self._amqp.depths([self._delayed])[self._delayed]
        held = (self._management.queue(self._delayed) or {}).get("messages_unacknowledged") or 0
        return (found.ready if found else 0) + int(held)

    def _unfit(self, message: AmqpMessage, action: str, queue: str) -> str:
        readdressed = action in ("requeue", "compensate") and queue != self._request.queue
        return NOT_JSON if readdressed and self._dramatiq.message(message).options is None else ""

    def fates(self, moved: int) -> tuple[int, int]:
        settled, failed = super().fates(moved)
        failed = min(moved, failed + max(0, self._delayed_now() - self._delayed_before))
        return max(settled, failed), failed


class DramatiqAmqpBackend(RabbitmqBackend):
    """Queues of Dramatiq in one vhost. Setting ``management_url``."""

    capabilities = CAPABILITIES

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(dict(settings, dead_letter="{queue}.XQ"))

    def look(self, queues: list[str] | None = None, missing_ok: bool = False) -> Look:
        """As of RabbitMQ, with what is delayed; dead letters are failed tasks."""
        for name in queues or ():
            refuse_part(name, "queues")
        look = super().look(queues, missing_ok)
        if queues is None:
            parts = {state.name + end for state in look.queues for end in (".DQ", ".XQ", ".parked")}
            look.queues = [state for state in look.queues if state.name not in parts]
            names = {state.name for state in look.queues}
            look.workers = [worker for worker in look.workers if names & set(worker.queues or ())]
        unknown, missing = look.unknown, [state.name for state in look.queues if not state.exists]
        for field in ("failed", "scheduled"):
            unknown.pop("queues." + field, None)
            if missing:
                unknown["queues." + field] = "%s: there is no such queue" % ", ".join(missing)
        unknown["queues.dead_lettered"] = "the dead letters of Dramatiq are its failed tasks; see failed"
        unknown["queues.oldest_task_age_s"] = (
            "Dramatiq keeps the time in the message, which would have to be taken from the queue to be read"
        )
        unknown.setdefault("queues.rate_per_s", "Dramatiq does not count on the broker what its workers finish")
        self._complete(look)
        executing = {state.name: state.executing for state in look.queues}
        for worker in look.workers:
            # Who has which of the tasks in hand is not told; if there are none, nobody has.
            if worker.state is None and not any(executing.get(name) != 0 for name in worker.queues or () if name in executing):
                worker.state = "idle"
        if look.workers:
            unknown["workers.task"] = "a worker also fetches tasks ahead, up to twice its threads; they count as executing with the others"
        return look

    def _complete(self, look: Look) -> None:
        """Fill in what is failed and what is delayed."""
        management = Management(self._settings)
        try:
            delayed = self._amqp.depths([state.name + ".DQ" for state in look.queues if state.exists], "look at the delayed tasks")
        finally:
            self._amqp.close()
        known = management.queues() if look.queues else None
        for state in look.queues:
            if not state.exists:
                continue
            state.failed, state.dead_lettered, state.oldest_task_age_s = state.dead_lettered, None, None
            if state.failed is None:
                look.unknown["queues.failed"] = "%s: it has no queue of dead letters" % state.name
            depth = delayed[state.name + ".DQ"]
            held = ((known or {}).get(state.name + ".DQ") or {}).get("messages_unacknowledged")
            if depth is not None and (held is not None or not depth.consumers):
                state.scheduled = depth.ready + int(held or 0)
            else:
                reason = "how many delayed tasks its workers hold, %s" % (management.reason or "is not told yet")
                look.unknown["queues.scheduled"] = "%s: %s" % (state.name, reason if depth else "it has no queue of delayed tasks")

    def open_store(self, request: RedriveRequest, check: bool) -> TaskStore:
        queue, source = request.queue, request.source
        refuse_part(queue, "queue")
        for rule in request.rules:
            if rule.destination:
                refuse_part(rule.destination, "rules")
        self._amqp.depth(queue, "redrive", "queue")
        dead, parked = queue + ".XQ", queue + ".parked"
        place = {"failed": dead, "dead_lettered": dead, "parked": parked, "queued": queue}.get(source, source)
        if place == queue and any(rule.action == "requeue" and rule.destination in (None, queue) for rule in request.rules):
            raise Refused(
                "Source and destination are the same queue, %s" % queue, option="source", next_step="Name another source, or a destination"
            )
        places = Places(place, home=queue, actions={"park": parked, "fail": dead, "dead_letter": dead}, label=source)
        dialect = DramatiqDialect(request.run, fresh=place in (dead, parked))
        return DramatiqAmqpStore(self._amqp, Management(self._settings), request, check, places, dialect)
