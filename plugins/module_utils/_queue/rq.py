# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RQ, by its keys in Redis (run against RQ 3.0). RQ itself is never imported: its own calls clean up while they look, and unpickle.

Keys, with the prefix ``rq``: ``rq:queues`` and ``rq:workers`` are sets; ``rq:queue:<q>`` is the list of queued task ids and
``rq:queue:<q>:intermediate`` what a worker has just taken; ``rq:wip:<q>`` holds ``<task>:<execution>``, scored by when the
execution's heartbeat expires; ``rq:failed:<q>`` and ``rq:scheduled:<q>`` are sorted sets of task ids; ``rq:job:<id>`` is the
task's hash, whose field ``data`` (the pickled call) is never read here; ``rq:results:<id>`` is a stream with the error's text.
"""

from __future__ import annotations

import json
import re
from typing import Any, Mapping, NamedTuple

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
from .redis_connection import RedisConnection
from .rq_abandoned import AbandonedStore
from .rq_in_flight import InHandStore
from .rq_redrive import BATCH, RqStore
from .rq_tasks import as_text as _text
from .rq_tasks import parse_time

#: At most this many executions of one queue are read by name; there are normally as many as there are workers.
NAMED_EXECUTIONS = 200

_NO_PAYLOAD = "RQ's payloads and meta are pickled and are never read; select by match.task, match.error or match.ids"

CAPABILITIES = Capabilities(
    system="rq",
    can=frozenset(
        (
            *("list_queues", "counters", "oldest_age", "pause", "redrive", "redrive_run", "redrive_count", "identify", "check", "breaker"),
            "in_flight",
        )
    ),
    sources={
        "failed": "the queue's failed job registry, oldest expiry first",
        "parked": "what a redrive parked, in queueops:parked:<prefix>:<queue>",
        "queued": "the queue's list, from its head",
        "executing": "the queue's started executions; a worker that lives on finishes its own run as well",
        "abandoned": "tasks that a worker took and never began, and those of executions whose worker's record has expired",
    },
    actions={
        "requeue": "to the end of its queue as RQ's own requeue, but in one step and with the time of the first enqueueing kept;"
        " from executing and abandoned to the head",
        "fail": "to the failed job registry of its queue, with the job's failure_ttl",
        "park": "to queueops:parked:<prefix>:<queue>, where nothing of RQ looks and nothing expires",
        "discard": "the job's record and results are deleted",
        "compensate": "to the end of the destination, with queueops_action=compensate in the job's hash",
    },
    match=("ids", "task", "version", "error", "older_than", "newer_than"),
    in_flight_apart=True,
    instead={
        "rate": "Give queue_info measure; it takes the rate from what the workers count",
        "source:dead_lettered": "Give source=failed; RQ has no dead letters, what failed for good is in the failed job registry",
        "action:dead_letter": "Use action=fail or park; RQ has no dead letters",
        "match:field": _NO_PAYLOAD,
        "match:header": _NO_PAYLOAD,
    },
    guarantee={
        "pause": "RQ's pause holds for all queues of the Redis database; a worker that is idle when it is set may still take one task"
        " before it notices; a worker that is started meanwhile exits at once with an error",
        "redrive": "each task leaves its place, is marked and enters the next in one step on the server, up to %d tasks a step" % BATCH,
        "in_flight": "by the host name and pid in the worker's record and the executions that it lists, which outlive it by minutes",
        "breaker": "by each task's own status; a task that completed and keeps no result has lost its record, and counts as completed",
    },
)

_WORKER_FIELDS = (
    "hostname",
    "pid",
    "queues",
    "state",
    "birth",
    "last_heartbeat",
    "successful_job_count",
    "failed_job_count",
    "current_job",
)

# KEYS: suspended, record. ARGV: record, seconds or 0.
_PAUSE = """
if ARGV[2] == '0' then
  redis.call('SET', KEYS[1], '1')
  redis.call('SET', KEYS[2], ARGV[1])
else
  redis.call('SET', KEYS[1], '1', 'EX', ARGV[2])
  redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
