# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""BullMQ, by its keys in Redis (run against 5.81 and 6.7). Its own library is never needed.

Keys, with the prefix ``bull``: ``bull:<q>:wait`` is the list of queued task ids, the oldest last, and ``:prioritized`` the sorted set of
those with a priority (``:paused`` is where BullMQ before 6 keeps the list while the queue is paused); ``:active`` is the list of those
that workers have, each with a lock ``bull:<q>:<id>:lock`` that expires unless its worker renews it; ``:delayed``,
``:waiting-children``, ``:failed`` and ``:completed`` are sorted sets; ``:meta`` says whether the queue is paused; ``bull:<q>:<id>`` is
a task's hash with ``name``, ``data`` (JSON), ``pb`` (the worker that processed it), ``timestamp``, ``processedOn``, ``finishedOn``
(ms) and ``failedReason``.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any, Iterator, Mapping, NamedTuple

from .._errors import Conflict, NotFound, Refused
from .api import (
    NO_VERSION,
    Capabilities,
    Look,
    PauseReport,
    PauseRequest,
    QueueBackend,
    QueueState,
    RedriveRequest,
    TaskStore,
    Unknowns,
    WorkerState,
    version_and_host,
)
from .bullmq_pause_scripts import PAUSE, RESUME
from .bullmq_store import BullmqStore, Keys, require_sense, seconds, text
from .redis_connection import RedisConnection

#: Of at most this many active tasks of a queue the locks and workers are looked at.
LOOKED_AT = 1000

CAPABILITIES = Capabilities(
    system="bullmq",
    can=frozenset(("oldest_age", "pause", "redrive", "redrive_run", "redrive_count", "identify", "check", "breaker")),
    instead={
        "in_flight": "Use action=finish; BullMQ's stalled check puts back by itself what a killed worker had in hand",
        "rate": "Use what the workers report to your monitoring",
        "list_queues": "Name the queues in queues; BullMQ keeps no list of them",
        "counters": "Judge the release by the queue's failed tasks, or by another sign; BullMQ does not count per worker",
        "source:dead_lettered": "Use source=failed; BullMQ keeps the tasks that failed for good there",
        "source:other": "Name the queue in queue, and the one to put its tasks into in the rule's destination",
        "action:dead_letter": "Use fail or park; BullMQ has no dead letters",
        "match:header": "Use match.field; BullMQ's tasks have a payload and no headers",
    },
    guarantee={
        "pause": "BullMQ's own pause, for each queue by itself: from the moment it is set no worker takes a task, also none started later."
        " It does not expire by itself",
        "redrive": "a task is marked and moved in one step on the server, up to %d tasks a step, to the end state of BullMQ's own retry;"
        " priorities are kept" % BullmqStore.batch,
    },
    sources={
        "failed": "the sorted set failed",
        "parked": "the sorted set queueops:parked:<prefix>:<queue>",
        "queued": "the list wait (or paused) and the sorted set prioritized; not those that are delayed",
        "executing": "the active tasks whose lock a worker holds",
        "abandoned": "the active tasks whose lock has expired; BullMQ's stalled check puts them back too, while a worker runs",
    },
    actions={
        "requeue": "back to the end of its queue, from a worker to its head; into another queue it keeps its id, but for a number,"
        " which becomes <queue>-<number>",
        "fail": "into the sorted set failed, with a reason that says who did it",
        "park": "out of BullMQ's keys, into the sorted set queueops:parked:<prefix>:<queue>; not of a flow",
        "discard": "deleted with its log; not of a flow",
        "compensate": "into the queue named, with its id in the field queueops_compensates; not of a flow",
    },
    match=("ids", "task", "version", "error", "older_than", "newer_than", "field"),
)

_UNRECORDED = "BullMQ does not record it"
_NO_CLIENTS = "the broker's user may not list its connections (CLIENT LIST), by which BullMQ's workers are known (%s)"


class _Raw(NamedTuple):
    """Redis' answers about one queue, in the order of :meth:`BullmqBackend._ask_queue`."""

    exists: int
    meta: list[Any]
    record: Any
    wait: int
    old_wait: int
    prioritized: int
    active: int
    delayed: int
    children: int
    failed: int
    parked: int
    heads: tuple[Any, Any, Any]
    taken: list[Any]

    @property
    def paused(self) -> bool:
        return self.meta[0] is not None


class _Taken(NamedTuple):
    """One active task: its id, worker (None: unnamed), since when, and whether a worker holds its lock."""

    task: str
    worker: str | None
    since: float | None
    locked: bool


