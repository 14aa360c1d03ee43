# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the tasks of a redrive are and where they go: reading streams by sequence, counting in them, and what a destination takes.

Messages are read with ``STREAM.MSG.GET`` from the stream's leader. That is no delivery, and unlike a direct get it never shows
what has been deleted already.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterable, Iterator, Mapping, Sequence

from .._errors import NotFound, Refused
from .nats_connection import NO_MESSAGE, ApiError, NatsSession
from .nats_message import MSG_ID, Message, captured, filled, filters_of, literal, matches, overlap, seconds, valid_name

#: The stream of parked tasks, and the subjects in it.
PARKED = "QUEUEOPS_PARKED"
PARKED_SUBJECT = "queueops.parked.%s.%s"
#: What the server itself reports is below this, and a task that failed in these.
EVENTS = "$JS.EVENT."
FAILED_EVENTS = ("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.%s.%s", "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.%s.%s")
#: Messages that are read at once at most, and about how many bytes of them.
WINDOW, WINDOW_BYTES = 500, 8 << 20


@dataclass(frozen=True)
class Letters:
    """Messages of a stream: those on ``subjects``."""

    stream: str
    subjects: tuple[str, ...] = (">",)

    @classmethod
    def named(cls, text: str, option: str) -> Letters:
        """From ``<stream>`` or ``<stream>:<subjects>``."""
        stream, _colon, subject = text.partition(":")
        if not valid_name(stream):
            raise NotFound(
                "There is no stream %s: no stream of NATS can have this name" % (stream or "without a name"),
                option=option,
                next_step="Give <stream> or <stream>:<subjects>",
            )
        return cls(stream, (subject,) if subject else (">",))

    def of_queue(self, info: Mapping[str, Any] | None, stream: str, consumer: str) -> Letters:
        """Where the stream (as ``STREAM.INFO`` told) listens to the server's events: only those that name a task of this queue."""
        subjects = list((info or {}).get("config", {}).get("subjects") or ())
        if self.subjects != (">",) or not any(subject.startswith(EVENTS) for subject in subjects):
            return self
        wanted = [event % (stream, consumer) for event in FAILED_EVENTS]
        return Letters(self.stream, tuple(wanted + [subject for subject in subjects if not subject.startswith(EVENTS)]))

    @property
    def are_events(self) -> bool:
        return any(subject.startswith(EVENTS) for subject in self.subjects)


def message_of(answer: Mapping[str, Any], stream: str) -> Message:
    return Message(stream, answer["message"])


def get_many(session: NatsSession, stream: str, sequences: Iterable[int]) -> list[Message | None]:
    """The messages at ``sequences``; None where there is none."""
    asked = [("STREAM.MSG.GET." + stream, {"seq": seq}) for seq in sequences]
    found: list[Message | None] = []
    for answer in session.api_many(asked):
        if isinstance(answer, ApiError):
            if answer.code != NO_MESSAGE:
                raise answer
            found.append(None)
        else:
            found.append(message_of(answer, stream))
    return found


def next_sequence(session: NatsSession, stream: str, seq: int, subjects: Sequence[str]) -> int | None:
    """The first message on ``subjects`` from ``seq`` on."""
    asked = [("STREAM.MSG.GET." + stream, {"seq": seq, "next_by_subj": subject}) for subject in subjects]
    found = []
    for answer in session.api_many(asked):
        if not isinstance(answer, ApiError):
            found.append(int(answer["message"]["seq"]))
        elif answer.code != NO_MESSAGE:
            raise answer
    return min(found, default=None)


def scan(session: NatsSession, stream: str, low: int, high: int, subjects: Sequence[str], window: int = WINDOW) -> Iterator[list[Message]]:
    """The messages on ``subjects`` from ``low`` to ``high``, in order, at most ``window`` at a time; gaps are skipped."""
    everything = ">" in subjects
    seq = max(1, low)  # A stream that never held a message says it begins at 0.
    while seq <= high:
        end = min(seq + window - 1, high)
        found = [message for message in get_many(session, stream, range(seq, end + 1)) if message is not None]
        if not everything:
            found = [message for message in found if matches(subjects, message.subject)]
        if found:
            yield found
            seq = end + 1
            continue
        following = next_sequence(session, stream, end + 1, subjects)
        if following is None:
            return
        seq = following


