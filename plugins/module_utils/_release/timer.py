# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The confirm timer: armed on the host before a change; unless confirmed in time, the host takes itself back."""

from __future__ import annotations

import os
import sys
import time
import uuid
from typing import Any, Mapping

from .._errors import Conflict, FleetError
from .._files import read_json, remove_durably, write_json
from . import waiter
from .agent_files import install_agent

#: What an armed timer would take back.
RELEASE, CONFIG = "release", "config"


class ConfirmTimer:
    """One fleet's timer on this host; there is one for releases and for config alone, so that one change waits at a time.

    :param folder: the fleet's state folder on the host.
    :param fleet: names the service that waits.
    """

    def __init__(self, folder: str, fleet: str) -> None:
        self._folder = folder
        self._fleet = fleet
        self._path = os.path.join(folder, "timer.json")

    def armed(self, kind: str | None = None) -> dict[str, Any] | None:
        """The pending timer (``kind``, ``operation``, ``deadline`` unix s, ``token``, and what the kind needs), or None.

        :param kind: only a timer of this kind.
        """
        found: dict[str, Any] | None = read_json(self._path)
        return None if found is None or (kind is not None and found.get("kind", RELEASE) != kind) else found

    def refuse_another(self, operation: str) -> None:
        """See that no timer of another operation is pending.

        :raises Conflict: one is.
        """
        pending = self.armed()
        if pending is not None and pending["operation"] != operation:
            raise Conflict(
                "A confirm timer of operation %s (%s) is armed here until %s"
                % (pending["operation"], what_waits(pending), _clock(pending["deadline"])),
                still_true="Nothing was changed",
                next_step="Confirm or roll back that operation first",
            )

    def arm(self, seconds: float, operation: str, of: Mapping[str, Any], agent_settings: dict[str, Any]) -> dict[str, Any]:
        """Start the timer, in place of an earlier one of the same operation.

        :param of: ``kind`` and what is to be taken back: ``release``, or ``to`` and ``back_to``, ids of snapshots.
        :param agent_settings: what the conductor of that kind is made with.
        :raises Conflict: one of another operation is pending.
        :raises FleetError: nothing could be started that waits; the timer is not armed.
        """
        self.refuse_another(operation)
        runner = install_agent(self._folder, agent_settings)
        timer = {
            "token": uuid.uuid4().hex,
            "operation": operation,
            "deadline": time.time() + seconds,
            # In the boot that it was armed in, a clock that is set anew moves no deadline.
            "boot": _boot(),
            "boot_deadline": time.clock_gettime(time.CLOCK_BOOTTIME) + seconds,
            **of,
        }
        before = self.armed()
        write_json(self._path, timer)
        try:
            waiter.start(self._folder, self._fleet, str(timer["token"]), [sys.executable or "/usr/bin/python3", runner, self._folder])
        except FleetError:
            if before is None:
                self.disarm()
            raise
        return timer

    def disarm(self) -> bool:
        """Stop the timer; False when none was armed."""
        if self.armed() is None:
            return False
        # The file is the order: what waits finds none and ends.
        remove_durably(self._path)
        waiter.forget(self._folder, self._fleet)
        return True


def seconds_left(timer: Mapping[str, Any]) -> float:
    """How long an armed timer still waits; negative when it is past its deadline."""
    if timer.get("boot") == _boot():
        return float(timer["boot_deadline"]) - time.clock_gettime(time.CLOCK_BOOTTIME)
    return float(timer["deadline"]) - time.time()


def what_waits(timer: Mapping[str, Any]) -> str:
    """What is to be confirmed, in words."""
    return "config snapshot %s" % timer["to"][:12] if timer.get("kind") == CONFIG else "release %s" % timer["release"]


def _boot() -> str | None:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return None


def _clock(unix: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix))
