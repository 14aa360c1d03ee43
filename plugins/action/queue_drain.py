# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waits on the controller until the queues are drained, and shows how far they are."""

from __future__ import annotations

import time
from typing import Any

from ansible.module_utils.common.validation import check_type_bool, check_type_float
from ansible_collections.queueops.fleet.plugins.module_utils._queue_options import QUEUE_SPEC
from ansible_collections.queueops.fleet.plugins.plugin_utils._waiting import WaitingAction, thinned


class ActionModule(WaitingAction):
    """Every option is the module's. One call of the module looks for about a second; this goes on until the time is up."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        began = time.monotonic()
        answer = self.look(variables)
        if self._task.args.get("state", "drained") != "drained" or self.checking() or answer.result.get("failed"):
            return dict(result, **answer.result)
        result.update(answer.result)
        timeout = check_type_float(self._task.args.get("timeout", 60.0))
        asked = [name for name in ("queued", "scheduled") if check_type_bool(self._task.args.get("include_" + name, False))]
        counted = ("executing", *asked)
        where = "%s at %s" % (", ".join(state["name"] for state in result["queues"]), self.where(variables))
        points: list[dict[str, Any]] = []
        pause = 0.05
        while not result["drained"]:
            if answer.missed is None:
                points.append(_point(result))
                points = thinned(points)
            waited = time.monotonic() - began
            if waited >= timeout:
                self.line("drain %s: out of time after %.0f s: %s" % (where, waited, _describe(result)), last=True)
                if answer.missed is None and self._task.args.get("in_flight", "finish") != "finish":
                    self._settle(where, result, variables)
                if not result["drained"] and not result.get("failed"):
                    result.update(_out_of_time(where, result, waited, answer.missed))
                break
            if answer.missed is None:
                facts = {"kind": "drain", "title": where, "text": _describe(result), "queues": result["queues"]}
                facts.update(_left(points, counted))
                self.line("drain %s: %s%s" % (where, _describe(result), _speed(points)), facts=facts)
            else:
                missed = "cannot look, trying again: %s" % answer.missed
                self.line("drain %s: %s" % (where, missed), facts={"kind": "drain", "title": where, "text": missed})
            time.sleep(min(pause, timeout - waited))
            pause = min(pause * 2, 1.0)
            answer = self.look(variables, timeout=max(0.0, timeout - (time.monotonic() - began)))
            if answer.failed:
                result.update(answer.result)
                break
            if answer.missed is None:
                result.update(answer.result)
        else:
            points.append(_point(result))
        result["waited_s"] = round(time.monotonic() - began, 3)
        result["progress"] = [{key: point[key] for key in ("at", "executing", "queued")} for point in thinned(points)]
        return result

    def _settle(self, where: str, result: dict[str, Any], variables: dict[str, Any]) -> None:
        """Apply the in-flight policy to what is still executing, and look once more."""
        policy = str(self._task.args["in_flight"])
        connection = {name: value for name, value in self._task.args.items() if name in QUEUE_SPEC}
        done: dict[str, Any] = {"policy": policy, "moved": 0, "sample": []}
        for state in result["queues"]:
            arguments = dict(connection, queue=state["name"], source="executing", rules=[{"action": policy}])
            redriven = self._execute_module("queueops.fleet.queue_redrive", module_args=arguments, task_vars=variables)
            if redriven.get("failed"):
                result.update(redriven)
                return
            done["moved"] += redriven["moved"]
            done["sample"] += redriven["sample"]
        result.update(self.look(variables).result, in_flight=done, changed=done["moved"] > 0)
        self.line("drain %s: %s applied to %d tasks that were still executing" % (where, policy, done["moved"]), last=True)
        if done["moved"]:
            told = "%s: %d tasks were still executing when the time was up; policy %s was applied to them"
            result.setdefault("warnings", []).append(told % (where, done["moved"], policy))


def _point(result: dict[str, Any]) -> dict[str, Any]:
    finished = sum((worker["completed"] or 0) + (worker["failed"] or 0) for worker in result["workers"])
    counts = {name: result[name] for name in ("executing", "queued", "scheduled")}
    return {"at": result["at"], **counts, "finished": finished}


def _describe(result: dict[str, Any]) -> str:
    """``2 executing, 40 queued; mailer@1.0.0:worker1:1 (worker1, pid 42) has task 4f2a for 12 s and 1 more``"""
    text = "%d executing, %d queued" % (result["executing"], result["queued"])
    if result["scheduled"]:
        text += ", %d scheduled" % result["scheduled"]
    # The one that has been executing longest is the one that the drain waits for.
    holding = sorted(result["holding"], key=lambda worker: worker["task_since"] or result["at"])
    if holding:
        first = holding[0]
        text += "; %s (%s, pid %s)" % (first["name"], first["host"] or "host unknown", first["pid"] or "unknown")
        if first["task"]:
            text += " has task %s" % first["task"]
        if first["task_since"]:
            text += " for %.0f s" % max(0.0, result["at"] - first["task_since"])
        if len(holding) > 1:
            text += " and %d more" % (len(holding) - 1)
    return text


def _speed(points: list[dict[str, Any]]) -> str:
    """``; 3.2 tasks/s, about 13 s for what is queued``, from what the workers finished; empty while nothing did."""
    first, last = points[0], points[-1]
    seconds, tasks = last["at"] - first["at"], last["finished"] - first["finished"]
    if seconds < 1 or tasks < 1:
        return ""
    rate = tasks / seconds
    text = "; %.1f tasks/s" % rate
    if last["queued"]:
        text += ", about %.0f s for what is queued" % ((last["queued"] + last["executing"]) / rate)
    return text


def _left(points: list[dict[str, Any]], counted: tuple[str, ...]) -> dict[str, Any]:
    """What the drain waits for, of how much, and how long it may take at the speed so far: None while nothing became less."""
    counts = [sum(point[name] for name in counted) for point in points]
    seconds, fewer = points[-1]["at"] - points[0]["at"], counts[0] - counts[-1]
    estimate = counts[-1] * seconds / fewer if seconds >= 1 and fewer > 0 else None
    return {"left": counts[-1], "most": max(counts), "seconds_left": estimate}


def _out_of_time(where: str, result: dict[str, Any], waited: float, missed: str | None) -> dict[str, Any]:
    """The failure; with the progress that the result already holds."""
    what = "%s: not drained after %.0f s: %s" % (where, waited, _describe(result))
    if missed:
        what += "; at last it could not be looked at: %s" % missed.rstrip(".")
    explained = {
        "code": "out_of_time",
        "option": "timeout",
        "still_true": "Nothing was changed, what is executing goes on",
        "next_step": "Give more time in timeout, look at the worker named, or stop it through its service manager",
        "retryable": True,
    }
    return {"failed": True, "msg": "%s. %s. %s." % (what, explained["still_true"], explained["next_step"]), "error": explained}
