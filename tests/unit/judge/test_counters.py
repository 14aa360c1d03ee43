# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a version's workers finished, from counters that are read again and again."""

from __future__ import annotations

from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._judge.counters import Counters, Sample


def worker(name: str, completed: int | None, failed: int | None, started: float | None = 1000.0) -> dict[str, Any]:
    return {"name": name, "completed": completed, "failed": failed, "started": started}


def test_counts_from_the_first_reading_on() -> None:
    counters = Counters()
    assert counters.read(1.0, [worker("a", 100, 50)]) == Sample(1.0, 0, 0)
    assert counters.read(2.0, [worker("a", 103, 52), worker("b", 4, 1, 1500.0)]) == Sample(2.0, 7, 3)


def test_counts_from_the_switch_on_for_workers_that_began_then() -> None:
    counters = Counters(since=2000.0)
    first = [worker("old", 100, 50, 1000.0), worker("new", 6, 3, 2001.0), worker("clock", 1, 0, 1997.0), worker("odd", 9, 9, None)]
    assert counters.read(2010.0, first) == Sample(2010.0, 7, 3)
    assert counters.read(2011.0, [worker("old", 101, 50, 1000.0)]) == Sample(2011.0, 8, 3)


def test_a_restart_begins_at_zero_again_and_loses_nothing() -> None:
    counters = Counters(since=900.0)
    counters.read(1.0, [worker("a", 10, 2)])
    assert counters.read(2.0, [worker("a", 1, 1, 1100.0)]) == Sample(2.0, 11, 3)
    assert counters.read(3.0, []) == Sample(3.0, 11, 3)  # Gone, not forgotten.
    assert counters.read(4.0, [worker("a", 5, 1, 1100.0)]) == Sample(4.0, 15, 3)
    assert counters.read(5.0, [worker("a", 2, 0, None)]) == Sample(5.0, 17, 3)


def test_unknown_counters_are_not_zero() -> None:
    counters = Counters(since=900.0)
    counters.read(1.0, [worker("a", 10, 2)])
    assert counters.read(2.0, [worker("a", None, None, None)]) == Sample(2.0, 10, 2)
