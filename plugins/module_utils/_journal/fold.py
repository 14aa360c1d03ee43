# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the events of a fleet's journal add up to: its releases, its operations, where it stands, where a rollback would go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Sequence

from .events import Event

#: "As found before the first deploy".
AS_FOUND = 0

DEPLOY = "deploy"
ROLLBACK = "rollback"

#: How an operation may end. ``taken_over`` is only ever recorded by a takeover.
OUTCOMES = ("confirmed", "rolled_back", "failed", "nothing_to_do")
TAKEN_OVER = "taken_over"

#: Events about one host whose data has the ``release`` that is live there after it.
_HOST_CHANGED = ("host_switched", "host_confirmed", "host_reverted", "host_put_back", "host_recovered", "confirm_timer_reverted")
_HOST_REPORTED = "host_reported"

#: Phases of a host that was touched and is not settled.
_UNSETTLED = ("active", "interrupted")


@dataclass
class Release:
    """One release of the fleet.

    :ivar state: ``prepared`` (an operation wants it), ``active`` (some host switched to it), ``confirmed`` (known good),
        ``withdrawn`` (rolled back from; never a default target again until it is confirmed again).
    :ivar digests: inventory host -> digest of what the release is made of there.
    :ivar confirmed_seq: the seq of the newest confirmation; later means known good more recently.
    :ivar ever_confirmed: also true for a withdrawn release that once was known good.
    """

    number: int
    version: str | None = None
    checksum: str | None = None
    state: str = "prepared"
    digests: dict[str, str] = field(default_factory=dict)
    opened_by: str | None = None
    opened_at: str | None = None
    confirmed_at: str | None = None
    withdrawn_at: str | None = None
    reason: str | None = None
    confirmed_seq: int = 0
    ever_confirmed: bool = False

    def as_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "version": self.version,
            "checksum": self.checksum,
            "state": self.state,
            "ever_confirmed": self.ever_confirmed,
            "digests": dict(self.digests),
            "opened_by": self.opened_by,
            "opened_at": self.opened_at,
            "confirmed_at": self.confirmed_at,
            "withdrawn_at": self.withdrawn_at,
            "reason": self.reason,
        }


@dataclass
class Operation:
    """One deploy or one rollback.

    :ivar from_release: the release that the fleet was on, or that a rollback goes back from.
    :ivar back_to: where a deploy goes back to when a gate fails; None for a rollback.
    :ivar to_release: where the fleet stands after it; None while open and after a failure.
    :ivar touched: hosts that were switched, or of which it is not known.
    :ivar halted: why a deploy was ordered to roll back; None as long as it was not.
    :ivar paused: the ``gate`` that could not decide, the ``wave`` (hosts), ``reason``, ``at`` and ``actor``; None while it is not paused.
    :ivar passed: the gates that passed: ``gate`` and ``wave`` (hosts).
    :ivar shared: whether a takeover went on with this same operation, so that its id alone no longer tells who asks.
    """

    id: str
    kind: str
    epoch: int
    target: int
    from_release: int
    back_to: int | None = None
    outcome: str | None = None
    opened_at: str | None = None
    closed_at: str | None = None
    actor: str | None = None
    controller: str | None = None
    reason: str | None = None
    to_release: int | None = None
    touched: set[str] = field(default_factory=set)
    halted: str | None = None
    paused: dict[str, Any] | None = None
    passed: list[dict[str, Any]] = field(default_factory=list)
    shared: bool = False

    @property
    def suspect(self) -> int:
        """The release that must not be gone back to when this operation did not finish."""
        return self.target if self.kind == DEPLOY else self.from_release

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "epoch": self.epoch,
            "target": self.target,
            "from": self.from_release,
            "back_to": self.back_to,
            "outcome": self.outcome,
            "opened_at": self.opened_at,
            "closed_at": self.closed_at,
            "actor": self.actor,
            "controller": self.controller,
            "reason": self.reason,
            "touched": sorted(self.touched),
            "halted": self.halted,
            "paused": self.paused,
            "passed": self.passed,
        }


