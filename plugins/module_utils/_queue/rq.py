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

import base64
import binascii
import fnmatch
import json
import re
import uuid
import zlib
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Iterator, Mapping, NamedTuple

from .._errors import Conflict, FleetError, NotFound, Refused
from .api import (
    NO_VERSION,
    Capabilities,
    Look,
    Match,
    PauseReport,
    PauseRequest,
    QueueBackend,
    QueueState,
    RedriveReport,
    RedriveRequest,
    Unknowns,
    WorkerState,
    version_and_host,
)
from .connection import RedisConnection
from .rq_abandoned import Reclaim

#: At most this many executions of one queue are read by name; there are normally as many as there are workers.
NAMED_EXECUTIONS = 200
#: Tasks handled by one script on the server: about 5 ms there, during which it serves nobody else.
BATCH = 500
#: Tasks whose error text is fetched at a time; the texts are long.
ERROR_BATCH = 100
#: How long the record of which tasks a run has moved is kept.
RUN_KEPT_S = 7 * 24 * 3600
SAMPLE = 20
#: At most this many different names are counted apart.
NAMES = 100
#: Of an error's text the last part is looked at, and no more than this is unpacked to get there.
ERROR_TAIL = 8 * 1024
ERROR_UNPACKED = 16 * 1024 * 1024

