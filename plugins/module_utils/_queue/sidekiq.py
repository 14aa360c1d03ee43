# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sidekiq, by its keys in Redis (run against Sidekiq 6.4; 7 and 8 name one key and one unit differently). Nothing of Ruby is needed.

Keys: ``queues`` is a set; ``queue:<q>`` a list of tasks as JSON text, put in at the left and taken at the right. ``retry`` (scored by
when a task is due again), ``dead`` (when it died) and ``schedule`` are sorted sets of the tasks of all queues. ``processes`` is the
set of the workers' identities; ``<identity>`` a worker's hash, gone 60 s after its last heartbeat; ``<identity>:workers`` (from 7 on
``<identity>:work``) what it has in hand, as it was at its last heartbeat.
"""

from __future__ import annotations

import json
import re
from typing import Any, Iterable, Mapping

from .._errors import NotFound, Refused
from .api import (
    Capabilities,
    Look,
    QueueBackend,
    QueueState,
    RedriveRequest,
    TaskStore,
    Unknowns,
    WorkerState,
    version_and_host,
)
from .redis_connection import RedisConnection
from .redis_scripts import loads, text
from .sidekiq_scripts import COUNT
from .sidekiq_store import DEAD_MOST, ListStore, SetStore, SidekiqStore, seconds

#: The sets hold the tasks of all queues. Up to this many in one are told apart by their queue; of more the look says nothing.
COUNTED = 10000
#: Tasks of a set that are counted by one script.
PIECE = 500
#: Seconds between two heartbeats: until version 6, and from 7 on.
BEATS_S = {"workers": 5.0, "work": 10.0}

QUIET = (
    "Quiet the workers through their service manager (Sidekiq takes the signal TSTP for it; it then takes no task until it is restarted)"
)
TAG = "its tag does not carry the version; start Sidekiq with --tag <app>@<version> or --tag <version>"
LOST = "Sidekiq's workers take a task out of Redis; when one is killed its tasks are gone without a trace"
HANDS = "Sidekiq's workers hold their tasks in memory; stop them in order (TERM), and what they do not finish goes back to its queue"

CAPABILITIES = Capabilities(
    system="sidekiq",
    can=frozenset(("list_queues", "oldest_age", "redrive", "redrive_run", "redrive_count", "identify", "check", "breaker")),
    sources={
        "failed": "tasks in the retry set: they failed and wait for their next attempt",
        "dead_lettered": "tasks in the dead set: they failed as often as they may, or were killed",
        "parked": "tasks in queueops:parked:<queue>",
        "queued": "tasks of the queue itself",
        "other": "tasks of another queue",
    },
    actions={
        "requeue": "to their queue, or to the destination; as Sidekiq's own retry does, this attempt does not count as one",
        "fail": "to the dead set, which Sidekiq itself keeps to %d tasks; when it is full they are left where they are" % DEAD_MOST,
        "dead_letter": "the same as fail",
        "park": "to the sorted set queueops:parked:<queue>, which Sidekiq does not know",
        "discard": "deleted",
        "compensate": "to the destination, with the member queueops_compensates",
    },
    match=("ids", "task", "error", "older_than", "newer_than", "field"),
    instead={
        "in_flight": "Use action=finish; Sidekiq puts back what it does not finish in its time-out (-t), and loses it when it is killed",
        "rate": "Use what the workers report to your monitoring",
        "pause": QUIET,
        "counters": "Use what the workers report to your monitoring; Sidekiq counts for all workers and queues together",
        "source:executing": HANDS,
        "source:abandoned": "Publish them again from the application's own records: %s" % LOST,
        "match:version": "Use match.newer_than, match.error, or a tag of the task as match.field (tags.0); Sidekiq does not record"
        " which worker failed a task",
        "match:header": "Use match.field; a Sidekiq task has no headers beside its JSON text",
    },
    guarantee={
        "redrive": "each task leaves its set and enters its queue in one step on the server, up to %d tasks a step; its text is"
        " changed in retry_count, enqueued_at and our own marks alone" % SetStore.batch,
        "breaker": "a failure is known at once; a success after the workers' next heartbeat (up to %d s)" % BEATS_S["work"],
        "list_queues": "executing is as old as the workers' last heartbeat, up to %d s" % BEATS_S["work"],
    },
)


def version_of(tag: Any) -> str | None:
    """The version from a worker's tag: ``app@version``, ``app@version:host``, or the version alone; by default it is the folder's name."""
    if not isinstance(tag, str):
        return None
    found = version_and_host(tag)[0]
    if found is None:
        named = re.match(r"^(?:[^@:\s]+@([^@:\s]+)|(v?\d[\w.+-]*))$", tag)
        found = (named.group(1) or named.group(2)) if named else None
    return found


class _Process:
    """One worker's answers. ``work`` are the tasks in hand: queue, text, since when."""

    def __init__(self, identity: str, fields: list[Any], work: list[tuple[str, str, Any]], lag: float) -> None:
        info, self.busy, self.beat, quiet = fields
        self.identity = identity
        self.alive = info is not None
        self.info: dict[str, Any] = loads(info) or {} if info else {}
        self.quiet = text(quiet) == "true" if quiet is not None else False
        self.work = work if self.alive else []
        self.lag = lag

    @property
    def queues(self) -> list[str] | None:
        found = self.info.get("queues")
        return [str(name) for name in found] if isinstance(found, list) else None

    def worker(self) -> WorkerState:
        info = self.info
        parts = self.identity.rsplit(":", 2)
        found = WorkerState(name=self.identity, host=info.get("hostname") or (parts[0] if len(parts) == 3 else None))
        found.state = "gone"
        if len(parts) == 3 and parts[1].isdigit():
            found.pid = int(parts[1])
        if not self.alive:
            return found
        found.version = version_of(info.get("tag"))
        found.queues = self.queues
        found.state = "busy" if self.work or text(self.busy or "0") != "0" else "suspended" if self.quiet else "idle"
        found.started = seconds(info.get("started_at"))
        found.last_seen = float(self.beat) if self.beat else None
        if self.work:
            queue, task, since = min(self.work, key=lambda entry: entry[2] or 0)
            payload = loads(task.encode("utf-8", "surrogateescape"))
            found.task = payload.get("jid") if isinstance(payload, dict) else None
            found.task_queue, found.task_since = queue, seconds(since)
        return found


