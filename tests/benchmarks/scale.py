# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The frame of the benchmarks scale_*.py: 1,000,000 tasks, in one form of table.

A look at them takes as long as one at 10 and changes nothing that the broker counts; a redrive of all stays under 100 MB. The redrive is
measured twice, in a process of its own each time: without a match, and by a rule that all tasks fit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Look
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

from tests.benchmarks.common import ended, interruptible, show, spread
from tests.benchmarks.own_process import Place, redriven

FEW = 10
LIMIT_MB = 100
LOOKS = 100
#: Looks beforehand, which are not measured.
FIRST_LOOKS = 10
#: How long both are left alone beforehand (s): a server that has just been filled is on another core than one that was idle, which takes
#: a look 0.08 ms longer, also where both hold ten tasks.
REST_S = 3.0


@dataclass(frozen=True)
class Scaled:
    """One queue system, with a queue of few tasks and one of many.

    :ivar fill: makes so many failed tasks of a queue that has none.
    :ivar clear: removes all queues.
    :ivar match: a rule's condition that all tasks fit.
    :ivar changes: what the broker counts of changes and deliveries, comparable.
    :ivar settle: waits until the broker tells of a queue that so many tasks are queued.
    """

    system: str
    few: Place
    many: Place
    fill: Callable[[Place, int], None]
    clear: Callable[[], None]
    match: dict[str, Any]
    changes: Callable[[], Any]
    settle: Callable[[Place, int], None] = lambda _place, _count: None


class Table:
    """The table of one run, and the bars that were missed.

    :param count: how many are many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.missed: list[str] = []
        header = ("queue system", "measured", "at %d tasks" % FEW, "at %d tasks" % count, "bar")
        show(*header)
        show(*["---"] * len(header))

    def measure(self, scaled: Scaled) -> None:
        """All there is to measure of one system."""
        for place, count in ((scaled.few, FEW), (scaled.many, self.count)):
            scaled.fill(place, count)
        self.looks(scaled.system, scaled.few, scaled.many, scaled.few.source, scaled.changes)
        self.redrive(scaled.system, scaled.many, {})
        redriven(scaled.few, {})
        for place, count in ((scaled.few, FEW), (scaled.many, self.count)):
            scaled.settle(place, count)
        self.looks(scaled.system, scaled.few, scaled.many, "queued", scaled.changes)
        scaled.clear()
        scaled.fill(scaled.many, self.count)
        self.redrive(scaled.system, scaled.many, scaled.match)

    def looks(self, system: str, few: Place, many: Place, state: str, changes: Callable[[], Any], more: str = "") -> None:
        """Look at few and at many tasks in turn, so that both meet the same noise."""
        backends = {place: open_backend(place.backend, place.settings) for place in (few, many)}
        spent: dict[Place, list[float]] = {few: [], many: []}
        told: dict[Place, str] = {}
        time.sleep(REST_S)
        for number in range(-FIRST_LOOKS, LOOKS):
            if not number:
                before = changes()
            for place, backend in backends.items():
                began = time.perf_counter()
                look = backend.look([place.queue])
                if number >= 0:
                    spent[place].append(1000 * (time.perf_counter() - began))
                told[place] = said(look, state, FEW if place is few else self.count)
        problems = [] if changes() == before else ["a look changed something"]
        if statistics.median(spent[many]) > usual(spent[few]):
            problems.append("slower than 90 % of those at few")
        cells = [spread(spent[place], "%.2f") + told[place] for place in (few, many)]
        what = "%d looks at %s tasks%s, ms: median (range)" % (LOOKS, state, more)
        self._row(system, what, cells, "as fast, and no change counted", problems)

    def redrive(self, system: str, many: Place, match: dict[str, Any]) -> None:
        """Redrive many tasks."""
        found = redriven(many, match)
        what = "redrive by match.%s" % ", match.".join(match) if match else "redrive of all"
        problems = [] if found["mb"] < LIMIT_MB else ["%.0f MB" % found["mb"]]
        if found["moved"] != self.count or found["verdict"] != "proven":
            problems.append("%d moved, %s" % (found["moved"], found["verdict"]))
        rate = "%.0f tasks/s, %.0f MB, %s by %s" % (found["moved"] / found["seconds"], found["mb"], found["verdict"], found["by"])
        self._row(system, what, ["", rate], "all of them, under %d MB" % LIMIT_MB, problems)

    def _row(self, system: str, what: str, cells: list[str], asked: str, problems: list[str]) -> None:
        show(system, what, *cells, "%s: %s" % (asked, "missed (%s)" % "; ".join(problems) if problems else "met"))
        self.missed += ["%s, %s: %s; has to be: %s" % (system, what, problem, asked) for problem in problems]


def said(look: Look, state: str, count: int) -> str:
    """What the look says of the tasks, unless it is how many there are."""
    found = getattr(look.queues[0], state, None)
    if found == count:
        return ""
    return ", not told how many" if found is None else ", told as %d" % found


def usual(spent: list[float]) -> float:
    """What nine of ten stay within."""
    return sorted(spent)[len(spent) * 9 // 10]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of a benchmark."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--tasks", type=int, default=1_000_000, help="how many are many (1000000)")
    return made


def main(options: argparse.ArgumentParser, measure: Callable[[Table, Any], None]) -> int:
    """Let a benchmark fill its table; 1: a bar was missed."""
    chosen = options.parse_args()
    interruptible()
    table = Table(chosen.tasks)
    measure(table, chosen)
    return ended(table.missed)
