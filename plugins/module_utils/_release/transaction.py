# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The transaction on one host: code and config change together, or not at all.

A change is written down (the intent) before the first live file is touched, and crossed out after the last one. Whatever
instruction the process dies at, the next run, or the confirm timer, reads the intent and puts the earlier release back.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

from .._config.history import LIVE, ConfigHistory
from .._config.watch import Watch
from .._errors import Conflict, PutBack, Refused
from .._journal.events import Event
from .._journal.journal import Journal
from .._worker.api import WorkerManager
from .._worker.ensure import open_store, refuse_kind
from .._worker.guard import refuse_ordered
from .._worker.probes import longest_hold
from .._worker.registry import open_manager
from .config_change import put_config_back
from .orders import HostSettings, Order, Result, Wanted
from .record import AS_FOUND, HostRecord, HostState, ReleaseRecord
from .switch import Switch, Unless
from .timer import CONFIG, RELEASE, ConfirmTimer, seconds_left


class HostTransaction:
    """Conducts the config history and the workers of one fleet on one host."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings
        self.record = HostRecord(settings.state_dir, settings.fleet)
        config = settings.config
        self.history = ConfigHistory(
            self.record.config_repo,
            Watch(config.get("paths") or [], config.get("exclude") or [], config.get("sensitive") or []),
        )
        self._store = open_store(settings.worker)
        self.timer = ConfirmTimer(self.record.folder, settings.fleet)
        #: Whether this run had to put something right that an earlier one had left.
        self._mended = False
        self._switch = Switch(settings, self.record, self.history, self._store)

    # -- phases ---------------------------------------------------------------------------------------------------

    def prepare(self, wanted: Wanted, order: Order) -> Result:
        """Fetch, verify and record a release beside the live one. Nothing live changes."""
        self._preflight(order)
        refuse_kind(self._manager(), self._store, wanted.version, wanted.artifact)
        refuse_ordered(self._store.root, wanted.version)
        self.record.create()
        with self.record.locked():
            state = self._recovered(order)
            self._store.prepare(wanted.version, wanted.artifact, wanted.checksum)
            state = self._note_as_found(state)
            made_of = self.history.tree_of(wanted.files)
            known = self._known(wanted.number)
            if known is not None and known.is_made_of(wanted.version, wanted.checksum, made_of):
                return self._compared(state, known, changed=self._mended)
            if known is not None and known.activated:
                return Result(self._mended, known.public(), differs=True, pending=True)
            snapshot = self.history.snapshot("release-%d" % wanted.number, wanted.number, overlay=wanted.files)[0]
            record = ReleaseRecord(wanted.number, wanted.version, wanted.checksum, snapshot.id, snapshot.tree, time.time())
            self.record.save_release(record)
            return self._compared(state, record, changed=True)

    def foresee(self, wanted: Wanted, order: Order) -> Result:
        """What ``prepare`` would find. Reads only."""
        self._preflight(order)
        state = self.record.state()
        refuse_kind(self._manager(), self._store, wanted.version, wanted.artifact)
        refuse_ordered(self._store.root, wanted.version)
        self._store.check(wanted.version, wanted.artifact, wanted.checksum)
        known = self._known(wanted.number)
        if known is not None and known.is_made_of(wanted.version, wanted.checksum, self.history.tree_of(wanted.files)):
            return self._compared(state, known, changed=False)
        if known is not None and known.activated:
            return Result(False, known.public(), differs=True, pending=True)
        diffs = self.history.diff(LIVE, wanted.files)
        return Result(
            changed=True,
            release={"number": wanted.number, "version": wanted.version, "checksum": wanted.checksum, "snapshot": None, "digest": None},
            pending=True,
            diffs=diffs,
            before=self._live_version(),
            after=wanted.version,
        )

    def examine(self, number: int, order: Order) -> Result:
        """Whether a release that is recorded here can be switched to, and what that would change. Reads only."""
        self._preflight(order)
        state = self.record.state()
        record = self._ready(number)
        return self._compared(state, record, changed=False)

    def activate(self, number: int, order: Order, confirm_timeout: float) -> Result:
        """Switch to a prepared release under an armed confirm timer."""
        self._preflight(order)
        record = self._ready(number)
        with self.record.locked():
            state = self._recovered(order)
            found = self._compared(state, record, changed=self._mended)
            if not found.pending:
                self._wait_anew(state, record, order, confirm_timeout)
                self._learn_epoch(state, order)
                found.confirm_until = self._deadline()
                return found
            self._refuse_slow_switch(confirm_timeout)
            of = {"kind": RELEASE, "release": number}
            timer = self.timer.arm(confirm_timeout, order.operation or "by-hand", of, self._agent_settings())
            try:
                timings = self._go(state, record, order, _unless(timer))
            except PutBack:
                # A release that was live and unconfirmed before stays so.
                if state.phase == "confirmed":
                    self.timer.disarm()
                raise
            repaired = state.live == number and state.phase == "confirmed"
            if not repaired:
                # The way back leads to what was confirmed, never to another unconfirmed release.
                state.previous = state.live if state.phase == "confirmed" else state.previous
                state.phase = "active"
            self._settle(state, record, order)
            if repaired:
                self._switch.let_start(record.version)
                self.timer.disarm()
            self._note("host_switched", number, order, timings)
            return Result(
                True,
                record.public(),
                pending=False,
                diffs=found.diffs,
                before=found.before,
                after=found.after,
                timings=timings,
                confirm_until=None if repaired else timer["deadline"],
            )

    def foresee_switch(self, number: int, order: Order, confirm_timeout: float | None) -> Result:
        """What ``activate``, or without a timeout ``revert``, would change, or refuse. Reads only."""
        found = self.examine(number, order)
        if found.pending and confirm_timeout is not None:
            self._refuse_slow_switch(confirm_timeout)
            self.timer.refuse_another(order.operation or "by-hand")
        found.changed = found.pending or (confirm_timeout is None and self._unconfirmed(self.record.state()))
        return found

    def foresee_confirm(self, number: int, order: Order) -> Result:
        """What ``confirm`` would change, once the release is live. Reads only."""
        found = self.examine(number, order)
        found.changed = self._unconfirmed(self.record.state())
        return found

    def confirm(self, number: int, order: Order) -> Result:
        """Disarm the confirm timer: the release is known good here."""
        self._preflight(order)
        record = self.record.release(number)
        with self.record.locked():
            state = self._recovered(order)
            if state.live != number:
                raise Conflict(
                    "Release %d is not live on %s: release %s is, since %s"
                    % (number, self._settings.host, state.live, _clock(state.since)),
                    still_true="Nothing was changed",
                    next_step="The confirm timer or another operation put it back: read %s, then deploy again" % self.record.events_path,
                )
            if not self._unconfirmed(state):
                return Result(self._mended, record.public())
            # The order matters: a death in between leaves a timer that takes back a version that may start, or finds nothing to take back.
            self._switch.let_start(record.version)
            state.phase = "confirmed"
            state.previous = None
            self._fence(state, order)
            self.record.save_state(state)
            self._disarm()
            self._note("host_confirmed", number, order, {})
            return Result(True, record.public())

    def revert(self, number: int, order: Order) -> Result:
        """Switch to an earlier release that is recorded here; it needs no confirmation."""
        self._preflight(order)
        record = self._ready(number)
        with self.record.locked():
            state = self._recovered(order, onwards=number)
            found = self._compared(state, record, changed=self._mended)
            if self.timer.armed(CONFIG) is not None:
                # The release says what the config is from here on.
                self.timer.disarm()
            timings = self._go(state, record, order) if found.pending else {}
            if not found.pending and not self._unconfirmed(state):
                self._learn_epoch(state, order)
                return found
            state.phase, state.previous = "confirmed", None
            self._settle(state, record, order)
            # Last: a death on the way leaves the timer, which finishes the way back.
            self.timer.disarm()
            if not found.pending:
                found.changed = True
                return found
            self._note("host_reverted", number, order, timings)
            return Result(True, record.public(), diffs=found.diffs, before=found.before, after=found.after, timings=timings)

    def take_back(self, token: str) -> str:
        """The confirm timer's own act: put the earlier release back unless the order was confirmed meanwhile.

        :returns: what was done, in one word for the log.
        """
        with self.record.locked(patience=3600):
            armed = self.timer.armed(RELEASE)
            if armed is None or armed["token"] != token:
                return "disarmed"
            self._recovered(Order(armed["operation"], None), expired=True)
            return "taken back" if self._mended else "nothing to take back"

    def is_rolled_back(self, path: str) -> bool:
        """Whether a rollback to the live release puts this file back: that release has it, or is the host as it was found."""
        live = self.record.state().live
        if live in (None, AS_FOUND):
            return True
        return os.path.normpath(path) in self.history.entries(self.history.resolve(self.record.release(live).snapshot))

    def content_of(self, number: int, path: str) -> bytes | None:
        """What a file holds in a release that is recorded here; None if the release does not have it."""
        return self.history.content(self.history.resolve(self.record.release(number).snapshot), path)

    def status(self) -> dict[str, Any]:
        """Where the host stands: live release, phase, and the version of each running worker process."""
        state = self.record.state()
        version = None
        if state.live is not None:
            version = self.record.release(state.live).version
        timer = self.timer.armed(RELEASE)
        return {
            "release": state.live,
            "version": version,
            "phase": "interrupted" if state.intent else state.phase,
            "since": state.since or None,
            "epoch": state.epoch,
            "operation": state.operation,
            "confirm_until": timer["deadline"] if timer else None,
            "workers": [
                {"name": worker.name, "pid": worker.pid, "state": worker.state, "since": worker.since, "version": worker.version}
                for worker in self._manager().workers()
            ],
        }

    # -- steps ----------------------------------------------------------------------------------------------------

    def _go(self, state: HostState, target: ReleaseRecord, order: Order, unless: Unless | None = None) -> dict[str, float]:
        self._fence(state, order)
        try:
            return self._switch.to(state, target, unless)
        except PutBack as put_back:
            self._switch.keep_out(target, "release %d could not be switched to" % target.number, order.operation)
            self._go_on_waiting(state)
            self._note("host_put_back", state.live or AS_FOUND, Order(state.operation, state.epoch), {}, put_back.message)
            raise

    def _recovered(self, order: Order, expired: bool = False, onwards: int | None = None) -> HostState:
        """The host's state, after undoing a change that an earlier run left half-way, or that was not confirmed in time.

        :param expired: the confirm timer's time is up, whatever the clock says.
        :param onwards: the release that the host goes back to. A change that was cut short is not undone on the way there: the release that
            it left may start no more, because it is bad, or because the broker has shut it out.
        """
        state = self.record.state()
        self._refuse_older(state, order)
        armed = self.timer.armed()
        # What waits has a second to act by itself; where a reboot ended it, this run does its work.
        late = armed if armed is not None and (expired or seconds_left(armed) < -1.0) else None
        # Past the deadline an interrupted switch is not undone first: that would start the unconfirmed version once more.
        undone = state.intent is not None and (onwards is None or state.intent["from"] == onwards)
        if state.intent is not None and undone and (late is None or _way_back(state, late) is None):
            origin = self.record.release(state.intent["from"])
            interrupted = state.intent["to"]
            self._switch.go_to(origin)
            state.intent = None
            self.record.save_state(state)
            self._mended = True
            self._go_on_waiting(state)
            if state.phase == "confirmed":
                self._disarm()
            self._note("host_recovered", origin.number, order, {}, "a switch to release %s was interrupted" % interrupted)
        if late is not None:
            self._take_back(state, late)
        return state

    def _take_back(self, state: HostState, armed: dict[str, Any]) -> None:
        back = _way_back(state, armed)
        if armed.get("kind") == CONFIG:
            put_config_back(self.record, armed)
            self._mended = True
        elif back is not None:
            order = Order(armed["operation"], None)
            record = self.record.release(back)
            # What fails is tried again, and the unconfirmed version stays out meanwhile.
            timings = self._switch.back_to(state, record)
            state.phase, state.previous = "confirmed", None
            self._settle(state, record, order)
            self._mended = True
            self._note("confirm_timer_reverted", record.number, order, timings, "not confirmed in time")
        self.timer.disarm()

    def _go_on_waiting(self, state: HostState) -> None:
        """The host is back on a release that still waits for its confirmation: its version starts until the deadline, as before."""
        armed = self.timer.armed(RELEASE)
        if state.phase == "active" and state.live is not None and armed is not None:
            self._switch.let_start(self.record.release(state.live).version, _unless(armed))

    def _wait_anew(self, state: HostState, record: ReleaseRecord, order: Order, confirm_timeout: float) -> None:
        """An operation that was taken over has its time before it, so that what waits for its confirmation gets that, too."""
        armed = self.timer.armed(RELEASE)
        if armed is not None and state.phase == "active" and order.epoch is not None and order.epoch > state.epoch:
            of = {"kind": RELEASE, "release": record.number}
            timer = self.timer.arm(confirm_timeout, order.operation or "by-hand", of, self._agent_settings())
            self._switch.let_start(record.version, _unless(timer))

    def _unconfirmed(self, state: HostState) -> bool:
        return state.phase != "confirmed" or self.timer.armed(RELEASE) is not None

    def _disarm(self) -> None:
        """Disarm the timer if it is a release's; one of a config change goes on."""
        if self.timer.armed(RELEASE) is not None:
            self.timer.disarm()

    def _settle(self, state: HostState, record: ReleaseRecord, order: Order) -> None:
        if not record.activated:
            record.activated = True
            self.record.save_release(record)
        self._fence(state, order)
        left, state.live = state.live, record.number
        state.since = time.time()
        state.intent = None
        self.record.save_state(state)
        if left is not None and record.number < left:
            self._switch.keep_out(self.record.release(left), "the host went back from release %d" % left, order.operation)

    # -- questions ------------------------------------------------------------------------------------------------

    def _preflight(self, order: Order) -> None:
        """All that can be refused by looking."""
        self._refuse_older(self.record.state(), order)
        self.history.check()
        self._manager().validate()

    def _refuse_older(self, state: HostState, order: Order) -> None:
        if order.epoch is not None and order.epoch < state.epoch:
            raise Conflict(
                "Operation %s has epoch %d, but operation %s with epoch %d has been on %s since"
                % (order.operation, order.epoch, state.operation, state.epoch, self._settings.host),
                still_true="Nothing was changed",
                next_step="This controller was taken over: stop it, and look at the fleet with queueops.fleet.status",
            )

    def _learn_epoch(self, state: HostState, order: Order) -> None:
        """Refuse older controllers from here on, on a host where nothing else is left to do."""
        if order.epoch is not None and order.epoch > state.epoch:
            self._fence(state, order)
            self.record.save_state(state)

    def _fence(self, state: HostState, order: Order) -> None:
        if order.epoch is not None:
            state.epoch = order.epoch
            state.operation = order.operation

    def _ready(self, number: int) -> ReleaseRecord:
        """The record of a release whose code and config are both still here."""
        record = self.record.release(number)
        if record.version is not None:
            self._store.require(record.version)
        self.history.resolve(record.snapshot)
        return record

    def _known(self, number: int) -> ReleaseRecord | None:
        return next((record for record in self.record.releases() if record.number == number), None)

    def _note_as_found(self, state: HostState) -> HostState:
        """Before the first release: record the host as it was found, so that there is a way back."""
        if state.live is not None:
            return state
        snapshot = self.history.snapshot("release-0", AS_FOUND)[0]
        running = any(worker.state in ("running", "starting") for worker in self._manager().workers())
        self.record.save_release(
            ReleaseRecord(AS_FOUND, self._store.current(), None, snapshot.id, snapshot.tree, time.time(), activated=True, running=running)
        )
        state.live = AS_FOUND
        state.since = time.time()
        self.record.save_state(state)
        return state

    def _compared(self, state: HostState, record: ReleaseRecord, changed: bool) -> Result:
        """How far the host is from ``record``: by its state, its files and its running processes."""
        diffs = self.history.diff(LIVE, self.history.resolve(record.snapshot))
        workers = self._manager().workers()
        staying = [worker for worker in workers if not worker.leaving]
        serving = [worker for worker in staying if worker.state == "running" and worker.version == record.version]
        on_it = len(serving) == len(staying) if record.running and record.version is not None else True
        pending = bool(state.live != record.number or state.intent or diffs or self._store.current() != record.version or not on_it)
        return Result(
            changed,
            record.public(),
            pending=pending,
            diffs=diffs,
            before=self._live_version(),
            after=str(record.version or "none"),
        )

    def _live_version(self) -> str:
        return str(self._store.current() or "none")

    def _refuse_slow_switch(self, confirm_timeout: float) -> None:
        worker = self._settings.worker
        longest = float(worker["drain_timeout"]) + float(worker["start_timeout"]) + longest_hold(worker.get("health") or {})
        if confirm_timeout <= longest:
            raise Refused(
                "The switch of %s may take %d s (worker.drain_timeout + worker.start_timeout + the longest hold of worker.health), "
                "but the confirm timer would take it back after %d s" % (self._settings.host, longest, confirm_timeout),
                option="confirm_timeout",
                next_step="Set confirm_timeout above %d s, or shorten the drain" % longest,
            )

    def _deadline(self) -> float | None:
        timer = self.timer.armed(RELEASE)
        return timer["deadline"] if timer else None

    def _manager(self) -> WorkerManager:
        return open_manager(self._settings.worker)

    def _agent_settings(self) -> dict[str, Any]:
        return {"kind": RELEASE, "settings": asdict(self._settings)}

    def _note(self, kind: str, release: int, order: Order, timings: dict[str, float], reason: str | None = None) -> None:
        """Write the host's own event; a lost fleet journal can be rebuilt from these."""
        event = Event(
            kind=kind,
            operation=order.operation,
            epoch=order.epoch,
            host=self._settings.host,
            reason=reason,
            data={"release": release, "timings": timings},
        )
        Journal(self.record.events_path).append([event])


def _way_back(state: HostState, armed: dict[str, Any]) -> int | None:
    """The release that the timer leads back to; None where what it was armed for is not live, or is confirmed."""
    return state.previous if state.phase == "active" and state.live == armed.get("release") else None


def _unless(timer: dict[str, Any]) -> Unless:
    return Unless(timer["deadline"], "not confirmed in time", timer["operation"])


def _clock(unix: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix))
