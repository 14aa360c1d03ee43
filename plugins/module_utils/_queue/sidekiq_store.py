# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sidekiq's tasks opened for one redrive: of the retry set, the dead set, a parking place (sorted sets), or a queue (a list)."""

from __future__ import annotations

import itertools
import json
import uuid
from typing import Any, Iterator

from .api import Census, Decision, RedriveRequest, Sweep, Task, TaskStore
from .redis_connection import RedisConnection
from .redis_scripts import RUN_KEPT_S, text
from .sidekiq_fates import Fates
from .sidekiq_scripts import APPLY, IDENTITIES, LIST_APPLY, LIST_WINDOW, SWEEP, WINDOW

#: Tasks handled by one script on the server: about 5 ms there, during which it serves nobody else.
BATCH = 300
#: A window of tasks ends with the one that reaches this many bytes.
WINDOW_BYTES = 1 << 20
#: Tasks whose ids are cut out by one script.
PIECE = 1000
#: Sidekiq itself deletes the oldest of its dead tasks beyond this number, at the next death (its ``dead_max_jobs``).
DEAD_MOST = 10000
#: A task that failed this much later (s, by the worker's clock) than the redrive began is not part of it.
CLOCK_SKEW_S = 60
FOREVER = "1e300"

MOVED_BEFORE = "already moved by this run"
REASONS = {
    "m": "",
    "g": "taken by somebody else meanwhile",
    "a": MOVED_BEFORE,
    "f": "the dead set is full: Sidekiq keeps %d tasks there and deletes the oldest" % DEAD_MOST,
    "i": "it has no id",
    "q": "it does not say which queue it came from",
}


class Handle:
    """The exact text of a task, which is how it is claimed."""

    __slots__ = ("member", "payload")

    def __init__(self, member: bytes, payload: Any) -> None:
        self.member = member
        self.payload = payload


def seconds(stamp: Any) -> float | None:
    """A time as Sidekiq writes it: seconds with a fraction, or (from version 8 on) whole milliseconds."""
    if isinstance(stamp, bool) or not isinstance(stamp, (int, float)):
        return None
    return stamp / 1000.0 if isinstance(stamp, int) and stamp > 1e11 else float(stamp)


def name_of(payload: Any) -> str | None:
    """The task's class; with Active Job the one inside of its wrapper."""
    name = payload.get("wrapped") or payload.get("class")
    return name if isinstance(name, str) else None


def as_task(member: bytes, score: bytes, flag: bytes, dead: bool) -> Task:
    """What is known of one task from its text."""
    try:
        payload = json.loads(text(member))
    except (ValueError, RecursionError):
        payload = None
    if not isinstance(payload, dict):
        return Task("", obstacle="its text is not what Sidekiq writes", handle=Handle(member, None))
    jid = payload.get("jid")
    redrives = payload.get("queueops_redrives")
    ended = seconds(payload.get("retried_at")) or seconds(payload.get("failed_at"))
    if dead:
        ended = float(score)
    elif ended is None:
        ended = seconds(payload.get("enqueued_at"))
    task = Task(
        jid if isinstance(jid, str) else "",
        name=name_of(payload),
        ended_at=ended,
        redrives=redrives if isinstance(redrives, int) else 0,
        handle=Handle(member, payload),
    )
    if not task.id:
        task.obstacle = REASONS["i"]
    elif flag == b"a":
        task.obstacle = MOVED_BEFORE
    return task


def _error(payload: Any) -> str | None:
    kind, message = payload.get("error_class"), payload.get("error_message")
    return "%s: %s" % (kind, message or "") if kind else None


class Cards:
    """The tasks that a script told in one text."""

    def __init__(self, told: bytes, dead: bool) -> None:
        self._told = told
        self._dead = dead

    def __iter__(self) -> Iterator[Task]:
        told, at = self._told, 0
        while at < len(told):
            length_end = told.index(b" ", at)
            score_end = told.index(b" ", length_end + 1)
            length, score_length = int(told[at:length_end]), int(told[length_end + 1 : score_end])
            flag, start = told[score_end + 1 : score_end + 2], score_end + 3
            member = start + score_length
            at = member + length
            yield as_task(told[member:at], told[start:member], flag, self._dead)