class BullmqBackend(QueueBackend):
    """Queues of BullMQ in one Redis database. Setting ``key_prefix``: BullMQ's option ``prefix``, default ``bull``."""

    capabilities = CAPABILITIES

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._prefix = str(settings.get("key_prefix") or "bull")
        self._redis = RedisConnection(settings)

    # Looking

    def look(self, queues: list[str] | None = None, missing_ok: bool = False) -> Look:
        """Three round trips whatever the number of queues and tasks; no command grows with a queue's length, but one with connections."""
        if queues is None:
            self.capabilities.require("list_queues", "queues")
        names = list(dict.fromkeys(queues or []))
        unknowns = Unknowns()
        with self._redis.asking("look at the queues") as client:
            clients = self._clients(unknowns)
            now, raw = self._ask(client, names)
            ages, taken = self._ask_tasks(client, raw)
        states = []
        for name, answers in raw.items():
            state = self._state(name, answers, taken[name], unknowns)
            since = [moment for moment in ages[name] if moment is not None]
            if since:
                state.oldest_task_age_s = round(max(0.0, now - min(since)), 3)
            else:
                reason = "the oldest task's own record is gone" if ages[name] else "no task is queued"
                unknowns.note("queues.oldest_task_age_s", reason, name)
            states.append(state)
        workers = self._workers(now, names, clients, taken, unknowns)
        listened = {queue for worker in workers for queue in worker.queues or []}
        for state in states:
            state.exists = bool(raw[state.name].exists) or state.name in listened
        missing = [state.name for state in states if not state.exists]
        if missing and not missing_ok:
            raise self._missing(missing)
        if states:
            unknowns.note("queues.dead_lettered", "BullMQ has no dead letters; tasks that failed for good are counted in failed")
            unknowns.note("queues.rate_per_s", "BullMQ does not count what its workers finish")
        return Look(now, states, workers, unknowns.as_dict())

    def _missing(self, names: list[str], option: str = "queues") -> NotFound:
        return NotFound(
            "There is no queue %s at %s" % (" and no queue ".join(names), self._redis.where),
            option=option,
            next_step="Check the name, url and key_prefix (%s); a queue is there once a Queue or a Worker was made for it" % self._prefix,
        )

    def _clients(self, unknowns: Unknowns) -> list[dict[str, Any]] | None:
        """The connections to the database; None where they may not be listed."""
        try:
            return self._redis.neighbours()
        except self._redis.redis.exceptions.ResponseError as problem:
            if not re.search(r"NOPERM|permission|unknown command|unknown subcommand", str(problem), re.IGNORECASE):
                raise
            unknowns.note("workers", _NO_CLIENTS % str(problem).split("'", 1)[0].strip())
            return None

    def _ask(self, client: Any, names: list[str]) -> tuple[float, dict[str, _Raw]]:
        def ask(pipe: Any) -> None:
            pipe.time()
            for name in names:
                self._ask_queue(pipe, Keys(self._prefix, name))

        answers = iter(self._redis.together(client, ask))
        whole, micros = next(answers)
        raw = {}
        for name in names:
            counts = [next(answers) for _index in range(11)]
            prioritized = (next(answers), next(answers), next(answers))
            heads = (prioritized[0], prioritized[1], next(iter(prioritized[2]), None))
            raw[name] = _Raw._make([*counts, heads, next(answers)])
        return whole + micros / 1e6, raw

    def _ask_queue(self, pipe: Any, keys: Keys) -> None:
        pipe.exists(*(keys.key(name) for name in _SIGNS), keys.parked)
        pipe.hmget(keys.key("meta"), "paused", "version")
        pipe.get(keys.pause_record)
        pipe.llen(keys.key("wait"))
        pipe.llen(keys.key("paused"))
        pipe.zcard(keys.key("prioritized"))
        pipe.llen(keys.key("active"))
        pipe.zcard(keys.key("delayed"))
        pipe.zcard(keys.key("waiting-children"))
        pipe.zcard(keys.key("failed"))
        pipe.zcard(keys.parked)
        pipe.lindex(keys.key("wait"), -1)
        pipe.lindex(keys.key("paused"), -1)
        pipe.zrange(keys.key("prioritized"), 0, 0)
        pipe.lrange(keys.key("active"), -LOOKED_AT, -1)

    def _ask_tasks(self, client: Any, raw: dict[str, _Raw]) -> tuple[dict[str, list[float | None]], dict[str, list[_Taken]]]:
        """When the tasks at the heads were published, and who has the active ones."""
        heads = {name: [text(head) for head in answers.heads if head is not None] for name, answers in raw.items()}

        def ask(pipe: Any) -> None:
            for name, answers in raw.items():
                base = Keys(self._prefix, name).base
                for head in heads[name]:
                    pipe.hget(base + head, "timestamp")
                for task in answers.taken:
                    pipe.hmget(base + text(task), "pb", "processedOn")
                    pipe.exists(base + text(task) + ":lock")

        answers_left = iter(self._redis.together(client, ask))
        ages: dict[str, list[float | None]] = {}
        taken: dict[str, list[_Taken]] = {}
        for name, answers in raw.items():
            ages[name] = [seconds(next(answers_left)) for _head in heads[name]]
            taken[name] = []
            for task in answers.taken:
                worker, since = next(answers_left)
                locked = bool(next(answers_left))
                taken[name].append(_Taken(text(task), text(worker) if worker else None, seconds(since), locked))
        return ages, taken

    def _state(self, name: str, raw: _Raw, taken: list[_Taken], unknowns: Unknowns) -> QueueState:
        # BullMQ before 5 leaves a marker among the queued tasks.
        markers = sum(1 for head in raw.heads[:2] if head is not None and text(head).startswith("0:"))
        state = QueueState(name, queued=raw.wait + raw.old_wait + raw.prioritized - markers, failed=raw.failed)
        state.scheduled = raw.delayed + raw.children
        state.executing = raw.active
        if raw.active > len(taken):
            unknowns.note("queues.abandoned", "of more than %d active tasks the locks are not looked at" % LOOKED_AT, name)
        else:
            state.abandoned = sum(1 for task in taken if not task.locked)
            state.executing -= state.abandoned
        state.paused, state.paused_by = raw.paused, _paused_by(raw)
        return state

    def _workers(
        self, now: float, names: list[str], clients: list[dict[str, Any]] | None, taken: dict[str, list[_Taken]], unknowns: Unknowns
    ) -> list[WorkerState]:
        held: dict[tuple[str, str | None], list[_Taken]] = {}
        for queue, tasks in taken.items():
            for task in tasks:
                held.setdefault((queue, task.worker), []).append(task)
        found = []
        for queue, name, connection in self._connections(names, clients or []):
            worker = WorkerState(name=name or connection.get("addr", ""), queues=[queue], state="idle", last_seen=now)
            worker.started = now - float(connection.get("age") or 0)
            own = held.get((queue, name))
            if own and name is None:
                worker.state = None
                unknowns.note("workers.state", "a worker without a name leaves no trace on its tasks", worker.name)
            elif own:
                self._hold(worker, queue, own.pop(0))
            found.append(worker)
        connected = {(worker.queues[0], worker.name) for worker in found if worker.queues}
        for (queue, name), tasks in held.items():
            if name is None or (queue, name) in connected:
                continue
            worker = WorkerState(name=name, queues=[queue])
            self._hold(worker, queue, tasks[0])
            if clients is not None or not tasks[0].locked:
                worker.state = "gone"
            found.append(worker)
        _give_reasons(found, unknowns)
        return found

    @staticmethod
    def _hold(worker: WorkerState, queue: str, task: _Taken) -> None:
        worker.state = "busy"
        worker.task, worker.task_queue, worker.task_since = task.task, queue, task.since

    def _connections(self, names: list[str], clients: list[dict[str, Any]]) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
        """Queue, name (None: it has none) and connection of each worker; the name of its connection says both."""
        by_name = {"%s:%s" % (self._prefix, base64.b64encode(name.encode("utf-8", "surrogateescape")).decode()): name for name in names}
        for connection in clients:
            called = str(connection.get("name") or "")
            lead, separator, name = called.partition(":w:")
            if lead in by_name and (separator or called == lead):
                yield by_name[lead], name or None, connection

    # Pausing

    def _read_pause(self, queues: list[str], doing: str) -> tuple[float, dict[str, _Raw]]:
        self._redis.require_writable(doing)
        names = list(dict.fromkeys(queues))
        with self._redis.asking(doing) as client:
            now, raw = self._ask(client, names)
            missing = [name for name in names if not raw[name].exists]
            if missing:
                listened = {queue for queue, _name, _connection in self._connections(missing, self._clients(Unknowns()) or [])}
                missing = [name for name in missing if name not in listened]
        if missing:
            raise self._missing(missing)
        return now, raw

    def pause(self, queues: list[str], request: PauseRequest, check: bool = False) -> PauseReport:
        """BullMQ's own pause with our record beside it, in one step for each queue. Those that are paused are left as they are."""
        now, raw = self._read_pause(queues, "pause")
        before = _pause_told(raw)
        warnings = []
        for name, answers in raw.items():
            holder = _paused_by(answers)
            if holder is not None and holder["owner"] != request.owner:
                by = holder["owner"] or "an unrecorded pause of BullMQ"
                warnings.append("Queue %s was paused before, by %s; that pause is left as it is" % (name, by))
        wanted = [name for name, answers in raw.items() if not answers.paused]
        if not wanted:
            return PauseReport(False, before, before, warnings)
        noted = {"owner": request.owner, "reason": request.reason, "since": round(now, 3)}
        if not check:
            with self._redis.asking("pause") as client:
                for name in wanted:
                    keys = Keys(self._prefix, name)
                    client.eval(PAUSE, 2, keys.key("meta"), keys.pause_record, keys.base, json.dumps(noted))
        if request.expires is not None:
            warnings.append("A pause of BullMQ does not expire by itself, so expires is not kept to; lift it with state=active")
        else:
            warnings.append("This pause does not expire by itself; lift it with state=active")
        holder = before["paused_by"] if len(wanted) < len(raw) else None
        return PauseReport(True, before, {"paused": True, "paused_by": holder or dict(noted, expires_in_s=None)}, warnings)

    def resume(self, queues: list[str], owner: str, check: bool = False) -> PauseReport:
        """Lift BullMQ's pause and wake idle workers, unless our record says that somebody else holds one of them."""
        _now, raw = self._read_pause(queues, "lift the pause")
        before = _pause_told(raw)
        for name, answers in raw.items():
            holder = _paused_by(answers)
            if holder is not None and holder["owner"] not in (None, owner):
                raise self._held(name, holder, owner)
        # A list of the old layout that was left behind is taken back as well.
        wanted = [name for name, answers in raw.items() if answers.paused or answers.old_wait]
        if not check:
            for name in wanted:
                self._resume(name, owner)
        return PauseReport(bool(wanted), before, {"paused": False, "paused_by": None})

    def _resume(self, name: str, owner: str) -> None:
        keys = Keys(self._prefix, name)
        with self._redis.asking("lift the pause") as client:
            left = 1
            while left > 0:
                left = client.eval(RESUME, 2, keys.key("meta"), keys.pause_record, keys.base, owner)
        if left < 0:
            raise self._held(name, {"owner": "somebody else", "reason": "just now"}, owner)

    def _held(self, name: str, holder: Mapping[str, Any], owner: str) -> Conflict:
        return Conflict(
            "Queue %s at %s is paused by %s (%s), not by %s"
            % (name, self._redis.where, holder["owner"], holder["reason"] or "no reason given", owner),
            option="owner",
            still_true="It stays paused",
            next_step="Ask %s, or give owner=%s to lift it in that name" % (holder["owner"], holder["owner"]),
        )

    # Redriving

    def open_store(self, request: RedriveRequest, check: bool) -> TaskStore:
        """See :meth:`QueueBackend.open_store`."""
        require_sense(request)
        warnings = [] if check else self._redis.require_writable("redrive")
        destinations = [rule.destination for rule in request.rules if rule.destination]
        names = list(dict.fromkeys([request.queue, *destinations]))
        states = {state.name: state for state in self.look(names, missing_ok=True).queues}
        if not states[request.queue].exists:
            raise self._missing([request.queue], "queue")
        for name in destinations:
            if not states[name].exists:
                raise self._missing([name], "destination")
            if ":" in name:
                raise Refused("BullMQ has no queue %s: a name holds no colon" % name, option="destination")
        store = BullmqStore(self._redis, self._prefix, request)
        store.warnings = warnings
        return store


