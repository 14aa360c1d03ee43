# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the journal's events mean to a reader: the timeline, the decision points and the three times. The one place that knows kinds."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Callable

from .measure import Row, seconds


@dataclass
class Moment:
    """One line of the timeline.

    :ivar at: seconds since 1970.
    :ivar host: the host it happened on, or empty.
    :ivar text: what happened, in an operator's words.
    :ivar label: the short text of a decision point in the plot; empty for an ordinary line.
    :ivar tone: ``good``, ``bad`` or empty.
    """

    at: float
    text: str
    host: str = ""
    label: str = ""
    tone: str = ""


@dataclass
class Story:
    """What happened, as told by the events and the ledger.

    :ivar moments: the timeline, oldest first.
    :ivar suspect: the release under trial, the last one that was deployed.
    :ivar rolled_back: whether a rollback followed.
    :ivar time_to_detect_s: from the canary's switch to the gate's verdict ``fail``; None without one.
    :ivar time_to_decide_s: from that verdict to the rollback's order.
    :ivar time_to_revert_s: from the order until the last touched host has completed a task under the target release.
    :ivar time_to_canary_s: from the canary's switch to the verdict ``pass``, in a drill with a good release.
    :ivar time_to_promote_s: from that verdict until the last host has completed a task under the new release.
    """

    moments: list[Moment] = field(default_factory=list)
    suspect: int | None = None
    rolled_back: bool = False
    time_to_detect_s: float | None = None
    time_to_decide_s: float | None = None
    time_to_revert_s: float | None = None
    time_to_canary_s: float | None = None
    time_to_promote_s: float | None = None


def tell(events: list[dict[str, Any]], rows: list[Row], target: int) -> Story:
    """Read the story out of the fleet's events.

    :param events: the journal's events: ``kind``, ``at`` (ISO), ``host``, ``operation``, ``reason``, ``data``.
    :param rows: the ledger, which dates a host's first task under a version better than any event.
    :param target: the release that the fleet should be on at the end.
    """
    events = sorted(events, key=lambda event: seconds(event["at"]))
    story = Story()
    versions = {
        _data(event).get("target"): _data(event).get("version") for event in _of(events, "operation_opened") if _data(event).get("version")
    }
    operations = {event.get("operation"): _data(event).get("kind", "operation") for event in _of(events, "operation_opened")}
    deploys = [event for event in _of(events, "operation_opened") if _data(event).get("kind") == "deploy"]
    if deploys:
        story.suspect = _data(deploys[-1]).get("target")
        _time(story, events, deploys[-1], versions, rows, target)
    for event in events:
        words = _WORDS.get(event["kind"])
        if words is None:
            continue
        text, tone = words(event, versions, operations)
        if text:
            story.moments.append(Moment(_when(event), text, event.get("host") or "", "", tone))
    _label(story, events, deploys)
    story.moments = _merged(sorted(story.moments, key=lambda moment: moment.at), {row.host for row in rows})
    return story


def _merged(moments: list[Moment], hosts: set[str]) -> list[Moment]:
    """Lines in a row that say the same of several hosts become one, with the time of the last."""
    found: list[Moment] = []
    groups: list[list[str]] = []
    for moment in moments:
        if found and moment.host and found[-1].host and found[-1].text == moment.text:
            groups[-1].append(moment.host)
            found[-1] = replace(moment, label=moment.label or found[-1].label)
        else:
            found.append(moment)
            groups.append([moment.host])
    for moment, group in zip(found, groups):
        if len(group) > 1:
            moment.host = "all hosts" if hosts and set(group) >= hosts else ", ".join(sorted(set(group)))
    return found


