# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters in, verdict out."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._judge.verdict import (
    Counters,
    Rule,
    Sample,
    describe,
    judge,
    single_look,
    thin,
)

RULE = Rule(limit=0.05, min_tasks=20, bake=10.0, timeout=60.0, errors_limit=3)


def worker(name: str, completed: int | None, failed: int | None, started: float | None = 1000.0) -> dict[str, Any]:
    return {"name": name, "completed": completed, "failed": failed, "started": started}


def verdict_of(completed: int, failed: int, elapsed: float, errors: int = 0) -> str | None:
    found = judge(RULE, Sample(1.0, completed, failed), elapsed, errors, "no answer")
    return found.verdict if found else None


@pytest.mark.parametrize(
    ("completed", "failed", "elapsed", "expected"),
    [
        (14, 7, 0.0, "fail"),  # At once, without waiting for the bake.
        (12, 7, 5.0, None),  # 19 tasks are too few to judge, however bad.
        (19, 1, 5.0, None),  # 5 % is allowed, but it has not baked.
        (19, 1, 10.0, "pass"),
        (18, 2, 10.0, "fail"),
        (19, 0, 10.0, None),
        (19, 0, 60.0, "inconclusive"),
        (0, 0, 60.0, "inconclusive"),
        (1000, 51, 61.0, "pass"),
        (1000, 53, 61.0, "fail"),
    ],
)
def test_verdicts(completed: int, failed: int, elapsed: float, expected: str | None) -> None:
    assert verdict_of(completed, failed, elapsed) == expected


def test_a_limit_of_nothing_allows_no_failure() -> None:
    rule = Rule(limit=0.0, min_tasks=1, bake=0.0, timeout=1.0)
    one = judge(rule, Sample(1, 999, 1), 0.0)
    none = judge(rule, Sample(1, 1, 0), 0.0)
    assert one is not None and one.verdict == "fail"
    assert none is not None and none.verdict == "pass"


def test_failing_is_not_could_not_measure() -> None:
    assert verdict_of(19, 1, 10.0, errors=2) is None  # Not a pass by old numbers.
    found = judge(RULE, Sample(1.0, 19, 1), 10.0, 3, "no answer")
    assert found is not None and (found.verdict, found.measured) == ("inconclusive", True)
    assert found.reason == "could not measure: 3 looks in a row failed, the last with: no answer"
    found = judge(RULE, None, 60.0, 1, "no answer")
    assert found is not None and (found.verdict, found.measured) == ("inconclusive", False)
    assert judge(RULE, None, 5.0, 2, "no answer") is None
    assert verdict_of(10, 15, 10.0, errors=9) == "fail"  # Enough was seen before.


def test_reasons_are_numbers() -> None:
    assert describe(Sample(1.0, 14, 7), RULE) == "7 of 21 failed (33.3 %, limit 5.0 %)"
    assert describe(Sample(1.0, 0, 0), RULE) == "no task finished yet (limit 5.0 %)"
    found = judge(RULE, Sample(1.0, 12, 0), 60.0)
    assert found is not None and found.reason == "only 12 tasks finished within 60 s, 20 are needed to judge"
    found = judge(RULE, Sample(1.0, 0, 0), 60.0, workers_seen=False)
    assert found is not None and "no worker was seen that carries this version in its name" in found.reason


def test_one_look_can_fail_but_not_pass() -> None:
    assert single_look(RULE, Sample(1.0, 14, 7)).verdict == "fail"
    for sample in (Sample(1.0, 100, 0), Sample(1.0, 0, 0)):
        assert single_look(RULE, sample).verdict == "inconclusive"


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


@pytest.mark.parametrize(
    ("rule", "option"),
    [
        (Rule(5, 20, 10, 60), "limit"),
        (Rule(-0.1, 20, 10, 60), "limit"),
        (Rule(0.05, 0, 10, 60), "min_tasks"),
        (Rule(0.05, 20, 61, 60), "timeout"),
        (Rule(0.05, 20, 10, 60, 0), "errors_limit"),
    ],
)
def test_rules_that_cannot_be_met(rule: Rule, option: str) -> None:
    with pytest.raises(Refused) as caught:
        rule.check()
    assert caught.value.option == option


def test_samples_are_thinned_and_the_newest_kept() -> None:
    same = [Sample(float(at), 1, 0) for at in range(5)]
    assert thin(same) == [same[0], same[4]]
    many = [Sample(float(at), at, 0) for at in range(1000)]
    kept = thin(many)
    assert len(kept) <= 200 and kept[0] == many[0] and kept[-1] == many[-1]
