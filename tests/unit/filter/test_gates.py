# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters over the gates of a fleet specification."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.filter.gates import gates, gates_of_wave, gates_seconds, gates_skipped, gates_told


def names(found: list[dict[str, Any]]) -> list[str]:
    return [gate["name"] for gate in found]


def test_the_short_form_is_a_list_of_one_and_may_be_none() -> None:
    (gate,) = gates({})
    assert (gate["name"], gate["metric"], gate["bake"], gate["timeout"]) == ("failures", "failed_ratio", [60.0], 300)
    assert gates({"gate": {"min_tasks": 0}}) == []
    assert gates({"gates": []}) == []


def test_each_gate_decides_after_its_waves_with_the_bake_time_of_the_wave() -> None:
    found = gates({"gates": [{"name": "a", "bake": [5, 9]}, {"name": "b", "waves": "first"}, {"name": "c", "compare": {}, "timeout": 60}]})
    waves = [gates_of_wave(found, wave, 3, "2", "1") for wave in range(3)]
    assert [names(wave) for wave in waves] == [["a", "b", "c"], ["a", "c"], ["a"]]
    assert [wave[0]["bake"] for wave in waves] == [5.0, 9.0, 9.0]
    assert gates_seconds(found, 3) == 3 * 300 + 300 + 2 * 60


def test_the_plan_tells_the_gates_in_words() -> None:
    found = gates({"gates": [{"name": "a", "limit": 0.05, "bake": [5, 9]}, {"name": "b", "metric": "approval", "waves": "first"}]})
    assert gates_told(found, 3) == [
        "gate a after wave 1, 2, 3: failed_ratio, limit 0.05, bake 5/9 s, at most 300 s; inconclusive pauses",
        "gate b after wave 1: approval, at most 300 s; inconclusive pauses",
    ]
    assert gates_told([], 3) == ["no gate: what is switched is confirmed, if its workers are healthy"]


def test_the_versions_stand_in_queries_and_in_nothing_that_may_be_a_secret() -> None:
    prometheus = {"url": "http://p", "query": 'failed{version="{version}"} / failed{version="{baseline_version}"}', "token": "{version}"}
    gate = {"name": "a", "metric": "prometheus", "prometheus": prometheus, "command": {"argv": ["x", "{version}"]}}
    (filled,) = gates_of_wave(gates({"gates": [gate]}), 0, 1, "2.0", "1.9")
    assert filled["prometheus"]["query"] == 'failed{version="2.0"} / failed{version="1.9"}'
    assert (filled["prometheus"]["token"], filled["command"]["argv"]) == ("{version}", ["x", "2.0"])


@pytest.mark.parametrize("baseline", ["", "2.0"])
def test_a_comparison_names_the_other_version_or_is_skipped(baseline: str) -> None:
    found = gates({"gates": [{"name": "a", "compare": {"tolerance": 0.02}}]})
    (gate,) = gates_of_wave(found, 0, 2, "2.0", "1.9")
    assert gate["compare"] == {"baseline_version": "1.9", "tolerance": 0.02} and "impossible" not in gate
    (skipped,) = gates_skipped(gates_of_wave(found, 0, 2, "2.0", baseline), ["w1"])
    assert skipped["data"] == {"gate": "a", "wave": ["w1"]}


@pytest.mark.parametrize(("backend", "canary", "beside"), [("rq", "mail-2.0", "mail-1.9"), ("nats", "mail-2_0", "mail-1_9")])
def test_the_versions_stand_in_the_names_of_queues_of_their_own(backend: str, canary: str, beside: str) -> None:
    own = {"queue": "mail-{version}"}
    listed = [{"name": "a", "compare": {"tolerance": 0.02}, **own}, {"name": "b", "metric": "depth", **own}]
    failures, depth = gates_of_wave(gates({"queue": {"backend": backend}, "gates": listed}), 0, 2, "2.0", "1.9")
    assert (failures["queue"], depth["queue"]) == (canary, canary) and "compare" not in depth
    assert failures["compare"] == {"baseline_version": "1.9", "baseline_queue": beside, "tolerance": 0.02}


def test_a_queue_of_the_other_version_is_only_given_where_it_is_another_and_none_is_named() -> None:
    named = {"name": "a", "queue": "mail-{version}", "compare": {"baseline_queue": "old"}}
    other = {"name": "b", "queue": "mail-{version}", "compare": {"baseline_version": "1.0"}}
    shared, default = {"name": "c", "queue": "mail", "compare": {}}, {"name": "d", "compare": {}}
    queried = {"name": "e", "queue": "mail-{version}", "metric": "prometheus", "compare": {"query": "up"}}
    found = gates_of_wave(gates({"queue": {"backend": "rq"}, "gates": [named, other, shared, default, queried]}), 0, 2, "2.0", "1.9")
    assert [gate["compare"].get("baseline_queue") for gate in found] == ["old", "mail-1.0", None, None, None]
    assert [gate.get("queue") for gate in found] == ["mail-2.0", "mail-2.0", "mail", None, "mail-2.0"]
