# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that a rollback could not reach: what it consumes with the version that the others went back from."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from conftest import standing
from lab import Lab, When, container, cut_off, docker, mend, on, wait_until

NEXT = "3.0.0"
#: Short of this the specification would refuse it: the operation may take as long.
CONFIRM = {"confirm_timeout": 90, "gate_timeout": 10}


def close_to_the_controller(host: str) -> None:
    """Nobody gets in any more; the broker is reached as before."""
    on(host, "systemctl stop ssh.service; pkill -KILL sshd; true")


def deadline(lab: Lab, host: str) -> float:
    """When the host takes itself back, by its own record; unix time."""
    return float(on(host, f"grep -o '\"deadline\": [0-9.]*' /var/lib/queueops/{lab.app.name}/timer.json").split()[-1])


def rolled_back_without(lab: Lab, host: str, act: Callable[[str], None]) -> float:
    """A deploy that is rolled back, while a host that was switched is out of reach. Returns when that host takes itself back."""
    lab.publish()
    on("worker3", f"echo {NEXT} >/var/lib/sick-{lab.app.name}")
    ends: list[float] = []

    def out_of_reach() -> None:
        ends.append(deadline(lab, host))
        act(host)

    happens = When("home", lab.written("rollback_ordered"), out_of_reach)
    done = lab.run("deploy", version=NEXT, min_tasks=0, **CONFIRM)
    happens.end()
    assert happens.happened and done.code != 0
    row = done.told()[host]
    assert row["found"] is None and not row["ok"], row
    return ends[0]


def test_an_unconfirmed_version_consumes_until_the_deadline_and_not_after_it(mailer: Lab) -> None:
    """Cut off from the controller alone."""
    ends = rolled_back_without(mailer, "worker2", close_to_the_controller)
    rolled_back = time.time()
    wait_until(lambda: (mailer.truth("worker2") or {}).get("running") == ["1.0.0"], "the way back of worker2", ends - time.time() + 30)
    took = time.time() - ends
    bad = mailer.times("worker2", NEXT)
    since = sum(at > rolled_back for at in bad)
    print(f"=== worker2 was back {took:.1f} s after its deadline; completed with {NEXT} since the rollback: {since}")
    # A task that was begun before the deadline is finished.
    assert max(bad, default=0.0) < ends + 10
    on("worker2", "systemctl start ssh.service")
    mend()
    mailer.must("resume", takeover="true")
    assert mailer.on_version("1.0.0")
    mailer.check_tasks()


@pytest.mark.parametrize("reboots", [False, True], ids=["stays_up", "reboots"])
def test_an_unconfirmed_version_consumes_nothing_when_its_host_is_back_past_the_deadline(mailer: Lab, reboots: bool) -> None:
    """Cut off from the controller and the broker; back only when its time is up."""
    ends = rolled_back_without(mailer, "worker2", cut_off)
    wait_until(lambda: time.time() > ends, "the deadline")
    if reboots:
        docker("restart", "--time=5", container("worker2"))
    returned = time.time()
    mend()
    wait_until(lambda: mailer.times("worker2", "1.0.0")[-1:] > [returned], "a task of version 1.0.0 on worker2")
    assert [at for at in mailer.times("worker2", NEXT) if at > returned] == []
    mailer.must("resume", takeover="true")
    assert mailer.on_version("1.0.0")
    mailer.check_tasks()


@pytest.mark.parametrize("reboots", [False, True], ids=["stays_up", "reboots"])
def test_a_confirmed_version_consumes_until_the_next_run_reaches_its_host(reboots: bool) -> None:
    """Known good everywhere, then rolled back from. Nothing on the host knows: the run names it, and the next one takes it back."""
    lab = standing("mailer")
    lab.must("deploy", version=NEXT, min_tasks=0)
    lab = Lab("mailer")
    lab.publish()
    cut_off("worker2")
    done = lab.run("rollback")
    assert done.code != 0
    row = done.told()["worker2"]
    assert row["found"] is None and not row["ok"], row
    if reboots:
        docker("restart", "--time=5", container("worker2"))
    returned = time.time()
    mend()
    end = time.time() + 20
    wait_until(lambda: time.time() > end, "the end of the measurement")
    bad = [at for at in lab.times("worker2", NEXT) if at > returned]
    first = min(bad, default=returned) - returned
    print(f"=== worker2 completed {len(bad)} tasks with {NEXT} in 20 s after its return, the first {first:.1f} s after it")
    lab.must("resume", takeover="true")
    assert lab.on_version("1.0.0")
    resumed = time.time()
    lab.check_tasks()
    assert [at for at in lab.times("worker2", NEXT) if at > resumed] == []