def window_of(info: Mapping[str, Any]) -> int:
    """How many messages of this stream are read at once."""
    state = info["state"]
    average = int(state["bytes"]) // max(1, int(state["messages"]))
    return max(1, min(WINDOW, WINDOW_BYTES // max(1, average)))


def covers(subjects: Sequence[str], info: Mapping[str, Any]) -> bool:
    """Whether ``subjects`` are all that the stream takes."""
    return ">" in subjects or all(own in subjects for own in info["config"].get("subjects") or ["nothing"])


def count_messages(session: NatsSession, stream: str, subjects: Sequence[str], info: Mapping[str, Any] | None = None) -> int | None:
    """How many messages of ``stream`` are on ``subjects``; None when there is no such stream. By the counters that the server keeps."""
    if info is None:
        info = session.api_or_none("STREAM.INFO." + stream)
        if info is None:
            return None
    if covers(subjects, info):
        return int(info["state"]["messages"])
    total = 0
    for subject in subjects:
        seen = 0
        while True:
            page = session.api_or_none("STREAM.INFO." + stream, {"subjects_filter": subject, "offset": seen})
            if page is None:
                return None
            counts = page["state"].get("subjects") or {}
            total += sum(counts.values())
            seen += len(counts)
            if not counts or seen >= int(page.get("total") or 0):
                break
    return total


def removes(info: Mapping[str, Any]) -> bool:
    """Whether the stream drops a message when it is acknowledged, so that what it still holds is not done."""
    retention = info["config"].get("retention")
    return retention == "workqueue" or (retention == "interest" and int(info["state"].get("consumer_count") or 0) == 1)


def stuck_of(session: NatsSession, consumer: Mapping[str, Any]) -> tuple[int | None, bool]:
    """How many tasks exhausted their deliveries and stay in the stream. None: it cannot be told; true beside it: because of the traffic."""
    stream, name = consumer["stream_name"], consumer["name"]
    first = session.api("CONSUMER.INFO.%s.%s" % (stream, name))
    info = session.api("STREAM.INFO." + stream)
    if not removes(info):
        return None, False
    count = count_messages(session, stream, filters_of(consumer["config"]), info)
    again = session.api("CONSUMER.INFO.%s.%s" % (stream, name))
    if count is None or any(first.get(key) != again.get(key) for key in ("delivered", "ack_floor", "num_pending", "num_ack_pending")):
        return None, True
    left = count - int(again["num_pending"]) - int(again["num_ack_pending"])
    return (left, False) if left >= 0 else (None, True)


def sequence_since(session: NatsSession, stream: str, moment: float, low: int, high: int) -> int:
    """The first sequence that was stored at or after ``moment``, by halving."""
    while low < high:
        middle = (low + high) // 2
        answer = session.api_or_none("STREAM.MSG.GET." + stream, {"seq": middle, "next_by_subj": ">"})
        if answer is None or seconds(answer["message"]["time"]) >= moment:
            high = middle
        else:
            low = int(answer["message"]["seq"]) + 1
    return low


@dataclass
class Target:
    """A stream to which copies are published.

    :ivar consumer: the queue that is meant, as ``CONSUMER.INFO`` told; None for a bare subject.
    :ivar subject: a pattern whose wildcards are filled in from the task's own subject, or one subject; None: the task's own.
    """

    stream: str
    info: dict[str, Any]
    subject: str | None = None
    consumer: Mapping[str, Any] | None = None
    arrived: set[str] | None = field(default=None, repr=False)

    @property
    def config(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.info["config"]
        return found

    @property
    def window_s(self) -> float:
        """For how long the stream knows a copy that it has taken already."""
        return float(self.config.get("duplicate_window") or 0) / 1e9

    def subject_for(self, origin: str, filters: Sequence[str]) -> str | None:
        """Where a task that came on ``origin`` (by one of ``filters``) is published; None where that cannot be told."""
        if self.subject is None:
            return origin or None
        if literal(self.subject):
            return self.subject
        if origin and captured(self.subject, origin) is not None:
            return origin
        for pattern in filters if origin else ():
            tokens = captured(pattern, origin)
            if tokens is not None:
                return filled(self.subject, tokens)
        return None

    def refuse_unfit(self, option: str) -> None:
        """Refuse a stream that takes nothing."""
        if self.config.get("sealed"):
            raise Refused("The stream %s is sealed and takes no tasks" % self.stream, option=option, next_step="Give another destination")

    def refuse_unheard(self, session: NatsSession, subject: str) -> None:
        """Refuse a stream that would drop what nobody there waits for."""
        if self.config.get("retention") != "interest":
            return
        for consumer in listed_consumers(session, self.stream):
            if any(overlap(pattern, subject) for pattern in filters_of(consumer["config"])):
                return
        raise Refused(
            "The stream %s keeps only what a consumer waits for, and none waits for %s: the tasks would be dropped"
            % (self.stream, subject),
            option="rules",
            next_step="Create the consumer first, or give another destination",
        )

    def room(self, session: NatsSession, subjects: Iterable[str], largest: int) -> tuple[int | None, dict[str, int]]:
        """How many more messages of ``largest`` bytes fit before old ones are dropped: at all (None: any number), and by subject."""
        config = self.config
        if config.get("discard") == "new":
            return None, {}
        most, most_bytes, each = (int(config.get(name) or -1) for name in ("max_msgs", "max_bytes", "max_msgs_per_subject"))
        if max(most, most_bytes, each) <= 0:
            return None, {}
        self.info = session.api("STREAM.INFO." + self.stream)
        state = self.info["state"]
        found: list[int] = []
        if most > 0:
            found.append(most - int(state["messages"]))
        if most_bytes > 0:
            found.append((most_bytes - int(state["bytes"])) // max(1, largest))
        by_subject = {}
        if each > 0:
            for subject in set(subjects):
                by_subject[subject] = each - (count_messages(session, self.stream, (subject,)) or 0)
        return (max(0, min(found)) if found else None), by_subject

    def has_taken(self, session: NatsSession, msg_ids: set[str], since: float) -> set[str]:
        """Which of ``msg_ids`` this stream still holds, of what it took since ``since``; for what its duplicate window has forgotten."""
        if self.arrived is None:
            self.info = session.api("STREAM.INFO." + self.stream)
            state = self.info["state"]
            first, last = int(state["first_seq"]), int(state["last_seq"])
            low = sequence_since(session, self.stream, since, first, last + 1)
            self.arrived = set()
            for messages in scan(session, self.stream, low, last, (">",), window_of(self.info)):
                self.arrived.update(message.headers.get(MSG_ID) or "" for message in messages)
        return self.arrived & msg_ids


def listed_consumers(session: NatsSession, stream: str) -> list[dict[str, Any]]:
    """All consumers of a stream."""
    found: list[dict[str, Any]] = []
    while True:
        answer = session.api("CONSUMER.LIST." + stream, {"offset": len(found)})
        page = answer.get("consumers") or []
        found += page
        if not page or len(found) >= int(answer.get("total") or 0):
            return found


def parked_stream(session: NatsSession, replicas: int, create: bool) -> dict[str, Any] | None:
    """The stream of parked tasks; made if it is missing and ``create``."""
    found = session.api_or_none("STREAM.INFO." + PARKED)
    if found is not None or not create:
        return found
    config = {
        "name": PARKED,
        "subjects": [PARKED_SUBJECT % ("*", "*")],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": replicas,
        "description": "Tasks that queueops.fleet set aside",
    }
    try:
        return session.api("STREAM.CREATE." + PARKED, config)
    except ApiError as problem:
        raise Refused(
            "The stream %s for parked tasks cannot be created: %s" % (PARKED, problem),
            option="rules",
            next_step="Create it yourself with the subjects %s, or let no rule park" % (PARKED_SUBJECT % ("*", "*")),
        ) from problem
