#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_gate
short_description: Decide whether a version does its work well enough
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - Watches the workers of one version for a while and gives a verdict, by the share of tasks that fail.
  - V(fail) comes as soon as enough tasks were seen and too many of them failed. V(pass) comes when the bake time is over, enough tasks
    were seen and few enough failed. V(inconclusive) comes when the time is up before, or when the broker could not be asked.
    Failing is not could-not-measure.
  - A verdict of V(fail) or V(inconclusive) is a result, not a failure of this module. Decide by RV(verdict) what happens.
  - While it watches, a line is shown at most every five seconds.
extends_documentation_fragment:
  - queueops.fleet.queue
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
attributes:
  check_mode:
    support: full
    details: Measures once and does not wait. Where that does not show a failing version, the verdict is V(inconclusive).
  diff_mode:
    support: N/A
    details: It changes nothing.
  idempotent:
    support: full
options:
  queue:
    description: The queue. Workers that do not take tasks from it are not counted.
    type: str
    required: true
  version:
    description: The version that is judged.
    type: str
    required: true
  name:
    description: Name of the gate, for the lines that are shown. Default is the metric.
    type: str
  metric:
    description: V(failed_ratio) is the share of finished attempts that failed. With RQ an attempt that is then retried counts as failed.
    type: str
    choices: [failed_ratio]
    default: failed_ratio
  limit:
    description: The share that may fail, from V(0) to V(1).
    type: float
    default: 0.05
  min_tasks:
    description: Nothing is decided before this many tasks have finished.
    type: int
    default: 20
  bake:
    description: Seconds that the version has to do well before it passes.
    type: float
    default: 10.0
  timeout:
    description: Seconds after which the verdict is V(inconclusive). Not less than O(bake).
    type: float
    default: 60.0
  since:
    description:
      - When the version was switched to, in seconds since 1970. Workers that started since then are counted from their start.
      - Without it, and for workers that started before, only what they finish while the gate watches counts.
    type: float
  errors_limit:
    description: After this many looks in a row that the broker did not answer, the verdict is V(inconclusive).
    type: int
    default: 5
seealso:
  - module: queueops.fleet.queue_info
"""

EXAMPLES = r"""
- name: Watch the canary
  queueops.fleet.fleet_gate:
    backend: rq
    url: redis://broker:6379/0
    queue: mail
    version: 2.0.0
    limit: 0.05
    min_tasks: 20
    bake: 30
    timeout: 300
  delegate_to: broker
  register: gate

- name: Stop here unless it passed
  ansible.builtin.assert:
    that: gate.verdict == 'pass'
    fail_msg: "{{ gate.reason }}"
"""

RETURN = r"""
verdict:
  description: V(pass), V(fail) or V(inconclusive).
  returned: success
  type: str
reason:
  description: Why, in one clause.
  returned: success
  type: str
  sample: 7 of 21 failed (33.3 %, limit 5.0 %)
measured:
  description: Whether enough tasks were seen to judge. False with V(inconclusive) means that nothing is known against the version.
  returned: success
  type: bool
samples:
  description: What was counted since the gate began, thinned to the changes, the newest last, at most 200.
  returned: success
  type: list
  elements: dict
  contains:
    at:
      description: When, in seconds since 1970 by the broker's clock.
      type: float
    completed:
      description: Tasks completed since the gate began.
      type: int
    failed:
      description: Attempts that failed since the gate began.
      type: int
    ratio:
      description: The share that failed. Null before anything finished.
      type: float
limit:
  description: The share that was allowed.
  returned: success
  type: float
decided_at:
  description: When it was decided, in seconds since 1970 by the controller's clock.
  returned: success
  type: float
began_at:
  description: When the gate began, in seconds since 1970 by the controller's clock.
  returned: success
  type: float
looks:
  description: How often the broker was asked.
  returned: success
  type: int
errors:
  description: How often it did not answer.
  returned: success
  type: int
readings:
  description: The counters of the version's workers at the last look.
  returned: success
  type: dict
  contains:
    at:
      description: When, in seconds since 1970 by the broker's clock.
      type: float
    workers:
      description: The workers with RV(queueops.fleet.queue_info#module:workers[].name), C(started), C(completed) and C(failed).
      type: list
      elements: dict
"""

import time
from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._judge.verdict import Counters, Rule, single_look
from ansible_collections.queueops.fleet.plugins.module_utils._queue_options import QUEUE_SPEC, backend_of

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def look(module: AnsibleModule) -> Outcome:
    """One look, judged by itself; the looks that follow are folded on the controller, by the action plugin."""
    params = module.params
    rule = Rule(params["limit"], params["min_tasks"], params["bake"], params["timeout"], params["errors_limit"])
    rule.check()
    backend = backend_of(params)
    backend.capabilities.require("counters", "backend")
    found = backend.look([params["queue"]])
    workers = [
        {"name": worker.name, "started": worker.started, "completed": worker.completed, "failed": worker.failed}
        for worker in found.workers
        if worker.version == params["version"]
    ]
    sample = Counters(since=params["since"]).read(found.at, workers)
    verdict = single_look(rule, sample)
    now = time.time()
    result = {
        "verdict": verdict.verdict,
        "reason": verdict.reason,
        "measured": verdict.measured,
        "samples": [sample.as_dict()],
        "limit": rule.limit,
        "decided_at": now,
        "began_at": now,
        "looks": 1,
        "errors": 0,
        "readings": {"at": found.at, "workers": workers},
    }
    return Outcome(result=result)


def main() -> None:
    spec: dict[str, Any] = dict(
        QUEUE_SPEC,
        queue={"type": "str", "required": True},
        version={"type": "str", "required": True},
        name={"type": "str"},
        metric={"type": "str", "choices": ["failed_ratio"], "default": "failed_ratio"},
        limit={"type": "float", "default": 0.05},
        min_tasks={"type": "int", "default": 20},
        bake={"type": "float", "default": 10.0},
        timeout={"type": "float", "default": 60.0},
        since={"type": "float"},
        errors_limit={"type": "int", "default": 5},
    )
    run_module(look, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
