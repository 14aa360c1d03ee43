# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from a journal in order to look at a fleet."""

from __future__ import annotations

from typing import Any

from .._errors import NotFound, Refused
from .events import Event
from .fold import FleetState, fold
from .journal import Journal

NO_EVENTS = "none"
ALL_EVENTS = "all"


def overview(journal: Journal, which: str, limit: int | None) -> dict[str, Any]:
    """The state, the operations and the events that were asked for.

    :param which: ``none``, ``all``, or the id of an operation.
    :param limit: at most this many events, and as many operations, the newest; None for all.
    """
    if limit is not None and limit < 0:
        raise Refused("A limit of %d makes no sense" % limit, option="limit", next_step="Give 0 or more")
    exists = journal.exists()
    with journal.session(write=False) as session:
        events, tail, head = session.events, session.tail, session.head
    state = fold(events)
    return {
        "exists": exists,
        "head": head,
        "count": len(events),
        "torn": None if tail is None else {"size": tail.size, "complete": tail.complete},
        "state": state.as_dict(),
        "operations": [operation.as_dict() for operation in _newest(list(state.operations.values()), limit)],
        "events": [event.as_dict() for event in _newest(_chosen(events, state, which), limit)],
    }


def _chosen(events: list[Event], state: FleetState, which: str) -> list[Event]:
    if which == NO_EVENTS:
        return []
    if which == ALL_EVENTS:
        return events
    if which not in state.operations:
        known = ", ".join(list(state.operations)[-5:]) or "none"
        raise NotFound(
            "The journal has no operation %s; the newest are: %s" % (which, known),
            option="events",
            next_step="Give none, all, or the id of one of the fleet's operations",
        )
    return [event for event in events if event.operation == which]


def _newest(items: list[Any], limit: int | None) -> list[Any]:
    return items if limit is None else items[max(len(items) - limit, 0) :]