@dataclass
class FleetState:
    """Where the fleet stands by its journal.

    :ivar current: the release that was last confirmed or rolled back to; 0 before.
    :ivar known_good: the release that was confirmed last and is not withdrawn; None when there is none.
    :ivar rollback_target: where a rollback without a number goes; None when there is nowhere to go.
    :ivar rollback_from: the release that such a rollback withdraws when it succeeds.
    :ivar rollback_reason: why that is the target, or why there is none, in one sentence.
    :ivar last_operation: the operation that ended last.
    :ivar standing: the operation that ended last and moved the fleet, or may have.
    :ivar hosts: inventory host -> release, as last reported; None where it is not known.
    """

    releases: dict[int, Release] = field(default_factory=dict)
    operations: dict[str, Operation] = field(default_factory=dict)
    current: int = AS_FOUND
    known_good: int | None = None
    rollback_target: int | None = None
    rollback_from: int | None = None
    rollback_reason: str = "nothing was ever deployed to this fleet, so that there is nothing to roll back"
    last_operation: Operation | None = None
    standing: Operation | None = None
    open_operation: Operation | None = None
    epoch: int = 0
    next_release: int = 1
    hosts: dict[str, int | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON values only; the keys of ``releases`` become text."""
        return {
            "releases": {str(number): self.releases[number].as_dict() for number in sorted(self.releases)},
            "current": self.current,
            "known_good": self.known_good,
            "rollback_target": self.rollback_target,
            "rollback_from": self.rollback_from,
            "rollback_reason": self.rollback_reason,
            "last_operation": self.last_operation.as_dict() if self.last_operation else None,
            "open_operation": self.open_operation.as_dict() if self.open_operation else None,
            "epoch": self.epoch,
            "next_release": self.next_release,
            "hosts": {host: self.hosts[host] for host in sorted(self.hosts)},
        }

    def known_good_releases(self, without: int | None = None) -> list[int]:
        """The releases that are confirmed and not withdrawn, the one confirmed last first."""
        good = [release for release in self.releases.values() if release.state == "confirmed" and release.number != without]
        return [release.number for release in sorted(good, key=lambda release: release.confirmed_seq, reverse=True)]

    def way_back(self, target: int) -> int:
        """Where a deploy of ``target`` goes back to: the newest known good release, or 0 when there is none."""
        good = self.known_good_releases(without=target)
        if self.known_good in good:
            return int(self.known_good or AS_FOUND)
        return good[0] if good else AS_FOUND


def fold(events: Sequence[Event]) -> FleetState:
    """The state after ``events``. Kinds that it does not know change nothing."""
    state = FleetState()
    for event in events:
        handler = _HANDLERS.get(event.kind)
        if handler is not None:
            handler(state, event)
    state.next_release = max(state.releases, default=AS_FOUND) + 1
    _plan_rollback(state)
    return state


def _opened(state: FleetState, event: Event) -> None:
    data = event.data
    operation = Operation(
        id=str(event.operation),
        kind=data["kind"],
        epoch=int(event.epoch or 0),
        target=data["target"],
        from_release=data["from"],
        back_to=data.get("back_to"),
        opened_at=event.at,
        actor=event.actor,
        controller=data.get("controller"),
        reason=event.reason,
    )
    state.operations[operation.id] = operation
    state.open_operation = operation
    state.epoch = operation.epoch
    if operation.kind == DEPLOY:
        release = _release(state, operation.target)
        if release.opened_at is None:
            release.opened_by, release.opened_at = event.actor, event.at
        release.version, release.checksum = data.get("version"), data.get("checksum")
    _learn_digests(state, operation, data)


def _taken_over(state: FleetState, event: Event) -> None:
    operation = state.operations[str(event.operation)]
    state.epoch = int(event.epoch or 0)
    if event.data["by_operation"] == operation.id:
        operation.epoch, operation.actor, operation.controller = state.epoch, event.actor, event.data.get("controller")
        operation.shared, operation.paused = True, None
        return
    # Nobody knows what its controller did last, so it counts as one that touched hosts.
    operation.outcome, operation.closed_at = TAKEN_OVER, event.at
    state.open_operation = None
    state.last_operation = state.standing = operation


def _closed(state: FleetState, event: Event) -> None:
    operation = state.operations[str(event.operation)]
    operation.outcome, operation.closed_at = event.data["outcome"], event.at
    operation.to_release = event.data.get("to_release")
    _learn_digests(state, operation, event.data)
    state.open_operation = None
    state.last_operation = operation
    if operation.to_release is not None:
        state.current = operation.to_release
    if operation.outcome in ("confirmed", "rolled_back") or (operation.outcome == "failed" and operation.touched):
        state.standing = operation


def _ordered(state: FleetState, event: Event) -> None:
    operation = state.operations.get(str(event.operation))
    if operation is not None and operation.halted is None:
        operation.halted = event.reason or "a rollback was ordered"


def _paused(state: FleetState, event: Event) -> None:
    operation = state.operations.get(str(event.operation))
    if operation is not None:
        gate, wave = event.data.get("gate"), event.data.get("wave")
        operation.paused = {"gate": gate, "wave": wave, "reason": event.reason, "at": event.at, "actor": event.actor}


def _judged(state: FleetState, event: Event) -> None:
    operation = state.operations.get(str(event.operation))
    if operation is not None and event.data.get("verdict") == "pass":
        operation.passed.append({"gate": event.data.get("gate"), "wave": event.data.get("wave")})


def _confirmed(state: FleetState, event: Event) -> None:
    release = _release(state, event.data["release"])
    release.state, release.ever_confirmed = "confirmed", True
    release.confirmed_at, release.confirmed_seq = event.at, event.seq
    release.withdrawn_at = release.reason = None


def _withdrawn(state: FleetState, event: Event) -> None:
    release = _release(state, event.data["release"])
    release.state, release.withdrawn_at, release.reason = "withdrawn", event.at, event.reason


def _release_rebuilt(state: FleetState, event: Event) -> None:
    data = event.data
    release = _release(state, data["release"])
    release.version, release.checksum, release.digests = data["version"], data["checksum"], dict(data["digests"])
    release.state, release.ever_confirmed = data["state"], data["ever_confirmed"]
    release.confirmed_at, release.withdrawn_at = data["confirmed_at"], data["withdrawn_at"]
    release.confirmed_seq = event.seq if release.ever_confirmed else 0


def _rebuilt(state: FleetState, event: Event) -> None:
    data = event.data
    operation = Operation(
        id=data["operation"],
        kind=DEPLOY,
        epoch=int(event.epoch or 0),
        target=data["target"],
        from_release=data["from"],
        back_to=data["current"],
        outcome=data["outcome"],
        closed_at=event.at,
        actor=event.actor,
        reason=event.reason,
        to_release=data["current"] if data["outcome"] == "confirmed" else None,
        touched=set(data["touched"]),
    )
    state.operations[operation.id] = operation
    state.last_operation = state.standing = operation
    state.current, state.epoch = data["current"], operation.epoch


def _host_changed(state: FleetState, event: Event) -> None:
    release = release_number(event.data.get("release"))
    if event.host is None or release is None:
        return
    state.hosts[event.host] = release
    _touch(state, event.host, event.operation, release)


def _host_reported(state: FleetState, event: Event) -> None:
    if event.host is None:
        return
    release = release_number(event.data.get("release"))
    state.hosts[event.host] = release
    operation = state.operations.get(str(event.operation))
    moved = operation is not None and release != operation.from_release
    if moved or event.data.get("phase") in _UNSETTLED:
        _touch(state, event.host, event.operation, release)


def _touch(state: FleetState, host: str, operation_id: str | None, release: int | None) -> None:
    operation = state.operations.get(str(operation_id))
    if operation is None:
        return
    operation.touched.add(host)
    target = state.releases.get(operation.target)
    if target is not None and target.state == "prepared" and release == target.number:
        target.state = "active"


def _learn_digests(state: FleetState, operation: Operation, data: dict[str, Any]) -> None:
    """A digest that is known stays: releases are immutable."""
    release = state.releases.get(operation.target)
    if release is not None:
        for host, digest in (data.get("digests") or {}).items():
            release.digests.setdefault(host, digest)


def release_number(value: Any) -> int | None:
    """``value`` as the number of a release, or None. Templates may have made text of it."""
    # Longer ones are no number of a release, and Python refuses to read very long ones.
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _release(state: FleetState, number: int) -> Release:
    return state.releases.setdefault(number, Release(number))


_HANDLERS = {
    "operation_opened": _opened,
    "operation_taken_over": _taken_over,
    "operation_closed": _closed,
    "operation_paused": _paused,
    "gate_verdict": _judged,
    "rollback_ordered": _ordered,
    "release_confirmed": _confirmed,
    "release_withdrawn": _withdrawn,
    "release_rebuilt": _release_rebuilt,
    "journal_rebuilt": _rebuilt,
    _HOST_REPORTED: _host_reported,
}
_HANDLERS.update(dict.fromkeys(_HOST_CHANGED, _host_changed))

#: Written by the journal's own room only; what others append cannot change who holds the fleet or what is known good.
RESERVED = (
    "operation_opened",
    "operation_taken_over",
    "operation_closed",
    "release_confirmed",
    "release_withdrawn",
    "release_rebuilt",
    "journal_rebuilt",
    "journal_tail_cut",
    "journal_tail_completed",
)


def _plan_rollback(state: FleetState) -> None:
    """Fill in ``known_good`` and ``rollback_*``."""
    unfinished = state.open_operation
    standing = state.standing
    if unfinished is None and standing is not None and standing.outcome in ("failed", TAKEN_OVER):
        unfinished = standing
    if unfinished is not None:
        _plan_after_unfinished(state, unfinished)
        return
    state.known_good = next(iter(state.known_good_releases()), None)
    if standing is None:
        return
    state.rollback_from = state.current
    if standing.kind == ROLLBACK or standing.outcome == "rolled_back":
        state.rollback_target = state.current
        state.rollback_reason = (
            "the fleet already is on release %d, the target of the last rollback (%s); name a release to go elsewhere"
            % (state.current, standing.id)
        )
        return
    others = state.known_good_releases(without=state.current)
    if others:
        state.rollback_target = others[0]
        state.rollback_reason = "release %d was known good before release %d" % (others[0], state.current)
    else:
        state.rollback_reason = "release %d is the only known good release" % state.current


def _plan_after_unfinished(state: FleetState, operation: Operation) -> None:
    suspect = operation.suspect
    state.known_good = next(iter(state.known_good_releases(without=suspect)), None)
    state.rollback_from = suspect
    how = "is open" if operation.outcome is None else "did not finish (%s)" % operation.outcome
    begun = "%s, the %s %s release %d, %s" % (
        operation.id,
        operation.kind,
        "of" if operation.kind == DEPLOY else "from",
        suspect,
        how,
    )
    if state.known_good is None:
        state.rollback_target = AS_FOUND
        state.rollback_reason = "%s, and no release was ever confirmed: release 0 is the fleet as it was found" % begun
    else:
        state.rollback_target = state.known_good
        state.rollback_reason = "%s; release %d is the newest known good one" % (begun, state.known_good)
