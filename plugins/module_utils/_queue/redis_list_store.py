# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redriving plain Redis lists: moved by the thousand unread where nothing is to be chosen, else walked and taken out one by one."""

from __future__ import annotations

import uuid
from array import array
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping

from .._errors import FleetError
from .api import Census, Decision, RedriveRequest, Sweep, Task, TaskStore
from .conservation import fingerprint
from .matching import field_text
from .redis_connection import RedisConnection
from .redis_list_scripts import MOVE, READ, SWEEP
from .redis_scripts import COUNTS_KEPT_S, FATE_DEPTH, REASONS, RECALL, RUN_KEPT_S, TAKEN, WINDOW_BYTES, loads, moved_key, raw, sound

#: Tasks handled by one script on the server: unread some milliseconds at most, and one by one as long, during which it serves nobody else.
BATCH = 1000
CHOSEN_BATCH = 300
#: Tasks read at a time.
WINDOW = 500
#: Passes over a list from which others take meanwhile; what is not found by then has been taken.
PASSES = 5


@dataclass(frozen=True)
class Places:
    """The lists that one redrive touches.

    :ivar name: of the source, as in the option.
    :ivar sources: its keys.
    :ivar failed_of: the list of failed tasks of a queue.
    :ivar held_of: the processing lists of a queue, as they are now.
    """

    queue: str
    name: str
    sources: list[str]
    parked: str
    failed_of: Callable[[str], str]
    held_of: Callable[[str], list[str]]

    def destination(self, action: str, named: str | None) -> str | None:
        """The list to which ``action`` moves a task; None: to none."""
        fixed: dict[str, str | None] = {"discard": None, "park": self.parked, "fail": self.failed_of(self.queue)}
        return fixed.get(action, named or self.queue)

    def counted(self, destinations: list[str]) -> dict[str, list[str]]:
        """The keys of every place to be counted, in the order in which a task goes through them, each once."""
        failed = self.failed_of(self.queue)
        names = {self.queue: "queued", failed: "failed", self.parked: "parked"}
        found = {self.name: list(self.sources)}
        known = set(self.sources)
        for key in [self.queue, *destinations, *self.held_of(self.queue), failed]:
            if key not in known:
                known.add(key)
                found.setdefault(names.get(key) or (key if key in destinations else "executing"), []).append(key)
        return found


class Stock:
    """The tasks that a list held when the redrive began, as a multiset of fingerprints; 16 bytes a task."""

    def __init__(self) -> None:
        self._parts = [array("Q") for _index in range(16)]
        self._counts: list[array[int]] = []
        self._used: list[array[int]] = []
        #: How many have not been taken yet.
        self.left = 0

    def add(self, mark: int) -> None:
        self._parts[mark >> 60].append(mark)
        self.left += 1

    def close(self) -> None:
        """No more are added."""
        for index, part in enumerate(self._parts):
            marks, counts = array("Q"), array("I")
            for mark in sorted(part):
                if marks and marks[-1] == mark:
                    counts[-1] += 1
                else:
                    marks.append(mark)
                    counts.append(1)
            self._parts[index] = marks
            self._counts.append(counts)
            self._used.append(array("I", bytes(4 * len(counts))))

    def take(self, mark: int) -> int:
        """Which one of its equals this is, from 1; 0 if as many as there were have been taken."""
        part = mark >> 60
        marks, used = self._parts[part], self._used[part]
        at = bisect_left(marks, mark)
        if at == len(marks) or marks[at] != mark or used[at] >= self._counts[part][at]:
            return 0
        used[at] += 1
        self.left -= 1
        return used[at]


class _Found:
    """Where a task was found, and its payload while its window lasts."""

    __slots__ = ("fields", "key", "payload", "position", "tried")

    def __init__(self, key: str, position: int, payload: bytes) -> None:
        self.key = key
        self.position = position
        self.payload = payload
        self.fields: Any = None
        self.tried = False

    def load(self) -> Any:
        if not self.tried:
            self.fields, self.tried = loads(self.payload), True
        return self.fields


