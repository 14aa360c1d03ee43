# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The redrive on NATS: read without taking, publish a copy, wait until it is stored, note it in the ledger, delete the original."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Iterator, Mapping

from .api import Census, Decision, RedriveRequest, Task, TaskStore
from .ledger import Ledger
from .nats_connection import NatsConnection, NatsSession
from .nats_copies import Copies
from .nats_delete import Originals
from .nats_message import seconds
from .nats_places import EVENTS, PARKED, Letters, Target, count_messages, get_many, removes, scan, window_of
from .nats_routes import Item, Routes
from .nats_source import Source
from .nats_watch import Watch

if TYPE_CHECKING:
    from .nats import NatsBackend

#: What was read longer ago than this (s), or than this share of the shortest duplicate window, is read again before it is acted on:
#: somebody else may have moved it.
STALE_S, STALE_SHARE = 2.0, 0.25

_GONE = "it was taken by somebody else meanwhile"


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
        self._stream: str = queue["stream_name"]
        self._consumer: str = queue["name"]
        self._id_field = str(id_field) if id_field else None
        self._routes = Routes(backend, connection, session, request, check, queue, letters)
        self._home = self._routes.home
        self._skew = (seconds(queue["ts"]) if queue.get("ts") else time.time()) - time.time()
        self._letters = letters
        self._source = Source(connection, session, request, queue, letters, self._home, self._id_field, check)
        self._originals = Originals(session, self._source, self._home)
        self._routes.open_all()
        self._routes.refuse_full(self._source.info, self._source.count())
        self._watch: Watch | None = None
        if request.breaker is not None:
            self._watch = Watch(session, letters, self._routes, request.run, self._source.is_ours)
        ledger = None
        if request.run is not None and not check:
            # Streams of other accounts and servers may have the same name, and other fleets runs of the same name.
            ledger = Ledger(request.state_dir, request.run, "%s@%.3f" % (self._source.stream, self._source.created))
        self._copies = Copies(connection, session, request, self._routes, self._watch, ledger)
        self.warnings = self._copies.warnings
        self.warnings.extend(self._source.warnings)

    # Counting

    def now(self) -> float:
        return time.time() + self._skew

    def census(self) -> Census:
        with self._connection.asking("count the tasks"):
            counts = {self._source.label: self._source.count()}
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
        found = {self._source.stream: (self._source.subjects, self._source.low)}
        if self._routes.targets or not self._source.own:
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
            for letters in self._source.letters():
                self._originals.read([letter.seq for letter in letters])
                yield self._source.tasks(letters)

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
        self._source.require_quiet()
        self._recheck(decisions, outcomes)
        sends: list[tuple[int, Target, str]] = []
        done: list[int] = []
        discards: list[int] = []
        for index, decision in enumerate(decisions):
            item: Item = decision.task.handle
            if outcomes[index] or (decision.action == "fail" and self._source.label == "failed"):
                self._copies.finished(item)
            elif self._copies.stored_before(item):
                done.append(index)
            elif decision.action == "discard":
                discards.append(index)
            else:
                target, subject, reason = self._routes.route(decision, item)
                if target is None:
                    outcomes[index] = reason
                else:
                    sends.append((index, target, subject))
        stored, problem = self._copies.publish(decisions, self._routes.fitting(decisions, sends, outcomes), outcomes, self.now())
        self._delete([decisions[index].task.handle for index in sorted(done + stored)], True)
        for index, gone in zip(discards, self._delete([decisions[index].task.handle for index in discards], False)):
            outcomes[index] = _GONE if gone else ""
        if problem is not None:
            raise problem
        if len(stored) == len(sends):
            self._copies.settle()
        return outcomes

    def _delete(self, items: list[Item], stored: bool) -> list[bool]:
        for item in items:
            self._copies.finished(item)
        return self._originals.delete(items, stored)

    def _recheck(self, decisions: list[Decision], outcomes: list[str]) -> None:
        """What was read a while ago may have been moved by somebody else, and forgotten by the destination's duplicate window."""
        now = time.monotonic()
        stale = min([STALE_S, *(target.window_s * STALE_SHARE for target in self._routes.targets.values())])
        old = [index for index, decision in enumerate(decisions) if now - decision.task.handle.read_at > stale]
        found = get_many(self._session, self._source.stream, [decisions[index].task.handle.letter.seq for index in old])
        for index, message in zip(old, found):
            if message is None:
                outcomes[index] = _GONE

    def fates(self, moved: int) -> tuple[int, int]:
        with self._connection.asking("ask what became of the redriven tasks"):
            return self._watch.fates(moved) if self._watch is not None else (0, 0)

    def close(self) -> None:
        self._copies.close()
        self._session.close()

    def unfinished(self) -> str:
        return (
            "of up to %d more the copies may be stored and the originals not yet deleted; running again under the same run finishes them"
            % (self.batch)
        )