end
return 1
"""


def _or_none(value: Any) -> str | None:
    return _text(value) if value not in (None, b"", "") else None


def _number(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


class _RawQueue(NamedTuple):
    """Redis' answers about one queue, in the order of :meth:`RqBackend._ask_queue`."""

    queued: int
    taken: int
    started: int
    expired: int
    scheduled: int
    failed: int
    head: Any
    taken_ids: list[Any]
    started_members: list[Any]


class _Raw(NamedTuple):
    """Redis' answers to one look."""

    now: float
    known: list[str]
    suspended: int
    record: Any
    queues: dict[str, _RawQueue]
    workers: dict[str, list[Any]]
    #: ``<task>:<execution>`` -> its queue, "" where that was not asked about.
    running: dict[str, str]
    enqueued: dict[str, Any]
    executions: dict[str, list[Any]]


def _worker(name: str, fields: list[Any]) -> WorkerState:
    """One worker from its record; without one it is gone, for a record lives as long as the heartbeat."""
    host, pid, queues, state, birth, seen, completed, failed, current = fields
    version, named_host = version_and_host(name)
    worker = WorkerState(name=name, version=version, host=named_host or _or_none(host))
    if all(value is None for value in fields):
        worker.state = "gone"
        return worker
    worker.pid = _number(pid)
    worker.queues = _text(queues).split(",") if queues else None
    worker.state = _or_none(state)
    # RQ only writes a counter once there is something to count.
    worker.completed, worker.failed = _number(completed or 0), _number(failed or 0)
    worker.started, worker.last_seen = parse_time(birth), parse_time(seen)
    worker.task = _or_none(current)
    return worker


