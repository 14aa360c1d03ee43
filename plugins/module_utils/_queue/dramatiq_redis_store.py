# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A redrive of Dramatiq's tasks on Redis. Each move is one script on the server, which marks the task and moves it in one act.

A message keeps its ``message_id``, its time of publication and its key on the broker. One that failed gets all its attempts
again: with ``retries`` as they were it would be tried once and be dead-lettered again.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Callable, Iterator

from .._errors import Refused
from .api import Census, Decision, RedriveRequest, Sweep, Task, TaskStore
from .dramatiq_message import Message
from .dramatiq_redis_fates import Fates
from .dramatiq_redis_keys import Keys
from .dramatiq_redis_scripts import IDENTITIES, LEFT, LIST_WINDOW, MOVE, NAMED, SORTED_WINDOW, SWEEP
from .redis_connection import RedisConnection
from .redis_scripts import MOVED_BEFORE, RUN_KEPT_S

#: Bytes of messages read at a time.
WINDOW_BYTES = 4 * 1024 * 1024
#: Ids read at a time.
IDENTITY_WINDOW = 1000
#: By so many of the tasks that were left the place in a list is found again.
ANCHORS = 100

_SKIPPED = {
    "a": MOVED_BEFORE,
    "g": "not there any more",
    "e": "its message has expired on the broker",
    "c": "it was changed meanwhile",
    "b": "its worker is back",
}
#: The numbers that go with each task to the server.
_NUMBERS = struct.Struct(">7IBd")
NOT_JSON = "its message is not JSON, and cannot be addressed to another queue"
NOT_COUNTED = "its message is not JSON, and does not record how often it was redriven"


class _Place:
    """Where the tasks of a source lie: ``kind`` z (sorted set), l (list) or a (the acks of one worker).

    :ivar delayed: they wait for their time.
    """

    def __init__(self, kind: str, key: str, messages: str, worker: str = "", delayed: bool = False) -> None:
        self.kind = kind
        self.key = key
        self.messages = messages
        self.worker = worker
        self.delayed = delayed


class _Entry:
    """One task of a window."""

    __slots__ = ("index", "key", "left", "message", "place", "score")

    def __init__(self, place: _Place, key: bytes, score: bytes, data: bytes | None, index: int) -> None:
        self.place = place
        self.key = key
        self.score = score
        self.message = Message(data) if data is not None else None
        self.index = index
        self.left = True


