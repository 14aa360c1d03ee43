#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: queue_drain
short_description: Wait until nothing is executing, or pause a queue
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - With O(state=drained), waits until no task of the queues is executing. It does not stop anybody from taking tasks. Quiet the
    workers first, through their service manager, or pause the queues.
  - With O(state=paused) and O(state=active), pauses the queues and lifts the pause.
  - Time that is up is a failure, which says what is still executing, where and since when.
  - While it waits, a line is shown at most every five seconds.
extends_documentation_fragment:
  - queueops.fleet.queue
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
attributes:
  check_mode:
    support: full
    details: Looks once. Neither waits nor pauses.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  queues:
    description: The queues. One that does not exist is an error, unless O(missing_ok).
    type: list
    elements: str
    required: true
  state:
    description:
      - V(drained) waits until nothing is executing on two looks apart, and each worker is idle or gone. It changes nothing.
      - V(paused) tells the workers to take no new task. With O(backend=rq) this holds for B(all) queues of the Redis database, and
        each worker that is idle at that moment may still take one more task. Drain after it to be sure. A worker of RQ that is
        started while it is paused exits at once with an error, so lift the pause before workers are started.
      - V(active) lifts the pause.
      - Not every system can be paused. The table in the collection's C(docs/queues.md) says which can, and how.
    type: str
    choices: [drained, paused, active]
    default: drained
  include_queued:
    description: For O(state=drained), whether to wait until no task is queued either. That needs workers that take them.
    type: bool
    default: false
  include_scheduled:
    description:
      - For O(state=drained), whether to wait until no task waits for its time either, such as one that is to be tried again later.
      - With a queue system that does not tell them apart they are among those that are queued or executing.
    type: bool
    default: false
  missing_ok:
    description: For O(state=drained), whether a queue that is not known yet is an empty one, rather than an error.
    type: bool
    default: false
  timeout:
    description: For O(state=drained), seconds to wait.
    type: float
    default: 60.0
  in_flight:
    description:
      - For O(state=drained), what becomes of the tasks that are still executing when the time is up.
      - V(finish) leaves them alone, and the module fails. The others take them away from whoever has them, as
        M(queueops.fleet.queue_redrive) does with O(queueops.fleet.queue_redrive#module:source=executing), and list them in RV(in_flight).
      - A task whose worker lives on is run twice by V(requeue). Stop the workers first, through their service manager.
      - What the queue system cannot do is refused before the waiting begins.
    type: str
    choices: [finish, requeue, fail, dead_letter]
    default: finish
  owner:
    description:
      - For O(state=paused), in whose name it is paused. It is shown by M(queueops.fleet.queue_info).
      - For O(state=active), only a pause of this owner, or one that was not made by this collection, is lifted.
    type: str
    default: queueops
  reason:
    description: For O(state=paused), why.
    type: str
    default: ""
  expires:
    description:
      - For O(state=paused), seconds after which the pause is lifted by itself. Without it, a pause stays until somebody lifts it.
      - A pause that the same owner holds is renewed when less than half of this is left.
    type: int
seealso:
  - module: queueops.fleet.queue_info
  - module: queueops.fleet.worker_version
"""

EXAMPLES = r"""
- name: Wait until the quieted workers have finished what they have
  queueops.fleet.queue_drain:
    backend: rq
    url: redis://broker:6379/0
    queues: [mail]
    timeout: 120

- name: Give the workers two minutes, and then requeue what those that were stopped by force still had
  queueops.fleet.queue_drain:
    backend: rq
    url: redis://broker:6379/0
    queues: [mail]
    timeout: 120
    in_flight: requeue

- name: Keep all workers of the database from taking tasks, for a quarter of an hour at most
  queueops.fleet.queue_drain:
    backend: rq
    url: redis://broker:6379/0
    queues: [mail]
    state: paused
    owner: "{{ queueops_fleet.name }}"
    reason: release 2 fails every third task
    expires: 900

- name: Let them go on
  queueops.fleet.queue_drain:
    backend: rq
    url: redis://broker:6379/0
    queues: [mail]
    state: active
    owner: "{{ queueops_fleet.name }}"
"""

RETURN = r"""
drained:
  description: Whether the queues are drained. In check mode this is from a single look.
  returned: O(state=drained)
  type: bool
executing:
  description: Tasks executing at the last look, also when the time was up.
  returned: O(state=drained)
  type: int
queued:
  description: Tasks queued at the last look.
  returned: O(state=drained)
  type: int
scheduled:
  description: Tasks that wait for their time, at the last look. With a queue system that does not tell it is 0.
  returned: O(state=drained)
  type: int
abandoned:
  description: Tasks taken by workers that are gone. They execute nowhere and are not waited for; RQ fails or retries them later.
  returned: O(state=drained)
  type: int
holding:
  description: The workers that keep the queues from being drained, as in RV(queueops.fleet.queue_info#module:workers).
  returned: O(state=drained)
  type: list
  elements: dict
queues:
  description: As RV(queueops.fleet.queue_info#module:queues), at the last look.
  returned: O(state=drained)
  type: list
  elements: dict
workers:
  description: As RV(queueops.fleet.queue_info#module:workers), at the last look.
  returned: O(state=drained)
  type: list
  elements: dict
unknown:
  description: As RV(queueops.fleet.queue_info#module:unknown).
  returned: O(state=drained)
  type: dict
at:
  description: When the last look was, in seconds since 1970 by the broker's clock.
  returned: O(state=drained)
  type: float
waited_s:
  description: Seconds waited.
  returned: O(state=drained)
  type: float
progress:
  description: What was seen while waiting, thinned to the changes, the newest last, at most 200.
  returned: O(state=drained)
  type: list
  elements: dict
  contains:
    at:
      description: When, in seconds since 1970 by the broker's clock.
      type: float
    executing:
      description: Tasks executing then.
      type: int
    queued:
      description: Tasks queued then.
      type: int
in_flight:
  description: What was done with the tasks that were still executing when the time was up, by queue. See O(in_flight).
  returned: O(state=drained) and the time was up
  type: dict
  contains:
    policy:
      description: The policy.
      type: str
    moved:
      description: Tasks that it was applied to.
      type: int
    sample:
      description: Up to 20 of them for each queue, as in RV(queueops.fleet.queue_redrive#module:sample).
      type: list
      elements: dict
paused:
  description: Whether the queues are paused now.
  returned: O(state=paused) or O(state=active)
  type: bool
paused_by:
  description: As RV(queueops.fleet.queue_info#module:queues[].paused_by).
  returned: O(state=paused) or O(state=active)
  type: dict
guarantee:
  description: What a pause of this queue system promises, and what not.
  returned: O(state=paused)
  type: str
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import PauseReport, PauseRequest, QueueBackend
from ansible_collections.queueops.fleet.plugins.module_utils._queue.drain import watch
from ansible_collections.queueops.fleet.plugins.module_utils._queue_options import QUEUE_SPEC, backend_of

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

#: How long one call looks by itself; the waiting beyond is done on the controller, which shows it.
LOOK_S = 1.0


def drain(module: AnsibleModule) -> Outcome:
    params = module.params
    backend = backend_of(params)
    if params["state"] == "drained":
        if params["in_flight"] != "finish":
            backend.capabilities.require_source("executing", "in_flight")
            backend.capabilities.require_action(params["in_flight"], "in_flight")
        budget = min(LOOK_S, params["timeout"])
        seen = watch(
            backend,
            params["queues"],
            params["include_queued"],
            budget,
            confirm=not module.check_mode,
            include_scheduled=params["include_scheduled"],
            missing_ok=params["missing_ok"],
        )
        return Outcome(result=dict(seen.as_dict(), progress=[], waited_s=0.0))
    backend.capabilities.require("pause", "state")
    backend.look(params["queues"])
    report = _set_pause(backend, params, module.check_mode)
    result = dict(report.after)
    if params["state"] == "paused":
        result["guarantee"] = backend.capabilities.guarantee["pause"]
    diff = {"before": _without_clock(report.before), "after": _without_clock(report.after)}
    return Outcome(changed=report.changed, result=result, diff=diff, warnings=list(report.warnings))


def _set_pause(backend: QueueBackend, params: dict[str, Any], check: bool) -> PauseReport:
    if params["state"] == "active":
        return backend.resume(params["queues"], params["owner"], check=check)
    request = PauseRequest(owner=params["owner"], reason=params["reason"], expires=params["expires"])
    return backend.pause(params["queues"], request, check=check)


def _without_clock(side: dict[str, Any]) -> dict[str, Any]:
    """For the diff: without what differs from one second to the next."""
    holder = side["paused_by"]
    if holder is None:
        return side
    return dict(side, paused_by={"owner": holder["owner"], "reason": holder["reason"], "expires": holder["expires_in_s"] is not None})


def main() -> None:
    spec: dict[str, Any] = dict(
        QUEUE_SPEC,
        queues={"type": "list", "elements": "str", "required": True},
        state={"type": "str", "choices": ["drained", "paused", "active"], "default": "drained"},
        include_queued={"type": "bool", "default": False},
        include_scheduled={"type": "bool", "default": False},
        missing_ok={"type": "bool", "default": False},
        timeout={"type": "float", "default": 60.0},
        in_flight={"type": "str", "choices": ["finish", "requeue", "fail", "dead_letter"], "default": "finish"},
        owner={"type": "str", "default": "queueops"},
        reason={"type": "str", "default": ""},
        expires={"type": "int"},
    )
    run_module(drain, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