class SidekiqStore(TaskStore):
    """What the two kinds of sources share.

    :param source: the key that holds the tasks, and the word for it in the census.
    :param queues: the queues that tasks may go to, and the one they belong to.
    """

    batch = BATCH

    def __init__(self, redis: RedisConnection, prefix: str, request: RedriveRequest, source: tuple[str, str], queues: list[str]) -> None:
        self._redis = redis
        self._prefix = prefix
        self._request = request
        self._word, self._source = source
        self._queues = queues
        self._parked = "queueops:parked:%s%s" % (prefix, request.queue)
        self._moved = "queueops:redrive:%s:moved" % request.run
        self._run = json.dumps(request.run or "")
        self._pass = json.dumps(uuid.uuid4().hex[:12])
        self._scripts = {
            script: redis.client.register_script(script) for script in (APPLY, IDENTITIES, LIST_APPLY, LIST_WINDOW, SWEEP, WINDOW)
        }
        self._fates: Fates | None = None
        self._opened = self.now()
        if request.breaker is not None:
            self._fates = Fates(redis, prefix, queues, '"queueops_pass":' + self._pass)

    def _call(self, script: str, doing: str, arguments: list[Any], key: str | None = None) -> Any:
        with self._redis.asking(doing):
            return self._scripts[script](keys=[key or self._source, self._moved], args=arguments)

    def _head(self) -> list[Any]:
        """The arguments that every script that acts begins with."""
        now = self.now()
        dead = self._prefix + "dead"
        stamps = ["%.6f" % now, "%d" % (now * 1000)]
        return [self._prefix, self._run, self._pass, *stamps, self._parked, dead, DEAD_MOST, RUN_KEPT_S]

    def now(self) -> float:
        with self._redis.asking("read the broker's clock") as client:
            whole, micros = client.time()
        return float(whole) + float(micros) / 1e6

    def _places(self) -> list[tuple[str, str]]:
        """Word and key of every place that this redrive touches; the source first."""
        others = [("queued", "%squeue:%s" % (self._prefix, queue)) for queue in self._queues]
        others += [("failed", self._prefix + "retry"), ("dead_lettered", self._prefix + "dead"), ("parked", self._parked)]
        return [(self._word, self._source), *((word, key) for word, key in others if key != self._source)]

    def census(self) -> Census:
        """The sets hold the tasks of all queues; only they are counted in O(1)."""
        places = self._places()
        with self._redis.asking("count the tasks") as client:
            pipe = client.pipeline(transaction=False)
            pipe.scard(self._prefix + "processes")
            pipe.get(self._prefix + "stat:processed")
            for _word, key in places:
                (pipe.llen if self._is_list(key) else pipe.zcard)(key)
            workers, processed, *lengths = pipe.execute()
        counts: dict[str, int] = {}
        for (word, _key), length in zip(places, lengths):
            counts[word] = counts.get(word, 0) + int(length)
        # Workers add to their counter some seconds late, so where there are any it says nothing.
        return Census(counts, None if workers else int(processed or 0))

    def _is_list(self, key: str) -> bool:
        return key.startswith(self._prefix + "queue:")

    def identities(self) -> Iterator[list[bytes]]:
        names = [json.dumps(queue, ensure_ascii=False) for queue in self._queues]
        marks = ['"queue":' + name for name in names] + ['"queue": ' + name for name in names]
        for _word, key in self._places():
            # What is in a queue belongs to it; the sets hold those of all queues.
            chosen = [] if self._is_list(key) or key == self._parked else marks
            with self._redis.asking("read the ids of the tasks") as client:
                length = int(client.llen(key) if self._is_list(key) else client.zcard(key))
            for first in range(0, length, PIECE):
                found = self._call(IDENTITIES, "read the ids of the tasks", [first, first + PIECE - 1, *chosen], key)
                if found:
                    yield found.split(b"\n")

    def load(self, tasks: list[Task], what: frozenset[str]) -> None:
        for task in tasks:
            payload = task.handle.payload
            if payload is None:
                continue
            if "error" in what:
                task.error = _error(payload)
            if "fields" in what:
                task.fields = payload

    def _chosen(self, decisions: list[Decision]) -> list[Any]:
        """Those that follow each other and are to be treated alike are told together."""
        told: list[Any] = []
        for (action, destination), alike in itertools.groupby(decisions, lambda decision: (decision.action, decision.destination or "")):
            members = [decision.task.handle.member for decision in alike]
            told += [action, json.dumps(destination, ensure_ascii=False) if destination else "", destination, len(members), *members]
        return told

    def fates(self, moved: int) -> tuple[int, int]:
        return self._fates.known(moved) if self._fates is not None else (0, 0)


