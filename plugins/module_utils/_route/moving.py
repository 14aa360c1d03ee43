# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Queued tasks moved from one queue of a route to another, while workers go on."""

from __future__ import annotations

from .._queue.api import Match, QueueBackend, RedriveRequest, Rule
from .._queue.redrive import redrive
from .route import Apart


def moved(backend: QueueBackend, source: str, target: str, only: Apart | None, state_dir: str, check: bool) -> int:
    """Move tasks of the queue ``source`` to the queue ``target``; how many these were, or would be with ``check``.

    :param only: such tasks; None: all.
    :raises Refused: the queue system is not able to.
    """
    rule = Rule(Match() if only is None else _match(backend, only), "requeue", target)
    # A system either takes what is queued, or it takes from any queue by its name.
    if "queued" in backend.capabilities.sources:
        request = RedriveRequest(queue=source, source="queued", rules=(rule,), state_dir=state_dir)
    else:
        request = RedriveRequest(queue=target, source=source, rules=(rule,), state_dir=state_dir)
    report = redrive(backend, request, check)
    return report.matched if check else report.moved


def _match(backend: QueueBackend, only: Apart) -> Match:
    """By the name of the task where the system knows it, and the header where that is somebody's own."""
    if only.header == "task" and "task" in backend.capabilities.match and backend.capabilities.system != "rabbitmq":
        return Match(task=only.task)
    return Match(header={only.header: only.task})
