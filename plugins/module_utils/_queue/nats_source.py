# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which messages of NATS are the tasks of a redrive's source, and what each tells of its task. Reading them is no delivery."""

from __future__ import annotations

import time
from typing import Any, Iterator, Mapping

from .._errors import NotFound, Refused, Unavailable
from .api import RedriveRequest, Task, version_and_host
from .nats_connection import PATIENCE_S, NatsConnection, NatsSession
from .nats_message import ERROR, ORIGIN, RUN, WORKER, Message, filters_of, literal, matches, seconds, valid_subject
from .nats_places import EVENTS, PARKED, PARKED_SUBJECT, Letters, Target, count_messages, get_many, removes, scan, stuck_of, window_of
from .nats_routes import NO_ORIGIN, Item

NO_ORIGINAL = "its message is no longer in the stream"
#: The sequence of no message.
_NEVER = 1 << 62
#: A pause that ends within this time (s) may end while a batch is moved.
PAUSE_LEFT_S = 2 * PATIENCE_S
_MOVED_BEFORE = "this run has moved it before"


class Source:
    """The tasks of one source of a queue.

    :ivar label: its name in a census.
    :ivar own: whether it is the queue's own stream.
    :ivar stream: the stream that holds them.
    :ivar subjects: on which subjects they are there.
    :ivar created: when that stream was made, seconds since 1970.
    :ivar low: the first sequence that was there at first.
    :ivar info: what the stream said of itself.
    :raises Refused: its tasks cannot be told apart, or cannot be deleted.
    :raises NotFound: there is no such stream.
    """

    def __init__(
        self,
        connection: NatsConnection,
        session: NatsSession,
        request: RedriveRequest,
        queue: Mapping[str, Any],
        letters: Letters,
        home: Target,
        id_field: str | None,
        check: bool,
    ) -> None:
        self._connection = connection
        self._session = session
        self._request = request
        self._queue = queue
        self._stream: str = queue["stream_name"]
        self._consumer: str = queue["name"]
        self._filters = filters_of(queue["config"])
        self._home = home
        self._id_field = id_field
        source = request.source
        self.label = source if source in ("failed", "abandoned", "parked", "queued") else "source"
        self.own = source in ("abandoned", "queued")
        if self.own:
            named = Letters(self._stream, tuple(self._filters))
            self._refuse_kept()
        else:
            named = {
                "failed": letters,
                "parked": Letters(PARKED, (PARKED_SUBJECT % (self._stream, self._consumer),)),
            }.get(source) or Letters.named(source, "source")
        self.stream, self.subjects = named.stream, named.subjects
        self.info = self._found()
        config, state = self.info["config"], self.info["state"]
        if config.get("deny_delete") or config.get("sealed"):
            raise Refused(
                "The stream %s lets nothing be deleted, so that its tasks cannot be moved" % self.stream,
                option="source",
                next_step="Set deny_delete and sealed off, or copy the tasks by an application",
            )
        if config.get("mirror"):
            raise Refused(
                "The stream %s is a mirror, and what is deleted from it stays in the stream %s"
                % (self.stream, config["mirror"].get("name")),
                option="dead_letter" if source == "failed" else "source",
                next_step="Name the stream %s instead" % config["mirror"].get("name"),
            )
        #: What the operator should know; one sentence each.
        self.warnings: list[str] = []
        if config.get("sources"):
            origins = ", ".join(str(one.get("name")) for one in config["sources"])
            self.warnings.append(
                "The stream %s gathers from %s: what a redrive moves out of it stays there, if they keep it" % (self.stream, origins)
            )
        self.created = seconds(self.info["created"])
        self.low, self._high = int(state["first_seq"]), int(state["last_seq"])
        if source == "abandoned":
            self._refuse_executing()
            self._high = int(queue["delivered"]["stream_seq"])
        elif source == "queued":
            self._refuse_unpaused()
            self.low = max(self.low, int(queue["delivered"]["stream_seq"]) + 1)
        if not check:
            for stream in dict.fromkeys((self.stream, self._stream if letters.are_events and removes(home.info) else self.stream)):
                self._refuse_undeletable(stream)

    def _found(self) -> Mapping[str, Any]:
        if self.own:
            return self._home.info
        found = self._session.api_or_none("STREAM.INFO." + self.stream)
        source = self._request.source
        if found is None and source != "parked":
            raise NotFound(
                "There is no stream %s at %s, where the source %s of queue %s would be"
                % (self.stream, self._connection.where, source, self._request.queue),
                option="dead_letter" if source == "failed" else "source",
                next_step="Name the dead-letter stream in the option dead_letter%s"
                % (", or use source=abandoned for the tasks that exhausted max_deliver" if removes(self._home.info) else "")
                if source == "failed"
                else "Give the name of a stream",
            )
        return found or {
            "config": {},
            "state": {"messages": 0, "bytes": 0, "first_seq": 1, "last_seq": 0},
            "created": "1970-01-01T00:00:00Z",
        }

    def _refuse_undeletable(self, stream: str) -> None:
        """Ask to delete a message that there can never be: who may not do that is told now, and not when the copies are sent."""
        self._session.api_many([("STREAM.MSG.DELETE." + stream, {"seq": _NEVER, "no_erase": True})])

    def _refuse_kept(self) -> None:
        if not removes(self._home.info):
            raise Refused(
                "The stream %s keeps tasks that are done, so that those of the source %s cannot be told from them"
                % (self._stream, self._request.source),
                option="source",
                next_step="Use source=failed with a dead-letter stream",
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
        if not _pause_lasts(self._queue):
            raise Refused(
                "The queue %s is not paused for %d s or more, so that workers may be given the same tasks"
                % (self._request.queue, PAUSE_LEFT_S),
                option="source",
                next_step="Pause it first (queue_drain with state=paused, and expires well above what the redrive takes), and run again",
            )

    def require_quiet(self) -> None:
        """No worker is given these tasks while they are moved.

        :raises Unavailable: the pause has ended.
        """
        if self.label == "queued":
            info = self._session.api("CONSUMER.INFO.%s.%s" % (self._stream, self._consumer))
            if not _pause_lasts(info):
                raise Unavailable(
                    "The pause of queue %s has ended, or ends within %d s" % (self._request.queue, PAUSE_LEFT_S),
                    next_step="Pause it again for longer and run again under the same run",
                )

    def count(self) -> int:
        """How many tasks it holds now."""
        if self.label == "abandoned":
            found, _moving = stuck_of(self._session, self._queue)
            return found or 0
        if self.label == "queued":
            return int(self._session.api("CONSUMER.INFO.%s.%s" % (self._stream, self._consumer))["num_pending"])
        return count_messages(self._session, self.stream, self.subjects) or 0

    # Reading

    def letters(self) -> Iterator[list[Message]]:
        """Its messages, oldest first, some hundreds at a time, up to where it ended when it was opened."""
        yield from scan(self._session, self.stream, self.low, self._high, self.subjects, window_of(self.info))

    def tasks(self, letters: list[Message]) -> list[Task]:
        """The tasks that messages are or name; each has an :class:`Item` as its handle, or None where its own message is gone."""
        read_at = time.monotonic()
        advisories = {} if self.own else {letter.seq: told for letter in letters for told in [letter.advisory()] if told is not None}
        named = [told["stream_seq"] for told in advisories.values() if self.is_ours(told)]
        originals = dict(zip(named, get_many(self._session, self._stream, named))) if named else {}
        tasks = []
        for letter in letters:
            told = advisories.get(letter.seq)
            if told is None and letter.subject.startswith(EVENTS):
                continue  # What else the server reports is no task.
            if told is None:
                tasks.append(self._task(letter, letter, self._origin(letter), read_at, None))
            elif self.is_ours(told):
                original = originals[told["stream_seq"]]
                if original is None:
                    tasks.append(Task("%s:%d" % (self._stream, told["stream_seq"]), ended_at=letter.time, obstacle=NO_ORIGINAL))
                else:
                    tasks.append(self._task(letter, original, original.subject, read_at, told))
        return tasks

    def is_ours(self, told: Mapping[str, Any]) -> bool:
        """Whether an advisory is about this queue."""
        return bool(told.get("stream") == self._stream and told.get("consumer") == self._consumer)

    def _task(self, letter: Message, message: Message, origin: str, read_at: float, told: Mapping[str, Any] | None) -> Task:
        created = self.created if message.stream == self.stream else seconds(self._home.info["created"])
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
        if self.own:
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


def _pause_lasts(consumer: Mapping[str, Any]) -> bool:
    """Whether the server gives out none of its tasks for as long as a batch may take."""
    return bool(consumer.get("paused")) and int(consumer.get("pause_remaining") or 0) / 1e9 > PAUSE_LEFT_S
