# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters of workers, read again and again, folded into what a version's workers finished since a gate began."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping

#: Clocks of worker hosts may differ by this much (s) from that of whoever noted the moment of the switch.
CLOCKS_S = 5.0


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
