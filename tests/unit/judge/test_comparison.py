# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The canary against the version beside it: simulated rollouts, seeded, with every look counted."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import MissingLibrary, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._judge.compared import ComparedRatio, ComparedValues, Comparison
from ansible_collections.queueops.fleet.plugins.module_utils._judge.comparison import Spending, p_fails_more, p_larger, scipy_stats
from ansible_collections.queueops.fleet.plugins.module_utils._judge.counters import Sample
from ansible_collections.queueops.fleet.plugins.module_utils._judge.meters import Meter
from ansible_collections.queueops.fleet.plugins.module_utils._judge.verdict import Finding, Rule, Tally

#: Of a simulated rollout: looks, and tasks of each version between two of them.
LOOKS, TASKS = 50, 100
RULE = Comparison(bake=float(LOOKS - 1), min_tasks=20)
#: Of 200 rollouts with a risk of 2 %, no more than this many may be aborted: two standard errors above what is expected.
MOST_OF_200 = math.floor(200 * 0.02 + 2 * math.sqrt(200 * 0.02 * 0.98))


def verdict_of(meter: Meter, reading: Callable[[int], dict[str, Any]]) -> tuple[str, int]:
    """The verdict of a rollout whose looks are a second apart, and the look that it fell at."""
    tally = Tally(Rule(bake=RULE.bake, timeout=4.0 * LOOKS))
    for look in range(4 * LOOKS + 1):
        meter.fold(reading(look))
        tally.found(meter.find(), float(look))
        verdict = tally.verdict(float(look))
        if verdict is not None:
            return verdict.verdict, look
    raise AssertionError("no verdict after the timeout")


def failures(random_: random.Random, share: float) -> int:
    return sum(random_.random() < share for _task in range(TASKS))


def ratios(random_: random.Random, canary: float, baseline: float, rule: Comparison = RULE) -> tuple[str, int]:
    """One rollout: each version's tasks fail by these shares."""
    failed = [0, 0]

    def reading(look: int) -> dict[str, Any]:
        if look:
            failed[0] += failures(random_, canary)
            failed[1] += failures(random_, baseline)
        workers = [
            [{"name": name, "started": 1.0, "completed": look * TASKS - bad, "failed": bad}]
            for name, bad in zip(("new", "old"), failed, strict=True)
        ]
        return {"at": float(look), "workers": workers[0], "baseline_workers": workers[1]}

    return verdict_of(ComparedRatio(rule), reading)


def values(random_: random.Random, slower: float, sigma: float = 0.5) -> tuple[str, int]:
    """One rollout: latencies are log-normal, the canary's so many times the baseline's."""

    def reading(look: int) -> dict[str, Any]:
        both = [random_.lognormvariate(0.0, sigma) for _side in range(2)]
        return {"at": float(look), "value": both[0] * slower, "baseline": both[1]}

    return verdict_of(ComparedValues(RULE), reading)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("tolerance", [0.0, 0.01])
def test_equal_versions_are_rarely_aborted(share: float, tolerance: float, capsys: pytest.CaptureFixture[str]) -> None:
    rule = Comparison(bake=RULE.bake, min_tasks=20, tolerance=tolerance)
    random_ = random.Random(20261127)
    aborted = sum(ratios(random_, share, share, rule)[0] == "fail" for _rollout in range(200))
    with capsys.disabled():
        print("\nA/A, %g %% failing, tolerance %g: %d of 200 aborted" % (100 * share, tolerance, aborted))
    assert aborted <= MOST_OF_200


