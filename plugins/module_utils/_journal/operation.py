# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening, writing into and closing an operation. The open operation in the journal is the fleet's lock.

The lock, the epoch and the history are one chain of events, so that nothing beside it can disagree with it.
"""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass, field
from typing import Any, Sequence

from .._errors import Conflict, NotFound, Refused
from .events import Event
from .fold import AS_FOUND, DEPLOY, RESERVED, ROLLBACK, TAKEN_OVER, FleetState, Operation, Release, fold, release_number
from .journal import Journal, Session

#: What may be written of an operation that has ended: people are told of its end after it.
_AFTER_THE_END = ("notification_failed",)


@dataclass
class OpenRequest:
    """What is to begin.

    :ivar kind: ``deploy`` or ``rollback``.
    :ivar target: the release; None for the next number (deploy) or the fold's rollback target (rollback).
    :ivar digests: inventory host -> digest of the release there.
    :ivar from_release: the release that the fleet is on; None for what the journal says.
    :ivar expect_head: the head that the plan was made from; refused when the journal has moved since.
    :ivar takeover: end an operation that is open, or, with its id in ``operation``, go on with it.
    """

    kind: str
    target: int | None = None
    version: str | None = None
    checksum: str | None = None
    digests: dict[str, str] = field(default_factory=dict)
    from_release: int | None = None
    expect_head: str | None = None
    operation: str | None = None
    takeover: bool = False
    actor: str | None = None
    controller: str | None = None
    reason: str | None = None


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


def open_operation(journal: Journal, request: OpenRequest, dry: bool = False) -> Answer:
    """Take the fleet for one operation: a new epoch, a new id. ``dry`` writes nothing and tells what would be written."""
    with journal.session(write=not dry) as session:
        state = fold(session.events)
        _refuse_moved(session, request.expect_head)
        held = state.open_operation
        # The controller of a paused operation has ended, so that a way back need not be forced.
        free = request.takeover or (held is not None and held.paused is not None and request.kind == ROLLBACK)
        if held is not None and not free:
            raise _held(held)
        epoch = state.epoch + 1
        actor = request.actor or this_user()
        if request.operation is not None:
            return _go_on(session, state, request, epoch, actor, dry)
        events: list[Event] = []
        operation_id = "op-%04d-%s" % (epoch, request.kind)
        if held is not None:
            events += _end_held(held, request, operation_id, epoch, actor)
        opened, warnings = _opening(state, request)
        events.append(Event(kind="operation_opened", operation=operation_id, epoch=epoch, actor=actor, reason=request.reason, data=opened))
        answer = _write(session, state, events, operation_id, dry)
        answer.warnings = warnings
        answer.taken_over = held.as_dict() if held is not None else None
        return answer


def append_events(
    journal: Journal, operation_id: str, epoch: int, events: Sequence[Event], actor: str | None = None, dry: bool = False
) -> Answer:
    """Write what happened in an open operation. A controller that was taken over is refused by its older epoch."""
    with journal.session(write=not dry) as session:
        state = fold(session.events)
        operation = _known(state, operation_id)
        _refuse_older(state, operation, epoch)
        if operation.outcome is not None and not all(event.kind in _AFTER_THE_END for event in events):
            raise _ended(operation)
        return _write(session, state, _placed(events, operation, epoch, actor), operation.id, dry)


def close_operation(journal: Journal, request: CloseRequest, dry: bool = False) -> Answer:
    """Give the fleet back, and record what is known good now. Closing again with the same outcome changes nothing."""
    with journal.session(write=not dry) as session:
        state = fold(session.events)
        operation = _known(state, request.operation)
        outcome = request.outcome
        if operation.kind == ROLLBACK and outcome == "confirmed":
            # A rollback that ended well is told by its own word, however the caller put it.
            outcome = "rolled_back"
        if operation.outcome is not None:
            _refuse_other_end(operation, outcome)
            return Answer(False, session.head, state, state, operation)
        _refuse_older(state, operation, request.epoch)
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
        events = _placed(request.events, operation, operation.epoch, request.actor)
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
        return _write(session, state, [_by(event, actor) for event in events], operation.id, dry)


def this_user() -> str:
    """``user@host`` of this process, for when nobody said who acts."""
    try:
        name = os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return "%s@%s" % (name, os.uname().nodename)


# -- opening ----------------------------------------------------------------------------------------------------------


def _opening(state: FleetState, request: OpenRequest) -> tuple[dict[str, Any], list[str]]:
    data: dict[str, Any] = {"kind": request.kind, "controller": request.controller, "digests": request.digests}
    if request.kind == DEPLOY:
        data.update(_deploy_of(state, request))
        return data, []
    rollback, warnings = _rollback_to(state, request)
    data.update(rollback)
    return data, warnings


def _deploy_of(state: FleetState, request: OpenRequest) -> dict[str, Any]:
    target = state.next_release if request.target is None else request.target
    if target < 1:
        raise Refused(
            "Release %d cannot be deployed: releases are numbered from 1, and 0 is the fleet as it was found" % target,
            option="target",
            next_step="Roll back in order to go to release 0, or leave target out for the next number (%d)" % state.next_release,
        )
    known = state.releases.get(target)
    if known is not None:
        _refuse_other_content(known, request)
    version = request.version or (known.version if known else None)
    if version is None:
        raise Refused(
            "Release %d is new, so its version has to be given" % target,
            option="version",
            next_step="Give version and checksum, or the number of a release that the journal knows",
        )
    return {
        "target": target,
        "from": state.current if request.from_release is None else request.from_release,
        "back_to": state.way_back(target),
        "version": version,
        "checksum": request.checksum or (known.checksum if known else None),
    }


def _refuse_other_content(known: Release, request: OpenRequest) -> None:
    """A release is immutable: its number stands for one version and one config a host."""
    wrong = None
    if request.version is not None and known.version is not None and request.version != known.version:
        wrong, option = "version %s, not %s" % (known.version, request.version), "version"
    elif request.checksum is not None and known.checksum is not None and request.checksum != known.checksum:
        wrong, option = "an artifact with the checksum %s, not %s" % (known.checksum, request.checksum), "checksum"
    else:
        differing = [host for host in sorted(request.digests) if known.digests.get(host, request.digests[host]) != request.digests[host]]
        if differing:
            wrong, option = "other code or config on %s" % ", ".join(differing), "digests"
    if wrong is not None:
        raise Refused(
            "Release %d is made of %s; releases are immutable" % (known.number, wrong),
            option=option,
            next_step="Leave target out, so that what is new gets a number of its own",
        )


def _rollback_to(state: FleetState, request: OpenRequest) -> tuple[dict[str, Any], list[str]]:
    target = state.rollback_target if request.target is None else request.target
    if target is None:
        raise NotFound(
            "There is no release to roll back to: %s" % state.rollback_reason,
            option="target",
            next_step="Deploy a good version, or name the release to go to",
        )
    release = state.releases.get(target)
    if target != AS_FOUND and (release is None or not release.ever_confirmed):
        good = ", ".join(str(number) for number in sorted(state.known_good_releases())) or "none"
        what = "is not in the journal" if release is None else "was never confirmed"
        raise NotFound(
            "Release %d %s, so that it cannot be rolled back to; known good: %s" % (target, what, good),
            option="target",
            next_step="Name a known good release, or deploy this one so that its gates decide",
        )
    warnings = []
    if release is not None and release.state == "withdrawn":
        warnings.append(
            "Release %d was withdrawn at %s (%s); rolling back to it makes it known good again"
            % (target, release.withdrawn_at, release.reason or "no reason was given")
        )
    from_release = request.from_release
    if from_release is None:
        from_release = state.current if state.rollback_from is None else state.rollback_from
    return {
        "target": target,
        "from": from_release,
        "back_to": None,
        "version": release.version if release else None,
        "checksum": release.checksum if release else None,
    }, warnings


def _end_held(held: Operation, request: OpenRequest, operation_id: str, epoch: int, actor: str) -> list[Event]:
    events = [
        Event(
            kind="operation_taken_over",
            operation=held.id,
            epoch=epoch,
            actor=actor,
            reason=request.reason,
            data={"by_operation": operation_id, "controller": request.controller, "from_actor": held.actor, "from_epoch": held.epoch},
        )
    ]
    if held.kind == ROLLBACK and held.from_release != held.target and held.from_release != AS_FOUND:
        # Somebody decided to leave that release; a takeover does not make it good again.
        events.append(_withdrawal(held, held.from_release, held.reason, epoch, actor))
    return events


def _go_on(session: Session, state: FleetState, request: OpenRequest, epoch: int, actor: str, dry: bool) -> Answer:
    """Take over the open operation itself: same id, new epoch."""
    held = state.open_operation
    if held is None or held.id != request.operation:
        known = state.operations.get(str(request.operation))
        if known is not None:
            raise _ended(known)
        raise NotFound(
            "There is no open operation %s" % request.operation,
            option="operation",
            next_step="Leave operation out in order to open a new one%s" % (", or name %s" % held.id if held else ""),
        )
    if held.kind != request.kind:
        raise Refused(
            "Operation %s is a %s and cannot go on as a %s" % (held.id, held.kind, request.kind),
            option="kind",
            next_step="Leave operation out: the takeover then ends %s and opens a %s" % (held.id, request.kind),
        )
    event = Event(
        kind="operation_taken_over",
        operation=held.id,
        epoch=epoch,
        actor=actor,
        reason=request.reason,
        data={"by_operation": held.id, "controller": request.controller, "from_actor": held.actor, "from_epoch": held.epoch},
    )
    earlier = held.as_dict()
    answer = _write(session, state, [event], held.id, dry)
    answer.taken_over = earlier
    return answer


# -- closing ----------------------------------------------------------------------------------------------------------


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
        events.append(_withdrawal(operation, left, reason or operation.reason, operation.epoch, None))
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


def _withdrawal(operation: Operation, release: int, reason: str | None, epoch: int, actor: str | None) -> Event:
    return Event(kind="release_withdrawn", operation=operation.id, epoch=epoch, actor=actor, reason=reason, data={"release": release})


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


# -- common -----------------------------------------------------------------------------------------------------------


def _write(session: Session, before: FleetState, events: list[Event], operation_id: str, dry: bool) -> Answer:
    written = session.preview(events) if dry else session.append(events)
    after = fold(list(session.events) + written if dry else session.events)
    return Answer(bool(written), session.head, before, after, after.operations[operation_id], written)


def _placed(events: Sequence[Event], operation: Operation, epoch: int, actor: str | None) -> list[Event]:
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


def _by(event: Event, actor: str) -> Event:
    if event.actor is not None:
        return event
    return Event(event.kind, event.operation, event.epoch, event.host, actor, event.reason, event.data, event.at)


def _truth(value: Any) -> bool:
    return value.strip().lower() in ("true", "yes", "1") if isinstance(value, str) else bool(value)


def _known(state: FleetState, operation_id: str) -> Operation:
    operation = state.operations.get(operation_id)
    if operation is None:
        newest = state.open_operation or state.last_operation
        raise NotFound(
            "The journal has no operation %s; the newest is %s" % (operation_id, newest.id if newest else "none"),
            option="operation",
            next_step="Give the id that opening the operation returned",
        )
    return operation


def _refuse_older(state: FleetState, operation: Operation, epoch: int | None) -> None:
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


def _refuse_other_end(operation: Operation, outcome: str) -> None:
    if operation.outcome != outcome:
        raise _ended(operation)


def _ended(operation: Operation) -> Conflict:
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


def _held(held: Operation) -> Conflict:
    advice = "Wait for it to end; if its controller is dead, run again with takeover: true, which is recorded"
    if held.paused is not None:
        advice = "Let it go on, or undo it, with queueops.fleet.resume; or roll back with queueops.fleet.rollback"
    return Conflict(
        "The fleet is held by operation %s (a %s to release %d), opened at %s by %s%s%s"
        % (
            held.id,
            held.kind,
            held.target,
            held.opened_at,
            held.actor,
            " from %s" % held.controller if held.controller else "",
            ", and paused at gate %s since %s: %s" % (held.paused["gate"], held.paused["at"], held.paused["reason"]) if held.paused else "",
        ),
        option="takeover",
        still_true="Nothing was changed",
        next_step=advice,
        details={"held_by": held.as_dict()},
    )


def _refuse_moved(session: Session, expect_head: str | None) -> None:
    if expect_head is None or expect_head == session.head:
        return
    since = _events_since(session, expect_head)
    if since is None:
        what = "it does not contain the head %s" % expect_head
    else:
        last = since[-1]
        what = "%d event%s since, the last one %s by %s at %s" % (
            len(since),
            "" if len(since) == 1 else "s",
            "%s of %s" % (last.kind, last.operation) if last.operation else last.kind,
            last.actor or "an unnamed writer",
            last.at,
        )
    raise Conflict(
        "The journal has moved since the plan was made: %s" % what,
        option="expect_head",
        still_true="Nothing was changed",
        next_step="Make the plan again and look at what it says now",
    )


def _events_since(session: Session, head: str) -> list[Event] | None:
    for index, event in enumerate(session.events):
        if event.prev == head:
            return session.events[index:]
    return None
