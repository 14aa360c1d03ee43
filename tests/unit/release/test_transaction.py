# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The transaction on one host, over real processes and real git."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict, FleetError, HalfDone, NotFound, PutBack, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._release.orders import Order

from tests.unit.conftest import wait_for
from tests.unit.release.conftest import Host

FIRST = Order("op-0001-deploy", 1)
SECOND = Order("op-0002-deploy", 2)


def deploy(host: Host, number: int, version: str, setting: str, order: Order) -> None:
    transaction = host.transaction()
    transaction.prepare(host.wanted(number, version, setting), Order())
    transaction.activate(number, order, 60)
    transaction.confirm(number, order)


def running(host: Host) -> list[str | None]:
    return [worker["version"] for worker in host.transaction().status()["workers"]]


def test_prepare_changes_nothing_live_and_is_idempotent(host: Host) -> None:
    before = host.tree()
    assert host.transaction().prepare(host.wanted(1, "1.0.0", "a"), Order()).changed
    assert host.tree() == before
    again = host.transaction().prepare(host.wanted(1, "1.0.0", "a"), Order())
    assert (again.changed, again.pending) == (False, True)


def test_foreseeing_writes_nothing_and_shows_the_diff_that_is_then_applied(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    wanted = host.wanted(2, "2.0.0", "b")
    before = host.everything()
    plan = host.transaction().foresee(wanted, Order())
    assert host.everything() == before
    host.transaction().prepare(wanted, Order())
    done = host.transaction().activate(2, SECOND, 60)
    assert [entry.as_ansible() for entry in plan.diffs] == [entry.as_ansible() for entry in done.diffs]
    assert "setting=b" in str([entry.as_ansible() for entry in done.diffs])


def test_code_and_config_go_out_and_come_back_together(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    first = host.tree()
    assert running(host) == ["1.0.0", "1.0.0"]
    deploy(host, 2, "2.0.0", "b", SECOND)
    assert running(host) == ["2.0.0", "2.0.0"]
    assert b"setting=b\n" in [entry[1] for entry in host.tree().values()]
    back = host.transaction().revert(1, Order("op-0003-rollback", 3))
    assert back.changed
    assert host.tree() == first
    assert running(host) == ["1.0.0", "1.0.0"]


def test_a_second_run_changes_nothing(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    pids = [worker["pid"] for worker in host.transaction().status()["workers"]]
    assert not host.transaction().activate(1, FIRST, 60).changed
    assert not host.transaction().confirm(1, FIRST).changed
    assert not host.transaction().revert(1, FIRST).changed
    assert [worker["pid"] for worker in host.transaction().status()["workers"]] == pids


def test_rollback_twice_forward_and_back_by_number(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    deploy(host, 2, "2.0.0", "b", SECOND)
    assert host.transaction().revert(1, Order("op-3", 3)).changed
    assert not host.transaction().revert(1, Order("op-4", 4)).changed
    deploy(host, 3, "3.0.0", "c", Order("op-5", 5))
    assert running(host) == ["3.0.0", "3.0.0"]
    assert host.transaction().revert(1, Order("op-6", 6)).changed
    assert running(host) == ["1.0.0", "1.0.0"]
    assert (host.root / "versions" / "2.0.0").is_dir(), "the bad version stays for study"


def test_a_hand_edited_file_is_seen_and_put_right(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    (host.config / "worker.conf").write_text("setting=edited\n")
    assert host.transaction().examine(1, Order()).pending
    assert host.transaction().revert(1, Order("op-2", 2)).changed
    assert (host.config / "worker.conf").read_text() == "setting=a\n"


def test_the_same_number_with_another_config_is_told_apart(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    assert host.transaction().foresee(host.wanted(1, "1.0.0", "b"), Order()).differs
    assert host.transaction().prepare(host.wanted(1, "1.0.0", "b"), Order()).differs


def test_a_version_that_does_not_start_is_put_back_by_the_host(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    before = host.tree()
    host.transaction().prepare(host.wanted(2, "2.0.0", "b", broken=True), Order())
    with pytest.raises(PutBack) as caught:
        host.transaction(start_timeout=5.0, health={"hold": 5.0, "command": []}).activate(2, SECOND, 60)
    assert "host1 is back on release 1 (version 1.0.0), code and config." in caught.value.sentence()
    assert host.tree() == before
    assert running(host) == ["1.0.0", "1.0.0"]
    assert host.transaction().status()["confirm_until"] is None


def test_a_drain_that_runs_out_of_time_says_what_is_executing_and_changes_no_file(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    before = host.tree()
    host.transaction().prepare(host.wanted(2, "2.0.0", "b"), Order())
    (host.folder / "hold").touch()
    with pytest.raises(HalfDone) as caught:
        host.transaction(drain_timeout=0.5).activate(2, SECOND, 60)
    assert len(caught.value.details["executing"]) == 2
    assert host.tree() == before
    (host.folder / "hold").unlink()
    assert host.transaction().revert(1, Order("op-3", 3)) is not None
    assert running(host) == ["1.0.0", "1.0.0"]


def test_a_host_with_nothing_to_do_refuses_the_controller_that_was_taken_over(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", Order("op-0001-deploy", 1))
    host.transaction().activate(1, Order("op-0003-deploy", 3), 60)
    with pytest.raises(Conflict, match="epoch 2, but operation op-0003-deploy with epoch 3"):
        host.transaction().revert(1, Order("op-0002-rollback", 2))
    host.transaction().revert(1, Order("op-0004-rollback", 4))
    before = host.everything()
    host.transaction().revert(1, Order("op-0004-rollback", 4))
    assert host.everything() == before
    with pytest.raises(Conflict, match="epoch 3, but operation op-0004-rollback with epoch 4"):
        host.transaction().confirm(1, Order("op-0003-deploy", 3))


def test_an_older_epoch_is_refused(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", SECOND)
    with pytest.raises(Conflict, match="epoch 1, but operation op-0002-deploy with epoch 2"):
        host.transaction().revert(0, FIRST)


def test_confirming_what_is_not_live_is_refused(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    host.transaction().prepare(host.wanted(2, "2.0.0", "b"), Order())
    with pytest.raises(Conflict, match="Release 2 is not live on host1: release 1 is"):
        host.transaction().confirm(2, SECOND)


def test_a_release_that_is_not_here_is_refused_with_those_that_are(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    before = host.everything()
    with pytest.raises(NotFound, match="known here: 0, 1"):
        host.transaction().revert(7, SECOND)
    assert host.everything() == before


def test_a_version_whose_folder_is_gone_is_refused_before_anything_stops(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    deploy(host, 2, "2.0.0", "b", SECOND)
    subprocess.run(["rm", "-rf", str(host.root / "versions" / "1.0.0")], check=True)
    with pytest.raises(FleetError, match=r"1\.0\.0"):
        host.transaction().revert(1, Order("op-3", 3))
    assert running(host) == ["2.0.0", "2.0.0"]


def test_a_confirm_timer_that_the_switch_could_outlast_is_refused(host: Host) -> None:
    host.transaction().prepare(host.wanted(1, "1.0.0", "a"), Order())
    with pytest.raises(Refused, match="confirm timer would take it back after 5 s"):
        host.transaction().activate(1, FIRST, 5)


def test_unless_confirmed_the_host_takes_itself_back(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    before = host.tree()
    host.transaction().prepare(host.wanted(2, "2.0.0", "b"), Order())
    switched = host.transaction(drain_timeout=0.5, start_timeout=0.5).activate(2, SECOND, 2)
    assert switched.confirm_until is not None
    assert host.transaction().status()["phase"] == "active"
    wait_for(lambda: host.transaction().status()["release"] == 1, 15, "the take-back")
    assert time.time() >= switched.confirm_until
    assert host.tree() == before
    wait_for(lambda: running(host) == ["1.0.0", "1.0.0"], 15, "release 1 running again")
    with pytest.raises(Conflict, match="release 1 is"):
        host.transaction().confirm(2, SECOND)


def test_confirmed_in_time_nothing_is_taken_back(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    host.transaction().prepare(host.wanted(2, "2.0.0", "b"), Order())
    host.transaction(drain_timeout=0.5, start_timeout=0.5).activate(2, SECOND, 2)
    host.transaction().confirm(2, SECOND)
    wait_for(lambda: not _watchdogs(host), 15, "the end of the watchdog")
    assert host.transaction().status()["release"] == 2


def test_a_second_operation_is_refused_while_a_timer_is_armed(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    host.transaction().prepare(host.wanted(2, "2.0.0", "b"), Order())
    host.transaction().activate(2, SECOND, 60)
    host.transaction().prepare(host.wanted(3, "3.0.0", "c"), Order())
    with pytest.raises(Conflict, match="A confirm timer of operation op-0002-deploy"):
        host.transaction().activate(3, Order("op-3", 3), 60)
    host.transaction().revert(1, Order("op-4", 4))
    wait_for(lambda: not _watchdogs(host), 15, "the end of the watchdog")


KILLED = """\
import os, signal, sys
sys.path.insert(0, {build!r})
from tests.unit.release.conftest import Host
from pathlib import Path
import ansible_collections.queueops.fleet.plugins.module_utils._release.transaction as room
import ansible_collections.queueops.fleet.plugins.module_utils._worker.versions as versions
host = object.__new__(Host)
folder = Path({folder!r})
host.folder, host.root, host.config = folder, folder / "opt", folder / "etc"
host.state_dir, host.socket, host.artifacts = folder / "state", folder / "s.sock", folder / "artifacts"
step, name = {step!r}, {name!r}
owner = getattr(room, step, None) or getattr(versions, step)
original = getattr(owner, name)
def dying(*args, **kwargs):
    if {after!r}:
        original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, dying)
host.transaction().activate(2, room.Order("op-0002-deploy", 2), 60)
"""

#: Where the process is killed: the class and the method, before or after it ran.
STEPS = [
    ("ConfirmTimer", "arm"),
    ("HostRecord", "save_state"),
    ("ConfigHistory", "apply"),
    ("VersionStore", "activate"),
    ("HostTransaction", "_settle"),
]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("step", "name"), STEPS)
def test_killed_at_a_step_the_next_run_leaves_one_release_whole(host: Host, step: str, name: str, after: bool) -> None:
    deploy(host, 1, "1.0.0", "a", FIRST)
    old = host.tree()
    host.transaction().prepare(host.wanted(2, "2.0.0", "b"), Order())
    here = Path(__file__).resolve().parents[3]
    code = KILLED.format(build=str(here), folder=str(host.folder), step=step, name=name, after=after)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    died = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    host.transaction().revert(1, Order("op-0003-rollback", 3))
    assert host.tree() == old
    assert running(host) == ["1.0.0", "1.0.0"]
    assert host.transaction().status()["phase"] == "confirmed"
    wait_for(lambda: not _watchdogs(host), 15, "the end of the watchdog")


def _watchdogs(host: Host) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if "take_back.py" in command and str(host.folder) in command:
                found.append(entry.name)
    return found
