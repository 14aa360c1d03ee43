# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the tasks of a redrive on NATS go: the destinations of its rules, opened and judged before the first task is moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Tuple

from .._errors import NotFound, Refused
from .api import Decision, RedriveRequest, Rule
from .nats_connection import NatsConnection, NatsSession
from .nats_message import ORIGIN, Message, filters_of, literal, matches, overlap, valid_subject
from .nats_places import PARKED, PARKED_SUBJECT, Letters, Target, listed_consumers, parked_stream

if TYPE_CHECKING:
    from .nats import NatsBackend

NO_ORIGIN = "where it came from is not known (no header %s); give a destination" % ORIGIN
_NO_SUBJECT = "its subject does not fit the destination; give one subject as the destination"
UNHEARD = "no stream takes its subject"
UNWANTED = "the stream %s keeps only what a consumer waits for, and none waits for its subject"
_FULL = "the stream %s is full, and would drop its oldest messages"


#: A consumer that a stream keeps messages for: its name, when it was made, what it takes.
Waiting = Tuple[str, str, Tuple[str, ...]]


class Item:
    """One task of the source. ``letter`` is its message there; ``message`` the task itself, elsewhere if an advisory names it."""

    __slots__ = ("key", "letter", "message", "origin", "read_at", "stream")

    def __init__(self, letter: Message, message: Message, origin: str, read_at: float, created: float) -> None:
        self.letter = letter
        self.message = message
        self.origin = origin
        self.read_at = read_at
        # A stream that is made anew counts from 1 again.
        self.key = "%s@%.3f:%d" % (message.stream, created, message.seq)


