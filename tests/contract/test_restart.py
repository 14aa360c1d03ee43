# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A broker that ends in the middle of a redrive and comes back: after a second run nothing is lost, and nothing is there twice."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable

from tests.contract.common import QUEUE, agree, can, failed_count, finished, places, redriven, request, state
from tests.contract.kill import LIMIT_S, Job, run
from tests.contract.system import System

MANY = 100_000
#: Tasks moved in one act: few enough that most of a second lies between a tenth and nine tenths of them.
BATCH = 200
#: For so long the redrive goes on between two looks at how far it has come (s).
STRETCH_S = 0.05


def test_a_copied_failed_task_is_as_a_real_one(system: System) -> None:
    """So that a hundred thousand can be made in seconds."""
    system.declare(QUEUE)
    ids = system.fail_many(QUEUE, 4)
    assert len(set(ids)) == 4 and places(system) == Counter(ids)
    agree(system)
    assert failed_count(state(system)) == 4
    real, *copies = (system.record(QUEUE, task) for task in ids)
    assert real and copies == [real] * 3
    assert redriven(system).moved == 4
    system.start_worker(QUEUE)
    finished(system, ids)


def in_the_middle(system: System, count: int, end: Callable[[], None]) -> Callable[[int], None]:
    """What is called while ``count`` tasks are redriven: lets it go on until the broker shows a tenth of them where they go, and ends it.

    The redrive stands still while the broker is looked at, so that on a busy machine it is not over by the time that the answer comes.
    """

    def meanwhile(pid: int) -> None:
        # Before the first is moved, the ids of all are read, for the proof; the child itself has no more time.
        limit = time.monotonic() + LIMIT_S
        while True:
            os.kill(pid, signal.SIGSTOP)
            if system.arrived(QUEUE) >= count / 10:
                break
            assert time.monotonic() < limit, "the redrive did not move a tenth of the tasks within %d s" % LIMIT_S
            os.kill(pid, signal.SIGCONT)
            time.sleep(STRETCH_S)
        end()
        os.kill(pid, signal.SIGCONT)

    return meanwhile


def survives(system: System, ids: list[str], job: Job, end: Callable[[], None]) -> None:
    """The redrive of ``ids`` says that it broke off when the broker ended, and a second one moves the rest, each once."""
    count = len(ids)
    done = run(system, job, meanwhile=in_the_middle(system, count, end))
    system.server.start()
    assert done.error and done.next_step, "it had come to its end before the broker's"
    assert 0 < done.details["moved"] < count and "%d tasks are known to be moved" % done.details["moved"] in done.error
    system.server.settle(count)
    assert count / 10 <= system.arrived(QUEUE) <= count * 9 / 10, "the broker did not end in the middle"
    redriven(system, run=job.request.run)
    assert places(system) == Counter(ids)
    assert state(system).queued == count and failed_count(state(system)) in (0, None)


def named(system: System) -> str | None:
    return "r1" if can(system, "redrive_run") else None


def test_a_broker_that_restarts_in_the_middle(system: System) -> None:
    system.declare(QUEUE)
    ids = system.fail(QUEUE, system.many)
    job = Job(request(system, run=named(system), rate=system.many / 6))
    survives(system, ids, job, system.server.stop)


def test_a_broker_killed_in_the_middle_of_a_hundred_thousand(system: System) -> None:
    """SIGKILL. The broker's own persistence is on, as far as it promises that what it acknowledged is there afterwards."""
    system.declare(QUEUE)
    ids = system.fail_many(QUEUE, MANY)
    system.server.persist()
    survives(system, ids, Job(request(system, run=named(system)), batch=BATCH), system.server.kill)
