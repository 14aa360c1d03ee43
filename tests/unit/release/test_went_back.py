# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A version that the host went back from, or that nobody confirmed in time, does not start again, unless it is switched to on purpose."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, PutBack, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._release.orders import Order
from ansible_collections.queueops.fleet.plugins.module_utils._worker import guard

from tests.unit.release.conftest import Host


def unconfirmed(host: Host, number: int, version: str, seconds: float = 60) -> None:
    host.transaction().prepare(host.wanted(number, version, f"of release {number}"), Order())
    host.transaction(drain_timeout=0.5, start_timeout=0.5).activate(number, Order(f"op-{number}"), seconds)


def deploy(host: Host, number: int, version: str) -> None:
    unconfirmed(host, number, version)
    host.transaction().confirm(number, Order(f"op-{number}"))


def entry(host: Host, version: str) -> guard.Entry | None:
    return guard.entry(str(host.root), version)


def starts(host: Host) -> int:
    """How many worker processes its supervisor has started so far."""
    return (host.folder / "supervisord.log").read_text().count("spawned:")


def may_start(host: Host) -> bool:
    """What a service manager is told that starts what `current` names, as after a reboot."""
    done = subprocess.run([guard.check_path(str(host.root))], env={"PATH": os.defpath}, capture_output=True, check=False)
    return done.returncode == 0


def test_unconfirmed_it_starts_until_the_deadline_and_confirmed_for_good(host: Host) -> None:
    deploy(host, 1, "1.0.0")
    unconfirmed(host, 2, "2.0.0")
    waits = entry(host, "2.0.0")
    assert waits is not None
    assert (waits.why, waits.by, waits.holds) == ("not confirmed in time", "op-2", False)
    assert abs(waits.since - float(host.transaction().status()["confirm_until"])) <= 1
    assert may_start(host)
    # As on a host that was down when the time was up: its clock is past the deadline, and nothing has acted on it yet.
    guard.add(str(host.root), guard.Entry(waits.version, waits.why, time.time() - 1, waits.by, went_back=True))
    assert not may_start(host)
    host.transaction().confirm(2, Order("op-2"))
    assert entry(host, "2.0.0") is None
    assert may_start(host)


def test_an_operation_that_is_taken_over_gets_its_whole_time_to_confirm(host: Host) -> None:
    deploy(host, 1, "1.0.0")
    host.transaction().prepare(host.wanted(2, "2.0.0", "b"), Order())
    host.transaction().activate(2, Order("op-2", 2), 60)
    before = float(host.transaction().status()["confirm_until"])
    assert float(host.transaction().activate(2, Order("op-2", 2), 600).confirm_until or 0) == before
    assert float(host.transaction().activate(2, Order("op-2", 3), 600).confirm_until or 0) > before + 300
    waits = entry(host, "2.0.0")
    assert waits is not None and abs(waits.since - float(host.transaction().status()["confirm_until"])) <= 1


def test_gone_back_from_it_starts_only_when_it_is_switched_to_again(host: Host) -> None:
    deploy(host, 1, "1.0.0")
    deploy(host, 2, "2.0.0")
    host.transaction().revert(1, Order("op-3"))
    barred = entry(host, "2.0.0")
    assert barred is not None
    assert (barred.holds, barred.why, barred.by) == (True, "the host went back from release 2", "op-3")
    assert entry(host, "1.0.0") is None
    with pytest.raises(Refused, match="went back from release 2"):
        guard.refuse_quarantined(str(host.root), "2.0.0")
    host.transaction().activate(2, Order("op-4"), 60)
    host.transaction().confirm(2, Order("op-4"))
    assert entry(host, "2.0.0") is None
    host.transaction().revert(1, Order("op-5"))
    host.transaction().revert(2, Order("op-6"))
    assert (entry(host, "2.0.0"), entry(host, "1.0.0")) == (None, None)


