# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The filters that the roles count and decide with."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.queueops.fleet.plugins.filter.operation import (
    config_events,
    failed_hosts,
    gate_events,
    host_events,
    last_results,
    queue_events,
    redrive_events,
    release_outcome,
)
from ansible_collections.queueops.fleet.plugins.filter.waves import waves
from ansible_collections.queueops.fleet.plugins.module_utils._journal.events import Event

HOSTS = [f"w{number}" for number in range(1, 9)]


@pytest.mark.parametrize(
    ("shares", "sizes"),
    [
        ([1, "100%"], [1, 7]),
        ([1, "25%", "100%"], [1, 1, 6]),
        (["50%"], [4]),
        (["1", "1", "100%"], [1, 7]),
        (["100%"], [8]),
        ([20], [8]),
    ],
)
def test_waves_count_from_the_first_host_on(shares: list[object], sizes: list[int]) -> None:
    parts = waves(HOSTS, shares)
    assert [len(part) for part in parts] == sizes
    assert [host for part in parts for host in part] == HOSTS[: sum(sizes)]


def test_a_wave_that_is_no_number_is_named() -> None:
    with pytest.raises(AnsibleFilterError, match=r"queueops_fleet\.waves has the entry 'half'"):
        waves(HOSTS, ["half"])


def test_the_newest_answer_counts_and_a_skipped_one_does_not() -> None:
    hostvars = {
        "w1": {"confirmed": {"skipped": True}, "switched": {"live": {"release": 2}}},
        "w2": {"confirmed": {"live": {"release": 2}, "changed": True}, "switched": {}},
        "w3": {},
    }
    found = last_results(["w1", "w2", "w3"], hostvars, ["confirmed", "switched"])
    assert found == {"w1": {"live": {"release": 2}}, "w2": {"live": {"release": 2}, "changed": True}, "w3": {}}


def on(number: int, /, **more: object) -> dict[str, object]:
    return {"live": {"release": number, "phase": "confirmed"}, **more}


def test_a_deploy_is_confirmed_only_if_every_host_is() -> None:
    assert release_outcome({"a": on(2), "b": on(2)}, "deploy", 2, 1, "")["outcome"] == "confirmed"
    mixed = release_outcome({"a": on(2), "b": on(1)}, "deploy", 2, 1, "")
    assert mixed["outcome"] == "failed"
    assert [host for host, entry in mixed["hosts"].items() if not entry["ok"]] == ["b"]


def test_a_halted_deploy_is_rolled_back_only_if_every_host_is_on_the_earlier_release() -> None:
    halted = "gate after wave 1: fail"
    assert release_outcome({"a": on(1), "b": on(1)}, "deploy", 2, 1, halted)["outcome"] == "rolled_back"
    left = release_outcome({"a": on(1), "b": {"unreachable": True, "msg": "no route"}}, "deploy", 2, 1, halted)
    assert left["outcome"] == "failed"
    assert left["wanted"] == 1
    assert left["hosts"]["b"] == {"release": None, "phase": None, "ok": False, "reason": "no route"}


def test_a_host_that_never_answered_is_not_ok() -> None:
    assert release_outcome({"a": on(1), "b": {}}, "rollback", 1, 2, "")["outcome"] == "failed"


def test_a_host_that_says_it_failed_is_not_ok_even_on_the_right_release() -> None:
    assert release_outcome({"a": on(1, failed=True, msg="x")}, "rollback", 1, 2, "")["outcome"] == "failed"


def test_events_say_what_happened_on_each_host() -> None:
    results = {
        "a": on(2, release={"number": 2}, ended=0.25, timings={"drain": 1.0}),
        "b": {"failed": True, "msg": "no space left\nmore"},
        "c": {"unreachable": True, "msg": "timed out"},
        "d": {},
    }
    assert failed_hosts(results) == ["b", "c"]
    assert host_events(results, "host_switched") == [
        {"kind": "host_switched", "host": "a", "at": "1970-01-01T00:00:00.250Z", "data": {"timings": {"drain": 1.0}, "release": 2}},
        {"kind": "host_failed", "host": "b", "data": {"timings": {}}, "reason": "no space left"},
        {"kind": "host_unreachable", "host": "c", "data": {"timings": {}}, "reason": "timed out"},
    ]


