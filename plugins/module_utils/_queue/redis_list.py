# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain Redis list as a queue: one list of queued tasks, a private processing list per worker, one list of failed tasks.

The convention (Redis' own "reliable queue"): a worker moves a task with LMOVE from ``<queue>`` to ``<queue>:processing:<worker>``
and removes it when done; tasks that failed are pushed to ``<queue>:failed``. New tasks are taken from the left and pushed to
the right. A list that is empty does not exist in Redis, so a queue that is absent is an empty one. Payloads are never read.
"""

from __future__ import annotations

import re
from typing import Any, Mapping

from .._errors import FleetError, Refused, Unavailable
from .api import (
    NO_VERSION,
    Capabilities,
    Look,
    QueueBackend,
    QueueState,
    RedriveReport,
    RedriveRequest,
    Unknowns,
    WorkerState,
    version_and_host,
)
from .connection import RedisConnection

BATCH = 1000
#: Looking for processing lists by pattern walks the database's keys; it is given up beyond this many.
SCANNED_KEYS = 200000

_NOT_RECORDED = "a Redis list does not record it"
_TOO_MANY = "the database has more than %d keys to search for processing lists; name them in the option processing" % SCANNED_KEYS

CAPABILITIES = Capabilities(
    system="redis_list",
    can=frozenset(("redrive", "redrive_source")),
    instead={
        "list_queues": "Name the lists in queues; Redis does not record which lists are queues",
        "counters": "Use a backend that counts per worker (rq), or judge the release by another sign",
        "pause": "Quiet the workers through their service manager (role drain, or worker_version with state=stopped)",
        "redrive_run": "Leave run out; a task that was moved has left the list and is not moved again",
    },
    guarantee={"redrive": "tasks move in one step on the server, in their order, with up to %d tasks a step" % BATCH},
    match=("limit",),
)

# Moves one by one inside the server and answers what the lengths were, so that the sum can be compared.
# KEYS: source, destination. ARGV: how many.
_MOVE = """
local before = {redis.call('LLEN', KEYS[1]), redis.call('LLEN', KEYS[2])}
local moved = 0
while moved < tonumber(ARGV[1]) do
  if not redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT') then break end
  moved = moved + 1
end
return {moved, before[1], before[2], redis.call('LLEN', KEYS[1]), redis.call('LLEN', KEYS[2])}
"""


class RedisListBackend(QueueBackend):
    """Lists in one Redis database. Settings ``processing`` (keys or patterns) and ``failed_list``, both with ``{queue}`` for its name."""

    capabilities = CAPABILITIES

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._processing = list(settings.get("processing") or ["{queue}:processing*"])
        self._failed = str(settings.get("failed_list") or "{queue}:failed")
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
                    pipe.llen(self._failed.replace("{queue}", name))
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
        for field in ("scheduled", "dead_lettered", "abandoned", "oldest_task_age_s") if states else ():
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
            # The name itself is no pattern: a queue called a*b must not match others.
            pattern = template.replace("{queue}", re.sub(r"([*?\[\]\\^-])", r"\\\1", queue))
            cursor, walked = 0, 0
            while True:
                cursor, keys = client.scan(cursor=cursor, match=pattern, count=5000)
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
        name = key[len(queue) :].lstrip(":")
        name = name.split(":", 1)[1] if ":" in name else key
        version, host = version_and_host(name)
        if version is None:
            unknowns.note("workers.version", NO_VERSION, name)
            unknowns.note("workers.host", NO_VERSION, name)
        return WorkerState(name=name, version=version, host=host, queues=[queue], state="busy")

    def redrive(self, request: RedriveRequest, check: bool = False) -> RedriveReport:
        """Move from the front of the failed list (or of ``source``, a list's key) to the back of the queue, keeping the order."""
        self.capabilities.require_match(request.match.named())
        if request.run is not None:
            self.capabilities.require("redrive_run", "run")
        source = self._failed.replace("{queue}", request.queue) if request.source == "failed" else request.source
        destination = request.destination or request.queue
        if source == destination:
            raise Refused(
                "Source and destination are the same list, %s" % source, option="destination", next_step="Name another list in destination"
            )
        if not check:
            self._redis.require_writable("redrive")
        here, there = self._lengths(source, destination)
        report = RedriveReport(matched=here)
        wanted = here if request.match.limit is None else min(here, request.match.limit)
        problem = "check mode: nothing was moved" if check else None
        final = (here, there)
        if check:
            report.moved = wanted
        else:
            problem = self._move(source, destination, wanted, report)
            final = self._lengths(source, destination)
            if problem is None and final != (here - report.moved, there + report.moved):
                problem = "tasks were published or taken meanwhile; every move by itself kept the sum of both lists"
        if report.moved < wanted:
            report.skip("taken by somebody else meanwhile", wanted - report.moved)
        report.remaining = here - report.moved - report.skipped
        report.conservation = {
            "before": {"failed": here, "queued": there},
            "after": {"failed": final[0], "queued": final[1]},
            "verdict": "unproven" if problem else "proven",
            "reason": problem or "the sum of both lists was the same before and after every step",
        }
        report.diff = {
            "before": {"failed": here, "queued": there},
            "after": {"failed": here - report.moved, "queued": there + report.moved},
        }
        return report

    def _lengths(self, source: str, destination: str) -> tuple[int, int]:
        def ask(pipe: Any) -> None:
            pipe.llen(source)
            pipe.llen(destination)

        with self._redis.asking("count the tasks") as client:
            here, there = self._redis.together(client, ask)
        return here, there

    def _move(self, source: str, destination: str, wanted: int, report: RedriveReport) -> str | None:
        """Move up to ``wanted`` tasks; the reason why the sums do not agree, or None."""
        try:
            while report.moved < wanted:
                with self._redis.asking("redrive") as client:
                    answer = client.register_script(_MOVE)(keys=[source, destination], args=[min(BATCH, wanted - report.moved)])
                moved, here, there, here_after, there_after = answer
                if here + there != here_after + there_after:
                    return "the lists' lengths did not add up in one step on the server"
                if not moved:
                    break
                report.moved += moved
        except FleetError as error:
            error.details = dict(report.as_dict(), **error.details)
            error.still_true = "%d tasks are known to be moved; one more batch of up to %d may be, whole" % (report.moved, BATCH)
            if isinstance(error, Unavailable):
                error.next_step = "Look at both lists with queue_info, then run again for the rest"
            raise
        return None
