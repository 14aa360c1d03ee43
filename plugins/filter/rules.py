# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over the part ``rules`` of a fleet specification: what they refuse, and which redrive each of them becomes."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

from ansible_collections.queueops.fleet.plugins.filter.queue_names import VERSION, versioned
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import FINISH, Capabilities
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import capabilities_of

#: What a task records only when it has ended.
OF_ENDED = ("version", "error", "older_than", "newer_than")
#: In ``match.version``: whatever version failed the task.
ANY_VERSION = "*"
#: The name of the rule that puts back what the bad version failed, where the specification has none for failed tasks.
WITHOUT_RULE = "(no rule)"

#: In ``of``: tasks that are executing when the time to finish is up; and the source that they are in.
IN_FLIGHT = "in_flight"
EXECUTING = "executing"

Rule = dict[str, Any]


def rules_refusal(rules: list[Rule], queue: dict[str, Any]) -> str:
    """Why the rules cannot be what they say; empty: they can. What only the broker knows is not looked at.

    :param rules: the part ``rules`` of the fleet specification.
    :param queue: its part ``queue``.
    """
    able = capabilities_of(queue["backend"], queue.get("url") or "")
    names = [str(rule.get("name")) for rule in rules]
    for rule in rules:
        name = str(rule.get("name"))
        if names.count(name) > 1:
            return "Two rules have the name %s; the plan and the journal tell them apart by it. Rename one." % name
        refusal = _unclear(rule) or _unable(rule, able)
        if refusal:
            return "Rule %s: %s" % (name, refusal)
    return ""


def _unclear(rule: Rule) -> str:
    """What is wrong with a rule whatever the queue system."""
    reading, action, destination = rule.get("unreadable_by"), _action(rule), rule.get("destination")
    named = _match(rule)
    if reading and (action != "park" or rule.get("of")):
        return "what a version cannot read is parked, wherever it is. Leave action and of out, or unreadable_by."
    if reading and not named:
        return "it has unreadable_by and no match, and would park every task. Say in match which tasks are meant."
    if not action:
        return "it has no action. Name one, or unreadable_by."
    if action == FINISH and _of(rule) != IN_FLIGHT:
        return "it has action finish, which is for tasks in flight. Say of: in_flight, or name another action."
    if action == "compensate" and not destination:
        return "it compensates and does not say which queue undoes the task's effect. Name the queue in destination."
    if destination and action not in ("requeue", "compensate"):
        return "it has action %s, which does not use a destination. Leave destination out." % action
    if _of(rule) == "queued" and action == "requeue" and not destination:
        return "it requeues queued tasks to where they are. Name another queue in destination, or another action."
    return _unrecorded(rule) or _no_pattern(named.get("error"))


def _unrecorded(rule: Rule) -> str:
    """Which conditions no task that is meant can fulfil, as it has not ended."""
    queued = bool(rule.get("unreadable_by")) or _of(rule) == "queued"
    ended = [condition for condition in OF_ENDED if condition in _match(rule)]
    if not ended or not (queued or _of(rule) == IN_FLIGHT):
        return ""
    why = (
        "a queued task records no match.%s, for it has not run" if queued else "a task in flight records no match.%s, for it has not ended"
    )
    return why % ", no match.".join(ended) + ". Leave that out."


def _no_pattern(error: Any) -> str:
    try:
        re.compile(str(error or ""))
    except re.error as problem:
        return "match.error is not a valid regular expression: %s. Escape special characters with a backslash." % problem
    return ""


def _unable(rule: Rule, able: Capabilities) -> str:
    """What the queue system is not able to do."""
    reading = bool(rule.get("unreadable_by"))
    try:
        for need in _needs(rule):
            kind, _colon, name = need.partition(":")
            {"source": able.require_source, "action": able.require_action, "ability": able.require}[kind](name)
        named = [name for name in _match(rule) if not (name == "version" and _match(rule)[name] == ANY_VERSION)]
        able.require_match(named)
    except Refused as refused:
        return "%s. %s." % (refused.message, refused.next_step)
    if not reading and _of(rule) == "failed" and "version" not in _match(rule) and "version" not in able.match:
        return (
            "a rule without match.version means what the version that is rolled back from has failed, and a %s queue does not record"
            ' which version that was. Say match.version: "*", which is any.' % able.system
        )
    return ""


