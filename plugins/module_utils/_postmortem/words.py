# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One event in an operator's words. A kind that is not known here is told by its name, its reason and its figures."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from .._journal.events import Event
from .._journal.fold import AS_FOUND, DEPLOY, release_number
from .text import NOT_KNOWN, count, counted, figures, mapping, mappings, number, plain, some, words

VERDICTS = {"pass": ("gate passes", "good"), "fail": ("gate fails", "bad"), "inconclusive": ("gate is inconclusive", "bad")}

#: Events after which a host is on the release in their data: of its own accord, or as it was told.
WENT_BACK = ("host_reverted", "host_put_back", "host_recovered", "confirm_timer_reverted")
ARRIVED = ("host_switched", *WENT_BACK)

_STEPS = {"drain": "drained", "swap": "switched", "start": "started"}


class Names:
    """What releases are called.

    :param versions: release to version, as far as the journal knows.
    """

    def __init__(self, versions: Mapping[int, Any]) -> None:
        self._versions = versions

    def release(self, value: Any) -> str:
        """``release 2 (2.0.0)``"""
        release = release_number(value)
        if release is None:
            return "a release that is not known"
        if release == AS_FOUND:
            return "release 0 (as found)"
        version = self._versions.get(release)
        return "release %d (%s)" % (release, plain(version)) if version else "release %d" % release


def tell(event: Event, known: Names) -> tuple[str, str]:
    """What happened, and its tone: ``good``, ``bad`` or empty."""
    teller = _TELLERS.get(event.kind, _other)
    return teller(event, known)


def outcome_of(data: Mapping[str, Any]) -> tuple[str, str]:
    """How an operation ended, and its tone."""
    outcome = str(data.get("outcome"))
    return words(outcome), {"confirmed": "good", "failed": "bad"}.get(outcome, "")


def timings(data: Mapping[str, Any]) -> str:
    """``drained in 1.8 s, switched in 0.6 s, started in 2.3 s``"""
    taken = mapping(data.get("timings"))
    found = [(step, number(taken.get(step))) for step in _STEPS]
    return ", ".join("%s in %.1f s" % (_STEPS[step], value) for step, value in found if value is not None)


def because(event: Event) -> str:
    """``: <reason>``, or nothing."""
    return ": " + plain(event.reason) if event.reason else ""


def _opened(event: Event, known: Names) -> tuple[str, str]:
    data = event.data
    if data["kind"] == DEPLOY:
        return "deploy of %s opened, from %s%s" % (known.release(data["target"]), known.release(data["from"]), because(event)), ""
    return "rollback to %s ordered, from %s%s" % (known.release(data["target"]), known.release(data["from"]), because(event)), "bad"


def _taken_over(event: Event, known: Names) -> tuple[str, str]:
    going_on = event.data.get("by_operation") == event.operation
    how = "to go on with it" if going_on else "and ended by %s" % plain(event.data.get("by_operation"))
    return "taken over from %s, %s%s" % (plain(event.data.get("from_actor") or NOT_KNOWN), how, because(event)), "bad"


def _closed(event: Event, known: Names) -> tuple[str, str]:
    outcome, tone = outcome_of(event.data)
    to_release = event.data.get("to_release")
    where = "" if to_release is None else ", every host on %s" % known.release(to_release)
    return "operation closed: %s%s%s" % (outcome, where, because(event)), tone


def _verdict(event: Event, known: Names) -> tuple[str, str]:
    text, tone = verdict_of(event)
    wave = names_of_wave(event)
    return text + (" on %s" % wave if wave else "") + because(event), tone


def verdict_of(event: Event) -> tuple[str, str]:
    """What a gate said, by its name where it has one (``gate latency fails``), and the tone."""
    text, tone = VERDICTS.get(str(event.data.get("verdict")), VERDICTS["inconclusive"])
    return _by_name(event, text), tone


def _by_name(event: Event, text: str) -> str:
    name = event.data.get("gate")
    return "gate %s%s" % (plain(name), text[len("gate") :]) if name else text


def _wave(event: Event, known: Names) -> tuple[str, str]:
    data = event.data
    of = " of %s" % counted(data.get("of")) if data.get("of") else ""
    return "wave %s%s begins on %s" % (counted(data.get("number")), of, names_of_wave(event) or NOT_KNOWN), ""


def _gate_skipped(event: Event, known: Names) -> tuple[str, str]:
    return _by_name(event, "gate is skipped") + because(event), ""


def _paused(event: Event, known: Names) -> tuple[str, str]:
    return "paused" + because(event), "bad"


def names_of_wave(event: Event) -> str:
    """The hosts that a gate judged, the first few by name."""
    wave = event.data.get("wave")
    return some([plain(host) for host in wave]) if isinstance(wave, list) else ""


def _on_release(pattern: str, tone: str) -> Callable[[Event, Names], tuple[str, str]]:
    def teller(event: Event, known: Names) -> tuple[str, str]:
        return pattern % known.release(event.data.get("release")) + because(event), tone

    return teller


def _trouble(what: str) -> Callable[[Event, Names], tuple[str, str]]:
    return lambda event, known: (what + because(event), "bad")


def _reported(event: Event, known: Names) -> tuple[str, str]:
    data = event.data
    phase = ", %s" % plain(data["phase"]) if data.get("phase") else ""
    found = "found on %s%s" % (known.release(data.get("release")), phase)
    return (found, "") if data.get("ok") else (found + ", and not well" + because(event), "bad")


