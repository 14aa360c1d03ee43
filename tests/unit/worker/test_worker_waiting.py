# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""While something is waited for, the manager is asked where something may have changed, and else the kernel alone."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import OutOfTime
from ansible_collections.queueops.fleet.plugins.module_utils._worker import process, waiting
from ansible_collections.queueops.fleet.plugins.module_utils._worker.api import WorkerProcess, WorkerSettings
from ansible_collections.queueops.fleet.plugins.module_utils._worker.health import wait_healthy
from ansible_collections.queueops.fleet.plugins.module_utils._worker.supervisor import Supervisor
from ansible_collections.queueops.fleet.plugins.module_utils._worker.waiting import polls

from tests.unit.conftest import wait_for


class Managed(Supervisor):
    """One worker whose process is real; counts how often it is asked for."""

    #: How long the first process lives, and those after it.
    lives = ("0.4", "60")

    def __init__(self) -> None:
        super().__init__(WorkerSettings("supervisor", "mailer", "/opt/mailer"))
        self.asked = 0
        #: What it is after it was asked so often; then it goes on as that.
        self.becomes: dict[int, str] = {}
        self.state = "running"
        self.restarts = True
        self.started: list[subprocess.Popen[bytes]] = []
        self.start_one()

    def start_one(self) -> None:
        seconds = self.lives[min(len(self.started), len(self.lives) - 1)]
        self.started.append(subprocess.Popen(["sleep", seconds]))

    def workers(self) -> list[WorkerProcess]:
        self.asked += 1
        self.state = self.becomes.get(self.asked, self.state)
        if self.started[-1].poll() is not None:
            if not self.restarts:
                return [WorkerProcess("mailer", None, "stopped")]
            self.start_one()
        pid = self.started[-1].pid
        return [WorkerProcess("mailer", pid, self.state, process.started_at(pid), "1.0")]


@pytest.fixture
def manager() -> Iterator[Managed]:
    made = Managed()
    yield made
    for one in made.started:
        one.kill()
        one.wait()


def test_a_process_is_known_by_its_number_and_its_start() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        since = process.started_at(child.pid)
        assert since is not None
        assert process.is_there(child.pid, since)
        assert not process.is_there(child.pid, since - 2)
        assert not process.is_there(child.pid, None)
        child.kill()
        # It has ended, and nobody has asked yet how.
        wait_for(lambda: not process.is_there(child.pid, since), what="the end of the process")
        assert os.path.exists(f"/proc/{child.pid}")
    assert not process.is_there(child.pid, since)
    assert not process.is_there(None, since)


def test_a_pause_ends_when_there_is_something_to_see() -> None:
    begun = time.monotonic()
    looks = polls(20, idle=lambda: time.monotonic() - begun < 0.5)
    assert [next(looks) < 0.5, 0.5 <= next(looks) < 4] == [True, True]


def test_the_manager_is_asked_now_and_then_whatever_the_kernel_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "UNASKED", 0.1)
    looks = list(polls(0.9, idle=lambda: True))
    assert len(looks) >= 3 and looks[-1] >= 0.9, looks


def test_a_drain_asks_the_manager_when_a_process_has_ended(manager: Managed) -> None:
    manager.restarts, manager.state = False, "stopping"
    begun = time.monotonic()
    manager.wait_stopped(20)
    assert time.monotonic() - begun < 4
    assert manager.asked <= 3


def test_a_restart_within_its_hold_is_noticed_at_once(manager: Managed) -> None:
    begun = time.monotonic()
    wait_healthy(manager, "1.0", {"hold": 3.0}, 10)
    held = time.monotonic() - begun
    assert len(manager.started) == 2
    # The hold began anew when the first process ended, and not when the hold of that one would have been over.
    assert 3.2 <= held < 5.5, held
    assert manager.asked <= 4


def test_a_worker_that_is_stopped_within_its_hold_is_not_healthy_though_its_process_lives(manager: Managed) -> None:
    manager.start_one()
    manager.becomes = {2: "stopping"}
    with pytest.raises(OutOfTime, match="mailer is stopping"):
        wait_healthy(manager, "1.0", {"hold": 0.3}, 0.5)
