# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The laboratory: it comes up whole, and whatever happens nothing of it is left."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._drill import lab as room
from ansible_collections.queueops.fleet.plugins.module_utils._drill import processes
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict, FleetError, MissingLibrary, NotFound, Refused

from tests.unit.conftest import wait_for

from .conftest import RunningLab


def ended_within(drill_dir: str, limit: float) -> None:
    wait_for(lambda: not processes.marked(drill_dir), limit, "the end of every process of the lab")


def test_a_lab_comes_up_whole_and_goes_down_whole(bring_up: Callable[..., RunningLab]) -> None:
    lab = bring_up()
    assert lab.redis.ping()
    for host in ("worker1", "worker2"):
        found = lab.supervisor(host).getAllProcessInfo()
        assert [(one["group"], one["name"], one["statename"]) for one in found] == [("mailer", "mailer_0", "STOPPED")]
    wait_for(lambda: lab.redis.llen("rq:queue:mail") >= 3, what="published tasks")
    samples = wait_for(lambda: (lab.folder / "samples.jsonl").read_text().splitlines()[3:], what="samples")
    assert {"at", "t", "queued", "executing", "failed", "completed", "published"} <= set(json.loads(samples[0]))
    checksums = json.loads((lab.folder / "artifacts" / "checksums.json").read_text())
    for version, checksum in checksums.items():
        content = (lab.folder / "artifacts" / f"mailer-{version}.tar.gz").read_bytes()
        assert checksum == "sha256:" + hashlib.sha256(content).hexdigest()
    children = processes.descendants(lab.state["pid"])
    assert len(children) >= 4

    assert room.down(str(lab.folder))["changed"] is True
    # Redis overwrites its own environment, so that the mark alone would not find it.
    assert not [pid for pid in children if processes.started_at(pid)]
    assert not processes.marked(str(lab.folder))
    assert not os.path.lexists(lab.folder / "run") or os.listdir(lab.folder / "run") == []
    assert room.down(str(lab.folder)) == {"ended": 0, "changed": False}


def test_artifacts_are_the_same_bytes_each_time(bring_up: Callable[..., RunningLab]) -> None:
    first = bring_up().state["checksums"]
    assert bring_up().state["checksums"] == first


def test_an_owner_killed_with_sigkill_takes_everything_with_it(bring_up: Callable[..., RunningLab]) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        lab = bring_up(owner_pid=owner.pid)
        lab.activate("worker1", "1.0.0")
        wait_for((lab.folder / "ledger.tsv").exists, what="a task that ran")
        there = processes.descendants(lab.state["pid"]) | {lab.state["pid"]}
        owner.kill()
        owner.wait(5)
        wait_for(lambda: not [pid for pid in there if processes.started_at(pid)], 5.0, "the end of all that the lab had started")
        ended_within(str(lab.folder), 5.0)
        assert "is gone" in (lab.folder / "lab" / "lab.log").read_text()
    finally:
        owner.kill()
        owner.wait(5)


def test_what_a_killed_daemon_leaves_is_cleared_by_the_next_lab(bring_up: Callable[..., RunningLab]) -> None:
    lab = bring_up()
    lab.activate("worker1", "1.0.0")
    wait_for((lab.folder / "ledger.tsv").exists, what="a task that ran")
    before = processes.descendants(lab.state["pid"])
    os.kill(lab.state["pid"], signal.SIGKILL)
    again = bring_up()
    assert not [pid for pid in before if processes.started_at(pid)]
    assert again.state["pid"] != lab.state["pid"]
    assert not (again.folder / "ledger.tsv").exists()
    assert again.redis.ping()


def test_a_process_that_left_the_family_is_still_ended(bring_up: Callable[..., RunningLab]) -> None:
    """As a confirm timer would be: detached, but with the mark in its environment."""
    lab = bring_up()
    stray = subprocess.Popen(
        [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"],
        env={**os.environ, processes.MARK: str(lab.folder)},
        start_new_session=True,
    )
    wait_for(lambda: stray.pid in processes.marked(str(lab.folder)), what="the stray's mark")
    room.down(str(lab.folder))
    assert stray.wait(5) == -signal.SIGKILL


@pytest.mark.parametrize("name", ["long-" * 20, "with a space"])
def test_a_folder_that_no_socket_can_have_gets_short_socket_paths_and_they_go_too(
    bring_up: Callable[..., RunningLab], tmp_path: Path, name: str
) -> None:
    lab = bring_up(drill_dir=str(tmp_path / name / "drill"))
    run = Path(lab.state["run"])
    assert len(str(run / "worker1.sock")) < 100
    assert (lab.folder / "run").resolve() == run
    assert lab.redis.ping()
    room.down(str(lab.folder))
    assert not run.exists()


def test_another_drill_in_the_same_folder_is_refused(bring_up: Callable[..., RunningLab], settings: room.Lab) -> None:
    lab = bring_up(owner_pid=os.getpid())
    with pytest.raises(Conflict, match=f"process {os.getpid()}"):
        room.up(replace(settings, owner_pid=1))
    assert lab.redis.ping()


def test_a_folder_of_somebody_else_is_refused(settings: room.Lab) -> None:
    theirs = Path(settings.drill_dir) / "hosts" / "precious"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(Refused, match="not a drill"):
        room.up(settings)
    assert theirs.read_text() == "mine"
    assert os.listdir(settings.drill_dir) == ["hosts"]


def test_missing_things_are_refused_before_anything_is_made(settings: room.Lab, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    for change, kind in (
        ({"python": str(bare / "bin" / "python")}, MissingLibrary),
        ({"redis_server": "/nonexistent/redis-server"}, Refused),
        ({"versions": {"9.9.9": "9.9.9"}}, Refused),
    ):
        with pytest.raises(kind):
            room.up(replace(settings, **change))
        assert not Path(settings.drill_dir).exists()


def test_a_lab_that_does_not_start_says_why_and_leaves_nothing(settings: room.Lab) -> None:
    with pytest.raises(FleetError, match="redis") as caught:
        room.up(replace(settings, redis_server="/bin/false"))
    assert "Nothing of it is running" in caught.value.sentence()
    assert not processes.marked(settings.drill_dir)


def test_the_owner_is_the_ansible_program_and_no_shell_that_mentions_it(tmp_path: Path) -> None:
    program = tmp_path / "ansible-playbook"
    program.write_text("import os, sys, time\nif os.fork() == 0:\n    print(os.getpid(), flush=True)\ntime.sleep(60)\n")
    shell = subprocess.Popen(["/bin/sh", "-c", f"'{sys.executable}' '{program}'; true"], stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    try:
        worker = int(shell.stdout.readline())
        line = processes.lineage(worker)
        assert processes.ansible_owner(worker) == line[1]
        assert line[2] == shell.pid
        assert processes.ansible_owner(shell.pid) != shell.pid
    finally:
        processes.send(processes.descendants(shell.pid), signal.SIGKILL)
        shell.wait(5)
        shell.stdout.close()


def test_conclude_without_a_lab_names_the_folder(tmp_path: Path) -> None:
    from ansible_collections.queueops.fleet.plugins.module_utils._drill.conclude import Order, conclude

    order = Order(str(tmp_path), "bad", [], {}, 1, "1.0.0", {}, "t", "mail", [], 1, 1, [], 1.0, "now")
    began = time.monotonic()
    with pytest.raises(NotFound, match=str(tmp_path)):
        conclude(order)
    assert time.monotonic() - began < 1
