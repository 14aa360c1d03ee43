# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks in, verdict out."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._judge.meters import (
    FailedRatio,
    Judged,
    Limit,
    Meter,
    Number,
    Throughput,
)
from ansible_collections.queueops.fleet.plugins.module_utils._judge.verdict import Finding, Rule, Tally, Verdict, single_look
from ansible_collections.queueops.fleet.plugins.plugin_utils._waiting import thinned

RULE = Rule(bake=10.0, timeout=60.0, errors_limit=3)
FIVE_PERCENT = Limit(0.05)
PASS, FAIL, BLIND, EARLY = (Finding(state, state) for state in ("pass", "fail", "inconclusive", "waiting"))


def ratio(completed: int, failed: int, limit: Limit = FIVE_PERCENT, min_tasks: int = 20) -> FailedRatio:
    """A meter that has seen one worker finish so many tasks."""
    meter = FailedRatio(limit, min_tasks, since=1000.0)
    meter.fold({"at": 1010.0, "workers": [{"name": "a", "started": 1001.0, "completed": completed, "failed": failed}]})
    return meter


def looks(rule: Rule, *seen: tuple[float, Finding | str]) -> Verdict | None:
    """The verdict after these looks, each at its second; a text is a look that got no answer. Nothing was decided before the last."""
    tally = Tally(rule)
    verdict = None
    for elapsed, finding in seen:
        assert verdict is None, verdict
        if isinstance(finding, str):
            tally.missed(finding)
        else:
            tally.found(finding, elapsed)
        verdict = tally.verdict(elapsed)
    return verdict


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
    found = looks(RULE, (0.0, EARLY), (elapsed, ratio(completed, failed).find()))
    assert (found.verdict if found else None) == expected


def test_a_limit_of_nothing_allows_no_failure() -> None:
    rule = Rule(bake=0.0, timeout=1.0)
    one = looks(rule, (0.0, ratio(999, 1, Limit(0.0), 1).find()))
    none = looks(rule, (0.0, ratio(1, 0, Limit(0.0), 1).find()))
    assert one is not None and one.verdict == "fail"
    assert none is not None and none.verdict == "pass"


def test_failing_is_not_could_not_measure() -> None:
    assert looks(RULE, (0.0, PASS), (9.0, "no answer"), (10.0, "no answer")) is None  # Not a pass by old numbers.
    found = looks(RULE, (0.0, PASS), (8.0, "no answer"), (9.0, "no answer"), (10.0, "no answer"))
    assert found is not None and (found.verdict, found.measured) == ("inconclusive", True)
    assert found.reason == "could not measure: 3 looks in a row failed, the last with: no answer"
    found = looks(RULE, (60.0, "no answer"))
    assert found is not None and (found.verdict, found.measured) == ("inconclusive", False)
    assert looks(RULE, (1.0, "no answer"), (2.0, "no answer"), (3.0, EARLY), (4.0, "no answer"), (5.0, "no answer")) is None


def test_a_source_that_is_dead_or_says_nothing_never_passes() -> None:
    """Whatever it said before: a look that is not answered well is never the last one before a pass."""
    patient = Rule(bake=10.0, timeout=60.0, errors_limit=1000)
    for dead in ("no answer", BLIND):
        for good in range(30):
            tally = Tally(patient)
            for second in range(61):
                if second < good:
                    tally.found(PASS if second < 9 else EARLY, float(second))
                elif isinstance(dead, str):
                    tally.missed(dead)
                else:
                    tally.found(dead, float(second))
                found = tally.verdict(float(second))
                assert found is None or found.verdict == "inconclusive", (dead, good, second)
            assert found is not None and "could not measure" in found.reason


def test_the_bake_time_begins_when_something_is_seen() -> None:
    rule = Rule(bake=10.0, timeout=60.0)
    assert looks(rule, (0.0, "no answer"), (30.0, PASS), (39.0, PASS)) is None
    assert looks(rule, (0.0, PASS), (9.0, BLIND), (10.0, PASS), (19.0, PASS)) is None
    found = looks(rule, (0.0, PASS), (9.0, BLIND), (10.0, PASS), (20.0, PASS))
    assert found is not None and found.verdict == "pass"


def test_each_kind_of_bad_look_has_its_own_limit() -> None:
    rule = Rule(bake=10.0, timeout=60.0, fail_limit=2, inconclusive_limit=1, errors_limit=2)
    assert looks(rule, (1.0, FAIL), (2.0, BLIND), (3.0, "no answer"), (4.0, FAIL), (5.0, "no answer")) is None
    found = looks(rule, (1.0, FAIL), (2.0, PASS), (3.0, FAIL), (4.0, PASS), (5.0, FAIL))
    assert found is not None and (found.verdict, found.reason) == ("fail", "fail (look 3 of its kind, 2 are allowed)")
    found = looks(rule, (1.0, BLIND), (2.0, PASS), (3.0, BLIND))
    assert found is not None and found.verdict == "inconclusive" and "look 2 of its kind, 1 are allowed" in found.reason
    found = looks(rule, (1.0, FAIL), (2.0, PASS), (11.0, PASS))
    assert found is not None and found.verdict == "pass"  # Two were allowed.
    found = looks(rule, (1.0, PASS), (60.0, FAIL))
    assert found is not None and found.verdict == "inconclusive" and "the last look failed" in found.reason


