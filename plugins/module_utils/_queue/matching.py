# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tasks a rule of a redrive means, and what of a task may be told: by its name, version, age, error, headers and payload."""

from __future__ import annotations

import fnmatch
import re
from typing import Any

from .api import Match, Task


class Matcher:
    """Whether a task fits a rule. Three answers: yes, no, and "it does not record what is asked" (None)."""

    def __init__(self, match: Match) -> None:
        self._match = match
        self._ids = frozenset(match.ids) if match.ids is not None else None
        self._pattern = match.error_pattern()
        self.any = not match.named()
        #: What has to be loaded before :meth:`fits` can tell.
        self.needs = frozenset(
            what for what, wanted in (("error", match.error), ("headers", match.header), ("fields", match.field)) if wanted is not None
        )

    def could_fit(self, task: Task, now: float) -> bool | None:
        """By what is known of every task, without loading more."""
        match = self._match
        if self._ids is not None and task.id not in self._ids:
            return False
        told: list[bool | None] = []
        if match.task is not None:
            told.append(None if task.name is None else fnmatch.fnmatchcase(task.name, match.task))
        if match.version is not None:
            told.append(None if task.version is None else task.version == match.version)
        if match.older_than is not None or match.newer_than is not None:
            told.append(None if task.ended_at is None else self._of_age(now - task.ended_at))
        return _all(told)

    def _of_age(self, age: float) -> bool:
        older, newer = self._match.older_than, self._match.newer_than
        return (older is None or age > older) and (newer is None or age < newer)

    def fits(self, task: Task) -> bool | None:
        """By what had to be loaded."""
        match = self._match
        told: list[bool | None] = []
        if self._pattern is not None:
            told.append(None if task.error is None else bool(self._pattern.search(task.error)))
        for name, wanted in (match.header or {}).items():
            told.append(None if task.headers is None else str(task.headers.get(name)) == wanted and name in task.headers)
        for name, wanted in (match.field or {}).items():
            told.append(None if task.fields is None else field_text(task.fields, name) == wanted)
        return _all(told)


def _all(told: list[bool | None]) -> bool | None:
    """Whether all hold; one that does not outweighs those that are unknown."""
    if False in told:
        return False
    return None if None in told else True


def field_text(fields: Any, path: str) -> str | None:
    """The value at ``path`` (names and list positions joined by dots) of a JSON payload as text; None if there is none.

    ``true``, ``false`` and ``null`` read as JSON writes them.
    """
    value = fields
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and re.match(r"^-?\d+$", part) and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return None if isinstance(value, (dict, list)) else str(value)


def error_class(block: str | None) -> str | None:
    """The exception's class name; its message may hold data and is not shown."""
    found = re.match(r"[A-Za-z_][\w.:]*(?=:|$)", block or "")
    return found.group(0).rstrip(":") if found else None