class RqBackend(QueueBackend):
    """Queues of RQ in one Redis database. Setting ``key_prefix``: RQ's ``RQ_KEY_PREFIX``, default ``rq``."""

    capabilities = CAPABILITIES

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._prefix = str(settings.get("key_prefix") or "rq")
        if not re.match(r"^[A-Za-z0-9_.:{}-]+$", self._prefix):
            raise Refused(
                "key_prefix holds a character that RQ does not allow",
                option="key_prefix",
                next_step="Use letters, digits and _ . : - { }",
            )
        self._redis = RedisConnection(settings)

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    # Looking

    def look(self, queues: list[str] | None = None, missing_ok: bool = False) -> Look:
        """Three round trips whatever the number of queues, workers and tasks; no command grows with a queue's length."""
        unknowns = Unknowns()
        with self._redis.asking("look at the queues") as client:
            raw = self._ask(client, queues)
        workers = self._workers(raw, unknowns)
        listened = {queue for worker in workers if worker.state != "gone" for queue in worker.queues or []}
        paused_by = self._paused_by(raw.suspended, raw.record)
        states = []
        for name, answers in raw.queues.items():
            state = self._queue(name, answers, name in listened)
            counts = (state.queued, state.executing, state.scheduled, state.failed, state.abandoned)
            state.exists = name in raw.known or name in listened or any(counts)
            state.paused, state.paused_by = raw.suspended != -2, paused_by
            since = parse_time(raw.enqueued.get(name))
            if since is not None:
                state.oldest_task_age_s = round(max(0.0, raw.now - since), 3)
            else:
                reason = "the oldest task's own record is gone" if name in raw.enqueued else "no task is queued"
                unknowns.note("queues.oldest_task_age_s", reason, name)
            states.append(state)
        missing = [state.name for state in states if not state.exists]
        if missing and not missing_ok:
            raise NotFound(
                "There is no queue %s at %s" % (" and no queue ".join(missing), self._redis.where),
                option="queues",
                next_step="Name one of: %s" % (", ".join(raw.known[:20]) or "none; RQ knows no queue there, check url and key_prefix"),
            )
        if states:
            unknowns.note("queues.dead_lettered", "RQ has no dead letters; tasks that failed for good are counted in failed")
            unknowns.note("queues.rate_per_s", "RQ does not record how many tasks its workers finish over time")
        if queues is not None:
            workers = [worker for worker in workers if worker.queues is None or set(worker.queues) & set(raw.queues)]
        return Look(raw.now, states, workers, unknowns.as_dict())

    def _ask(self, client: Any, queues: list[str] | None) -> _Raw:
        pipe = client.pipeline(transaction=False)
        pipe.time()
        pipe.smembers(self._key("queues"))
        pipe.smembers(self._key("workers"))
        pipe.ttl(self._key("suspended"))
        pipe.get(self._pause_record)
        (seconds, micros), queue_keys, worker_keys, suspended, record = pipe.execute()
        now = seconds + micros / 1e6
        lead = len(self._key("queue", ""))
        known = sorted(_text(key)[lead:] for key in queue_keys)
        names = known if queues is None else list(dict.fromkeys(queues))
        lead = len(self._key("worker", ""))
        worker_names = sorted(_text(key)[lead:] for key in worker_keys)

        def ask(pipe: Any) -> None:
            for name in names:
                self._ask_queue(pipe, name, now)
            for name in worker_names:
                pipe.hmget(self._key("worker", name), *_WORKER_FIELDS)
                pipe.smembers(self._key("worker", name, "executions"))

        answers = iter(self._redis.together(client, ask))
        raw_queues = {name: _RawQueue(*(next(answers) for _index in range(9))) for name in names}
        workers = {}
        running = {_text(member): name for name, raw in raw_queues.items() for member, _score in raw.started_members}
        for name in worker_names:
            workers[name] = next(answers)
            for member in next(answers):
                running.setdefault(_text(member), "")

        heads = {name: _text(raw.head) for name, raw in raw_queues.items() if raw.head is not None}
        pipe = client.pipeline(transaction=False)
        for head in heads.values():
            pipe.hget(self._key("job", head), "enqueued_at")
        for member in running:
            pipe.hmget(self._key("execution", member), "worker_name", "created_at")
        answers = iter(pipe.execute() if heads or running else [])
        enqueued = {name: next(answers) for name in heads}
        executions = {member: next(answers) for member in running}
        return _Raw(now, known, suspended, record, raw_queues, workers, running, enqueued, executions)

    def _ask_queue(self, pipe: Any, name: str, now: float) -> None:
        # In the order in which a task goes through the keys: without a transaction it may be counted twice, but is never missed.
        queue, wip = self._key("queue", name), self._key("wip", name)
        pipe.llen(queue)
        pipe.llen(queue + ":intermediate")
        pipe.zcard(wip)
        pipe.zcount(wip, "-inf", "(%f" % now)
        pipe.zcard(self._key("scheduled", name))
        pipe.zcard(self._key("failed", name))
        pipe.lindex(queue, 0)
        pipe.lrange(queue + ":intermediate", 0, NAMED_EXECUTIONS - 1)
        pipe.zrange(wip, 0, NAMED_EXECUTIONS - 1, withscores=True)

    def _queue(self, name: str, raw: _RawQueue, listened: bool) -> QueueState:
        # A task stays in the intermediate list until its execution has begun: count it once.
        begun = {_text(member).rsplit(":", 1)[0] for member, _score in raw.started_members}
        only_taken = max(0, raw.taken - sum(1 for task in raw.taken_ids if _text(task) in begun))
        executing, abandoned = raw.started - raw.expired, raw.expired
        if listened:
            executing += only_taken
        else:
            abandoned += only_taken
        return QueueState(name, True, raw.queued, executing, raw.scheduled, raw.failed, abandoned=abandoned)

    def _workers(self, raw: _Raw, unknowns: Unknowns) -> list[WorkerState]:
        held: dict[str, list[tuple[float, str]]] = {}
        for member, (worker_name, created) in raw.executions.items():
            if worker_name and created:
                held.setdefault(_text(worker_name), []).append((float(created), member))
        found = []
        for name, fields in raw.workers.items():
            worker = _worker(name, fields)
            if held.get(name):
                since, member = min(held[name])
                worker.task, worker.task_since = member.rsplit(":", 1)[0], since
                worker.task_queue = raw.running[member] or None
            gone = worker.state == "gone"
            if worker.version is None:
                unknowns.note("workers.version", NO_VERSION, name)
            for field_name in ("host", "pid", "queues", "state", "completed", "failed", "started", "last_seen"):
                if getattr(worker, field_name) is None:
                    reason = "its heartbeat has expired" if gone else "its record does not carry it"
                    unknowns.note("workers." + field_name, reason, name)
            found.append(worker)
        return found

    # Pausing

    @property
    def _pause_record(self) -> str:
        return "queueops:paused:%s" % self._prefix

    def _paused_by(self, suspended: int, record: Any) -> dict[str, Any] | None:
        """Who paused, from our record beside RQ's own mark; ``suspended`` is that mark's TTL: -2 absent, -1 for good."""
        if suspended == -2:
            return None
        try:
            noted = json.loads(record) if record else {}
        except ValueError:
            noted = {}
        return {
            "owner": noted.get("owner"),
            "reason": noted.get("reason"),
            "since": noted.get("since"),
            "expires_in_s": suspended if suspended >= 0 else None,
        }

    def _read_pause(self) -> tuple[float, int, dict[str, Any]]:
        with self._redis.asking("read the pause") as client:
            pipe = client.pipeline(transaction=False)
            pipe.time()
            pipe.ttl(self._key("suspended"))
            pipe.get(self._pause_record)
            (seconds, _micros), suspended, record = pipe.execute()
        return seconds, suspended, {"paused": suspended != -2, "paused_by": self._paused_by(suspended, record)}

    def pause(self, queues: list[str], request: PauseRequest, check: bool = False) -> PauseReport:
        """Set RQ's database-wide mark with our record of who and why beside it.

        A pause that the same owner already holds is left alone, unless less than half of ``expires`` is left.
        """
        if request.expires is not None and request.expires < 1:
            raise Refused("A pause cannot expire after %s s" % request.expires, option="expires", next_step="Give at least 1 second")
        self._redis.require_writable("pause")
        now, left, before = self._read_pause()
        warnings = []
        holder = before["paused_by"]
        if holder is not None:
            ours = holder["owner"] == request.owner
            lasts = left == -1 if request.expires is None else left == -1 or left * 2 > request.expires
            if not ours or lasts:
                if not ours:
                    by = holder["owner"] or "an unrecorded `rq suspend`"
                    warnings.append("It was paused before, by %s; that pause is left as it is" % by)
                return PauseReport(False, before, before, warnings)
        noted = {"owner": request.owner, "reason": request.reason, "since": now}
        if not check:
            with self._redis.asking("pause") as client:
                client.eval(_PAUSE, 2, self._key("suspended"), self._pause_record, json.dumps(noted), request.expires or 0)
        warnings.append(CAPABILITIES.guarantee["pause"])
        if request.expires is None:
            warnings.append("This pause does not expire by itself; lift it with state=active")
        return PauseReport(True, before, {"paused": True, "paused_by": dict(noted, expires_in_s=request.expires)}, warnings)

    def resume(self, queues: list[str], owner: str, check: bool = False) -> PauseReport:
        """Lift the pause, unless our record says that somebody else holds it."""
        self._redis.require_writable("lift the pause")
        _now, _left, before = self._read_pause()
        holder = before["paused_by"]
        if holder is None:
            return PauseReport(False, before, before)
        if holder["owner"] not in (None, owner):
            raise Conflict(
                "The queues at %s are paused by %s (%s), not by %s"
                % (self._redis.where, holder["owner"], holder["reason"] or "no reason given", owner),
                option="owner",
                still_true="They stay paused and nothing was changed",
                next_step="Ask %s, or give owner=%s to lift it in that name" % (holder["owner"], holder["owner"]),
            )
        if not check:
            with self._redis.asking("lift the pause") as client:
                client.delete(self._key("suspended"), self._pause_record)
        return PauseReport(True, before, {"paused": False, "paused_by": None})

    # Redriving

    def open_store(self, request: RedriveRequest, check: bool) -> TaskStore:
        kind = AbandonedStore if request.source == "abandoned" else InHandStore if request.held_by is not None else RqStore
        return kind(self._redis, self._prefix, request, check, self.look)