def _ordered(event: Event, known: Names) -> tuple[str, str]:
    return "rollback to %s ordered%s" % (known.release(event.data.get("target")), because(event)), "bad"


def _redriven(event: Event, known: Names) -> tuple[str, str]:
    data = event.data
    moved, matched, left = (counted(data.get(name)) for name in ("moved", "matched", "remaining"))
    where = plain(data.get("queue") or "the queue")
    by_rule = _by_rule(data)
    if by_rule:
        text = "%s of %s failed tasks of %s treated by rules (%s), %s remain" % (moved, matched, where, by_rule, left)
    else:
        text = "%s of %s failed tasks put back in %s, %s remain" % (moved, matched, where, left)
    verdict = mapping(data.get("conservation")).get("verdict")
    return text + ("; conservation %s" % plain(verdict) if verdict else ""), "good"


def _by_rule(data: Mapping[str, Any]) -> str:
    """What each rule did; empty where all was put back without one."""
    told = "%s %s by rule %s"
    rules = mappings(data.get("rules"))
    return ", ".join(told % (words(str(rule.get("action"))), counted(rule.get("moved")), plain(rule.get("name"))) for rule in rules)


def _treated(what: str) -> Callable[[Event, Names], tuple[str, str]]:
    def teller(event: Event, known: Names) -> tuple[str, str]:
        data = event.data
        place = "%s tasks of %s" % (plain(data.get("source") or ""), plain(data.get("queue") or "the queue"))
        return "%s of %s %s %s (%s)" % (counted(data.get("moved")), counted(data.get("matched")), place, what, _by_rule(data)), ""

    return teller


def _looked(event: Event, known: Names) -> tuple[str, str]:
    data = event.data
    found = ["%d %s" % (data[name], words(name)) for name in ("queued", "executing", "failed") if count(data.get(name)) is not None]
    return "%s: %s" % (plain(data.get("queue") or "queue"), ", ".join(found) or NOT_KNOWN), ""


def _compared(event: Event, known: Names) -> tuple[str, str]:
    paths = [plain(entry.get("path")) for entry in mappings(event.data.get("files"))]
    hosts = event.data.get("hosts")
    where = " on %s" % some([plain(host) for host in hosts]) if isinstance(hosts, list) else ""
    return "config of %s differs%s: %s" % (known.release(event.data.get("release")), where, some(paths) or NOT_KNOWN), ""


def _fenced(event: Event, known: Names) -> tuple[str, str]:
    data = event.data
    told = "version %s shut out at the broker (user %s); connections closed: %s"
    return told % (plain(data.get("version")), plain(data.get("user")), counted(data.get("connections"))), "good"


def _divided(event: Event, known: Names) -> tuple[str, str]:
    shares = mapping(event.data.get("weights"))
    told = ["version %s gets %s %%" % (plain(version), counted(share)) for version, share in sorted(shares.items())]
    return "the tasks are divided anew: %s" % (some(told) or NOT_KNOWN), ""


def _gates_set(event: Event, known: Names) -> tuple[str, str]:
    names = [("set", event.data.get("set")), ("taken away", event.data.get("removed"))]
    told = ["%s %s" % (what, some([plain(name) for name in found])) for what, found in names if isinstance(found, list) and found]
    return "the feature gates of %s in Redis: %s" % (known.release(event.data.get("release")), "; ".join(told) or NOT_KNOWN), ""


def _other(event: Event, known: Names) -> tuple[str, str]:
    told = ", ".join("%s %s" % pair for pair in figures(event.data))
    return words(event.kind) + because(event) + (" (%s)" % told if told else ""), ""


_TELLERS: dict[str, Callable[[Event, Names], tuple[str, str]]] = {
    "operation_opened": _opened,
    "operation_taken_over": _taken_over,
    "operation_closed": _closed,
    "wave_started": _wave,
    "gate_verdict": _verdict,
    "gate_skipped": _gate_skipped,
    "operation_paused": _paused,
    "confirm_started": _on_release("%s is to be confirmed on every host", ""),
    "host_switched": _on_release("works on %s", ""),
    "host_confirmed": _on_release("%s confirmed", ""),
    "host_reverted": _on_release("back on %s", "good"),
    "host_put_back": _on_release("put itself back on %s", "bad"),
    "host_recovered": _on_release("recovered to %s", "bad"),
    "confirm_timer_reverted": _on_release("confirm timer took it back to %s", "bad"),
    "host_failed": _trouble("failed"),
    "host_unreachable": _trouble("is unreachable"),
    "workers_killed": _on_release("killed the workers that were not done in time, on the way to %s", "bad"),
    "workers_stopped": _trouble("could not go back, so that its workers were stopped"),
    "version_fenced": _fenced,
    "tasks_divided": _divided,
    "feature_gates_set": _gates_set,
    "feature_gates_failed": _trouble("the feature gates in Redis could not be set"),
    "divide_failed": _trouble("the tasks could not be divided"),
    "host_reported": _reported,
    "release_confirmed": _on_release("%s is known good", "good"),
    "release_rebuilt": _on_release("%s is known again from the hosts", ""),
    "release_withdrawn": _on_release("%s withdrawn", "bad"),
    "rollback_ordered": _ordered,
    "tasks_redriven": _redriven,
    "tasks_treated": _treated("treated by rules"),
    "tasks_released": _treated("released"),
    "redrive_failed": _trouble("the redrive failed"),
    "queue_looked": _looked,
    "config_compared": _compared,
}
