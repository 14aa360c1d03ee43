# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks of one BullMQ queue, for a redrive."""

from __future__ import annotations

import json
import re
from typing import Any, Iterator, NamedTuple
from urllib.parse import quote

from .._errors import Refused
from . import bullmq_scripts as scripts
from .api import Census, Decision, RedriveRequest, Sweep, Task, TaskStore, version_and_host
from .redis_connection import RedisConnection

#: Ids read at a time for the proof of conservation, about 1 ms on the server.
IDS = 5000
#: Tasks whose error or payload is fetched at a time, and the longest payload that is looked into.
LOADED = 100
LONGEST_PAYLOAD = 1024 * 1024
#: Tasks whose fate is asked for at a time.
FATES = 1000
#: Of the active list at most this many are looked at; there are as many as a fleet works on at once.
ACTIVE = 10000
#: By this many of its last tasks a walk finds its place again.
ANCHORS = 20
#: Fields of one task in the scripts' answers.
CARD = 8

OBSTACLES = {
    "a": "already moved by this run",
    "g": "no longer where it was",
    "e": "its record has expired on the broker",
    "x": "where it should go there is a task of the same id",
    "f": "it belongs to a flow, whose other tasks know it by its queue",
    "s": "it belongs to a job scheduler of its queue",
    "l": "a worker holds it",
}

FAILED_BY = "failed by queueops.fleet: taken from its queue by a rule"


class Keys(NamedTuple):
    """The keys of one queue."""

    prefix: str
    queue: str

    @property
    def base(self) -> str:
        return "%s:%s:" % (self.prefix, self.queue)

    @property
    def parked(self) -> str:
        """The sorted set of parked tasks; their records lie below it, where BullMQ's clean-up of orphans does not look."""
        return "queueops:parked:%s:%s" % (self.prefix, self.queue)

    @property
    def pause_record(self) -> str:
        return "queueops:paused:%s:%s" % (self.prefix, self.queue)

    def key(self, name: str) -> str:
        return self.base + name

    def is_list(self, key: str) -> bool:
        """Whether this key of the queue is a list; the others are sorted sets. A queue may itself be called ``wait``."""
        return key in (self.key("wait"), self.key("paused"), self.key("active"))


def text(value: Any) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def raw(value: str) -> bytes:
    """The bytes of :func:`text`."""
    return value.encode("utf-8", "surrogateescape")


def seconds(milliseconds: Any) -> float | None:
    """Seconds since 1970 from BullMQ's milliseconds; None if it is no number."""
    try:
        return float(milliseconds) / 1000
    except (TypeError, ValueError):
        return None


def whole_error(reason: str, line: str) -> str:
    """Class and message from BullMQ's message and the line before the stack (which repeats the message)."""
    named = re.match(r"^[A-Za-z_$][\w$.]*(?=: |$)", line)
    return "%s: %s" % (named.group(0) if named else "Error", reason)


