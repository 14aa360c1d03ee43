#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: queue_info
short_description: Show queues and their workers
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - Shows how many tasks each queue has, and what each worker is doing, without changing anything on the broker. RQ's own tools
    clean up while they look; this does not.
  - Its cost does not grow with the number of tasks.
  - What the queue system cannot tell is null, and RV(unknown) says why. It is never 0.
extends_documentation_fragment:
  - queueops.fleet.queue
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    details: It changes nothing.
  idempotent:
    support: full
options:
  queues:
    description:
      - The queues to show. Default is all that the system knows.
      - Required with O(backend=redis_list), for Redis does not record which lists are queues.
    type: list
    elements: str
  measure:
    description:
      - Look a second time after this many seconds, and tell how many tasks a second the workers finished in between.
      - RabbitMQ's management plugin keeps a rate by itself.
    type: float
    default: 0.0
  missing_ok:
    description:
      - Whether a queue in O(queues) that does not exist is shown with RV(queues[].exists=false) instead of being an error.
      - With O(backend=redis_list) a list that is absent is an empty queue, and always shown.
    type: bool
    default: false
  lost_with:
    description: A version of the workers, for RV(lost). Refused where the system cannot tell what a killed worker has in hand.
    type: str
seealso:
  - module: queueops.fleet.queue_drain
  - module: queueops.fleet.queue_redrive
"""

EXAMPLES = r"""
- name: Show all queues of RQ and who works on them
  queueops.fleet.queue_info:
    backend: rq
    url: redis://broker:6379/0
  register: look

- name: Fail while a worker of the bad version is alive
  ansible.builtin.assert:
    that: look.workers | selectattr('version', 'equalto', '2.0.0') | rejectattr('state', 'equalto', 'gone') | length == 0

- name: Show one queue kept in a plain Redis list
  queueops.fleet.queue_info:
    backend: redis_list
    url: redis://broker:6379/1
    queues: [thumbnails]
"""

RETURN = r"""
at:
  description: When this was so, in seconds since 1970 by the broker's clock.
  returned: success
  type: float
  sample: 1767225600.25
queues:
  description: The queues, one entry each. Counts are tasks.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The queue.
      type: str
      sample: mail
    exists:
      description: Whether the system knows the queue.
      type: bool
    queued:
      description: Waiting to be taken.
      type: int
    executing:
      description: Held by a worker.
      type: int
    scheduled:
      description: To be queued at a later time.
      type: int
    failed:
      description: Failed and kept.
      type: int
    dead_lettered:
      description: Dead-lettered by the broker.
      type: int
    abandoned:
      description: Taken by a worker that is gone. RQ fails or retries them at its next maintenance, when a worker runs.
      type: int
    oldest_task_age_s:
      description: Seconds that the task at the head of the queue has been waiting.
      type: float
    rate_per_s:
      description: Tasks a second that workers finished lately. See O(measure).
      type: float
    paused:
      description: Whether workers are told not to take tasks.
      type: bool
    paused_by:
      description: Who paused it. Null when it is not paused.
      type: dict
      contains:
        owner:
          description: The O(queueops.fleet.queue_drain#module:owner), or null if it was not paused by this collection.
          type: str
        reason:
          description: The O(queueops.fleet.queue_drain#module:reason).
          type: str
        since:
          description: When, in seconds since 1970.
          type: int
        expires_in_s:
          description: Seconds until the pause is lifted by itself, or null if it stays.
          type: int
workers:
  description: The workers of these queues, one entry each.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The worker's name at the broker.
      type: str
      sample: mailer@1.0.0:worker1:1
    host:
      description: The host it runs on.
      type: str
    pid:
      description: Its process there.
      type: int
    version:
      description: The version of its code, from its name.
      type: str
    queues:
      description: The queues it takes tasks from.
      type: list
      elements: str
    state:
      description: V(busy), V(idle), V(suspended), V(started), or V(gone) when its heartbeat has expired.
      type: str
    task:
      description: Id of the task it is executing. Null when there is none.
      type: str
    task_queue:
      description: The queue that task is from, if it is one of those looked at.
      type: str
    task_since:
      description: When that task was begun, in seconds since 1970.
      type: float
    completed:
      description: Tasks it completed since it started.
      type: int
    failed:
      description: Attempts that failed since it started; with RQ, one that is then retried counts too.
      type: int
    started:
      description: When it started, in seconds since 1970 by its host's clock.
      type: float
    last_seen:
      description: Its last heartbeat, in seconds since 1970 by its host's clock.
      type: float
lost:
  description:
    - Why tasks would be lost if the workers of O(lost_with) were killed with tasks in hand. Empty if none would.
    - Null without O(lost_with).
  returned: success
  type: str
unknown:
  description: Why a value is null, or that it is an estimate and how good a one, by C(queues.<field>) or C(workers.<field>).
  returned: success
  type: dict
  sample:
    queues.dead_lettered: RQ has no dead letters; tasks that failed for good are counted in failed
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._queue.rate import look_with_rate
from ansible_collections.queueops.fleet.plugins.module_utils._queue_options import QUEUE_SPEC, backend_of

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def look(module: AnsibleModule) -> Outcome:
    params = module.params
    # Asking leaves something on the broker for a moment; here that is only done when it was asked for.
    backend = backend_of(dict(params, ask_workers=bool(params["ask_workers"])))
    found = look_with_rate(backend, params["queues"], params["missing_ok"], params["measure"])
    lost = None
    if params["lost_with"] is not None:
        asked = backend_of(params)
        asked.capabilities.require("in_flight", "lost_with")
        lost = asked.lost_with(params["lost_with"])
    return Outcome(result=dict(found.as_dict(), lost=lost))


def main() -> None:
    spec: dict[str, Any] = dict(
        QUEUE_SPEC,
        queues={"type": "list", "elements": "str"},
        measure={"type": "float", "default": 0.0},
        missing_ok={"type": "bool", "default": False},
        lost_with={"type": "str"},
    )
    run_module(look, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
