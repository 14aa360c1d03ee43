# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks of RQ that a redrive takes: failed, parked, queued, or in workers' hands. Keys are described in ``rq.py``.

A task that was redriven carries ``queueops_redrives`` (how often) and ``queueops_redriven_at`` in its hash.
Parked tasks are in the sorted set ``queueops:parked:<prefix>:<queue>``, scored by when they were parked, with the status
deferred; nothing of RQ looks there, and their records do not expire.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import Callable, Iterator, NamedTuple

from .._errors import NotFound, Refused
from .api import Census, Decision, Look, RedriveRequest, Sweep, Task, TaskStore, version_and_host
from .redis_connection import RedisConnection
from .redis_scripts import RUN_KEPT_S, moved_key
from .rq_scripts import APPLY, CARDS, IN_HAND, LIST_WINDOW, MEMBERS, REST, STATES, SWEEP, WINDOW
from .rq_tasks import as_text, error_block, iso_time, pack_error, parse_time

#: Tasks handled by one script on the server: about 5 ms there, during which it serves nobody else.
BATCH = 500
#: Tasks whose error text is fetched at a time; the texts are long.
ERROR_BATCH = 100
#: Ids read at a time when they are compared before and after.
PIECE = 5000
#: The first tasks of a sweep are read, to be named in the report.
SAMPLE = 20
#: Members of a list from which a walk over it finds its place again.
ANCHORS = 20

SKIPPED = {
    "a": "already moved by this run",
    "e": "its record has expired on the broker",
    "w": "the key of its queue holds something else than a queue",
}
GONE = {
    "failed": "not among the failed tasks",
    "parked": "not among the parked tasks",
    "queued": "not where it was in the queue",
    "executing": "not executing any more",
    "abandoned": "begun or put back by somebody else",
}
STATE = {
    "failed": "its own status is not failed",
    "parked": "its own status is not that of a parked task",
    "queued": "its own status is not queued",
    "executing": "its own status is not started",
    "abandoned": "its own status is not queued",
}

version_of = lru_cache(maxsize=1000)(lambda worker: version_and_host(worker)[0])


class Held(NamedTuple):
    """Where a task was seen. ``kind`` is the place, ``position`` that in a list."""

    kind: str
    member: str
    score: str
    position: int