def test_a_version_that_did_not_start_is_barred_and_the_one_before_is_not(host: Host) -> None:
    deploy(host, 1, "1.0.0")
    host.transaction().prepare(host.wanted(2, "2.0.0", "b", broken=True), Order())
    with pytest.raises(PutBack):
        host.transaction(health={"hold": 5.0, "command": []}).activate(2, Order("op-2"), 60)
    barred = entry(host, "2.0.0")
    assert barred is not None
    assert (barred.holds, barred.why) == (True, "release 2 could not be switched to")
    assert entry(host, "1.0.0") is None


def test_a_release_of_the_same_version_bars_nothing(host: Host) -> None:
    deploy(host, 1, "1.0.0")
    deploy(host, 2, "1.0.0")
    host.transaction().revert(1, Order("op-3"))
    assert entry(host, "1.0.0") is None


def test_an_unconfirmed_release_that_a_failed_switch_came_back_to_still_has_its_deadline(host: Host) -> None:
    deploy(host, 1, "1.0.0")
    unconfirmed(host, 2, "2.0.0")
    host.transaction().prepare(host.wanted(3, "3.0.0", "c", broken=True), Order())
    with pytest.raises(PutBack):
        host.transaction(health={"hold": 5.0, "command": []}).activate(3, Order("op-2"), 600)
    waits = entry(host, "2.0.0")
    assert waits is not None
    assert not waits.holds
    assert abs(waits.since - float(host.transaction().status()["confirm_until"])) <= 1


def test_what_a_person_quarantined_only_a_person_lets_start(host: Host) -> None:
    deploy(host, 1, "1.0.0")
    deploy(host, 2, "2.0.0")
    host.transaction().revert(1, Order("op-3"))
    guard.add(str(host.root), guard.Entry("2.0.0", "sends each mail twice", time.time()))
    before = host.everything()
    attempts: list[Callable[[], object]] = [
        lambda: host.transaction().revert(2, Order("op-4")),
        lambda: host.transaction().activate(2, Order("op-4"), 60),
        lambda: host.transaction().examine(2, Order()),
        lambda: host.transaction().foresee(host.wanted(3, "2.0.0", "b"), Order()),
        lambda: host.transaction().prepare(host.wanted(3, "2.0.0", "b"), Order()),
    ]
    for refused in attempts:
        with pytest.raises(Refused, match="sends each mail twice"):
            refused()
    assert host.everything() == before


def test_past_its_deadline_it_is_not_started_again_by_a_way_back_that_takes_two_tries(host: Host) -> None:
    deploy(host, 1, "1.0.0")
    unconfirmed(host, 2, "2.0.0")
    armed = host.transaction().timer.armed()
    assert armed is not None
    (host.folder / "hold").touch()
    with pytest.raises(FleetError, match="still executing"):
        host.transaction(drain_timeout=0.5).take_back(armed["token"])
    (host.folder / "hold").unlink()
    begun = starts(host)
    assert host.transaction().take_back(armed["token"]) == "taken back"
    assert starts(host) == begun + 2, "each of the two workers was started once, with version 1.0.0"
    status = host.transaction().status()
    assert (status["release"], status["phase"], {worker["version"] for worker in status["workers"]}) == (1, "confirmed", {"1.0.0"})
    barred = entry(host, "2.0.0")
    assert barred is not None and barred.holds


def test_past_its_deadline_it_is_not_started_again_where_the_version_before_does_not_start(host: Host) -> None:
    deploy(host, 1, "1.0.0")
    unconfirmed(host, 2, "2.0.0")
    armed = host.transaction().timer.armed()
    assert armed is not None
    broken = host.root / "versions" / "1.0.0" / "broken"
    broken.touch()
    with pytest.raises(FleetError, match="start"):
        host.transaction(health={"hold": 5.0, "command": []}).take_back(armed["token"])
    assert "2.0.0" not in {worker["version"] for worker in host.transaction().status()["workers"]}
    assert os.readlink(host.root / "current").endswith("1.0.0")
    broken.unlink()
    assert host.transaction().take_back(armed["token"]) == "taken back"
    assert host.transaction().status()["release"] == 1
