# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every redrive of Celery on Redis shares: where tasks go, what is counted, and what became of them.

Each task is written anew here (headers only; the body stays as it is) and goes on in a script on the server, which first compares
what is stored with what was read: what has changed since is left alone.
"""

from __future__ import annotations

from typing import Any, Iterator

from .api import Decision, RedriveRequest, Task, TaskStore
from .celery_message import MOVED, body_of, call_of, failed_meta, headers_as_text, moved_envelope, read_object
from .celery_redis_keys import CeleryKeys
from .celery_redis_scripts import CARDS, IDS_OF_HELD, IDS_OF_LIST
from .redis_connection import RedisConnection
from .redis_scripts import MOVED_BEFORE, WINDOW_BYTES, raw

#: Why a task was not acted on, by the letter that the scripts answer with.
OUTCOMES = {"m": "", "a": MOVED_BEFORE, "g": "it was taken, or has changed, meanwhile"}


class CeleryStore(TaskStore):
    """What the three sources share: where tasks go, and what is counted."""

    batch = 200

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
        return [OUTCOMES[outcome] for outcome in outcomes]

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

    def _identities(self) -> Iterator[list[bytes]]:
        """Ids in the lists, and of what workers hold of these queues."""
        with self._redis.asking("read the tasks' ids") as client:
            for listed in self._places().values():
                for key in listed:
                    yield from list_ids(client, key)
            wanted = self._queues()
            routed = {raw(name) for queue in wanted for name in self._keys.routing_keys(client, queue)}
            cursor = b"0"
            while True:
                answer = client.eval(IDS_OF_HELD, 1, self._keys.unacked_key, cursor, 200)
                cursor, *parts = answer.split(b"\0")
                yield [parts[at] for at in range(0, len(parts), 2) if parts[at + 1] in routed]
                if cursor == b"0":
                    return

    def identities(self) -> Iterator[list[bytes]]:
        return self._identities()

    def fates(self, moved: int) -> tuple[int, int]:
        """By the results: one that our own mark is on is from before the redrive."""
        still = []
        with self._redis.asking("read the results of redriven tasks") as client:
            for first in range(0, len(self._waiting), self.batch):
                for piece in metas_of(client, self._keys, self._waiting[first : first + self.batch]):
                    for task, _moved, _redrives, result in piece:
                        meta = read_object(result) or {}
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


def list_ids(client: Any, key: str) -> Iterator[list[bytes]]:
    first = 0
    while True:
        answer = client.eval(IDS_OF_LIST, 1, key, first, 250)
        if not answer:
            return
        found = answer.split(b"\0")
        yield found
        first += len(found)


def metas_of(
    client: Any, keys: CeleryKeys, ids: list[str], moved: str = "", redrives: str = ""
) -> Iterator[list[tuple[str, bool, int, bytes]]]:
    """In pieces, of each task: its id, whether the run has moved it, how often it was redriven, and its result (empty: there is none)."""
    while ids:
        answer = client.eval(CARDS, 0, keys.db, keys.result_db, keys.meta_prefix, moved, redrives, WINDOW_BYTES, *ids)
        notes = [part.split(b",") for part in answer[0].split(b";")]
        yield [(task, note[0] == b"1", int(note[1] or 0), result) for task, note, result in zip(ids, notes, answer[1:])]
        ids = ids[len(answer) - 1 :]
