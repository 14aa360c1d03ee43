# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is a queue drained? Judged over what a backend's look shows, the same for every queue system."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from .._errors import Refused
from .api import Look, QueueBackend, WorkerState

#: Two looks must agree, this far apart (s): between taking a task and recording it, a worker shows for a moment as idle.
APART_S = 0.25


@dataclass
class Progress:
    """How far a drain is. Drained: nothing executing (nor queued or scheduled, if asked) on two looks apart, each worker idle or gone."""

    look: Look
    drained: bool
    executing: int
    queued: int
    scheduled: int
    busy: list[WorkerState]

    def as_dict(self) -> dict[str, Any]:
        found = self.look.as_dict()
        busy = {worker.name for worker in self.busy}
        return {
            "drained": self.drained,
            "executing": self.executing,
            "queued": self.queued,
            "scheduled": self.scheduled,
            "abandoned": sum(state.abandoned or 0 for state in self.look.queues),
            "at": self.look.at,
            "queues": found["queues"],
            "workers": found["workers"],
            "holding": [worker for worker in found["workers"] if worker["name"] in busy],
            "unknown": self.look.unknown,
        }


def assess(look: Look, include_queued: bool, include_scheduled: bool = False) -> Progress:
    """What one look says; ``drained`` means here: by this look alone.

    :raises Refused: the system cannot tell how many tasks are executing. Unknown is not drained.
    """
    for state in look.queues:
        for name in ("executing", "queued"):
            # A queue that is not there has nothing.
            if state.exists and getattr(state, name) is None:
                reason = look.unknown.get("queues." + name, name + " is not known")
                raise Refused("Cannot tell whether queue %s is drained: %s" % (state.name, reason), option="queues")
    names = {state.name for state in look.queues}
    # A busy worker whose task belongs to another queue does not hold this one.
    busy = [
        worker
        for worker in look.workers
        if worker.state not in ("idle", "suspended", "started", "gone") and (worker.task_queue is None or worker.task_queue in names)
    ]
    executing = sum(state.executing or 0 for state in look.queues)
    queued = sum(state.queued or 0 for state in look.queues)
    # A system that knows no scheduled tasks has none.
    scheduled = sum(state.scheduled or 0 for state in look.queues)
    left = executing + (queued if include_queued else 0) + (scheduled if include_scheduled else 0)
    return Progress(look=look, drained=not left and not busy, executing=executing, queued=queued, scheduled=scheduled, busy=busy)


def watch(
    backend: QueueBackend,
    queues: list[str],
    include_queued: bool,
    budget: float = 1.0,
    confirm: bool = True,
    include_scheduled: bool = False,
    missing_ok: bool = False,
) -> Progress:
    """Look until drained, at most about ``budget`` seconds.

    :param confirm: false for a single look that decides by itself (check mode).
    :returns: the last look's progress; ``drained`` only if two looks in a row, :data:`APART_S` apart, said so (further, where
        workers tell what they have in hand at their heartbeats alone: a heartbeat has to lie between the looks).
    """
    end = time.monotonic() + budget
    pause = 0.05
    before = False
    while True:
        progress = assess(backend.look(queues, missing_ok=missing_ok), include_queued, include_scheduled)
        if not confirm or (progress.drained and before):
            return progress
        left = end - time.monotonic()
        if progress.drained:
            time.sleep(max(APART_S, backend.lag_s))  # May overrun the budget by this much, rather than leave it undecided.
        elif left <= 0:
            return progress
        else:
            time.sleep(min(pause, left))
            pause = min(pause * 2, 0.5)
        before = progress.drained
