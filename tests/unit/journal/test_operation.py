# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations on a real journal, and what their events add up to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict, NotFound, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._journal.closing import CloseRequest, close_operation
from ansible_collections.queueops.fleet.plugins.module_utils._journal.events import Event
from ansible_collections.queueops.fleet.plugins.module_utils._journal.fold import FleetState, fold
from ansible_collections.queueops.fleet.plugins.module_utils._journal.journal import Journal
from ansible_collections.queueops.fleet.plugins.module_utils._journal.opening import OpenRequest, open_operation
from ansible_collections.queueops.fleet.plugins.module_utils._journal.operation import Answer, append_events

HOSTS = ("worker1", "worker2", "worker3")


class Fleet:
    """A journal with the few steps that every scenario is made of."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(str(folder / "mailer" / "journal.jsonl"))

    @property
    def state(self) -> FleetState:
        return fold(self.journal.read())

    def open(self, kind: str, **options: Any) -> Answer:
        return open_operation(self.journal, OpenRequest(kind, actor="alice@ctl1", **options))

    def close(self, opened: Answer, outcome: str, release: int | None = None, **options: Any) -> Answer:
        options.setdefault("hosts", {host: {"release": release, "phase": "confirmed", "ok": True} for host in HOSTS})
        return close_operation(
            self.journal, CloseRequest(opened.operation.id, outcome, opened.operation.epoch, actor="alice@ctl1", **options)
        )

    def deploy(self, version: str = "x", **options: Any) -> Answer:
        opened = self.open("deploy", version=version, **options)
        return self.close(opened, "confirmed", opened.operation.target)

    def rollback(self, **options: Any) -> Answer:
        opened = self.open("rollback", **options)
        return self.close(opened, "rolled_back", opened.operation.target)

    def switched(self, opened: Answer, host: str, release: int) -> None:
        event = Event("host_switched", host=host, data={"release": release})
        append_events(self.journal, opened.operation.id, opened.operation.epoch, [event])


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_nothing_yet(fleet: Fleet) -> None:
    state = fleet.state
    assert (state.current, state.known_good, state.rollback_target, state.next_release, state.epoch) == (0, None, None, 1, 0)
    assert "nothing was ever deployed" in state.rollback_reason
    with pytest.raises(NotFound, match="nothing was ever deployed"):
        fleet.open("rollback")
    assert not fleet.journal.exists() or fleet.journal.read() == []


def test_only_one_release(fleet: Fleet) -> None:
    fleet.deploy("1.0.0")
    state = fleet.state
    assert (state.current, state.known_good, state.rollback_target) == (1, 1, None)
    assert state.rollback_reason == "release 1 is the only known good release"


def test_a_good_deploy(fleet: Fleet) -> None:
    fleet.deploy("1.0.0")
    opened = fleet.open("deploy", version="2.0.0", checksum="sha256:b", digests={"worker1": "d1"})
    assert opened.operation.id == "op-0002-deploy"
    assert (opened.operation.target, opened.operation.from_release, opened.operation.back_to) == (2, 1, 1)
    assert fleet.state.releases[2].state == "prepared"
    fleet.switched(opened, "worker1", 2)
    assert fleet.state.releases[2].state == "active"
    closed = fleet.close(opened, "confirmed", 2)
    state = fleet.state
    assert closed.after.as_dict() == state.as_dict()
    assert state.releases[2].state == "confirmed"
    assert state.releases[2].digests == {"worker1": "d1"}
    assert (state.current, state.known_good, state.rollback_target, state.rollback_from) == (2, 2, 1, 2)
    assert state.hosts == dict.fromkeys(HOSTS, 2)
    assert state.open_operation is None
    assert state.last_operation is not None
    assert state.last_operation.outcome == "confirmed"


def test_a_bad_deploy_that_rolls_itself_back(fleet: Fleet) -> None:
    fleet.deploy()
    opened = fleet.open("deploy", version="bad")
    fleet.switched(opened, "worker1", 2)
    fleet.close(opened, "rolled_back", 1, reason="gate failed: 31 of 90")
    state = fleet.state
    assert (state.current, state.known_good) == (1, 1)
    assert state.releases[2].state == "withdrawn"
    assert state.releases[2].reason == "gate failed: 31 of 90"
    assert state.rollback_target == 1
    assert "already is on release 1" in state.rollback_reason
    assert state.next_release == 3


def test_the_first_deploy_goes_bad(fleet: Fleet) -> None:
    opened = fleet.open("deploy", version="bad")
    fleet.switched(opened, "worker1", 1)
    fleet.close(opened, "failed", 1)
    state = fleet.state
    assert (state.known_good, state.rollback_target, state.rollback_from) == (None, 0, 1)
    fleet.rollback()
    assert (fleet.state.current, fleet.state.rollback_target) == (0, 0)
    assert fleet.state.releases[1].state == "withdrawn"


def test_rollback_twice_stays(fleet: Fleet) -> None:
    fleet.deploy()
    fleet.deploy()
    fleet.rollback()
    assert fleet.state.releases[2].state == "withdrawn"
    assert (fleet.state.current, fleet.state.rollback_target) == (1, 1)
    second = fleet.open("rollback")
    assert (second.operation.target, second.operation.from_release) == (1, 1)
    fleet.close(second, "nothing_to_do", 1)
    state = fleet.state
    assert (state.current, state.known_good, state.rollback_target) == (1, 1, 1)
    assert state.releases[1].state == "confirmed"


def test_forward_again_then_back_by_number(fleet: Fleet) -> None:
    fleet.deploy("1.0.0")
    fleet.deploy("2.0.0")
    fleet.rollback()
    fleet.deploy("3.0.0")
    assert (fleet.state.current, fleet.state.rollback_target) == (3, 1)
    fleet.deploy("4.0.0")
    assert fleet.state.rollback_target == 3
    fleet.rollback(target=1)
    state = fleet.state
    assert (state.current, state.known_good) == (1, 1)
    assert {number: release.state for number, release in state.releases.items()} == {
        1: "confirmed",
        2: "withdrawn",
        3: "confirmed",
        4: "withdrawn",
    }
    # The way back is where the fleet was, not the highest number.
    fleet.deploy("5.0.0")
    assert fleet.state.rollback_target == 1


def test_a_withdrawn_release_becomes_known_good_by_being_deployed_and_confirmed(fleet: Fleet) -> None:
    fleet.deploy("1.0.0")
    fleet.deploy("2.0.0")
    fleet.rollback()
    fleet.deploy("2.0.0", target=2)
    state = fleet.state
    assert (state.current, state.known_good, state.rollback_target, state.next_release) == (2, 2, 1, 3)
    assert state.releases[2].withdrawn_at is None


def test_rolling_back_to_a_withdrawn_release_by_number_warns(fleet: Fleet) -> None:
    fleet.deploy("1.0.0")
    fleet.deploy("2.0.0")
    fleet.rollback(reason="it was bad")
    opened = fleet.open("rollback", target=2)
    assert "Release 2 was withdrawn" in opened.warnings[0]
    assert "it was bad" in opened.warnings[0]


@pytest.mark.parametrize(("target", "complaint"), [(7, "is not in the journal"), (2, "was never confirmed")])
def test_rolling_back_to_what_is_not_known_good_is_refused(fleet: Fleet, target: int, complaint: str) -> None:
    fleet.deploy()
    fleet.close(fleet.open("deploy", version="bad"), "rolled_back", 1)
    before = fleet.journal.head()
    with pytest.raises(NotFound, match=f"Release {target} {complaint}.*known good: 1"):
        fleet.open("rollback", target=target)
    assert fleet.journal.head() == before


def test_a_deploy_that_is_left_open_goes_back_to_the_newest_known_good(fleet: Fleet) -> None:
    fleet.deploy()
    fleet.deploy()
    fleet.open("deploy", version="3")
    state = fleet.state
    assert (state.current, state.known_good, state.rollback_target, state.rollback_from) == (2, 2, 2, 3)
    assert "op-0003-deploy, the deploy of release 3, is open" in state.rollback_reason


def test_a_failed_deploy_that_touched_hosts_goes_back_to_the_newest_known_good(fleet: Fleet) -> None:
    fleet.deploy()
    fleet.deploy()
    opened = fleet.open("deploy", version="3")
    hosts = {"worker1": {"release": 3, "phase": "active", "ok": True}, "worker2": {"release": 2, "ok": True}}
    fleet.close(opened, "failed", hosts=hosts)
    state = fleet.state
    assert (state.current, state.rollback_target, state.rollback_from) == (2, 2, 3)
    assert state.hosts == {"worker1": 3, "worker2": 2, "worker3": 2}


def test_a_host_that_is_not_known_counts_as_touched(fleet: Fleet) -> None:
    fleet.deploy()
    fleet.deploy()
    opened = fleet.open("deploy", version="3")
    fleet.close(opened, "failed", hosts={"worker1": {"release": None, "reason": "unreachable"}})
    assert fleet.state.rollback_target == 2


def test_a_failed_deploy_that_touched_nothing_changes_nothing(fleet: Fleet) -> None:
    fleet.deploy()
    fleet.deploy()
    fleet.close(fleet.open("deploy", version="3"), "failed", 2)
    state = fleet.state
    assert (state.current, state.known_good, state.rollback_target, state.next_release) == (2, 2, 1, 4)


def test_a_rollback_that_fails_half_way_keeps_its_target(fleet: Fleet) -> None:
    fleet.deploy()
    fleet.deploy()
    opened = fleet.open("rollback", reason="2 is bad")
    assert fleet.state.rollback_target == 1
    hosts: dict[str, dict[str, Any]] = {"worker1": {"release": 1}, "worker2": {"release": 2, "ok": False, "reason": "no space"}}
    fleet.close(opened, "failed", hosts=hosts)
    state = fleet.state
    assert state.releases[2].state == "withdrawn"
    assert (state.known_good, state.rollback_target, state.rollback_from) == (1, 1, 2)
    # A deploy from here never goes back to the release that was left.
    assert fleet.open("deploy", version="3").operation.back_to == 1


def test_a_second_operation_is_told_who_holds_the_fleet(fleet: Fleet) -> None:
    opened = fleet.open("deploy", version="1", controller="ctl1")
    before = fleet.journal.head()
    with pytest.raises(Conflict) as caught:
        fleet.open("rollback")
    sentence = caught.value.sentence()
    for part in ("op-0001-deploy", "alice@ctl1", "from ctl1", str(opened.operation.opened_at), "takeover: true", "Nothing was changed"):
        assert part in sentence
    assert caught.value.details["held_by"]["id"] == "op-0001-deploy"
    assert fleet.journal.head() == before


def test_a_takeover_by_a_rollback_ends_the_deploy_and_fences_it(fleet: Fleet) -> None:
    fleet.deploy()
    dead = fleet.open("deploy", version="2")
    fleet.switched(dead, "worker1", 2)
    taken = fleet.open("rollback", takeover=True, reason="ctl1 is dead")
    assert taken.taken_over is not None
    assert taken.taken_over["id"] == dead.operation.id
    assert (taken.operation.id, taken.operation.epoch) == ("op-0003-rollback", 3)
    assert (taken.operation.target, taken.operation.from_release) == (1, 2)
    assert [event.kind for event in taken.written] == ["operation_taken_over", "operation_opened"]
    for late in (
        lambda: fleet.switched(dead, "worker2", 2),
        lambda: fleet.close(dead, "confirmed", 2),
        lambda: fleet.close(dead, "failed", 2),
    ):
        with pytest.raises(Conflict, match="op-0002-deploy was taken over"):
            late()
    fleet.close(taken, "rolled_back", 1)
    state = fleet.state
    assert (state.current, state.rollback_target, state.epoch) == (1, 1, 3)
    assert state.releases[2].state == "withdrawn"
    assert state.operations["op-0002-deploy"].outcome == "taken_over"


def test_a_takeover_can_go_on_with_the_same_operation(fleet: Fleet) -> None:
    dead = fleet.open("deploy", version="1")
    taken = fleet.open("deploy", takeover=True, operation=dead.operation.id)
    assert (taken.operation.id, taken.operation.epoch) == (dead.operation.id, 2)
    with pytest.raises(Conflict, match="went on under epoch 2"):
        fleet.switched(dead, "worker1", 1)
    with pytest.raises(Conflict, match="went on under epoch 2"):
        fleet.close(dead, "confirmed", 1)
    with pytest.raises(Refused, match="its id alone does not show who asks"):
        close_operation(fleet.journal, CloseRequest(dead.operation.id, "failed"))
    fleet.close(taken, "confirmed", 1)
    assert fleet.state.current == 1


def test_taking_over_a_rollback_does_not_make_the_bad_release_good_again(fleet: Fleet) -> None:
    fleet.deploy()
    fleet.deploy()
    fleet.open("rollback", reason="2 is bad")
    fleet.open("deploy", version="3", takeover=True)
    state = fleet.state
    assert state.releases[2].state == "withdrawn"
    assert (state.known_good, state.rollback_target) == (1, 1)


def test_a_takeover_of_a_free_fleet_just_opens(fleet: Fleet) -> None:
    opened = fleet.open("deploy", version="1", takeover=True)
    assert opened.taken_over is None
    assert [event.kind for event in opened.written] == ["operation_opened"]


def test_an_epoch_that_was_never_given_out_is_refused(fleet: Fleet) -> None:
    opened = fleet.open("deploy", version="1")
    with pytest.raises(Refused, match="Epoch 9 was never given out"):
        append_events(fleet.journal, opened.operation.id, 9, [Event("x")])


def test_events_after_the_end_are_refused(fleet: Fleet) -> None:
    opened = fleet.open("deploy", version="1")
    fleet.close(opened, "confirmed", 1)
    with pytest.raises(Conflict, match=r"ended at .* as confirmed"):
        fleet.switched(opened, "worker1", 1)


def test_that_nobody_could_be_told_of_the_end_is_written_after_it_and_changes_nothing_else(fleet: Fleet) -> None:
    opened = fleet.open("deploy", version="1")
    fleet.close(opened, "confirmed", 1)
    before, untold = fleet.state, Event("notification_failed", data={"event": "ended"})
    append_events(fleet.journal, opened.operation.id, opened.operation.epoch, [untold])
    assert (fleet.state, fleet.journal.read()[-1].kind) == (before, "notification_failed")
    with pytest.raises(Conflict, match="ended at"):
        append_events(fleet.journal, opened.operation.id, opened.operation.epoch, [untold, Event("host_switched")])


def test_a_plan_that_the_journal_has_outrun_is_refused(fleet: Fleet) -> None:
    planned = fleet.journal.head()
    fleet.deploy()
    before = fleet.journal.head()
    with pytest.raises(Conflict, match=r"6 events since, .*operation_closed of op-0001-deploy by alice@ctl1 at"):
        fleet.open("deploy", version="2", expect_head=planned)
    with pytest.raises(Conflict, match="does not contain the head abc"):
        fleet.open("deploy", version="2", expect_head="abc")
    assert fleet.journal.head() == before
    assert fleet.open("deploy", version="2", expect_head=before).changed


def test_a_mixed_fleet_is_never_recorded_as_good(fleet: Fleet) -> None:
    opened = fleet.open("deploy", version="1")
    for hosts, complaint in (
        ({}, "no host was reported"),
        ({"worker1": {"release": 1}, "worker2": {"release": 0}}, "worker2 is on release 0"),
        ({"worker1": {"release": 1}, "worker2": {"release": None}}, "worker2 is on a release that is not known"),
        ({"worker1": {"release": 1, "ok": "False", "reason": "no pulse"}}, r"worker1 is not well \(no pulse\)"),
    ):
        before = fleet.journal.head()
        with pytest.raises(Refused, match=complaint):
            fleet.close(opened, "confirmed", hosts=hosts)
        assert fleet.journal.head() == before
    fleet.close(opened, "confirmed", hosts={"worker1": {"release": "1", "ok": "True"}})


def test_closing_twice_changes_nothing(fleet: Fleet) -> None:
    opened = fleet.open("deploy", version="1")
    assert fleet.close(opened, "confirmed", 1).changed
    head = fleet.journal.head()
    assert not fleet.close(opened, "confirmed", 1).changed
    with pytest.raises(Conflict, match="ended at"):
        fleet.close(opened, "failed", 1)
    assert fleet.journal.head() == head


def test_a_release_is_immutable(fleet: Fleet) -> None:
    fleet.deploy("1.0.0", checksum="sha256:a", digests={"worker1": "d1"})
    for options, complaint in (
        ({"version": "2.0.0"}, "version 1.0.0, not 2.0.0"),
        ({"checksum": "sha256:b"}, "sha256:a, not sha256:b"),
        ({"digests": {"worker1": "d2"}}, "other code or config on worker1"),
    ):
        with pytest.raises(Refused, match=complaint):
            fleet.open("deploy", target=1, **options)
    again = fleet.open("deploy", target=1, digests={"worker1": "d1", "worker2": "d5"})
    assert again.after.releases[1].digests == {"worker1": "d1", "worker2": "d5"}
    assert again.after.releases[1].version == "1.0.0"


def test_digests_may_come_with_the_end(fleet: Fleet) -> None:
    opened = fleet.open("deploy", version="1", digests={"worker1": "d1"})
    fleet.close(opened, "confirmed", 1, digests={"worker1": "other", "worker2": "d2"})
    assert fleet.state.releases[1].digests == {"worker1": "d1", "worker2": "d2"}


@pytest.mark.parametrize(
    ("options", "complaint"), [({}, "its version has to be given"), ({"target": 0, "version": "1"}, "numbered from 1")]
)
def test_an_impossible_deploy_is_refused(fleet: Fleet, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        fleet.open("deploy", **options)


def test_dry_runs_tell_what_would_be_and_write_nothing(fleet: Fleet) -> None:
    request = OpenRequest("deploy", version="1", actor="a")
    dry = open_operation(fleet.journal, request, dry=True)
    assert not fleet.journal.exists()
    wet = open_operation(fleet.journal, request)
    assert (dry.operation.id, dry.operation.epoch, dry.operation.target) == (wet.operation.id, wet.operation.epoch, wet.operation.target)
    head = fleet.journal.head()
    closing = CloseRequest(wet.operation.id, "confirmed", hosts={"worker1": {"release": 1}}, events=[Event("gate_verdict")])
    dry = close_operation(fleet.journal, closing, dry=True)
    assert dry.changed
    assert fleet.journal.head() == head == dry.head
    wet = close_operation(fleet.journal, closing)
    assert [event.kind for event in dry.written] == [event.kind for event in wet.written]
    kinds = ["gate_verdict", "host_reported", "release_confirmed", "operation_closed"]
    assert [event.kind for event in wet.written] == kinds
    assert all(event.actor and event.operation == "op-0001-deploy" and event.epoch == 1 for event in wet.written)


def test_reserved_kinds_cannot_be_appended(fleet: Fleet) -> None:
    opened = fleet.open("deploy", version="1")
    for kind in ("operation_closed", "release_confirmed", "operation_taken_over"):
        with pytest.raises(Refused, match=kind):
            append_events(fleet.journal, opened.operation.id, 1, [Event(kind)])


def test_the_caller_must_mean_the_operation_that_it_names(fleet: Fleet) -> None:
    opened = fleet.open("deploy", version="1")
    for options, complaint in (({"kind": "rollback"}, "has the kind deploy"), ({"target": 4}, "has the target 1")):
        with pytest.raises(Refused, match=complaint):
            fleet.close(opened, "failed", 0, **options)
    with pytest.raises(NotFound, match="no operation op-0009-deploy; the newest is op-0001-deploy"):
        close_operation(fleet.journal, CloseRequest("op-0009-deploy", "failed"))


def test_a_deploy_is_rolled_back_to_the_release_that_its_hosts_are_on(fleet: Fleet) -> None:
    fleet.deploy()
    fleet.deploy()
    opened = fleet.open("deploy", version="3")
    with pytest.raises(Refused, match="worker1 is on release 1"):
        fleet.close(opened, "rolled_back", 1)
    with pytest.raises(NotFound, match="Release 3 was never confirmed"):
        fleet.close(opened, "rolled_back", 3, from_release=3)
    fleet.close(opened, "rolled_back", 1, from_release=1)
    assert (fleet.state.current, fleet.state.known_good) == (1, 1)


def test_events_from_the_hosts_tell_where_they_are(fleet: Fleet) -> None:
    fleet.deploy()
    opened = fleet.open("deploy", version="2")
    fleet.switched(opened, "worker1", 2)
    events = [
        Event("host_put_back", host="worker2", data={"release": "1"}),
        Event("confirm_timer_reverted", host="worker1", data={"release": 1}),
        Event("something_new", host="worker3", data={"release": 9}),
    ]
    append_events(fleet.journal, opened.operation.id, opened.operation.epoch, events)
    state = fleet.state
    assert state.hosts == dict.fromkeys(HOSTS, 1)
    assert state.open_operation is not None
    assert state.open_operation.touched == {"worker1", "worker2"}


def test_a_number_that_is_none_of_a_release_does_not_make_the_journal_unreadable(fleet: Fleet) -> None:
    fleet.deploy()
    opened = fleet.open("deploy", version="2")
    event = Event("host_switched", host="worker1", data={"release": "9" * 5000})
    append_events(fleet.journal, opened.operation.id, opened.operation.epoch, [event])
    assert fleet.state.hosts["worker1"] == 1
