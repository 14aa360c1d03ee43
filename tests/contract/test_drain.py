# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A drain waits for the task in hand, on two looks; a pause stops the workers, has an owner and can be lifted."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue import drain
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import PauseRequest

from tests.contract.common import QUEUE, can, executing, finished, state
from tests.contract.system import System
from tests.unit.conftest import wait_for

ME = PauseRequest("tests", "bad release")


def test_drained_waits_for_the_held_task_on_two_looks(system: System) -> None:
    system.declare(QUEUE)
    ids = system.publish(QUEUE, 1, "hold")
    system.start_worker(QUEUE)
    executing(system, 1)
    progress = drain.watch(system.open(), [QUEUE], False, 1.0)
    assert not progress.drained and progress.executing == 1 and not system.done()
    backend: Any = system.open()
    look, looks = backend.look, []

    def counted(*arguments: Any, **options: Any) -> Any:
        looks.append(time.monotonic())
        return look(*arguments, **options)

    backend.look = counted
    threading.Timer(0.5, system.gate.touch).start()
    progress = drain.watch(backend, [QUEUE], False, 40.0)
    assert progress.drained and system.done() == ids
    assert looks[-1] - looks[-2] >= drain.APART_S


def test_include_queued_waits_for_the_backlog(system: System) -> None:
    system.declare(QUEUE)
    ids = system.publish(QUEUE, 3)
    assert drain.watch(system.open(), [QUEUE], False, 1.0).drained
    progress = drain.watch(system.open(), [QUEUE], True, 0.5)
    assert not progress.drained and progress.queued == 3
    system.start_worker(QUEUE)
    assert drain.watch(system.open(), [QUEUE], True, 60.0).drained
    assert sorted(system.done()) == sorted(ids)


def test_a_killed_workers_task_is_not_taken_for_done(system: System) -> None:
    system.declare(QUEUE)
    ids = system.publish(QUEUE, 1, "hold")
    worker = system.start_worker(QUEUE)
    executing(system, 1)
    worker.kill()
    found = state(system)
    lost = system.identities(QUEUE) == []  # Some systems lose it by design; then nothing is left to be counted.
    assert lost or (found.executing or 0) + (found.abandoned or 0) + (found.queued or 0) == 1, (found, ids)


def test_a_pause_stops_the_workers_and_is_lifted(system: System) -> None:
    system.declare(QUEUE)
    backend = system.open()
    if not can(system, "pause"):
        with pytest.raises(Refused) as caught:
            backend.pause([QUEUE], ME)
        assert caught.value.next_step
        return
    system.start_worker(QUEUE)
    told = backend.pause([QUEUE], ME, check=True)
    assert told.changed and state(system).paused is not True
    done = backend.pause([QUEUE], ME)
    assert done.changed and done.before == told.before and done.after["paused"] is told.after["paused"] is True
    found = wait_for(lambda: state(system).paused and state(system), what="the pause")
    assert found.paused_by is None or (found.paused_by["owner"], found.paused_by["reason"]) == ("tests", "bad release")
    assert not backend.pause([QUEUE], ME).changed
    # One idle worker may still take the one task that it is already waiting for.
    ids = system.publish(QUEUE, 6)
    time.sleep(1.5)
    assert len(system.done()) <= 1
    assert drain.watch(backend, [QUEUE], False, 20.0).drained
    if found.paused_by is not None:
        with pytest.raises(Conflict):
            backend.resume([QUEUE], "somebody")
    assert backend.resume([QUEUE], "tests", check=True).changed and state(system).paused
    assert backend.resume([QUEUE], "tests").changed
    assert not backend.resume([QUEUE], "tests").changed
    wait_for(lambda: state(system).paused is False, what="the end of the pause")
    finished(system, ids)
