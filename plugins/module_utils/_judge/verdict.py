# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gates: counters in, verdict out. Pure: no clock, no broker.

``fail`` says that the version fails too many tasks. That the counters could not be read, or that too few tasks were finished
to judge, is ``inconclusive``: failing is not could-not-measure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping

from .._errors import Refused

#: Clocks of worker hosts may differ by this much (s) from that of whoever noted the moment of the switch.
CLOCKS_S = 5.0
#: At most this many samples are kept for the report.
SAMPLES = 200


@dataclass(frozen=True)
class Rule:
    """What is allowed. ``limit`` is a share (0.05: 5 %); ``min_tasks`` tasks must have finished before anything is decided;
    ``bake``, ``timeout`` in seconds; ``errors_limit`` looks in a row may fail before the gate gives up."""

    limit: float
    min_tasks: int
    bake: float
    timeout: float
    errors_limit: int = 5

    def check(self) -> None:
        """:raises Refused: the rule cannot be met."""
        if not 0 <= self.limit <= 1:
            raise Refused(
                "A limit of %s is not a share of the tasks" % self.limit,
                option="limit",
                next_step="Give limit between 0 and 1, for example 0.05",
            )
        if self.min_tasks < 1:
            raise Refused("A gate cannot judge by %d tasks" % self.min_tasks, option="min_tasks", next_step="Give min_tasks of at least 1")
        if self.bake < 0 or self.timeout <= 0 or self.timeout < self.bake:
            raise Refused(
                "The gate's timeout (%s s) is over before its bake time (%s s) is" % (self.timeout, self.bake),
                option="timeout",
                next_step="Give timeout longer than bake, both in seconds",
            )
        if self.errors_limit < 1:
            raise Refused("errors_limit must be at least 1", option="errors_limit")


@dataclass(frozen=True)
class Sample:
    """Tasks that the version's workers finished since the gate began, at ``at`` (seconds since 1970)."""

    at: float
    completed: int
    failed: int

    @property
    def finished(self) -> int:
        return self.completed + self.failed

    @property
    def ratio(self) -> float | None:
        """The share that failed; None before anything finished."""
        return self.failed / self.finished if self.finished else None

    def as_dict(self) -> dict[str, Any]:
        return {"at": self.at, "completed": self.completed, "failed": self.failed, "ratio": self.ratio}


@dataclass
class _Meter:
    """One worker's counters: what they were when the gate began to count, and now."""

    started: float | None
    base: tuple[int, int]
    now: tuple[int, int]


@dataclass
class Counters:
    """Folds repeated readings of per-worker counters into tasks finished since the gate began.

    :ivar since: the moment of the switch (seconds since 1970), if known. Workers that started after it count from 0; without
        it, workers of the first reading count from what they had then. A worker that restarts begins at 0 again; what it
        had finished before stays counted. A worker that is gone keeps what it had.
    """

    since: float | None = None
    _meters: dict[str, _Meter] = field(default_factory=dict)
    _closed: tuple[int, int] = (0, 0)
    _began: bool = False

    def read(self, at: float, workers: Iterable[Mapping[str, Any]]) -> Sample:
        """Fold one reading: mappings with ``name``, ``started``, ``completed``, ``failed`` (null where not known)."""
        for worker in workers:
            completed, failed, started = worker.get("completed"), worker.get("failed"), worker.get("started")
            if completed is None or failed is None:
                continue
            now = (int(completed), int(failed))
            meter = self._meters.get(worker["name"])
            if meter is None:
                self._meters[worker["name"]] = _Meter(started, self._first_base(started, now), now)
            elif (started is not None and started != meter.started) or now[0] < meter.now[0] or now[1] < meter.now[1]:
                self._closed = _plus(self._closed, _minus(meter.now, meter.base))
                self._meters[worker["name"]] = _Meter(started, (0, 0), now)
            else:
                meter.now = now
        self._began = True
        total = self._closed
        for meter in self._meters.values():
            total = _plus(total, _minus(meter.now, meter.base))
        return Sample(at, total[0], total[1])

    def _first_base(self, started: float | None, now: tuple[int, int]) -> tuple[int, int]:
        if self.since is not None and started is not None:
            return (0, 0) if started >= self.since - CLOCKS_S else now
        # A worker that was not there at the first reading has begun since.
        return (0, 0) if self._began else now


def _plus(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return (one[0] + other[0], one[1] + other[1])


def _minus(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return (one[0] - other[0], one[1] - other[1])


@dataclass(frozen=True)
class Verdict:
    """``verdict``: pass, fail or inconclusive. ``measured``: whether enough tasks were seen to say anything."""

    verdict: str
    reason: str
    measured: bool


def describe(sample: Sample | None, rule: Rule) -> str:
    """``7 of 21 failed (33.3 %, limit 5.0 %)``"""
    if sample is None:
        return "nothing measured yet"
    if sample.ratio is None:
        return "no task finished yet (limit %.1f %%)" % (100 * rule.limit)
    return "%d of %d failed (%.1f %%, limit %.1f %%)" % (sample.failed, sample.finished, 100 * sample.ratio, 100 * rule.limit)


def judge(
    rule: Rule,
    sample: Sample | None,
    elapsed: float,
    errors_in_row: int = 0,
    last_error: str | None = None,
    workers_seen: bool = True,
) -> Verdict | None:
    """The verdict, or None while it is too early for one.

    :param sample: the newest; None if no look succeeded yet.
    :param elapsed: seconds since the gate began.
    :param errors_in_row: looks that failed since the last one that succeeded.
    :param workers_seen: whether any worker of the version was there; only for the reason.
    """
    enough = sample is not None and sample.finished >= rule.min_tasks
    if enough and sample is not None and sample.ratio is not None and sample.ratio > rule.limit:
        return Verdict("fail", describe(sample, rule), True)
    if errors_in_row >= rule.errors_limit:
        reason = "could not measure: %d looks in a row failed, the last with: %s" % (errors_in_row, last_error or "no reason")
        return Verdict("inconclusive", reason, enough)
    if enough and elapsed >= rule.bake and errors_in_row == 0:
        return Verdict("pass", "%s after %.0f s" % (describe(sample, rule), elapsed), True)
    if elapsed >= rule.timeout:
        if errors_in_row:
            return Verdict("inconclusive", "could not measure: the looks failed, the last with: %s" % (last_error or "no reason"), enough)
        seen = sample.finished if sample is not None else 0
        reason = "only %d tasks finished within %.0f s, %d are needed to judge" % (seen, elapsed, rule.min_tasks)
        if not workers_seen:
            reason += "; no worker was seen that carries this version in its name and takes tasks from this queue"
        return Verdict("inconclusive", reason, False)
    return None


def thin(samples: list[Sample]) -> list[Sample]:
    """``samples`` without those that repeat the counts before, at most :data:`SAMPLES`, the newest always kept."""
    kept = [
        sample
        for index, sample in enumerate(samples)
        if index in (0, len(samples) - 1) or (sample.completed, sample.failed) != (samples[index - 1].completed, samples[index - 1].failed)
    ]
    while len(kept) > SAMPLES:
        kept = kept[:-1:2] + kept[-1:]
    return kept


def single_look(rule: Rule, sample: Sample) -> Verdict:
    """The verdict of one look without any waiting: a failing version shows at once, a good one cannot."""
    verdict = judge(rule, sample, 0.0)
    if verdict is not None and verdict.verdict == "fail":
        return verdict
    return Verdict("inconclusive", "measured once, did not wait: %s" % describe(sample, rule), sample.finished >= rule.min_tasks)
