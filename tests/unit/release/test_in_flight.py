# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""On the way back: workers not done in time are told of, killed when the run says so, and remembered for a run that goes on."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict, HalfDone, OutOfTime
from ansible_collections.queueops.fleet.plugins.module_utils._release.in_flight import InFlight
from ansible_collections.queueops.fleet.plugins.module_utils._release.orders import Order

from tests.unit.conftest import wait_for
from tests.unit.release.conftest import Host
from tests.unit.release.test_went_back import deploy, starts

BACK = Order("op-back", 7)


def in_flight(host: Host, **worker: Any) -> InFlight:
    return InFlight(host.transaction(drain_timeout=0.5, **worker)._settings)


@pytest.fixture
def busy(host: Host) -> Host:
    """On release 2, with workers that do not end."""
    deploy(host, 1, "1.0.0")
    deploy(host, 2, "2.0.0")
    (host.folder / "hold").touch()
    return host


def test_what_is_not_done_in_time_is_told_and_goes_on(busy: Host) -> None:
    before = starts(busy)
    found = in_flight(busy).drain(1, BACK)
    assert (found.changed, found.pending, found.killed) == (True, True, [])
    assert [(one["name"], one["hostname"], one["state"]) for one in found.in_hand] == [
        (f"mailer:mailer_{number}", socket.gethostname(), "stopping") for number in (0, 1)
    ]
    assert all(one["pids"] == [one["pid"]] and os.path.exists(f"/proc/{one['pid']}") for one in found.in_hand)
    # A controller that was taken over is refused from here on.
    with pytest.raises(Conflict):
        in_flight(busy).kill(1, Order("op-2", 2))
    with pytest.raises(OutOfTime) as spared:
        in_flight(busy).spare(1, BACK, "its workers have to finish task 7 (mailer.charge), by rule charges")
    told = spared.value.sentence()
    assert told.startswith("host1 cannot go to release 1 yet") and "task 7 (mailer.charge), by rule charges" in told, told
    assert "Release 2 is live there" in told and len(spared.value.details["executing"]) == 2
    assert (busy.transaction().status()["release"], starts(busy)) == (2, before)
    (busy.folder / "hold").unlink()
    wait_for(lambda: not any(one["pid"] for one in busy.transaction().status()["workers"]), what="the end of the workers")
    assert in_flight(busy).drain(1, BACK).in_hand == []
    # What has ended by itself does not stand in the way.
    assert in_flight(busy).spare(1, BACK, "something").changed
    assert busy.transaction().status()["release"] == 1


def test_killed_workers_are_remembered_for_the_operation_that_goes_on(busy: Host) -> None:
    told = in_flight(busy).drain(1, BACK).in_hand
    done = in_flight(busy).kill(1, BACK)
    assert done.changed and done.killed == [{name: one[name] for name in ("name", "hostname", "pids")} for one in told]
    assert not any(os.path.exists(f"/proc/{one['pid']}") for one in told)
    again = in_flight(busy).drain(1, Order("op-back", 8))
    assert (again.changed, again.in_hand, again.killed) == (False, [], done.killed)
    assert not in_flight(busy).kill(1, Order("op-back", 8)).changed
    # They are of no interest to another one.
    assert in_flight(busy).drain(1, Order("op-other", 9)).killed == []
    (busy.folder / "hold").unlink()
    assert in_flight(busy).revert(1, Order("op-other", 9)).changed
    assert in_flight(busy).drain(1, Order("op-back", 9)).killed == []


def test_one_that_was_written_down_and_lives_was_not_killed(busy: Host) -> None:
    """As when the run died between the two."""
    told = in_flight(busy).drain(1, BACK).in_hand
    transaction = in_flight(busy)
    transaction.record.save_killed("op-back", [{name: one[name] for name in ("name", "hostname", "pids")} for one in told[:1]])
    again = transaction.drain(1, BACK)
    assert (len(again.in_hand), again.killed) == (2, [])


def test_a_host_that_is_on_the_release_is_left_alone(host: Host) -> None:
    deploy(host, 1, "1.0.0")
    pids = [one["pid"] for one in host.transaction().status()["workers"]]
    (host.folder / "hold").touch()
    for found in (in_flight(host).drain(1, BACK), in_flight(host).kill(1, BACK)):
        assert (found.changed, found.pending, found.in_hand) == (False, False, [])
    assert [one["pid"] for one in host.transaction().status()["workers"]] == pids


def test_a_switch_that_could_not_go_back_alone_is_drained_too(busy: Host) -> None:
    """Its way back comes before anything else, and its drain is out of time as well."""
    busy.transaction().prepare(busy.wanted(3, "3.0.0", "of release 3"), Order())
    with pytest.raises(HalfDone):
        busy.transaction(drain_timeout=0.5).activate(3, Order("op-3", 8), 60)
    found = in_flight(busy).drain(1, Order("op-3", 9))
    assert len(found.in_hand) == 2
    assert in_flight(busy).kill(1, Order("op-3", 9)).changed
    (busy.folder / "hold").unlink()
    in_flight(busy).revert(1, Order("op-3", 9))
    assert (busy.transaction().status()["release"], busy.transaction().status()["version"]) == (1, "1.0.0")
