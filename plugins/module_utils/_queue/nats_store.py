# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The redrive on NATS: read without taking, publish a copy, wait until it is stored, note it in the ledger, delete the original.

A copy carries the identity of its original (stream and sequence) as ``Nats-Msg-Id``, so that the destination drops a second one,
whoever sends it: this run after a crash, or another redrive at the same time.
"""

from __future__ import annotations

import json
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Sequence

from .._errors import FleetError, NotFound, Refused, Unavailable
from .api import Census, Decision, RedriveRequest, Task, TaskStore, version_and_host
from .ledger import Ledger
from .nats_connection import NO_MESSAGE, Answer, ApiError, NatsConnection, NatsSession, NoAnswer
from .nats_message import ERROR, ORIGIN, RUN, WORKER, Message, filters_of, literal, matches, seconds, valid_subject
from .nats_places import (
    EVENTS,
    PARKED,
    PARKED_SUBJECT,
    Letters,
    Target,
    count_messages,
    covers,
    get_many,
    removes,
    scan,
    stuck_of,
    window_of,
)
from .nats_routes import NO_ORIGIN, UNHEARD, Item, Routes
from .nats_watch import Watch

if TYPE_CHECKING:
    from .nats import NatsBackend

#: What was read longer ago than this (s), or than this share of the shortest duplicate window, is read again before it is acted on:
#: somebody else may have moved it.
STALE_S, STALE_SHARE = 2.0, 0.25
#: Of a duplicate window, what is relied upon.
SURE_SHARE = 0.75

_GONE = "it was taken by somebody else meanwhile"
NO_ORIGINAL = "its message is no longer in the stream"
_MOVED_BEFORE = "this run has moved it before"
_MOVED_BY_OTHERS = "another redrive has moved it"
#: A deletion has no code of its own for it.
_NO_MESSAGE_TEXTS = ("no message found", "message not found", "stream message not found", "no message for that sequence")
_UNSENDABLE = {
    "MaxPayloadError": "it is larger than the broker takes",
    "BadHeaderError": "it has a header whose name the client library does not write",
    "BadSubjectError": "its subject is not valid",
}
_REFUSED = "the stream %s does not take it: %s"


class NatsStore(TaskStore):
    """The tasks of one source. See :class:`TaskStore`."""

    def __init__(
        self,
        backend: NatsBackend,
        connection: NatsConnection,
        session: NatsSession,
        request: RedriveRequest,
        check: bool,
        queue: Mapping[str, Any],
        letters: Letters,
        id_field: Any,
    ) -> None:
        self._connection = connection
        self._session = session
        self._request = request
        self._check = check
        self._queue = queue
        self._stream: str = queue["stream_name"]
        self._consumer: str = queue["name"]
        self._filters = filters_of(queue["config"])
        self._id_field = str(id_field) if id_field else None
        self._routes = Routes(backend, connection, session, request, check, queue, letters)
        self._home = self._routes.home
        self._skew = (seconds(queue["ts"]) if queue.get("ts") else time.time()) - time.time()
        self._letters = letters
        self._ahead: deque[int] = deque()
        self._unsettled: set[str] = set()
        self._open_source()
        self._routes.open_all()
        self._routes.refuse_full(self._info, self._count())
        self._watch: Watch | None = None
        if request.breaker is not None:
            self._watch = Watch(session, letters, self._routes, request.run, self._is_ours)
        self._ledger: Ledger | None = None
        self._planned: dict[str, float] = {}
        self._confirmed: set[str] = set()
        if request.run is not None and not check:
            self._open_ledger(request.state_dir, request.run)

    def _open_ledger(self, state_dir: str, run: str) -> None:
        self._ledger = Ledger(state_dir, run)
        for plan in self._ledger.plans:
            self._planned.update((key, float(plan.get("at") or 0)) for key in plan.get("ids", ()))
            if plan["plan"] in self._ledger.sure:
                self._confirmed.update(plan.get("ids", ()))
        self._unsettled = set(self._planned)
        self._batch_number = self._ledger.last

    # Opening

    def _open_source(self) -> None:
        source = self._request.source
        self._label = source if source in ("failed", "abandoned", "parked", "queued") else "source"
        self._own = source in ("abandoned", "queued")
        if self._own:
            self._source = Letters(self._stream, tuple(self._filters))
            found: Mapping[str, Any] | None = self._home.info
            if not removes(self._home.info):
                raise Refused(
                    "The stream %s keeps tasks that are done, so that those of the source %s cannot be told from them"
                    % (self._stream, source),
                    option="source",
                    next_step="Use source=failed with a dead-letter stream",
                )
        else:
            self._source = {
                "failed": self._letters,
                "parked": Letters(PARKED, (PARKED_SUBJECT % (self._stream, self._consumer),)),
            }.get(source) or Letters.named(source, "source")
            found = self._session.api_or_none("STREAM.INFO." + self._source.stream)
        if found is None and source != "parked":
            raise NotFound(
                "There is no stream %s at %s, where the source %s of queue %s would be"
                % (self._source.stream, self._connection.where, source, self._request.queue),
                option="dead_letter" if source == "failed" else "source",
                next_step="Name the dead-letter stream in the option dead_letter%s"
                % (", or use source=abandoned for the tasks that exhausted max_deliver" if removes(self._home.info) else "")
                if source == "failed"
                else "Give the name of a stream",
            )
        if found is None:
            found = {"config": {}, "state": {"messages": 0, "bytes": 0, "first_seq": 1, "last_seq": 0}, "created": "1970-01-01T00:00:00Z"}
        self._info = found
        config, state = found["config"], found["state"]
        if config.get("deny_delete") or config.get("sealed"):
            raise Refused(
                "The stream %s lets nothing be deleted, so that its tasks cannot be moved" % self._source.stream,
                option="source",
                next_step="Set deny_delete and sealed off, or copy the tasks by an application",
            )
        self._created = seconds(found["created"])
        self._low, self._high = int(state["first_seq"]), int(state["last_seq"])
        if source == "abandoned":
            self._refuse_executing()
            self._high = int(self._queue["delivered"]["stream_seq"])
        elif source == "queued":
            self._refuse_unpaused()
            self._low = max(self._low, int(self._queue["delivered"]["stream_seq"]) + 1)
        # One act for all, where nothing between is left behind. With replicas a new leader may not have seen the last message yet.
        self._purges = (
            source != "queued"
            and len(self._source.subjects) == 1
            and not config.get("deny_purge")
            and int(config.get("num_replicas") or 1) == 1
        )

    def _refuse_executing(self) -> None:
        if self._queue["num_ack_pending"]:
            raise Refused(
                "%d tasks of %s are executing, and cannot be told from those that exhausted max_deliver"
                % (self._queue["num_ack_pending"], self._request.queue),
                option="source",
                next_step="Drain the queue first (queue_drain), and run again",
            )

    def _refuse_unpaused(self) -> None:
        if not self._queue.get("paused"):
            raise Refused(
                "The queue %s is not paused, so that workers may be given the same tasks" % self._request.queue,
                option="source",
                next_step="Pause it first (queue_drain with state=paused), and run again",
            )

    # Counting

    def now(self) -> float:
        return time.time() + self._skew

    def _count(self) -> int:
        """Tasks in the source."""
        if self._label == "abandoned":
            found, _moving = stuck_of(self._session, self._queue)
            return found or 0
        if self._label == "queued":
            return int(self._session.api("CONSUMER.INFO.%s.%s" % (self._stream, self._consumer))["num_pending"])
        return count_messages(self._session, self._source.stream, self._source.subjects) or 0

    def census(self) -> Census:
        with self._connection.asking("count the tasks"):
            counts = {self._label: self._count()}
            activity = None
            for (action, _destination), target in self._routes.targets.items():
                if target.consumer is not None:
                    info = self._session.api("CONSUMER.INFO.%s.%s" % (target.stream, target.consumer["name"]))
                    mine = (target.stream, target.consumer["name"]) == (self._stream, self._consumer)
                    name = "queued" if mine else "%s/%s" % (target.stream, target.consumer["name"])
                    counts[name] = int(info["num_pending"]) + int(info["num_ack_pending"])
                    activity = (activity or 0) + int(info["delivered"]["consumer_seq"]) + int(info["ack_floor"]["consumer_seq"])
                elif action == "park":
                    counts["parked"] = count_messages(self._session, PARKED, (target.subject or ">",)) or 0
                elif action == "fail":
                    counts["failed"] = count_messages(self._session, self._letters.stream, self._letters.subjects) or 0
                else:
                    counts[target.subject or target.stream] = count_messages(self._session, target.stream, (target.subject or ">",)) or 0
            return Census(counts, activity)

    def _places(self) -> dict[str, tuple[tuple[str, ...], int]]:
        """The streams that hold the tasks: which subjects of them, and from which sequence on. The same before and after."""
        found = {self._source.stream: (self._source.subjects, self._low)}
        if self._routes.targets or not self._own:
            for target in [self._home, *self._routes.targets.values()]:
                if target.stream in found or not target.info["state"]:
                    continue
                subjects: tuple[str, ...] = (">",)
                low = int(target.info["state"]["first_seq"])
                if target.stream == PARKED or target.stream == self._letters.stream:
                    subjects = (target.subject or ">",)
                elif not removes(target.info):
                    # It keeps what is done; what a queue has done lies before its first task that is not.
                    done = target.consumer["ack_floor"]["stream_seq"] if target.consumer is not None else target.info["state"]["last_seq"]
                    low = max(low, int(done) + 1)
                found[target.stream] = (subjects, low)
        return found

    def identities(self) -> Iterator[list[str]]:
        with self._connection.asking("read the tasks"):
            for stream, (subjects, low) in self._places().items():
                info = self._session.api_or_none("STREAM.INFO." + stream)
                if info is None:
                    continue
                for messages in scan(self._session, stream, low, int(info["state"]["last_seq"]), subjects, window_of(info)):
                    # An advisory only points at a task that is in its own stream.
                    tasks = [message for message in messages if message.advisory() is None and not message.subject.startswith(EVENTS)]
                    yield [message.identity(self._id_field) for message in tasks]

    # Reading

    def windows(self) -> Iterator[list[Task]]:
        with self._connection.asking("read the tasks"):
            size = window_of(self._info)
            for letters in scan(self._session, self._source.stream, self._low, self._high, self._source.subjects, size):
                self._ahead.extend(letter.seq for letter in letters)
                yield self._tasks(letters)

    def _tasks(self, letters: list[Message]) -> list[Task]:
        read_at = time.monotonic()
        advisories = {} if self._own else {letter.seq: told for letter in letters for told in [letter.advisory()] if told is not None}
        named = [told["stream_seq"] for told in advisories.values() if self._is_ours(told)]
        originals = dict(zip(named, get_many(self._session, self._stream, named))) if named else {}
        tasks = []
        for letter in letters:
            told = advisories.get(letter.seq)
            if told is None and letter.subject.startswith(EVENTS):
                continue  # What else the server reports is no task.
            if told is None:
                tasks.append(self._task(letter, letter, self._origin(letter), read_at, None))
            elif self._is_ours(told):
                original = originals[told["stream_seq"]]
                if original is None:
                    tasks.append(Task("%s:%d" % (self._stream, told["stream_seq"]), ended_at=letter.time, obstacle=NO_ORIGINAL))
                else:
                    tasks.append(self._task(letter, original, original.subject, read_at, told))
        return tasks

    def _is_ours(self, told: Mapping[str, Any]) -> bool:
        return bool(told.get("stream") == self._stream and told.get("consumer") == self._consumer)

    def _task(self, letter: Message, message: Message, origin: str, read_at: float, told: Mapping[str, Any] | None) -> Task:
        created = self._created if message.stream == self._source.stream else seconds(self._home.info["created"])
        item = Item(letter, message, origin, read_at, created)
        headers = message.headers
        worker = headers.get(WORKER)
        run = headers.get(RUN)
        task = Task(
            message.identity(self._id_field),
            name=origin or None,
            version=version_and_host(worker)[0] if worker else None,
            ended_at=letter.time,
            redrives=message.redrives(),
            obstacle=_MOVED_BEFORE if run is not None and run == self._request.run else None,
            handle=item,
        )
        task.error = headers.get(ERROR)
        if told is not None:
            terminated = str(told.get("type")).endswith("terminated")
            task.error = str(told.get("reason") or "Terminated") if terminated else "MaxDeliveries: %s deliveries" % told.get("deliveries")
        if task.obstacle is None and not origin and all(rule.action == "requeue" and not rule.destination for rule in self._request.rules):
            task.obstacle = NO_ORIGIN
        return task

    def _origin(self, letter: Message) -> str:
        """The subject that a task came on; "" when it is not known."""
        if self._own:
            return letter.subject
        told = letter.headers.get(ORIGIN)
        if told and valid_subject(told):
            return told
        # Dead-lettered to dlq.<subject>, or whatever else stands before it.
        tokens = letter.subject.split(".")
        fixed = [pattern for pattern in self._filters if pattern.split(".", 1)[0] not in ("*", ">")]
        for start in range(1, len(tokens)):
            rest = ".".join(tokens[start:])
            if matches(fixed, rest):
                return rest
        return self._filters[0] if len(self._filters) == 1 and literal(self._filters[0]) else ""

    def load(self, tasks: list[Task], what: frozenset[str]) -> None:
        for task in tasks:
            if task.handle is None:
                continue
            if "headers" in what:
                task.headers = dict(reversed(task.handle.message.headers.lines))
            if "fields" in what:
                task.fields = task.handle.message.fields()

    # Acting

    def apply(self, decisions: list[Decision]) -> list[str]:
        with self._connection.asking("redrive"):
            return self._apply(decisions)

    def _apply(self, decisions: list[Decision]) -> list[str]:
        outcomes = [""] * len(decisions)
        if self._label == "queued":
            info = self._session.api("CONSUMER.INFO.%s.%s" % (self._stream, self._consumer))
            if not info.get("paused"):
                raise Unavailable("The pause of queue %s has ended" % self._request.queue, next_step="Pause it again and run again")
        self._recheck(decisions, outcomes)
        sends: list[tuple[int, Target, str]] = []
        done: list[int] = []
        discards: list[int] = []
        for index, decision in enumerate(decisions):
            item: Item = decision.task.handle
            if outcomes[index] or (decision.action == "fail" and self._label == "failed"):
                self._unsettled.discard(item.key)
            elif item.key in self._confirmed:
                done.append(index)
            elif decision.action == "discard":
                discards.append(index)
            else:
                target, subject, reason = self._routes.route(decision, item)
                if target is None:
                    outcomes[index] = reason
                else:
                    sends.append((index, target, subject))
        problem = self._publish(decisions, self._routes.fitting(decisions, sends, outcomes), outcomes, done)
        self._delete([decisions[index].task.handle for index in sorted(done)], True)
        for index, gone in zip(discards, self._delete([decisions[index].task.handle for index in discards], False)):
            outcomes[index] = _GONE if gone else ""
        if problem is not None:
            raise problem
        self._settle(len(done) == len(sends))
        return outcomes

    def _recheck(self, decisions: list[Decision], outcomes: list[str]) -> None:
        """What was read a while ago may have been moved by somebody else, and forgotten by the destination's duplicate window."""
        now = time.monotonic()
        stale = min([STALE_S, *(target.window_s * STALE_SHARE for target in self._routes.targets.values())])
        old = [index for index, decision in enumerate(decisions) if now - decision.task.handle.read_at > stale]
        found = get_many(self._session, self._source.stream, [decisions[index].task.handle.letter.seq for index in old])
        for index, message in zip(old, found):
            if message is None:
                outcomes[index] = _GONE

    def _publish(
        self, decisions: list[Decision], sends: list[tuple[int, Target, str]], outcomes: list[str], done: list[int]
    ) -> FleetError | None:
        """Send copies and note what is stored; its indexes are added to ``done``. What broke off in the middle is returned."""
        now = self.now()
        sends = self._not_arrived(decisions, sends, now, done)
        if not sends:
            return None
        self._note([decisions[index].task.handle.key for index, _target, _subject in sends], now)
        requests = []
        for index, _target, subject in sends:
            task = decisions[index].task
            item: Item = task.handle
            headers = item.message.copy_headers(decisions[index].action, self._request.run, item.origin, task.id, "queueops:" + item.key)
            requests.append((subject, item.message.data, headers))
        broken: Exception | None = None
        stored = []
        for (index, target, _subject), answer in zip(sends, self._session.ask_many(requests)):
            told, outcomes[index], problem = self._judge(answer, target)
            broken = broken or problem
            if told is not None:
                stored.append(index)
                outcomes[index] = self._stored(decisions[index], told)
        done.extend(stored)
        self._sure([decisions[index].task.handle.key for index in stored], len(stored) == len(sends))
        return self._connection.explain(broken, "redrive") if broken is not None else None

    def _judge(self, answer: Answer, target: Target) -> tuple[dict[str, Any] | None, str, Exception | None]:
        """What became of a copy: what the stream says that has it, or why this one is skipped, or why the redrive cannot go on."""
        if isinstance(answer, NoAnswer):
            return None, UNHEARD, None
        if isinstance(answer, ValueError) or type(answer).__name__ in _UNSENDABLE:
            return None, "it cannot be sent: %s" % (_UNSENDABLE.get(type(answer).__name__) or "its headers are not text"), None
        if isinstance(answer, Exception):
            return None, "", answer
        told: dict[str, Any] = json.loads(answer)
        error = told.get("error")
        if not error:
            return told, "", None
        refusal = ApiError(int(error.get("err_code") or 0), int(error.get("code") or 0), str(error.get("description")))
        if isinstance(self._connection.explain(refusal, "redrive"), Unavailable):
            return None, "", refusal
        return None, _REFUSED % (target.stream, refusal), None

    def _stored(self, decision: Decision, told: Mapping[str, Any]) -> str:
        """Remember a copy that is stored. Why it does not count as ours, or ""."""
        if told.get("duplicate") and decision.task.handle.key not in self._planned:
            return _MOVED_BY_OTHERS
        if self._watch is not None:
            self._watch.sent(decision.action, int(told["seq"]))
        return ""

    def _not_arrived(
        self, decisions: list[Decision], sends: list[tuple[int, Target, str]], now: float, done: list[int]
    ) -> list[tuple[int, Target, str]]:
        """Without those that an earlier process of this run sent, and the destination has although it has forgotten that it has."""
        rest = []
        for entry in sends:
            index, target, _subject = entry
            key = decisions[index].task.handle.key
            planned = self._planned.get(key)
            if planned is not None and now - planned > target.window_s * SURE_SHARE:
                msg_id = "queueops:" + key
                if target.has_taken(self._session, {msg_id}, min(self._planned.values()) - 60):
                    done.append(index)
                    continue
            rest.append(entry)
        return rest

    def _note(self, keys: list[str], now: float) -> None:
        if self._ledger is not None:
            self._batch_number += 1
            self._ledger.note(plan=self._batch_number, ids=keys, at=round(now, 3))
            self._ledger.sync()

    def _sure(self, keys: list[str], whole: bool) -> None:
        if self._ledger is None or not keys:
            return
        if not whole:
            self._ledger.note(doubt=self._batch_number)
            self._batch_number += 1
            self._ledger.note(plan=self._batch_number, ids=keys, at=round(self.now(), 3))
        self._ledger.note(sure=self._batch_number)
        self._ledger.sync()

    def _settle(self, whole: bool) -> None:
        """Nothing that the ledger holds open is left in the source."""
        if self._ledger is not None and whole and not self._unsettled:
            self._ledger.note(settled=self._batch_number)

    def _delete(self, items: Sequence[Item], stored: bool) -> list[bool]:
        """Delete originals; whether each was gone already. ``stored``: their copies are, so that it does not matter who deletes them."""
        if not items:
            return []
        for item in items:
            self._unsettled.discard(item.key)
        # The task itself first: while the advisory is there, a second run finds what is left to do.
        named = [item for item in items if item.message is not item.letter]
        if named and removes(self._home.info):
            self._delete_many(self._stream, [item.message.seq for item in named])
        sequences = [item.letter.seq for item in items]
        if stored and self._purges and len(sequences) > 1 and self._leading(sequences):
            subject = self._source.subjects[0]
            body: dict[str, Any] = {"seq": sequences[-1] + 1}
            if not covers(self._source.subjects, self._info):
                body["filter"] = subject
            try:
                self._session.api("STREAM.PURGE." + self._source.stream, body)
                self._forget(sequences)
                return [False] * len(items)
            except ApiError:
                self._purges = False
        gone = self._delete_many(self._source.stream, sequences)
        self._forget(sequences)
        return gone

    def _leading(self, sequences: list[int]) -> bool:
        """Whether nothing else of the source lies before or between them."""
        return len(self._ahead) >= len(sequences) and all(mine == theirs for mine, theirs in zip(sequences, self._ahead))

    def _forget(self, sequences: list[int]) -> None:
        if self._leading(sequences):
            for _seq in sequences:
                self._ahead.popleft()
        else:
            self._purges = False

    def _delete_many(self, stream: str, sequences: list[int]) -> list[bool]:
        # Without no_erase the server overwrites each message on disk and syncs, which is a hundred times slower.
        gone = []
        for answer in self._session.api_many([("STREAM.MSG.DELETE." + stream, {"seq": seq, "no_erase": True}) for seq in sequences]):
            if isinstance(answer, ApiError) and answer.code != NO_MESSAGE and str(answer) not in _NO_MESSAGE_TEXTS:
                raise answer
            gone.append(isinstance(answer, ApiError))
        return gone

    def fates(self, moved: int) -> tuple[int, int]:
        with self._connection.asking("ask what became of the redriven tasks"):
            return self._watch.fates(moved) if self._watch is not None else (0, 0)

    def close(self) -> None:
        if self._ledger is not None:
            with suppress(FleetError):
                self._ledger.sync()
            self._ledger.close()
        self._session.close()

    def unfinished(self) -> str:
        return (
            "of up to %d more the copies may be stored and the originals not yet deleted; running again under the same run finishes them"
            % (self.batch)
        )
