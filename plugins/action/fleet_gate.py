# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watches a version on the controller, look by look, until there is a verdict. The judging itself is in the room ``_judge``."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.validation import check_type_float, check_type_int
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._judge.verdict import Counters, Rule, Sample, describe, judge, thin
from ansible_collections.queueops.fleet.plugins.plugin_utils._waiting import WaitingAction

#: The defaults of the module, which has checked the options by the time they are used.
DEFAULTS: dict[str, Any] = {"limit": 0.05, "min_tasks": 20, "bake": 10.0, "timeout": 60.0, "errors_limit": 5}


class ActionModule(WaitingAction):
    """Every option is the module's. A look that was refused ends it with that error; one that got no answer is counted."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        began_at, began = time.time(), time.monotonic()
        answer = self.look(variables)
        if self.checking() or answer.failed:
            return dict(result, **answer.result)
        try:
            rule = self._rule()
            rule.check()
            since = self._task.args.get("since")
            counters = Counters(since=None if since is None else check_type_float(since))
        except (Refused, TypeError) as error:
            # Only where the module could not say so itself, because its host is unreachable.
            raise AnsibleActionFail(str(error)) from error
        samples: list[Sample] = []
        looks = errors = errors_in_row = 0
        workers_seen = False
        pause = 0.25
        while True:
            looks += 1
            if answer.missed is None:
                errors_in_row = 0
                result.update(answer.result)
                readings = answer.result["readings"]
                workers_seen = workers_seen or bool(readings["workers"])
                samples = thin([*samples, counters.read(readings["at"], readings["workers"])])
            else:
                errors, errors_in_row = errors + 1, errors_in_row + 1
            elapsed = time.monotonic() - began
            newest = samples[-1] if samples else None
            verdict = judge(rule, newest, elapsed, errors_in_row, answer.missed, workers_seen)
            told = "%s: %s" % (self._title(), describe(newest, rule))
            if verdict is not None:
                self.line("%s: %s: %s" % (self._title(), verdict.verdict, verdict.reason), last=True)
                break
            self.line(told if answer.missed is None else "%s; cannot look, trying again: %s" % (told, answer.missed))
            time.sleep(max(0.0, min(pause, rule.timeout - elapsed)))
            pause = min(pause * 1.5, 1.0)
            answer = self.look(variables)
            if answer.failed:
                return dict(result, **answer.result)
        result.setdefault("readings", {"at": None, "workers": []})
        result.update(
            changed=False,
            verdict=verdict.verdict,
            reason=verdict.reason,
            measured=verdict.measured,
            samples=[sample.as_dict() for sample in samples],
            limit=rule.limit,
            decided_at=time.time(),
            began_at=began_at,
            looks=looks,
            errors=errors,
        )
        return result

    def _rule(self) -> Rule:
        given = {name: self._task.args.get(name, default) for name, default in DEFAULTS.items()}
        return Rule(
            limit=check_type_float(given["limit"]),
            min_tasks=check_type_int(given["min_tasks"]),
            bake=check_type_float(given["bake"]),
            timeout=check_type_float(given["timeout"]),
            errors_limit=check_type_int(given["errors_limit"]),
        )

    def _title(self) -> str:
        arguments = self._task.args
        name = arguments.get("name") or arguments.get("metric") or "failed_ratio"
        return "gate %s on %s, version %s" % (name, arguments.get("queue"), arguments.get("version"))
