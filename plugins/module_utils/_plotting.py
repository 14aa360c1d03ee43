# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The geometry that the pages' plots share: numbers in, positions and SVG paths out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Sequence

#: The width of a character and the radius of a decision point's badge, in the plot's units.
CHARACTER = 6.3
BADGE = 9
_ROW = 22


@dataclass
class Panel:
    """One plot area over the common time axis.

    :ivar ticks: (y, text) of the horizontal lines.
    :ivar line: SVG path of the series.
    :ivar area: SVG path of the area below it.
    """

    name: str
    title: str
    top: float
    bottom: float
    ticks: list[tuple[float, str]]
    line: str
    area: str
    #: The value at the panel's top, for whoever draws more into it.
    limit: float = 1.0

    def y(self, value: float) -> float:
        """Where ``value`` is."""
        return height_of(value, self.limit, self.top, self.bottom)


def height_of(value: float, limit: float, top: float, bottom: float) -> float:
    """The position of ``value`` between 0 at the ``bottom`` and ``limit`` at the ``top``."""
    return round(bottom - (bottom - top) * value / limit, 1)


def panel(name: str, title: str, series: Sequence[Sequence[tuple[float, float]]], top: float, height: float, least: float = 1) -> Panel:
    """Lay one plot area out.

    :param series: lines of (x, value); each begins anew.
    :param least: the axis reaches at least up to this.
    """
    highest = max([value for points in series for _x, value in points] + [least])
    step = round_step(highest, 4 if height > 80 else 3)
    limit = math.ceil(highest / step) * step
    bottom = top + height
    lines, areas = [], []
    for points in series:
        if not points:
            continue
        line = " ".join(
            "%s%s,%s" % ("L" if index else "M", at, height_of(value, limit, top, bottom)) for index, (at, value) in enumerate(points)
        )
        lines.append(line)
        areas.append("%s L%s,%s L%s,%s Z" % (line, points[-1][0], bottom, points[0][0], bottom))
    ticks = [(height_of(value * step, limit, top, bottom), f"{value * step:,}") for value in range(int(limit / step) + 1)]
    return Panel(name, title, top, bottom, ticks, " ".join(lines), " ".join(areas), limit)


def round_step(length: float, about: int) -> int:
    """A round step that gives at most ``about`` parts."""
    scale = 1
    while True:
        for base in (1, 2, 5):
            if length / (base * scale) <= about:
                return base * scale
        scale *= 10


def place_marks(
    marks: list[tuple[float, int, str, str]], x: Callable[[float], float], right: float, labels: bool
) -> tuple[list[dict[str, Any]], float]:
    """Give each decision point the first row in which its badge and label touch no other.

    :param marks: (seconds, number, label, tone).
    :param labels: whether there is room for the labels beside the badges.
    :returns: the placed badges, and the height of all rows.
    """
    taken: list[list[tuple[float, float]]] = []
    placed = []
    for t, number, label, tone in marks:
        at = x(t)
        room = BADGE * 2 + 6 + len(label) * CHARACTER if labels else BADGE * 2.0
        begin, end, side = at - BADGE, at - BADGE + room, "right"
        if end > right:
            # Not enough room up to the edge: the label stands before its badge.
            begin, end, side = at + BADGE - room, at + BADGE, "left" if labels else "right"
        row = 0
        while row < len(taken) and any(begin < other_end + 8 and end > other_begin - 8 for other_begin, other_end in taken[row]):
            row += 1
        if row == len(taken):
            taken.append([])
        taken[row].append((begin, end))
        placed.append({"x": at, "y": row * _ROW + 12, "number": number, "label": label if labels else "", "side": side, "tone": tone})
    return placed, float(len(taken) * _ROW)
