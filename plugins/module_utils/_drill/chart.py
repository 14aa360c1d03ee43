# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The geometry of the report's plot: numbers in, positions and SVG paths out. The template only writes them down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._plotting import CHARACTER, Panel, panel, place_marks, round_step

#: The plot areas from the top: name, title, height in the wide and in the narrow chart. Their sizes differ much, so each has its own axis.
_PANELS = (
    ("waiting", "Tasks waiting in the queue", 120.0, 100.0),
    ("executing", "Tasks executing", 64.0, 60.0),
    ("failed", "Tasks standing as failed", 90.0, 76.0),
)


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

    placed, height = place_marks(marks, x, right, labels)
    top = height + 30.0
    panels: list[Panel] = []
    for column, (name, title, high, low) in enumerate(_PANELS, start=1):
        series = [(x(point[0]), int(point[column])) for point in points]
        panels.append(panel(name, title, [series], panels[-1].bottom + 44 if panels else top, high if labels else low))
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
                        "text": version if x(end) - x(begin) > len(version) * CHARACTER + 8 else "",
                    }
                    for begin, end, version in spans
                ],
            }
        )
        y += 24 if labels else 40
    axis = y + 4
    step = round_step(length, 10 if labels else 5)
    ticks = [(x(t * step), "%g" % (t * step)) for t in range(int(length / step) + 1)]
    return Chart(width, axis + 34, left, right, panels, drawn, lanes_title, placed, ticks, axis, labels)
