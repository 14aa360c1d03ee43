# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The messages that a redrive of Celery on Redis takes: of lists, and of what workers hold unacknowledged."""

from __future__ import annotations

import uuid
from typing import Any, Iterator

from .._errors import Refused
from .api import Census, Decision, RedriveRequest, Task
from .celery_message import NOT_CELERY, body_of, count_of, identity, name_of, read_envelope, read_object
from .celery_redis_keys import CeleryKeys
from .celery_redis_scripts import ACT_HELD, ACT_LIST, WINDOW
from .celery_redis_store import OUTCOMES, CeleryStore
from .redis_connection import RedisConnection
from .redis_scripts import RUN_KEPT_S, WINDOW_BYTES


class ListStore(CeleryStore):
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
                    answer = client.eval(WINDOW, 1, key, skip, size, WINDOW_BYTES, anchor)
                    skip = int(answer[0])
                    tasks = self._tasks(client, key, skip, answer[1:])
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
                    task.obstacle = OUTCOMES["a"]
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
            lead = [self._moved, RUN_KEPT_S, self._keys.db, self._keys.result_db, min(places), max(places), "queueops:%s" % uuid.uuid4()]
            with self._redis.asking("redrive") as client:
                letters = client.eval(ACT_LIST, 1, key, *lead, *arguments).decode()
            told = self._note([decisions[index] for index in indexes], letters)
            for index, text, letter in zip(indexes, told, letters):
                outcomes[index] = text
                if letter in "mg":
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


class HeldStore(CeleryStore):
    """The sources executing and abandoned: what kombu keeps of messages that were taken and not acknowledged."""

    def __init__(self, redis: RedisConnection, keys: CeleryKeys, request: RedriveRequest, check: bool) -> None:
        super().__init__(redis, keys, request, check)
        with redis.asking("look for unacknowledged tasks") as client:
            self._routed = keys.routing_keys(client, request.queue)
            self._tags = [tag for tag, _score in client.zrange(keys.index_key, 0, -1, withscores=True)]

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
                        task.obstacle = OUTCOMES["a"]
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
        lead = [self._moved, RUN_KEPT_S, self._keys.db, self._keys.result_db]
        with self._redis.asking("redrive") as client:
            letters = client.eval(ACT_HELD, 2, self._keys.unacked_key, self._keys.index_key, *lead, *arguments).decode()
        return self._note(decisions, letters)