class ListStore(TaskStore):
    """The tasks of one or several lists.

    :param versions: the worker's version by processing list.
    :param id_field: the place in a JSON payload that identifies a task; None: equal payloads are the same task.
    """

    batch = BATCH

    def __init__(
        self,
        redis: RedisConnection,
        request: RedriveRequest,
        check: bool,
        places: Places,
        versions: Mapping[str, str | None],
        id_field: str | None,
    ) -> None:
        self._redis = redis
        self._request = request
        self._places = places
        self._versions = versions
        self._id_field = id_field
        self._destinations = [
            key for key in {places.destination(rule.action, rule.destination): None for rule in request.rules} if key is not None
        ]
        if request.max_redrives is not None and places.parked not in self._destinations:
            self._destinations.append(places.parked)
        self._moved_key = moved_key(request.run, places.sources[0] if len(places.sources) == 1 else places.queue + ":executing")
        self._counts_key = "queueops:redrives:list:" + places.queue
        rule = request.rules[0]
        chosen = len(request.rules) > 1 or bool(rule.match.named()) or request.max_redrives is not None
        #: Whether tasks are moved unread.
        self._unread = not (check or chosen or id_field) and places.destination(rule.action, None) not in places.sources
        self.batch = BATCH if self._unread else CHOSEN_BATCH
        with redis.asking("count the tasks") as client:
            pipe = client.pipeline(transaction=False)
            pipe.time()
            pipe.exists(self._moved_key, self._counts_key)
            for key in places.sources:
                pipe.llen(key)
            (seconds, micros), remembered, *lengths = pipe.execute()
            self._sweep_script = client.register_script(SWEEP)
            self._read_script = client.register_script(READ)
            self._recall_script = client.register_script(RECALL)
            self._move_script = client.register_script(MOVE)
        self._now = float(seconds + micros / 1e6)
        self._remembered = bool(remembered) and id_field is not None
        self._left = dict(zip(places.sources, lengths))
        self._stocks: dict[str, Stock] = {}
        self._removed = 0
        self._sent: dict[str, str] = {}
        self._gone: set[str] = set()
        self._settled = self._again = 0

    def now(self) -> float:
        return self._now

    def census(self) -> Census:
        counted = self._places.counted(self._destinations)

        def ask(pipe: Any) -> None:
            for keys in counted.values():
                for key in keys:
                    pipe.llen(key)

        with self._redis.asking("count the tasks") as client:
            answers = iter(self._redis.together(client, ask))
        return Census({name: sum(next(answers) for _key in keys) for name, keys in counted.items()})

    # Unread

    def sweep(self, action: str, destination: str | None, most: int) -> Sweep | None:
        """In the order of the lists; what is not there any more when its turn comes was taken by others."""
        if not self._unread:
            return None
        if not most:
            return Sweep(matched=sum(self._left.values()))
        into = self._places.destination(action, destination)
        for key, left in self._left.items():
            if not left:
                continue
            wanted = min(most, left)
            with self._redis.asking("redrive") as client:
                moved, kept, length = self._sweep_script(
                    keys=[key] + ([into] if into is not None else []), args=[wanted, 4 * WINDOW_BYTES], client=client
                )
            if not kept:
                raise FleetError("The lengths of the lists %s and %s did not add up in one step on the server" % (key, into))
            taken = 0 if moved and length else left - moved if not length else 0
            self._left[key] = left - moved - taken
            names = {"unknown": moved} if moved else {}
            version = {self._versions.get(key) or "unknown": moved} if moved else {}
            return Sweep(moved + taken, moved, {TAKEN: taken} if taken else {}, version, names)
        return Sweep()

    # By identity

    def _identity(self, found: _Found) -> str:
        if self._id_field is not None:
            named = field_text(found.load(), self._id_field)
            if named is not None and sound(named):
                return named
        return "%016x" % fingerprint(found.payload.decode("utf-8", "surrogateescape"))

    def identities(self) -> Iterator[list[str]] | None:
        return None if self._unread else self._all_identities()

    def _all_identities(self) -> Iterator[list[str]]:
        first = not self._stocks
        for keys in self._places.counted(self._destinations).values():
            for key in keys:
                stock = Stock() if first and key in self._left else None
                for window in self._read_all(key):
                    if stock is not None:
                        for identity in window:
                            stock.add(fingerprint(identity))
                    yield window
                if stock is not None:
                    stock.close()
                    self._stocks[key] = stock

    def _read_all(self, key: str) -> Iterator[list[str]]:
        """The identities of all tasks of a list; it may be taken from meanwhile."""
        position, anchor = 0, None
        while True:
            position, payloads = self._read(key, position, anchor)
            if not payloads:
                return
            yield [self._identity(_Found(key, 0, payload)) for payload in payloads]
            position, anchor = position + len(payloads), payloads[-1]

    def _read(self, key: str, position: int, anchor: bytes | None = None) -> tuple[int, list[bytes]]:
        arguments = [position, WINDOW, WINDOW_BYTES] + ([anchor] if anchor is not None else [])
        with self._redis.asking("read the tasks") as client:
            answer: bytes = self._read_script(keys=[key], args=arguments, client=client)
        head, _line, body = answer.partition(b"\n")
        start, _space, lengths = head.partition(b" ")
        payloads, at = [], 0
        for length in lengths.split(b",") if lengths else []:
            payloads.append(body[at : at + int(length)])
            at += int(length)
        return int(start), payloads

    def windows(self) -> Iterator[list[Task]]:
        """Each of the tasks that were there when it began; where others take tasks away, a further pass finds what it went past."""
        for key in self._left:
            if key not in self._stocks:
                stock = self._stocks[key] = Stock()
                for window in self._read_all(key):
                    for identity in window:
                        stock.add(fingerprint(identity))
                stock.close()
        for key in self._left:
            for _pass in range(PASSES):
                found = False
                for tasks in self._pass(key):
                    found = True
                    yield tasks
                if not found or not self._stocks[key].left:
                    break

    def _pass(self, key: str) -> Iterator[list[Task]]:
        stock, position = self._stocks[key], 0
        while stock.left:
            _start, payloads = self._read(key, position)
            if not payloads:
                return
            tasks = []
            for index, payload in enumerate(payloads):
                found = _Found(key, position + index, payload)
                identity = self._identity(found)
                which = stock.take(fingerprint(identity))
                if which:
                    name = identity if which == 1 or self._id_field is not None else "%s#%d" % (identity, which)
                    tasks.append(Task(name, version=self._versions.get(key), handle=found))
            self._removed = 0
            if tasks:
                self._recall(tasks)
                yield tasks
            position += len(payloads) - self._removed

    def _recall(self, tasks: list[Task]) -> None:
        """Fill in what is remembered of tasks from earlier redrives."""
        if not self._remembered:
            return
        with self._redis.asking("read what was redriven before") as client:
            told = self._recall_script(keys=[self._moved_key, self._counts_key], args=[raw(task.id) for task in tasks], client=client)
        for task, words in zip(tasks, told.split(b",")):
            moved, redrives = words.split(b":")
            task.redrives = int(redrives)
            if moved == b"1" and self._request.run is not None:
                task.obstacle = REASONS["a"]

    def load(self, tasks: list[Task], what: frozenset[str]) -> None:
        for task in tasks if "fields" in what else ():
            task.fields = task.handle.load()

    def apply(self, decisions: list[Decision]) -> list[str]:
        keys = [decisions[0].task.handle.key, self._moved_key, self._counts_key]
        remember = self._id_field is not None and self._request.run is not None
        heads: list[str] = []
        parts: list[bytes] = []
        numbers: dict[str, int] = {}
        leaving = []
        for decision in decisions:
            into = self._places.destination(decision.action, decision.destination)
            if into is None:
                number = 0
            elif into == keys[0]:
                number = -1
            else:
                number = numbers.setdefault(into, len(numbers) + 1)
            again = decision.action in ("requeue", "compensate")
            found = decision.task.handle
            name = raw(decision.task.id)
            heads.append("%d,%d,%d,%d,%d" % (found.position - self._removed, len(found.payload), len(name), number, again))
            parts += (found.payload, name)
            leaving.append(number >= 0)
        none = "queueops:" + uuid.uuid4().hex
        arguments = [int(remember), RUN_KEPT_S, COUNTS_KEPT_S, none, ";".join(heads), b"".join(parts)]
        with self._redis.asking("redrive") as client:
            outcomes = self._move_script(keys=keys + list(numbers), args=arguments, client=client).decode()
        self._removed += sum(1 for outcome, leaves in zip(outcomes, leaving) if outcome == "m" and leaves)
        if self._request.breaker is not None:
            for decision, outcome in zip(decisions, outcomes):
                if outcome == "m" and decision.action in ("requeue", "compensate"):
                    self._sent[decision.task.id] = decision.destination or self._places.queue
        return [REASONS[outcome] for outcome in outcomes]

    # The breaker

    def fates(self, moved: int) -> tuple[int, int]:
        """A task that is neither queued, executing nor failed, on two looks, is taken to be completed."""
        for queue in sorted(set(self._sent.values())):
            self._settle(queue, {task for task, destination in self._sent.items() if destination == queue})
        return self._settled, self._again

    def _settle(self, queue: str, sent: set[str]) -> None:
        with self._redis.asking("look what became of the tasks") as client:

            def ask(pipe: Any) -> None:
                pipe.llen(queue)
                pipe.lrange(queue, -FATE_DEPTH, -1)
                pipe.lrange(self._places.failed_of(queue), -FATE_DEPTH, -1)
                for key in self._places.held_of(queue):
                    pipe.lrange(key, 0, -1)

            length, queued, failed, *held = self._redis.together(client, ask)
        again = sent & self._named(failed)
        waiting = self._named(queued) & sent
        for payloads in held:
            waiting |= self._named(payloads) & sent
        gone = set() if length > FATE_DEPTH else sent - again - waiting
        for task in again | (gone & self._gone):
            del self._sent[task]
            self._settled += 1
        self._again += len(again)
        self._gone = (self._gone - sent) | gone

    def _named(self, payloads: list[bytes]) -> set[str]:
        return {self._identity(_Found("", 0, payload)) for payload in payloads}
