# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Never green and mixed: each fault, in a deploy and in a rollback, of RQ workers and (a fixed part) of Celery workers.

The exit code is right, the table says what is true on the hosts, and once the fault is gone a resume brings the fleet to one release,
with each published task completed, waiting or failed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import standing
from lab import WORKERS, Lab, When, break_unit, cut_off, fill, freeze, kill, mend, on

GOOD, NEXT = "1.0.0", "3.0.0"


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    :ivar act: what happens to ``host``.
    :ivar at: when: ``before`` the run; in a ``switch`` of that host; when worker1 ``waits`` for its confirmation; else when an event of
        this kind is in the journal, for so many ``times``.
    :ivar sick: a host on which the version that the run goes to is not healthy, so that a deploy rolls back.
    """

    act: Callable[[str], None] | None
    host: str = "worker2"
    at: str = "before"
    times: int = 1
    sick: str | None = None


FAULTS = {
    "host_down_before": Fault(kill, "worker3"),
    "host_killed_in_the_switch": Fault(kill, at="switch"),
    "host_frozen_in_the_switch": Fault(freeze, at="switch"),
    "host_cut_off_in_the_switch": Fault(cut_off, at="switch"),
    "host_killed_in_the_way_back": Fault(kill, "worker1", at="rollback_ordered", sick="worker3"),
    "host_cut_off_in_the_way_back": Fault(cut_off, "worker1", at="rollback_ordered", sick="worker3"),
    "service_does_not_start": Fault(break_unit),
    "not_healthy": Fault(None, sick="worker2"),
    "home_down_before": Fault(kill, "home"),
    "home_down_at_once": Fault(kill, "home", at="operation_opened"),
    "home_down_in_the_waves": Fault(kill, "home", at="gate_verdict"),
    "home_down_at_the_end": Fault(kill, "home", at="host_switched", times=len(WORKERS)),
    "broker_stops_answering": Fault(freeze, "broker", at="waits"),
    "broker_stops_answering_at_once": Fault(freeze, "broker", at="operation_opened"),
    "no_space_before": Fault(fill),
    "no_space": Fault(fill, at="operation_opened"),
}

#: What is refused before anything changes, since it is known before.
REFUSED = {("host_down_before", "deploy"), ("home_down_before", "deploy"), ("home_down_before", "rollback"), ("no_space_before", "deploy")}

CELLS = [
    *((fault, "deploy", "mailer") for fault in FAULTS if fault != "broker_stops_answering_at_once"),
    ("host_down_before", "rollback", "mailer"),
    ("host_killed_in_the_switch", "rollback", "mailer"),
    ("host_frozen_in_the_switch", "rollback", "mailer"),
    ("host_cut_off_in_the_switch", "rollback", "mailer"),
    ("service_does_not_start", "rollback", "mailer"),
    ("not_healthy", "rollback", "mailer"),
    ("home_down_before", "rollback", "mailer"),
    ("home_down_at_once", "rollback", "mailer"),
    ("broker_stops_answering_at_once", "rollback", "mailer"),
    ("no_space_before", "rollback", "mailer"),
    ("host_killed_in_the_switch", "deploy", "parcel"),
    ("host_cut_off_in_the_switch", "deploy", "parcel"),
    ("host_killed_in_the_way_back", "deploy", "parcel"),
    ("service_does_not_start", "deploy", "parcel"),
    ("host_killed_in_the_switch", "rollback", "parcel"),
    ("home_down_at_once", "rollback", "parcel"),
    ("not_healthy", "rollback", "parcel"),
]


def arm(lab: Lab, fault: Fault, target: str) -> When | None:
    """Let the fault happen now, or as soon as it is its time."""
    if fault.sick:
        on(fault.sick, f"echo {target} >/var/lib/sick-{lab.app.name}")
    if fault.act is None:
        return None
    act, host = fault.act, fault.host
    if fault.at == "before":
        act(host)
        return None
    if fault.at == "switch":
        return When(host, lab.switching(), lambda: act(host))
    if fault.at == "waits":
        return When("worker1", lab.active(), lambda: act(host))
    return When("home", lab.written(fault.at, fault.times), lambda: act(host))


def check_table(table: dict[str, dict[str, Any]], true: dict[str, dict[str, Any] | None]) -> None:
    """What the table says it found is on the host; a host of which it says nothing is named as not known."""
    assert set(table) == set(WORKERS)
    for host, row in table.items():
        seen = true[host]
        if seen is None:
            # Its last words may have been that something failed.
            assert not row["ok"] and row["reason"], row
            continue
        if row["found"] is None:
            # A host that answers says where it stands, also when it fails.
            assert not row["ok"] and row["reason"].startswith(("unreachable", "did not answer")), row
            continue
        assert row["found"] == seen["release"], (row, seen)
        assert row["ok"] or row["reason"], row
        if row["ok"]:
            assert (seen["phase"], seen["intent"], seen["current"]) == ("confirmed", None, seen["version"]), (row, seen)
            assert seen["running"] == [seen["version"]], (row, seen)


@pytest.mark.parametrize(("name", "playbook", "app"), CELLS, ids=["-".join(cell) for cell in CELLS])
def test_never_green_and_mixed(name: str, playbook: str, app: str) -> None:
    fault = FAULTS[name]
    lab = standing(app)
    if playbook == "rollback":
        lab.must("deploy", version=NEXT, min_tasks=0)
        lab = Lab(app)
    before = {host: lab.truth(host) for host in WORKERS}
    lab.publish()
    happens = arm(lab, fault, NEXT if playbook == "deploy" else GOOD)
    done = lab.run(playbook, **({"version": NEXT} if playbook == "deploy" else {}))
    if happens is not None:
        happens.end()
        assert happens.happened, "the run ended before the fault"
    true = {host: lab.truth(host) for host in WORKERS}

    refused = (name, playbook) in REFUSED
    all_known = None not in true.values()
    assert done.code != 0 or (all_known and lab.is_one_release()), "green, and the fleet is mixed"
    if refused:
        assert done.code != 0
        assert {host: seen for host, seen in true.items() if seen} == {host: before[host] for host, seen in true.items() if seen}
    elif name == "home_down_at_once" and "-> home]: UNREACHABLE" in done.output and not done.told():
        # It was killed between the event and the answer, so that the run ended there and did nothing else.
        assert done.code != 0 and true == before
    elif done.code:
        check_table(done.told(), true)

    mend()
    # A Celery worker that stops waits for the broker, and TCP asks again at intervals that double: as long again as the host was away.
    lab.must("resume", takeover="true", **({"drain_timeout": 90} if fault.act is cut_off else {}))
    assert lab.is_one_release(), {host: lab.truth(host) for host in WORKERS}
    if playbook == "rollback" and not refused:
        assert lab.on_version(GOOD)
    lab.check_tasks(cut_off=fault.act is cut_off)
