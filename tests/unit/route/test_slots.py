# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The division of a hundred slots among versions: as it was asked for, with as few moved as can be, and the way back is the way there."""

from __future__ import annotations

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import QueueState
from ansible_collections.queueops.fleet.plugins.module_utils._route.route import Route, planned, require_drained, states, whole
from ansible_collections.queueops.fleet.plugins.module_utils._route.slots import SLOTS, checked, counted, divided
from hypothesis import given
from hypothesis import strategies as st

VERSIONS = ("1", "2", "3", "4")


@st.composite
def divisions(draw: st.DrawFn) -> dict[str, int]:
    cuts = sorted(draw(st.lists(st.integers(0, SLOTS), min_size=len(VERSIONS) - 1, max_size=len(VERSIONS) - 1)))
    return {version: high - low for version, low, high in zip(VERSIONS, [0, *cuts], [*cuts, SLOTS], strict=True)}


def owned(owners: list[str], version: str) -> set[int]:
    return {slot for slot, owner in enumerate(owners) if owner == version}


@given(st.lists(divisions(), min_size=1, max_size=8))
def test_every_version_has_its_weight_and_no_slot_moves_that_need_not(asked: list[dict[str, int]]) -> None:
    owners = ["1"] * SLOTS
    for weights in asked:
        before, owners = owners, divided(owners, weights, "1")
        assert {version: weight for version, weight in weights.items() if weight} == counted(owners)
        gained = sum(max(0, weights[version] - before.count(version)) for version in VERSIONS[1:])
        lost = sum(max(0, before.count(version) - weights[version]) for version in VERSIONS[1:])
        # What one version of several gives to another goes by way of the rest, so that it counts once.
        assert sum(old != new for old, new in zip(before, owners, strict=True)) <= gained + lost
        for version in VERSIONS[1:]:
            less, more = sorted((owned(before, version), owned(owners, version)), key=len)
            assert less <= more


@given(st.lists(st.integers(0, SLOTS), min_size=1, max_size=12))
def test_of_two_versions_the_same_share_is_always_the_same_slots(shares: list[int]) -> None:
    owners = ["old"] * SLOTS
    for share in shares:
        owners = divided(owners, {"old": SLOTS - share, "new": share}, "old")
        assert owned(owners, "new") == set(range(share))


def route(*owners: str, rest: str | None = "1", queues: tuple[str, ...] = ("1", "2")) -> Route:
    return Route("mail", "routing_key", {version: "mail-" + version for version in queues}, tuple(owners), rest)


def test_the_rest_stays_with_a_version_that_has_nothing_as_long_as_nothing_is_moved() -> None:
    all_on_two = route(*["2"] * SLOTS)
    assert not planned(all_on_two, {"1": 0, "2": 100}, "mail-{version}")
    back = planned(all_on_two, {"1": 90, "2": 10}, "mail-{version}")
    assert back.rest is None and back.owners == ("2",) * 10 + ("1",) * 90
    third = planned(all_on_two, {"2": 90, "3": 10}, "mail-{version}")
    assert third.rest == "2" and dict(third.added) == {"3": "mail-3"} and third.owners == ("3",) * 10 + ("2",) * 90


def test_a_run_that_died_while_the_rest_changed_hands_is_gone_on_with() -> None:
    change = planned(route(*["2"] * SLOTS, rest=None), {"1": 0, "2": 100}, "mail-{version}")
    assert change and change.rest == "2"


def test_a_version_that_is_removed_already_is_no_change() -> None:
    assert not planned(route(*["2"] * SLOTS, rest="2", queues=("2",)), {"2": 100, "1": 0}, "mail-{version}", ("1",))


def test_removing_the_version_that_has_the_rest_gives_the_rest_to_another_first() -> None:
    change = planned(route(*["2"] * SLOTS), {"2": 100}, "mail-{version}", ("1",))
    assert (change.rest, change.removed, change.after(), change.moved()) == ("2", ("1",), {"2": 100}, 0)


@pytest.mark.parametrize("weights", [{"1": 99}, {"1": 101, "2": -1}, {}])
def test_what_is_no_division_is_refused(weights: dict[str, int]) -> None:
    with pytest.raises(Refused):
        checked(weights)


@pytest.mark.parametrize("weight", ["ten", 9.5, None])
def test_a_weight_that_is_no_whole_number_is_refused(weight: object) -> None:
    with pytest.raises(Refused, match="The weight of version 1 is"):
        whole({"1": weight})


def test_a_version_is_drained_only_when_nothing_is_left_and_that_is_known() -> None:
    looked = [QueueState("mail-1", queued=0, executing=0), QueueState("mail-2", queued=0, executing=0)]
    half = route(*["2"] * 10, *["1"] * 90)
    assert [version.state for version in states(half, looked)] == ["active", "active"]
    all_on_one = route(*["1"] * SLOTS)
    for seen, state in (
        (QueueState("mail-2", queued=0, executing=0), "drained"),
        (QueueState("mail-2", queued=0, executing=1), "draining"),
        (QueueState("mail-2", queued=1, executing=0), "draining"),
        (QueueState("mail-2", queued=0, executing=0, scheduled=1), "draining"),
        (QueueState("mail-2", queued=0, executing=None), "draining"),
        (QueueState("mail-2", exists=False), "drained"),
    ):
        assert states(all_on_one, [looked[0], seen])[1].state == state
    with pytest.raises(
        Refused, match=r"Version 2 is draining: it gets 0 % of the tasks, and its queue mail-2 has an unknown number of executing"
    ):
        require_drained([states(all_on_one, [looked[0], QueueState("mail-2", queued=0)])[1]], planned(all_on_one, {"1": 100}, "", ("2",)))
