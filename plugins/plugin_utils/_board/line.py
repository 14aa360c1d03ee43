# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One line of the board. Plain Python."""

from __future__ import annotations

from dataclasses import dataclass

#: What a text can be to its reader; :mod:`.colors` has a colour for each.
TONES = ("plain", "good", "change", "warn", "bad", "lost", "dim", "head")


@dataclass
class Line:
    """One line of the board.

    :ivar tone: one of :data:`TONES`.
    :ivar subject: what it is about: a host, a queue, a fleet. Empty for the host that the result is from.
    """

    text: str
    tone: str = "plain"
    subject: str = ""
