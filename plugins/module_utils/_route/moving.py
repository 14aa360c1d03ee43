# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Queued tasks moved from one queue of a route to another, while workers go on."""

from __future__ import annotations

from .._queue.api import Match, QueueBackend, RedriveRequest, Rule
from .._queue.redrive import redrive


def moved(backend: QueueBackend, source: str, target: str, match: Match, state_dir: str, check: bool) -> int:
    """Move the tasks of ``source`` that ``match`` to ``target``; how many these were, or would be with ``check``.

    :raises Refused: the queue system is not able to.
    """
    rule = Rule(match, "requeue", target)
    report = redrive(backend, RedriveRequest(queue=target, source=source, rules=(rule,), state_dir=state_dir), check)
    return report.matched if check else report.moved
