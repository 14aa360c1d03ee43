# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast tasks are finished: from what workers counted between two looks, where the broker keeps no rate itself."""

from __future__ import annotations

import time

from .api import Look, QueueBackend, WorkerState

NOT_MEASURED = "a rate needs two looks; give measure in seconds"
NOT_COUNTED = "this queue system does not count what its workers finish"
SHARED = "its workers take from several queues, and count them together"


def look_with_rate(backend: QueueBackend, queues: list[str] | None, missing_ok: bool, measure: float) -> Look:
    """One look; with ``measure`` above 0 a second one that many seconds later, and what was finished in between as ``rate_per_s``."""
    first = backend.look(queues, missing_ok)
    if measure <= 0 or "counters" not in backend.capabilities.can:
        _unknown(first, NOT_MEASURED if "counters" in backend.capabilities.can else NOT_COUNTED)
        return first
    time.sleep(measure)
    second = backend.look(queues, missing_ok)
    before = {worker.name: _finished(worker) for worker in first.workers}
    seconds = max(second.at - first.at, 0.001)
    for state in second.queues:
        workers = [worker for worker in second.workers if state.name in (worker.queues or [])]
        if any(worker.queues != [state.name] for worker in workers):
            second.unknown.setdefault("queues.rate_per_s", "%s: %s" % (state.name, SHARED))
            continue
        # A worker that came in between began to count at 0.
        done = sum(max(0, _finished(worker) - before.get(worker.name, 0)) for worker in workers)
        state.rate_per_s = round(done / seconds, 3)
    return second


def _finished(worker: WorkerState) -> int:
    return (worker.completed or 0) + (worker.failed or 0)


def _unknown(look: Look, reason: str) -> None:
    if any(state.rate_per_s is None for state in look.queues):
        look.unknown.setdefault("queues.rate_per_s", reason)
