# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Closing an operation: giving the fleet back, with what is proven of every host, and what is known good from then on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .._errors import NotFound, Refused
from .events import Event
from .fold import AS_FOUND, DEPLOY, ROLLBACK, FleetState, Operation, fold, release_number
from .journal import Journal
from .operation import Answer, ended, known_operation, placed, refuse_older, this_user, withdrawal, write


@dataclass
class CloseRequest:
    """How an operation ended.

    :ivar hosts: inventory host -> ``{release, phase, ok, reason}``, for each host of the fleet.
    :ivar kind: and ``target``: what the caller takes the operation for; refused when it is another.
    :ivar from_release: after a deploy that was rolled back, the release the fleet is on now; None for its ``back_to``.
    :ivar digests: inventory host -> digest of the operation's release there, for hosts whose digest was not known before.
    :ivar events: what happened meanwhile, in its order; written in front of the end.
    """

    operation: str
    outcome: str
    epoch: int | None = None
    kind: str | None = None
    target: int | None = None
    from_release: int | None = None
    hosts: dict[str, dict[str, Any]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    actor: str | None = None
    reason: str | None = None


def close_operation(journal: Journal, request: CloseRequest, dry: bool = False) -> Answer:
    """Give the fleet back, and record what is known good now. Closing again with the same outcome changes nothing."""
    with journal.session(write=not dry) as session:
        state = fold(session.events)
        operation = known_operation(state, request.operation)
        outcome = request.outcome
        if operation.kind == ROLLBACK and outcome == "confirmed":
            # A rollback that ended well is told by its own word, however the caller put it.
            outcome = "rolled_back"
        if operation.outcome is not None:
            _refuse_other_end(operation, outcome)
            return Answer(False, session.head, state, state, operation)
        refuse_older(state, operation, request.epoch)
        _refuse_mistaken(operation, request)
        if request.epoch is None and operation.shared:
            raise Refused(
                "Operation %s was taken over and went on under epoch %d, so that its id alone does not show who asks"
                % (operation.id, operation.epoch),
                option="epoch",
                next_step="Give the epoch that opening the operation returned",
            )
        to_release = _to_release(state, operation, outcome, request.from_release)
        if to_release is not None:
            _refuse_unproven(operation, outcome, to_release, request.hosts)
        events = placed(request.events, operation, operation.epoch, request.actor)
        events += [_report(operation, host, request.hosts[host]) for host in sorted(request.hosts)]
        so_far = fold(list(session.events) + session.preview(events))
        events += _release_events(so_far, operation, outcome, to_release, request.reason)
        events.append(
            Event(
                kind="operation_closed",
                operation=operation.id,
                epoch=operation.epoch,
                reason=request.reason,
                data={"outcome": outcome, "to_release": to_release, "digests": request.digests},
            )
        )
        actor = request.actor or this_user()
        return write(session, state, [_by(event, actor) for event in events], operation.id, dry)


def _refuse_mistaken(operation: Operation, request: CloseRequest) -> None:
    for option, given, real in (("kind", request.kind, operation.kind), ("target", request.target, operation.target)):
        if given is not None and given != real:
            raise Refused(
                "Operation %s has the %s %s, not %s" % (operation.id, option, real, given),
                option=option,
                next_step="Leave %s out, or name the operation that you mean" % option,
            )


def _to_release(state: FleetState, operation: Operation, outcome: str, from_release: int | None) -> int | None:
    """The release that every host is on after it; None when there is no such claim."""
    if outcome not in ("confirmed", "rolled_back"):
        return None
    if operation.kind == ROLLBACK or outcome == "confirmed":
        return operation.target
    back_to = operation.back_to if from_release is None else from_release
    if back_to is None:
        back_to = operation.from_release
    release = state.releases.get(back_to)
    if back_to != AS_FOUND and (release is None or not release.ever_confirmed):
        raise NotFound(
            "Release %d was never confirmed, so that a deploy cannot end rolled back to it" % back_to,
            option="from_release",
            next_step="Close the operation as failed, or name the known good release that the hosts are on",
        )
    return back_to


def _refuse_unproven(operation: Operation, outcome: str, release: int, hosts: dict[str, dict[str, Any]]) -> None:
    """Never green and mixed: an outcome is a claim about every host, and each host has to bear it out."""
    if not hosts:
        raise Refused(
            "Operation %s cannot end as %s: no host was reported to be on release %d" % (operation.id, outcome, release),
            option="hosts",
            next_step="Give the result of each host of the fleet, or close the operation as failed",
        )
    wrong = []
    for host in sorted(hosts):
        found = release_number(hosts[host].get("release"))
        if found != release:
            wrong.append("%s is on %s" % (host, "a release that is not known" if found is None else "release %d" % found))
        elif not _truth(hosts[host].get("ok", True)):
            wrong.append("%s is not well (%s)" % (host, hosts[host].get("reason") or "no reason was given"))
    if wrong:
        raise Refused(
            "Operation %s cannot end as %s on release %d: %s" % (operation.id, outcome, release, "; ".join(wrong)),
            option="hosts",
            still_true="The operation is still open",
            next_step="Bring those hosts to release %d, or close the operation as failed" % release,
        )


def _release_events(state: FleetState, operation: Operation, outcome: str, to_release: int | None, reason: str | None) -> list[Event]:
    """What the end makes known good and what it withdraws."""
    events: list[Event] = []
    left = _left_behind(state, operation, outcome, to_release)
    if left is not None:
        events.append(withdrawal(operation, left, reason or operation.reason, operation.epoch, None))
    if to_release is not None and to_release != AS_FOUND and state.known_good_releases()[:1] != [to_release]:
        events.append(
            Event(kind="release_confirmed", operation=operation.id, epoch=operation.epoch, reason=reason, data={"release": to_release})
        )
    return events


def _left_behind(state: FleetState, operation: Operation, outcome: str, to_release: int | None) -> int | None:
    """The release that was rolled back from, if it was left for good."""
    if operation.kind == DEPLOY:
        left = operation.target if outcome == "rolled_back" else None
    elif outcome == "rolled_back" or (outcome == "failed" and state.operations[operation.id].touched):
        left = operation.from_release
    else:
        left = None
    if left in (None, AS_FOUND, to_release) or (operation.kind == ROLLBACK and left == operation.target):
        return None
    return left


def _report(operation: Operation, host: str, found: dict[str, Any]) -> Event:
    reason = found.get("reason")
    return Event(
        kind="host_reported",
        operation=operation.id,
        epoch=operation.epoch,
        host=host,
        reason=str(reason) if reason else None,
        data={
            "release": release_number(found.get("release")),
            "phase": found.get("phase"),
            "ok": _truth(found.get("ok", True)),
        },
    )


def _by(event: Event, actor: str) -> Event:
    if event.actor is not None:
        return event
    return Event(event.kind, event.operation, event.epoch, event.host, actor, event.reason, event.data, event.at)


def _truth(value: Any) -> bool:
    return value.strip().lower() in ("true", "yes", "1") if isinstance(value, str) else bool(value)


def _refuse_other_end(operation: Operation, outcome: str) -> None:
    if operation.outcome != outcome:
        raise ended(operation)
