# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The face of what a gate can measure besides the queue; one file a source is behind it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a source said: a number, or an outcome (pass, fail or inconclusive), or neither; ``said`` is in words what or why.

    Neither is could-not-measure: the source is there, and what it says is nothing to judge by.
    """

    said: str
    value: float | None = None
    outcome: str | None = None


class Source(ABC):
    """One place to ask. Constructing it checks the options and asks nothing."""

    @abstractmethod
    def ask(self) -> Answer:
        """Ask once.

        :raises Unavailable: it does not answer; it may the next time.
        :raises Refused: it never will, as it is asked.
        """


def number(text: Any) -> float | None:
    """A finite number, or None: NaN and infinity are what a division by nothing gives, and no measurement."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