def _in_hand(entries: Iterable[Any]) -> list[tuple[str, str, Any]]:
    """A worker's record of what it has in hand."""
    found = []
    for entry in entries:
        held = loads(entry)
        if isinstance(held, dict):
            task = held.get("payload")
            found.append((str(held.get("queue")), task if isinstance(task, str) else json.dumps(task), held.get("run_at")))
    return found


class SidekiqBackend(QueueBackend):
    """Queues of Sidekiq in one Redis database. Setting ``key_prefix``: the namespace of redis-namespace, which versions up to 6 allow."""

    capabilities = CAPABILITIES

    def __init__(self, settings: Mapping[str, Any]) -> None:
        namespace = str(settings.get("key_prefix") or "").rstrip(":")
        self._prefix = namespace + ":" if namespace else ""
        self._redis = RedisConnection(settings)

    def _key(self, name: str) -> str:
        return self._prefix + name

    # Looking

    def look(self, queues: list[str] | None = None, missing_ok: bool = False) -> Look:
        """Some round trips, whatever the number of queues and tasks; only sets of up to :data:`COUNTED` tasks are read through."""
        unknowns = Unknowns()
        with self._redis.asking("look at the queues") as client:
            now, known, processes = self._ask(client)
            names = known if queues is None else list(dict.fromkeys(queues))
            lengths = self._ask_queues(client, names)
            counts = {field: self._count(client, key, unknowns, field) for field, key in _SETS}
        alive = [process for process in processes if process.alive]
        self.lag_s = max([process.lag for process in alive], default=0.0)
        states = [self._queue(name, lengths[name], counts, alive, now, unknowns) for name in names]
        for state in states:
            state.exists = state.exists or state.name in known
        self._require([state.name for state in states if not state.exists], missing_ok, known)
        workers = [self._worker(process, unknowns) for process in processes]
        if queues is not None:
            workers = [worker for worker in workers if worker.queues is None or set(worker.queues) & set(names)]
        if states:
            unknowns.note("queues.abandoned", LOST)
            unknowns.note("queues.rate_per_s", CAPABILITIES.instead["counters"])
        return Look(now, states, workers, unknowns.as_dict())

    def _require(self, missing: list[str], missing_ok: bool, known: list[str], option: str = "queues") -> None:
        if missing and not missing_ok:
            raise NotFound(
                "There is no queue %s at %s" % (" and no queue ".join(missing), self._redis.where),
                option=option,
                next_step="Name one of: %s" % (", ".join(known[:20]) or "none; Sidekiq knows no queue there, check url and key_prefix"),
            )

    def _ask(self, client: Any) -> tuple[float, list[str], list[_Process]]:
        pipe = client.pipeline(transaction=False)
        pipe.time()
        pipe.smembers(self._key("queues"))
        pipe.smembers(self._key("processes"))
        (whole, micros), known, identities = pipe.execute()
        names = sorted(text(identity) for identity in identities)

        def ask(pipe: Any) -> None:
            for name in names:
                pipe.hmget(self._key(name), "info", "busy", "beat", "quiet")
                for kind in BEATS_S:
                    pipe.hvals(self._key("%s:%s" % (name, kind)))

        answers = iter(self._redis.together(client, ask))
        processes = []
        for name in names:
            fields = next(answers)
            work: list[tuple[str, str, Any]] = []
            for _kind in BEATS_S:
                work += _in_hand(next(answers))
            # From 7 on a worker tells its Sidekiq's version, and beats half as often.
            told = loads(fields[0]) if fields[0] else None
            kind = "work" if isinstance(told, dict) and told.get("version") else "workers"
            processes.append(_Process(name, fields, work, BEATS_S[kind]))
        return whole + micros / 1e6, sorted(text(name) for name in known), processes

    def _ask_queues(self, client: Any, names: list[str]) -> dict[str, tuple[int, Any, bool]]:
        """Length, oldest task and whether Sidekiq Pro has it paused, of each."""

        def ask(pipe: Any) -> None:
            for name in names:
                pipe.llen(self._key("queue:" + name))
                pipe.lindex(self._key("queue:" + name), -1)
                pipe.sismember(self._key("paused"), name)

        answers = iter(self._redis.together(client, ask))
        return {name: (int(next(answers)), next(answers), bool(next(answers))) for name in names}

    def _count(self, client: Any, key: str, unknowns: Unknowns, field: str) -> dict[str, int] | None:
        """How many tasks of each queue a set holds; None when it is too long to be read through."""
        length = int(client.zcard(self._key(key)))
        if length > COUNTED:
            unknowns.note(
                "queues." + field, "the %s set holds %d tasks of all queues; beyond %d they are not counted" % (key, length, COUNTED)
            )
            return None
        found: dict[str, int] = {}
        script = client.register_script(COUNT)
        for first in range(0, length, PIECE):
            try:
                answer = script(keys=[self._key(key)], args=[first, first + PIECE - 1])
            except self._redis.redis.exceptions.NoPermissionError:
                unknowns.note("queues." + field, "the %s set holds the tasks of all queues, and this user may not run scripts" % key)
                return None
            for index in range(0, len(answer), 2):
                name = text(answer[index])
                found[name] = found.get(name, 0) + int(answer[index + 1])
        return found

    def _queue(
        self,
        name: str,
        answers: tuple[int, Any, bool],
        counts: Mapping[str, dict[str, int] | None],
        alive: list[_Process],
        now: float,
        unknowns: Unknowns,
    ) -> QueueState:
        queued, oldest, paused = answers
        state = QueueState(name, queued=queued)
        state.executing = sum(1 for process in alive for queue, _task, _since in process.work if queue == name)
        for field, found in counts.items():
            setattr(state, field, None if found is None else found.get(name, 0))
        listening = [process for process in alive if name in (process.queues or [])]
        state.exists = bool(listening or queued or state.executing or any((found or {}).get(name) for found in counts.values()))
        # Open-source workers do not mind the mark that the commercial ones set; they stop taking tasks only when they are quiet.
        state.paused = paused or (bool(listening) and all(process.quiet for process in listening))
        payload = loads(oldest) if oldest is not None else None
        entered = seconds(payload.get("enqueued_at")) if isinstance(payload, dict) else None
        if entered is not None:
            state.oldest_task_age_s = round(max(0.0, now - entered), 3)
        else:
            unknowns.note("queues.oldest_task_age_s", "no task is queued" if oldest is None else "the oldest task does not record it", name)
        return state

    def _worker(self, process: _Process, unknowns: Unknowns) -> WorkerState:
        worker = process.worker()
        reason = "it has gone, and its record with it" if not process.alive else "its record does not carry it"
        for name in ("host", "pid", "queues", "started", "last_seen", "version"):
            if getattr(worker, name) is None:
                unknowns.note("workers." + name, TAG if name == "version" and process.alive else reason, worker.name)
        for name in ("completed", "failed"):
            unknowns.note("workers." + name, "Sidekiq counts them for all workers together")
        return worker

    # Redriving

    def open_store(self, request: RedriveRequest, check: bool) -> TaskStore:
        warnings = [] if check else self._redis.require_writable("redrive")
        named = [rule.destination for rule in request.rules if rule.destination]
        origins = [request.queue]
        kinds = {"failed": "retry", "dead_lettered": "dead"}
        kind: type[SidekiqStore] = SetStore
        if request.source in kinds:
            source = (request.source, self._key(kinds[request.source]))
        elif request.source == "parked":
            source = ("parked", "queueops:parked:%s%s" % (self._prefix, request.queue))
        else:
            queue = request.queue if request.source == "queued" else request.source
            if queue != request.queue:
                origins.append(queue)
            source, kind = ("queued", self._key("queue:" + queue)), ListStore
        wanted = list(dict.fromkeys((*origins, *named)))
        with self._redis.asking("look for the queues") as client:
            known = {text(name) for name in client.smembers(self._key("queues"))}
        # One that is not among them may still have workers that listen, or tasks in the sets; to find that out takes longer.
        others = [name for name in wanted if name not in known]
        known.update(state.name for state in (self.look(others, missing_ok=True).queues if others else []) if state.exists)
        for names, option in ((origins, "queue"), (named, "destination")):
            missing = [name for name in names if name not in known]
            self._require(missing, source[0] == "parked" and option == "queue", sorted(known), option)
        if kind is ListStore and any(rule.action == "requeue" and rule.destination in (None, *origins[-1:]) for rule in request.rules):
            raise Refused(
                "Queued tasks would go from queue %s to where they are" % origins[-1],
                option="rules",
                next_step="Name another queue in the rule's destination",
            )
        store = kind(self._redis, self._prefix, request, source, wanted)
        store.warnings = warnings
        return store


#: The field of a queue's state, and the set that is counted for it.
_SETS = (("failed", "retry"), ("dead_lettered", "dead"), ("scheduled", "schedule"))
