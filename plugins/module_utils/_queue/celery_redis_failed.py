# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The failed tasks that a redrive of Celery on Redis takes: results with the state FAILURE."""

from __future__ import annotations

import heapq
import itertools
import struct
import uuid
from typing import Any, Collection, Iterator

from .._errors import Refused
from .api import Census, Decision, RedriveRequest, Task, version_and_host
from .celery_message import MOVED, NO_ARGUMENTS, envelope_of_meta, error_of_meta, marked_meta, meta_obstacle, parse_time, read_object
from .celery_redis_keys import CeleryKeys
from .celery_redis_scripts import ACT_META, SCAN_METAS
from .celery_redis_store import OUTCOMES, CeleryStore, metas_of
from .redis_connection import RedisConnection
from .redis_scripts import RUN_KEPT_S, raw


def scan_failed(client: Any, keys: CeleryKeys, routed: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """When it ended, id and routing key (empty: not recorded) of each failed result that is not of another queue."""
    cursor = "0"
    while True:
        answer = client.eval(SCAN_METAS, 0, keys.result_db, keys.meta_prefix, cursor, 100, MOVED, "\0".join(routed))
        parts = answer.decode("utf-8", "surrogateescape").split("\0")
        cursor = parts[0]
        for at in range(1, len(parts) - 2, 3):
            yield parts[at], parts[at + 1], parts[at + 2]
        if cursor == "0":
            return


#: An id is packed to these bytes where it is a usual UUID.
_UUID, _TEXT = b"\0", b"\1"
#: In front of each packed entry: its length.
_LENGTH = struct.Struct(">H")


class ByAge:
    """Ids, the oldest first and each once, at some 30 bytes an id: sorted a part at a time, and merged when they are read."""

    def __init__(self, part: int = 50000) -> None:
        self._part = part
        self._sorted: list[bytes] = []
        self._open: list[bytes] = []

    def add(self, ended: float, task: str) -> None:
        """Note a task that ended at ``ended`` (seconds since 1970)."""
        self._open.append(_pack(ended, task))
        if len(self._open) >= self._part:
            self._close()

    def _close(self) -> None:
        if not self._open:
            return
        self._open.sort()
        self._sorted.append(b"".join(_LENGTH.pack(len(entry)) + entry for entry in self._open))
        self._open = []

    def __iter__(self) -> Iterator[str]:
        self._close()
        last = b""
        for entry in heapq.merge(*map(_entries, self._sorted)):
            if entry != last:
                last = entry
                yield _unpack(entry)


def _entries(part: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(part):
        end = at + _LENGTH.size + _LENGTH.unpack_from(part, at)[0]
        yield part[at + _LENGTH.size : end]
        at = end


def _pack(ended: float, task: str) -> bytes:
    try:
        small = uuid.UUID(task)
        packed = _UUID + small.bytes if str(small) == task else _TEXT + task.encode("utf-8", "surrogateescape")
    except ValueError:
        packed = _TEXT + task.encode("utf-8", "surrogateescape")
    return struct.pack(">d", max(ended, 0.0)) + packed


def _unpack(entry: bytes) -> str:
    kind, rest = entry[8:9], entry[9:]
    return str(uuid.UUID(bytes=rest)) if kind == _UUID else rest.decode("utf-8", "surrogateescape")


#: With late acknowledgement, Celery stores a failure before the message is acknowledged; one that is not by then is delivered again.
_COMING_BACK = "its message was not acknowledged, so that Celery delivers it again by itself"
_TOO_MANY = (
    "Workers hold too many messages to compare: a task whose failure was stored and whose message was not acknowledged, because its"
    " worker was stopped in between, is run twice"
)


class FailedStore(CeleryStore):
    """The source failed: results with the state FAILURE, each a key of its own; found by a walk over the database's keys."""

    def __init__(self, redis: RedisConnection, keys: CeleryKeys, request: RedriveRequest, check: bool) -> None:
        super().__init__(redis, keys, request, check)
        #: Failed results that do not tell their queue.
        self._without = 0
        self._named = self._named_ids()
        with redis.asking("look for failed tasks") as client:
            self._routed = sorted(keys.routing_keys(client, request.queue))
            self._index: ByAge | list[str] = self._find(client) if self._named is None else self._named
        self._count = sum(1 for _task in self._index)
        # The walk that has just been done need not be done again to take stock.
        self._fresh = self._named is None
        if self._without and not self._count:
            raise Refused(
                "Celery's %d failed results at %s cannot be redriven: %s" % (self._without, redis.where, NO_ARGUMENTS.partition(";")[0]),
                option="source",
                next_step="Set result_extended=True in Celery's configuration, so that the next failures hold what is needed",
            )

    def _named_ids(self) -> list[str] | None:
        """If every rule names ids, those: they are looked up without a walk."""
        named = [rule.match.ids for rule in self._request.rules]
        return list(dict.fromkeys(task for ids in named for task in ids or ())) if all(ids is not None for ids in named) else None

    def _find(self, client: Any) -> ByAge:
        # A walk may show a key twice.
        found, self._without = ByAge(), 0
        for ended, task, queue in scan_failed(client, self._keys, self._routed):
            if queue:
                found.add(parse_time(ended) or 0.0, task)
            else:
                self._without += 1
        return found

    def census(self) -> Census:
        return Census(dict([("failed", self._count)], **self._counts()))

    def identities(self) -> Iterator[list[bytes]]:
        if not self._fresh:
            self._index = []
            with self._redis.asking("read the tasks' ids") as client:
                self._index = self._find(client)
        self._count = 0
        for ids in self._pieces():
            self._count += len(ids)
            yield [raw(task) for task in ids]
        self._index = self._index if self._named is None else self._named
        self._fresh = False
        yield from super().identities()

    def _pieces(self) -> Iterator[list[str]]:
        tasks = iter(self._index)
        while True:
            ids = list(itertools.islice(tasks, self.batch))
            if not ids:
                return
            yield ids

    def windows(self) -> Iterator[list[Task]]:
        for ids in self._pieces():
            with self._redis.asking("read what workers have in hand") as client:
                coming_back = self._keys.coming_back(client, self._request.queue)
            if coming_back is None and _TOO_MANY not in self.warnings:
                self.warnings = [*self.warnings, _TOO_MANY]
            pieces = metas_of(self._redis.client, self._keys, ids, self._moved, self._keys.redrives(self._request.queue))
            while True:
                with self._redis.asking("read the failed tasks"):
                    piece = next(pieces, None)
                if piece is None:
                    break
                tasks = [self._task(*told) for told in piece]
                for task in tasks:
                    if task.obstacle is None and task.id in (coming_back or ()):
                        task.obstacle = _COMING_BACK
                yield tasks
        if self._without:
            # They may be of any queue, and cannot be left out silently.
            yield [Task("unknown", obstacle=NO_ARGUMENTS) for _index in range(self._without)]

    def load(self, tasks: list[Task], what: frozenset[str]) -> None:
        """All that a result tells has been filled in; it holds no headers."""

    def _task(self, task_id: str, moved_before: bool, redrives: int, result: bytes) -> Task:
        meta = read_object(result) or {}
        worker = meta.get("worker")
        task = Task(
            task_id,
            name=meta.get("name") if isinstance(meta.get("name"), str) else None,
            version=version_and_host(worker)[0] if isinstance(worker, str) else None,
            ended_at=parse_time(meta.get("date_done")),
            redrives=redrives,
        )
        task.error = error_of_meta(meta)
        task.handle = (result, meta)
        if isinstance(meta.get("args"), list):
            task.fields = {"args": meta["args"], "kwargs": meta.get("kwargs")}
        if moved_before:
            task.obstacle = OUTCOMES["a"]
        elif meta.get("status") != "FAILURE" or meta.get(MOVED) is not None:
            task.obstacle = "it is not among the failed tasks"
        elif str(meta.get("queue")) not in self._routed:
            task.obstacle = NO_ARGUMENTS if meta.get("queue") is None else "it is a task of another queue"
        else:
            task.obstacle = meta_obstacle(meta)
        return task

    def apply(self, decisions: list[Decision]) -> list[str]:
        arguments: list[Any] = []
        for decision in decisions:
            result, meta = decision.task.handle
            envelope = envelope_of_meta(meta, self._request.queue, decision.task.redrives)
            push, message = self._go(decision, envelope)
            changed = marked_meta(meta, decision.action, self._request.run)
            if decision.action in ("discard", "fail"):
                # A failed task that is to be one stays as it is.
                changed = b"" if decision.action == "discard" else result
            counts = "1" if decision.action in ("requeue", "compensate") else ""
            arguments += [decision.task.id, result, push, message, changed, counts]
        keys = self._keys
        lead = [self._moved, RUN_KEPT_S, keys.db, keys.result_db, keys.meta_prefix, keys.redrives(self._request.queue)]
        with self._redis.asking("redrive") as client:
            letters = client.eval(ACT_META, 0, *lead, *arguments).decode()
        return self._note(decisions, letters)
