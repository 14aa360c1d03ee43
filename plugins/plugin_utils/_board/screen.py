# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture that is drawn anew in place at the bottom of a terminal, while all that is written scrolls by above it.

So whatever is written stays in the terminal's own history, whichever way the run ends. No mode of the terminal is changed, not
even the cursor is hidden: a process that is killed leaves nothing to be put right.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO, cast

from ansible.utils.color import stringc

from .colors import COLORS
from .text import Row, harmless

#: Seconds: two pictures are at least so far apart, whatever happens meanwhile.
APART_S = 0.1

#: After so many seconds without a picture the process was stopped (Ctrl-Z), and others have written since.
_STOPPED_S = 5.0


def can_draw() -> bool:
    """Whether there is a terminal that obeys, and this process is the one in its foreground."""
    if not (sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"):
        return False
    try:
        return os.tcgetpgrp(sys.stdout.fileno()) == os.getpgrp()
    except OSError:
        return False


class Screen:
    """Used under one lock, which is Display's own: see :class:`.output.Output`.

    :param picture: makes the rows for so many columns and rows.
    """

    def __init__(self, picture: Callable[[int, int], list[Row]]) -> None:
        self._picture = picture
        self._terminal = sys.stdout
        self._others = sys.stderr
        self._process = os.getpid()
        self._drawn = 0
        self._columns = 0
        self._drawn_at = float("-inf")
        self._still = False
        self._waiting_to_draw = False

    def begin(self) -> None:
        """From here on, what is written to standard output and error goes above the picture."""
        sys.stdout = cast(TextIO, _Above(self, self._terminal))
        if self._others.isatty():
            sys.stderr = cast(TextIO, _Above(self, self._others))

    def end(self) -> None:
        """Leave the last picture where it is, and everything else as it was."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Above):
                stream.rest()
        sys.stdout, sys.stderr = self._terminal, self._others
        self.draw()

    def still(self, still: bool) -> None:
        """Whether nothing may be drawn, for someone is asked something: the picture stays, and the question comes below it."""
        if still:
            self.draw()
        self._still, self._drawn = still, 0

    def draw(self) -> None:
        """Draw the picture as it is now, in the place of the last one."""
        if not self._still:
            self._terminal.write(self._erased() + self._painted())
            self._terminal.flush()

    def touched(self) -> None:
        """Something changed: draw it with the next picture."""
        self._waiting_to_draw = True

    def due(self, period: float) -> bool:
        """Whether it is time for a picture: something changed, or the last one is older than ``period`` seconds."""
        age = time.monotonic() - self._drawn_at
        return age >= period or (self._waiting_to_draw and age >= APART_S)

    def above(self, text: str, stream: TextIO) -> None:
        """Write whole lines to ``stream``, above the picture."""
        if os.getpid() != self._process or self._still:
            stream.write(text)
            stream.flush()
            return
        # At most one picture every tenth of a second: in between lines are only written, and the picture comes when it is due.
        painting = time.monotonic() - self._drawn_at >= APART_S
        shown = self._erased()
        if stream is self._terminal:
            shown += harmless(text)
        else:
            self._terminal.write(shown)
            self._terminal.flush()
            stream.write(harmless(text))
            stream.flush()
            shown = ""
        self._terminal.write(shown + (self._painted() if painting else ""))
        self._terminal.flush()
        self._waiting_to_draw = self._waiting_to_draw or not painting

    def _size(self) -> tuple[int, int]:
        """Columns and rows at this moment."""
        with suppress(OSError):
            columns, rows = os.get_terminal_size(self._terminal.fileno())
            if columns and rows:
                return columns, rows
        return 80, 24

    def _erased(self) -> str:
        """What takes the last picture away. One that a narrower terminal has folded stays: nobody knows how many rows it takes."""
        drawn, self._drawn = self._drawn, 0
        stopped = time.monotonic() - self._drawn_at > _STOPPED_S
        if not drawn or stopped or self._size()[0] < self._columns:
            return "\r"
        return f"\r\033[{drawn}A\033[J"

    def _painted(self) -> str:
        """The picture, and the cursor below it."""
        columns, rows = self._size()
        # The lines above it have to be seen, too.
        picture = self._picture(columns, max(rows - max(4, rows // 3), 1))
        self._drawn, self._columns, self._drawn_at, self._waiting_to_draw = len(picture), columns, time.monotonic(), False
        return "".join("".join(_colored(text, tone) for text, tone in row) + "\n" for row in picture)


def _colored(text: str, tone: str) -> str:
    color = COLORS[tone]
    return str(stringc(text, color)) if color and text.strip() else text


class _Above:
    """Stands in for a standard stream. All but writing is the stream's own."""

    def __init__(self, screen: Screen, stream: TextIO) -> None:
        self._screen = screen
        self._stream = stream
        self._kept = ""

    def write(self, text: str) -> int:
        """Whole lines go above the picture; what has no end of line yet is kept until it has."""
        lines, _end, self._kept = (self._kept + text).rpartition("\n")
        if _end:
            self._screen.above(lines + "\n", self._stream)
        return len(text)

    def rest(self) -> None:
        """Write what never had an end of line."""
        if self._kept:
            self.write("\n")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
