# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What waits for the confirm timer on the host, and takes the unconfirmed change back."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Protocol

from .._errors import FleetError
from .._files import read_json
from . import waiter
from .config_change import ConfigChange
from .orders import HostSettings
from .timer import CONFIG, seconds_left
from .transaction import HostTransaction

#: Longest sleep between two looks at the order, s.
_LOOK_EVERY = 1.0

#: A take-back that failed is tried again after so many seconds, then after twice as many, up to the last.
_TRY_AGAIN = (1.0, 30.0)


class _Conductor(Protocol):
    def take_back(self, token: str) -> str: ...


def main(arguments: list[str]) -> int:
    """``FOLDER``: wait until the deadline of the timer that is armed there, then take back. Exit 0 when nothing is left to do."""
    folder = arguments[0]
    armed = read_json(os.path.join(folder, "timer.json"))
    if armed is None:
        return 0
    token = str(armed["token"])
    waiter.show_life(folder, token)
    pause = _TRY_AGAIN[0]
    while _reached(folder, token):
        try:
            _say("confirm timer: %s" % _conductor(folder).take_back(token))
            return 0
        except FleetError as error:
            _say(error.sentence())
        time.sleep(pause)
        pause = min(pause * 2, _TRY_AGAIN[1])
    return 0


def _conductor(folder: str) -> _Conductor:
    found: dict[str, Any] = read_json(os.path.join(folder, "agent", "settings.json"))
    if found["kind"] == CONFIG:
        return ConfigChange(found["settings"])
    return HostTransaction(HostSettings(**found["settings"]))


def _reached(folder: str, token: str) -> bool:
    """Wait for the deadline; False when the timer was disarmed or armed anew meanwhile."""
    while True:
        armed = read_json(os.path.join(folder, "timer.json"))
        if armed is None or armed["token"] != token:
            return False
        left = seconds_left(armed)
        if left <= 0:
            return True
        time.sleep(min(left, _LOOK_EVERY))


def _say(sentence: str) -> None:
    sys.stderr.write("queueops.fleet: %s\n" % sentence)
