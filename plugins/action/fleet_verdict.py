# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares every host of the fleet with the wanted release. On the controller, because a host that is down must not be left out."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.queueops.fleet.plugins.module_utils._journal.agreement import compare, sentence
from ansible_collections.queueops.fleet.plugins.module_utils._journal.options import VERDICT_OPTIONS


class ActionModule(ActionBase):
    """Options in, table out; the comparison itself is the journal room's."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=VERDICT_OPTIONS)
        found = compare(
            options["wanted"],
            options["version"] or None,
            options["expected_hosts"],
            options["results"],
            options["outcome"],
            options["outcome_expected"],
            options["unsettled"],
        )
        result.update(
            changed=False,
            agree=found.agree,
            table=found.table(),
            text=found.text(),
            differing=found.differing,
            unknown=found.unknown,
            outcome=options["outcome"],
            msg=sentence(found, options["wanted"], options["fleet"], options["outcome_expected"], options["reason"], options["fenced"]),
        )
        if not found.agree:
            result["failed"] = True
        return result