class DramatiqRedisStore(TaskStore):
    """The tasks of one source of one queue.

    :param workers: answers the names of the workers that live, and of those that are gone, and the limit (ms) between them.
    """

    batch = 150

    def __init__(
        self,
        redis: RedisConnection,
        keys: Keys,
        request: RedriveRequest,
        check: bool,
        workers: Callable[[], tuple[list[str], list[str], int]],
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._request = request
        self._check = check
        self._workers = workers
        self._queue = request.queue
        self._moved = keys.moved(request.run)
        self._tracks = [self._moved, *keys.fates(request.run, self._queue)]
        self._destinations = list(dict.fromkeys([self._queue, *(rule.destination for rule in request.rules if rule.destination)]))
        self._deadline = ""
        self._fates: Fates | None = None
        # Score and member of the last task that was swept.
        self._swept: tuple[Any, Any] = ("", "")
        self.warnings = [] if check else redis.require_writable("redrive")
        self._places = self._find_places()
        self._open()

    def _find_places(self) -> list[_Place]:
        keys, queue, source = self._keys, self._queue, self._request.source
        if source in ("failed", "dead_lettered"):
            return [_Place("z", keys.dead(queue), keys.messages(keys.dead(queue)))]
        if source == "parked":
            return [_Place("z", keys.parked(queue), keys.messages(keys.parked(queue)))]
        if source in ("executing", "abandoned"):
            alive, gone, deadline = self._workers()
            if source == "abandoned":
                self._deadline = str(deadline)
            names = [(queue, False), (queue + ".DQ", True)] if source == "abandoned" else [(queue, False)]
            return [
                _Place("a", keys.acks(worker, name), keys.messages(keys.queue(name)), worker, delayed)
                for worker in (gone if source == "abandoned" else alive)
                for name, delayed in names
            ]
        name = queue if source == "queued" else source
        if not name or name.endswith(".XQ"):
            raise Refused(
                "There is no list of queued tasks by the name of '%s'" % name,
                option="source",
                next_step="Give source=failed with queue=%s" % name[:-3]
                if name
                else "Give the name of a queue, or one of the other sources",
            )
        return [_Place("l", keys.queue(name), keys.messages(keys.queue(name)), delayed=name.endswith(".DQ"))]

    def _open(self) -> None:
        with self._redis.asking("open the queue") as client:
            pipe = client.pipeline(transaction=False)
            pipe.time()
            pipe.scard(self._moved)
            first = self._places[0] if self._places else None
            if first is not None and first.kind == "z":
                pipe.zrange(first.key, -1, -1, withscores=True)
            elif first is not None and first.kind == "l":
                pipe.llen(first.key)
            (seconds, micros), marked, *ends = pipe.execute()
        self._now = float(seconds + micros / 1e6)
        self._marked = bool(marked) and self._request.run is not None
        end: Any = ends[0] if ends else None
        self._last = repr(end[0][1]) if isinstance(end, list) and end else "-inf"
        self._length = end if isinstance(end, int) else 0
        if self._request.breaker is not None and not self._check:
            self._fates = Fates(self._redis, self._keys, self._tracks, self._destinations, self._living, self._now)

    def _living(self) -> list[str]:
        return self._workers()[0]

    def now(self) -> float:
        return self._now

    # Counting

    def census(self) -> Census:
        """Where the tasks of these queues are; Dramatiq does not tell what its workers finish."""
        source = "failed" if self._request.source == "dead_lettered" else self._request.source
        alive, gone, _deadline = self._workers()
        asked: list[tuple[str, str, str]] = []
        for name in self._destinations:
            suffix = "" if name == self._queue else ":" + name
            asked += [("failed" + suffix, "zcard", self._keys.dead(name)), ("queued" + suffix, "llen", self._keys.queue(name))]
            asked += [("scheduled" + suffix, "llen", self._keys.delayed(name)), ("parked" + suffix, "zcard", self._keys.parked(name))]
            for worker in alive:
                asked += [("executing" + suffix, "scard", self._keys.acks(worker, name))]
                asked += [("scheduled" + suffix, "scard", self._keys.acks(worker, name + ".DQ"))]
            for worker in gone:
                asked += [("abandoned" + suffix, "scard", self._keys.acks(worker, part)) for part in (name, name + ".DQ")]
        if self._places and self._places[0].kind == "l" and source != "queued" and source not in self._destinations:
            asked.append((source, "llen", self._places[0].key))
        counts = {source: 0}
        with self._redis.asking("count the tasks") as client:
            pipe = client.pipeline(transaction=False)
            for _name, command, key in asked:
                getattr(pipe, command)(key)
            for (name, _command, _key), count in zip(asked, pipe.execute()):
                counts[name] = counts.get(name, 0) + count
        return Census({name: count for name, count in counts.items() if count or name in (source, "queued", "failed")})

    def identities(self) -> Iterator[list[bytes]]:
        keys = self._keys
        alive, gone, _deadline = self._workers()
        places = []
        for name in self._destinations:
            for key in (keys.dead(name), keys.queue(name), keys.delayed(name), keys.parked(name)):
                places.append((key, keys.messages(key)))
            for part in (name, name + ".DQ"):
                places += [(keys.acks(worker, part), keys.messages(keys.queue(part))) for worker in alive + gone]
        own = [(place.key, place.messages) for place in self._places if place.kind == "l"]
        for key, messages in dict.fromkeys(places + own):
            first = 0
            while True:
                with self._redis.asking("read which tasks there are") as client:
                    script = client.register_script(IDENTITIES)
                    told: bytes = script(keys=[key, messages], args=[first, first + IDENTITY_WINDOW - 1])
                if not told:
                    break
                yield told.split(b"\0")
                first += IDENTITY_WINDOW

    # Walking

    def windows(self) -> Iterator[list[Task]]:
        for place in self._places:
            walk = {"z": self._sorted, "l": self._list, "a": self._acks}[place.kind]
            for entries in walk(place):
                tasks = [self._task(entry) for entry in entries]
                if self._marked:
                    self._note_moved(tasks)
                yield tasks

    def _sorted(self, place: _Place) -> Iterator[list[_Entry]]:
        score, member = b"", b""
        while True:
            arguments = [score, member, self._last, self.batch, WINDOW_BYTES]
            entries = self._told(SORTED_WINDOW, [place.key, place.messages], arguments, place)
            if not entries:
                return
            # Remembered now: the entries are taken out of the set while the window is worked on.
            score, member = entries[-1].score, entries[-1].key
            yield entries

    def _list(self, place: _Place) -> Iterator[list[_Entry]]:
        anchors: list[_Entry] = []
        seen, at = 0, 0
        while seen < self._length:
            size = min(self.batch, self._length - seen)
            arguments = [at, size, WINDOW_BYTES, *(entry.key for entry in anchors)]
            entries = self._told(LIST_WINDOW, [place.key, place.messages], arguments, place)
            if not entries:
                return
            seen += len(entries)
            yield entries
            # What was taken out before them has moved them nearer to the head.
            left = [entry for entry in entries if entry.left]
            for number, entry in enumerate(left):
                entry.index = entries[0].index + number
            anchors = (anchors + left)[-ANCHORS:]
            at = anchors[-1].index if anchors else 0

    def _acks(self, place: _Place) -> Iterator[list[_Entry]]:
        with self._redis.asking("read the tasks in hand") as client:
            keys = sorted(client.smembers(place.key))
        first = 0
        while first < len(keys):
            entries = self._told(NAMED, [place.messages], [WINDOW_BYTES, *keys[first : first + self.batch]], place)
            first += len(entries)
            yield entries

    def _told(self, script: str, keys: list[str], arguments: list[Any], place: _Place) -> list[_Entry]:
        with self._redis.asking("read the tasks") as client:
            cards, texts, *start = client.register_script(script)(keys=keys, args=arguments)
        if not cards:
            return []
        parts = cards.split(b"\0")
        found, at, index = [], 0, start[0] if start else 0
        for number in range(0, len(parts), 3):
            size = int(parts[number + 2])
            data = texts[at : at + size] if size >= 0 else None
            at += max(0, size)
            found.append(_Entry(place, parts[number], parts[number + 1], data, index))
            index += 1
        return found

    def _task(self, entry: _Entry) -> Task:
        message = entry.message
        ended = float(entry.score) / 1000 if entry.score else None
        if message is None:
            return Task(entry.key.decode("utf-8", "replace"), ended_at=ended, obstacle=_SKIPPED["e"], handle=entry)
        obstacle = NOT_COUNTED if message.options is None and self._request.max_redrives is not None else None
        name = message.id if message.id is not None else entry.key.decode("utf-8", "replace")
        return Task(name, message.actor, ended_at=ended, redrives=message.redrives, obstacle=obstacle, handle=entry)

    def _note_moved(self, tasks: list[Task]) -> None:
        with self._redis.asking("read what this run moved") as client:
            pipe = client.pipeline(transaction=False)
            for task in tasks:
                pipe.sismember(self._moved, task.id)
            for task, moved in zip(tasks, pipe.execute()):
                if moved:
                    task.obstacle = _SKIPPED["a"]

    def load(self, tasks: list[Task], what: frozenset[str]) -> None:
        for task in tasks:
            message = task.handle.message
            if message is None:
                continue
            if "error" in what:
                task.error = message.error
            if "headers" in what:
                task.headers = message.headers
            if "fields" in what:
                task.fields = message.fields

    # Acting

    def apply(self, decisions: list[Decision]) -> list[str]:
        outcomes = [""] * len(decisions)
        groups: dict[tuple[_Place, str, str], list[int]] = {}
        for index, decision in enumerate(decisions):
            place = decision.task.handle.place
            destination = decision.destination or self._queue
            if decision.destination not in (None, self._queue) and decision.task.handle.message.options is None:
                outcomes[index] = NOT_JSON
                continue
            groups.setdefault((place, decision.action, destination), []).append(index)
        for (place, action, destination), indexes in groups.items():
            chosen = [decisions[index].task for index in indexes]
            for index, letter in zip(indexes, self._move(place, action, destination, chosen)):
                outcomes[index] = _SKIPPED.get(letter, "")
                decisions[index].task.handle.left = letter not in "mg"
        return outcomes

    def _move(self, place: _Place, action: str, destination: str, tasks: list[Task]) -> str:
        keys = self._keys
        target, kind = {
            "requeue": (keys.queue(destination), "l"),
            "compensate": (keys.queue(destination), "l"),
            "fail": (keys.dead(self._queue), "z"),
            "dead_letter": (keys.dead(self._queue), "z"),
            "park": (keys.parked(self._queue), "z"),
            "discard": (keys.parked(self._queue), "x"),
        }[action]
        delayed = keys.delayed(destination)
        now = int(self._now * 1000)
        tracked = "1" if self._request.breaker is not None and kind == "l" else ""
        last = max(task.handle.index for task in tasks)
        arguments: list[Any] = [place.kind, kind, now, RUN_KEPT_S, tracked, last, place.worker, self._deadline]
        for task in tasks:
            arguments += self._order(task, place, action, destination, target)
        names = [self._moved, self._tracks[1], place.key, place.messages, target, keys.messages(target)]
        names += [delayed, keys.messages(delayed), keys.heartbeats]
        with self._redis.asking("redrive") as client:
            answer: bytes = client.register_script(MOVE)(keys=names, args=arguments)
        return answer.decode()

    def _order(self, task: Task, place: _Place, action: str, destination: str, target: str) -> list[Any]:
        """The six arguments of one task."""
        entry: _Entry = task.handle
        message = entry.message
        if message is None:
            return [entry.key, task.id, _NUMBERS.pack(0, 0, 0, 0, 0, 0, 0, 0, 0), "", "", ""]
        score = int(self._now * 1000)
        if (entry.score and action == "park") or target == place.key:
            score = int(float(entry.score or score))
        begin, end = message.options_place()
        numbers = [len(message.data), begin, end, 0, 0, 0, 0, 0, score]
        changed = [b"", b""]
        if action in ("requeue", "compensate"):
            waits = message.eta is not None and message.eta > self._now * 1000 and (message.queue or "").endswith(".DQ")
            if message.options is None:
                waits = place.delayed and destination == self._queue
            numbers[7] = int(waits)
            fresh = place.kind == "z" or action == "compensate"
            name = destination + ".DQ" if waits else destination
            for number, splice in enumerate(message.readdressed(name, fresh, not waits, action == "compensate")):
                numbers[3 + 2 * number], numbers[4 + 2 * number] = splice.start, splice.end
                changed[number] = splice.new
        return [entry.key, task.id, _NUMBERS.pack(*numbers), message.data[begin:end], *changed]

    def sweep(self, action: str, destination: str | None, most: int) -> Sweep | None:
        place = self._places[0] if self._places else None
        if place is None or place.kind != "z" or action != "requeue" or destination not in (None, self._queue):
            return None
        queue, swept = self._keys.queue(self._queue), Sweep()
        lead = [self._swept[0], self._swept[1], self._last]
        if not most:
            with self._redis.asking("count the tasks") as client:
                swept.matched = int(client.register_script(LEFT)(keys=[place.key], args=lead))
            return swept
        tracked = "1" if self._request.breaker is not None else ""
        head = '{"queue_name":%s,' % json.dumps(self._queue)
        names = [self._moved, self._tracks[1], place.key, place.messages, queue, self._keys.messages(queue)]
        with self._redis.asking("redrive") as client:
            answer = client.register_script(SWEEP)(keys=names, args=[*lead, min(most, self.batch), RUN_KEPT_S, tracked, head])
        score, member, count, letters, named, slow = answer
        self._swept = (score, member)
        swept.matched = count
        for letter in letters.decode():
            reason = _SKIPPED[letter]
            swept.skipped_because[reason] = swept.skipped_because.get(reason, 0) + 1
        told = named.decode("utf-8", "replace").split("\0") if named else []
        swept.by_task = {told[index]: int(told[index + 1]) for index in range(0, len(told), 2)}
        self._sweep_slowly(place, slow.split(b"\0") if slow else [], swept)
        swept.moved = count - sum(swept.skipped_because.values())
        swept.by_version = {"unknown": swept.moved} if swept.moved else {}
        return swept

    def _sweep_slowly(self, place: _Place, keys: list[bytes], swept: Sweep) -> None:
        """Those whose messages are not just as Dramatiq writes them."""
        while keys:
            entries = self._told(NAMED, [place.messages], [WINDOW_BYTES, *keys], place)
            keys = keys[len(entries) :]
            tasks = [self._task(entry) for entry in entries]
            for task, outcome in zip(tasks, self.apply([Decision(task, "requeue") for task in tasks])):
                if outcome:
                    swept.skipped_because[outcome] = swept.skipped_because.get(outcome, 0) + 1
                else:
                    name = task.name or "unknown"
                    swept.by_task[name] = swept.by_task.get(name, 0) + 1

    def fates(self, moved: int) -> tuple[int, int]:
        return self._fates.known(moved) if self._fates is not None else (0, 0)
