# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The geometry of the report's plot: numbers in, positions and SVG paths out. The template only writes them down."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

_CHARACTER = 6.3
_BADGE = 9
_ROW = 22

#: The plot areas from the top: name, title, height in the wide and in the narrow chart. Their sizes differ much, so each has its own axis.
_PANELS = (
    ("waiting", "Tasks waiting in the queue", 120.0, 100.0),
    ("executing", "Tasks executing", 64.0, 60.0),
    ("failed", "Tasks standing as failed", 90.0, 76.0),
)


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


@dataclass
class Chart:
    """Everything that the template needs to write one SVG; all positions in its own units."""

    width: int
    height: float
    left: float
    right: float
    panels: list[Panel]
    lanes: list[dict[str, Any]]
    lanes_title: float
    marks: list[dict[str, Any]]
    ticks: list[tuple[float, str]]
    axis: float
    wide: bool


def draw(
    points: list[Any],
    marks: list[tuple[float, int, str, str]],
    lanes: dict[str, list[tuple[float, float, str]]],
    first_version: str,
    width: int,
    labels: bool,
) -> Chart:
    """Lay out the plot.

    :param points: (seconds, queued, executing, failed), oldest first.
    :param marks: decision points: (seconds, number, label, tone).
    :param lanes: host to spans of (from, to, version) in seconds.
    :param first_version: the version drawn as the ordinary one.
    :param labels: whether there is room for the labels of the decision points beside their numbers.
    """
    left, right = (64.0 if labels else 34.0), width - 11.0
    length: float = max([point[0] for point in points] + [mark[0] for mark in marks] + [1.0])

    def x(t: float) -> float:
        return round(left + (right - left) * max(0.0, t) / float(length), 1)

    placed, rows = _place(marks, x, left, right, labels)
    top = rows * _ROW + 30.0
    panels: list[Panel] = []
    for column, (name, title, high, low) in enumerate(_PANELS, start=1):
        series = [(x(point[0]), int(point[column])) for point in points]
        panels.append(_panel(name, title, series, panels[-1].bottom + 44 if panels else top, high if labels else low))
    lanes_title = panels[-1].bottom + 32
    drawn, y = [], lanes_title + 10
    for host, spans in lanes.items():
        drawn.append(
            {
                "host": host,
                "y": y,
                "spans": [
                    {
                        "x": x(begin),
                        "width": round(max(2.0, x(end) - x(begin)), 1),
                        "version": version,
                        "kind": "first" if version == first_version else "second",
                        # A text that does not fit is left out; the colour and the legend say it too.
                        "text": version if x(end) - x(begin) > len(version) * _CHARACTER + 8 else "",
                    }
                    for begin, end, version in spans
                ],
            }
        )
        y += 24 if labels else 40
    axis = y + 4
    step = _step(length, 10 if labels else 5)
    ticks = [(x(t * step), "%g" % (t * step)) for t in range(int(length / step) + 1)]
    return Chart(width, axis + 34, left, right, panels, drawn, lanes_title, placed, ticks, axis, labels)


def _place(marks: list[tuple[float, int, str, str]], x: Any, left: float, right: float, labels: bool) -> tuple[list[dict[str, Any]], int]:
    """Give each decision point the first row in which its badge and label touch no other."""
    taken: list[list[tuple[float, float]]] = []
    placed = []
    for t, number, label, tone in marks:
        at = x(t)
        room = _BADGE * 2 + 6 + len(label) * _CHARACTER if labels else _BADGE * 2.0
        begin, end, side = at - _BADGE, at - _BADGE + room, "right"
        if end > right:
            # Not enough room up to the edge: the label stands before its badge.
            begin, end, side = at + _BADGE - room, at + _BADGE, "left" if labels else "right"
        row = 0
        while row < len(taken) and any(begin < other_end + 8 and end > other_begin - 8 for other_begin, other_end in taken[row]):
            row += 1
        if row == len(taken):
            taken.append([])
        taken[row].append((begin, end))
        placed.append({"x": at, "y": row * _ROW + 12, "number": number, "label": label if labels else "", "side": side, "tone": tone})
    return placed, len(taken)


def _panel(name: str, title: str, points: list[tuple[float, int]], top: float, height: float) -> Panel:
    highest = max([value for _x, value in points] + [1])
    step = _step(highest, 4 if height > 80 else 3)
    limit = math.ceil(highest / step) * step
    bottom = top + height

    def y(value: float) -> float:
        return round(bottom - height * value / limit, 1)

    line = " ".join("%s%s,%s" % ("L" if index else "M", at, y(value)) for index, (at, value) in enumerate(points))
    area = "%s L%s,%s L%s,%s Z" % (line, points[-1][0], bottom, points[0][0], bottom) if points else ""
    ticks = [(y(value * step), f"{value * step:,}") for value in range(int(limit / step) + 1)]
    return Panel(name, title, top, bottom, ticks, line, area)


def _step(length: float, about: int) -> int:
    """A round step that gives at most ``about`` parts."""
    scale = 1
    while True:
        for base in (1, 2, 5):
            if length / (base * scale) <= about:
                return base * scale
        scale *= 10