class BullmqStore(TaskStore):
    """See :class:`TaskStore`. Opened by the backend, which has seen that the queues exist."""

    batch = 1000

    def __init__(self, redis: RedisConnection, prefix: str, request: RedriveRequest) -> None:
        self._redis = redis
        self._request = request
        self._home = Keys(prefix, request.queue)
        # Without a character that separates runs in a task's record.
        self._run = quote(request.run or "", safe="")
        self._source = request.source
        self._base = self._home.parked + ":" if request.source == "parked" else self._home.base
        names = [rule.destination for rule in request.rules if rule.destination and rule.destination != request.queue]
        self._others = [Keys(prefix, name) for name in dict.fromkeys(names)]
        self._highest = ""
        self._anchor = ("", "")
        self._pending: list[tuple[str, str]] = []
        self._settled = self._failed_again = 0
        #: Tasks of the present window that this redrive has moved away.
        self._gone: set[str] = set()
        self._completed_before: dict[str, str] = {}
        self._read_before = False
        if self._source in ("failed", "parked"):
            self._highest = self._highest_score("look at the tasks", self._set)

    @property
    def _set(self) -> str:
        """The sorted set with the tasks of the sources failed and parked."""
        return self._home.parked if self._source == "parked" else self._home.key("failed")

    def _highest_score(self, doing: str, key: str) -> str:
        with self._redis.asking(doing) as client:
            last = client.zrange(key, -1, -1, withscores=True)
        return repr(last[0][1]) if last else "-inf"

    def now(self) -> float:
        with self._redis.asking("ask for the time") as client:
            whole, micros = client.time()
        return float(whole) + float(micros) / 1e6

    # What is there

    def _places(self) -> list[tuple[str, Keys, tuple[str, ...]]]:
        """Names of the places counted, their queue and keys; the source first."""
        home = self._home
        found = [
            ("failed", home, (home.key("failed"),)),
            ("parked", home, (home.parked,)),
            ("queued", home, (home.key("wait"), home.key("paused"), home.key("prioritized"))),
            ("scheduled", home, (home.key("delayed"),)),
            ("executing", home, (home.key("active"),)),
        ]
        source = {"abandoned": "executing"}.get(self._source, self._source)
        found.sort(key=lambda place: place[0] != source)
        for other in self._others:
            keys = tuple(other.key(name) for name in ("wait", "paused", "prioritized", "delayed", "active", "failed"))
            found.append(("queue %s" % other.queue, other, keys))
        return found

    def census(self) -> Census:
        places = self._places()
        keys = {key: queue.is_list(key) for _name, queue, several in places for key in several}

        def ask(pipe: Any) -> None:
            for key, is_list in keys.items():
                (pipe.llen if is_list else pipe.zcard)(key)

        with self._redis.asking("count the tasks") as client:
            counts = dict(zip(keys, self._redis.together(client, ask)))
        return Census({name: sum(counts[key] for key in several) for name, _queue, several in places})

    def identities(self) -> Iterator[list[bytes]]:
        """Before, places are read against the way that tasks take, and after along it: a task on its way is never missed by both.

        After, what was completed since is read as well.
        """
        before, self._read_before = not self._read_before, True
        order = {"scheduled": 1, "queued": 2, "executing": 3, "failed": 5}
        places = [(queue, key) for _name, queue, keys in sorted(self._places(), key=lambda one: order.get(one[0], 4)) for key in keys]
        queues = [self._home, *self._others]
        if before:
            for queue in queues:
                self._completed_before[queue.queue] = self._highest_score("read the completed tasks", queue.key("completed"))
        for queue, key in reversed(places) if before else places:
            # Begun at that end at which what comes or goes meanwhile can hide nothing from the second reading, nor be doubled in the first.
            yield from self._ids(queue, key, from_end=queue.is_list(key) == before)
        if not before:
            for queue in queues:
                yield from self._ids(queue, queue.key("completed"), self._completed_before[queue.queue])

    def _ids(self, queue: Keys, key: str, above: str = "", from_end: bool = False) -> Iterator[list[bytes]]:
        first = 0
        while True:
            start, end = (-first - IDS, -first - 1) if from_end else (first, first + IDS - 1)
            answer: bytes = self._redis.run("read the ids of the tasks", scripts.IDS, [key], [start, end, above])
            if not answer:
                return
            ids = answer.split(b"\0")
            # Another queue gives out the same numbers.
            yield [raw(moved_id(queue.queue, text(task))) for task in ids] if self._others else ids
            if len(ids) < IDS:
                return
            first += IDS

    # Walking

    def windows(self) -> Iterator[list[Task]]:
        if self._source in ("failed", "parked"):
            yield from self._set_windows(self._set, self._highest)
        elif self._source == "queued":
            yield from self._list_windows(self._home.key("wait"))
            yield from self._list_windows(self._home.key("paused"))
            yield from self._set_windows(self._home.key("prioritized"), "")
        else:
            yield self._active()

    def _cards(self, script: str, key: str, arguments: list[Any]) -> list[Task]:
        told = json.loads(text(self._redis.run("read the tasks", script, [key], [self._base, self._run, *arguments])))
        return [self._task(told[first : first + CARD]) for first in range(0, len(told), CARD)]

    def _task(self, card: list[str]) -> Task:
        task_id, score, known, name, worker, finished, redrives, already = card
        obstacle = None
        if already == "1":
            obstacle = OBSTACLES["a"]
        elif not score:
            obstacle = OBSTACLES["g"]
        elif known == "0":
            obstacle = OBSTACLES["e"]
        return Task(
            task_id,
            name=name or None,
            version=version_and_host(worker)[0],
            ended_at=seconds(finished),
            redrives=int(redrives) if redrives.isdigit() else 0,
            obstacle=obstacle,
            handle=score,
        )

    def _named(self) -> list[str] | None:
        """The tasks that the rules name, if none of them takes others."""
        found: dict[str, None] = {}
        for rule in self._request.rules:
            if rule.match.ids is None:
                return None
            found.update(dict.fromkeys(rule.match.ids))
        return list(found)

    def _set_windows(self, key: str, highest: str) -> Iterator[list[Task]]:
        named = self._named()
        if named is not None and key == self._set:
            for first in range(0, len(named), self.batch):
                yield self._cards(scripts.CARDS, key, list(named[first : first + self.batch]))
            return
        anchors: list[str] = []
        score = ""
        self._gone.clear()
        with self._redis.asking("count the tasks") as client:
            left = client.zcard(key)
        while left > 0:
            window = self._cards(scripts.WINDOW, key, [self.batch, highest, score, *anchors])
            if not window:
                return
            left -= len(window)
            ids, score = [task.id for task in window], str(window[-1].handle)
            yield window
            anchors = self._anchors(ids, anchors)

    def _anchors(self, ids: list[str], before: list[str]) -> list[str]:
        """The last tasks walked that are still there, as far as this redrive knows."""
        found = [task for task in reversed(ids) if task not in self._gone][:ANCHORS] + before
        self._gone.clear()
        return found[:ANCHORS]

    def _list_windows(self, key: str) -> Iterator[list[Task]]:
        with self._redis.asking("count the tasks") as client:
            left = client.llen(key)
        anchors: list[str] = []
        start = 0
        self._gone.clear()
        while left > 0:
            window = self._cards(scripts.LIST_WINDOW, key, [min(self.batch, left), start, *anchors])
            if not window:
                return
            left -= len(window)
            for task in window:
                task.handle = int(task.handle)
            # An old marker of BullMQ is no task.
            tasks = [task for task in window if not task.id.startswith("0:")]
            yield tasks
            start = int(window[-1].handle) + 1 - len(self._gone)
            anchors = self._anchors([task.id for task in window], anchors)

    def _active(self) -> list[Task]:
        locked = "0" if self._source == "abandoned" else "1"
        return self._cards(scripts.ACTIVE_WINDOW, self._home.key("active"), [locked, ACTIVE])

    def load(self, tasks: list[Task], what: frozenset[str]) -> None:
        for first in range(0, len(tasks), LOADED):
            part = tasks[first : first + LOADED]
            ids = [task.id for task in part]
            if "error" in what:
                told = json.loads(text(self._redis.run("read the tasks", scripts.ERRORS, arguments=[self._base, *ids])))
                for index, task in enumerate(part):
                    known, reason, line = told[3 * index : 3 * index + 3]
                    task.error = whole_error(reason, line) if known == "1" else None
            if "fields" in what:
                payloads = self._redis.run("read the tasks", scripts.PAYLOADS, arguments=[self._base, LONGEST_PAYLOAD, *ids])
                for task, payload in zip(part, payloads):
                    task.fields = _parsed(payload)

    # Acting

    def apply(self, decisions: list[Decision]) -> list[str]:
        outcomes: dict[int, str] = {}
        groups: dict[tuple[str, str], list[tuple[int, Task]]] = {}
        for index, decision in enumerate(decisions):
            groups.setdefault((decision.action, decision.destination or ""), []).append((index, decision.task))
        now = str(int(self.now() * 1000))
        for (action, destination), members in groups.items():
            there = Keys(self._home.prefix, destination) if destination and destination != self._home.queue else None
            farthest = max((task.handle for _index, task in members if isinstance(task.handle, int)), default=-1)
            lead = [self._base, self._home.base, self._source, action, there.base if there else "", self._home.queue, now]
            lead += [self._run, FAILED_BY, str(farthest), self._home.parked + ":"]
            answer = self._redis.run("redrive", scripts.ACT, [], lead + [task.id for _index, task in members])
            for (index, task), letter in zip(members, text(answer)):
                outcomes[index] = "" if letter == "m" else OBSTACLES[letter]
                if letter == "m":
                    self._gone.add(task.id)
                    if self._request.breaker is not None and action in ("requeue", "compensate"):
                        target = there or self._home
                        self._pending.append((target.base, moved_id(self._home.queue, task.id) if there else task.id))
        return [outcomes[index] for index in range(len(decisions))]

    def sweep(self, action: str, destination: str | None, most: int) -> Sweep | None:
        if action != "requeue" or (destination and destination != self._home.queue) or self._source not in ("failed", "parked"):
            return None
        tell_ids = "1" if self._request.breaker is not None else "0"
        anchor, score = self._anchor
        arguments = [self._base, self._home.base, self._highest, most, score, anchor, self._run, tell_ids, "failed"]
        told = json.loads(text(self._redis.run("redrive", scripts.SWEEP, [self._set], arguments)))
        swept = Sweep(int(told["matched"]), int(told.get("moved", 0)))
        swept.skipped_because = {OBSTACLES[letter]: count for letter, count in (told.get("because") or {}).items()}
        if "anchor" in told:
            self._anchor = (told["anchor"], told["score"])
        swept.by_task = dict(told.get("name") or {})
        for worker, count in (told.get("pb") or {}).items():
            version = version_and_host(worker)[0] or "unknown"
            swept.by_version[version] = swept.by_version.get(version, 0) + count
        self._pending.extend((self._home.base, task) for task in told.get("ids") or ())
        return swept

    def fates(self, moved: int) -> tuple[int, int]:
        waiting = []
        for first in range(0, len(self._pending), FATES):
            by_base: dict[str, list[str]] = {}
            for base, task in self._pending[first : first + FATES]:
                by_base.setdefault(base, []).append(task)
            for base, ids in by_base.items():
                answer = text(self._redis.run("ask what became of the tasks", scripts.FATES, arguments=[base, *ids]))
                for task, fate in zip(ids, answer):
                    if fate == "?":
                        waiting.append((base, task))
                        continue
                    self._settled += 1
                    self._failed_again += fate == "f"
        self._pending = waiting
        return self._settled, self._failed_again


def moved_id(queue: str, task: str) -> str:
    """The id of a task of ``queue`` in another queue: numbers are given out by each queue's own counter, so they are qualified."""
    return "%s-%s" % (queue, task) if task.isascii() and task.isdigit() else task


def _parsed(payload: bytes) -> Any:
    """The JSON payload, or None where it is none."""
    try:
        return json.loads(payload) if payload else None
    except (ValueError, RecursionError):
        return None


def require_sense(request: RedriveRequest) -> None:
    """Refuse rules that would put tasks where they are."""
    if request.source != "queued":
        return
    for rule in request.rules:
        if rule.action == "requeue" and rule.destination in (None, request.queue):
            raise Refused(
                "A rule with action=requeue and source=queued would put tasks of queue %s where they are" % request.queue,
                option="rules",
                next_step="Name another queue in the rule's destination, or use another action",
            )
