# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of an operation is what its events say, and what they do not say is not known."""

from __future__ import annotations

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound
from ansible_collections.queueops.fleet.plugins.module_utils._journal.journal import Damaged
from ansible_collections.queueops.fleet.plugins.module_utils._postmortem.facts import Facts, as_dict, choose

from tests.unit.postmortem.conftest import HOSTS, Fleet


def times(facts: Facts) -> list[float | None]:
    return [span.seconds for span in facts.spans]


def why(facts: Facts) -> list[str]:
    return [span.why for span in facts.spans]


def test_the_times_lie_between_the_events_that_they_name(rolled_back: Fleet) -> None:
    facts = rolled_back.facts()
    assert times(facts) == [12.5, 1.5, 9.75, 23.75]
    events = {event.seq: event.kind for event in rolled_back.journal.read()}
    named = [(events[span.began or 0], events[span.ended or 0]) for span in facts.spans]
    assert named == [
        ("host_switched", "gate_verdict"),
        ("gate_verdict", "rollback_ordered"),
        ("rollback_ordered", "host_reverted"),
        ("host_switched", "host_reverted"),
    ]
    assert facts.sentence == "release 2 (2.0.0) went to 1 of 3 hosts, and every host is back on release 1 (1.0.0)"


def test_a_decision_has_its_figures_its_limit_who_decided_and_what_else_there_was(rolled_back: Fleet) -> None:
    opened, gate, ordered = rolled_back.facts().decisions
    assert (opened.by, opened.alternatives) == ("alice@ctl1", ["Stay on release 1 (1.0.0)."])
    assert dict(gate.values) == {"completed": "13", "failed": "8", "ratio": "38.1 %", "looks": "2"}
    assert (gate.limit, gate.by, gate.reason) == ("5.0 %", "the gate's rule on failed_ratio, run by alice@ctl1", "8 of 21 failed")
    assert gate.alternatives == ["Had it passed, the deploy would have gone on to the other 2 hosts (worker2, worker3)."]
    assert ordered.alternatives == ["Go back to another release: release 0 (as found)."]


def test_whatever_else_a_gate_measured_is_shown_by_its_name(fleet: Fleet) -> None:
    fleet.deployed()
    fleet.open("deploy", version="2.0.0")
    sample = {"at": fleet.began.timestamp(), "value": 1234, "baseline_ratio": 0.015, "outcome": None}
    fleet.add(5, "gate_verdict", verdict="pass", would_be="fail", metric="depth", limit=1000, wave=["worker1"], last_sample=sample)
    gate = fleet.facts("op-0002-deploy").decisions[-1]
    assert gate.values == [("baseline ratio", "1.5 %"), ("value", "1,234"), ("would be", "fail")]
    assert (gate.limit, gate.by) == ("1,000", "the gate's rule on depth, run by alice@ctl1")
    # A dry run's fail is no detection.
    assert fleet.facts("op-0002-deploy").spans[0].seconds is None


def test_hosts_tasks_and_config_are_what_the_events_have(rolled_back: Fleet) -> None:
    facts = rolled_back.facts()
    canary, other, _third = facts.hosts
    assert [(step.what, step.detail) for step in canary.steps] == [
        ("switched", "drained in 1.8 s, switched in 0.6 s, started in 2.3 s"),
        ("back", "drained in 1.9 s"),
    ]
    assert (canary.release, canary.ok, canary.config, other.steps) == (1, True, True, [])
    (redrive,) = facts.redrives
    assert redrive.outcomes == [("matched", 52), ("put back", 50), ("left out", 2), ("remain", 0)]
    assert (redrive.left_out, redrive.after, redrive.conservation) == ([("the payload is gone", 2)], {"queued": 110, "failed": 2}, "proven")
    assert [(one.path, one.lines) for one in facts.diffs] == [("/etc/mailer/worker.conf", ["-pool=4", "+pool=8"])]
    assert [value for _at, value in facts.measured.depth["mail"]] == [40.0, 110.0]
    assert [[round(value, 1) for _at, value in gate] for gate in facts.measured.ratios] == [[40.0, 38.1]]
    assert [(lane.host, [release for _at, release in lane.stretches]) for lane in facts.lanes] == [("worker1", [1, 2, 1])]


def test_every_event_is_in_the_timeline_once_and_equal_ones_of_a_second_are_one_line(rolled_back: Fleet) -> None:
    facts = rolled_back.facts()
    told = sorted(seq for line in facts.timeline for seq in line.seqs)
    assert told == [event.seq for event in rolled_back.journal.read() if event.operation == "op-0002-deploy"]
    assert [line.where for line in facts.timeline if line.text == "found on release 1 (1.0.0), confirmed"] == [list(HOSTS)]
    assert [line.at for line in facts.timeline] == sorted(line.at for line in facts.timeline)