class SetStore(SidekiqStore):
    """The tasks of one queue in the retry set, the dead set, or the queue's parking place."""

    def __init__(self, redis: RedisConnection, prefix: str, request: RedriveRequest, source: tuple[str, str], queues: list[str]) -> None:
        super().__init__(redis, prefix, request, source, queues)
        self._filter = "" if self._word == "parked" else request.queue
        self._late: Any = self._opened + CLOCK_SKEW_S if self._word == "failed" else FOREVER
        with redis.asking("read the tasks") as client:
            last = client.zrange(self._source, -1, -1, withscores=True)
        # Never beyond what there was at first, or a worker that fails them as fast would keep this going for ever.
        self._last = repr(last[0][1]) if last else "-1"
        # Where the walk is: score and text of the last task looked at.
        self._at: list[Any] = ["", b""]
        self._swept = False

    def windows(self) -> Iterator[list[Task]]:
        at, ended = list(self._at), False
        while not ended:
            lead = [self._filter, self._run, self._pass, self._last, self._late, *at, self.batch, WINDOW_BYTES]
            score, member, end, told = self._call(WINDOW, "read the tasks", lead)
            at, ended = [score, member], bool(end)
            tasks = list(Cards(told, self._word == "dead_lettered"))
            if tasks:
                yield tasks

    def apply(self, decisions: list[Decision]) -> list[str]:
        return [REASONS[letter] for letter in text(self._call(APPLY, "redrive", self._head() + self._chosen(decisions)))]

    def sweep(self, action: str, destination: str | None, most: int) -> Sweep | None:
        found, at = Sweep(), self._at
        name = destination or ""
        what = [action, json.dumps(name, ensure_ascii=False) if name else "", name]
        own = json.dumps(self._filter, ensure_ascii=False)
        while not self._swept:
            # Of other queues' tasks some more are looked at, to find enough.
            lead = [self._filter, self._last, self._late, *at, *what, most, min(self.batch, most) if most else PIECE // 2, own]
            score, member, ended, outcomes, *classes = self._call(SWEEP, "redrive", self._head() + lead)
            at = [score, member]
            ended = bool(ended)
            if most:
                self._at, self._swept = at, ended
            outcomes = text(outcomes)
            found.matched += len(outcomes)
            found.moved += outcomes.count("m")
            for letter in set(outcomes) - {"m", "n"}:
                found.skipped_because[REASONS[letter]] = found.skipped_because.get(REASONS[letter], 0) + outcomes.count(letter)
            for index in range(0, len(classes), 2):
                found.by_task[text(classes[index])] = int(classes[index + 1])
            if ended or (most and found.matched):
                break
        if found.moved:
            found.by_version["unknown"] = found.moved
        return found


class ListStore(SidekiqStore):
    """The tasks of a queue, or of any other list of tasks."""

    # Each is looked for in the list once more.
    batch = 200

    def __init__(self, redis: RedisConnection, prefix: str, request: RedriveRequest, source: tuple[str, str], queues: list[str]) -> None:
        super().__init__(redis, prefix, request, source, queues)
        with redis.asking("count the tasks") as client:
            self._todo = int(client.llen(self._source))
        #: The last task that was left in the list, and how many there are up to it.
        self._left: tuple[bytes, int] = (b"", 0)
        self._window: list[Task] = []
        self._gone: set[bytes] = set()

    def windows(self) -> Iterator[list[Task]]:
        ended = False
        while self._todo > 0 and not ended:
            size = min(self.batch, self._todo)
            lead = [self._pass, self._left[0], self._left[1], size, WINDOW_BYTES]
            left, seen, ended, told = self._call(LIST_WINDOW, "read the tasks", lead)
            if not seen:
                return
            self._left = (self._left[0] if left else b"", int(left))
            self._todo -= seen
            self._gone = set()
            self._window = list(Cards(told, False))
            yield self._window
            stayed = [task.handle.member for task in self._window if task.handle.member not in self._gone]
            if stayed:
                self._left = (stayed[-1], self._left[1] + len(stayed))

    def apply(self, decisions: list[Decision]) -> list[str]:
        depth = self._left[1] + len(self._window)
        letters = text(self._call(LIST_APPLY, "redrive", [*self._head(), depth, *self._chosen(decisions)]))
        for decision, letter in zip(decisions, letters):
            if letter in "mg":
                self._gone.add(decision.task.handle.member)
        return [REASONS[letter] for letter in letters]