def test_without_the_correction_they_would_be() -> None:
    """What this is for: the same looks, each held against the whole risk."""

    class Uncorrected(Spending):
        def take(self, share: float) -> float:
            return 0.02

    def rollout(random_: random.Random) -> bool:
        meter = ComparedRatio(Comparison(bake=RULE.bake, min_tasks=20, tolerance=0.0))
        meter._looks._spending = Uncorrected(0.02)
        failed, completed = [0, 0], 0
        for look in range(LOOKS):
            failed = [bad + failures(random_, 0.1) for bad in failed]
            completed += TASKS
            sides = [[{"name": "w", "started": 1.0, "completed": completed - bad, "failed": bad}] for bad in failed]
            empty = [{"name": "w", "started": 1.0, "completed": 0, "failed": 0}]
            if look == 0:
                meter.fold({"at": 0.0, "workers": empty, "baseline_workers": empty})
            meter.fold({"at": float(look), "workers": sides[0], "baseline_workers": sides[1]})
            if meter.find().state == "fail":
                return True
        return False

    random_ = random.Random(20261127)
    assert sum(rollout(random_) for _rollout in range(200)) > 2 * MOST_OF_200


def test_a_bad_version_is_aborted(capsys: pytest.CaptureFixture[str]) -> None:
    random_ = random.Random(20261127)
    found = [ratios(random_, 0.05, 0.01) for _rollout in range(100)]
    at = sorted(look for verdict, look in found if verdict == "fail")
    with capsys.disabled():
        print("\n1 %% -> 5 %%: %d of 100 aborted, half of them by look %d, all by look %d" % (len(at), at[len(at) // 2], at[-1]))
    assert len(at) >= 95


def test_a_slow_version_is_aborted_and_an_equal_one_rarely(capsys: pytest.CaptureFixture[str]) -> None:
    random_ = random.Random(20261127)
    equal = sum(values(random_, 1.0)[0] == "fail" for _rollout in range(200))
    slow = sum(values(random_, 2.0)[0] == "fail" for _rollout in range(100))
    with capsys.disabled():
        print("\nLatencies: equal %d of 200 aborted, twice as slow %d of 100" % (equal, slow))
    assert equal <= MOST_OF_200 and slow >= 95


def test_significant_and_tiny_does_not_fail() -> None:
    def side(failed: int, completed: int) -> list[dict[str, Any]]:
        return [{"name": "w", "started": 1.0, "completed": completed, "failed": failed}]

    meter = ComparedRatio(Comparison(bake=0.0, min_tasks=20))
    meter.fold({"at": 0.0, "workers": side(0, 0), "baseline_workers": side(0, 0)})
    sample = meter.fold({"at": 1.0, "workers": side(1500, 98500), "baseline_workers": side(1000, 99000)})
    found = meter.find()
    assert found.state == "pass" and "worse by no more than the tolerance of 1.0 points" in found.text
    assert sample["failed"] == 1500 and sample["baseline_failed"] == 1000 and sample["baseline_ratio"] == 0.01
    assert "1500 of 100000 (1.5 %) failed, of the baseline 1000 of 100000 (1.0 %)" in found.text
    # Every tenth value is a little larger.
    slow = ComparedValues(Comparison(bake=0.0, min_tasks=20))
    for number in range(4000):
        slow.fold({"at": float(number), "value": number % 10 + (0.6 if number % 3 else 0.0), "baseline": float(number % 10)})
    p_value, effect = p_larger(slow._canary, slow._baseline)
    assert p_value < 1e-6 and 0.5 < effect < 0.6
    assert slow.find().state == "pass"


def test_too_few_or_no_data_never_pass() -> None:
    meter = ComparedRatio(RULE)
    one = [{"name": "w", "started": 1.0, "completed": 19, "failed": 0}]
    none: list[dict[str, Any]] = [{"name": "v", "started": 1.0, "completed": 0, "failed": 0}]
    meter.fold({"at": 0.0, "workers": none, "baseline_workers": none})
    meter.fold({"at": 1.0, "workers": one + none, "baseline_workers": none})
    found = meter.find()
    assert found.state == "waiting" and found.lacking == "only 19 tasks finished, and 0 of the baseline; 20 of each are needed to compare"
    many = [{"name": "v", "started": 1.0, "completed": 0, "failed": 500}]
    meter.fold({"at": 2.0, "workers": one + many, "baseline_workers": [{**none[0], "completed": 19}]})
    assert meter.find().state == "waiting"
    assert verdict_of(ComparedRatio(RULE), lambda look: {"at": float(look), "workers": [], "baseline_workers": []})[0] == "inconclusive"
    blind = ComparedValues(RULE)
    assert blind.find().state == "inconclusive"
    for value, baseline in ((None, 1.0), (1.0, None), (None, None)):
        blind.fold({"at": 1.0, "value": value, "baseline": baseline, "said": "the query gives no sample"})
        assert blind.find() == Finding("inconclusive", "the query gives no sample")
    # The baseline dies in the middle.
    dying = ComparedValues(RULE)
    gone = verdict_of(dying, lambda look: {"at": float(look), "value": 1.0, "baseline": 1.0 if look < 30 else None})
    assert gone[0] == "inconclusive"


def test_smaller_may_be_the_worse_side() -> None:
    meter = ComparedValues(Comparison(bake=0.0, min_tasks=20), fail_when="below")
    for number in range(40):
        meter.fold({"at": float(number), "value": number % 7, "baseline": number % 7 + 10})
    assert meter.find().state == "fail" and "smaller than the baseline's in 100 % of 40 x 40 pairs" in meter.find().text
    meter = ComparedValues(Comparison(bake=0.0, min_tasks=20), fail_when="below")
    for number in range(40):
        meter.fold({"at": float(number), "value": number % 7 + 10, "baseline": number % 7})
    assert meter.find().state == "pass"


def test_the_risk_is_shared_out_and_never_overspent() -> None:
    spending = Spending(0.02)
    shares = [0.0, 0.01, 0.01, 0.3, 0.2, 0.9, 1.0, 1.0, 7.0]
    taken = [spending.take(share) for share in shares]
    assert math.isclose(sum(taken), 0.02) and all(part >= 0 for part in taken)
    assert taken[2] == taken[4] == taken[7] == taken[8] == 0
    assert math.isclose(Spending(0.02).take(0.5), 0.02 * math.log(1 + (math.e - 1) / 2))
    at_once, late = Spending(0.02), Spending(0.02)
    late.take(0.0)
    assert at_once.take(1.0) == late.take(1.0)


def test_the_tests_are_one_sided_and_exact() -> None:
    # By hand: of 4 tasks 2 failed, both of the canary's two: 1 of the 6 ways to choose 2 of 4.
    assert math.isclose(p_fails_more(Sample(0.0, 0, 2), Sample(0.0, 2, 0)), 1 / 6)
    assert p_fails_more(Sample(0.0, 2, 0), Sample(0.0, 0, 2)) == 1.0
    # Of the 20 ways to choose 3 of 6 places, one.
    p_value, effect = p_larger([4.0, 5.0, 6.0], [1.0, 2.0, 3.0])
    assert math.isclose(p_value, 1 / 20) and effect == 1.0
    assert p_larger([1.0, 2.0], [1.0, 2.0])[1] == 0.5


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"min_tasks": 0}, "min_tasks"),
        ({"alpha": 0.0}, "compare.alpha"),
        ({"alpha": 1.0}, "compare.alpha"),
        ({"tolerance": -0.1}, "compare.tolerance"),
        ({"superiority": 0.4}, "compare.superiority"),
    ],
)
def test_comparisons_that_make_no_sense(options: dict[str, Any], option: str) -> None:
    with pytest.raises(Refused) as caught:
        ComparedRatio(Comparison(**{"bake": 10.0, "min_tasks": 20, **options}))
    assert caught.value.option == option


def test_without_scipy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingLibrary) as caught:
        scipy_stats()
    told = caught.value.sentence()
    assert "SciPy" in told and "%s -m pip install scipy" % sys.executable in told and caught.value.option == "compare"


def test_scipy_is_loaded_by_nobody_who_does_not_compare() -> None:
    """A managed host has none."""
    room = "ansible_collections.queueops.fleet.plugins.module_utils."
    code = "import sys; import %s_gate_options; sys.exit('scipy' in sys.modules or 'urllib.request' in sys.modules)" % room
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
