# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several contract tests ask of a system under test."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Look, QueueState, RedriveReport, RedriveRequest, Rule

from tests.contract.system import System
from tests.unit.conftest import wait_for

QUEUE = "mail"


def source_of(system: System) -> str:
    """Where this system keeps the tasks that failed for good."""
    sources = system.open().capabilities.sources
    return "failed" if "failed" in sources else "dead_lettered"


def can(system: System, ability: str) -> bool:
    return ability in system.open().capabilities.can and ability not in system.lacks


def request(system: System, *rules: Rule, queue: str = QUEUE, **more: Any) -> RedriveRequest:
    options: dict[str, Any] = {"source": source_of(system), "state_dir": str(system.folder / "state"), **more}
    return RedriveRequest(queue, rules=rules or (Rule(),), **options)


def redriven(system: System, *rules: Rule, check: bool = False, **more: Any) -> RedriveReport:
    """A redrive by ``rules`` whose report adds up."""
    report = engine.redrive(system.open(), request(system, *rules, **more), check)
    assert report.matched == report.moved + report.skipped + report.remaining, report
    return report


def state(system: System, queue: str = QUEUE) -> QueueState:
    return system.open().look([queue]).queues[0]


def failed_count(found: QueueState) -> int | None:
    return found.failed if found.failed is not None else found.dead_lettered


def agree(system: System, queue: str = QUEUE) -> Look:
    """The look, once every number that the system's own API tells is the same in it."""
    end = time.monotonic() + 30
    while True:
        look = system.open().look([queue])
        (found,) = look.queues
        ours = {"queued": found.queued, "executing": found.executing, "failed": failed_count(found)}
        theirs = system.native(queue)
        assert theirs, "the system's own API tells nothing"
        if theirs == {name: ours[name] for name in theirs}:
            return look
        assert time.monotonic() < end, "we say %s, the system says %s" % (ours, theirs)
        time.sleep(0.1)


def executing(system: System, count: int, queue: str = QUEUE) -> None:
    """Wait until ``count`` tasks are executing."""
    wait_for(lambda: state(system, queue).executing == count, limit=40, what="%d executing tasks" % count)


def finished(system: System, ids: list[str], limit: float = 60.0) -> None:
    """Wait until the ledger holds each of ``ids`` and nothing is left; then each is there exactly once."""
    wait_for(lambda: set(ids) <= set(system.done()), limit=limit, what="completion of %d tasks" % len(ids))
    wait_for(lambda: not state(system).executing, limit=limit, what="the end of the execution")
    assert Counter(system.done()) == Counter(ids)


def places(system: System, queue: str = QUEUE) -> Counter[str]:
    """Every task of the queue, wherever it is, as a multiset."""
    return Counter(system.identities(queue))
