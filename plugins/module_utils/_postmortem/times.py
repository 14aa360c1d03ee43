# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long it took to detect, to decide and to revert. Where an event is missing the time is not known, and why is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Sequence

from .._journal.events import Event
from .._journal.fold import AS_FOUND, DEPLOY, Operation, release_number
from .text import plain, some, unix
from .words import ARRIVED, WENT_BACK, Names

_TROUBLE = ("host_failed", "host_unreachable", "host_put_back", "confirm_timer_reverted")


@dataclass(frozen=True)
class Span:
    """The time between two events.

    :ivar seconds: None where it is not known, for the reason in ``why``.
    :ivar began: and ``ended``: the events' seq, None where there is none.
    """

    name: str
    meaning: str
    seconds: float | None
    began: int | None
    ended: int | None
    why: str


@dataclass
class Course:
    """The events that the times lie between.

    :ivar bad: the release that was left, or would have been.
    :ivar switched: the first host on it. ``failing``: the first sign that it is bad. ``ordered``: the rollback's order.
    :ivar back: the last host's return, once every host that was on it is back.
    :ivar missing: hosts without an event of their return.
    """

    bad: int
    switched: Event | None = None
    failing: Event | None = None
    ordered: Event | None = None
    back: Event | None = None
    missing: list[str] = field(default_factory=list)


def follow(events: Sequence[Event], operation: Operation, operations: Sequence[Operation]) -> Course:
    """Find them.

    :param events: the whole journal up to the operation's last event.
    :param operations: all of that time, oldest first.
    """
    course = Course(operation.suspect)
    own = [event for event in events if event.operation == operation.id]
    course.ordered = next((event for event in own if event.kind == _order_of(operation)), None)
    if course.bad == AS_FOUND:
        return course
    # A rollback by hand goes back from what an earlier operation brought.
    brought = [other for other in operations if other.target == course.bad and (other.id == operation.id or operation.kind != DEPLOY)]
    if not brought:
        return course
    until = course.ordered.seq if course.ordered else len(events) + 1
    bringing = [event for event in events if event.operation == brought[-1].id and event.seq < until]
    arrivals = [event for event in bringing if event.kind in ARRIVED and release_number(event.data.get("release")) == course.bad]
    failures = [event for event in bringing if _is_failure(event)]
    course.switched, course.failing = _first(arrivals), _first(failures)
    if course.ordered is None:
        return course
    asked = {event.host for event in [*arrivals, *failures] if event.host}
    if operation.kind != DEPLOY:
        asked |= {event.host for event in own if event.host and event.kind in (*ARRIVED, *_TROUBLE)}
    _returned(course, own, asked)
    return course


def _order_of(operation: Operation) -> str:
    return "rollback_ordered" if operation.kind == DEPLOY else "operation_opened"


def _is_failure(event: Event) -> bool:
    return event.kind in _TROUBLE or (event.kind == "gate_verdict" and event.data.get("verdict") != "pass")


def _first(events: Sequence[Event]) -> Event | None:
    return min(events, key=lambda event: (unix(event.at), event.seq), default=None)


def _returned(course: Course, own: Sequence[Event], asked: set[str]) -> None:
    """Note the last return, or who has none."""
    back: dict[str, Event] = {}
    ordered = course.ordered.seq if course.ordered else 0
    for event in own:
        release = release_number(event.data.get("release"))
        if event.host in asked and event.kind in WENT_BACK and event.seq > ordered and release not in (None, course.bad):
            back.setdefault(str(event.host), event)
    course.missing = sorted(asked - set(back))
    if back and not course.missing:
        course.back = max(back.values(), key=lambda event: (unix(event.at), event.seq))


def spans(course: Course, known: Names) -> list[Span]:
    """Detect, decide, revert, and the whole of it."""
    bad = known.release(course.bad)
    switched = (course.switched, "no host is known to have been switched to %s" % bad)
    failing = (course.failing, "no gate and no host failed before")
    ordered = (course.ordered, "no rollback was ordered")
    gone = "there is no event of a return for %s" % some([plain(host) for host in course.missing])
    back = (course.back, gone if course.missing else "no host is known to have been on %s" % bad)
    return [
        _span("Detect", "from the first switch to %s until the first gate or host failed" % bad, switched, failing),
        _span("Decide", "from that failure until the rollback was ordered", failing, ordered),
        _span("Revert", "from the order until the last host was back", ordered, back),
        _span("In service", "from the first switch to %s until the last host was back" % bad, switched, back),
    ]


def _span(name: str, meaning: str, began: tuple[Event | None, str], ended: tuple[Event | None, str]) -> Span:
    first, last = began[0], ended[0]
    if first is None or last is None:
        why = began[1] if first is None else ended[1]
        return Span(name, meaning, None, first.seq if first else None, last.seq if last else None, why)
    took = round(unix(last.at) - unix(first.at), 3)
    if took < 0:
        # By clocks that do not agree, or because it was so: there is no time between them.
        return Span(name, meaning, None, first.seq, last.seq, "event %d is dated before event %d" % (last.seq, first.seq))
    return Span(name, meaning, took, first.seq, last.seq, "")
