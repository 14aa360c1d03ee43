# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over tasks in flight: what to ask the broker of the workers that are not done in time, which of them have to be spared, and what
becomes of what the killed ones had in hand.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.queueops.fleet.plugins.filter.rules import (
    EXECUTING,
    WITHOUT_RULE,
    in_flight_rules,
    rules_of_killed,
    unreadable,
)

Results = dict[str, dict[str, Any]]
#: Tasks that are named in the message of a host.
NAMED = 5


def in_flight_places(queue: dict[str, Any], rules: list[dict[str, Any]], drained: Results) -> list[dict[str, Any]]:
    """What to ask of each host that is not done in time: ``host``, ``queue``, ``source``, ``rules`` and ``held_by``.

    :param drained: host to what M(queueops.fleet.worker_release) with the phase V(drained) returned.
    """
    return [
        {"host": host, "queue": name, "source": EXECUTING, "rules": in_flight_rules(rules), "held_by": _holders(result["in_hand"])}
        for host, result in drained.items()
        if result.get("in_hand")
        for name in queue["names"]
    ]


def in_flight_spared(looked: dict[str, Any], drained: Results) -> dict[str, str]:
    """The hosts whose workers have to be left alone, and why: one has a task in hand that no rule gives up, or it is not known what it has.

    :param looked: the registered result of a loop in check mode of M(queueops.fleet.queue_redrive) over :func:`in_flight_places`.
    """
    found: dict[str, str] = {}
    for host, result in drained.items():
        if not result.get("in_hand"):
            continue
        answers = [one for one in looked.get("results") or [] if (one.get(one.get("ansible_loop_var") or "") or {}).get("host") == host]
        why = _why_spared(answers)
        if why:
            found[host] = why
    return found


def _why_spared(answers: list[dict[str, Any]]) -> str:
    """Why what these looks (one a queue) saw in the hands of one host's workers cannot be given up; empty: it can."""
    failed = [answer for answer in answers if answer.get("failed") or answer.get("unreachable")]
    if failed or not answers:
        why = str(failed[0].get("msg") or "no reason was given") if failed else "the broker was not asked"
        return "what its workers have in hand cannot be told: %s" % why.strip().rstrip(".")
    kept = [(task, rule) for answer in answers for rule in answer["rules"] if rule["action"] == "finish" for task in rule["sample"]]
    many = sum(rule["matched"] for answer in answers for rule in answer["rules"] if rule["action"] == "finish")
    if many:
        named = ", ".join("task %s (%s), %s" % (task["id"], task["task"] or "name not known", _by(rule)) for task, rule in kept[:NAMED])
        return "its workers have to finish %s%s" % (named, " and %d more" % (many - len(kept[:NAMED])) if many > len(kept[:NAMED]) else "")
    held = [answer["held"] for answer in answers if answer.get("held") is not None]
    given_up = sum(answer["moved"] for answer in answers)
    if not held or max(held) > given_up:
        return "its workers have %s tasks in hand, and only of %d of them the rules say what is to become of them" % (
            max(held) if held else "a number, which is not known, of",
            given_up,
        )
    return ""


def _by(rule: dict[str, Any]) -> str:
    return "for no rule takes it" if rule["name"] == WITHOUT_RULE else "by rule %s" % rule["name"]


def killed_places(queue: dict[str, Any], rules: list[dict[str, Any]], to: str, drained: Results, killed: Results) -> list[dict[str, Any]]:
    """The redrives of what killed workers had in hand, one a queue: ``queue``, ``source``, ``rules``, ``unreadable`` and ``held_by``.

    :param to: the version that the hosts go to.
    :param drained: as in :func:`in_flight_places`; has those that an earlier run of the operation killed.
    :param killed: host to what M(queueops.fleet.worker_release) with the phase V(killed) returned.
    """
    workers: list[dict[str, Any]] = []
    for results in (drained, killed):
        for result in results.values():
            workers += [one for one in _holders(result.get("killed") or []) if one not in workers]
    if not workers:
        return []
    names = [rule["name"] for rule in rules if unreadable(rule, to)]
    chosen = rules_of_killed(rules, to)
    return [{"queue": name, "source": EXECUTING, "rules": chosen, "unreadable": names, "held_by": workers} for name in queue["names"]]


def _holders(workers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"hostname": worker["hostname"], "pids": worker["pids"]} for worker in workers]


def gives_up(rules: list[dict[str, Any]]) -> bool:
    """Whether any rule gives up tasks in flight; else all have to finish."""
    return bool(in_flight_rules(rules))


class FilterModule:
    """The collection's filters over tasks in flight."""

    def filters(self) -> dict[str, Any]:
        return {
            "gives_up": gives_up,
            "in_flight_places": in_flight_places,
            "in_flight_spared": in_flight_spared,
            "killed_places": killed_places,
        }
