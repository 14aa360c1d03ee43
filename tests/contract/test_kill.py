# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever a redrive dies of, a second run finishes it: nothing lost, nothing twice."""

from __future__ import annotations

import os
from collections import Counter

from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveReport, Rule

from tests.contract.common import QUEUE, can, failed_count, places, redriven, request, state
from tests.contract.kill import Job, count_steps, run, run_killed, small_batches
from tests.contract.system import System
from tests.unit.conftest import wait_for

#: The whole run dies before and after every step. Both, for between the end of one and the beginning of the next the ledger is written.
EVERY = bool(os.environ.get("QUEUEOPS_EVERY_STEP"))
#: The sample dies before a few that are spread over all, and after the last one.
KILLS = 6


def deaths(calls: int) -> list[tuple[int, str]]:
    """At which steps to die, and when."""
    if EVERY:
        return [(step, when) for step in range(1, calls + 1) for when in ("before", "after")]
    spread = sorted({1 + index * (calls - 1) // (KILLS - 1) for index in range(KILLS)})
    return [*((step, "before") for step in spread), (calls, "after")]


def run_again(system: System, job: Job) -> RedriveReport:
    """The same once more, here."""
    backend = system.open(**(job.settings or {}))
    small_batches(backend, job.batch or 500)
    return engine.redrive(backend, job.request)


def killed_and_run_again(system: System, source: str = "", by_rules: bool = False) -> None:
    """Kill a redrive from ``source`` (where failed tasks are) at each step; then run it again under the same name."""

    def fresh() -> tuple[Job, list[str]]:
        system.server.clear()
        for left in (system.folder / "state").glob("**/*.jsonl"):
            left.unlink()
        system.declare(QUEUE)
        ids = system.put(source, QUEUE, 7) if source not in ("", "parked") else system.fail(QUEUE, 7)
        if source == "parked":
            assert redriven(system, Rule(action="park")).moved == 7
        rules = (Rule(Match(ids=(ids[1], ids[5])), "park"), Rule()) if by_rules else (Rule(),)
        from_there = {"source": source} if source else {}
        run_name = "r1" if can(system, "redrive_run") else None
        settings = dict(system.abandoned_settings) if source == "abandoned" else None
        return Job(request(system, *rules, run=run_name, **from_there), batch=3, settings=settings), ids

    job, ids = fresh()
    before = places(system)
    assert before == Counter(ids)
    calls = count_steps(system, job)
    assert calls > 2 and places(system) == before
    for step, when in deaths(calls):
        job, ids = fresh()
        run_killed(system, job, step, when)
        told = "killed %s step %d of %d" % (when, step, calls)
        run_again(system, job)
        # Each is in one place, and that is where it was to go.
        assert places(system) == Counter(ids), told
        assert state(system).queued == (5 if by_rules else 7), told
        assert failed_count(state(system)) in (0, None), told


def test_killed_at_every_step_of_a_redrive_of_all(system: System) -> None:
    killed_and_run_again(system)


def test_killed_at_every_step_of_a_redrive_by_rules(system: System) -> None:
    able = system.open().capabilities
    if "ids" in able.match and "park" in able.actions:
        killed_and_run_again(system, by_rules=True)


def test_killed_at_every_step_of_a_redrive_from_every_source_that_is_not_the_failed_tasks(system: System) -> None:
    sources = system.open().capabilities.sources
    for source in ("dead_lettered", "parked", "abandoned"):
        system.server.clear()
        system.declare(QUEUE)
        if source in sources and (source == "parked" or system.put(source, QUEUE, 1)):
            killed_and_run_again(system, source)


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
