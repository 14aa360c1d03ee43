# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery on RabbitMQ (run against Celery 5.7). Its messages move as any other's, see ``amqp_store.py``; its workers answer themselves."""

from __future__ import annotations

import json
import time
from typing import Any, Mapping

from .._errors import Refused
from .amqp_connection import AmqpConnection, Depth
from .amqp_message import AmqpMessage
from .amqp_store import AmqpStore, Dialect, Places
from .api import Capabilities, Look, PauseReport, PauseRequest, QueueBackend, QueueState, RedriveRequest, Task, TaskStore, Unknowns
from .celery_amqp_control import AmqpMailbox
from .celery_control import NOT_ASKED, NOT_COUNTED, QUESTIONS, Answers, held_by, may_be_of, queues_of, workers_of
from .celery_message import call_of, headers_as_text
from .celery_pause import UNREADABLE, Pauses
from .rabbitmq_management import Management, dead_letter_queues

_DEAD = (
    "needs a dead-letter exchange on the queue (argument x-dead-letter-exchange or a policy) and tasks that are rejected: acks_late with"
    " Reject, or acks_late and task_reject_on_worker_lost with task_acks_on_failure_or_timeout=False"
)

CAPABILITIES = Capabilities(
    system="celery",
    can=frozenset(("list_queues", "pause", "redrive", "redrive_run", "redrive_count", "check", "breaker")),
    sources={
        "failed": "the queue's dead letters, the only failed tasks that are kept",
        "dead_lettered": "the queue that dead_letter names, else the one to which the queue's dead letters go; " + _DEAD,
        "parked": "the queue <queue>.parked",
        "queued": "the queue itself",
        "other": "another queue, by its name",
    },
    actions={
        "requeue": "published to the queue again, confirmed, then acknowledged",
        "dead_letter": "published to the queue for dead letters",
        "park": "published to the durable queue <queue>.parked, which is made when it is missing",
        "discard": "acknowledged and gone",
        "compensate": "published to the queue that undoes it, with the header x-queueops-run",
    },
    match=("ids", "task", "older_than", "newer_than", "header", "field"),
    instead={
        "in_flight": "Use action=finish; RabbitMQ puts back by itself what a killed worker had not acknowledged",
        "oldest_age": "Look at how many are queued; Celery does not record when a task was published",
        "rate": "Use what the workers report to your monitoring",
        "counters": "Judge the release by another sign; Celery's workers count the tasks they began, not how those ended",
        "identify": "Give a completion record, or compare counts; messages on RabbitMQ cannot be read without taking them",
        "source:executing": "Stop the workers; RabbitMQ puts back what they have not acknowledged",
        "source:abandoned": "RabbitMQ puts back what a worker had in hand as soon as its connection ends; use source=queued",
        "action:fail": "Use action=dead_letter or action=park; Celery on RabbitMQ keeps no failed tasks",
        "match:error": "Match by task or header; a dead-lettered message does not carry the error of the task",
        "match:version": "Match by task or header; a dead-lettered message does not carry the version of the worker that failed it",
    },
    guarantee={
        "list_queues": "by RabbitMQ's management API, without the queues that workers use for themselves",
        "pause": "each worker that consumes the queue is told to stop (cancel_consumer) and has to answer; tasks that it has prefetched"
        " still run; a worker that is started or reconnects meanwhile does not know of the pause and consumes; it does not expire by"
        " itself; its record is an empty queue queueops.paused.<queue>; needs the management API, which tells who has to answer",
        "redrive": "published mandatory and confirmed, written to the ledger, then acknowledged; " + _DEAD,
        "look": "workers are asked through Celery's remote control, as `celery inspect` does, with a queue of this connection alone for the"
        " answers; ask_workers=false asks nobody, and then what executes is not known; tasks acknowledged early are known to workers alone",
    },
)


class CeleryDialect(Dialect):
    """What Celery's messages tell. The body is read only where it is JSON."""

    def identity(self, message: AmqpMessage) -> str:
        found = message.header("id") or message.prop("correlation_id")
        return str(found) if found else super().identity(message)

    def describe(self, message: AmqpMessage, task: Task) -> None:
        name = message.header("task")
        if name is None:
            body = super().fields(message)
            name = body.get("task") if isinstance(body, dict) else None
        task.name = None if name is None else str(name)
        task.ended_at = self.ended_at(message)

    def load(self, message: AmqpMessage, task: Task, what: frozenset[str]) -> None:
        super().load(message, task, what - {"headers"})
        if "headers" in what:
            task.headers = headers_as_text({name: _plain(value) for name, value in message.headers.items()})

    def fields(self, message: AmqpMessage) -> Any:
        """``{"args", "kwargs"}``; None where the body is anything but JSON, such as a pickle."""
        if "json" not in str(message.prop("content_type")):
            return None
        return call_of(super().fields(message))


