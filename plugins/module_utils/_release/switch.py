# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one path on which a host goes to a release: forward, backward, after a failure, after a crash, and for the confirm timer."""

from __future__ import annotations

import time
from dataclasses import dataclass

from .._config.history import LIVE, ConfigHistory
from .._errors import FleetError, HalfDone, PutBack
from .._worker import guard
from .._worker.ensure import may_stand_beside
from .._worker.health import wait_healthy
from .._worker.registry import open_manager
from .._worker.versions import VersionStore
from .orders import HostSettings
from .record import AS_FOUND, HostRecord, HostState, ReleaseRecord


@dataclass(frozen=True)
class Unless:
    """A version that starts only until a deadline, unix time: so a host that was away past it does not start it when it comes back."""

    deadline: float
    why: str
    operation: str | None


class Switch:
    """Swaps code and config together; a failure puts the host back as it was."""

    def __init__(self, settings: HostSettings, record: HostRecord, history: ConfigHistory, store: VersionStore) -> None:
        self._settings = settings
        self._record = record
        self._history = history
        self._store = store

    def to(self, state: HostState, target: ReleaseRecord, unless: Unless | None = None) -> dict[str, float]:
        """Write the intent down, and go to ``target``; the caller crosses the intent out. Seconds per step.

        :param unless: what keeps the target's version from starting later on.
        :raises PutBack: it failed, and the host is back on the release that it was on.
        :raises HalfDone: it failed, and so did the way back; the intent stays for the next run.
        """
        origin = self._record.release(state.live if state.live is not None else AS_FOUND)
        mixed = state.intent is not None
        state.intent = {"from": origin.number, "to": target.number, "at": time.time()}
        self._record.save_state(state)
        try:
            beside = not mixed and self._may_stand_beside(origin, target)
            return self._go_beside(target, unless) if beside else self.go_to(target, unless)
        except (FleetError, OSError) as problem:
            raise self._put_back(state, origin, target, problem) from problem

    def back_to(self, state: HostState, target: ReleaseRecord) -> dict[str, float]:
        """As :meth:`to`, from a release that must not run any more: a failure leaves the intent, and never starts that release again.

        :raises FleetError: it failed; the next run, or the confirm timer's next try, goes on.
        """
        state.intent = {"from": state.live, "to": target.number, "at": time.time()}
        self._record.save_state(state)
        return self.go_to(target)

    def go_to(self, target: ReleaseRecord, unless: Unless | None = None) -> dict[str, float]:
        """Bring the host to ``target``, from whatever mixture it is in: quiet, swap, start, check. Every step may be repeated."""
        manager = open_manager(self._settings.worker)
        timings: dict[str, float] = {}
        with _timed(timings, "drain"):
            manager.quiet()
            manager.wait_stopped(float(self._settings.worker["drain_timeout"]))
        with _timed(timings, "swap"):
            self._history.apply(self._history.resolve(target.snapshot))
            self.let_start(target.version, unless)
            self._store.activate(target.version)
            manager.reload()
        with _timed(timings, "start"):
            if target.running and target.version is not None:
                manager.start()
                worker = self._settings.worker
                wait_healthy(manager, target.version, worker.get("health") or {}, float(worker["start_timeout"]))
        return timings

    def _may_stand_beside(self, origin: ReleaseRecord, target: ReleaseRecord) -> bool:
        """Whether the target's workers may start while the origin's still finish: not where these would read the target's config."""
        if not (origin.running and target.running and origin.version and target.version) or origin.version == target.version:
            return False
        if not self._settings.worker.get("side_by_side"):
            return False
        manager = open_manager(self._settings.worker)
        return may_stand_beside(manager, manager.workers()) and not self._history.diff(LIVE, self._history.resolve(target.snapshot))

    def _go_beside(self, target: ReleaseRecord, unless: Unless | None) -> dict[str, float]:
        """As :meth:`go_to`, from a release that only differs in its version: its workers finish while the target's have started."""
        worker = self._settings.worker
        manager = open_manager(worker)
        timings: dict[str, float] = {}
        with _timed(timings, "drain"):
            manager.quiet()
        with _timed(timings, "swap"):
            self.let_start(target.version, unless)
            self._store.activate(target.version)
            manager.reload()
        with _timed(timings, "start"):
            manager.start_beside()
            wait_healthy(manager, target.version, worker.get("health") or {}, float(worker["start_timeout"]))
        with _timed(timings, "drain"):
            manager.wait_left(float(worker["drain_timeout"]))
        return timings

    def let_start(self, version: str | None, unless: Unless | None = None) -> None:
        """End the quarantine of a version that the host went back from once; with ``unless`` it begins at the deadline."""
        entry = guard.entry(self._store.root, version) if version is not None else None
        if version is None or (entry is not None and not entry.went_back):
            return
        if unless is not None:
            guard.add(self._store.root, guard.Entry(version, unless.why, unless.deadline, unless.operation, went_back=True))
        elif entry is not None:
            guard.remove(self._store.root, version)

    def keep_out(self, left: ReleaseRecord, why: str, operation: str | None) -> None:
        """Keep the version of a release that the host went back from from starting, unless the host still needs it."""
        if left.version is None or left.version == self._store.current():
            return
        entry = guard.entry(self._store.root, left.version)
        if entry is None or not entry.holds:
            self.let_start(left.version, Unless(time.time(), why, operation))

    def _put_back(self, state: HostState, origin: ReleaseRecord, target: ReleaseRecord, problem: Exception) -> FleetError:
        reason = problem.message if isinstance(problem, FleetError) else str(problem)
        details = dict(problem.details) if isinstance(problem, FleetError) else {}
        host = self._settings.host
        try:
            self.go_to(origin)
        except (FleetError, OSError) as second:
            second_reason = second.message if isinstance(second, FleetError) else str(second)
            return HalfDone(
                "Switching %s to release %d failed (%s), and release %d could not be put back either (%s)"
                % (host, target.number, reason, origin.number, second_reason),
                still_true="The intent is recorded in %s; no worker of release %d was left running by this run"
                % (self._record.folder, target.number),
                next_step="Mend the second cause, then run the same playbook again: it finishes putting release %d back" % origin.number,
                details=details,
            )
        state.intent = None
        self._record.save_state(state)
        return PutBack(
            "Switching %s to release %d failed: %s" % (host, target.number, reason),
            still_true="%s is back on release %d (version %s), code and config" % (host, origin.number, origin.version),
            next_step=(problem.next_step if isinstance(problem, FleetError) else None) or "Mend the cause, then run again",
            details=details,
        )


class _timed:
    """Adds the seconds that a step took to ``timings[step]``."""

    def __init__(self, timings: dict[str, float], step: str) -> None:
        self._timings = timings
        self._step = step
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *raised: object) -> None:
        self._timings[self._step] = round(self._timings.get(self._step, 0.0) + time.monotonic() - self._began, 3)
