# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a waiting action tells the board besides its line. It travels as that line does: through Display, from a worker process."""

from __future__ import annotations

from typing import Any


class Told(str):
    """A line with what it says as data. Anyone but the board sees a text.

    :ivar facts: ``kind`` (gate or drain), ``title``, ``text``; of a gate ``bake_left`` (seconds, None before it bakes); of a drain ``left``
        and ``most`` (tasks), ``seconds_left`` (an estimate, None without one), ``queues`` (as ``queue_info`` has them). Empty: only a line.
    :ivar passing: only of interest until the next one: where the board has a screen, it is shown there alone.
    """

    facts: dict[str, Any]
    passing: bool

    def __new__(cls, text: str, facts: dict[str, Any] | None = None, passing: bool = True) -> Told:
        told = super().__new__(cls, text)
        told.facts = facts or {}
        told.passing = passing
        return told
