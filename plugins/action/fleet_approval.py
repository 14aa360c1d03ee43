# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks a person, where there is one: on the controller's terminal. Elsewhere only what was approved beforehand counts."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsiblePromptInterrupt, AnsiblePromptNoninteractive
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.queueops.fleet.plugins.module_utils._gate_options import APPROVAL_SPEC

display = Display()

YES, NO = ("y", "yes"), ("n", "no")


class ActionModule(ActionBase):
    """Every option is the module's. No answer is inconclusive, which never promotes."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=APPROVAL_SPEC)
        began_at = time.time()
        if options["name"] in options["approved"]:
            verdict, reason = "pass", "approved by %s" % options["actor"]
        elif self._task.check_mode:
            verdict, reason = "inconclusive", "nobody has been asked yet"
        else:
            verdict, reason = self._asked(options)
        result.update(changed=False, verdict=verdict, reason=reason, metric="approval", began_at=began_at, decided_at=time.time())
        return result

    def _asked(self, options: dict[str, Any]) -> tuple[str, str]:
        end = time.monotonic() + options["timeout"]
        answer = ""
        while (left := end - time.monotonic()) > 0:
            try:
                given = display.prompt_until(_prompt(options, left), seconds=max(int(left), 1))
            except AnsiblePromptNoninteractive:
                return "inconclusive", "nobody has approved it, and there is no terminal to ask on"
            except AnsiblePromptInterrupt:
                return "inconclusive", "it was interrupted before it was approved"
            answer = given.decode(errors="replace").strip().lower()
            if answer in YES:
                return "pass", "approved by %s" % options["actor"]
            if answer in NO:
                return "fail", "declined by %s" % options["actor"]
        return "inconclusive", "nobody answered within %d s" % options["timeout"]


def _prompt(options: dict[str, Any], left: float) -> str:
    asked = "gate %s: %s" % (options["name"], options["question"])
    return "%s\nyes or no, within %d s; no puts every host back that was switched:" % (asked, left)
