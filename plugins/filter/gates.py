# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over the gates of a fleet specification: with their defaults, and for one wave."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.queueops.fleet.plugins.filter.queue_names import VERSION, versioned

APPROVAL = "approval"

#: Parts of a gate in which ``{version}`` and ``{baseline_version}`` stand for the versions. Not in what may hold a secret.
_WITH_VERSIONS = (("compare", "query"), ("prometheus", "query"), ("http", "url"), ("command", "argv"))

Gate = dict[str, Any]


def gates(specification: dict[str, Any]) -> list[Gate]:
    """The gates of a fleet, each with its defaults. The short form C(gate) is a list of one.

    :param specification: the fleet specification.
    :raises AnsibleFilterError: a gate contradicts itself, or has no name of its own.
    """
    short, listed = specification.get("gate") or {}, specification.get("gates")
    queue = specification.get("queue") or {}
    if listed is None:
        return [] if short.get("min_tasks", 20) == 0 else [_complete(dict(short, name="failures"), "queueops_fleet.gate", queue)]
    if short:
        raise AnsibleFilterError(_refusal("queueops_fleet has gate and gates, and gate is short for a list of one", "Give gates alone"))
    found = [_complete(gate, f"queueops_fleet.gates[{index}]", queue) for index, gate in enumerate(listed)]
    names = [gate["name"] for gate in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise AnsibleFilterError(_refusal(f"queueops_fleet.gates has more than one gate {twice[0]}", "Give each a name of its own"))
    return found


def _complete(gate: Gate, where: str, queue: dict[str, Any]) -> Gate:
    metric = gate.get("metric", "failed_ratio")
    own = [name for name in queue.get("names") or [] if VERSION in name]
    complete = {
        # How a version is written in the queue's name depends on it.
        "backend": queue.get("backend", ""),
        # Where each version has a queue of its own, a version is judged by that.
        **({"queue": own[0]} if own else {}),
        "metric": metric,
        "timeout": 300,
        "on_inconclusive": "pause",
        "waves": "not_last" if gate.get("compare") is not None else "all",
        **gate,
    }
    bake = complete.get("bake", 60)
    complete["bake"] = [float(seconds) for seconds in (bake if isinstance(bake, list) else [bake])] or [60.0]
    if metric == APPROVAL:
        return dict(complete, bake=[0.0])
    if max(complete["bake"]) > float(complete["timeout"]):
        raise AnsibleFilterError(
            _refusal(
                f"{where}.timeout is {complete['timeout']} s, and {where}.bake {max(complete['bake']):g} s, so that it could never pass",
                "Raise the timeout",
            )
        )
    return complete


def _refusal(what: str, advice: str) -> str:
    return f"{what}. Nothing was changed. {advice}."


def gates_of_wave(found: list[Gate], wave: int, waves: int, version: str, baseline: str) -> list[Gate]:
    """The gates that decide after a wave, each with that wave's bake time and with the versions filled in.

    :param found: what the filter P(queueops.fleet.gates#filter) gave.
    :param wave: which wave, from 0.
    :param waves: how many there are.
    :param version: the version that is judged.
    :param baseline: the version that runs beside it; empty where there is none.
    """
    return [
        dict(_filled_in(gate, version, baseline), bake=gate["bake"][min(wave, len(gate["bake"]) - 1)])
        for gate in found
        if _decides(gate, wave, waves)
    ]


def _decides(gate: Gate, wave: int, waves: int) -> bool:
    holds: bool = {"all": True, "first": wave == 0, "not_last": wave < waves - 1}[gate["waves"]]
    return holds


def gates_seconds(found: list[Gate], waves: int) -> float:
    """How long the gates of all waves may take together, in seconds."""
    return sum(float(gate["timeout"]) for wave in range(waves) for gate in found if _decides(gate, wave, waves))


def gates_told(found: list[Gate], waves: int) -> list[str]:
    """The gates in words, for the plan.

    :param found: what the filter P(queueops.fleet.gates#filter) gave.
    :param waves: how many waves there are.
    """
    if not found:
        return ["no gate: what is switched is confirmed, if its workers are healthy"]
    return [_told(gate, waves) for gate in found]


def _told(gate: Gate, waves: int) -> str:
    after = [str(wave + 1) for wave in range(waves) if _decides(gate, wave, waves)]
    against = " against the version beside it" if gate.get("compare") is not None else ""
    limit = f", limit {gate['limit']:g}" if gate.get("limit") is not None else ""
    bakes = "" if gate["metric"] == APPROVAL else ", bake %s s" % "/".join(f"{seconds:g}" for seconds in gate["bake"])
    dry = ", dry run" if gate.get("dry_run") else ""
    then = "pauses" if gate["on_inconclusive"] == "pause" else "rolls back"
    waited = f"{bakes}, at most {gate['timeout']:g} s"
    return (
        f"gate {gate['name']} after wave {', '.join(after) or 'none'}: {gate['metric']}{against}{limit}{waited}{dry}; inconclusive {then}"
    )


def gates_skipped(impossible: list[Gate], wave: list[str]) -> list[dict[str, Any]]:
    """One journal event for each gate that cannot decide.

    :param impossible: gates with the reason in C(impossible).
    :param wave: the hosts of the wave.
    """
    return [{"kind": "gate_skipped", "reason": gate["impossible"], "data": {"gate": gate["name"], "wave": wave}} for gate in impossible]


def _filled_in(gate: Gate, version: str, baseline: str) -> Gate:
    filled = dict(gate)
    for part, option in _WITH_VERSIONS:
        if (gate.get(part) or {}).get(option) is not None:
            filled[part] = dict(filled[part], **{option: _filled(gate[part][option], version, baseline)})
    compare, queue = gate.get("compare"), gate.get("queue") or ""
    if compare is not None and gate["metric"] == "failed_ratio":
        compare = {"baseline_version": baseline, **compare}
        if VERSION in queue:
            compare = {"baseline_queue": versioned(queue, str(compare["baseline_version"]), gate["backend"]), **compare}
        filled["compare"] = compare
    if queue:
        filled["queue"] = versioned(queue, version, gate["backend"])
    if compare is not None and (not baseline or baseline == version):
        filled["impossible"] = f"no other version runs beside {version}, so that there is nothing to compare it with"
    return filled


def _filled(value: Any, version: str, baseline: str) -> Any:
    if isinstance(value, list):
        return [_filled(entry, version, baseline) for entry in value]
    return str(value).replace("{baseline_version}", baseline).replace("{version}", version)


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Any]:
        return {
            "gates": gates,
            "gates_of_wave": gates_of_wave,
            "gates_seconds": gates_seconds,
            "gates_skipped": gates_skipped,
            "gates_told": gates_told,
        }
