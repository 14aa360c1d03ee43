# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The operation as a plot: how many tasks waited, what share failed against which limit, which host was on which release. Inline SVG."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

from .._html import Markup, element, joined
from .._plotting import CHARACTER, Panel, panel, place_marks, round_step
from .facts import Facts
from .text import clock_of, unix

#: More queues and more hosts than these have no room; the tables have all.
QUEUES = 3
LANES = 30

#: Room for a letter of a text that somebody else wrote.
_LETTER = 1.25 * CHARACTER

Series = Sequence[Sequence["tuple[float, float]"]]


@dataclass(frozen=True)
class Canvas:
    """One width of the plot, and the time from ``began`` to ``ended`` in seconds since 1970."""

    width: float
    wide: bool
    began: float
    ended: float
    left: float

    @property
    def right(self) -> float:
        return self.width - 11.0

    def x(self, at: float) -> float:
        """Where a moment is."""
        share = (at - self.began) / max(self.ended - self.began, 1.0)
        return round(self.left + (self.right - self.left) * min(1.0, max(0.0, share)), 1)


def plots(facts: Facts) -> Markup | None:
    """The plot for a wide and for a narrow page; None when the journal has nothing to draw."""
    measured = facts.measured
    if not (measured.depth or measured.standing or measured.ratios or facts.lanes):
        return None
    moments = [unix(line.at) for line in facts.timeline]
    moments += [at for series in (*measured.depth.values(), *measured.standing.values(), *measured.ratios) for at, _value in series]
    began, ended = min(moments), max(moments)
    # Beside the lanes of a wide plot the hosts' names stand, as far as there is room.
    longest = max([len(lane.host) for lane in facts.lanes[:LANES]] or [0])
    left = min(190.0, max(64.0, 16.0 + longest * _LETTER))
    return joined(_plot(facts, Canvas(1000.0, True, began, ended, left)), _plot(facts, Canvas(358.0, False, began, ended, 34.0)))


def _plot(facts: Facts, canvas: Canvas) -> Markup:
    marks = [(unix(one.at), one.number, one.label, one.tone) for one in sorted(facts.decisions, key=lambda one: (unix(one.at), one.seq))]
    placed, y = place_marks(marks, canvas.x, canvas.right, canvas.wide)
    parts: list[Markup] = []
    bottom = y
    for shown in _panels(facts, canvas, y + 30.0):
        parts.append(shown[1])
        bottom = shown[0].bottom
    if facts.lanes:
        lanes, bottom = _lanes(facts, canvas, bottom + 32)
        parts.append(lanes)
    axis = bottom + 6
    leads = [element("line", class_="lead", x1=one["x"], x2=one["x"], y1=one["y"], y2=axis) for one in placed]
    return element(
        "svg",
        *leads,
        *parts,
        _axis(canvas, axis),
        *[_mark(one) for one in placed],
        class_="plot %s" % ("wide" if canvas.wide else "narrow"),
        viewBox="0 0 %g %g" % (canvas.width, axis + 36),
        role="img",
        aria_label="Tasks waiting, share of failed tasks and the release of each host over time, with the decision points",
    )


def _panels(facts: Facts, canvas: Canvas, top: float) -> list[tuple[Panel, Markup]]:
    measured = facts.measured
    wanted: list[tuple[str, str, Series, list[float], float]] = []
    for queue in sorted(measured.depth)[:QUEUES]:
        wanted.append(("waiting", "Tasks waiting in %s" % queue, [measured.depth[queue]], [], 110.0))
    for queue in sorted(measured.standing)[:QUEUES]:
        wanted.append(("failed", "Tasks standing as failed in %s" % queue, [measured.standing[queue]], [], 80.0))
    if measured.ratios:
        wanted.append(("failed", "Failed tasks at the gates, in %", measured.ratios, sorted(measured.limits), 110.0))
    drawn: list[tuple[Panel, Markup]] = []
    for name, title, series, limits, height in wanted:
        at = drawn[-1][0].bottom + 44 if drawn else top
        points = [[(canvas.x(moment), value) for moment, value in one] for one in series]
        shown = panel(name, title, points, at, height if canvas.wide else 0.8 * height, max([1.0, *limits]))
        drawn.append((shown, _drawn(canvas, shown, points, limits)))
    return drawn