def test_of_a_deploy_that_was_confirmed_no_time_is_made_up(fleet: Fleet) -> None:
    fleet.deployed()
    facts = fleet.facts()
    assert (facts.verdict, times(facts)) == ("confirmed", [None, None, None, None])
    assert why(facts)[:2] == ["no gate and no host failed before"] * 2
    assert as_dict(facts)["times"] == dict.fromkeys(("detect_s", "decide_s", "revert_s", "in_service_s"))


def test_a_rollback_by_hand_goes_back_from_what_an_earlier_operation_brought(fleet: Fleet) -> None:
    fleet.deployed()
    fleet.deployed("2.0.0")
    first = next(event for event in fleet.journal.read() if event.kind == "host_switched" and event.data["release"] == 2)
    fleet.open("rollback", reason="sends each mail twice")
    for second, host in enumerate(HOSTS, 40):
        last = fleet.add(second, "host_reverted", host, release=1)
    fleet.close("rolled_back", 1, reason="sends each mail twice")
    facts = fleet.facts()
    assert (facts.kind, facts.operation) == ("rollback", "op-0003-rollback")
    assert times(facts)[:2] == [None, None]
    assert times(facts)[2] == 42.0
    assert (facts.spans[3].began, facts.spans[3].ended) == (first.seq, last.seq)
    (decision,) = facts.decisions
    assert decision.alternatives[0] == "Stay on release 2 (2.0.0)."
    assert decision.reason == "sends each mail twice"
    # Whatever becomes of that release later.
    fleet.open("deploy", target=2, version="2.0.0")
    fleet.add(2, "host_switched", "worker1", release=2)
    assert as_dict(fleet.facts("op-0003-rollback")) == as_dict(facts)


def test_a_host_that_did_not_come_back_leaves_the_revert_not_known_and_is_named(fleet: Fleet) -> None:
    fleet.deployed()
    fleet.open("deploy", version="2.0.0")
    fleet.add(5, "host_switched", "worker1", release=2)
    fleet.add(6, "host_switched", "worker2", release=2)
    fleet.add(9, "host_unreachable", "worker3", "timed out")
    fleet.add(12, "rollback_ordered", target=1)
    fleet.add(20, "host_reverted", "worker1", release=1)
    fleet.add(21, "host_unreachable", "worker2", "no route to host")
    fleet.add(22, "host_failed", "worker3", "no space left")
    fleet.close("failed", 1, reported={"worker2": {"release": None, "ok": False, "reason": "no route to host"}})
    facts = fleet.facts()
    assert times(facts) == [4.0, 3.0, None, None]
    assert why(facts)[2] == "there is no event of a return for worker2, worker3"
    second = facts.hosts[1]
    assert (second.release, second.ok, second.reason) == (None, False, "no route to host")
    assert [(step.what, step.detail, step.bad) for step in second.steps][-1] == ("unreachable", "no route to host", True)
    assert facts.sentence.endswith("did not end as it should: the hosts may differ")


def test_a_host_that_failed_before_any_was_switched_dates_no_detection(fleet: Fleet) -> None:
    fleet.deployed()
    fleet.open("deploy", version="2.0.0")
    fleet.add(5, "host_failed", "worker1", "does not start; put back")
    fleet.add(7, "rollback_ordered", target=1)
    fleet.add(9, "host_reverted", "worker1", release=1)
    fleet.close("rolled_back", 1)
    assert times(fleet.facts()) == [None, 2.0, 2.0, None]
    assert "no host is known to have been switched to release 2 (2.0.0)" in why(fleet.facts())[0]


def test_clocks_that_do_not_agree_give_no_time(fleet: Fleet) -> None:
    fleet.deployed()
    fleet.open("deploy", version="2.0.0")
    switched = fleet.add(30, "host_switched", "worker1", release=2)
    gate = fleet.gate(10, "fail", ["worker1"], 8, 13)
    facts = fleet.facts("op-0002-deploy")
    assert (times(facts)[0], why(facts)[0]) == (None, "event %d is dated before event %d" % (gate.seq, switched.seq))


def test_an_open_operation_is_said_to_be_open(fleet: Fleet) -> None:
    fleet.deployed()
    fleet.open("deploy", version="2.0.0")
    facts = fleet.facts("op-0002-deploy")
    assert (facts.verdict, facts.closed_at, as_dict(facts)["outcome"]) == ("open", None, None)
    assert facts.sentence == "release 2 (2.0.0) went to 0 of 3 hosts; the operation is still open"