CAPABILITIES = Capabilities(
    system="rq",
    can=frozenset(("list_queues", "counters", "pause", "redrive", "redrive_run")),
    instead={"redrive_source": "Give source failed or abandoned; RQ keeps its failed tasks in one registry per queue"},
    guarantee={
        "pause": "RQ's pause holds for all queues of the Redis database; a worker that is idle when it is set may still take one task"
        " before it notices; a worker that is started meanwhile exits at once with an error",
        "redrive": "each task leaves the failed registry and enters its queue in one step on the server, up to %d tasks a step" % BATCH,
    },
    match=("ids", "task", "version", "error", "older_than", "newer_than", "limit"),
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

# What is told of one task, as text joined by NUL: the name of the function is cut out here, so that arguments never leave the server.
_CARD = """
local function card(id, score)
  local job = ARGV[1] .. ':job:' .. id
  local f = redis.call('HMGET', job, 'status', 'origin', 'description', 'worker_name', 'ended_at', 'queueops_redrives')
  local task = string.match(string.sub(f[3] or '', 1, 500), '^([%a_][%w_%.]*)%(') or ''
  local moved = '0'
  if ARGV[2] ~= '' then moved = tostring(redis.call('SISMEMBER', ARGV[2], id)) end
  return table.concat({id, score, tostring(redis.call('HEXISTS', job, 'data')), f[1] or '', f[2] or '', task, f[4] or '',
                       f[5] or '', f[6] or '', moved}, '\\0')
end
"""

# A window of the failed registry, oldest first. The anchor is the last task of the window before that is still there:
# found again by its rank, so that other people's removals make the walk neither skip nor stop.
# KEYS: failed. ARGV: prefix, moved set, anchor id, anchor score, size.
_WINDOW = (
    _CARD
    + """
local start = 0
if ARGV[3] ~= '' then
  local rank = redis.call('ZRANK', KEYS[1], ARGV[3])
  if rank then start = rank + 1 else start = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[4]) end
end
local entries = redis.call('ZRANGE', KEYS[1], start, start + tonumber(ARGV[5]) - 1, 'WITHSCORES')
local cards = {}
for i = 1, #entries, 2 do cards[#cards + 1] = card(entries[i], entries[i + 1]) end
return cards
"""
)

# The same for named tasks; the score is empty where the task is not among the failed ones.
# KEYS: failed. ARGV: prefix, moved set, ids...
_CARDS = (
    _CARD
    + """
local cards = {}
for i = 3, #ARGV do cards[#cards + 1] = card(ARGV[i], redis.call('ZSCORE', KEYS[1], ARGV[i]) or '') end
return cards
"""
)

# Moves tasks from the failed registry to their queues, each checked again here, so that two redrives, a worker or an operator
# at the same time cannot make one run twice or vanish. The end state is that of RQ's own requeue.
# KEYS: failed, moved set. ARGV: prefix, destination or '', queue, now (ISO), now (unix), seconds to keep the moved set, ids...
# Answers one letter a task: m moved, g gone from the registry, e expired, s in another state, a already moved by this run.
_MOVE = """
local prefix, destination, now_iso, now = ARGV[1], ARGV[2], ARGV[4], tonumber(ARGV[5])
local outcomes = {}
local limited = {}
for i = 7, #ARGV do
  local id = ARGV[i]
  local job = prefix .. ':job:' .. id
  local outcome = 'm'
  if redis.call('SISMEMBER', KEYS[2], id) == 1 then outcome = 'a'
  elseif not redis.call('ZSCORE', KEYS[1], id) then outcome = 'g'
  elseif redis.call('HEXISTS', job, 'data') == 0 then outcome = 'e'
  else
    local f = redis.call('HMGET', job, 'status', 'origin', 'ttl', 'rate_limit_key', 'rate_limit_concurrency')
    if f[1] ~= 'failed' then outcome = 's'
    else
      local queue = destination
      if queue == '' then queue = f[2] or '' end
      if queue == '' then queue = ARGV[3] end
      redis.call('SADD', KEYS[2], id)
      redis.call('HSET', job, 'status', 'queued', 'origin', queue, 'enqueued_at', now_iso, 'started_at', '', 'ended_at', '')
      redis.call('HDEL', job, 'exc_info')
      redis.call('HINCRBY', job, 'queueops_redrives', 1)
      local keys = {job, job .. ':dependents', job .. ':dependencies'}
      local ttl = tonumber(f[3] or '')
      for _, key in ipairs(keys) do
        if ttl and ttl > 0 then redis.call('EXPIRE', key, ttl) else redis.call('PERSIST', key) end
      end
      redis.call('SADD', prefix .. ':queues', prefix .. ':queue:' .. queue)
      redis.call('ZREM', KEYS[1], id)
      if f[4] and f[5] then
        local key = prefix .. ':rl:' .. f[4]
        redis.call('SADD', prefix .. ':rl-keys', f[4])
        redis.call('HSET', key, 'concurrency', f[5])
        redis.call('HSET', job, 'status', 'rate_limited')
        redis.call('ZADD', key .. ':rate_limited', now, id)
        limited[key] = tonumber(f[5])
      else
        redis.call('RPUSH', prefix .. ':queue:' .. queue, id)
      end
    end
  end
  outcomes[#outcomes + 1] = outcome
end
redis.call('EXPIRE', KEYS[2], tonumber(ARGV[6]))
for key, concurrency in pairs(limited) do
  while redis.call('ZCARD', key .. ':allowed') < concurrency do
    local popped = redis.call('ZPOPMIN', key .. ':rate_limited')
    if #popped == 0 then break end
    local job = prefix .. ':job:' .. popped[1]
    local f = redis.call('HMGET', job, 'origin', 'status', 'enqueue_at_front')
    if f[1] and f[2] == 'rate_limited' then
      redis.call('ZADD', key .. ':allowed', now, popped[1])
      if f[3] == '1' then redis.call('LPUSH', prefix .. ':queue:' .. f[1], popped[1])
      else redis.call('RPUSH', prefix .. ':queue:' .. f[1], popped[1]) end
      redis.call('HSET', job, 'status', 'queued', 'enqueued_at', now_iso)
    end
  end
end
return table.concat(outcomes)
"""

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


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _or_none(value: Any) -> str | None:
    return _text(value) if value not in (None, b"", "") else None


def _number(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def parse_time(value: Any) -> float | None:
    """Seconds since 1970 from RQ's ``2026-01-31T12:00:00.000000Z``; None if it is none."""
    text = _text(value) if value else ""
    for form in ("%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%SZ"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=timezone.utc).timestamp()
        except ValueError:
            continue
    return None


def error_block(stored: bytes | None, packed_twice: bool) -> str | None:
    """The exception itself, without the traceback's frames, from RQ's stored text; at most the last 8 KiB.

    :param stored: zlib-compressed text; with ``packed_twice`` in base64 as well (results stream). Never unpickled.
    """
    if not stored:
        return None
    try:
        packed = base64.b64decode(stored) if packed_twice else stored
        unpacker = zlib.decompressobj()
        tail, unpacked = b"", 0
        while packed and unpacked < ERROR_UNPACKED and not unpacker.eof:
            piece = unpacker.decompress(packed, 64 * 1024)
            packed = unpacker.unconsumed_tail
            unpacked += len(piece)
            tail = (tail + piece)[-ERROR_TAIL:]
    except (binascii.Error, zlib.error):
        tail = stored[-ERROR_TAIL:]  # Older RQ kept it as plain text.
    lines = tail.decode("utf-8", "replace").rstrip().splitlines()
    first = 0
    for index, line in enumerate(lines):
        if line.startswith(("  File ", "    ", "Traceback (")):
            first = index + 1
    return "\n".join(lines[first:] or lines[-1:])


def error_class(block: str | None) -> str | None:
    """The exception's class name; its message may hold data and is not shown."""
    found = re.match(r"[A-Za-z_][\w.]*(?=:|$)", block or "")
    return found.group(0) if found else None


@dataclass
class _Card:
    """What is read of one failed task."""

    id: str
    score: str
    has_data: bool
    status: str
    origin: str
    task: str
    worker: str
    ended: str
    redrives: int
    already: bool
    error: str | None = None
    moved: bool = False

    @classmethod
    def parse(cls, line: bytes) -> _Card:
        parts = [part.decode("utf-8", "replace") for part in line.split(b"\0")]
        return cls(
            id=parts[0],
            score=parts[1],
            has_data=parts[2] == "1",
            status=parts[3],
            origin=parts[4],
            task=parts[5],
            worker=parts[6],
            ended=parts[7],
            redrives=_number(parts[8]) or 0,
            already=parts[9] == "1",
        )

    @property
    def version(self) -> str | None:
        return version_and_host(self.worker)[0]

    @property
    def ended_at(self) -> float | None:
        """Parsed when asked for: it takes longer than all else that is read of a task."""
        return parse_time(self.ended)

    def obstacle(self) -> str | None:
        """The outcome letter that a move would answer with, or None."""
        if self.already:
            return "a"
        if not self.score:
            return "g"
        if not self.has_data:
            return "e"
        return "s" if self.status != "failed" else None


def _age_fits(age: float, match: Match) -> bool:
    old_enough = match.older_than is None or age > match.older_than
    return old_enough and (match.newer_than is None or age < match.newer_than)


def _compare(card: _Card, match: Match, now: float) -> list[bool | None]:
    """Whether each condition of ``match`` but the error's holds; None where the task does not record what it asks for."""
    told: list[bool | None] = []
    if match.task is not None:
        told.append(fnmatch.fnmatchcase(card.task, match.task) if card.task else None)
    if match.version is not None:
        told.append(card.version == match.version if card.version else None)
    if match.older_than is not None or match.newer_than is not None:
        ended = card.ended_at
        told.append(None if ended is None else _age_fits(now - ended, match))
    return told


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

    def redrive(self, request: RedriveRequest, check: bool = False) -> RedriveReport:
        """Walk the failed registry oldest first in windows of bounded size; each window's matches move in one script."""
        if request.source == "abandoned":
            return self._reclaim(request, check)
        if request.source != "failed":
            self.capabilities.require("redrive_source", "source")
        self.capabilities.require_match(request.match.named())
        pattern = request.match.error_pattern()
        if request.run is None and not check:
            request = replace(request, run="auto-%s" % uuid.uuid4().hex[:12])
        report = RedriveReport(run=request.run)
        moved_key = "queueops:redrive:%s:moved" % request.run if request.run else ""
        if not check:
            self._redis.require_writable("redrive")
        before = self._count(request)
        now = before.pop("at")
        try:
            for cards in self._windows(request, moved_key):
                chosen = self._choose(cards, request.match, pattern, now, report)
                self._move(chosen, request, moved_key, now, check, report)
        except FleetError as error:
            error.details = dict(report.as_dict(), **error.details)
            if not check:
                error.still_true = "%d tasks are known to be moved; a batch of up to %d moves whole or not at all" % (report.moved, BATCH)
                error.next_step = "%s, then run again with run=%s to move the rest" % (error.next_step or "Mend the broker", request.run)
            raise
        after = self._count(request)
        after.pop("at")
        self._conserve(report, before, after, check)
        return report

    def _reclaim(self, request: RedriveRequest, check: bool) -> RedriveReport:
        if set(request.match.named()) - {"limit"} or request.destination:
            raise Refused(
                "Abandoned tasks go back to the head of their own queue, all of them",
                option="match" if not request.destination else "destination",
                next_step="Give only match.limit with source=abandoned",
            )
        if not check:
            self._redis.require_writable("redrive")
        self._count(request)
        return Reclaim(self._redis, self._prefix, request.queue, self.look).run(request, check)

    def _destination(self, request: RedriveRequest) -> str:
        return request.destination or request.queue

    def _count(self, request: RedriveRequest) -> dict[str, Any]:
        names = list(dict.fromkeys((request.queue, self._destination(request))))
        try:
            look = self.look(names)
        except NotFound as error:
            error.option = "destination" if request.destination and self._redis_knows(request.queue) else "queue"
            raise
        states = {state.name: state for state in look.queues}
        destination = states[self._destination(request)]
        return {
            "at": look.at,
            "failed": states[request.queue].failed,
            "queued": destination.queued,
            "executing": destination.executing,
            "finished": sum((worker.completed or 0) + (worker.failed or 0) for worker in look.workers),
        }

    def _redis_knows(self, queue: str) -> bool:
        return self.look([queue], missing_ok=True).queues[0].exists

    def _windows(self, request: RedriveRequest, moved_key: str) -> Iterator[list[_Card]]:
        failed = self._key("failed", request.queue)
        if request.match.ids is not None:
            ids = list(dict.fromkeys(request.match.ids))
            for first in range(0, len(ids), BATCH):
                yield self._cards(_CARDS, failed, [self._prefix, moved_key, *ids[first : first + BATCH]])
            return
        anchor, score = "", ""
        while True:
            cards = self._cards(_WINDOW, failed, [self._prefix, moved_key, anchor, score, str(BATCH)])
            if not cards:
                return
            yield cards
            for card in reversed(cards):
                if not card.moved:
                    anchor, score = card.id, card.score
                    break

    def _cards(self, script: str, failed: str, arguments: list[str]) -> list[_Card]:
        with self._redis.asking("read the failed tasks") as client:
            return [_Card.parse(line) for line in client.register_script(script)(keys=[failed], args=arguments)]

    def _choose(self, cards: list[_Card], match: Match, pattern: re.Pattern[str] | None, now: float, report: RedriveReport) -> list[_Card]:
        """Those of ``cards`` that match; what cannot be compared is counted apart."""
        chosen = []
        for card in cards:
            told = _compare(card, match, now)
            if False in told:
                continue
            if None in told:
                report.undetermined += 1
                continue
            chosen.append(card)
        if pattern is None:
            return chosen
        self._fetch_errors(chosen)
        matching = []
        for card in chosen:
            if card.error is None:
                report.undetermined += 1
            elif pattern.search(card.error):
                matching.append(card)
        return matching

    def _fetch_errors(self, cards: list[_Card]) -> None:
        for first in range(0, len(cards), ERROR_BATCH):
            part = cards[first : first + ERROR_BATCH]
            with self._redis.asking("read the errors of failed tasks") as client:
                pipe = client.pipeline(transaction=False)
                for card in part:
                    pipe.xrevrange(self._key("results", card.id), count=1)
                    pipe.hget(self._key("job", card.id), "exc_info")
                answers = pipe.execute()
            for index, card in enumerate(part):
                stream, field = answers[2 * index], answers[2 * index + 1]
                latest = stream[0][1].get(b"exc_string") if stream else None
                card.error = error_block(latest, True) if latest else error_block(field, False)

    def _move(self, cards: list[_Card], request: RedriveRequest, moved_key: str, now: float, check: bool, report: RedriveReport) -> None:
        """Move the chosen ones as far as the limit goes, and count what became of each."""
        report.matched += len(cards)
        movable = []
        for card in cards:
            obstacle = card.obstacle()
            if obstacle:
                report.skip(_SKIPPED[obstacle])
            else:
                movable.append(card)
        limit = request.match.limit
        room = len(movable) if limit is None else max(0, min(len(movable), limit - report.moved))
        report.remaining += len(movable) - room
        movable = movable[:room]
        if not movable:
            return
        # Before the move, which drops the error that older RQ keeps in the task's own record.
        self._fetch_errors([card for card in movable[: SAMPLE - len(report.sample)] if card.error is None])
        if check:
            moved = movable
        else:
            stamp = datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            lead = [self._prefix, request.destination or "", request.queue, stamp, repr(now), str(RUN_KEPT_S)]
            with self._redis.asking("redrive") as client:
                keys = [self._key("failed", request.queue), moved_key]
                outcomes = _text(client.register_script(_MOVE)(keys=keys, args=lead + [card.id for card in movable]))
            moved = [card for card, outcome in zip(movable, outcomes) if outcome == "m"]
            for card, outcome in zip(movable, outcomes):
                card.moved = outcome in "mg"
                if outcome != "m":
                    report.skip(_SKIPPED[outcome])
        report.moved += len(moved)
        for card in moved:
            _count_name(report.by_version, card.version or "unknown")
            _count_name(report.by_task, card.task or "unknown")
        for card in moved[: SAMPLE - len(report.sample)]:
            report.sample.append(
                {
                    "id": card.id,
                    "task": card.task or None,
                    "version": card.version,
                    "error": error_class(card.error),
                    "ended_at": card.ended_at,
                    "redrives": card.redrives,
                }
            )

    def _conserve(self, report: RedriveReport, before: dict[str, Any], after: dict[str, Any], check: bool) -> None:
        """Compare what was counted before and after with what was moved, and say honestly what that shows."""
        problem = None
        if report.matched != report.moved + report.skipped + report.remaining:
            problem = "matched tasks and their outcomes do not add up"
        elif check:
            problem = "check mode: nothing was moved"
        elif before["finished"] != after["finished"] or before["executing"] != after["executing"]:
            problem = "workers took tasks meanwhile; only their completion records can show what became of those"
        elif after["failed"] != before["failed"] - report.moved or after["queued"] != before["queued"] + report.moved:
            problem = "tasks were published, taken or failed meanwhile, or went to other queues than the one counted"
        report.conservation = {
            "before": before,
            "after": after,
            "verdict": "unproven" if problem else "proven",
            "reason": problem or "every matched task has one outcome, and the counts before and after agree with it",
        }
        report.diff = {
            "before": {"failed": before["failed"], "queued": before["queued"]},
            "after": {"failed": before["failed"] - report.moved, "queued": before["queued"] + report.moved},
        }
        if report.undetermined:
            report.warnings.append("%d failed tasks do not record what match asks for and were left where they are" % report.undetermined)


_SKIPPED = {
    "a": "already moved by this run",
    "g": "not among the failed tasks",
    "e": "its record has expired on the broker",
    "s": "its own status is not failed",
}


def _count_name(counts: dict[str, int], name: str) -> None:
    if name not in counts and len(counts) >= NAMES:
        name = "others"
    counts[name] = counts.get(name, 0) + 1
