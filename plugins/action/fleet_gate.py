# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watches a figure on the controller, look by look, until there is a verdict. The judging itself is in the room ``_judge``."""

from __future__ import annotations

import time
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.queueops.fleet.plugins.module_utils._adapter import failure
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.queueops.fleet.plugins.module_utils._gate_options import GATE_SPEC, limit_of, meter_of, rule_of
from ansible_collections.queueops.fleet.plugins.module_utils._judge.comparison import scipy_stats
from ansible_collections.queueops.fleet.plugins.module_utils._judge.meters import Meter
from ansible_collections.queueops.fleet.plugins.module_utils._judge.verdict import Rule, Tally, Verdict
from ansible_collections.queueops.fleet.plugins.plugin_utils._waiting import LINE_S, WaitingAction, thinned


class ActionModule(WaitingAction):
    """Every option is the module's. A look that was refused ends it with that error; one that got no answer is counted."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        validated = ArgumentSpecValidator(GATE_SPEC).validate(self._task.args)
        if validated.error_messages:
            # The module finds the same, and says it as modules do.
            return dict(result, **self.look(variables).result)
        params = validated.validated_parameters
        try:
            rule, meter = rule_of(params), meter_of(params)
            if params["compare"]:
                scipy_stats()
        except FleetError as error:
            return dict(result, **failure(error))
        if self.checking():
            return dict(result, **self.look(variables).result)
        return dict(result, **self._watch(params, rule, meter, variables))

    def _watch(self, params: dict[str, Any], rule: Rule, meter: Meter, variables: dict[str, Any]) -> dict[str, Any]:
        """Look until there is a verdict; the module's return values."""
        began_at, began = time.time(), time.monotonic()
        tally = Tally(rule)
        title = _title(params)
        samples: list[dict[str, Any]] = []
        result: dict[str, Any] = {"readings": {"at": None, "workers": []}}
        pause = params["interval"] or 0.25
        verdict: Verdict | None = None
        while verdict is None:
            answer = self.look(variables)
            elapsed = time.monotonic() - began
            told = meter.told()
            if answer.failed:
                if not params["dry_run"]:
                    return dict(result, **answer.result)
                tally.missed("")
                verdict = Verdict("inconclusive", "could not measure: %s" % (answer.result.get("msg") or "the module did not run"), False)
            elif answer.missed is None:
                result.update(answer.result)
                samples = thinned([*samples, meter.fold(answer.result["readings"])])
                tally.found(meter.find(), elapsed)
                told = meter.told()
                verdict = tally.verdict(elapsed)
            else:
                tally.missed(answer.missed)
                told = "%s; cannot look, trying again: %s" % (told, answer.missed)
                verdict = tally.verdict(elapsed)
            if verdict is None:
                self._rest(min(pause, rule.timeout - elapsed), title, told, tally.bake_left(elapsed))
                pause = params["interval"] or min(pause * 1.5, 1.0)
        word = "would be " + verdict.verdict if params["dry_run"] else verdict.verdict
        self.line("%s: %s: %s" % (title, word, verdict.reason), last=True)
        result.update(
            verdict.as_dict(params["dry_run"]),
            changed=False,
            metric=params["metric"],
            samples=samples,
            limit=limit_of(params),
            decided_at=time.time(),
            began_at=began_at,
            looks=tally.looks,
            errors=tally.errors,
            failing_looks=tally.failing,
            inconclusive_looks=tally.inconclusive,
        )
        return result

    def _rest(self, seconds: float, title: str, told: str, bake_left: float | None) -> None:
        """Wait for the next look, and never in silence."""
        began = time.monotonic()
        while True:
            rested = time.monotonic() - began
            left = None if bake_left is None else max(bake_left - rested, 0.0)
            facts = {"kind": "gate", "title": title, "text": told, "bake_left": left}
            self.line("%s: %s" % (title, told), facts=facts)
            if rested >= seconds:
                return
            time.sleep(min(seconds - rested, LINE_S))


def _title(params: dict[str, Any]) -> str:
    """``gate canary on mail, version 2.0.0``"""
    title = "gate %s" % (params["name"] or params["metric"])
    if params["queue"]:
        title += " on %s" % params["queue"]
    return title + (", version %s" % params["version"] if params["version"] else "")