def test_a_gate_that_could_not_be_measured_is_inconclusive_in_the_journal() -> None:
    (event,) = gate_events({"failed": True, "msg": "broker down"}, ["a"])
    assert (event["data"]["verdict"], event["reason"]) == ("inconclusive", "broker down")
    assert gate_events({"skipped": True}, ["a"]) == []


def test_what_a_gate_measured_and_would_have_said_is_in_the_journal() -> None:
    gate = {"verdict": "pass", "would_be": "fail", "metric": "depth", "limit": 5.0, "samples": [{"at": 1.0, "value": 7}], "looks": 1}
    (event,) = gate_events({**gate, "reason": "dry run, would be fail: 7 tasks are queued (limit 5)"}, ["a"], "backlog")
    assert event["data"] == {
        "gate": "backlog",
        "verdict": "pass",
        "would_be": "fail",
        "metric": "depth",
        "limit": 5.0,
        "wave": ["a"],
        "last_sample": {"at": 1.0, "value": 7},
        "samples": [{"at": 1.0, "value": 7}],
        "looks": 1,
    }


def test_a_failed_redrive_is_not_written_down_as_done() -> None:
    redriven = {"results": [{"queue": "mail", "matched": 3, "moved": 3, "remaining": 0}, {"failed": True, "msg": "broker down"}]}
    assert [event["kind"] for event in redrive_events(redriven)] == ["tasks_redriven", "redrive_failed"]
    assert redrive_events({}) == []


def test_a_gate_keeps_as_many_samples_as_can_be_drawn_the_newest_among_them() -> None:
    samples = [{"at": place} for place in range(200)]
    (event,) = gate_events({"verdict": "pass", "samples": samples}, ["a"])
    kept = event["data"]["samples"]
    assert (kept[0], kept[-1], len(kept) <= 61) == ({"at": 0}, {"at": 199}, True)
    assert gate_events({"verdict": "pass", "samples": samples[:1]}, ["a"])[0]["data"]["samples"] == [{"at": 0}]


def test_what_looked_at_the_queues_anyway_tells_their_depth() -> None:
    info = {"at": 0.25, "queues": [{"name": "mail", "queued": 4, "executing": None, "failed": 0, "paused": False}, {"name": "none"}]}
    assert queue_events(info) == [
        {"kind": "queue_looked", "at": "1970-01-01T00:00:00.250Z", "data": {"queue": "mail", "queued": 4, "failed": 0}}
    ]
    redrive = {"conservation": {"after": {"queued": 7, "finished": 1}}, "ended": 1.0, "ansible_loop_var": "one", "one": "mail"}
    looped = {"results": [redrive, {"skipped": True}, {"failed": True, "msg": "broker down", "ansible_loop_var": "one", "one": "mail"}]}
    assert [event["data"] for event in queue_events(looped)] == [{"queue": "mail", "queued": 7}]
    assert queue_events({"failed": True}) == queue_events({"skipped": True}) == []


def changed(path: str, before: str, after: str) -> dict[str, str]:
    return {"before_header": path, "after_header": path, "before": before, "after": after}


def test_hosts_whose_config_differs_alike_share_an_event() -> None:
    diff = [changed("version", "1\n", "2\n"), changed("/etc/a", "x\npool=4\n", "x\npool=8\n")]
    more = [*diff, {"before_header": "/etc/b (absent)", "after_header": "/etc/b", "before": "", "after": "new\n"}]
    release = {"number": 2}
    first, second = config_events(
        {
            "w1": {"diff": diff, "release": release},
            "w2": {"diff": more, "release": release},
            "w3": {"diff": diff, "release": release},
            "w4": {},
        }
    )
    assert first["data"] == {
        "release": 2,
        "hosts": ["w1", "w3"],
        "files": [{"path": "/etc/a", "diff": "@@ -1,2 +1,2 @@\n x\n-pool=4\n+pool=8"}],
    }
    assert [(file["path"], file["diff"]) for file in second["data"]["files"]][1:] == [("/etc/b", "@@ -0,0 +1 @@\n+new")]


def test_a_config_that_differs_much_fits_into_a_line_of_the_journal() -> None:
    diff = [changed(f"/etc/{place}", "", "x\n" if place == 9 else "\u00e4" * 3000) for place in range(80)]
    (event,) = config_events({"w1": {"diff": diff, "release": {"number": 2}}})
    assert len(Event(**event).sealed(1, "0" * 64).line()) < 40000
    assert [file["diff"][:9] for file in event["data"]["files"]].count("(too long") == 48
