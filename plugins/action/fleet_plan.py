# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the plan of an operation from what every host answered. On the controller, because a host that is down must not be left out."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict
from ansible_collections.queueops.fleet.plugins.module_utils._journal.options import PLAN_OPTIONS
from ansible_collections.queueops.fleet.plugins.module_utils._journal.plan import hold, plan


class ActionModule(ActionBase):
    """Options in, table out; the plan itself is the journal room's."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=PLAN_OPTIONS)
        made = plan(
            options["kind"],
            options["head"],
            options["target"],
            options["version"] or None,
            options["from_release"],
            options["expected_hosts"],
            options["results"],
            options["rules"],
            options["tasks"],
            options["notes"],
            options["besides"],
        )
        result.update(
            changed=False,
            plan=made.id,
            changes=made.changes,
            pending=made.pending,
            cannot=made.cannot,
            table=made.table(),
            tasks=dict(made.tasks),
            text=made.text(),
            msg=made.sentence(options["fleet"]),
        )
        if options["plan"]:
            try:
                hold(made, options["plan"])
            except Conflict as moved:
                result.update(failed=True, msg=moved.sentence())
        return result
