# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain Redis list as a queue: one list of queued tasks, a private processing list per worker, one list of failed tasks.

The convention (Redis' own "reliable queue"): a worker moves a task with LMOVE from ``<queue>`` to ``<queue>:processing:<worker>``
and removes it when done; tasks that failed are pushed to ``<queue>:failed``. New tasks are taken from the left and pushed to
the right. A list that is empty does not exist in Redis, so a queue that is absent is an empty one.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Mapping

from .._errors import Refused
from .api import (
    NO_VERSION,
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
from .redis_list_store import BATCH, ListStore, Places
from .redis_scripts import literal

#: Looking for processing lists by pattern walks the database's keys; it is given up beyond this many.
SCANNED_KEYS = 200000

_NOT_RECORDED = "a Redis list does not record it"
_TOO_MANY = "the database has more than %d keys to search for processing lists; name them in the option processing" % SCANNED_KEYS
_NAME_IT = "Name in id_field the JSON field that identifies a task"

CAPABILITIES = Capabilities(
    system="redis_list",
    can=frozenset(("redrive", "redrive_run", "redrive_count", "identify", "check", "breaker")),
    sources={
        "failed": "the list of failed tasks (option failed_list)",
        "parked": "the list queueops:parked:list:<queue>",
        "queued": "the queue's list itself",
        "executing": "the workers' processing lists (option processing)",
        "other": "any list, by its key",
    },
    actions={
        "requeue": "to the tail of the queue or of another list",
        "fail": "to the tail of the list of failed tasks",
        "park": "to the list queueops:parked:list:<queue>, from which no worker takes",
        "discard": "removed from the list",
        "compensate": "to the tail of the list that the workers which undo it take from",
    },
    match=("ids", "field"),
    instead={
        "in_flight": "Use action=finish; what a killed worker had in hand stays in its processing list, and is redriven by hand from there",
        "oldest_age": "Look at how many are queued; a list does not record when a task came",
        "rate": "Use what the workers report to your monitoring",
        "list_queues": "Name the lists in queues; Redis does not record which lists are queues",
        "counters": "Use a backend that counts per worker (rq), or judge the release by another sign",
        "pause": "Quiet the workers through their service manager (role drain, or worker_version with state=stopped)",
        "redrive_run": _NAME_IT + ", or leave run out; a task that was moved has left the list and is not moved again",
        "redrive_count": _NAME_IT + ", or leave max_redrives out",
        "identify": _NAME_IT,
        "breaker": _NAME_IT + ", or give a limit",
        "source:dead_lettered": "Give source=failed; plain lists have one list of failed tasks",
        "source:abandoned": "Stop the workers and give source=executing; a list does not tell whether its worker lives",
        "action:dead_letter": "Use action=fail; plain lists have one list of failed tasks",
    },
    guarantee={
        "redrive": "tasks move in one step on the server, in their order, with up to %d tasks a step" % BATCH,
        "redrive_run": "with id_field",
        "redrive_count": "with id_field; remembered for 30 days after the queue's last redrive",
        "identify": "with id_field; without it, equal payloads are the same task, and what moves all tasks is proved by their count",
        "breaker": "with id_field; a task that is in no list any more is taken to be completed",
    },
)

#: What takes a field that tells tasks apart: equal payloads may be different tasks.
_WITH_IDS = frozenset(("redrive_run", "redrive_count", "identify", "breaker"))


class RedisListBackend(QueueBackend):
    """Lists in one Redis database.

    Settings: ``processing`` (keys or patterns) and ``failed_list``, with ``{queue}`` for the queue's name; ``id_field``, the place
    in a JSON payload (names joined by dots) that identifies a task.
    """

    capabilities = CAPABILITIES

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._processing = list(settings.get("processing") or ["{queue}:processing*"])
        self._failed = str(settings.get("failed_list") or "{queue}:failed")
        self._id_field = str(settings.get("id_field") or "") or None
        if self._id_field is None:
            self.capabilities = replace(CAPABILITIES, can=CAPABILITIES.can - _WITH_IDS)
        self._redis = RedisConnection(settings)

    def look(self, queues: list[str] | None = None, missing_ok: bool = False) -> Look:
        """One round trip for the lengths; before it, where ``processing`` holds a pattern, a walk over the database's key names."""
        if queues is None:
            self.capabilities.require("list_queues", "queues")
        names = list(dict.fromkeys(queues or []))
        unknowns = Unknowns()
        with self._redis.asking("look at the queues") as client:
            lists = {name: self._processing_lists(client, name) for name in names}

            def ask(pipe: Any) -> None:
                pipe.time()
                for name in names:
                    pipe.llen(name)
                    pipe.llen(self._failed_of(name))
                    for key in lists[name] or []:
                        pipe.llen(key)

            answers = iter(self._redis.together(client, ask))
        seconds, micros = next(answers)
        states: list[QueueState] = []
        workers: list[WorkerState] = []
        for name in names:
            state = QueueState(name=name, queued=next(answers), failed=next(answers), paused=False)
            held = lists[name]
            if held is None:
                unknowns.note("queues.executing", _TOO_MANY, name)
            else:
                lengths = {key: next(answers) for key in held}
                state.executing = sum(lengths.values())
                workers.extend(self._worker(name, key, unknowns) for key, length in lengths.items() if length)
            states.append(state)
        for field in ("scheduled", "dead_lettered", "abandoned", "oldest_task_age_s", "rate_per_s") if states else ():
            unknowns.note("queues." + field, _NOT_RECORDED)
        for field in ("pid", "task", "task_queue", "task_since", "completed", "failed", "started", "last_seen") if workers else ():
            unknowns.note("workers." + field, _NOT_RECORDED)
        unknowns.note("workers", "only workers that are executing are known, by the name of their processing list")
        return Look(seconds + micros / 1e6, states, workers, unknowns.as_dict())

    def _processing_lists(self, client: Any, queue: str) -> list[str] | None:
        """The keys of the processing lists; None if there are too many keys to search."""
        found: dict[str, None] = {}
        for template in self._processing:
            pattern = template.replace("{queue}", queue)
            if not re.search(r"[*?\[]", template):
                found[pattern] = None
                continue
            pattern = template.replace("{queue}", literal(queue))
            cursor, walked = 0, 0
            while True:
                cursor, keys = client.scan(cursor=cursor, match=pattern, count=5000, _type="list")
                walked += 5000
                for key in keys:
                    found[key.decode("utf-8", "replace")] = None
                if cursor == 0:
                    break
                if walked >= SCANNED_KEYS:
                    return None
        found.pop(queue, None)
        return sorted(found)

    def _worker(self, queue: str, key: str, unknowns: Unknowns) -> WorkerState:
        name = worker_name(queue, key)
        version, host = version_and_host(name)
        if version is None:
            unknowns.note("workers.version", NO_VERSION, name)
            unknowns.note("workers.host", NO_VERSION, name)
        return WorkerState(name=name, version=version, host=host, queues=[queue], state="busy")

    def open_store(self, request: RedriveRequest, check: bool) -> TaskStore:
        """From the head of the source's lists to the tail of each destination, in their order."""
        queue = request.queue
        if not request.source:
            raise Refused("The source is empty", option="source", next_step="Use one of %s" % ", ".join(sorted(CAPABILITIES.sources)))
        warnings = [] if check else self._redis.require_writable("redrive")
        with self._redis.asking("look for the tasks") as client:
            held = self._processing_lists(client, queue)
        parked = "queueops:parked:list:" + queue
        if request.source == "executing" and held is None:
            raise Refused("Cannot redrive what is executing: %s" % _TOO_MANY, option="processing")
        keys = {"failed": [self._failed_of(queue)], "parked": [parked], "queued": [queue], "executing": held or []}
        sources = keys.get(request.source, [request.source])
        places = Places(queue, request.source, sources, parked, self._failed_of, self._held_of)
        for rule in request.rules:
            destination = places.destination(rule.action, rule.destination)
            if rule.action in ("requeue", "compensate") and destination in sources:
                raise Refused(
                    "Source and destination are the same list, %s" % destination,
                    option="destination" if rule.destination else "source",
                    next_step="Name another list in the rule's destination",
                )
        versions = {key: version_and_host(worker_name(queue, key))[0] for key in held or []}
        store = ListStore(self._redis, request, check, places, versions, self._id_field)
        store.warnings = warnings
        return store

    def _failed_of(self, queue: str) -> str:
        return self._failed.replace("{queue}", queue)

    def _held_of(self, queue: str) -> list[str]:
        """The processing lists as they are now; none where there are too many keys to search."""
        with self._redis.asking("look for processing lists") as client:
            return self._processing_lists(client, queue) or []


def worker_name(queue: str, key: str) -> str:
    """The worker of a processing list: what follows the first colon after ``<queue>:processing``."""
    name = key[len(queue) :].lstrip(":")
    return name.split(":", 1)[1] if ":" in name else key
