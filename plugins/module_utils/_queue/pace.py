# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast a redrive goes, and when it stops: a rate with a ramp, and a circuit breaker that tries a few tasks first."""

from __future__ import annotations

import time

from .api import Breaker, TaskStore

#: With a rate, tasks are sent in portions of what the rate allows in this time (s), or of what is overdue.
PORTION_S = 0.1
#: Of the time in which the host was too slow for the rate, this much is made up for (s).
CAUGHT_UP_S = 1.0
#: Seconds between two questions for the fate of redriven tasks.
FATE_S = 0.2


class Pace:
    """How many tasks may go now: at most ``rate`` a second, which is reached after ``ramp`` seconds of linear growth."""

    def __init__(self, rate: float | None, ramp: float) -> None:
        self._rate = rate
        self._ramp = ramp
        self._sent = 0
        self._began: float | None = None

    def portion(self, most: int) -> int:
        """How many of ``most`` to send next; waits until at least one may go."""
        if self._rate is None:
            return most
        now = time.monotonic()
        if self._began is None:
            self._began = now
        # A little lateness is caught up, so that the rate is kept on a busy host; more of it would be a burst.
        self._began = max(self._began, now - self._when(self._sent) - CAUGHT_UP_S)
        overdue = self._allowed(now - self._began) - self._sent
        portion = max(1, min(most, max(int(self._rate * PORTION_S), overdue)))
        wait = self._began + self._when(self._sent + portion) - now
        if wait > 0:
            time.sleep(wait)
        self._sent += portion
        return portion

    def _allowed(self, elapsed: float) -> int:
        """How many tasks may have gone so many seconds after the beginning."""
        rate = float(self._rate or 0)
        if elapsed < self._ramp:
            return int(rate * elapsed**2 / (2 * self._ramp))
        return int(rate * (elapsed - self._ramp / 2))

    def _when(self, sent: int) -> float:
        """Seconds after the beginning at which ``sent`` tasks may have gone."""
        rate = float(self._rate or 0)
        on_ramp = rate * self._ramp / 2
        if sent <= on_ramp:
            return float((2 * sent * self._ramp / rate) ** 0.5)
        return self._ramp + (sent - on_ramp) / rate


class Fuse:
    """The circuit breaker: few tasks go at first, then twice as many, as long as those whose fate is known did not fail again.

    So when it trips, no more than the tasks it needs to judge have been sent into a worker that always fails.
    """

    def __init__(self, store: TaskStore, breaker: Breaker) -> None:
        self._store = store
        self._breaker = breaker
        self._window = max(1, breaker.min_tasks)
        self.settled = self.failed_again = 0

    def room(self, moved: int) -> int:
        """How many more may go when ``moved`` went so far; waits for fates. 0: it has tripped."""
        end = time.monotonic() + self._breaker.patience
        while True:
            if moved:
                self.settled, self.failed_again = self._store.fates(moved)
            if self.tripped(moved):
                return 0
            if self.settled >= moved and moved >= self._window:
                self._window *= 2
            # Until enough fates are known to judge by, what is settled makes no room for more.
            unsettled = moved - self.settled if self.settled >= self._breaker.min_tasks else moved
            room = self._window - unsettled
            if room > 0:
                return room
            if time.monotonic() > end:
                return 0
            time.sleep(FATE_S)

    def tripped(self, moved: int) -> bool:
        """Whether enough fates are known, and too many of them are failures."""
        enough = self.settled >= min(self._breaker.min_tasks, moved) > 0 and self.settled >= self._breaker.min_tasks
        return enough and self.failed_again > self._breaker.limit * self.settled

    def reason(self, moved: int) -> str:
        told = "%d of the %d redriven tasks whose fate is known failed again" % (self.failed_again, self.settled)
        if self.tripped(moved):
            return "%s, which is more than %g %%" % (told, 100 * self._breaker.limit)
        return "after %g s only %s; are workers running?" % (self._breaker.patience, told)
