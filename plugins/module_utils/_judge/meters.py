# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each metric makes of a gate's readings: against a limit. Pure: no clock, no broker.

A reading is what one look of the module gave: ``at`` (seconds since 1970) and, by the metric, ``workers`` (see
:class:`~.counters.Counters`), ``value`` (None with a reason in ``said``) or ``outcome`` (pass, fail or inconclusive, with ``said``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Mapping

from .._errors import Refused
from .counters import Counters, Sample
from .verdict import Finding

#: The figure of a metric in words.
WORDS: dict[str, str] = {
    "depth": "%g tasks are queued",
    "oldest_age": "the oldest task is %g s old",
    "throughput": "%.3g tasks/s",
    "prometheus": "the query gives %g",
    "http": "the field is %g",
    "command": "the command says %g",
}


@dataclass(frozen=True)
class Limit:
    """A figure that may not be passed. ``fail_when``: above or below."""

    value: float
    fail_when: str = "above"

    def passed(self, value: float) -> bool:
        """Whether ``value`` lies beyond it."""
        return value > self.value if self.fail_when == "above" else value < self.value

    def told(self, figure: str = "") -> str:
        """``limit 5``, or ``at least 5``; ``figure``: the number, written otherwise."""
        return ("limit %s" if self.fail_when == "above" else "at least %s") % (figure or "%g" % self.value)


class Meter(ABC):
    """Folds the readings of a gate, one after the other."""

    @abstractmethod
    def fold(self, reading: Mapping[str, Any]) -> dict[str, Any]:
        """Take one reading in; what the report keeps of it."""

    @abstractmethod
    def told(self) -> str:
        """The figures so far, in words."""

    @abstractmethod
    def find(self) -> Finding:
        """What the readings so far say."""


class FailedRatio(Meter):
    """The share of the version's finished tasks that failed, against a limit.

    :param min_tasks: nothing is said before so many have finished.
    :param since: see :class:`~.counters.Counters`.
    """

    def __init__(self, limit: Limit, min_tasks: int, since: float | None = None) -> None:
        if not 0 <= limit.value <= 1:
            raise Refused(
                "A limit of %g is not a share of the tasks" % limit.value,
                option="limit",
                next_step="Give limit between 0 and 1, for example 0.05",
            )
        check_min_tasks(min_tasks)
        self._limit = limit
        self._min_tasks = min_tasks
        self._counters = Counters(since=since)
        self._sample: Sample | None = None
        self._workers_seen = False

    def fold(self, reading: Mapping[str, Any]) -> dict[str, Any]:
        self._workers_seen = self._workers_seen or bool(reading["workers"])
        self._sample = self._counters.read(reading["at"], reading["workers"])
        return self._sample.as_dict()

    def told(self) -> str:
        """``7 of 21 failed (33.3 %, limit 5.0 %)``"""
        sample, bound = self._sample, self._limit.told("%.1f" % (100 * self._limit.value))
        if sample is None:
            return "nothing measured yet"
        if sample.ratio is None:
            return "no task finished yet (%s %%)" % bound
        return "%d of %d failed (%.1f %%, %s %%)" % (sample.failed, sample.finished, 100 * sample.ratio, bound)

    def find(self) -> Finding:
        sample = self._sample
        if sample is None or sample.ratio is None or sample.finished < self._min_tasks:
            finished = sample.finished if sample is not None else 0
            lacking = "only %d tasks finished, %d are needed to judge" % (finished, self._min_tasks)
            if not self._workers_seen:
                lacking += "; no worker was seen that carries this version in its name and takes tasks from this queue"
            return Finding("waiting", self.told(), lacking)
        return Finding("fail" if self._limit.passed(sample.ratio) else "pass", self.told())


class Throughput(Meter):
    """Tasks a second that the version's workers finish, over all the time since the first reading; or the broker's own rate (``rate``).

    :param bake: seconds over which it is measured before anything is said.
    """

    def __init__(self, limit: Limit, bake: float) -> None:
        self._limit = limit
        self._bake = bake
        self._counters = Counters()
        self._began: float | None = None
        self._seconds = 0.0
        self._value: float | None = None
        self._said = ""

    def fold(self, reading: Mapping[str, Any]) -> dict[str, Any]:
        if self._began is None:
            self._began = reading["at"]
        self._seconds = reading["at"] - self._began
        self._said = str(reading.get("said") or "")
        if "rate" in reading:
            self._value = reading["rate"]
        else:
            finished = self._counters.read(reading["at"], reading["workers"]).finished
            self._value = finished / self._seconds if self._seconds > 0 else None
        return {"at": reading["at"], "value": self._value}

    def told(self) -> str:
        """``3.2 tasks/s (at least 2)``"""
        return "nothing measured yet" if self._value is None else "%s (%s)" % (WORDS["throughput"] % self._value, self._limit.told())

    def find(self) -> Finding:
        if self._said:
            return Finding("inconclusive", self._said)
        if self._value is None or self._seconds < self._bake:
            return Finding("waiting", self.told(), "it was measured for %.0f s, %.0f s are needed" % (self._seconds, self._bake))
        return Finding("fail" if self._limit.passed(self._value) else "pass", self.told())


class Number(Meter):
    """Any other figure, look by look, against a limit. ``words`` is its line of :data:`WORDS`."""

    def __init__(self, limit: Limit, words: str) -> None:
        self._limit = limit
        self._words = words
        self._value: float | None = None
        self._said = "nothing measured yet"

    def fold(self, reading: Mapping[str, Any]) -> dict[str, Any]:
        self._value = reading["value"]
        self._said = str(reading.get("said") or "there is no number")
        return {"at": reading["at"], "value": self._value}

    def told(self) -> str:
        """``412 tasks are queued (limit 1000)``"""
        return self._said if self._value is None else "%s (%s)" % (self._words % self._value, self._limit.told())

    def find(self) -> Finding:
        if self._value is None:
            return Finding("inconclusive", self._said)
        return Finding("fail" if self._limit.passed(self._value) else "pass", self.told())


class Judged(Meter):
    """A source that judges by itself: a command's exit code, an HTTP status."""

    def __init__(self) -> None:
        self._outcome = "inconclusive"
        self._said = "nothing measured yet"

    def fold(self, reading: Mapping[str, Any]) -> dict[str, Any]:
        self._outcome, self._said = reading["outcome"], str(reading["said"])
        return {"at": reading["at"], "outcome": self._outcome}

    def told(self) -> str:
        """What the source said."""
        return self._said

    def find(self) -> Finding:
        return Finding(self._outcome, self._said)


def check_min_tasks(min_tasks: int) -> None:
    """:raises Refused: nothing can be judged by so few."""
    if min_tasks < 1:
        raise Refused("A gate cannot judge by %d tasks" % min_tasks, option="min_tasks", next_step="Give min_tasks of at least 1")