def test_reasons_are_numbers() -> None:
    assert ratio(14, 7).told() == "7 of 21 failed (33.3 %, limit 5.0 %)"
    assert ratio(14, 7, Limit(0.125)).told() == "7 of 21 failed (33.3 %, limit 12.5 %)"
    assert ratio(0, 0).told() == "no task finished yet (limit 5.0 %)"
    found = looks(RULE, (60.0, ratio(12, 0).find()))
    assert found is not None and found.reason == "time is up after 60 s: only 12 tasks finished, 20 are needed to judge"
    meter = FailedRatio(Limit(0.05), 20)
    meter.fold({"at": 1.0, "workers": []})
    assert "no worker was seen that carries this version in its name" in meter.find().lacking


def test_one_look_can_fail_but_not_pass() -> None:
    bad, good = ratio(14, 7), ratio(100, 0)
    assert single_look(bad.find(), bad.told(), RULE).verdict == "fail"
    assert single_look(bad.find(), bad.told(), Rule(10.0, 60.0, fail_limit=1)).verdict == "inconclusive"
    assert single_look(good.find(), good.told(), RULE).verdict == "inconclusive"
    assert single_look(None, "figures", RULE) == Verdict("inconclusive", "measured once, did not wait: figures", False)


def test_a_dry_run_passes_and_says_what_it_would_have_been() -> None:
    told = Verdict("fail", "7 of 21 failed", True).as_dict(dry_run=True)
    assert told == {"verdict": "pass", "reason": "dry run, would be fail: 7 of 21 failed", "measured": True, "would_be": "fail"}
    assert Verdict("fail", "7 of 21 failed", True).as_dict(dry_run=False)["would_be"] is None


def state_of(meter: Meter, *readings: dict[str, Any]) -> str:
    for reading in readings:
        meter.fold(reading)
    return meter.find().state


def test_numbers_against_a_limit_on_either_side() -> None:
    above, below = Limit(100.0), Limit(100.0, "below")
    assert [state_of(Number(above, "%g queued"), {"at": 1.0, "value": value}) for value in (100.0, 100.5)] == ["pass", "fail"]
    assert [state_of(Number(below, "%g queued"), {"at": 1.0, "value": value}) for value in (100.0, 99.5)] == ["pass", "fail"]
    meter = Number(above, "%g queued")
    assert meter.fold({"at": 1.0, "value": 7}) == {"at": 1.0, "value": 7} and meter.told() == "7 queued (limit 100)"
    meter.fold({"at": 2.0, "value": None, "said": "the oldest task's own record is gone"})
    assert meter.find() == Finding("inconclusive", "the oldest task's own record is gone")


def test_throughput_needs_its_time_and_counts_no_worker_twice() -> None:
    def reading(at: float, completed: int, failed: int = 0) -> dict[str, Any]:
        return {"at": at, "workers": [{"name": "a", "started": 1.0, "completed": completed, "failed": failed}]}

    meter = Throughput(Limit(2.0, "below"), bake=10.0)
    assert state_of(meter, reading(100.0, 500)) == "waiting"
    assert state_of(meter, reading(105.0, 500)) == "waiting"  # 0 in 5 s is not yet too slow.
    assert state_of(meter, reading(110.0, 515, 5)) == "pass" and meter.told() == "2 tasks/s (at least 2)"
    assert state_of(meter, reading(111.0, 515, 5)) == "fail"
    assert state_of(Throughput(Limit(2.0, "below"), bake=10.0), reading(0.0, 9), {"at": 10.0, "workers": []}) == "fail"


def test_throughput_by_the_brokers_own_rate() -> None:
    meter = Throughput(Limit(2.0, "below"), bake=10.0)
    assert state_of(meter, {"at": 0.0, "rate": 0.5, "said": None}) == "waiting"
    assert state_of(meter, {"at": 10.0, "rate": 0.5, "said": None}) == "fail"
    assert state_of(meter, {"at": 11.0, "rate": None, "said": "no worker has acknowledged a task lately"}) == "inconclusive"


def test_what_a_source_says_itself() -> None:
    meter = Judged()
    assert meter.find().state == "inconclusive"
    assert meter.fold({"at": 1.0, "outcome": "fail", "said": "it answers 503"}) == {"at": 1.0, "outcome": "fail"}
    assert meter.find() == Finding("fail", "it answers 503")


@pytest.mark.parametrize(
    ("rule", "option"),
    [
        (Rule(61, 60), "timeout"),
        (Rule(10, 60, errors_limit=0), "errors_limit"),
        (Rule(10, 60, fail_limit=-1), "fail_limit"),
        (Rule(10, 60, inconclusive_limit=-1), "inconclusive_limit"),
    ],
)
def test_rules_that_cannot_be_met(rule: Rule, option: str) -> None:
    with pytest.raises(Refused) as caught:
        rule.check()
    assert caught.value.option == option


@pytest.mark.parametrize(("limit", "min_tasks", "option"), [(5.0, 20, "limit"), (-0.1, 20, "limit"), (0.05, 0, "min_tasks")])
def test_limits_that_cannot_be_met(limit: float, min_tasks: int, option: str) -> None:
    with pytest.raises(Refused) as caught:
        FailedRatio(Limit(limit), min_tasks)
    assert caught.value.option == option


def test_samples_are_thinned_and_the_newest_kept() -> None:
    same: list[dict[str, Any]] = [{"at": float(at), "value": 1} for at in range(5)]
    assert thinned(same) == [same[0], same[4]]
    many: list[dict[str, Any]] = [{"at": float(at), "value": at} for at in range(1000)]
    kept = thinned(many)
    assert len(kept) <= 200 and kept[0] == many[0] and kept[-1] == many[-1]
