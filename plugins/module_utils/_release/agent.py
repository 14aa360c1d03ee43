# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the confirm timer runs on the host: take the unconfirmed release back."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from .._errors import FleetError
from .._files import read_json
from .orders import HostSettings
from .transaction import HostTransaction

#: Longest sleep of the watchdog between two looks at its order, s.
_LOOK_EVERY = 1.0

#: A take-back that failed is tried again after this many seconds.
_TRY_AGAIN = 30.0


def main(arguments: list[str]) -> int:
    """``FOLDER TOKEN [--wait]``: wait until the deadline (watchdog only), then take back. Exit 0 when nothing is left to do."""
    folder, token = arguments[0], arguments[1]
    waits_itself = "--wait" in arguments[2:]
    settings = _settings(folder)
    while True:
        if waits_itself and not _reached(folder, token):
            return 0
        try:
            outcome = HostTransaction(settings).take_back(token)
        except FleetError as error:
            sys.stderr.write("queueops.fleet: %s: %s\n" % (settings.fleet, error.sentence()))
            time.sleep(_TRY_AGAIN)
            continue
        sys.stderr.write("queueops.fleet: %s: confirm timer: %s\n" % (settings.fleet, outcome))
        return 0


def _settings(folder: str) -> HostSettings:
    with open(os.path.join(folder, "agent", "settings.json"), "rb") as stream:
        found: dict[str, Any] = json.loads(stream.read().decode())
    return HostSettings(**found)


def _reached(folder: str, token: str) -> bool:
    """Wait for the deadline; False when the timer was disarmed or armed anew meanwhile."""
    path = os.path.join(folder, "timer.json")
    while True:
        armed = read_json(path)
        if armed is None or armed["token"] != token:
            return False
        left = armed["deadline"] - time.time()
        if left <= 0:
            return True
        time.sleep(min(left, _LOOK_EVERY))