def _needs(rule: Rule) -> list[str]:
    """What the queue system has to be able to do: ``ability:``, ``source:`` or ``action:`` and a name."""
    if _action(rule) == FINISH:
        return []
    act = "action:%s" % _action(rule)
    if rule.get("unreadable_by"):
        return ["ability:redrive", "source:queued", "source:parked", act, "action:requeue"]
    if _of(rule) == IN_FLIGHT:
        return ["ability:redrive", "ability:in_flight", "source:executing", act]
    return ["ability:redrive", "source:%s" % _of(rule), act]


def redrive_rules(rules: list[Rule], source: str, queue: dict[str, Any], to: str, away: str = "") -> list[Rule]:
    """The rules of one redrive, as M(queueops.fleet.queue_redrive) takes them; empty: there is nothing to do in this source.

    :param source: ``queued``, ``abandoned``, ``failed``, or ``executing`` for what is in flight; or ``parked``, for what can be read again.
    :param to: the version that the hosts go to; empty where it is not known.
    :param away: the version that is rolled back from; empty: this is no rollback, and only what cannot be read is treated.
    """
    if source == "parked":
        return [_redrive(rule, "requeue") for rule in rules if rule.get("unreadable_by") and not unreadable(rule, to)]
    if source == EXECUTING:
        return in_flight_rules(rules) if away else []
    versions = "version" in capabilities_of(queue["backend"], queue.get("url") or "").match
    found = []
    for rule in rules:
        if unreadable(rule, to):
            # A task that failed for another reason under some version before is left as it is.
            under = list(dict.fromkeys(version for version in (to, away) if version)) if source == "failed" and versions else [None]
            found += [_redrive(rule, "park", version) for version in under]
    if away:
        found += _for_a_rollback(rules, source, away if versions else None)
    return found


def unreadable(rule: Rule, version: str) -> bool:
    """Whether the rule says that ``version`` cannot read the tasks that it means."""
    return any(fnmatch.fnmatchcase(version, str(glob)) for glob in rule.get("unreadable_by") or [])


def _for_a_rollback(rules: list[Rule], source: str, away: str | None) -> list[Rule]:
    own = [rule for rule in rules if not rule.get("unreadable_by") and _of(rule) == source]
    if source != "failed":
        return [_redrive(rule, _action(rule)) for rule in own]
    if not own:
        return [{"name": WITHOUT_RULE, "match": {"version": away}, "action": "requeue"}] if away else []
    return [_redrive(rule, _action(rule), away) for rule in own]


def in_flight_rules(rules: list[Rule]) -> list[Rule]:
    """What decides about a task in flight: one that no rule takes has to finish. Empty: all have."""
    own = [_redrive(rule, _action(rule)) for rule in rules if _of(rule) == IN_FLIGHT]
    return [*own, {"name": WITHOUT_RULE, "match": {}, "action": FINISH}] if any(rule["action"] != FINISH for rule in own) else []


def rules_of_killed(rules: list[Rule], to: str) -> list[Rule]:
    """What becomes of the tasks that killed workers had in hand, none of which has to finish: what ``to`` cannot read is parked first."""
    parked = [_redrive(rule, "park") for rule in rules if unreadable(rule, to)]
    return parked + [rule for rule in in_flight_rules(rules) if rule["action"] != FINISH]


def _redrive(rule: Rule, action: str, version: str | None = None) -> Rule:
    match = _match(rule)
    if version:
        match.setdefault("version", version)
    if match.get("version") == ANY_VERSION:
        del match["version"]
    made = {"name": str(rule.get("name")), "match": match, "action": action}
    if rule.get("destination"):
        made["destination"] = rule["destination"]
    return made


