# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For action plugins that wait: look again and again by running the module, and show that one is still there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.queueops.fleet.plugins.plugin_utils._told import Told

display = Display()

#: Seconds between two lines.
LINE_S = 5.0


@dataclass
class Answer:
    """One look. ``missed`` says why it could not be made although the next one may; else ``result`` is the module's."""

    result: dict[str, Any]
    missed: str | None = None

    @property
    def failed(self) -> bool:
        """The module refused: looking again would not help."""
        return self.missed is None and bool(self.result.get("failed"))


class WaitingAction(ActionBase):
    """Runs the module of its own name as often as needed. Subclasses implement ``run``."""

    TRANSFERS_FILES = False

    _shown = float("-inf")

    def checking(self) -> bool:
        return bool(self._task.check_mode)

    def where(self, task_vars: dict[str, Any]) -> str:
        """The host that the module runs on."""
        return str(self._task.delegate_to or task_vars.get("inventory_hostname", "localhost"))

    def look(self, task_vars: dict[str, Any], **overrides: Any) -> Answer:
        """Run the module once. That the broker or the host did not answer is ``missed``; it may answer the next time."""
        arguments = dict(self._task.args, **overrides)
        try:
            result = self._execute_module(module_args=arguments, task_vars=task_vars)
        except AnsibleConnectionFailure as failure:
            host = self.where(task_vars)
            result = {"failed": True, "unreachable": True, "msg": "Host %s cannot be reached: %s" % (host, failure.message)}
        if not result.get("failed") and not result.get("unreachable"):
            return Answer(result)
        retryable = bool(result.get("unreachable") or (result.get("error") or {}).get("retryable"))
        return Answer(result, str(result.get("msg", "no reason given")) if retryable else None)

    def line(self, text: str, last: bool = False, facts: dict[str, Any] | None = None) -> None:
        """Show a line, unless one was shown less than :data:`LINE_S` ago; the ``last`` one is always shown.

        :param facts: the same as data, for the board; see :class:`._told.Told`.
        """
        now = time.monotonic()
        if last or now - self._shown >= LINE_S:
            self._shown = now
            display.display(Told("%s  %s" % (time.strftime("%H:%M:%S"), text), facts, passing=not last))


def thinned(points: list[dict[str, Any]], most: int = 200) -> list[dict[str, Any]]:
    """``points`` without those that repeat all but ``at`` of the one before; at most ``most``, first and last kept."""

    def values(point: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in point.items() if key != "at"}

    ends = (0, len(points) - 1)
    kept = [point for index, point in enumerate(points) if index in ends or values(point) != values(points[index - 1])]
    while len(kept) > most:
        kept = kept[:-1:2] + kept[-1:]
    return kept