def _of(events: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [event for event in events if event["kind"] in kinds]


def _data(event: dict[str, Any]) -> dict[str, Any]:
    return event.get("data") or {}


def _when(event: dict[str, Any]) -> float:
    """When it happened: a gate's verdict is reached with its last sample, and written down later."""
    sampled = (_data(event).get("last_sample") or {}).get("at")
    return float(sampled) if event["kind"] == "gate_verdict" and isinstance(sampled, (int, float)) else seconds(event["at"])


_BACK = ("host_reverted", "host_put_back", "confirm_timer_reverted")


def _time(
    story: Story, events: list[dict[str, Any]], deploy: dict[str, Any], versions: dict[Any, Any], rows: list[Row], target: int
) -> None:
    opened = seconds(deploy["at"])
    trial = versions.get(story.suspect)
    switched = [
        event for event in _of(events, "host_switched") if _data(event).get("release") == story.suspect and seconds(event["at"]) >= opened
    ]
    first_tasks = [row.at for row in rows if row.version == trial and row.at >= opened]
    begun = [_when(event) for event in switched[:1]] + first_tasks[:1]
    verdicts = [event for event in _of(events, "gate_verdict") if seconds(event["at"]) >= opened]
    if not begun or not verdicts:
        return
    began = min(begun)
    failing = next((event for event in verdicts if _data(event).get("verdict") != "pass"), None)
    if failing is None:
        passed = _when(verdicts[0])
        story.time_to_canary_s = round(passed - began, 2)
        firsts = _first_rows(rows, trial, opened)
        if firsts:
            story.time_to_promote_s = round(max(passed, *firsts.values()) - passed, 2)
        return
    story.time_to_detect_s = round(_when(failing) - began, 2)
    orders = [event for event in _orders(events) if seconds(event["at"]) >= opened]
    if not orders:
        return
    story.rolled_back = True
    ordered = seconds(orders[0]["at"])
    story.time_to_decide_s = round(max(0.0, ordered - _when(failing)), 2)
    touched = {event["host"] for event in switched} | {row.host for row in rows if row.version == trial and opened <= row.at < ordered}
    back = {event["host"]: _when(event) for event in _of(events, *_BACK) if _when(event) >= ordered and event.get("host") in touched}
    working = _first_rows(rows, versions.get(target), ordered)
    ends = [working.get(host, back.get(host)) for host in touched]
    if ends and all(end is not None for end in ends):
        end_of_all = max(end for end in ends if end is not None)
        story.time_to_revert_s = round(end_of_all - ordered, 2)
        story.moments.append(
            Moment(end_of_all, "every touched host works on %s again" % _named(target, versions), label="all hosts back", tone="good")
        )


def _orders(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The decisions to roll back: of a deploy, or of an operator."""
    return [event for event in events if event["kind"] == "rollback_ordered" or _data(event).get("kind") == "rollback"]


def _first_rows(rows: list[Row], version: Any, after: float) -> dict[str, float]:
    """Host to the time of its first completion under ``version`` since ``after``."""
    found: dict[str, float] = {}
    for row in rows:
        if row.version == version and row.at >= after:
            found[row.host] = min(row.at, found.get(row.host, row.at))
    return found


def _label(story: Story, events: list[dict[str, Any]], deploys: list[dict[str, Any]]) -> None:
    """Name the decision points, the few that the plot shows."""

    def mark(event: dict[str, Any] | None, label: str) -> None:
        if event is None:
            return
        at, host = _when(event), event.get("host") or ""
        for moment in story.moments:
            if moment.at == at and moment.host == host and not moment.label:
                moment.label = label
                return

    switches = _of(events, "host_switched")
    for number, deploy in enumerate(deploys):
        release = _data(deploy).get("target")
        mine = [event for event in switches if _data(event).get("release") == release and seconds(event["at"]) >= seconds(deploy["at"])]
        if not mine:
            continue
        last = number == len(deploys) - 1
        if last and len(deploys) > 1:
            mark(mine[0], "release %s on the canary" % release)
            if not story.rolled_back and len(mine) > 1:
                mark(mine[-1], "release %s on all hosts" % release)
        else:
            mark(mine[-1], "release %s on all hosts" % release)
    opened = seconds(deploys[-1]["at"]) if deploys else 0.0
    verdicts = [event for event in _of(events, "gate_verdict") if seconds(event["at"]) >= opened]
    for verdict in verdicts[:1] if not story.rolled_back else [event for event in verdicts if _data(event).get("verdict") != "pass"][:1]:
        mark(verdict, {"pass": "gate passes", "fail": "gate fails"}.get(_data(verdict).get("verdict", ""), "gate inconclusive"))
    mark(next(iter(_orders([event for event in events if seconds(event["at"]) >= opened])), None), "rollback ordered")
    redriven = _of(events, "tasks_redriven")
    mark(redriven[-1] if redriven else None, "failed tasks redriven")


# In quotes, because Python 3.8 cannot subscript dict and tuple at run time.
Words = Callable[["dict[str, Any]", "dict[Any, Any]", "dict[Any, Any]"], "tuple[str, str]"]


def _named(release: Any, versions: dict[Any, Any]) -> str:
    return "release %s (version %s)" % (release, versions[release]) if versions.get(release) else "release %s" % release


def _opened(event: dict[str, Any], versions: dict[Any, Any], operations: dict[Any, Any]) -> tuple[str, str]:
    if _data(event).get("kind") == "rollback":
        return _ordered(event, versions, operations)
    return "deploy of %s opened" % _named(_data(event).get("target"), versions), ""


def _ordered(event: dict[str, Any], versions: dict[Any, Any], operations: dict[Any, Any]) -> tuple[str, str]:
    return "rollback to %s ordered" % _named(_data(event).get("target"), versions), "bad"


def _trouble(what: str) -> Words:
    def words(event: dict[str, Any], versions: dict[Any, Any], operations: dict[Any, Any]) -> tuple[str, str]:
        return what + (": " + event["reason"] if event.get("reason") else ""), "bad"

    return words


def _closed(event: dict[str, Any], versions: dict[Any, Any], operations: dict[Any, Any]) -> tuple[str, str]:
    outcome = str(_data(event).get("outcome"))
    tone = {"confirmed": "good", "failed": "bad"}.get(outcome, "")
    return "%s closed: %s" % (operations.get(event.get("operation"), "operation"), outcome.replace("_", " ")), tone


def _verdict(event: dict[str, Any], versions: dict[Any, Any], operations: dict[Any, Any]) -> tuple[str, str]:
    verdict = _data(event).get("verdict", "inconclusive")
    reason = _data(event).get("reason") or event.get("reason") or ""
    text = {"pass": "gate passes", "fail": "gate fails"}.get(verdict, "gate is inconclusive")
    return text + (": " + reason if reason else ""), {"pass": "good", "fail": "bad"}.get(verdict, "bad")


def _redriven(event: dict[str, Any], versions: dict[Any, Any], operations: dict[Any, Any]) -> tuple[str, str]:
    moved = _data(event).get("moved")
    return ("%s failed tasks redriven" % moved if moved is not None else "failed tasks redriven"), "good"


def _release(pattern: str, tone: str) -> Words:
    def words(event: dict[str, Any], versions: dict[Any, Any], operations: dict[Any, Any]) -> tuple[str, str]:
        return pattern % _named(_data(event).get("release"), versions), tone

    return words


_WORDS: dict[str, Words] = {
    "operation_opened": _opened,
    "operation_closed": _closed,
    "gate_verdict": _verdict,
    "host_switched": _release("works on %s", ""),
    "host_confirmed": _release("%s confirmed", ""),
    "host_reverted": _release("back on %s", "good"),
    "host_put_back": _release("put itself back on %s", "bad"),
    "host_recovered": _release("recovered to %s", "bad"),
    "confirm_timer_reverted": _release("confirm timer took it back to %s", "bad"),
    "release_confirmed": _release("%s is known good", "good"),
    "release_withdrawn": _release("%s withdrawn", "bad"),
    "rollback_ordered": _ordered,
    "host_failed": _trouble("failed"),
    "host_unreachable": _trouble("is unreachable"),
    "tasks_redriven": _redriven,
    "redrive_failed": _trouble("the redrive failed"),
}
