# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a redrive dies of, a second run finishes it: nothing lost, nothing twice."""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveReport, Rule

from tests.contract.common import QUEUE, can, failed_count, places, redriven, request, state
from tests.contract.kill import Job, count_steps, run, run_killed, small_batches
from tests.contract.system import System
from tests.unit.conftest import wait_for

#: At most this many of the steps are killed at; a redrive of a few tasks has fewer. The sample kills at a few that are spread over all.
KILLS = 40 if os.environ.get("QUEUEOPS_EVERY_STEP") else 6


def steps_of(calls: int) -> list[int]:
    """Every step, or as many spread over all of them."""
    if calls <= KILLS:
        return list(range(1, calls + 1))
    return sorted({1 + index * (calls - 1) // (KILLS - 1) for index in range(KILLS)})


def run_again(system: System, job: Job) -> RedriveReport:
    """The same once more, here."""
    backend = system.open(**(job.settings or {}))
    small_batches(backend, job.batch or 500)
    return engine.redrive(backend, job.request)


def killed_and_run_again(system: System, kind: str) -> None:
    """Kill before each step, and after the last one; then run again under the same name."""

    def fresh() -> tuple[Job, list[str]]:
        system.server.clear()
        for left in (system.folder / "state").glob("**/*.jsonl"):
            left.unlink()
        system.declare(QUEUE)
        ids = system.fail(QUEUE, 7)
        rules: tuple[Rule, ...] = (Rule(),)
        if kind == "rules":
            rules = (Rule(Match(ids=(ids[1], ids[5])), "park"), Rule())
        run_name = "r1" if can(system, "redrive_run") else None
        return Job(request(system, *rules, run=run_name), batch=3), ids

    job, ids = fresh()
    before = places(system)
    assert before == Counter(ids)
    calls = count_steps(system, job)
    assert calls > 2 and places(system) == before
    for step, when in [*((step, "before") for step in steps_of(calls)), (calls, "after")]:
        job, ids = fresh()
        run_killed(system, job, step, when)
        told = "killed %s step %d of %d" % (when, step, calls)
        run_again(system, job)
        assert places(system) == Counter(ids), told
        assert failed_count(state(system)) == 0, told
        assert state(system).queued == (5 if kind == "rules" else 7), told


def test_killed_at_every_step_of_a_redrive_of_all(system: System) -> None:
    killed_and_run_again(system, "all")


def test_killed_at_every_step_of_a_redrive_by_rules(system: System) -> None:
    able = system.open().capabilities
    if "ids" in able.match and "park" in able.actions:
        killed_and_run_again(system, "rules")


def test_what_a_killed_redrive_moved_is_worked_on_once(system: System) -> None:
    system.declare(QUEUE)
    ids = system.fail(QUEUE, 7)
    job = Job(request(system, run="r1" if can(system, "redrive_run") else None), batch=3)
    calls = count_steps(system, job)
    system.server.clear()
    for left in (system.folder / "state").glob("**/*.jsonl"):
        left.unlink()
    system.declare(QUEUE)
    ids = system.fail(QUEUE, 7)
    system.start_worker(QUEUE)
    run_killed(system, job, 2 * calls // 3)
    run_again(system, job)
    wait_for(lambda: len(system.done()) >= 7, limit=60, what="the tasks")
    wait_for(lambda: not state(system).executing and not state(system).queued, limit=60, what="the end")
    assert Counter(system.done()) == Counter(ids)


def test_killed_while_pausing(system: System) -> None:
    if not can(system, "pause"):
        return
    system.declare(QUEUE)
    system.start_worker(QUEUE)  # Some systems pause through their workers.
    plain = request(system)
    pausing, resuming = Job(plain, "pause"), Job(plain, "resume")
    calls = count_steps(system, pausing)
    assert run(system, resuming).error is None
    for step in range(1, calls + 1):
        run_killed(system, pausing, step)
        assert run(system, pausing).error is None
        wait_for(lambda: state(system).paused, what="the pause")
        found = state(system)
        assert found.paused_by is None or found.paused_by["owner"] == "tests"
        assert run(system, resuming).error is None
        wait_for(lambda: state(system).paused is False, what="the end of the pause")


def test_a_broker_that_restarts_in_the_middle(system: System) -> None:
    system.declare(QUEUE)
    ids = system.fail(QUEUE, system.many)
    timer = threading.Timer(1.2, system.server.stop)
    named: dict[str, Any] = {"run": "r1"} if can(system, "redrive_run") else {}
    timer.start()
    try:
        with pytest.raises(FleetError) as caught:
            redriven(system, rate=system.many / 4, **named)
    finally:
        timer.join()
        system.server.start()
    assert caught.value.next_step
    assert 0 < caught.value.details["moved"] < system.many
    redriven(system, **named)
    assert places(system) == Counter(ids)
    assert (state(system).queued, failed_count(state(system))) == (system.many, 0)