def _drawn(canvas: Canvas, shown: Panel, points: Series, limits: list[float]) -> Markup:
    parts = [_text("title", canvas.left, shown.top - 12, fitting(shown.title, canvas.right - canvas.left))]
    for index, (y, text) in enumerate(shown.ticks):
        parts.append(_horizontal("grid" if index else "base", canvas, y))
        parts.append(_text("tick", canvas.left - 8, y + 4, text, "end"))
    parts.append(element("path", class_="area %s" % shown.name, d=shown.area))
    parts.append(element("path", class_="line %s" % shown.name, d=shown.line))
    # The measured points themselves: between two of them nothing is known.
    parts += [element("circle", class_="dot %s" % shown.name, cx=x, cy=shown.y(value), r=2.5) for one in points for x, value in one]
    for limit in limits:
        parts.append(_horizontal("limit", canvas, shown.y(limit)))
        parts.append(_text("limitname", canvas.right, shown.y(limit) - 5, "limit %g %%" % limit, "end"))
    return element("g", *parts)


def _lanes(facts: Facts, canvas: Canvas, top: float) -> tuple[Markup, float]:
    left_out = len(facts.lanes) - LANES
    more = " (%d more hosts are in the table)" % left_out if left_out > 0 else ""
    parts = [_text("title", canvas.left, top, "Release of each host that moved" + more)]
    releases = sorted({release for lane in facts.lanes for _at, release in lane.stretches if release is not None})
    y = top + 10
    for lane in facts.lanes[:LANES]:
        if canvas.wide:
            parts.append(_text("tick", canvas.left - 8, y + 13, fitting(lane.host, canvas.left - 10), "end"))
        else:
            parts.append(_text("tick", canvas.left, y + 10, fitting(lane.host, canvas.right - canvas.left)))
        ends = [at for at, _release in lane.stretches[1:]] + [canvas.ended]
        for (at, release), end in zip(lane.stretches, ends):
            if release is not None:
                parts.append(_stretch(canvas, lane.host, facts.names.release(release), at, end, y, releases.index(release)))
        y += 24 if canvas.wide else 40
    return element("g", *parts), y


def _stretch(canvas: Canvas, host: str, release: str, at: float, end: float, y: float, place: int) -> Markup:
    x, width = canvas.x(at), max(2.0, canvas.x(end) - canvas.x(at))
    kind = "second" if place % 2 else "first"
    top = y if canvas.wide else y + 14
    hint = element("title", "%s: %s" % (host, release))
    block = element("rect", hint, class_="span %s" % kind, x=x, y=top, width=round(width, 1), height=18, rx=3)
    # A text that does not fit is left out; the hint and the table say it too.
    if width <= len(release) * CHARACTER + 8:
        return block
    return joined(block, _text("inside %s" % kind, x + width / 2, top + 13, release, "middle"))


def _axis(canvas: Canvas, y: float) -> Markup:
    length = canvas.ended - canvas.began
    unit, name = (60.0, "minutes") if length > 600 else (1.0, "seconds")
    step = round_step(max(length / unit, 1.0), 10 if canvas.wide else 5)
    parts = [_horizontal("base", canvas, y)]
    for tick in range(int(length / unit / step) + 1):
        x = canvas.x(canvas.began + tick * step * unit)
        parts.append(element("line", class_="base", x1=x, x2=x, y1=y, y2=y + 4))
        parts.append(_text("tick", x, y + 17, str(tick * step), "middle"))
    return element("g", *parts, _text("tick", canvas.right, y + 32, "%s since %s UTC" % (name, clock_of(canvas.began)), "end"))


def _mark(one: dict[str, object]) -> Markup:
    x, y = float(str(one["x"])), float(str(one["y"]))
    badge = joined(element("circle", cx=x, cy=y, r=9), _text(None, x, y + 4, str(one["number"]), "middle"))
    mark = element("g", badge, class_=("mark %s" % one["tone"]).strip())
    if not one["label"]:
        return mark
    after = one["side"] == "right"
    return joined(mark, _text("label", x + (14 if after else -14), y + 4, str(one["label"]), "start" if after else "end"))


def _horizontal(class_: str, canvas: Canvas, y: float) -> Markup:
    return element("line", class_=class_, x1=canvas.left, x2=canvas.right, y1=y, y2=y)


def fitting(text: str, room: float) -> str:
    """``text``, or as much of it as there is room for. Bold and wide letters take more than a usual one."""
    most = int(room / _LETTER)
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(class_: str | None, x: float, y: float, text: str, anchor: str | None = None) -> Markup:
    return element("text", text, class_=class_, x=round(x, 1), y=round(y, 1), text_anchor=anchor)
