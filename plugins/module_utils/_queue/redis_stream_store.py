# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redriving Redis streams: an entry is added to its destination and deleted where it was in one script, with all its fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping

from .._errors import Refused
from .api import Census, Decision, RedriveRequest, Task, TaskStore, version_and_host
from .matching import field_text
from .redis_connection import RedisConnection
from .redis_scripts import FATE_DEPTH, REASONS, RECALL, RUN_KEPT_S, WINDOW_BYTES, loads, moved_key, raw, sound, text
from .redis_stream_scripts import COUNT, MOVE, READ

#: Tasks handled by one script on the server: about 5 ms there, during which it serves nobody else.
BATCH = 200
#: Tasks read at a time.
WINDOW = 500

#: Fields that a redrive adds to an entry: its first id, how often it was redriven, by which run last, and when it failed (ms).
ID, REDRIVES, RUN, ENDED = "queueops_id", "queueops_redrives", "queueops_run", "queueops_ended"
_OWN = (ID, REDRIVES, ENDED)


@dataclass(frozen=True)
class Source:
    """What a redrive takes from.

    :ivar name: as in the option.
    :ivar group: the consumer group whose entries are meant; None: the whole stream.
    :ivar delivered: the last entry that the group had been given when it began.
    :ivar gone: only entries of these consumers; None: of all.
    :ivar idle: and only if they have been pending this long (ms).
    """

    name: str
    key: str
    group: str | None = None
    delivered: str = "0-0"
    gone: frozenset[str] | None = None
    idle: int = 0

    @property
    def mode(self) -> str:
        """``queued``, ``pending`` or "" for a whole stream, as the scripts know it."""
        return "" if self.group is None else "queued" if self.name == "queued" else "pending"


class Entry:
    """One entry, as much of it as was read. ``fields`` None: it is pending, and has been deleted."""

    __slots__ = ("consumer", "fields", "id")

    def __init__(self, entry_id: str, consumer: str, fields: dict[str, bytes] | None) -> None:
        self.id = entry_id
        self.consumer = consumer
        self.fields = fields

    def told(self) -> dict[str, Any]:
        """The fields; what holds JSON is decoded."""
        found = {}
        for name, value in (self.fields or {}).items():
            decoded = loads(value)
            found[name] = text(value) if decoded is None else decoded
        return found


class Streams:
    """The streams of one queue, and what is read of them.

    :param failed_of: the stream of failed tasks of a queue.
    :param id_field: the entry's field that identifies a task, or ``<field>.<name>`` for a place in one that holds JSON.
    """

    def __init__(
        self,
        redis: RedisConnection,
        queue: str = "",
        parked: str = "",
        failed_of: Callable[[str], str] = str,
        id_field: str | None = None,
    ) -> None:
        self.redis = redis
        self.queue = queue
        self.parked = parked
        self.failed_of = failed_of
        self.id_field = id_field
        self._read_script = redis.client.register_script(READ)

    def exists(self, key: str) -> bool:
        with self.redis.asking("look for the stream %s" % key) as client:
            kind = text(client.type(key))
            if kind not in ("none", "stream"):
                raise self.redis.redis.exceptions.ResponseError("WRONGTYPE %s" % kind)
        return kind == "stream"

    def groups(self, key: str) -> dict[str, str]:
        """The stream's consumer groups with the last entry that each was given."""
        with self.redis.asking("look for consumer groups") as client:
            return {text(entry["name"]): text(entry["last-delivered-id"]) for entry in client.xinfo_groups(key)}

    def last_id(self, key: str) -> str:
        """The last id that the stream gave; 0-0 if it is not there."""
        if not self.exists(key):
            return "0-0"
        with self.redis.asking("look at the stream %s" % key) as client:
            return text(client.xinfo_stream(key)["last-generated-id"])

    def count_after(self, key: str, entry_id: str, most: int) -> int | None:
        """How many entries come after ``entry_id``; None if more than ``most``. Called within :meth:`RedisConnection.asking`."""
        found, more = 0, 1
        while more and found <= most:
            some, entry_id, more = self.redis.client.eval(COUNT, 1, key, entry_id, 1000, WINDOW_BYTES)
            found += some
        return found if found <= most and not more else None

    def destination(self, action: str, named: str | None) -> str | None:
        """The stream to which ``action`` moves a task; None: to none."""
        fixed: dict[str, str | None] = {"discard": None, "park": self.parked, "fail": self.failed_of(self.queue)}
        return fixed.get(action, named or self.queue)

    def read(self, key: str, after: str, until: str, group: str = "", everything: bool = False) -> Iterator[list[Entry]]:
        """Entries in windows, in the order of their ids: each once, whatever is added or deleted meanwhile."""
        wanted = [*_OWN, (self.id_field or "").partition(".")[0]]
        while True:
            with self.redis.asking("read the tasks") as client:
                arguments = [after, until, WINDOW, WINDOW_BYTES, group, int(everything), *wanted]
                answer: bytes = self._read_script(keys=[key], args=arguments, client=client)
            head, _line, body = answer.partition(b"\n")
            if not head:
                return
            window, at = [], 0
            for numbers in head.split(b";"):
                parts = []
                deleted = numbers.endswith(b"-")
                for length in (numbers[:-2] if deleted else numbers).split(b","):
                    parts.append(body[at : at + int(length)])
                    at += int(length)
                fields = None if deleted else {text(name): value for name, value in zip(parts[2::2], parts[3::2])}
                window.append(Entry(text(parts[0]), text(parts[1]), fields))
            yield window
            after = window[-1].id

    def identity(self, entry: Entry) -> str:
        """What a task is known by, wherever it goes."""
        if entry.fields is None:
            return entry.id
        if self.id_field is not None:
            named = field_text(entry.told(), self.id_field)
            if named is not None and sound(named):
                return named
        first = entry.fields.get(ID)
        return text(first) if first else entry.id


