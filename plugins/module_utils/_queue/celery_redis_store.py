# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks that a redrive of Celery on Redis takes: of lists, of what workers hold unacknowledged, and of failed results.

Each task is written anew here (headers only; the body stays as it is) and goes on in a script on the server, which first compares
what is stored with what was read: what has changed since is left alone.
"""

from __future__ import annotations

import struct
import uuid
from typing import Any, Collection, Iterator

from .._errors import NotFound, Refused
from .api import Census, Decision, QueueBackend, RedriveRequest, Task, TaskStore, version_and_host
from .celery_message import (
    MOVED,
    NO_ARGUMENTS,
    NOT_CELERY,
    body_of,
    call_of,
    count_of,
    envelope_of_meta,
    error_of_meta,
    failed_meta,
    headers_as_text,
    identity,
    marked_meta,
    meta_obstacle,
    moved_envelope,
    name_of,
    parse_time,
    read_envelope,
    read_object,
)
from .celery_redis_keys import CeleryKeys, Mailbox
from .celery_redis_scripts import ACT_HELD, ACT_LIST, ACT_META, CARDS, IDS_OF_HELD, IDS_OF_LIST, KEPT_S, SCAN_METAS, WINDOW
from .redis_connection import RedisConnection

_OUTCOMES = {
    "m": "",
    "a": "already moved by this run",
    "g": "it was taken, or has changed, meanwhile",
}


def open_redis_store(
    backend: QueueBackend, redis: RedisConnection, keys: CeleryKeys, mailbox: Mailbox, request: RedriveRequest, check: bool
) -> TaskStore:
    """The store for the source of ``request``.

    :raises NotFound: the queue, the source or a destination does not exist.
    :raises Refused: the server takes no writes, workers live that may hold abandoned tasks, results hold no arguments.
    """
    if not check:
        redis.require_writable("redrive")
    source = request.source
    for rule in request.rules:
        if rule.action == "park" and source == "parked":
            raise Refused("Tasks of the source parked are parked already", option="rules", next_step="Use another action")
        if rule.action == "dead_letter" and source == "dead_lettered":
            raise Refused("Tasks of the source dead_lettered are dead-lettered already", option="rules", next_step="Use another action")
    with redis.asking("find the queues") as client:
        _require_queues(client, redis, keys, request)
    if source == "failed":
        return FailedStore(redis, keys, request, check)
    if source in ("executing", "abandoned"):
        return HeldStore(redis, keys, mailbox, request, check)
    return ListStore(redis, keys, request, check)


def _require_queues(client: Any, redis: RedisConnection, keys: CeleryKeys, request: RedriveRequest) -> None:
    wanted = [("queue", request.queue)]
    if request.source not in ("failed", "parked", "dead_lettered", "queued", "executing", "abandoned"):
        wanted.append(("source", request.source))
    wanted.extend(("destination", rule.destination) for rule in request.rules if rule.destination)
    for option, queue in wanted:
        # A queue all of whose tasks were set aside or are in hand may have neither a binding nor a list.
        if keys.exists(client, queue) or (option == "queue" and client.exists(keys.parked(queue), keys.pause(queue))):
            continue
        if option == "queue" and (keys.unacked(client).by_queue or {}).get(queue):
            continue
        if queue in (keys.find_queues(client, 200000) or []):
            continue
        raise NotFound(
            "There is no queue %s at %s" % (queue, redis.where),
            option=option,
            next_step="Check the name; a queue exists once a worker consumes it or a task was published to it",
        )


class _Store(TaskStore):
    """What the three sources share: where tasks go, and what is counted."""

    batch = 250

    def __init__(self, redis: RedisConnection, keys: CeleryKeys, request: RedriveRequest, check: bool) -> None:
        self._redis = redis
        self._keys = keys
        self._request = request
        self._check = check
        self._moved = keys.moved(request.run)
        self._waiting: list[str] = []
        self._known = self._failed = 0

    def now(self) -> float:
        with self._redis.asking("read the time") as client:
            seconds, micros = client.time()
        return float(seconds) + float(micros) / 1e6

    # Where a task goes

    def _home(self, decision: Decision) -> str:
        """The queue that a decision sends its task to."""
        if decision.action == "dead_letter":
            return self._keys.dead_letter(self._request.queue)
        return decision.destination or self._request.queue

    def _go(self, decision: Decision, envelope: dict[str, Any]) -> tuple[str, bytes]:
        """The list that the message is pushed to, and the message; an empty name: to none."""
        action, queue = decision.action, self._home(decision)
        if action in ("discard", "fail"):
            return "", b""
        going = moved_envelope(envelope, queue, self._request.run, action in ("requeue", "compensate"), action == "compensate")
        if action == "park":
            return self._keys.parked(self._request.queue), going
        priority = envelope["properties"].get("priority")
        return self._keys.list_of(queue, priority if isinstance(priority, int) else 0), going

    def _failure(self, decision: Decision, envelope: dict[str, Any], now: float) -> tuple[str, bytes]:
        """The key and value of the result that a rule with ``fail`` writes; empty for any other."""
        if decision.action != "fail":
            return "", b""
        task = decision.task.id
        return self._keys.meta_prefix + task, failed_meta(envelope, task, self._request.queue, now)

    def _note(self, decisions: list[Decision], outcomes: str) -> list[str]:
        if self._request.breaker is not None:
            for decision, outcome in zip(decisions, outcomes):
                if outcome == "m" and decision.action in ("requeue", "compensate"):
                    self._waiting.append(decision.task.id)
        return [_OUTCOMES[outcome] for outcome in outcomes]

    def load(self, tasks: list[Task], what: frozenset[str]) -> None:
        for task in tasks:
            envelope = task.handle[-1]
            if envelope is None:
                continue
            if "headers" in what:
                task.headers = headers_as_text(envelope["headers"])
            if "fields" in what:
                task.fields = call_of(body_of(envelope))

    # What is counted

    def _queues(self) -> list[str]:
        """Every queue that this redrive may touch."""
        found = [self._request.queue]
        found.extend(rule.destination for rule in self._request.rules if rule.destination)
        if self._keys.has_dead_letter:
            found.append(self._keys.dead_letter(self._request.queue))
        return list(dict.fromkeys(found))

    def _places(self) -> dict[str, list[str]]:
        """Name of a place -> its lists; no list is in two places."""
        keys, queue = self._keys, self._request.queue
        places = {"queued": [key for name in self._queues() for key in keys.lists(name)], "parked": [keys.parked(queue)]}
        if keys.has_dead_letter:
            dead = keys.lists(keys.dead_letter(queue))
            places["queued"] = [key for key in places["queued"] if key not in dead]
            places["dead_lettered"] = dead
        return places

    def _counts(self) -> dict[str, int]:
        places = self._places()
        with self._redis.asking("count the tasks") as client:

            def ask(pipe: Any) -> None:
                pipe.hlen(self._keys.unacked_key)
                for listed in places.values():
                    for key in listed:
                        pipe.llen(key)

            answers = iter(self._redis.together(client, ask))
        held = int(next(answers))
        counts = {name: sum(int(next(answers)) for _key in listed) for name, listed in places.items()}
        counts["unacknowledged"] = held
        return counts

    def _identities(self) -> Iterator[list[str]]:
        """Ids in the lists, and of what workers hold of these queues."""
        with self._redis.asking("read the tasks' ids") as client:
            for listed in self._places().values():
                for key in listed:
                    yield from _list_ids(client, key)
            wanted = self._queues()
            routed = {name for queue in wanted for name in self._keys.routing_keys(client, queue)}
            cursor = "0"
            while True:
                answer = client.eval(IDS_OF_HELD, 1, self._keys.unacked_key, cursor, 200)
                parts = answer.decode("utf-8", "surrogateescape").split("\0")
                cursor = parts[0]
                yield [parts[at] for at in range(1, len(parts) - 1, 2) if parts[at + 1] in routed]
                if cursor == "0":
                    return

    def identities(self) -> Iterator[list[str]]:
        return self._identities()

    def fates(self, moved: int) -> tuple[int, int]:
        """By the results: one that our own mark is on is from before the redrive."""
        still = []
        with self._redis.asking("read the results of redriven tasks") as client:
            for first in range(0, len(self._waiting), self.batch):
                part = self._waiting[first : first + self.batch]
                for task, raw in zip(part, _metas(client, self._keys, part)[1]):
                    meta = read_object(raw) or {}
                    status = meta.get("status")
                    if meta.get(MOVED) is not None or status not in ("SUCCESS", "FAILURE", "REVOKED"):
                        still.append(task)
                        continue
                    self._known += 1
                    self._failed += status != "SUCCESS"
        self._waiting = still
        return self._known, self._failed

    def close(self) -> None:
        self._redis.client.close()


def _list_ids(client: Any, key: str) -> Iterator[list[str]]:
    first = 0
    while True:
        answer = client.eval(IDS_OF_LIST, 1, key, first, 250)
        if not answer:
            return
        found = answer.decode("utf-8", "surrogateescape").split("\0")
        yield found
        first += len(found)


def _metas(
    client: Any, keys: CeleryKeys, ids: list[str], moved: str = "", redrives: str = ""
) -> tuple[list[tuple[bool, int]], list[bytes]]:
    """Of each task: whether the run has moved it and how often it was redriven; and its result, empty if there is none."""
    if not ids:
        return [], []
    answer = client.eval(CARDS, 0, keys.db, keys.result_db, keys.meta_prefix, moved, redrives, *ids)
    notes = [part.split(",") for part in answer[0].decode().split(";")]
    return [(moved_before == "1", int(count or 0)) for moved_before, count in notes], answer[1:]


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


class ListStore(_Store):
    """The sources queued, parked, dead_lettered and other: lists of messages, the oldest on the right."""

    def __init__(self, redis: RedisConnection, keys: CeleryKeys, request: RedriveRequest, check: bool) -> None:
        super().__init__(redis, keys, request, check)
        source = request.source
        self._place = source
        if source == "parked":
            self._lists = [keys.parked(request.queue)]
        elif source == "dead_lettered":
            self._lists = keys.lists(keys.dead_letter(request.queue))
        else:
            self._lists = keys.lists(request.queue if source == "queued" else source)
        for rule in request.rules:
            if rule.action in ("requeue", "compensate") and keys.list_of(rule.destination or request.queue) in self._lists:
                raise Refused(
                    "The tasks of the source %s are in the queue %s already" % (source, rule.destination or request.queue),
                    option="rules",
                    next_step="Name another queue in the rule's destination",
                )
        with redis.asking("count the tasks") as client:
            self._ends = {key: int(client.llen(key)) for key in self._lists}
        self._gone = 0

    def _places(self) -> dict[str, list[str]]:
        places = {self._place: self._lists}
        for name, listed in super()._places().items():
            rest = [key for key in listed if key not in self._lists]
            places[name] = places.get(name, []) + rest
        return places

    def census(self) -> Census:
        return Census(self._counts())

    def windows(self) -> Iterator[list[Task]]:
        """From the right, in the order in which workers take. The anchor is the last task that was left where it is."""
        wanted = frozenset(self._request.rules[0].match.ids or ()) if len(self._request.rules) == 1 else frozenset()
        for key in self._lists:
            walked, skip, anchor = 0, 0, b""
            while walked < self._ends[key]:
                size = min(self.batch, self._ends[key] - walked)
                with self._redis.asking("read the tasks") as client:
                    answer = client.eval(WINDOW, 1, key, skip, size, anchor)
                    skip, raws = int(answer[0]), answer[1:][::-1]
                    tasks = self._tasks(client, key, skip, raws)
                if not tasks:
                    break
                self._gone = 0
                yield [task for task in tasks if not wanted or task.id in wanted]
                walked += len(tasks)
                skip += len(tasks) - self._gone
                left = [task for task in tasks if task.handle[3]]
                anchor = left[-1].handle[1] if left else anchor

    def _tasks(self, client: Any, key: str, skip: int, raws: list[bytes]) -> list[Task]:
        found = []
        for index, raw in enumerate(raws):
            envelope = read_envelope(raw)
            headers = envelope["headers"] if envelope else {}
            correlation = envelope["properties"].get("correlation_id") if envelope else None
            task = Task(identity(raw, headers, correlation), redrives=count_of(headers))
            # The list, the message, how far it was from the right, whether it is still there, and the message read.
            task.handle = [key, raw, skip + index + 1, True, envelope]
            _fill(task, envelope)
            found.append(task)
        if self._moved and found:
            pipe = client.pipeline(transaction=False)
            for task in found:
                pipe.sismember(self._moved, task.id)
            for task, before in zip(found, pipe.execute()):
                if before and task.obstacle is None:
                    task.obstacle = _OUTCOMES["a"]
        return found

    def apply(self, decisions: list[Decision]) -> list[str]:
        now = self.now() if any(decision.action == "fail" for decision in decisions) else 0.0
        outcomes = [""] * len(decisions)
        by_list: dict[str, list[int]] = {}
        for index, decision in enumerate(decisions):
            by_list.setdefault(decision.task.handle[0], []).append(index)
        for key, indexes in by_list.items():
            arguments: list[Any] = []
            for index in indexes:
                decision = decisions[index]
                _key, raw, _position, _there, envelope = decision.task.handle
                push, message = self._go(decision, envelope)
                meta, failure = self._failure(decision, envelope, now)
                arguments += [decision.task.id, raw, push, message, meta, failure]
            places = [decisions[index].task.handle[2] for index in indexes]
            lead = [self._moved, KEPT_S, self._keys.db, self._keys.result_db, min(places), max(places), "queueops:%s" % uuid.uuid4()]
            with self._redis.asking("redrive") as client:
                letters = client.eval(ACT_LIST, 1, key, *lead, *arguments).decode()
            told = self._note([decisions[index] for index in indexes], letters)
            for index, text, letter in zip(indexes, told, letters):
                outcomes[index] = text
                if letter == "m":
                    decisions[index].task.handle[3] = False
                    self._gone += 1
        return outcomes


def _fill(task: Task, envelope: dict[str, Any] | None) -> None:
    """What a message tells of its task at a glance."""
    if envelope is None:
        task.obstacle = NOT_CELERY
        return
    headers = envelope["headers"]
    task.name = name_of(headers, None if "task" in headers else body_of(envelope))


class HeldStore(_Store):
    """The sources executing and abandoned: what kombu keeps of messages that were taken and not acknowledged."""

    def __init__(self, redis: RedisConnection, keys: CeleryKeys, mailbox: Mailbox, request: RedriveRequest, check: bool) -> None:
        super().__init__(redis, keys, request, check)
        self._mailbox = mailbox
        with redis.asking("look for workers") as client:
            self._require_no_worker(client)
            self._routed = keys.routing_keys(client, request.queue)
            self._tags = [tag for tag, _score in client.zrange(keys.index_key, 0, -1, withscores=True)]

    def _require_no_worker(self, client: Any) -> None:
        """Only when nobody listens and nobody takes can nothing of it be in hand."""
        if self._request.source != "abandoned":
            return
        listening = self._mailbox.listening(client)
        try:
            clients = client.client_list()
        except self._redis.redis.exceptions.NoPermissionError:
            clients = None
        taking = [one for one in clients or [] if one.get("cmd") == "brpop" and str(one.get("db")) == str(self._keys.db)]
        if listening or taking or clients is None:
            seen = "%d workers listen" % listening if listening else "%d clients wait for tasks" % len(taking)
            raise Refused(
                "It cannot be told which unacknowledged tasks at %s are abandoned: %s"
                % (self._redis.where, seen if clients is not None else "the broker's user may not list clients"),
                option="source",
                next_step="Stop every Celery worker of this database first, or wait for the visibility time-out, after which they go back",
            )

    def census(self) -> Census:
        counts = self._counts()
        return Census(dict([(self._request.source, counts.pop("unacknowledged"))], **counts))

    def windows(self) -> Iterator[list[Task]]:
        """In the order in which they were taken."""
        for first in range(0, len(self._tags), self.batch):
            tags = self._tags[first : first + self.batch]
            with self._redis.asking("read the tasks") as client:
                raws = client.hmget(self._keys.unacked_key, tags)
                tasks = [task for tag, raw in zip(tags, raws) for task in self._task(tag, raw)]
                pipe = client.pipeline(transaction=False)
                for task in tasks:
                    pipe.sismember(self._moved, task.id)
                for task, before in zip(tasks, pipe.execute() if self._moved and tasks else []):
                    if before and task.obstacle is None:
                        task.obstacle = _OUTCOMES["a"]
            if tasks:
                yield tasks

    def _task(self, tag: bytes, raw: bytes | None) -> list[Task]:
        try:
            held = None if raw is None else read_object(b'{"held": %s}' % raw)
            message, _exchange, routing_key = held["held"] if held else (None, "", "")
        except (TypeError, ValueError):
            return []
        if raw is None or routing_key not in self._routed or not isinstance(message, dict):
            return []
        envelope = message if isinstance(message.get("headers"), dict) and isinstance(message.get("properties"), dict) else None
        headers = envelope["headers"] if envelope else {}
        correlation = envelope["properties"].get("correlation_id") if envelope else None
        task = Task(identity(raw, headers, correlation), redrives=count_of(headers), handle=[tag, raw, envelope])
        _fill(task, envelope)
        return [task]

    def apply(self, decisions: list[Decision]) -> list[str]:
        now = self.now() if any(decision.action == "fail" for decision in decisions) else 0.0
        arguments: list[Any] = []
        for decision in decisions:
            tag, raw, envelope = decision.task.handle
            # As kombu marks what it restores.
            envelope = dict(envelope, headers=dict(envelope["headers"], redelivered=True))
            push, message = self._go(decision, envelope)
            meta, failure = self._failure(decision, envelope, now)
            arguments += [decision.task.id, tag, raw, push, message, meta, failure]
        lead = [self._moved, KEPT_S, self._keys.db, self._keys.result_db]
        with self._redis.asking("redrive") as client:
            self._require_no_worker(client)
            letters = client.eval(ACT_HELD, 2, self._keys.unacked_key, self._keys.index_key, *lead, *arguments).decode()
        return self._note(decisions, letters)


#: An id is packed to these bytes where it is a usual UUID, so that a million of them can be sorted by age in 80 MB.
_UUID, _TEXT = b"\0", b"\1"


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


class FailedStore(_Store):
    """The source failed: results with the state FAILURE, each a key of its own; found by a walk over the database's keys."""

    def __init__(self, redis: RedisConnection, keys: CeleryKeys, request: RedriveRequest, check: bool) -> None:
        super().__init__(redis, keys, request, check)
        with redis.asking("look for failed tasks") as client:
            self._routed = sorted(keys.routing_keys(client, request.queue))
            self._without = 0
            ids = self._named_ids()
            if ids is not None:
                self._index = [_pack(0.0, task) for task in ids]
            else:
                self._index = self._find(client)
        if self._without and not self._index:
            raise Refused(
                "Celery's %d failed results at %s cannot be redriven: %s" % (self._without, redis.where, NO_ARGUMENTS.partition(";")[0]),
                option="source",
                next_step="Set result_extended=True in Celery's configuration, so that the next failures hold what is needed",
            )
        self._count = len(self._index)

    def _named_ids(self) -> list[str] | None:
        """If every rule names ids, those: they are looked up without a walk."""
        named = [rule.match.ids for rule in self._request.rules]
        return list(dict.fromkeys(task for ids in named for task in ids or ())) if all(ids is not None for ids in named) else None

    def _find(self, client: Any) -> list[bytes]:
        found: list[bytes] = []
        self._without = 0
        for ended, task, queue in scan_failed(client, self._keys, self._routed):
            if not queue:
                self._without += 1
            else:
                found.append(_pack(parse_time(ended) or 0.0, task))
        found.sort()
        # A walk may show a key twice.
        return [entry for at, entry in enumerate(found) if at == 0 or entry != found[at - 1]]

    def census(self) -> Census:
        return Census(dict([("failed", self._count)], **self._counts()))

    def identities(self) -> Iterator[list[str]]:
        with self._redis.asking("read the tasks' ids") as client:
            found = self._find(client)
        self._count = len(found)
        for first in range(0, len(found), self.batch):
            yield [_unpack(entry) for entry in found[first : first + self.batch]]
        yield from super().identities()

    def windows(self) -> Iterator[list[Task]]:
        for first in range(0, len(self._index), self.batch):
            ids = [_unpack(entry) for entry in self._index[first : first + self.batch]]
            with self._redis.asking("read the failed tasks") as client:
                notes, raws = _metas(client, self._keys, ids, self._moved, self._keys.redrives(self._request.queue))
            yield [self._task(task, note, raw) for task, note, raw in zip(ids, notes, raws)]
        if self._without:
            # They may be of any queue, and cannot be left out silently.
            yield [Task("unknown", obstacle=NO_ARGUMENTS) for _index in range(self._without)]

    def load(self, tasks: list[Task], what: frozenset[str]) -> None:
        """All that a result tells has been filled in; it holds no headers."""

    def _task(self, task_id: str, note: tuple[bool, int], raw: bytes) -> Task:
        moved_before, redrives = note
        meta = read_object(raw) or {}
        worker = meta.get("worker")
        task = Task(
            task_id,
            name=meta.get("name") if isinstance(meta.get("name"), str) else None,
            version=version_and_host(worker)[0] if isinstance(worker, str) else None,
            ended_at=parse_time(meta.get("date_done")),
            redrives=redrives,
        )
        task.error = error_of_meta(meta)
        task.handle = (raw, meta)
        if isinstance(meta.get("args"), list):
            task.fields = {"args": meta["args"], "kwargs": meta.get("kwargs")}
        if moved_before:
            task.obstacle = _OUTCOMES["a"]
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
            raw, meta = decision.task.handle
            envelope = envelope_of_meta(meta, self._request.queue, decision.task.redrives)
            push, message = self._go(decision, envelope)
            changed = marked_meta(meta, decision.action, self._request.run)
            if decision.action in ("discard", "fail"):
                # A failed task that is to be one stays as it is.
                changed = b"" if decision.action == "discard" else raw
            counts = "1" if decision.action in ("requeue", "compensate") else ""
            arguments += [decision.task.id, raw, push, message, changed, counts]
        keys = self._keys
        lead = [self._moved, KEPT_S, keys.db, keys.result_db, keys.meta_prefix, keys.redrives(self._request.queue)]
        with self._redis.asking("redrive") as client:
            letters = client.eval(ACT_META, 0, *lead, *arguments).decode()
        return self._note(decisions, letters)
