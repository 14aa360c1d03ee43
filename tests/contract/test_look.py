# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look tells what the system itself tells, of every queue and worker, and changes nothing."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import ABILITIES, Look

from tests.contract.common import QUEUE, agree, can, executing, failed_count, redriven, state
from tests.contract.system import System
from tests.unit.conftest import wait_for

#: May be null without a reason: there is none to give, or it is what the queue is at that moment.
FREE = {"paused_by", "task", "task_queue", "task_since"}


def reasons_given(look: Look) -> None:
    for kind, entries in (("queues", look.queues), ("workers", look.workers)):
        for entry in entries:
            for name, value in asdict(entry).items():
                assert value is not None or name in FREE or kind + "." + name in look.unknown, "%s.%s is null without a reason" % (
                    kind,
                    name,
                )
    assert all(look.unknown.values())


def test_numbers_agree_before_during_and_after(system: System) -> None:
    system.declare(QUEUE)
    look = agree(system)
    reasons_given(look)
    assert (look.queues[0].queued, look.queues[0].executing) == (0, 0)
    failed = system.fail(QUEUE, 2)
    held = system.publish(QUEUE, 1, "hold")
    notes = system.publish(QUEUE, 3)
    look = agree(system)
    reasons_given(look)
    assert (look.queues[0].queued, look.queues[0].executing, failed_count(look.queues[0])) == (4, 0, 2)
    able = system.open().capabilities
    if "oldest_age" not in able.can:
        assert look.queues[0].oldest_task_age_s is None
    elif "oldest_age" not in able.guarantee:
        assert look.queues[0].oldest_task_age_s is not None
    worker = system.start_worker(QUEUE, "2.3.4")
    executing(system, 1)
    look = agree(system)
    reasons_given(look)
    assert (look.queues[0].queued, failed_count(look.queues[0])) == (3, 2)
    alive = [entry for entry in look.workers if entry.state not in ("gone", "idle")]
    assert alive or "workers" in look.unknown, look
    for entry in alive:
        assert entry.version == "2.3.4" or "workers.version" in look.unknown
        assert entry.task in (None, *held) and (entry.pid in (None, worker.pid) or "workers.pid" in look.unknown)
    system.gate.touch()
    wait_for(lambda: len(system.done()) == 4, limit=40, what="the tasks")
    executing(system, 0)
    look = agree(system)
    reasons_given(look)
    assert (look.queues[0].queued, failed_count(look.queues[0])) == (0, 2)
    assert sorted(system.done()) == sorted(held + notes)
    assert len(failed) == 2
    worker.stop()


def settled_dump(system: System) -> Any:
    """What is on the server once the workers have left it alone for a second: one that begins a task still writes about it."""
    seen, since = system.dump(), time.monotonic()

    def settled() -> bool:
        nonlocal seen, since
        now = system.dump()
        if now != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since > 1

    wait_for(settled, what="a second in which nothing changed")
    return seen


def test_a_look_changes_nothing(system: System) -> None:
    system.declare(QUEUE)
    system.fail(QUEUE, 2)
    system.publish(QUEUE, 1, "hold")
    system.publish(QUEUE, 2)
    system.start_worker(QUEUE)
    executing(system, 1)
    before = settled_dump(system)
    for _round in range(5):
        system.open().look([QUEUE])
        if can(system, "list_queues"):
            assert QUEUE in [entry.name for entry in system.open().look().queues]
    assert system.dump() == before
    system.gate.touch()


def test_a_hundred_looks_lose_no_task(system: System) -> None:
    system.declare(QUEUE)
    ids = system.publish(QUEUE, 3)
    for _round in range(100):
        assert state(system).queued == 3
    assert sorted(system.identities(QUEUE)) == sorted(ids)


def test_a_missing_queue_is_not_an_empty_one(system: System) -> None:
    system.declare(QUEUE)
    assert (state(system).exists, state(system).queued) == (True, 0)
    if not system.tells_missing:
        return
    with pytest.raises(NotFound) as caught:
        system.open().look([QUEUE, "nowhere"])
    assert caught.value.option == "queues" and "nowhere" in caught.value.sentence()
    there, gone = system.open().look([QUEUE, "nowhere"], missing_ok=True).queues
    assert there.exists and not gone.exists


def test_odd_names_and_many_queues_in_one_look(system: System) -> None:
    names = list(system.odd_names)
    for number, name in enumerate(names):
        system.declare(name)
        system.publish(name, number + 1)
    if "a*b" in names:
        system.declare("axb")
        system.publish("axb", 7)
    look = system.open().look(names)
    assert [(entry.name, entry.queued) for entry in look.queues] == [(name, number + 1) for number, name in enumerate(names)]


def test_odd_names_are_worked_on_and_redriven(system: System) -> None:
    ids = []
    for name in system.odd_names:
        system.declare(name)
        ids += system.fail(name, 2)
        assert redriven(system, queue=name).moved == 2
        assert state(system, name).queued == 2
        system.start_worker(name)
    wait_for(lambda: len(system.done()) >= len(ids), limit=60, what="the tasks")
    assert sorted(system.done()) == sorted(ids)


def test_what_it_cannot_do_is_refused_with_what_to_use_instead(system: System) -> None:
    able = system.open().capabilities
    for ability in ABILITIES:
        if ability not in able.can:
            with pytest.raises(Refused) as caught:
                able.require(ability)
            assert caught.value.next_step, "no way out of lacking %s" % ability
        else:
            able.require(ability)
    with pytest.raises(Refused):
        redriven(system, source="executing" if "executing" not in able.sources else "nonsense " * 9 if "other" not in able.sources else "")
