# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The frame of the benchmarks redrive_*.py: our redrive and the system's own way, in turn on one server, in one form of table.

A benchmark yields a :class:`Race` for each table row's system, while its server runs::

    def measure(folder, chosen):
        with started(RedisServer(folder)) as server:
            yield Race("RQ", [Comparison(Ours(...), Side(...), 50)])

    sys.exit(main(parser(__doc__, tasks=10000, own=10000, pairs=5), measure))
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveReport, RedriveRequest
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

from tests.benchmarks.common import ended, interruptible, scratch, show, spread

HEADER = ("queue system", "ours", "tasks/s: median (range)", "its rival", "tasks/s: median (range)", "ratio, pair by pair", "bar")


def seconds(act: Callable[[], Any]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


@dataclass(eq=False)
class Side:
    """One way to redrive failed tasks.

    :ivar name: as in the table.
    :ivar tasks: how many it redrives.
    :ivar fill: makes so many of them, and nothing else; not measured. What it returns is for ``check``.
    :ivar redrive: redrives them; the seconds that it took.
    :ivar check: raises unless all are where they are to go, as they have to be there; not measured.
    """

    name: str
    tasks: int
    fill: Callable[[int], Any]
    redrive: Callable[[], float]
    check: Callable[[Any], None]

    def rate(self) -> float:
        """Tasks a second of one run."""
        left = self.fill(self.tasks)
        spent = self.redrive()
        self.check(left)
        return self.tasks / spent


class Ours(Side):
    """Our redrive by ``request``, with all that belongs to it: connect, record of the run, ledger, proof of conservation."""

    def __init__(
        self,
        name: str,
        tasks: int,
        fill: Callable[[int], Any],
        check: Callable[[Any], None],
        backend: str,
        settings: dict[str, Any],
        request: RedriveRequest,
    ) -> None:
        super().__init__(name, tasks, fill, self._redrive, check)
        self._backend, self._settings, self._request = backend, settings, request
        #: What conservation was proven by.
        self.by = ""

    def _redrive(self) -> float:
        with tempfile.TemporaryDirectory(prefix="qo-") as state:
            request = replace(self._request, state_dir=state)
            began = time.perf_counter()
            report: RedriveReport = redrive(open_backend(self._backend, self._settings), request)
            spent = time.perf_counter() - began
        if report.moved != self.tasks or report.conservation["verdict"] != "proven":
            raise SystemExit("the redrive of %d tasks says %s" % (self.tasks, report))
        self.by = report.conservation["by"]
        return spent


@dataclass(frozen=True)
class Comparison:
    """Ours has to be at least ``asked`` times as fast as theirs; None: nothing is asked."""

    ours: Ours
    theirs: Side
    asked: float | None = None


@dataclass(frozen=True)
class Race:
    """What is compared on one system."""

    system: str
    comparisons: list[Comparison]

    def warm_up(self) -> None:
        """Run every side once, so that none pays for what is loaded once."""
        for side in self._sides():
            side.rate()

    def _sides(self) -> list[Side]:
        return list(dict.fromkeys(side for compared in self.comparisons for side in (compared.theirs, compared.ours)))

    def run(self, pairs: int) -> list[str]:
        """Run every side once a pair, ours and theirs first in turn; show the rows; which bars were missed."""
        sides = self._sides()
        rates: dict[Side, list[float]] = {side: [] for side in sides}
        for pair in range(pairs):
            for side in reversed(sides) if pair % 2 else sides:
                rates[side].append(side.rate())
        return [problem for compared in self.comparisons for problem in self._row(compared, rates[compared.ours], rates[compared.theirs])]

    def _row(self, compared: Comparison, mine: list[float], others: list[float]) -> list[str]:
        """Show a comparison; it and its bar, if that was missed."""
        ours, theirs, asked = compared.ours, compared.theirs, compared.asked
        ratios = [one / other for one, other in zip(mine, others, strict=True)]
        reached = asked is None or statistics.median(ratios) >= asked
        told = "none asked" if asked is None else "at least %g: %s" % (asked, "met" if reached else "missed")
        sides = ["%s: %d tasks, proven by %s" % (ours.name, ours.tasks, ours.by), spread(mine)]
        sides += ["%s: %d tasks" % (theirs.name, theirs.tasks), spread(others)]
        show("%s, %d pairs" % (self.system, len(mine)), *sides, spread(ratios, "%.2f"), told)
        if reached:
            return []
        told = "%s: our redrive (%s) is %.2f times as fast as %s, and has to be %g times"
        return [told % (self.system, ours.name, statistics.median(ratios), theirs.name, asked or 0)]


def parser(description: str | None, tasks: int, own: int, pairs: int = 3) -> argparse.ArgumentParser:
    """The options of a benchmark with these defaults: what ours redrives, what the system's own way redrives, how often."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--tasks", type=int, default=tasks, help="tasks that our redrive moves (%d)" % tasks)
    made.add_argument("--own", type=int, default=own, help="tasks that the system's own way moves (%d, or --tasks if that is less)" % own)
    made.add_argument("--pairs", type=int, default=pairs, help="how often each side is measured (%d)" % pairs)
    return made


def main(options: argparse.ArgumentParser, measure: Callable[[Path, Any], Generator[Race]]) -> int:
    """Run the races of a benchmark and show their table; 1: a bar was missed."""
    chosen = options.parse_args()
    chosen.own = min(chosen.own, chosen.tasks)
    interruptible()
    missed = []
    with scratch() as folder, closing(measure(folder, chosen)) as races:
        show(*HEADER)
        show(*["---"] * len(HEADER))
        for race in races:
            missed += race.run(chosen.pairs)
    return ended(missed)