def test_a_takeover_is_a_decision_and_who_went_on_is_named(fleet: Fleet) -> None:
    fleet.deployed()
    held = fleet.open("deploy", version="2.0.0")
    fleet.add(5, "host_switched", "worker1", release=2)
    fleet.open("rollback", takeover=True, actor="bob@ctl2", reason="ctl1 is dead")
    facts = fleet.facts(held)
    assert (facts.verdict, facts.decisions[-1].by) == ("taken over", "bob@ctl2")
    assert facts.decisions[-1].alternatives == ["Wait for the run of alice@ctl1 to end."]
    assert facts.timeline[-1].text == "taken over from alice@ctl1, and ended by op-0003-rollback: ctl1 is dead"
    # What came after it is another operation's.
    assert {seq for line in facts.timeline for seq in line.seqs} == {event.seq for event in fleet.journal.read() if event.operation == held}


def test_the_newest_that_went_wrong_is_chosen_else_the_newest(rolled_back: Fleet) -> None:
    rolled_back.deployed("3.0.0")
    assert rolled_back.facts().operation == "op-0002-deploy"
    assert rolled_back.facts("op-0003-deploy").verdict == "confirmed"
    with pytest.raises(NotFound, match=r"has no operation op-9; the newest are: op-0001-deploy, op-0002-deploy, op-0003-deploy"):
        choose(rolled_back.journal.read(), "op-9")
    with pytest.raises(NotFound, match="has no operation yet"):
        choose([], None)


def test_values_that_cannot_be_drawn_are_not(hostile: Fleet) -> None:
    measured = hostile.facts("op-0002-deploy").measured
    assert (measured.ratios, measured.limits, measured.standing) == ([], [], {})
    assert [value for series in measured.depth.values() for _at, value in series] == [5.0]


def test_a_damaged_journal_is_not_told_of(rolled_back: Fleet) -> None:
    path = rolled_back.folder / "mailer" / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"failed":8', b'"failed":7', 1))
    with pytest.raises(Damaged, match="is damaged in line"):
        rolled_back.facts()


def test_what_rules_made_of_tasks_is_told_by_rule(fleet: Fleet) -> None:
    fleet.deployed()
    fleet.open("deploy", version="2.0.0")
    took: list[dict[str, object]] = [
        {"name": "charges", "action": "compensate", "matched": 2, "moved": 2},
        {"name": "x", "action": "dead_letter", "moved": None},
    ]
    fleet.add(5, "tasks_redriven", queue="mail", matched=3, moved=2, remaining=0, rules=took)
    fleet.add(6, "tasks_treated", queue="mail", source="queued", matched=5, moved=5, rules=[dict(took[0], action="park", moved=5)])
    fleet.add(7, "workers_killed", "worker1", release=1)
    facts = fleet.facts("op-0002-deploy")
    assert ("compensate by rule charges", 2) in facts.redrives[-1].outcomes
    assert "put back" not in dict(facts.redrives[-1].outcomes)
    told = " ".join(entry.text for entry in facts.timeline)
    assert "2 of 3 failed tasks of mail treated by rules (compensate 2 by rule charges" in told
    assert "5 of 5 queued tasks of mail treated by rules (park 5 by rule charges)" in told
    assert "killed the workers that were not done in time, on the way to release 1 (" in told


def test_a_version_that_was_shut_out_is_told(fleet: Fleet) -> None:
    fleet.deployed()
    fleet.open("rollback", target=1)
    fleet.add(5, "version_fenced", version="2.0.0", user="mailer-2.0.0", connections=3)
    told = " ".join(entry.text for entry in fleet.facts().timeline)
    assert "version 2.0.0 shut out at the broker (user mailer-2.0.0); connections closed: 3" in told


def test_how_the_feature_gates_in_redis_were_set_is_told(fleet: Fleet) -> None:
    fleet.deployed()
    fleet.open("rollback", target=1)
    fleet.add(5, "feature_gates_set", release=1, where=["the key flags"], set=["new-invoice"], removed=["new-charge"])
    fleet.add(6, "feature_gates_failed")
    told = " ".join(entry.text for entry in fleet.facts().timeline)
    assert "the feature gates of release 1 (1.0.0) in Redis: set new-invoice; taken away new-charge" in told
    assert "the feature gates in Redis could not be set" in told


def test_how_the_tasks_were_divided_is_told(fleet: Fleet) -> None:
    fleet.deployed()
    fleet.open("rollback", target=1)
    fleet.add(5, "tasks_divided", weights={"2.0.0": 0, "1.0.0": 100}, moved=25)
    fleet.add(6, "divide_failed")
    told = " ".join(entry.text for entry in fleet.facts().timeline)
    assert "the tasks are divided anew: version 1.0.0 gets 100 %, version 2.0.0 gets 0 %" in told
    assert "the tasks could not be divided" in told
