# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A change of the config alone under the confirm timer: reverted, and unless confirmed in time, put back by the host."""

from __future__ import annotations

import os
from typing import Any, Mapping

from .._config.diff import FileDiff
from .._config.history import Snapshot
from .._config.options import history_of, revert, shown
from .._errors import Conflict, FleetError, HalfDone, Refused
from .._files import read_json
from .._journal.events import Event
from .._journal.journal import Journal
from .record import HostRecord
from .timer import CONFIG, ConfirmTimer, seconds_left, what_waits


class ConfigChange:
    """Conducts the config history and the confirm timer of one fleet on one host.

    :param params: the options of ``config_revert``.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = dict(params)
        self._record = HostRecord(params["state_dir"], params["fleet"])
        self._timer = ConfirmTimer(self._record.folder, params["fleet"])

    def revert(self, confirm_timeout: int | None, dry_run: bool) -> tuple[dict[str, Any], bool, list[FileDiff], list[str]]:
        """Put the snapshot ``to`` in place; with ``confirm_timeout`` the host puts the state before back after so many seconds.

        :returns: the result, whether it changed anything, the diff, and warnings.
        :raises Conflict: another change waits for its confirmation, or a switch of a release was cut short.
        """
        target = history_of(self._params).resolve(self._params["to"])
        if dry_run:
            self._refuse_beside(target, confirm_timeout)
            return self._reported(revert(self._params, dry_run=True))
        with self._record.locked():
            self._act_on_expired()
            self._refuse_beside(target, confirm_timeout)
            # The same snapshot from here on, whatever is recorded meanwhile.
            self._params["to"] = target.id
            armed = self._timer.armed(CONFIG)
            if armed is not None and armed["back_to"] == target.id:
                done = revert(self._params, dry_run=False)
                self._timer.disarm()
                return self._reported(done)
            if armed is None and confirm_timeout is not None:
                return self._reported(self._under_timer(target, confirm_timeout))
            return self._reported(revert(self._params, dry_run=False))

    def confirm(self, dry_run: bool) -> tuple[dict[str, Any], bool, list[FileDiff], list[str]]:
        """Disarm the timer of the change to the snapshot ``to``.

        :raises Conflict: the host is not at that snapshot: it was put back, or another change waits.
        """
        if self._params["to"] == "previous":
            raise Refused(
                "`previous` is another snapshot since the change",
                option="to",
                next_step="Give the id that the change returned, or a label",
            )
        history = history_of(self._params)
        target = history.resolve(self._params["to"])
        result: dict[str, Any] = {"snapshot": shown(target), "was": target.id, "files": [], "recovered": [], "confirm_until": None}
        armed = self._timer.armed()
        if armed is not None and armed.get("kind") == CONFIG and armed["to"] == target.id and seconds_left(armed) > 0:
            if not dry_run:
                with self._record.locked():
                    # The host may have acted while this waited for the lock.
                    if self._timer.armed() != armed:
                        return self.confirm(dry_run)
                    self._timer.disarm()
                    self._note("config_confirmed", target.id, armed["operation"])
            return result, True, [], []
        live = history.last_live()
        if armed is None and live is not None and live.id == target.id:
            return result, False, [], []
        what = "it waits for the confirmation of %s" % what_waits(armed) if armed else "it is at %s" % (live.short if live else "none")
        raise Conflict(
            "The config of fleet %s here is not at the snapshot %s: %s" % (self._params["fleet"], target.short, what),
            still_true="Nothing was changed",
            next_step="If the time was up, the host put it back by itself: revert again, with a longer confirm_timeout",
        )

    def take_back(self, token: str) -> str:
        """The confirm timer's own act. Returns what was done, in a word for the log."""
        with self._record.locked(patience=3600):
            armed = self._timer.armed(CONFIG)
            if armed is None or armed["token"] != token:
                return "disarmed"
            self.put_back(armed)
            return "taken back"

    def put_back(self, armed: Mapping[str, Any]) -> None:
        """Put the config back to what it was before the change, and disarm; the caller holds the host's lock."""
        history = history_of(self._params)
        history.apply(history.resolve(armed["back_to"]))
        self._timer.disarm()
        self._note("config_put_back", armed["back_to"], armed["operation"], "not confirmed in time")

    def _under_timer(self, target: Snapshot, seconds: int) -> tuple[dict[str, Any], bool, list[FileDiff], list[str]]:
        foreseen = revert(self._params, dry_run=True)
        if not foreseen[1] and history_of(self._params).pending() is None:
            return foreseen
        # All that is watched, so that what is watched stays the same for the next run.
        before = history_of(dict(self._params, paths=None)).snapshot()[0]
        operation = "config-%s" % target.short
        of = {"kind": CONFIG, "to": target.id, "back_to": before.id}
        kept = {name: self._params.get(name) for name in ("fleet", "state_dir", "paths", "exclude", "sensitive")}
        self._timer.arm(seconds, operation, of, {"kind": CONFIG, "settings": kept})
        try:
            done = revert(self._params, dry_run=False)
        except HalfDone:
            raise
        except FleetError:
            self._timer.disarm()
            raise
        self._note("config_changed", target.id, operation)
        return done

    def _refuse_beside(self, target: Snapshot, confirm_timeout: int | None) -> None:
        """A second change while one waits is refused, but for the same again, and for the way back."""
        state = self._record.state()
        if state.intent is not None:
            raise Conflict(
                "A switch of fleet %s to release %s was cut short on this host" % (self._params["fleet"], state.intent["to"]),
                still_true="Nothing was changed",
                next_step="Run queueops.fleet.rollback or the deploy again; the next run puts the host right",
            )
        armed = self._timer.armed()
        if armed is None or seconds_left(armed) <= 0:
            return
        same = armed.get("kind") == CONFIG and armed["to"] == target.id
        back = armed.get("kind") == CONFIG and armed["back_to"] == target.id and confirm_timeout is None
        if not (same or back):
            self._timer.refuse_another("")

    def _act_on_expired(self) -> None:
        """Where a reboot ended what waited, the next run does its work."""
        armed = self._timer.armed(CONFIG)
        if armed is not None and seconds_left(armed) <= 0:
            put_config_back(self._record, armed)

    def _reported(
        self, done: tuple[dict[str, Any], bool, list[FileDiff], list[str]]
    ) -> tuple[dict[str, Any], bool, list[FileDiff], list[str]]:
        result, changed, diffs, warnings = done
        armed = self._timer.armed(CONFIG)
        return dict(result, confirm_until=armed["deadline"] if armed else None), changed, diffs, warnings

    def _note(self, kind: str, snapshot: str, operation: str, reason: str | None = None) -> None:
        event = Event(kind=kind, operation=operation, reason=reason, data={"snapshot": snapshot})
        Journal(self._record.events_path).append([event])


def put_config_back(record: HostRecord, armed: Mapping[str, Any]) -> None:
    """What the timer of a config change would do, with the settings that it was armed with; the caller holds the host's lock."""
    kept = read_json(os.path.join(record.folder, "agent", "settings.json"))
    ConfigChange(kept["settings"]).put_back(armed)