class RqStore(TaskStore):
    """The tasks of one place of one queue.

    :param prefix: of RQ's keys.
    :param look: looks at the named queues, or at all.
    """

    def __init__(
        self, redis: RedisConnection, prefix: str, request: RedriveRequest, check: bool, look: Callable[[list[str] | None], Look]
    ) -> None:
        self.batch = BATCH
        self._redis = redis
        self._prefix = prefix
        self._request = request
        self._kind = request.source
        self._queue = request.queue
        self._look = look
        self._destinations = list(dict.fromkeys(rule.destination for rule in request.rules if rule.destination))
        self._moved_key = moved_key(request.run, prefix) if request.run else ""
        self._parked_prefix = "queueops:parked:%s:" % prefix
        self._failure = pack_error("Failed: failed by a rule of the redrive %s" % request.run)
        self._refuse_circles()
        # RQ lets the records of failed tasks expire.
        self.warnings = [] if check else redis.require_writable("redrive", expiring=self._kind == "failed")
        self._first = self._count()
        self._opened = self._first.at
        self._place = self._place_of(self._kind)
        #: Members that were acted on and have left the place.
        self._gone: set[str] = set()
        self._anchor, self._anchor_score = "", ""
        self._last = self._end() if self._kind in ("failed", "parked") else "inf"
        self._sampled = False
        self._taken_stock = self._read_before = False
        self._unsettled: list[str] = []
        self._settled = self._failed_again = 0

    # What there is

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))

    def _place_of(self, kind: str) -> str:
        return {
            "failed": self._key("failed", self._queue),
            "parked": self._parked_prefix + self._queue,
            "queued": self._key("queue", self._queue),
            "executing": self._key("wip", self._queue),
            "abandoned": self._key("queue", self._queue, "intermediate"),
        }[kind]

    def _refuse_circles(self) -> None:
        for rule in self._request.rules:
            if self._kind == "queued" and rule.action == "requeue" and rule.destination in (None, self._queue):
                raise Refused(
                    "Queued tasks of %s cannot be redriven to where they are" % self._queue,
                    option="rules",
                    next_step="Give the rule another destination or another action, or source=failed",
                )

    def _end(self) -> str:
        """The score at which the source ends now: what comes to it later is not seen."""
        with self._redis.asking("look at the source") as client:
            last = client.zrange(self._place, -1, -1, withscores=True)
        return repr(float(last[0][1])) if last else "-inf"

    def _count(self) -> Look:
        """A look at the queues that this redrive touches."""
        names = list(dict.fromkeys([self._queue, *self._destinations]))
        try:
            return self._look(names)
        except NotFound as error:
            error.option = "queue"
            try:
                self._look([self._queue])
            except NotFound:
                raise error from None
            error.option = "destination" if len(self._request.rules) == 1 else "rules"
            raise

    def now(self) -> float:
        return self._opened

    def census(self) -> Census:
        look = self._first if not self._taken_stock else self._count()
        self._taken_stock = True
        with self._redis.asking("count the parked tasks") as client:
            parked = int(client.zcard(self._parked_prefix + self._queue))
        found: dict[str, int] = {}
        in_hand = 0
        for state in look.queues:
            of = "" if state.name == self._queue else " in %s" % state.name
            held = (state.executing or 0) + (state.abandoned or 0)
            in_hand += held
            found["queued" + of] = state.queued or 0
            found["executing" + of] = held
            if not of:
                found["failed"] = state.failed or 0
                found["parked"] = parked
        source = "executing" if self._kind == "abandoned" else self._kind
        counts = {source: found.pop(source)}
        counts.update(found)
        finished = sum((worker.completed or 0) + (worker.failed or 0) for worker in look.workers)
        return Census(counts, activity=finished * 65536 + in_hand)

    def identities(self) -> Iterator[list[bytes]]:
        """Before, places are read against the way that tasks take, and after along it: a task on its way is never missed by both."""
        before, self._read_before = not self._read_before, True
        places: list[tuple[str, str]] = []
        for queue in dict.fromkeys([self._queue, *self._destinations]):
            places += [("l", self._key("queue", queue)), ("hand", queue)]
        places += [("z", self._parked_prefix + self._queue), ("z", self._key("failed", self._queue))]
        for kind, name in reversed(places) if before else places:
            yield from self._in_hand(name) if kind == "hand" else self._members(kind, name, before)

    def _members(self, kind: str, key: str, forwards: bool) -> Iterator[list[bytes]]:
        """Backwards, what is taken from the front meanwhile is not skipped."""
        first = 0
        while True:
            start, end = (first, first + PIECE - 1) if forwards else (-first - PIECE, -first - 1)
            joined: bytes = self._redis.run("read the tasks' ids", MEMBERS, [key], [kind, start, end])
            if not joined:
                return
            yield joined.split(b"\1")
            first += PIECE

    def _in_hand(self, queue: str) -> Iterator[list[bytes]]:
        keys = [self._key("queue", queue, "intermediate"), self._key("wip", queue)]
        joined: bytes = self._redis.run("read the ids of executing tasks", IN_HAND, keys, [])
        if joined:
            yield joined.split(b"\1")

    # Walking

    def windows(self) -> Iterator[list[Task]]:
        if self._kind == "executing":
            members = [as_text(member) for piece in self._members("z", self._place, True) for member in piece]
            return self._named(members)
        if self._kind == "queued":
            return self._along_list()
        ids = [rule.match.ids for rule in self._request.rules]
        if all(named is not None for named in ids):
            return self._named(list(dict.fromkeys(task for named in ids for task in named or ())))
        return self._along_set()

    def _named(self, members: list[str]) -> Iterator[list[Task]]:
        for first in range(0, len(members), self.batch):
            yield self._tasks(CARDS, [repr(self._opened), *members[first : first + self.batch]])[0]

    def _along_set(self) -> Iterator[list[Task]]:
        while True:
            window = self._next_window(self.batch)
            if window is None:
                return
            if window:
                yield window
            self._pass(window)

    def _next_window(self, size: int) -> list[Task] | None:
        """None at the end; it may be empty before, where only tasks are that have come back."""
        where = [self._anchor, self._anchor_score, str(size), self._last, repr(self._opened)]
        tasks, self._seen = self._tasks(WINDOW, where)
        return tasks if self._seen else None

    def _pass(self, window: list[Task]) -> None:
        """Go on after the last one of the window that is still there."""
        for held in reversed(self._seen):
            if held.member not in self._gone:
                self._anchor, self._anchor_score = held.member, held.score
                break
        self._gone.clear()

    def _along_list(self) -> Iterator[list[Task]]:
        left = {state.name: state.queued or 0 for state in self._first.queues}[self._queue]
        kept: deque[str] = deque(maxlen=ANCHORS)
        position = 0
        while left > 0:
            where = [str(position), str(min(self.batch, left)), repr(self._opened)]
            tasks, seen = self._tasks(LIST_WINDOW, [*where, *reversed(kept)])
            if not seen:
                return
            left -= len(seen)
            if tasks:
                yield tasks
            position = seen[-1].position + 1
            kept.extend(held.member for held in seen if held.member not in self._gone)
            self._gone.clear()

    def _tasks(self, script: str, arguments: list[str], of: str | None = None) -> tuple[list[Task], list[Held]]:
        """The tasks of one answer, and where they and those that have come back since were seen. ``of``: another place than the source."""
        kind = of or self._kind
        lead = [self._prefix, kind, self._moved_key]
        lines = as_text(self._redis.run("read the tasks", script, [self._place_of(kind)], lead + arguments)).split("\1")
        position = int(lines.pop(0)) if script is LIST_WINDOW else 0
        tasks, seen = [], []
        for line in lines:
            if not line:
                continue
            member, task_id, score, has_data, status, name, worker, ended, redrives, already, back = line.split("\0")
            held = Held(kind, member, score, position)
            position += 1
            seen.append(held)
            if back == "1" and score:
                continue  # It was redriven after this redrive began, and has come back.
            obstacle = None
            if already == "1":
                obstacle = SKIPPED["a"]
            elif not score:
                obstacle = GONE[kind]
            elif has_data != "1":
                obstacle = SKIPPED["e"]
            elif status not in _STATUS[kind]:
                obstacle = STATE[kind]
            version = version_of(worker)
            tasks.append(Task(task_id, name or None, version, parse_time(ended), int(redrives or 0), obstacle, held))
        return tasks, seen

    def load(self, tasks: list[Task], what: frozenset[str]) -> None:
        if "error" not in what:
            return
        for first in range(0, len(tasks), ERROR_BATCH):
            part = tasks[first : first + ERROR_BATCH]
            with self._redis.asking("read the errors of failed tasks") as client:
                pipe = client.pipeline(transaction=False)
                for task in part:
                    pipe.xrevrange(self._key("results", task.id), count=1)
                    pipe.hget(self._key("job", task.id), "exc_info")
                answers = pipe.execute()
            for index, task in enumerate(part):
                stream, field = answers[2 * index], answers[2 * index + 1]
                latest = stream[0][1].get(b"exc_string") if stream else None
                task.error = error_block(latest, True) if latest else error_block(field, False)

    # Acting

    def apply(self, decisions: list[Decision]) -> list[str]:
        """One script for each action and destination; each of them is done whole or not at all."""
        groups: dict[tuple[str, str, str], list[int]] = {}
        for index, decision in enumerate(decisions):
            held: Held = decision.task.handle
            groups.setdefault((held.kind, decision.action, decision.destination or ""), []).append(index)
        outcomes = [""] * len(decisions)
        for (kind, action, destination), indexes in groups.items():
            helds = [decisions[index].task.handle for index in indexes]
            where = [str(helds[0].position), str(helds[-1].position)]
            arguments = [*self._lead(kind, action, destination), *where, *(held.member for held in helds)]
            letters = as_text(self._redis.run("redrive", APPLY, [self._place_of(kind), self._moved_key], arguments))
            for index, held, letter in zip(indexes, helds, letters):
                outcomes[index] = self._told(kind, letter)
                if letter in "mg":
                    self._gone.add(held.member)
                if letter == "m" and action in ("requeue", "compensate") and self._request.breaker is not None:
                    self._unsettled.append(decisions[index].task.id)
        return outcomes

    def _lead(self, kind: str, action: str, destination: str) -> list[str]:
        run = self._request.run or ""
        lead = [self._prefix, kind, action, destination, self._queue, run]
        return [*lead, iso_time(self._opened), self._failure, self._parked_prefix, str(RUN_KEPT_S)]

    def _told(self, kind: str, letter: str) -> str:
        if letter in "mk":
            return ""
        return SKIPPED.get(letter) or (GONE if letter == "g" else STATE)[kind]

    def sweep(self, action: str, destination: str | None, most: int) -> Sweep | None:
        # The breaker has to know which tasks went.
        if self._kind not in ("failed", "parked") or self._request.breaker is not None:
            return None
        if not most:
            rest = self._redis.run("count the tasks that are left", REST, [self._place], [self._anchor, self._anchor_score, self._last])
            return Sweep(matched=int(rest))
        if not self._sampled:
            self._sampled = True
            first = self._sweep_read(action, destination, min(SAMPLE, most))
            if first.matched:
                return first
        arguments = [*self._lead(self._kind, action, destination or ""), self._anchor, self._anchor_score, str(most), self._last]
        while True:
            arguments[10:12] = [self._anchor, self._anchor_score]
            answer = self._redis.run("redrive", SWEEP, [self._place, self._moved_key], [*arguments, repr(self._opened)])
            swept, only_back = self._swept(as_text(answer))
            if not only_back:
                return swept

    def _swept(self, answer: str) -> tuple[Sweep, bool]:
        """What a script swept, and whether it met nothing but tasks that have come back."""
        swept = Sweep()
        back = 0
        for line in answer.split("\1") if answer else ():
            what, first, *rest = line.split("\0")
            if what == "l":
                self._anchor, self._anchor_score = first, rest[0]
            elif what == "n":
                worker, count = rest[0], int(rest[1])
                _add(swept.by_task, first or "unknown", count)
                _add(swept.by_version, version_of(worker) or "unknown", count)
            elif first == "b":
                back += int(rest[0])
            else:
                count = int(rest[0])
                swept.matched += count
                reason = self._told(self._kind, first)
                if reason:
                    _add(swept.skipped_because, reason, count)
                else:
                    swept.moved += count
        return swept, back > 0 and not swept.matched

    def _sweep_read(self, action: str, destination: str | None, most: int) -> Sweep:
        """The first few, read before they are acted on, so that the report can name them."""
        window = self._next_window(most) or []
        able = [task for task in window if not task.obstacle]
        self.load(able, frozenset(("error",)))
        outcomes = self.apply([Decision(task, action, destination) for task in able])
        self._pass(window)
        swept = Sweep(matched=len(window))
        for task in window:
            if task.obstacle:
                _add(swept.skipped_because, task.obstacle, 1)
        for task, outcome in zip(able, outcomes):
            if outcome:
                _add(swept.skipped_because, outcome, 1)
                continue
            swept.moved += 1
            swept.sample.append(task)
            _add(swept.by_task, task.name or "unknown", 1)
            _add(swept.by_version, task.version or "unknown", 1)
        return swept

    def fates(self, moved: int) -> tuple[int, int]:
        """By each task's own state. A record that is gone belonged to a task that completed and keeps no result."""
        still = []
        for first in range(0, len(self._unsettled), self.batch):
            part = self._unsettled[first : first + self.batch]
            states = as_text(self._redis.run("ask what became of redriven tasks", STATES, [], [self._prefix, *part])).split("\1")
            for task, state in zip(part, states):
                if state in ("failed", "stopped"):
                    self._settled += 1
                    self._failed_again += 1
                elif state in ("", "finished", "canceled"):
                    self._settled += 1
                else:
                    still.append(task)
        self._unsettled = still
        return self._settled, self._failed_again


#: What a task's own status may be in each place. RQ keeps those that were stopped on request among the failed ones; a worker that begins
#: a task lists it as executing first.
_STATUS = {
    "failed": ("failed", "stopped"),
    "parked": ("deferred",),
    "queued": ("queued",),
    "executing": ("started", "queued"),
    "abandoned": ("queued",),
}


def _add(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = counts.get(name, 0) + count
