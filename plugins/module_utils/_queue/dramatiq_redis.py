# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dramatiq on Redis, by its keys (run against Dramatiq 2.2). Dramatiq itself is never imported.

Keys, with the prefix ``dramatiq`` (its ``namespace``): ``dramatiq:<q>`` is the list of queued tasks, ``dramatiq:<q>.msgs`` the hash
of their messages; ``.DQ`` and ``.DQ.msgs`` the same for delayed ones, which workers hold until they are due; ``.XQ`` is the sorted
set of dead letters, scored by when they died (ms), ``.XQ.msgs`` their messages, both kept for 7 days;
``dramatiq:__acks__.<worker>.<q>`` is the set of what a worker has taken, and ``dramatiq:__heartbeats__`` when each was last seen (ms).
"""

from __future__ import annotations

import re
from typing import Any, Mapping

from .._errors import Refused
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
from .dramatiq_message import Message
from .dramatiq_redis_keys import Keys
from .dramatiq_redis_store import DramatiqRedisStore
from .redis_connection import RedisConnection

#: After this many seconds without a heartbeat Dramatiq takes a worker for gone (its default for ``heartbeat_timeout``).
HEARTBEAT_TIMEOUT_S = 60.0
#: At most this many workers are looked at.
MOST_WORKERS = 1000

_UNNAMED = (
    "Dramatiq names a worker by a random UUID; let the application set broker.broker_id to <app>@<version>:<host>:<pid> before it works"
)
_NOT_RECORDED = "Dramatiq does not record it on the broker"

CAPABILITIES = Capabilities(
    system="dramatiq",
    can=frozenset(("oldest_age", "redrive", "redrive_run", "redrive_count", "identify", "check", "breaker")),
    sources={
        "failed": "the dead letters of the queue (.XQ), which Dramatiq keeps for 7 days",
        "dead_lettered": "the same as failed",
        "parked": "the set in which redrives park the queue's tasks",
        "queued": "the queue itself, without what is delayed",
        "executing": "what living workers have taken: executed, or fetched ahead and waiting in the worker",
        "abandoned": "what workers have taken whose heartbeat has expired, delayed or not",
        "other": "another list of the database, by its queue name; <queue>.DQ holds delayed tasks that no worker has fetched yet",
    },
    actions={
        "requeue": "to the end of its queue or of destination; a task that failed or was parked gets all its attempts again, and one"
        " whose time has not come goes to the delayed ones",
        "fail": "among the dead letters, as when Dramatiq gives it up; from then on it is kept for 7 days",
        "dead_letter": "the same as fail",
        "park": "in a sorted set beside Dramatiq's keys, unchanged, for as long as wanted",
        "discard": "its message is deleted",
        "compensate": 'to the end of destination, marked by the option "queueops_action" of the message',
    },
    match=("ids", "task", "error", "older_than", "newer_than", "header", "field"),
    instead={
        "in_flight": "Use action=finish; Dramatiq puts back by itself what a worker had in hand whose heartbeat has expired",
        "rate": "Use what the workers report to your monitoring",
        "list_queues": "Name the queues; Dramatiq does not record on Redis which queues there are",
        "counters": "Judge the release by another sign; Dramatiq counts in its own Prometheus endpoint",
        "pause": "Quiet the workers through their service manager (role drain, or worker_version with state=stopped)",
        "match:version": "Let the application put its version into the options of each message (for example worker_version)"
        " and give match.header with that name",
    },
    guarantee={
        "redrive": "each task leaves its place and enters the other one in one step on the server, up to %d tasks a step"
        % DramatiqRedisStore.batch,
        "redrive_count": "kept in the options of the message (queueops_redrives); a message that is not JSON is refused with max_redrives",
        "breaker": "a task counts as failed again as soon as it waits for another attempt",
        "identify": "by message_id, which retries keep; a message that is not JSON by its key on the broker",
    },
)


class DramatiqRedisBackend(QueueBackend):
    """Queues of Dramatiq in one Redis database. Setting ``key_prefix``: the broker's ``namespace``, default ``dramatiq``."""

    capabilities = CAPABILITIES

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._prefix = str(settings.get("key_prefix") or "dramatiq")
        self._keys = Keys(self._prefix)
        self._timeout_ms = int(1000 * float(settings.get("heartbeat_timeout") or HEARTBEAT_TIMEOUT_S))
        self._redis = RedisConnection(settings)

    def look(self, queues: list[str] | None = None, missing_ok: bool = False) -> Look:
        """Three round trips whatever the number of queues and tasks; no command grows with a queue's length."""
        if queues is None:
            self.capabilities.require("list_queues", "queues")
        names = list(dict.fromkeys(queues or []))
        for name in names:
            refuse_part(name, "queues")
        unknowns = Unknowns()
        with self._redis.asking("look at the queues") as client:
            now, alive, gone = self._beats(client)
            answers = iter(self._redis.together(client, lambda pipe: self._ask(pipe, names, [*alive, *gone])))
            states, held = [], {}
            heads: dict[str, bytes] = {}
            for name in names:
                queued, failed, delayed, head = (next(answers) for _part in range(4))
                taken = {worker: (next(answers), next(answers)) for worker in [*alive, *gone]}
                state = QueueState(name=name, queued=queued, failed=failed, paused=False)
                state.executing = sum(taken[worker][0] for worker in alive)
                state.scheduled = delayed + sum(taken[worker][1] for worker in alive)
                state.abandoned = sum(sum(taken[worker]) for worker in gone)
                states.append(state)
                held[name] = taken
                if head is not None:
                    heads[name] = head
            self._ages(client, now, states, heads, unknowns)
        workers = self._workers(names, alive, gone, held, unknowns)
        if states:
            unknowns.note("queues.dead_lettered", "the dead letters of Dramatiq are its failed tasks; see failed")
            unknowns.note("queues.rate_per_s", "Dramatiq does not count on the broker what its workers finish")
        return Look(now, states, workers, unknowns.as_dict())

    def _beats(self, client: Any) -> tuple[float, dict[str, float], dict[str, float]]:
        """The broker's time, and when the workers that live, and those that are gone, were last seen. The latest first."""
        pipe = client.pipeline(transaction=False)
        pipe.time()
        pipe.zrevrange(self._keys.heartbeats, 0, MOST_WORKERS - 1, withscores=True)
        (seconds, micros), beats = pipe.execute()
        now = seconds + micros / 1e6
        alive: dict[str, float] = {}
        gone: dict[str, float] = {}
        for worker, beat in beats:
            (alive if beat > now * 1000 - self._timeout_ms else gone)[worker.decode("utf-8", "replace")] = beat / 1000
        return now, alive, gone

    def _ask(self, pipe: Any, names: list[str], workers: list[str]) -> None:
        keys = self._keys
        for name in names:
            pipe.llen(keys.queue(name))
            pipe.zcard(keys.dead(name))
            pipe.llen(keys.delayed(name))
            pipe.lindex(keys.queue(name), 0)
            for worker in workers:
                pipe.scard(keys.acks(worker, name))
                pipe.scard(keys.acks(worker, name + ".DQ"))

    def _ages(self, client: Any, now: float, states: list[QueueState], heads: dict[str, bytes], unknowns: Unknowns) -> None:
        pipe = client.pipeline(transaction=False)
        for name, head in heads.items():
            pipe.hget(self._keys.messages(self._keys.queue(name)), head)
        texts = dict(zip(heads, pipe.execute())) if heads else {}
        for state in states:
            text = texts.get(state.name)
            published = Message(text).timestamp if text is not None else None
            if published is not None:
                state.oldest_task_age_s = max(0.0, now - published)
            elif state.queued:
                unknowns.note("queues.oldest_task_age_s", "the message of its first task is not JSON, or was taken meanwhile", state.name)
            else:
                unknowns.note("queues.oldest_task_age_s", "nothing is queued", state.name)

    def _workers(
        self,
        names: list[str],
        alive: dict[str, float],
        gone: dict[str, float],
        held: dict[str, dict[str, tuple[int, int]]],
        unknowns: Unknowns,
    ) -> list[WorkerState]:
        """Who beats, and of those that are gone who still holds something."""
        found = []
        for name, seen in [*alive.items(), *gone.items()]:
            busy = [queue for queue in names if held[queue][name][0]]
            if name in gone and not any(any(held[queue][name]) for queue in names):
                continue
            version, host = version_and_host(name)
            worker = WorkerState(name=name, version=version, host=host, last_seen=seen)
            worker.state = "gone" if name in gone else "busy" if busy else "idle"
            worker.task_queue = busy[0] if len(busy) == 1 else None
            for field, value in (("version", version), ("host", host)):
                if value is None:
                    unknowns.note("workers." + field, _UNNAMED, name)
            found.append(worker)
        for field in ("pid", "queues", "completed", "failed", "started") if found else ():
            unknowns.note("workers." + field, _NOT_RECORDED)
        if found:
            unknowns.note(
                "workers.task", "a worker also fetches tasks ahead, up to twice its threads; they count as executing with the others"
            )
        unknowns.note(
            "workers",
            "Dramatiq records processes that only publish like workers, for a minute; idle ones have no task of the queues looked at",
        )
        return found

    def _beating(self) -> tuple[list[str], list[str], int]:
        """Names of the workers that live and of those that are gone, and the heartbeat (ms) that lies between them."""
        with self._redis.asking("look at the workers") as client:
            now, alive, gone = self._beats(client)
        return list(alive), list(gone), int(now * 1000) - self._timeout_ms

    def open_store(self, request: RedriveRequest, check: bool) -> TaskStore:
        refuse_part(request.queue, "queue")
        for rule in request.rules:
            if rule.destination:
                refuse_part(rule.destination, "rules")
        return DramatiqRedisStore(self._redis, self._keys, request, check, self._beating)


def refuse_part(name: str, option: str) -> None:
    """Refuse Dramatiq's own names for parts of a queue.

    :raises Refused: ``name`` is the name of delayed tasks or of dead letters.
    """
    if re.search(r"\.[DX]Q$", name):
        raise Refused(
            "%s is not a queue of Dramatiq, but a part of the queue %s" % (name, name[:-3]),
            option=option,
            next_step="Give the queue's own name, %s" % name[:-3],
        )
