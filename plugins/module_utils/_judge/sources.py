# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gate can measure besides the queue. A new source is one file with a :class:`Source`, and a line in :data:`SOURCES`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Callable, Mapping


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


#: Opens a source by the module's option of its name; with True its number is held against a limit, else it judges by itself.
Opener = Callable[[Mapping[str, Any], bool], Source]


def _prometheus() -> Opener:
    from .source_prometheus import open_source

    return open_source


def _http() -> Opener:
    from .source_http import open_source

    return open_source


def _command() -> Opener:
    from .source_command import open_source

    return open_source


#: Each metric that is not the queue's. The imports are written out: Ansible reads them to know which files to send to a host.
SOURCES: dict[str, Callable[[], Opener]] = {"prometheus": _prometheus, "http": _http, "command": _command}


def open_source(kind: str, options: Mapping[str, Any], wants_number: bool) -> Source:
    """The source of a metric; see :data:`Opener`.

    :param kind: one of :data:`SOURCES`.
    :raises Refused: an option is wrong.
    """
    return SOURCES[kind]()(options, wants_number)


def number(text: Any) -> float | None:
    """A finite number, or None: NaN and infinity are what a division by nothing gives, and no measurement."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