def _match(rule: Rule) -> dict[str, Any]:
    return {name: value for name, value in (rule.get("match") or {}).items() if value is not None}


def _action(rule: Rule) -> str:
    return str(rule.get("action") or ("park" if rule.get("unreadable_by") else ""))


def _of(rule: Rule) -> str:
    return str(rule.get("of") or "failed")


def redrive_places(
    queue: dict[str, Any], rules: list[Rule], sources: list[str], to: str, away: str = "", versions: list[str] | None = None
) -> list[dict[str, Any]]:
    """Every redrive of the fleet's queues that has something to do, in order: ``queue``, ``source``, its ``rules``, and ``unreadable``,
    the names of those of them that park what ``to`` cannot read.

    Where each version has a queue of its own, what is in that of ``away`` and is put back goes to that of ``to``, and what is still
    queued there goes with it.

    :param versions: every version that may have parked tasks in a queue of its own.

    Other parameters as those of :func:`redrive_rules`.
    """
    able = capabilities_of(queue["backend"], queue.get("url") or "")
    treated = {source: redrive_rules(rules, source, queue, to, away) for source in sources if source in able.sources}
    names = [rule["name"] for rule in rules if unreadable(rule, to)]
    found = []
    for source, chosen in treated.items():
        for name, into in queues_in_turn(queue, to, [*(versions or []), away] if source == "parked" else [away]):
            moved = [{"name": WITHOUT_RULE, "match": {}, "action": "requeue"}] if into and source in ("abandoned", "queued") else []
            found.append({"queue": name, "source": source, "rules": put_into([*chosen, *moved], into), "unreadable": names})
    ordered = sorted(found, key=lambda place: [one["queue"] for one in found].index(place["queue"]))
    return [place for place in ordered if place["rules"]]


def queues_in_turn(queue: dict[str, Any], to: str, others: list[str]) -> list[tuple[str, str]]:
    """The fleet's queues that matter to an operation, each with the queue that what is put back there goes to; empty: where it came from.

    :param to: the version that the hosts go to.
    :param others: other versions whose queues matter, where each version has one of its own.
    """
    found = []
    for name in queue["names"]:
        if VERSION not in name:
            found.append((name, ""))
            continue
        own = versioned(name, to, queue["backend"]) if to else ""
        named = [versioned(name, version, queue["backend"]) for version in dict.fromkeys([to, *others]) if version]
        found += [(other, own if other != own else "") for other in named]
    return found


def put_into(rules: list[Rule], queue: str) -> list[Rule]:
    """The rules of a redrive, where what they put back goes to ``queue``, unless they say where; empty: where it came from."""
    return [
        dict(rule, destination=queue) if queue and rule["action"] == "requeue" and not rule.get("destination") else rule for rule in rules
    ]


def redrive_failures(redriven: dict[str, Any], what: str) -> list[str]:
    """What could not be done, a sentence for each queue, for the verdict.

    :param redriven: the registered result of a loop over M(queueops.fleet.queue_redrive).
    :param what: in words, for example ``parked``.
    """
    results = [result for result in redriven.get("results") or [] if result.get("failed") or result.get("unreachable")]
    if not results and (redriven.get("failed") or redriven.get("unreachable")):
        results = [redriven]
    return ["%s should have been %s: %s" % (_place(result), what, result.get("msg") or "no reason was given") for result in results]


def _place(result: dict[str, Any]) -> str:
    place = result.get(result.get("ansible_loop_var") or "") or {}
    return "%s tasks of %s" % (place["source"], place["queue"]) if place else "tasks"


class FilterModule:
    """The collection's filters over rules."""

    def filters(self) -> dict[str, Any]:
        return {"redrive_failures": redrive_failures, "redrive_places": redrive_places, "rules_refusal": rules_refusal}
