# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over tasks in flight: what to ask the broker of the workers that are not done in time, which of them have to be spared, and what
becomes of what the killed ones had in hand.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.queueops.fleet.plugins.filter.operation import failed_hosts
from ansible_collections.queueops.fleet.plugins.filter.rules import (
    EXECUTING,
    WITHOUT_RULE,
    in_flight_rules,
    put_into,
    queues_in_turn,
    rules_of_killed,
    unreadable,
)
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import capabilities_of

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


def in_flight_spared(looked: dict[str, Any], queue: dict[str, Any], drained: Results, asked: dict[str, Any]) -> dict[str, str]:
    """The hosts whose workers have to be left alone, and why: one has a task in hand that no rule gives up, or it is not known what it has.

    :param looked: the registered result of a loop in check mode of M(queueops.fleet.queue_redrive) over :func:`in_flight_places`.
    :param asked: what M(queueops.fleet.queue_info) with ``lost_with`` returned before the drain.
    """
    late = [host for host, result in drained.items() if result.get("in_hand")]
    found: dict[str, str] = {}
    for host in late:
        answers = [one for one in looked.get("results") or [] if (one.get(one.get("ansible_loop_var") or "") or {}).get("host") == host]
        why = _why_spared(answers) or _lost(asked)
        if why:
            found[host] = why
    if _apart(queue):
        return found
    # All that stop or none: what one has in hand cannot be told from what another has.
    troubled = failed_hosts(drained)
    if troubled and not found:
        found = dict.fromkeys(late, "what its workers have in hand cannot be told from what those of %s may have" % ", ".join(troubled))
    return {host: found.get(host) or next(iter(found.values())) for host in late} if found else {}


def _apart(queue: dict[str, Any]) -> bool:
    return capabilities_of(queue["backend"], queue.get("url") or "").in_flight_apart


def _lost(asked: dict[str, Any]) -> str:
    """Why what workers have in hand would be lost with them; empty: it would not."""
    if asked.get("lost") is None:
        return "whether what its workers have in hand is kept without them is not known: %s" % _message(asked)
    return str(asked["lost"])


def _message(result: dict[str, Any]) -> str:
    return str(result.get("msg") or "no reason was given").strip().rstrip(".")


def _why_spared(answers: list[dict[str, Any]]) -> str:
    """Why what these looks (one a queue) saw in the hands of one host's workers cannot be given up; empty: it can."""
    failed = [answer for answer in answers if answer.get("failed") or answer.get("unreachable")]
    if failed or not answers:
        return "what its workers have in hand cannot be told: %s" % (_message(failed[0]) if failed else "the broker was not asked")
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


def killed_places(
    queue: dict[str, Any], rules: list[dict[str, Any]], to: str, drained: Results, killed: Results, away: str = ""
) -> list[dict[str, Any]]:
    """The redrives of what killed workers had in hand, one a queue: ``queue``, ``source``, ``rules``, ``unreadable`` and ``held_by``.

    :param to: the version that the hosts go to.
    :param drained: as in :func:`in_flight_places`; has those that an earlier run of the operation killed.
    :param killed: host to what M(queueops.fleet.worker_release) with the phase V(killed) returned.
    :param away: the version whose workers were killed.
    """
    if in_flight_left(queue, drained, killed):
        return []
    workers: list[dict[str, Any]] = []
    for results in (drained, killed):
        for result in results.values():
            workers += [one for one in _holders(result.get("killed") or []) if one not in workers]
    if not workers:
        return []
    names = [rule["name"] for rule in rules if unreadable(rule, to)]
    chosen = rules_of_killed(rules, to)
    return [
        {"queue": name, "source": EXECUTING, "rules": put_into(chosen, into), "unreadable": names, "held_by": workers}
        for name, into in queues_in_turn(queue, to, [away])
    ]


def in_flight_left(queue: dict[str, Any], drained: Results, killed: Results) -> list[str]:
    """What killed workers had in hand and cannot be treated, since it cannot be told from what living ones have; a sentence, or none.

    Parameters as those of :func:`killed_places`.
    """
    dead = [host for host, result in killed.items() if result and host not in failed_hosts(killed)]
    alive = [host for host, result in drained.items() if result.get("in_hand") and host not in dead] + failed_hosts(drained)
    earlier = [host for host, result in drained.items() if result.get("killed")]
    if _apart(queue) or not alive or not (dead or earlier):
        return []
    return [
        "tasks that killed workers had in hand (on %s) should have been treated: they cannot be told from those of %s, whose workers may "
        "still execute, and %s puts them back by itself" % (", ".join(dict.fromkeys([*dead, *earlier])), ", ".join(alive), queue["backend"])
    ]


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
            "in_flight_left": in_flight_left,
            "in_flight_places": in_flight_places,
            "in_flight_spared": in_flight_spared,
            "killed_places": killed_places,
        }
