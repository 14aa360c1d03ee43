# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The events of one operation as facts. No clock: later events of the journal change nothing, so a page can be made again."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Any, Sequence

from .._errors import NotFound
from .._journal.events import Event
from .._journal.fold import DEPLOY, TAKEN_OVER, Operation, fold
from .decisions import Decision, decisions
from .hosts import FileDiff, Host, Lane, config_diffs, hosts, lanes
from .tasks import Measured, Redrive, measured, redrives
from .text import NOT_KNOWN, many, plain, unix, words
from .times import Course, Span, follow, spans
from .words import Names, tell

#: How an operation ended that somebody will want to study.
_TROUBLED = ("rolled_back", "failed", TAKEN_OVER)


@dataclass(frozen=True)
class Line:
    """One line of the timeline.

    :ivar seqs: the events; several where they say the same of several hosts within one second.
    :ivar number: of the decision point, or 0.
    """

    at: str
    seqs: list[int]
    where: list[str]
    text: str
    tone: str
    actor: str
    number: int


@dataclass(frozen=True)
class Facts:
    """What the journal says of one operation.

    :ivar verdict: how it ended in a word; ``open`` while it has not.
    :ivar tone: ``good``, ``bad`` or empty.
    :ivar sentence: what it came to.
    :ivar last: the seq and the hash of its last event, by which a page can be told from another.
    """

    fleet: str
    operation: str
    kind: str
    epoch: int
    actor: str
    controller: str
    reason: str
    opened_at: str
    closed_at: str | None
    verdict: str
    tone: str
    sentence: str
    spans: list[Span]
    decisions: list[Decision]
    timeline: list[Line]
    hosts: list[Host]
    redrives: list[Redrive]
    measured: Measured
    diffs: list[FileDiff]
    lanes: list[Lane]
    names: Names
    last: tuple[int, str]


def choose(events: Sequence[Event], wanted: str | None) -> str:
    """The operation to tell of: ``wanted``, else the newest that did not end as it should, else the newest.

    :raises NotFound: there is none.
    """
    operations = fold(events).operations
    if wanted is not None and wanted in operations:
        return wanted
    newest = ", ".join(list(operations)[-5:]) or "none"
    if wanted is not None or not operations:
        what = "has no operation %s" % plain(wanted) if wanted is not None else "has no operation yet"
        raise NotFound(
            "The journal %s; the newest are: %s" % (what, newest),
            option="operation" if wanted is not None else "fleet",
            next_step="Give the id of one of the fleet's operations" if wanted is not None else "Deploy something first",
        )
    troubled = [operation.id for operation in operations.values() if operation.outcome in _TROUBLED]
    return (troubled or list(operations))[-1]


def gather(events: Sequence[Event], fleet: str, operation_id: str) -> Facts:
    """What the journal says of an operation that it has.

    :param events: the whole journal.
    """
    own = [event for event in events if event.operation == operation_id]
    until = [event for event in events if event.seq <= own[-1].seq]
    state = fold(until)
    operation = state.operations[operation_id]
    known = Names({release.number: release.version for release in state.releases.values()})
    course = follow(until, operation, list(state.operations.values()))
    decided = decisions(until, operation, known)
    found = hosts(own, operation, state)
    return Facts(
        fleet=plain(fleet),
        operation=plain(operation.id),
        kind=operation.kind,
        epoch=operation.epoch,
        actor=plain(operation.actor or NOT_KNOWN),
        controller=plain(operation.controller or NOT_KNOWN),
        reason=plain(operation.reason or ""),
        opened_at=str(operation.opened_at),
        closed_at=operation.closed_at,
        verdict=words(operation.outcome or "open"),
        tone={"confirmed": "good", "failed": "bad", TAKEN_OVER: "bad"}.get(operation.outcome or "", ""),
        sentence=_sentence(operation, course, found, known),
        spans=spans(course, known),
        decisions=decided,
        timeline=_timeline(own, known, {one.seq: one.number for one in decided}),
        hosts=found,
        redrives=redrives(own),
        measured=measured(own),
        diffs=config_diffs(own),
        lanes=lanes(own, fold([event for event in until if event.seq < own[0].seq])),
        names=known,
        last=(own[-1].seq, own[-1].hash),
    )


def as_dict(facts: Facts) -> dict[str, Any]:
    """What the module returns of the facts, JSON values only."""
    return {
        "operation": facts.operation,
        "kind": facts.kind,
        "outcome": None if facts.closed_at is None else facts.verdict.replace(" ", "_"),
        "sentence": facts.sentence,
        "opened_at": facts.opened_at,
        "closed_at": facts.closed_at,
        "times": {_key(span): span.seconds for span in facts.spans},
        "not_known": {_key(span): span.why for span in facts.spans if span.seconds is None},
        "decisions": [{"seq": one.seq, "at": one.at, "what": one.what, "by": one.by, "reason": one.reason} for one in facts.decisions],
        "hosts": [
            {"host": host.name, "release": host.release, "phase": host.phase, "ok": host.ok, "reason": host.reason} for host in facts.hosts
        ],
        "last_seq": facts.last[0],
        "last_hash": facts.last[1],
    }


def _key(span: Span) -> str:
    return span.name.lower().replace(" ", "_") + "_s"


def _sentence(operation: Operation, course: Course, found: Sequence[Host], known: Names) -> str:
    target = known.release(operation.target)
    if operation.kind == DEPLOY:
        reached = {host.name for host in found if any(step.what == "switched" for step in host.steps)}
        began = "%s went to %d of %s" % (target, len(reached), many(len(found), "host"))
    else:
        began = "rollback from %s to %s" % (known.release(operation.from_release), target)
    if operation.outcome is None:
        return began + "; the operation is still open"
    if operation.outcome == "rolled_back" and operation.to_release is not None:
        proven = "every host is back on %s" % known.release(operation.to_release)
        return "%s, and %s" % (began, proven)
    ends = {
        "confirmed": "and was confirmed on every host",
        "failed": "and did not end as it should: the hosts may differ",
        "nothing_to_do": "and there was nothing to do",
        TAKEN_OVER: "and was taken over by another run before it ended",
    }
    return "%s, %s" % (began, ends.get(str(operation.outcome), "and ended as %s" % words(str(operation.outcome))))


def _timeline(own: Sequence[Event], known: Names, numbers: dict[int, int]) -> list[Line]:
    """By time; what is said of several hosts within one second becomes one line."""
    told = [(event, *tell(event, known)) for event in sorted(own, key=lambda event: (unix(event.at), event.seq))]
    lines = []
    for _same, group in groupby(told, key=lambda one: (str(one[0].at)[:19], one[0].kind, one[1], one[2], one[0].actor, bool(one[0].host))):
        events = [one[0] for one in group]
        first = events[0]
        text, tone = tell(first, known)
        where = [plain(event.host) for event in events if event.host]
        number_of = max(numbers.get(event.seq, 0) for event in events)
        lines.append(Line(str(first.at), [event.seq for event in events], where, text, tone, plain(first.actor or NOT_KNOWN), number_of))
    return lines
