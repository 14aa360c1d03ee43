# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Text for a screen: how wide it is, cut to a width, and nothing in it that a terminal would obey; times. Plain Python."""

from __future__ import annotations

import re
import time
import unicodedata

#: Parts of one row of a screen, each a text and its tone.
Row = list[tuple[str, str]]

#: What colours a text; all else that begins with an escape character could move the cursor.
_COLOR = re.compile(r"(\033\[[0-9;]*m)")

_DOTS = "..."


def one_line(text: str) -> str:
    """``text`` on one line: white space joined, what cannot be seen shown by its number."""
    return harmless(" ".join(text.split()))


def harmless(text: str) -> str:
    """``text`` without what a terminal would obey, or draw over its neighbours. Line breaks stay, and colours."""
    parts = _COLOR.split(text)
    return "".join(part if index % 2 else "".join(map(_visible, part)) for index, part in enumerate(parts))


def _visible(character: str) -> str:
    if character == "\t":
        return "    "
    # The selectors choose between a narrow and a wide picture, which no two terminals agree on.
    if "\ufe00" <= character <= "\ufe0f":
        return ""
    if character == "\n" or character.isprintable() or unicodedata.category(character) == "Mn":
        return character
    return f"\\u{ord(character):04x}"


def width(text: str) -> int:
    """How many columns ``text`` takes, which is made of what :func:`one_line` leaves."""
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, columns: int) -> str:
    """``text``, in at most so many columns; what was cut off shows by three dots."""
    if width(text) <= columns:
        return text
    dots = _DOTS if columns > 2 * len(_DOTS) else ""
    kept, left = "", columns - len(dots)
    for character in text:
        left -= _columns(character)
        if left < 0:
            break
        kept += character
    return kept + dots


def padded(text: str, columns: int) -> str:
    """``text`` in exactly so many columns."""
    shown = cut(text, columns)
    return shown + " " * (columns - width(shown))


def clock(at: float) -> str:
    """``03:00:05``, here."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def elapsed(seconds: float) -> str:
    """``1:23``, ``1:02:03``"""
    minutes, rest = divmod(max(int(seconds), 0), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def lasting(seconds: float) -> str:
    """``12 s``, and from 100 on as :func:`elapsed` has it."""
    whole = max(int(seconds + 0.5), 0)
    return f"{whole} s" if whole < 100 else elapsed(whole)
