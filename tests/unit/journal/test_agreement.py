# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet against one release: what is not proven does not agree."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._journal.agreement import compare, sentence

HOSTS = ["worker1", "worker2", "worker3"]


def on(release: int | None = 1, version: str | None = "1.0.0", phase: str = "confirmed", workers: Any = None) -> dict[str, Any]:
    if workers is None:
        workers = [{"name": f"mail:{n}", "pid": 100 + n, "state": "running", "version": version} for n in range(2)]
    return {"changed": True, "live": {"release": release, "version": version, "phase": phase, "workers": workers}}


def good() -> dict[str, Any]:
    return {host: on() for host in HOSTS}


def test_all_agree() -> None:
    found = compare(1, "1.0.0", HOSTS, good())
    assert found.agree
    assert found.differing == []
    assert sentence(found, 1, "mailer") == "All 3 hosts of fleet mailer are on release 1."
    assert found.text().splitlines() == [
        "host     release wanted  release found  phase      reason",
        "worker1  1               1              confirmed  -",
        "worker2  1               1              confirmed  -",
        "worker3  1               1              confirmed  -",
    ]


@pytest.mark.parametrize(
    ("result", "found_release", "reason"),
    [
        ({}, None, "did not answer: not known"),
        ({"unreachable": True, "msg": "ssh: no route\nmore"}, None, "unreachable: not known (ssh: no route)"),
        ({"failed": True, "msg": "boom"}, None, "failed (boom)"),
        (on(2, "2.0.0"), 2, "on another release"),
        (on(None), 0, "on another release"),
        (on(phase="active"), 1, "not confirmed: its confirm timer takes it back"),
        (on(phase="interrupted"), 1, "its phase is interrupted"),
        (on(version="1.1", workers=[]), 1, "release 1 is version 1.1 there, not 1.0.0; no worker is running"),
        (on(workers=[]), 1, "no worker is running"),
        (on(workers=[{"name": "m", "state": "running", "version": "2.0.0"}]), 1, "worker m runs version 2.0.0"),
        (on(workers=[{"name": "m", "state": "running", "version": None}]), 1, "worker m runs version that is not known"),
        (on(workers=[{"name": "m", "state": "failed", "version": None}]), 1, "worker m is failed"),
        (dict(on(), failed=True, msg="disarm failed"), 1, "failed (disarm failed)"),
        (dict(on(), unreachable=True), None, "unreachable: not known"),
    ],
)
def test_one_host_differs(result: dict[str, Any], found_release: int | None, reason: str) -> None:
    results = dict(good(), worker2=result)
    found = compare(1, "1.0.0", HOSTS, results)
    assert not found.agree
    assert found.differing == ["worker2"]
    row = found.rows[1]
    assert (row.host, row.found, row.reason, row.ok) == ("worker2", found_release, reason, False)
    told = sentence(found, 1, "mailer")
    assert told.startswith("1 of 3 hosts of fleet mailer are not proven to be on release 1. worker2: ")
    assert "run the same playbook again" in told
    assert found.text().splitlines()[2].startswith("worker2  1")


def test_a_host_that_dropped_out_of_the_play_is_not_forgotten() -> None:
    results = good()
    del results["worker3"]
    found = compare(1, "1.0.0", HOSTS, results)
    assert found.unknown == ["worker3"]
    told = sentence(found, 1, None)
    assert "Until a run reaches worker3" in told and "may consume with the version they had" in told and "keep it off the network" in told


def test_no_hosts_prove_nothing() -> None:
    found = compare(1, None, [], {})
    assert not found.agree
    assert "nothing is proven" in sentence(found, 1, "mailer")


def test_all_on_the_release_but_the_operation_ended_otherwise() -> None:
    found = compare(1, "1.0.0", HOSTS, good(), "failed", ["rolled_back", "nothing_to_do"])
    assert not found.agree
    assert found.differing == []
    told = sentence(found, 1, "mailer", ["rolled_back", "nothing_to_do"], "home is down")
    assert "ended as failed, not as rolled_back or nothing_to_do (home is down)" in told
    assert not compare(1, "1.0.0", HOSTS, good(), None, ["confirmed"]).agree
    assert compare(1, "1.0.0", HOSTS, good(), "rolled_back", ["rolled_back"]).agree


def test_without_a_version_the_workers_run_what_the_host_says() -> None:
    assert compare(1, None, HOSTS, good()).agree
    results = dict(good(), worker1=on(workers=[{"name": "m", "state": "running", "version": "9"}]))
    assert not compare(1, None, HOSTS, results).agree


def test_release_0_is_as_found() -> None:
    results = {"worker1": on(0, None, workers=[]), "worker2": on(None, None, workers=[]), "worker3": on(0, "0.9")}
    assert compare(0, "1.0.0", HOSTS, results).agree
    assert not compare(0, None, HOSTS, dict(results, worker1=on(1))).agree


def test_a_release_as_text_is_a_number_too() -> None:
    results = {host: on() for host in HOSTS}
    results["worker1"]["live"]["release"] = "1"
    assert compare(1, "1.0.0", HOSTS, results).agree


def test_a_host_whose_files_differ_from_its_release_does_not_agree() -> None:
    live = {"release": 1, "phase": "confirmed", "version": "1.0.0", "workers": [{"name": "w", "state": "running", "version": "1.0.0"}]}
    drifted = {"live": live, "pending": True, "release": {"number": 1}}
    assert not compare(1, "1.0.0", ["a"], {"a": drifted}).agree
    # Compared with another release, as a deploy's plan does, it says nothing about this one.
    assert compare(1, "1.0.0", ["a"], {"a": dict(drifted, release={"number": 2})}).agree


def test_what_was_not_done_is_told_and_does_not_agree() -> None:
    found = compare(
        1, "1.0.0", HOSTS, good(), "rolled_back", ["rolled_back"], ["queued tasks of mail should have been parked: broker\ndown."]
    )
    assert not found.agree and not found.differing
    told = sentence(found, 1, "mailer", ["rolled_back"])
    assert told.startswith("All 3 hosts of fleet mailer are on release 1. Not all was done: queued tasks of mail should have been parked")
    # What is to be done about the rest, such as a share or feature gates, its own sentence says.
    assert told.endswith("Mend the cause; tasks that were left are treated with the playbook queueops.fleet.redrive.")
    assert found.text().splitlines()[-1] == "NOT DONE: queued tasks of mail should have been parked: broker down."
