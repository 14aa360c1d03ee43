# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gate makes of its readings where the canary is compared with the version that runs beside it.

Worse is only what chance does not explain *and* what is large enough to matter: with enough tasks any difference is significant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

from .._errors import Refused
from .comparison import Spending, p_fails_more, p_larger
from .counters import Counters, Sample
from .meters import Meter, check_min_tasks
from .verdict import Finding


@dataclass(frozen=True)
class Comparison:
    """How sure, and how much worse.

    :ivar alpha: the risk (0 to 1) that a canary which is as good as the baseline fails, over all looks together.
    :ivar tolerance: a share of failed tasks (0 to 1) by which the canary may be worse.
    :ivar superiority: the probability of superiority up to which larger values do not matter (0.5: no difference).
    :ivar bake: seconds over which ``alpha`` is spent.
    :ivar min_tasks: so many tasks, or values, of each version are needed.
    """

    bake: float
    min_tasks: int
    alpha: float = 0.02
    tolerance: float = 0.01
    superiority: float = 0.64

    def check(self) -> None:
        """:raises Refused: it cannot be met."""
        check_min_tasks(self.min_tasks)
        for name, low, high in (("alpha", 0.0, 1.0), ("tolerance", 0.0, 1.0), ("superiority", 0.5, 1.0)):
            value = getattr(self, name)
            if not low <= value < high or (name == "alpha" and value == 0):
                raise Refused(
                    "compare.%s = %g makes no sense" % (name, value),
                    option="compare." + name,
                    next_step="Give at least %g (alpha: more than that) and less than %g" % (low, high),
                )


class _Looks:
    """What both comparisons share: the time that is over, and what the newest test said."""

    def __init__(self, rule: Comparison) -> None:
        rule.check()
        self._bake = rule.bake
        self._spending = Spending(rule.alpha)
        self._began: float | None = None
        self._share = 1.0
        self.p_value: float | None = None
        self.allowed: float | None = None

    def at(self, moment: float) -> None:
        if self._began is None:
            self._began = moment
        self._share = (moment - self._began) / self._bake if self._bake > 0 else 1.0

    def significant(self, p_value: float) -> bool:
        self.p_value, self.allowed = p_value, self._spending.take(self._share)
        return p_value <= self.allowed

    def told(self) -> str:
        if self.p_value is None or self.allowed is None:
            return ""
        return "; by chance alone: p %.2g, this look may spend %.2g" % (self.p_value, self.allowed)

    def as_dict(self) -> dict[str, Any]:
        return {"p_value": self.p_value, "allowed": self.allowed}


class ComparedRatio(Meter):
    """The share of failed tasks of two versions, from the gate's first reading on (``workers``, ``baseline_workers``)."""

    def __init__(self, rule: Comparison) -> None:
        self._rule = rule
        self._looks = _Looks(rule)
        self._counters = (Counters(), Counters())
        self._canary = self._baseline = Sample(0.0, 0, 0)
        self._tested: tuple[int, ...] = ()
        self._finding: Finding | None = None

    def fold(self, reading: Mapping[str, Any]) -> dict[str, Any]:
        self._canary = self._counters[0].read(reading["at"], reading["workers"])
        self._baseline = self._counters[1].read(reading["at"], reading["baseline_workers"])
        self._looks.at(reading["at"])
        baseline = {"baseline_" + name: value for name, value in self._baseline.as_dict().items() if name != "at"}
        return dict(self._canary.as_dict(), **baseline)

    def told(self) -> str:
        """``7 of 21 (33.3 %) failed, of the baseline 2 of 40 (5.0 %)``"""
        return "%s failed, of the baseline %s" % (_share(self._canary), _share(self._baseline))

    def find(self) -> Finding:
        canary, baseline = self._canary, self._baseline
        if min(canary.finished, baseline.finished) < self._rule.min_tasks or canary.ratio is None or baseline.ratio is None:
            lacking = "only %d tasks finished, and %d of the baseline; %d of each are needed to compare" % (
                canary.finished,
                baseline.finished,
                self._rule.min_tasks,
            )
            return Finding("waiting", self.told(), lacking)
        counts = (canary.completed, canary.failed, baseline.completed, baseline.failed)
        if self._finding is None or counts != self._tested:
            self._tested = counts
            unlikely = self._looks.significant(p_fails_more(canary, baseline))
            matters = canary.ratio - baseline.ratio > self._rule.tolerance
            text = "%s%s" % (self.told(), self._looks.told())
            if unlikely and not matters:
                text += "; worse by no more than the tolerance of %.1f points" % (100 * self._rule.tolerance)
            self._finding = Finding("fail" if unlikely and matters else "pass", text)
        return self._finding


class ComparedValues(Meter):
    """One value of each version a look (``value``, ``baseline``), such as a latency; smaller is better, unless ``fail_when`` is below."""

    def __init__(self, rule: Comparison, fail_when: str = "above") -> None:
        self._rule = rule
        self._sign = 1.0 if fail_when == "above" else -1.0
        self._looks = _Looks(rule)
        self._canary: list[float] = []
        self._baseline: list[float] = []
        self._said: str | None = "nothing measured yet"
        self._tested = 0
        self._finding: Finding | None = None

    def fold(self, reading: Mapping[str, Any]) -> dict[str, Any]:
        value, baseline = reading["value"], reading["baseline"]
        self._looks.at(reading["at"])
        # Only of the same moment: what ails both, such as a slow database, then shows in both.
        if value is None or baseline is None:
            self._said = str(reading.get("said") or "there is no number")
        else:
            self._said = None
            self._canary.append(self._sign * value)
            self._baseline.append(self._sign * baseline)
        return {"at": reading["at"], "value": value, "baseline_value": baseline}

    def told(self) -> str:
        """``the query gives 0.41, for the baseline 0.38``"""
        if self._said is not None:
            return self._said
        return "the query gives %g, for the baseline %g" % (self._sign * self._canary[-1], self._sign * self._baseline[-1])

    def find(self) -> Finding:
        if self._said is not None:
            return Finding("inconclusive", self._said)
        count = len(self._canary)
        if count < self._rule.min_tasks:
            return Finding("waiting", self.told(), "only %d looks gave a value, %d are needed to compare" % (count, self._rule.min_tasks))
        if self._finding is None or count != self._tested:
            self._tested = count
            p_value, effect = p_larger(self._canary, self._baseline)
            unlikely, matters = self._looks.significant(p_value), effect > self._rule.superiority
            worse = "larger" if self._sign > 0 else "smaller"
            text = "%s than the baseline's in %.0f %% of %d x %d pairs (up to %.0f %% is allowed)%s" % (
                worse,
                100 * effect,
                count,
                count,
                100 * self._rule.superiority,
                self._looks.told(),
            )
            self._finding = Finding("fail" if unlikely and matters else "pass", text)
        return self._finding


def _share(sample: Sample) -> str:
    if sample.ratio is None:
        return "0 of 0"
    return "%d of %d (%.1f %%)" % (sample.failed, sample.finished, 100 * sample.ratio)
