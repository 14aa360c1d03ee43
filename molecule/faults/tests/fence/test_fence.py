# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that a rollback could not reach consumes nothing with the version that the others went back from."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from conftest import standing
from lab import WORKERS, Lab, When, container, cut_off, docker, mend, on, wait_until

NEXT = "3.0.0"
#: Short of this the specification would refuse it: the operation may take as long.
CONFIRM = {"confirm_timeout": 90, "gate_timeout": 10}


def close_to_the_controller(host: str) -> None:
    """Nobody gets in any more; the broker is reached as before."""
    on(host, "systemctl stop ssh.service; pkill -KILL sshd; true")


def deadline(lab: Lab, host: str) -> float:
    """When the host takes itself back, by its own record; unix time."""
    return float(on(host, f"grep -o '\"deadline\": [0-9.]*' /var/lib/queueops/{lab.app.name}/timer.json").split()[-1])


def works_with(lab: Lab, host: str, version: str) -> None:
    """Wait until the host has completed a task with that version after this."""
    moment = time.time()
    wait_until(lambda: lab.times(host, version)[-1:] > [moment], f"a task of version {version} on {host}")


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


def test_an_unconfirmed_version_consumes_nothing_once_the_rollback_is_over(mailer: Lab) -> None:
    """Cut off from the controller alone; the broker is reached, until it lets nobody of that version in any more."""
    ends = rolled_back_without(mailer, "worker2", close_to_the_controller)
    rolled_back = time.time()
    wait_until(lambda: (mailer.truth("worker2") or {}).get("running") == ["1.0.0"], "the way back of worker2", ends - time.time() + 30)
    assert [at for at in mailer.times("worker2", NEXT) if at > rolled_back] == []
    # It took itself back, and takes part again before any run reaches it.
    works_with(mailer, "worker2", "1.0.0")
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
    works_with(mailer, "worker2", "1.0.0")
    assert [at for at in mailer.times("worker2", NEXT) if at > returned] == []
    mailer.must("resume", takeover="true")
    assert mailer.on_version("1.0.0")
    mailer.check_tasks()


@pytest.mark.parametrize("app", ["mailer", "parcel"])
@pytest.mark.parametrize("reboots", [False, True], ids=["stays_up", "reboots"])
def test_a_confirmed_version_consumes_nothing_when_its_host_is_back(app: str, reboots: bool) -> None:
    """Known good everywhere, then rolled back from. Nothing on the host knows of it: the broker lets nobody of that version in."""
    lab = standing(app)
    lab.must("deploy", version=NEXT, min_tasks=0)
    lab = Lab(app)
    lab.publish()
    works_with(lab, "worker2", NEXT)
    cut_off("worker2")
    done = lab.run("rollback")
    assert done.code != 0
    row = done.told()["worker2"]
    assert row["found"] is None and not row["ok"], row
    assert f"Version {NEXT} is shut out at the broker" in done.output
    if reboots:
        docker("restart", "--time=5", container("worker2"))
    returned = time.time()
    mend()
    # Its workers came up, or back, and tried; the others went on meanwhile.
    refused = f"user={app}-{NEXT}|invalid username-password|WRONGPASS|AuthenticationError"
    wait_until(lambda: on("worker2", f"journalctl -u '{app}@*' --since @{int(returned)} | grep -Ec '{refused}'; true") > "0", "a refusal")
    others = [at for host in ("worker1", "worker3") for at in lab.times(host, "1.0.0")]
    assert max(others) > returned
    assert (lab.truth("worker2") or {})["version"] == NEXT
    assert [at for at in lab.times("worker2", NEXT) if at > returned] == []
    # A Celery worker that cannot log in tries again after up to 32 s, and ends no sooner.
    lab.must("resume", takeover="true", drain_timeout=45)
    assert lab.on_version("1.0.0")
    works_with(lab, "worker2", "1.0.0")
    lab.check_tasks(cut_off=True)
    assert [at for at in lab.times("worker2", NEXT) if at > returned] == []


def test_a_version_that_was_shut_out_is_let_in_when_it_is_deployed_again(mailer: Lab) -> None:
    mailer.must("deploy", version=NEXT, min_tasks=0)
    cut_off("worker2")
    assert mailer.run("rollback").code != 0
    mend()
    mailer.must("resume", takeover="true")
    users = on("broker", "redis-cli ACL USERS")
    assert f"mailer-{NEXT}" not in users.split()
    lab = Lab("mailer")
    lab.publish()
    lab.must("deploy", version=NEXT, min_tasks=0)
    for host in WORKERS:
        works_with(lab, host, NEXT)
    lab.check_tasks()
