# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How often to look while something is waited for."""

from __future__ import annotations

import time
from typing import Callable, Iterator

#: Seconds after which the service manager is asked again, even if nothing cheaper tells of a change.
UNASKED = 5.0


def polls(limit: float, first: float = 0.05, longest: float = 1.0, idle: Callable[[], bool] | None = None) -> Iterator[float]:
    """Yield at once, then after pauses that grow from `first` to `longest`, and a last time when `limit` seconds are up.

    Yields the seconds since the beginning.

    :param idle: a cheap look that is sure that there is nothing to see yet. It is taken every `first` seconds, and a pause lasts as long
        as it says so, :data:`UNASKED` seconds at most.
    """
    begun = time.monotonic()
    pause = first
    while True:
        elapsed = time.monotonic() - begun
        yield elapsed
        if elapsed >= limit:
            return
        end = begun + limit
        _sleep(min(pause, end - time.monotonic()))
        pause = min(pause * 1.5, longest)
        until = min(time.monotonic() + UNASKED, end)
        while idle is not None and idle() and time.monotonic() < until:
            _sleep(min(first, until - time.monotonic()))
            # What follows is a change, and the next one may be near.
            pause = first


def _sleep(seconds: float) -> None:
    time.sleep(max(0.0, seconds))
