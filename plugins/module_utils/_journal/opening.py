# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening an operation: taking the fleet for it, also from one whose controller is dead."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .._errors import Conflict, NotFound, Refused
from .events import Event
from .fold import AS_FOUND, DEPLOY, ROLLBACK, FleetState, Operation, Release, fold
from .journal import Journal, Session
from .operation import Answer, ended, this_user, withdrawal, write


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
        answer = write(session, state, events, operation_id, dry)
        answer.warnings = warnings
        answer.taken_over = held.as_dict() if held is not None else None
        return answer


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
        events.append(withdrawal(held, held.from_release, held.reason, epoch, actor))
    return events


def _go_on(session: Session, state: FleetState, request: OpenRequest, epoch: int, actor: str, dry: bool) -> Answer:
    """Take over the open operation itself: same id, new epoch."""
    held = state.open_operation
    if held is None or held.id != request.operation:
        known = state.operations.get(str(request.operation))
        if known is not None:
            raise ended(known)
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
    answer = write(session, state, [event], held.id, dry)
    answer.taken_over = earlier
    return answer


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
