# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery on Redis: looking at queues and workers, and pausing (run against Celery 5.7). Redriving: ``celery_redis_store.py``."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Iterator, Mapping

from .._errors import NotFound, Refused
from .api import Capabilities, Look, PauseReport, PauseRequest, QueueBackend, QueueState, RedriveRequest, TaskStore, Unknowns
from .celery_control import NOT_ASKED, NOT_COUNTED, QUESTIONS, Answers, held_of, queues_of, workers_of
from .celery_message import NO_ARGUMENTS
from .celery_pause import UNREADABLE, Pauses
from .celery_redis_failed import FailedStore, scan_failed
from .celery_redis_in_flight import AbandonedStore, InHandStore, lost_with
from .celery_redis_keys import CeleryKeys, Held, Mailbox
from .celery_redis_messages import HeldStore, ListStore
from .celery_redis_scripts import SIZE
from .celery_redis_store import CeleryStore
from .redis_connection import RedisConnection

#: Looking for queues by their bindings walks the database's keys; it is given up beyond this many.
SCANNED_KEYS = 200000

#: Failed results are counted, key by key, in a database of at most this many keys.
COUNTED_KEYS = 5000

_FAILED = (
    "Celery keeps each failure in a key of its own, and the database has more than %d keys to walk for them; a redrive in check mode"
    " counts them" % COUNTED_KEYS
)
_NO_AGE = "Celery does not record when a task was published"

_RESULTS = (
    "needs result_backend on the same Redis server (option result_db names another database) and result_extended=True"
    " in Celery's configuration"
)
_NO_DEAD = "Celery on Redis has no dead letters of its own; name the queue for them in dead_letter"

CAPABILITIES = Capabilities(
    system="celery",
    can=frozenset(("list_queues", "pause", "redrive", "redrive_run", "redrive_count", "identify", "check", "breaker", "in_flight")),
    sources={
        "failed": "results with the state FAILURE of tasks of this queue; " + _RESULTS,
        "parked": "the list queueops:parked:<queue>, which no worker consumes",
        "queued": "the queue's lists, one for each step of priority",
        "executing": "messages that workers hold unacknowledged (kombu's hash unacked), of this queue",
        "abandoned": "the same, when no worker at all listens on this database any more; while one does, it is refused unless those that"
        " listen have all of it in hand",
        "other": "the lists of another queue, by its name",
    },
    actions={
        "requeue": "pushed to the queue's list as kombu does; its failed result then reads RETRY",
        "fail": "removed, and a result with the state FAILURE is written that holds the whole message",
        "park": "put in the list queueops:parked:<queue>",
        "discard": "deleted, with its failed result",
        "compensate": "pushed to the queue that undoes it, with the header queueops_compensates",
    },
    match=("ids", "task", "version", "error", "older_than", "newer_than", "header", "field"),
    instead={
        "oldest_age": "Look at how many are queued; Celery does not record when a task was published",
        "rate": "Use what the workers report to your monitoring",
        "counters": "Judge the release by another sign; Celery's workers count the tasks they began, not how those ended",
        "source:dead_lettered": "Name the queue to which the application sends its dead tasks in dead_letter; Celery has none itself",
        "action:dead_letter": "Name the queue for dead tasks in dead_letter, or use action=fail or action=park",
    },
    guarantee={
        "list_queues": "by the bindings that kombu keeps, found by walking up to %d names of keys" % SCANNED_KEYS,
        "pause": "each worker that consumes the queue is told to stop (cancel_consumer) and has to answer; tasks that it has prefetched"
        " still run; a worker that is started or reconnects meanwhile does not know of the pause and consumes; it does not expire by"
        " itself",
        "redrive": "each task is marked, leaves its place and enters the other in one step on the server. A failed task comes back with its"
        " id, name, arguments, group and stamps; callbacks, chain, chord, priority and time limits are not in a result and are lost. "
        "One whose message a worker has not acknowledged is left, for Celery delivers it again. " + _RESULTS,
        "in_flight": "what is unacknowledged and in the hands of no worker that listens; so of the workers that stop all are killed or"
        " none. Those that listen have to answer, and those of the version that goes to say that all their tasks are acknowledged late"
        " (acks_late). A worker of the same queues that stops meanwhile for another reason is taken for one that was killed",
        "redrive_count": "in the header queueops_redrives, and for failed tasks in a hash that is kept for 7 days after the last redrive",
        "breaker": "by the results of the redriven tasks; tasks with ignore_result=True never show how they ended",
        "look": "workers are asked through Celery's remote control, as `celery inspect` does: a private list takes the answers and is gone"
        " afterwards; ask_workers=false asks nobody, and then what executes is not known",
    },
)