def _plain(value: Any) -> Any:
    """A header's value as JSON can write it."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


class CeleryAmqpBackend(QueueBackend):
    """Celery's queues in one vhost of RabbitMQ.

    Settings: ``management_url``, ``dead_letter`` (a queue), ``control_exchange``, ``ask_workers``, ``inspect_timeout`` (s).
    """

    capabilities = CAPABILITIES

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = dict(settings)
        self._amqp = AmqpConnection(settings)
        self._management = Management(settings)
        self._ask = settings.get("ask_workers") is not False
        self._mailbox = AmqpMailbox(self._amqp, self._management, settings)
        self._dead = str(settings.get("dead_letter") or "")

    # Looking

    def look(self, queues: list[str] | None = None, missing_ok: bool = False) -> Look:
        """One request to the management API, one passive declaration a queue, and one question to the workers."""
        unknowns = Unknowns()
        try:
            return self._look(queues, missing_ok, unknowns)
        finally:
            self._amqp.close()

    def _look(self, queues: list[str] | None, missing_ok: bool, unknowns: Unknowns) -> Look:
        # The broker first: if it is down or refuses us, that is the answer, not that its management does not tell.
        with self._amqp.asking("look at the queues"):
            pass
        told = self._management.queues()
        names = self._all(told) if queues is None else list(dict.fromkeys(queues))
        marks = {name: _mark(name) for name in names}
        dead = {name: self._dead_letter(name, told) for name in names}
        others = [*marks.values(), *(queue for queue in dead.values() if queue)]
        # Asking for a queue that is not there costs a channel.
        wanted = [*names, *(queue for queue in others if told is None or queue in told)]
        depths = self._amqp.depths(list(dict.fromkeys(wanted)), "look at the queues")
        missing = [name for name in names if depths[name] is None]
        if missing and not missing_ok:
            raise self._amqp.no_queues(missing)
        answers = self._answers(told)
        at = time.time()
        states = []
        for name in names:
            depth = depths[name]
            state = QueueState(name=name, exists=depth is not None)
            states.append(state)
            if depth is None:
                for field in ("queued", "executing", "scheduled", "dead_lettered", "abandoned", "paused"):
                    unknowns.note("queues." + field, "there is no such queue", name)
                continue
            # The broker puts back what a worker that is gone had in hand.
            state.queued, state.abandoned = depth.ready, 0
            self._executing(state, depth, answers, told, unknowns)
            there = depths.get(dead[name] or "")
            if there is not None:
                state.dead_lettered = there.ready
            else:
                unknowns.note("queues.dead_lettered", "its dead letters go to no queue that is known; " + _DEAD, name)
            self._paused(state, depths.get(marks[name]) is not None, told, answers)
        if states:
            unknowns.note("queues.failed", "Celery on RabbitMQ keeps no failed tasks, only dead letters where it is told to")
            unknowns.note("queues.oldest_task_age_s", "Celery does not record when a task was published")
            unknowns.note("queues.rate_per_s", NOT_COUNTED)
        workers = workers_of(answers, at, None if queues is None else names, unknowns, self._mailbox.receivers)
        if not answers.complete:
            unknowns.note("workers", answers.why_not or "not every worker answered")
        return Look(at, states, workers, unknowns.as_dict())

    def _answers(self, told: dict[str, dict[str, Any]] | None) -> Answers:
        nodes = self._mailbox.nodes(told)
        return self._mailbox.ask(QUESTIONS, nodes) if self._ask else Answers(nodes=nodes, why_not=NOT_ASKED)

    def _all(self, told: dict[str, dict[str, Any]] | None) -> list[str]:
        if told is None:
            raise Refused("The queues at %s cannot be listed: %s" % (self._amqp.where, self._management.reason), option="queues")
        own = (".celery.pidbox", ".reply.celery.pidbox")
        prefixes = ("celeryev.", "celery_delayed_", "amq.gen-", "queueops.")
        return sorted(name for name in told if not name.endswith(own) and not name.startswith(prefixes) and not name.endswith(".parked"))

    def _executing(
        self, state: QueueState, depth: Depth, answers: Answers, told: dict[str, dict[str, Any]] | None, unknowns: Unknowns
    ) -> None:
        if not answers.complete:
            reason = answers.why_not or "not every worker answered"
            unknowns.note("queues.executing", reason, state.name)
            unknowns.note("queues.scheduled", reason, state.name)
            return
        routes = answers.routes()
        held = [
            kind
            for node in answers.names()
            for kind, task in held_by(answers, node)
            if may_be_of(state.name, task, routes, queues_of(answers, node))
        ]
        unacked = (told or {}).get(state.name, {}).get("messages_unacknowledged")
        if not depth.consumers and not answers.names():
            # Nobody is left to have any in hand; the statistics do not know it yet.
            unacked = 0
        # The statistics are some seconds old: too high for a while after the end, which only makes one wait.
        state.executing = max(len(held), int(unacked or 0))
        if any(name.startswith("celery_delayed_") for name in told or {}):
            unknowns.note("queues.scheduled", "the broker itself delays tasks, for all queues together (celery_delayed_...)", state.name)
        else:
            state.scheduled = held.count("scheduled")

    def _dead_letter(self, queue: str, told: dict[str, dict[str, Any]] | None) -> str | None:
        """The queue for the dead letters of ``queue``: named, or the one to which the broker sends them."""
        if self._dead:
            return self._dead.replace("{queue}", queue)
        found = dead_letter_queues(self._management, queue, (told or {}).get(queue, {}))
        return found[0] if len(found) == 1 else None

    def _paused(self, state: QueueState, marked: bool, told: dict[str, dict[str, Any]] | None, answers: Answers) -> None:
        state.paused = marked
        if marked:
            consuming = [node for node in answers.names() if state.name in (queues_of(answers, node) or [])]
            state.paused_by = dict(_record(state.name, told), still_consuming=consuming if answers.complete else None)

    # Pausing

    def pause(self, queues: list[str], request: PauseRequest, check: bool = False) -> PauseReport:
        """Through the workers; see ``celery_pause.py``."""
        try:
            return AmqpPauses(self._amqp, self._management, self._mailbox, self._ask).pause(queues, request, check)
        finally:
            self._amqp.close()

    def resume(self, queues: list[str], owner: str, check: bool = False) -> PauseReport:
        """Tell the workers that the pause stopped to consume again. One that was started since then does so already."""
        try:
            return AmqpPauses(self._amqp, self._management, self._mailbox, self._ask).resume(queues, owner, check)
        finally:
            self._amqp.close()

    # Redriving

    def open_store(self, request: RedriveRequest, check: bool) -> TaskStore:
        """The messages of the queue that the source means.

        :raises Refused: the source is the queue for dead letters, and it is not known which that is.
        """
        with self._amqp.asking("redrive"):
            pass
        queue = request.queue
        dead = self._dead_letter(queue, self._management.queues())
        parked = "%s.parked" % queue
        if request.source in ("failed", "dead_lettered") and dead is None:
            if self._amqp.depths([queue], "redrive")[queue] is None:
                raise self._amqp.no_queues([queue], "queue")
            raise Refused(
                "It is not known to which queue the dead letters of %s at %s go" % (queue, self._amqp.where),
                option="source",
                next_step="Name it in dead_letter%s; it %s" % (", or set management_url" if self._management.reason else "", _DEAD),
            )
        source = {"failed": dead, "dead_lettered": dead, "parked": parked, "queued": queue}.get(request.source, request.source) or queue
        actions = {"park": parked}
        if dead is not None:
            actions["dead_letter"] = dead
        places = Places(
            source=source, home=queue, actions=actions, label=request.source if request.source in CAPABILITIES.sources else source
        )
        return AmqpStore(self._amqp, self._management, request, check, places, CeleryDialect())


class AmqpPauses(Pauses):
    """The record of a pause is the empty queue ``queueops.paused.<queue>``, with the record as an argument."""

    promise = CAPABILITIES.guarantee["pause"]

    def __init__(self, connection: AmqpConnection, management: Management, mailbox: AmqpMailbox, asks: bool) -> None:
        self._amqp = connection
        self._management = management
        self._mailbox = mailbox
        self.asks = asks
        self.where = connection.where

    def read(self, queues: list[str]) -> list[Mapping[str, Any] | None]:
        depths = self._amqp.depths([*queues, *(_mark(queue) for queue in queues)], "read the pause")
        missing = [queue for queue in queues if depths[queue] is None]
        if missing:
            raise self._amqp.no_queues(missing)
        told = self._management.queues()
        return [_record(queue, told) if depths[_mark(queue)] is not None else None for queue in queues]

    def write(self, queue: str, record: Mapping[str, Any]) -> None:
        # A queue's arguments cannot be changed, so that it is made anew.
        self._amqp.delete(_mark(queue), "record the pause")
        self._amqp.declare(_mark(queue), {"x-queueops-pause": json.dumps(record)}, "record the pause")

    def lift(self, queue: str) -> None:
        self._amqp.delete(_mark(queue), "lift the pause")

    def ask(self, questions: Mapping[str, Mapping[str, Any]], nodes: list[str] | None = None) -> Answers:
        return self._mailbox.ask(questions, self._mailbox.nodes(self._management.queues()) if nodes is None else nodes, nodes)

    def silent(self, answers: Answers) -> Refused:
        return Refused(
            "Not every Celery worker at %s answered: %s" % (self.where, answers.why_not or "asked %s" % ", ".join(answers.nodes or [])),
            option="management_url" if answers.why_not else "state",
            next_step="Set management_url, raise inspect_timeout, or quiet the workers through their service manager (role drain)",
        )


def _mark(queue: str) -> str:
    """The name of the empty queue that records a pause."""
    return "queueops.paused.%s" % queue


def _record(queue: str, told: dict[str, dict[str, Any]] | None) -> dict[str, Any]:
    """Who paused, as the record's arguments tell; without management nobody knows."""
    text = ((told or {}).get(_mark(queue), {}).get("arguments") or {}).get("x-queueops-pause")
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        found = None
    return found if isinstance(found, dict) else dict(UNREADABLE)
