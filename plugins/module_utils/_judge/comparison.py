# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is the canary worse than the version that runs beside it? SciPy's tests, one-sided, on the controller alone."""

from __future__ import annotations

import math
import sys
from typing import Any, Sequence

from .._errors import MissingLibrary
from .counters import Sample


def scipy_stats() -> Any:
    """SciPy's statistics.

    :raises MissingLibrary: this Python, which is the controller's, has no SciPy.
    """
    try:
        from scipy import stats
    except ImportError as problem:
        raise MissingLibrary(
            "The controller lacks the Python library SciPy, with which a gate compares two versions (%s)" % problem,
            option="compare",
            next_step="Install it into the Python that runs Ansible (%s -m pip install scipy, or Debian's python3-scipy), or give limit"
            " instead of compare" % sys.executable,
        ) from problem
    return stats


def p_fails_more(canary: Sample, baseline: Sample) -> float:
    """How likely at least as many failures of the canary are, were both versions equal: Fisher's exact test."""
    table = [[canary.failed, canary.completed], [baseline.failed, baseline.completed]]
    return float(scipy_stats().fisher_exact(table, alternative="greater")[1])


def p_larger(canary: Sequence[float], baseline: Sequence[float]) -> tuple[float, float]:
    """How likely values of the canary at least as large are, were both equal (Mann-Whitney), and the effect.

    :returns: the p-value, and the probability of superiority: that a value of the canary is larger than one of the baseline, where
        equal ones count half (Vargha and Delaney, 2000). 0.5 is no difference; 0.56 they call small, 0.64 medium, 0.71 large.
    """
    statistic, p_value = scipy_stats().mannwhitneyu(canary, baseline, alternative="greater")
    return float(p_value), float(statistic) / (len(canary) * len(baseline))


class Spending:
    """Shares out one risk of a false alarm over all looks at the same growing data.

    Alpha spending after Lan and DeMets (Biometrika 70, 1983), with their function of Pocock's type, ``alpha * ln(1 + (e - 1) t)``: it
    spends early, for a bad canary has to be seen early, and it does not need to know how many looks there will be. A look is held
    against what it may spend by itself (the union bound), so that exact tests stay exact, at the price of some power.
    """

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self._spent = 0.0

    def take(self, share: float) -> float:
        """What a look may spend when ``share`` (0 to 1) of the time is over; what earlier looks left is in it."""
        allowed = self._alpha * math.log(1 + (math.e - 1) * min(1.0, max(0.0, share))) - self._spent
        if allowed <= 0:
            return 0.0
        self._spent += allowed
        return allowed