class CeleryRedisBackend(QueueBackend):
    """Celery's queues in one Redis database.

    Settings: ``key_prefix`` (kombu's ``global_keyprefix``), ``dead_letter`` (a queue), ``result_db`` and ``result_prefix`` (of the result
    backend), ``priority_steps`` and ``sep`` (transport options), ``control_exchange``, ``ask_workers``, ``inspect_timeout`` (s).
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._redis = RedisConnection(settings)
        self._keys = CeleryKeys(settings, self._redis)
        self._ask = settings.get("ask_workers") is not False
        self._mailbox = Mailbox(self._keys, self._redis, settings)
        self.capabilities = CAPABILITIES
        if self._keys.has_dead_letter:
            self.capabilities = replace(
                CAPABILITIES,
                sources=dict(CAPABILITIES.sources, dead_lettered="the queue that dead_letter names"),
                actions=dict(CAPABILITIES.actions, dead_letter="pushed to the queue that dead_letter names"),
            )

    # Looking

    def look(self, queues: list[str] | None = None, missing_ok: bool = False) -> Look:
        """Two round trips, and one question to the workers that waits for those that listen, at most ``inspect_timeout``."""
        keys, unknowns = self._keys, Unknowns()
        with self._redis.asking("look at the queues") as client:
            names = self._all(client) if queues is None else list(dict.fromkeys(queues))

            def ask(pipe: Any) -> None:
                pipe.time()
                for name in names:
                    for key in keys.lists(name):
                        pipe.llen(key)
                    pipe.exists(keys.binding(name))
                    pipe.get(keys.pause(name))
                    for key in keys.lists(keys.dead_letter(name)) if keys.has_dead_letter else ():
                        pipe.llen(key)

            raw = iter(self._redis.together(client, ask))
            seconds, micros = next(raw)
            at = seconds + micros / 1e6
            held = keys.unacked(client)
            answers = self._answers(client)
            if held.ids and answers.complete:
                held = held.still(keys.unacked(client))
            states = [self._state(name, raw, held, answers, unknowns) for name in names]
            self._count_failed(client, states, unknowns)
            missing = [state for state in states if not state.exists]
            if missing:
                self._require(missing, keys.find_queues(client, SCANNED_KEYS) or [], missing_ok)
        receivers = self._mailbox.receivers
        workers = workers_of(answers, at, None if queues is None else names, unknowns, receivers)
        if states:
            unknowns.note("queues.oldest_task_age_s", _NO_AGE)
            unknowns.note("queues.rate_per_s", NOT_COUNTED)
            if not keys.has_dead_letter:
                unknowns.note("queues.dead_lettered", _NO_DEAD)
        if not answers.complete:
            unknowns.note("workers", answers.why_not or "%d workers got the question and not all answered" % (receivers or 0))
        return Look(at, states, workers, unknowns.as_dict())

    def _state(self, name: str, raw: Iterator[Any], held: Held, answers: Answers, unknowns: Unknowns) -> QueueState:
        """One queue, of the answers in the order in which :meth:`look` asked."""
        lengths = [int(next(raw)) for _step in self._keys.steps]
        bound, record = bool(next(raw)), _record(next(raw))
        state = QueueState(name=name, queued=sum(lengths))
        if self._keys.has_dead_letter:
            state.dead_lettered = sum(int(next(raw)) for _step in self._keys.steps)
        self._executing(state, held, answers, unknowns)
        consuming = [node for node in answers.names() if name in (queues_of(answers, node) or [])]
        state.paused = record is not None
        if record is not None:
            state.paused_by = dict(record, expires_in_s=None, still_consuming=consuming if answers.complete else None)
        state.exists = bool(bound or any(lengths) or consuming or state.paused or (held.by_queue or {}).get(name))
        return state

    def _count_failed(self, client: Any, states: list[QueueState], unknowns: Unknowns) -> None:
        """Count the failed results, where the database is small enough to be walked at every look."""
        if not states:
            return
        if client.eval(SIZE, 0, self._keys.result_db, self._keys.db) > COUNTED_KEYS:
            unknowns.note("queues.failed", _FAILED)
            return
        routes = {key: state.name for state in states for key in self._keys.routing_keys(client, state.name)}
        counts: dict[str, set[str]] = {}
        for _ended, task, key in scan_failed(client, self._keys, list(routes)):
            counts.setdefault(routes.get(key, ""), set()).add(task)
        for state in states:
            if counts.get(""):
                unknowns.note("queues.failed", "of %d failed results the queue is not known: %s" % (len(counts[""]), NO_ARGUMENTS))
            else:
                state.failed = len(counts.get(state.name, ()))

    def _all(self, client: Any) -> list[str]:
        found = self._keys.find_queues(client, SCANNED_KEYS)
        if found is None:
            raise Refused(
                "The database at %s has more than %d keys to search for Celery's queues" % (self._redis.where, SCANNED_KEYS),
                option="queues",
                next_step="Name the queues",
            )
        return found

    def _require(self, missing: list[QueueState], found: list[str], missing_ok: bool) -> None:
        """Fail, unless the queues that none of their own keys tells of are bound to another exchange."""
        for state in missing:
            state.exists = state.name in found
        names = [state.name for state in missing if not state.exists]
        if names and not missing_ok:
            raise NotFound(
                "There is no queue %s at %s" % (" and no queue ".join(names), self._redis.where),
                option="queues",
                next_step="Name one of: %s" % (", ".join(found[:20]) or "none; Celery knows no queue there, check url and key_prefix"),
            )

    def _answers(self, client: Any) -> Answers:
        if not self._ask:
            return Answers(nodes=self._mailbox.nodes(client), why_not=NOT_ASKED)
        return self._mailbox.ask(client, dict(QUESTIONS))

    def _executing(self, state: QueueState, held: Held, answers: Answers, unknowns: Unknowns) -> None:
        """What workers hold of one queue: unacknowledged messages, and tasks that were acknowledged before they are run."""
        reason = None
        if not answers.complete:
            # Early acknowledgement is Celery's default: without the workers nobody knows what executes.
            reason = answers.why_not or "not every worker answered"
        elif held.by_queue is None:
            reason = "workers hold %d messages of all queues together, too many to read whose they are" % held.total
        if reason is not None or held.by_queue is None:
            for name in ("executing", "scheduled", "abandoned"):
                unknowns.note("queues." + name, reason or "", state.name)
            return
        unacked = held.by_queue.get(state.name, 0)
        every, acknowledged, state.scheduled = held_of(answers, state.name)
        mine = held.ids_of(state.name)
        if not self._mailbox.receivers:
            state.executing, state.abandoned = 0, unacked
        elif held.ids is None:
            state.executing = unacked + len(acknowledged)
            unknowns.note("queues.abandoned", "workers hold %d messages, too many to compare one by one" % held.total)
        else:
            state.abandoned = sum(1 for task in mine if task not in every)
            state.executing = unacked - state.abandoned + len(acknowledged - set(mine))

    # Pausing

    def pause(self, queues: list[str], request: PauseRequest, check: bool = False) -> PauseReport:
        """Through the workers; see ``celery_pause.py``."""
        self._redis.require_writable("pause")
        return RedisPauses(self._redis, self._keys, self._mailbox, self._ask).pause(queues, request, check)

    def resume(self, queues: list[str], owner: str, check: bool = False) -> PauseReport:
        """Tell the workers that the pause stopped to consume again. One that was started since then does so already."""
        self._redis.require_writable("lift the pause")
        return RedisPauses(self._redis, self._keys, self._mailbox, self._ask).resume(queues, owner, check)

    # Redriving

    def lost_with(self, version: str) -> str:
        """By what the workers answer about their tasks; see ``celery_redis_in_flight.py``."""
        return lost_with(self._redis, self._mailbox, version) if self._ask else NOT_ASKED

    def open_store(self, request: RedriveRequest, check: bool) -> TaskStore:
        """What can be refused is refused here: no such queue, a server that takes no writes, results that hold no arguments."""
        redis, keys, source = self._redis, self._keys, request.source
        # Celery lets its results expire, and nothing else.
        warnings = [] if check else redis.require_writable("redrive", expiring=source == "failed")
        for rule in request.rules:
            for action, place, done in (("park", "parked", "parked"), ("dead_letter", "dead_lettered", "dead-lettered")):
                if rule.action == action and source == place:
                    raise Refused("Tasks of the source %s are %s already" % (place, done), option="rules", next_step="Use another action")
        with redis.asking("find the queues") as client:
            self._require_queues(client, request)
        store: CeleryStore
        if request.held_by is not None:
            store = InHandStore(redis, keys, self._mailbox, request, check)
        elif source == "failed":
            store = FailedStore(redis, keys, request, check)
        elif source == "abandoned":
            store = AbandonedStore(redis, keys, self._mailbox, self._ask, request, check)
        elif source == "executing":
            store = HeldStore(redis, keys, request, check)
        else:
            store = ListStore(redis, keys, request, check)
        store.warnings = warnings
        return store

    def _require_queues(self, client: Any, request: RedriveRequest) -> None:
        keys = self._keys
        wanted = [("queue", request.queue)]
        if request.source not in ("failed", "parked", "dead_lettered", "queued", "executing", "abandoned"):
            wanted.append(("source", request.source))
        wanted.extend(("destination", rule.destination) for rule in request.rules if rule.destination)
        for option, queue in wanted:
            # A queue all of whose tasks were set aside or are in hand may have neither a binding nor a list.
            if keys.exists(client, queue) or (option == "queue" and client.exists(keys.parked(queue), keys.pause(queue))):
                continue
            if option == "queue" and (keys.unacked(client).by_queue or {}).get(queue):
                continue
            if queue in (keys.find_queues(client, SCANNED_KEYS) or []):
                continue
            raise NotFound(
                "There is no queue %s at %s" % (queue, self._redis.where),
                option=option,
                next_step="Check the name; a queue exists once a worker consumes it or a task was published to it",
            )


class RedisPauses(Pauses):
    """The record of a pause is a key beside Celery's own."""

    promise = CAPABILITIES.guarantee["pause"]

    def __init__(self, redis: RedisConnection, keys: CeleryKeys, mailbox: Mailbox, asks: bool) -> None:
        self._redis = redis
        self._keys = keys
        self._mailbox = mailbox
        self.asks = asks
        self.where = redis.where

    def read(self, queues: list[str]) -> list[Mapping[str, Any] | None]:
        with self._redis.asking("read the pause") as client:
            return [_record(client.get(self._keys.pause(queue))) for queue in queues]

    def write(self, queue: str, record: Mapping[str, Any]) -> None:
        with self._redis.asking("record the pause") as client:
            client.set(self._keys.pause(queue), json.dumps(record))

    def lift(self, queue: str) -> None:
        with self._redis.asking("lift the pause") as client:
            client.delete(self._keys.pause(queue))

    def ask(self, questions: Mapping[str, Mapping[str, Any]], nodes: list[str] | None = None) -> Answers:
        with self._redis.asking("ask the workers") as client:
            return self._mailbox.ask(client, dict(questions), nodes)

    def silent(self, answers: Answers) -> Refused:
        return Refused(
            "Not every Celery worker at %s answered: %s"
            % (self.where, answers.why_not or "%d listen, %d answered" % (self._mailbox.receivers or 0, len(answers.names()))),
            option="state",
            next_step="Raise inspect_timeout, or quiet the workers through their service manager (role drain)",
        )


def _record(stored: Any) -> dict[str, Any] | None:
    """Our record of a pause; None: there is none."""
    if not stored:
        return None
    try:
        found = json.loads(stored)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else dict(UNREADABLE)
