# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Celery workers on Redis have in hand that stop or were killed, and whether it would be lost with them.

Kombu keeps what is not acknowledged, and does not say whose it is. A worker that has been told to stop does not listen any more. So what is
unacknowledged and in the hands of no worker that listens is in those of workers that stop, or were killed; which one of them is not told.
A worker does not tell of a task that waits for its rate limit, so where a task has one, that cannot be told at all.

A task that is acknowledged before it runs, which is Celery's default, is nowhere on the broker and would be lost with its worker. Which
tasks are so a worker tells as long as it listens (``lost_with``).
"""

from __future__ import annotations

from typing import Any, Callable, Iterator, Mapping

from .._errors import Refused, Unavailable
from .api import Census, Decision, RedriveRequest, Task, version_and_host
from .celery_control import Answers, held_by
from .celery_redis_keys import CeleryKeys, Mailbox
from .celery_redis_messages import HeldStore
from .redis_connection import RedisConnection

_IN_HAND: dict[str, dict[str, Any]] = {"active": {"safe": True}, "reserved": {}, "scheduled": {}}
_RATE_LIMITS: dict[str, dict[str, Any]] = {"registered": {"taskinfoitems": ["rate_limit"]}}
_REGISTERED: dict[str, dict[str, Any]] = {"registered": {"taskinfoitems": ["acks_late"]}}
#: Tasks that are named in a sentence.
NAMED = 5


class InHandStore(HeldStore):
    """The unacknowledged tasks of one queue that no listening worker has in hand; whose they are cannot be told."""

    def __init__(self, redis: RedisConnection, keys: CeleryKeys, mailbox: Mailbox, request: RedriveRequest, check: bool) -> None:
        super().__init__(redis, keys, request, check)
        silent = _in_no_hand(redis, keys, mailbox, "held_by")
        self.held = sum(len(ids) for ids in silent.values())
        self._silent = silent.get(request.queue, set())

    def windows(self) -> Iterator[list[Task]]:
        for window in super().windows():
            yield [task for task in window if task.id in self._silent]


class AbandonedStore(HeldStore):
    """The unacknowledged tasks of one queue, when nobody listens and nobody takes: only then can nothing of it be in hand.

    While workers listen there may be none of it, when those have in hand all that is unacknowledged; else it is refused.
    """

    def __init__(
        self, redis: RedisConnection, keys: CeleryKeys, mailbox: Mailbox, asks: bool, request: RedriveRequest, check: bool
    ) -> None:
        super().__init__(redis, keys, request, check)
        self._mailbox = mailbox
        with redis.asking("look for workers") as client:
            self._there = self._who_takes(client)
        if self._there:
            self._require_none(asks)
            self._tags = []

    def _who_takes(self, client: Any) -> str:
        """What speaks for a worker that is there; empty: nothing does."""
        listening = self._mailbox.listening(client)
        if listening:
            return "%d workers listen" % listening
        try:
            taking = [one for one in self._redis.neighbours() if one.get("cmd") == "brpop"]
        except self._redis.redis.exceptions.NoPermissionError:
            return "the broker's user may not list clients"
        return "%d clients wait for tasks" % len(taking) if taking else ""

    def _require_none(self, asks: bool) -> None:
        with self._redis.asking("look for unacknowledged tasks") as client:
            held = self._keys.unacked(client)
        if held.by_queue is not None and not held.by_queue.get(self._request.queue):
            return
        if not asks:
            raise self._refused("%s, and they were not asked (ask_workers=false)" % self._there)
        silent = _in_no_hand(self._redis, self._keys, self._mailbox, "source").get(self._request.queue)
        if silent:
            raise self._refused("%s, and %d of %s are in the hands of none that answers" % (self._there, len(silent), self._request.queue))

    def _refused(self, seen: str) -> Refused:
        return Refused(
            "It cannot be told which unacknowledged tasks at %s are abandoned: %s" % (self._redis.where, seen),
            option="source",
            next_step="Stop every Celery worker of this database first, or wait for the visibility time-out, after which they go back",
        )

    def census(self) -> Census:
        found = super().census()
        if self._there:
            found.counts["abandoned"] = 0
        return found

    def apply(self, decisions: list[Decision]) -> list[str]:
        with self._redis.asking("look for workers") as client:
            seen = self._who_takes(client)
        if seen:
            raise self._refused(seen)
        return super().apply(decisions)


def _in_no_hand(redis: RedisConnection, keys: CeleryKeys, mailbox: Mailbox, option: str) -> dict[str, set[str]]:
    """The unacknowledged tasks that no listening worker has in hand: queue to ids.

    :raises Unavailable: not every worker answered, there are too many to be compared, or one may wait for its rate limit.
    """
    with redis.asking("ask the workers what they have in hand") as client:
        # One that comes in meanwhile cannot be in an answer from before.
        before = keys.unacked(client)
        answers = mailbox.ask(client, {**_IN_HAND, **_RATE_LIMITS})
        held = before.still(keys.unacked(client))
    if not answers.complete:
        raise _silent(redis, mailbox, answers)
    if held.total and held.ids is None:
        raise Unavailable(
            "The workers at %s hold %d messages, too many to be compared one by one" % (redis.where, held.total),
            option=option,
            next_step="Wait until there are fewer",
        )
    listening = {str(task.get("id")) for node in answers.names() for _kind, task in held_by(answers, node)}
    silent = {queue: set(ids) - listening for queue, ids in (held.ids or {}).items()}
    limited = _tasks_with(answers.by.get("registered", {}), lambda told: "rate_limit=" in told)
    if limited and any(silent.values()):
        raise Unavailable(
            "The workers at %s do not tell which tasks wait for their rate limit (%s), so what one that is gone had in hand is not known"
            % (redis.where, _named(limited)),
            option=option,
            next_step="Wait until none of them waits, or redrive them by hand once all workers are stopped (source=abandoned)",
        )
    return silent


def lost_with(redis: RedisConnection, mailbox: Mailbox, version: str) -> str:
    """Why tasks would be lost if the workers of ``version`` were killed; empty: none would."""
    with redis.asking("ask the workers which tasks they acknowledge late") as client:
        answers = mailbox.ask(client, _REGISTERED)
    if not answers.complete:
        return _silent(redis, mailbox, answers).message
    told = {node: tasks for node, tasks in answers.by.get("registered", {}).items() if version_and_host(node)[0] == version}
    if not told:
        return "no listening worker has version %s in its name, so whether it acknowledges its tasks late is not known" % version
    early = _tasks_with(told, lambda task: "acks_late=True" not in task)
    if not early:
        return ""
    return "version %s acknowledges tasks before they have run (%s; acks_late is not set), which would be lost with a killed worker" % (
        version,
        _named(early),
    )


def _tasks_with(registered: Mapping[str, Any], wanted: Callable[[str], bool]) -> list[str]:
    """The names of the registered tasks (by node) of which a worker says what is ``wanted``."""
    told = {str(task) for tasks in registered.values() for task in tasks}
    return sorted({task.split(" ", maxsplit=1)[0] for task in told if wanted(task)})


def _named(tasks: list[str]) -> str:
    return ", ".join(tasks[:NAMED]) + (" and %d more" % (len(tasks) - NAMED) if len(tasks) > NAMED else "")


def _silent(redis: RedisConnection, mailbox: Mailbox, answers: Answers) -> Unavailable:
    why = answers.why_not or "%d listen, %d answered" % (mailbox.receivers or 0, len(answers.names()))
    return Unavailable("Not every Celery worker at %s answered: %s" % (redis.where, why), option="celery.inspect_timeout")