#: One of these keys is there once a queue was used.
_SIGNS = ("meta", "id", "wait", "paused", "prioritized", "active", "delayed", "waiting-children", "failed", "completed")


def _paused_by(raw: _Raw) -> dict[str, Any] | None:
    """Who paused, from our record beside BullMQ's own mark; without a record the pause is somebody else's."""
    if not raw.paused:
        return None
    try:
        noted = json.loads(raw.record) if raw.record else {}
    except ValueError:
        noted = {}
    return {"owner": noted.get("owner"), "reason": noted.get("reason"), "since": noted.get("since"), "expires_in_s": None}


def _pause_told(raw: dict[str, _Raw]) -> dict[str, Any]:
    """All queues together: paused if all of them are; by whom the first of them is."""
    holders = [_paused_by(answers) for answers in raw.values()]
    return {
        "paused": bool(raw) and all(answers.paused for answers in raw.values()),
        "paused_by": next((holder for holder in holders if holder is not None), None),
    }


def _give_reasons(workers: list[WorkerState], unknowns: Unknowns) -> None:
    """Version and host by the names, and why the rest is not known."""
    for worker in workers:
        worker.version, worker.host = version_and_host(worker.name)
        for field in ("version", "host"):
            if getattr(worker, field) is None:
                unknowns.note("workers." + field, NO_VERSION, worker.name)
        if worker.started is None:
            for field in ("started", "last_seen"):
                unknowns.note("workers." + field, "no connection of it is seen at the broker", worker.name)
    for field in ("pid", "completed", "failed") if workers else ():
        unknowns.note("workers." + field, _UNRECORDED)
