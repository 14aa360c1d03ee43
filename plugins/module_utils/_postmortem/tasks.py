# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of the tasks, and what was measured of the queue over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from .._journal.events import Event
from .text import count, mapping, mappings, number, plain, unix, words

_OUTCOMES = (("matched", "matched"), ("moved", "put back"), ("skipped_count", "left out"), ("remaining", "remain"))

#: A sample whose time is further (s) from its gate's verdict has a clock that nothing can be drawn by.
_FAR_S = 86400.0


@dataclass(frozen=True)
class Redrive:
    """One redrive of one queue.

    :ivar outcomes: (outcome, tasks); None where it is not known.
    :ivar left_out: why tasks were left out, and how many for each reason.
    :ivar before: place to tasks before it; ``after``: and after it.
    :ivar conservation: whether it is proven that none was lost or doubled, and why.
    :ivar failure: why the redrive itself failed; empty if it did not.
    """

    seq: int
    queue: str
    outcomes: list[tuple[str, int | None]]
    left_out: list[tuple[str, int]]
    before: dict[str, int]
    after: dict[str, int]
    conservation: str
    conservation_reason: str
    failure: str


@dataclass
class Measured:
    """What was measured over time, each time in seconds since 1970.

    :ivar depth: queue to (time, queued tasks).
    :ivar standing: queue to (time, tasks that stand as failed).
    :ivar ratios: one list of (time, share of failed tasks in percent) for each gate.
    :ivar limits: the gates' limits, in percent.
    """

    depth: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    standing: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    ratios: list[list[tuple[float, float]]] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)


def redrives(own: Sequence[Event]) -> list[Redrive]:
    """The redrives in the operation's events."""
    return [_redrive(event) for event in own if event.kind in ("tasks_redriven", "redrive_failed")]


def _redrive(event: Event) -> Redrive:
    data = event.data
    conserved = mapping(data.get("conservation"))
    failed = event.kind == "redrive_failed"
    by_rule = [
        ("%s by rule %s" % (words(str(rule.get("action"))), plain(rule.get("name"))), count(rule.get("moved")))
        for rule in mappings(data.get("rules"))
    ]
    return Redrive(
        event.seq,
        plain(data.get("queue") or "queue"),
        [(outcome, count(data.get(name))) for name, outcome in _OUTCOMES if not (by_rule and name == "moved")] + by_rule,
        _counts(data.get("skipped_because")),
        dict(_counts(conserved.get("before"))),
        dict(_counts(conserved.get("after"))),
        plain(conserved.get("verdict") or ""),
        plain(conserved.get("reason") or ""),
        plain(event.reason or "no reason was given") if failed else "",
    )


def _counts(value: Any) -> list[tuple[str, int]]:
    found = mapping(value)
    return [(words(str(name)), found[name]) for name in sorted(found) if count(found[name]) is not None]


def measured(own: Sequence[Event]) -> Measured:
    """What the operation's events have of the queue's depth and of failures."""
    found = Measured()
    for event in own:
        if event.kind == "queue_looked":
            _look(found, event, event.data)
        elif event.kind == "tasks_redriven":
            _look(found, event, mapping(mapping(event.data.get("conservation")).get("after")))
        elif event.kind == "gate_verdict":
            _gate(found, event)
    for series in (*found.depth.values(), *found.standing.values()):
        series.sort()
    return found


def _look(found: Measured, event: Event, counts: Mapping[str, Any]) -> None:
    queue = plain(event.data.get("queue") or "queue")
    for series, name in ((found.depth, "queued"), (found.standing, "failed")):
        if count(counts.get(name)) is not None:
            series.setdefault(queue, []).append((unix(event.at), float(counts[name])))


def _gate(found: Measured, event: Event) -> None:
    samples = mappings(event.data.get("samples")) or [mapping(event.data.get("last_sample"))]
    points = []
    for sample in samples:
        at, ratio = number(sample.get("at")), number(sample.get("ratio"))
        if at is not None and ratio is not None and 0 <= ratio <= 1 and abs(at - unix(event.at)) < _FAR_S:
            points.append((float(at), 100.0 * ratio))
    if not points:
        return
    found.ratios.append(sorted(points))
    limit = number(event.data.get("limit"))
    if limit is not None and 0 <= limit <= 1 and 100.0 * limit not in found.limits:
        found.limits.append(100.0 * limit)