class Routes:
    """The destinations of one redrive.

    :ivar home: the queue's own stream.
    :ivar targets: by action and destination.
    """

    def __init__(
        self,
        backend: NatsBackend,
        connection: NatsConnection,
        session: NatsSession,
        request: RedriveRequest,
        check: bool,
        queue: Mapping[str, Any],
        letters: Letters,
    ) -> None:
        self._backend = backend
        self._connection = connection
        self._session = session
        self._request = request
        self._check = check
        self._stream: str = queue["stream_name"]
        self._consumer: str = queue["name"]
        self._filters = filters_of(queue["config"])
        self._letters = letters
        self._failed = request.source == "failed"
        self._streams: dict[str, Target | None] = {}
        self._waiting: dict[str, set[Waiting]] = {}
        self.home = Target(self._stream, session.api("STREAM.INFO." + self._stream), None, queue)
        self.targets: dict[tuple[str, str | None], Target] = {}

    def open_all(self) -> None:
        """Refuse destinations that do not exist or would drop what they are sent."""
        for rule in self._request.rules:
            self.open(rule)
        if self._request.max_redrives is not None:
            self.open(Rule(action="park"))

    def open(self, rule: Rule) -> None:
        """Refuse a destination that does not exist or would drop what it is sent."""
        target: Target | None
        if rule.action in ("requeue", "compensate"):
            target = self.home if rule.destination is None else self._named_target(rule.destination)
            if rule.destination is None:
                self._refuse_others()
            if target.subject is not None and literal(target.subject):
                target.refuse_unheard(self._session, target.subject)
            self.targets[rule.action, rule.destination] = target
        elif rule.action == "park":
            info = parked_stream(self._session, int(self.home.config.get("num_replicas") or 1), not self._check)
            target = Target(PARKED, info or {"config": {}, "state": {}}, PARKED_SUBJECT % (self._stream, self._consumer))
            self.targets["park", None] = target
        elif rule.action == "fail" and not self._failed:
            target = self._failed_target()
            self.targets["fail", None] = target
        else:
            return
        target.refuse_unfit("rules")

    def _named_target(self, name: str) -> Target:
        consumer = self._backend.destination(self._session, name, self._stream)
        if consumer is not None:
            stream = consumer["stream_name"]
            subjects = filters_of(consumer["config"])
            info = self.home.info if stream == self._stream else self._session.api("STREAM.INFO." + stream)
            if subjects == [">"]:
                subjects = [str(subject) for subject in info["config"].get("subjects") or ()]
            if stream == self._stream and consumer["name"] == self._consumer:
                return Target(stream, info, None, consumer)
            if len(subjects) != 1:
                raise Refused(
                    "The queue %s takes from %d subjects, and which of them is meant is not clear" % (name, len(subjects)),
                    option="rules",
                    next_step="Give the subject as the destination",
                )
            return Target(stream, info, subjects[0], consumer)
        found = self.stream_of(name) if valid_subject(name) else None
        if found is None:
            raise NotFound(
                "There is no queue %s at %s, and no stream takes such a subject" % (name, self._connection.where),
                option="rules",
                next_step="Give <stream>/<consumer> or a subject in the rule's destination",
            )
        return Target(found.stream, found.info, name)

    def _failed_target(self) -> Target:
        info = self._session.api_or_none("STREAM.INFO." + self._letters.stream)
        if info is None:
            raise NotFound(
                "There is no stream %s for failed tasks at %s" % (self._letters.stream, self._connection.where),
                option="dead_letter",
                next_step="Name the dead-letter stream in the option dead_letter",
            )
        patterns = self._letters.subjects if self._letters.subjects != (">",) else tuple(info["config"].get("subjects") or ())
        usable = [pattern for pattern in patterns if not pattern.startswith("$") and "*" not in pattern.split(".")]
        if not usable:
            raise Refused(
                "The stream %s takes no tasks from applications, only the server's advisories" % self._letters.stream,
                option="rules",
                next_step="Use action=park, or name another dead-letter stream in the option dead_letter",
            )
        return Target(self._letters.stream, info, usable[0])

    def _refuse_others(self) -> None:
        """What is published to its subject again is given to every consumer there, also to those that have done it."""
        if self.home.config.get("retention") == "workqueue" or int(self.home.info["state"].get("consumer_count") or 0) < 2:
            return
        others = [
            entry["name"]
            for entry in listed_consumers(self._session, self._stream)
            if entry["name"] != self._consumer
            and entry["config"].get("durable_name")
            and any(overlap(mine, theirs) for mine in self._filters for theirs in filters_of(entry["config"]))
        ]
        if others:
            raise Refused(
                "The stream %s would give the redriven tasks of %s to %s too, a second time"
                % (self._stream, self._request.queue, ", ".join(others[:5])),
                option="rules",
                next_step="Give destination=%s if that may be, or a subject that %s alone takes" % (self._request.queue, self._consumer),
            )

    def refuse_full(self, info: Mapping[str, Any], wanted: int) -> None:
        """Where it is known how many tasks go, and where to."""
        rules = self._request.rules
        if len(rules) != 1 or rules[0].match.named():
            return
        target = self.targets.get((rules[0].action, rules[0].destination))
        if target is None or not target.info["state"]:
            return
        if self._request.limit is not None:
            wanted = min(wanted, self._request.limit)
        average = int(info["state"]["bytes"]) // max(1, int(info["state"]["messages"]))
        room, _each = target.room(self._session, (), average)
        if room is not None and room < wanted:
            raise Refused(
                "The stream %s has room for %d of the %d tasks, and would drop its oldest messages for the rest"
                % (target.stream, room, wanted),
                option="rules",
                next_step="Raise its limits or set its discard policy to new, redrive with limit=%d, or give another destination" % room,
            )

    def stream_of(self, subject: str) -> Target | None:
        """The stream that takes what is published to ``subject``."""
        if matches(self.home.config.get("subjects") or (), subject):
            return self.home
        if subject not in self._streams:
            if len(self._streams) > 10000:
                self._streams.clear()
            names = self._session.api("STREAM.NAMES", {"subject": subject}).get("streams") or []
            self._streams[subject] = Target(names[0], self._session.api("STREAM.INFO." + names[0])) if names else None
        return self._streams[subject]

    def route(self, decision: Decision, item: Item) -> tuple[Target | None, str, str]:
        """Where a task goes: the stream and the subject, or why nowhere."""
        target = self.targets[decision.action, decision.destination]
        if decision.action == "fail":
            pattern = str(target.subject)
            return target, pattern if literal(pattern) else "%s.%s" % (pattern[:-2], item.origin or "unknown"), ""
        subject = target.subject_for(item.origin, self._filters)
        if subject is None:
            return None, "", _NO_SUBJECT if item.origin else NO_ORIGIN
        if target.subject is None:
            taker = self.stream_of(subject)
            if taker is None:
                return None, "", UNHEARD
            target = taker
        return target, subject, ""

    def fitting(
        self, decisions: list[Decision], sends: list[tuple[int, Target, str]], outcomes: list[str]
    ) -> list[tuple[int, Target, str]]:
        """Those for which somebody waits at the destination, and for which there is room."""
        self._waiting = self._who_waits(sends)
        unwanted = _unwanted(sends, self._waiting)
        for index in unwanted:
            outcomes[index] = UNWANTED % next(target.stream for one, target, _subject in sends if one == index)
        sends = [entry for entry in sends if entry[0] not in unwanted]
        found = []
        for target in {id(target): target for _index, target, _subject in sends}.values():
            mine = [entry for entry in sends if entry[1] is target]
            largest = max(len(decisions[index].task.handle.message.data) for index, _target, _subject in mine) + 500
            room, each = target.room(self._session, [subject for _index, _target, subject in mine], largest)
            for index, _target, subject in mine:
                if room == 0 or each.get(subject, 1) <= 0:
                    outcomes[index] = _FULL % target.stream
                    continue
                room = None if room is None else room - 1
                if subject in each:
                    each[subject] -= 1
                found.append((index, target, subject))
        return sorted(found, key=lambda entry: entry[0])

    def _who_waits(self, sends: list[tuple[int, Target, str]]) -> dict[str, set[Waiting]]:
        """The consumers of the streams among the destinations that drop what nobody waits for."""
        found: dict[str, set[Waiting]] = {}
        for stream in {target.stream for _index, target, _subject in sends if target.config.get("retention") == "interest"}:
            consumers = listed_consumers(self._session, stream)
            found[stream] = {(one["name"], str(one["created"]), tuple(filters_of(one["config"]))) for one in consumers}
        return found

    def waited_since(self, target: Target, subject: str) -> str:
        """When the oldest of the consumers that wait there was made; "" for a stream that keeps what nobody waits for."""
        waiting = self._waiting.get(target.stream, ())
        return min((made for _name, made, filters in waiting if matches(filters, subject)), default="")

    def dropped(self, sends: list[tuple[int, Target, str]]) -> set[int]:
        """Those (of what :meth:`fitting` let go) that the destination took and may not have kept, for a consumer has gone meanwhile."""
        if not self._waiting:
            return set()
        now = self._who_waits(sends)
        return _unwanted(sends, {stream: waiting & now.get(stream, set()) for stream, waiting in self._waiting.items()})


def _unwanted(sends: list[tuple[int, Target, str]], waiting: Mapping[str, set[Waiting]]) -> set[int]:
    return {
        index
        for index, target, subject in sends
        if target.stream in waiting and not any(matches(filters, subject) for _name, _made, filters in waiting[target.stream])
    }