class StreamStore(TaskStore):
    """The tasks of one stream, or of one group's part of it."""

    batch = BATCH

    def __init__(self, streams: Streams, request: RedriveRequest, check: bool, source: Source) -> None:
        self._streams = streams
        self._redis = streams.redis
        self._request = request
        self._source = source
        self._all_fields = any(rule.match.header is not None or rule.match.field is not None for rule in request.rules)
        found = {streams.destination(rule.action, rule.destination): None for rule in request.rules}
        if request.max_redrives is not None:
            found[streams.parked] = None
        self._destinations = [key for key in found if key is not None]
        self._moved_key = moved_key(request.run, "%s:%s" % (source.key, source.name) if source.group is not None else source.key)
        self._failed_at: dict[str, str] = {}
        #: Where each stream ended when it began: what comes after is new, or came back.
        self._ends = {key: streams.last_id(key) for key in self._places().values()}
        for rule in request.rules if request.breaker is not None else ():
            failed = streams.failed_of(rule.destination or streams.queue)
            self._failed_at[failed] = streams.last_id(failed)
        with self._redis.asking("look at the tasks") as client:
            seconds, micros = client.time()
            self._remembered = request.run is not None and bool(client.exists(self._moved_key))
            self._move_script = client.register_script(MOVE)
            self._recall_script = client.register_script(RECALL)
        self._now = float(seconds + micros / 1e6)
        #: New entry -> task and queue, for those whose fate is not known; and the tasks that failed since it began.
        self._sent: dict[str, tuple[str, str]] = {}
        self._failed: set[str] = set()
        self._settled = self._again = 0

    def now(self) -> float:
        return self._now

    def _places(self) -> dict[str, str]:
        """The streams that are counted, in the order in which a task goes through them."""
        streams = self._streams
        failed = streams.failed_of(streams.queue)
        names = {streams.queue: "queued", failed: "failed", streams.parked: "parked"}
        found = {} if self._source.mode == "pending" else {self._source.name: self._source.key}
        for key in [streams.queue, *self._destinations, failed]:  # The source's stream is among them, or has just been named.
            if key not in found.values():
                found[names.get(key, key)] = key
        return found

    def census(self) -> Census:
        places, source = self._places(), self._source
        group = source.group if source.mode == "pending" else None

        def ask(pipe: Any) -> None:
            for key in places.values():
                pipe.xlen(key)
            if group is not None:
                pipe.xpending(source.key, group)

        with self._redis.asking("count the tasks") as client:
            answers = self._redis.together(client, ask)
        counts = dict(zip(places, answers))
        if group is None:
            return Census(counts)
        pending = answers[-1]["pending"]
        return Census({source.name: pending, **counts, "queued": counts["queued"] - pending})

    def identities(self) -> Iterator[list[str]] | None:
        return self._identities()

    def _identities(self) -> Iterator[list[str]]:
        """Of the source all, and of the others what was added since it began: this redrive takes nothing away from them."""
        source, streams = self._source, self._streams
        if source.mode == "pending":
            for window in streams.read(source.key, "0-0", "+", source.group or ""):
                yield [streams.identity(entry) for entry in window]
        for key in self._places().values():
            begin = self._ends[key]
            if key == source.key and source.mode != "pending":
                begin = source.delivered
            for window in streams.read(key, begin, "+"):
                yield [streams.identity(entry) for entry in window]

    def windows(self) -> Iterator[list[Task]]:
        source, streams = self._source, self._streams
        pending = source.mode == "pending"
        begin = "0-0" if pending else source.delivered
        until = source.delivered if pending else self._ends[source.key]
        for window in streams.read(source.key, begin, until, (source.group or "") if pending else "", self._all_fields):
            tasks = [self._task(entry) for entry in window if source.gone is None or entry.consumer in source.gone]
            if tasks:
                self._recall(tasks)
                yield tasks

    def _task(self, entry: Entry) -> Task:
        fields = entry.fields or {}
        ended = fields.get(ENDED, b"")
        redrives = fields.get(REDRIVES, b"0")
        return Task(
            self._streams.identity(entry),
            version=version_and_host(entry.consumer)[0],
            ended_at=time_of(text(ended) if ended.isdigit() else entry.id),
            redrives=int(redrives) if redrives.isdigit() else 0,
            obstacle=REASONS["e"] if entry.fields is None else None,
            handle=entry,
        )

    def _recall(self, tasks: list[Task]) -> None:
        if not self._remembered:
            return
        with self._redis.asking("read what was redriven before") as client:
            told = self._recall_script(keys=[self._moved_key, self._moved_key + ":"], args=[raw(task.id) for task in tasks], client=client)
        for task, words in zip(tasks, told.split(b",")):
            if words.startswith(b"1"):
                task.obstacle = REASONS["a"]

    def load(self, tasks: list[Task], what: frozenset[str]) -> None:
        for task in tasks:
            fields: Mapping[str, bytes] | None = task.handle.fields
            if fields is not None and "headers" in what:
                task.headers = {name: text(value) for name, value in fields.items()}
            if fields is not None and "fields" in what:
                task.fields = task.handle.told()

    def apply(self, decisions: list[Decision]) -> list[str]:
        source = self._source
        keys = [source.key, self._moved_key]
        arguments: list[Any] = [self._request.run or "", RUN_KEPT_S, source.group or "", source.mode, source.idle]
        numbers: dict[str, int] = {}
        for decision in decisions:
            into = self._streams.destination(decision.action, decision.destination)
            again = decision.action in ("requeue", "compensate")
            if into is None:
                number = 0
            elif into == source.key and source.mode != "pending":
                number = -1
            else:
                number = numbers.setdefault(into, len(numbers) + 1)
            what = "cn" if again else "p" if source.name in ("failed", "parked") else ""
            arguments += [decision.task.handle.id, raw(decision.task.id), number, what]
        with self._redis.asking("redrive") as client:
            answer = self._move_script(keys=keys + list(numbers), args=arguments, client=client)
        letters, _line, added = answer.partition(b"\n")
        outcomes = [chr(letter) for letter in letters]
        if self._request.breaker is not None:
            for decision, outcome, new in zip(decisions, outcomes, added.split(b",")):
                if outcome == "m" and decision.action in ("requeue", "compensate"):
                    self._sent[text(new)] = (decision.task.id, decision.destination or self._streams.queue)
        return [REASONS[outcome] for outcome in outcomes]

    # The breaker

    def fates(self, moved: int) -> tuple[int, int]:
        """A task is settled once every group has been given it and has acknowledged it; it failed again if it is among the failed."""
        for queue in sorted({queue for _task, queue in self._sent.values()}):
            self._settle(queue, [entry for entry, (_task, named) in self._sent.items() if named == queue])
        return self._settled, self._again

    def _settle(self, queue: str, sent: list[str]) -> None:
        groups = self._streams.groups(queue)
        if not groups:
            raise Refused(
                "The consumer groups of the stream %s were removed meanwhile" % queue,
                option="breaker",
                still_true="The redrive has stopped",
            )
        open_ones: set[str] = set()
        with self._redis.asking("look what became of the tasks") as client:
            for group, delivered in groups.items():
                held = client.xpending_range(queue, group, sent[0], sent[-1], FATE_DEPTH)
                pending = {text(entry["message_id"]) for entry in held}
                # Beyond what was listed it is not known.
                known = order(text(held[-1]["message_id"])) if len(held) == FATE_DEPTH else order(delivered)
                open_ones.update(entry for entry in sent if entry in pending or order(entry) > min(known, order(delivered)))
        failed = self._streams.failed_of(queue)
        for window in self._streams.read(failed, self._failed_at[failed], "+"):
            self._failed.update(self._streams.identity(entry) for entry in window)
            self._failed_at[failed] = window[-1].id
        for entry in sent:
            if entry not in open_ones:
                task, _queue = self._sent.pop(entry)
                self._settled += 1
                if task in self._failed:
                    self._failed.discard(task)
                    self._again += 1


def time_of(entry_id: str) -> float | None:
    """Seconds since 1970 at which an entry was added, if its id is a time."""
    millis, _number = order(entry_id)
    return millis / 1000 if 10**12 <= millis < 10**13 else None


def order(entry_id: str) -> tuple[int, int]:
    """An entry's id as what it is ordered by."""
    millis, _dash, number = entry_id.partition("-")
    return int(millis), int(number or 0)
