# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision points: what was measured against which limit, who or what decided, and what else could have been done."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Sequence

from .._journal.events import Event
from .._journal.fold import AS_FOUND, DEPLOY, Operation, fold
from .text import NOT_KNOWN, figure, figures, many, mapping, number, percent, plain, some
from .words import VERDICTS, Names, names_of_wave, verdict_of

_TOLD_APART = ("verdict", "metric", "limit", "wave", "last_sample", "samples", "reason")


@dataclass(frozen=True)
class Decision:
    """One decision point.

    :ivar label: the few words that a plot has room for.
    :ivar by: who or what decided.
    :ivar values: what was measured, as (name, value).
    :ivar limit: what it was measured against; None where there was nothing to measure.
    :ivar alternatives: what else could have been done, in sentences.
    """

    number: int
    seq: int
    at: str
    what: str
    label: str
    tone: str
    by: str
    values: list[tuple[str, str]]
    limit: str | None
    reason: str
    alternatives: list[str]


def decisions(events: Sequence[Event], operation: Operation, known: Names) -> list[Decision]:
    """The operation's decision points, oldest first.

    :param events: the whole journal up to the operation's last event.
    """
    found: list[Decision] = []
    switched: set[str] = set()
    fleet: list[str] = []
    for event in (event for event in events if event.operation == operation.id):
        if event.kind == "operation_opened":
            fleet = sorted(str(host) for host in mapping(event.data.get("digests")))
            found.append(_opening(event, events, known))
        elif event.kind == "host_switched":
            switched.add(str(event.host))
        elif event.kind == "gate_verdict":
            waiting = [plain(host) for host in fleet if host not in switched] if fleet else None
            found.append(_gate(event, operation, waiting, known))
        elif event.kind == "rollback_ordered":
            found.append(_order(event, events, known))
        elif event.kind == "operation_taken_over":
            found.append(_takeover(event))
    return [replace(one, number=place) for place, one in enumerate(found, 1)]


def _decision(event: Event, what: str, label: str, tone: str, by: str, alternatives: list[str]) -> Decision:
    return Decision(0, event.seq, str(event.at), what, label, tone, by, [], None, plain(event.reason or ""), alternatives)


def _opening(event: Event, events: Sequence[Event], known: Names) -> Decision:
    data = event.data
    target, origin = known.release(data["target"]), known.release(data["from"])
    by = plain(event.actor or NOT_KNOWN)
    if data["kind"] == DEPLOY:
        return _decision(event, "Deploy %s" % target, "deploy opened", "", by, ["Stay on %s." % origin])
    others = _others(event, events, data["target"], data["from"], known)
    return _decision(event, "Roll back to %s" % target, "rollback ordered", "bad", by, ["Stay on %s." % origin, others])


def _order(event: Event, events: Sequence[Event], known: Names) -> Decision:
    target = event.data.get("target")
    by = "the deploy's own rule (what is not proven good goes back), run by %s" % plain(event.actor or NOT_KNOWN)
    others = _others(event, events, target, event.data.get("from"), known)
    return _decision(event, "Roll back to %s" % known.release(target), "rollback ordered", "bad", by, [others])


def _others(event: Event, events: Sequence[Event], target: object, origin: object, known: Names) -> str:
    """Which releases could have been gone to, as things stood then."""
    before = fold([other for other in events if other.seq < event.seq])
    others = [release for release in before.known_good_releases() if release not in (target, origin)]
    if AS_FOUND not in (target, origin):
        others.append(AS_FOUND)
    good = ", ".join(known.release(release) for release in others)
    return "Go back to another release: %s." % good if others else "There was no other release to go back to."


def _gate(event: Event, operation: Operation, waiting: list[str] | None, known: Names) -> Decision:
    data = event.data
    verdict = str(data.get("verdict"))
    told, tone = VERDICTS.get(verdict, VERDICTS["inconclusive"])
    title = verdict_of(event)[0]
    metric = plain(data.get("metric") or "a metric that is not known")
    wave = names_of_wave(event)
    sample = mapping(data.get("last_sample"))
    return Decision(
        0,
        event.seq,
        str(event.at),
        title[:1].upper() + title[1:] + (" on %s" % wave if wave else ""),
        told,
        tone,
        plain(event.actor or NOT_KNOWN)
        if metric == "approval"
        else "the gate's rule on %s, run by %s" % (metric, plain(event.actor or NOT_KNOWN)),
        figures(sample, ["at"]) + figures(data, _TOLD_APART),
        _limit(data.get("limit"), metric),
        plain(event.reason or data.get("reason") or ""),
        [_had_it_not(verdict, operation, waiting, known)],
    )


def _limit(value: object, metric: str) -> str | None:
    limit = number(value)
    if limit is None:
        return None if value is None else plain(value)
    return percent(limit) if metric.endswith("ratio") else figure("limit", limit)


def _had_it_not(verdict: str, operation: Operation, waiting: list[str] | None, known: Names) -> str:
    """What the other verdicts would have led to."""
    if verdict == "pass":
        back = operation.from_release if operation.back_to is None else operation.back_to
        return "Had it failed, every touched host would have gone back to %s." % known.release(back)
    if waiting is None:
        return "Had it passed, the deploy would have gone on."
    if not waiting:
        return "Had it passed, the release would have been confirmed on every host."
    return "Had it passed, the deploy would have gone on to the other %s (%s)." % (many(len(waiting), "host"), some(waiting))


def _takeover(event: Event) -> Decision:
    earlier = plain(event.data.get("from_actor") or NOT_KNOWN)
    by = plain(event.actor or NOT_KNOWN)
    return _decision(event, "Take over from %s" % earlier, "taken over", "bad", by, ["Wait for the run of %s to end." % earlier])
