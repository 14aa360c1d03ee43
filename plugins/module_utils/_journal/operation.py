# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every step of an operation has in common: what is written into the open one, and who may still write.

The open operation in the journal is the fleet's lock. The lock, the epoch and the history are one chain of events, so that nothing
beside it can disagree with it.
"""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass, field
from typing import Any, Sequence

from .._errors import Conflict, NotFound, Refused
from .events import Event
from .fold import RESERVED, TAKEN_OVER, FleetState, Operation, fold
from .journal import Journal, Session

#: What may be written of an operation that has ended: people are told of its end after it.
_AFTER_THE_END = ("notification_failed",)


@dataclass
class Answer:
    """What an operation's step did, or would do in check mode.

    :ivar written: the events, as written (or as they would be).
    :ivar before: the state before. ``after``: the state after.
    """

    changed: bool
    head: str
    before: FleetState
    after: FleetState
    operation: Operation
    written: list[Event] = field(default_factory=list)
    taken_over: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)


def append_events(
    journal: Journal, operation_id: str, epoch: int, events: Sequence[Event], actor: str | None = None, dry: bool = False
) -> Answer:
    """Write what happened in an open operation. A controller that was taken over is refused by its older epoch."""
    with journal.session(write=not dry) as session:
        state = fold(session.events)
        operation = known_operation(state, operation_id)
        refuse_older(state, operation, epoch)
        if operation.outcome is not None and not all(event.kind in _AFTER_THE_END for event in events):
            raise ended(operation)
        return write(session, state, placed(events, operation, epoch, actor), operation.id, dry)


def this_user() -> str:
    """``user@host`` of this process, for when nobody said who acts."""
    try:
        name = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return "%s@%s" % (name, os.uname().nodename)


def write(session: Session, before: FleetState, events: list[Event], operation_id: str, dry: bool) -> Answer:
    """Append the events, or with ``dry`` only tell what would be there after them."""
    written = session.preview(events) if dry else session.append(events)
    after = fold(list(session.events) + written if dry else session.events)
    return Answer(bool(written), session.head, before, after, after.operations[operation_id], written)


def placed(events: Sequence[Event], operation: Operation, epoch: int, actor: str | None) -> list[Event]:
    """The events of a caller, as events of the operation; those that only opening and closing write are refused."""
    placed = []
    for event in events:
        if event.kind in RESERVED:
            raise Refused(
                "Events of the kind %s are written by opening and closing operations only" % event.kind,
                option="events",
                next_step="Use queueops.fleet.fleet_operation",
            )
        placed.append(
            Event(
                kind=event.kind,
                operation=operation.id,
                epoch=epoch,
                host=event.host,
                actor=event.actor or actor or this_user(),
                reason=event.reason,
                data=event.data,
                at=event.at,
            )
        )
    return placed


def withdrawal(operation: Operation, release: int, reason: str | None, epoch: int, actor: str | None) -> Event:
    """That a release is not known good any more."""
    return Event(kind="release_withdrawn", operation=operation.id, epoch=epoch, actor=actor, reason=reason, data={"release": release})


def known_operation(state: FleetState, operation_id: str) -> Operation:
    """The operation of this id.

    :raises NotFound: the journal has none.
    """
    operation = state.operations.get(operation_id)
    if operation is None:
        newest = state.open_operation or state.last_operation
        raise NotFound(
            "The journal has no operation %s; the newest is %s" % (operation_id, newest.id if newest else "none"),
            option="operation",
            next_step="Give the id that opening the operation returned",
        )
    return operation


def refuse_older(state: FleetState, operation: Operation, epoch: int | None) -> None:
    """Refuse a controller that was taken over, by its epoch."""
    if epoch is not None and epoch > state.epoch:
        raise Refused(
            "Epoch %d was never given out; the newest is %d" % (epoch, state.epoch),
            option="epoch",
            next_step="Give the epoch that opening the operation returned; if it did, the journal was put back from an older copy",
        )
    if epoch is not None and epoch < operation.epoch:
        raise Conflict(
            "Operation %s went on under epoch %d, by %s; epoch %d is older" % (operation.id, operation.epoch, operation.actor, epoch),
            still_true="Nothing was written",
            next_step="This controller was taken over: stop it, and look at the fleet with queueops.fleet.status",
        )


def ended(operation: Operation) -> Conflict:
    """That an operation is over, for who still wants to write into it."""
    if operation.outcome == TAKEN_OVER:
        return Conflict(
            "Operation %s was taken over at %s" % (operation.id, operation.closed_at),
            still_true="Nothing was written",
            next_step="This controller no longer holds the fleet: stop it, and look at the fleet with queueops.fleet.status",
        )
    return Conflict(
        "Operation %s ended at %s as %s" % (operation.id, operation.closed_at, operation.outcome),
        still_true="Nothing was written",
        next_step="Open a new operation",
    )
