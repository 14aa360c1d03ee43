#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: queue_redrive
short_description: Move failed tasks back to be worked on, by rules and at a rate
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - Moves tasks back to their queue, oldest first, all or those that O(match) selects. With O(rules), each task is treated by the first
    rule that it matches, and a task that matches none is left where it is.
  - On Redis and PostgreSQL, each task is marked and moved in one act on the server. On RabbitMQ and NATS it is published with a
    confirm and written to a ledger before it is taken away. Whatever dies meanwhile, no task is lost, and a run that is repeated
    under its name goes on where it ended. What each system promises is in the collection's C(docs/queues.md).
  - Two redrives at the same time move each task once.
  - Payloads are data. They are never unpickled or evaluated, and never shown.
extends_documentation_fragment:
  - queueops.fleet.queue
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
attributes:
  check_mode:
    support: full
    details: Counts what each rule would take. Where a system cannot tell without taking, it is refused by name.
  diff_mode:
    support: full
    details: Shows the number of tasks in the source, as this redrive by itself changes it.
  idempotent:
    support: full
    details: A task that failed again in the meantime is redriven again, unless O(run) is the same.
options:
  queue:
    description: The queue whose tasks are meant.
    type: str
    required: true
  source:
    description:
      - V(failed) are the tasks of O(queue) that failed for good, V(dead_lettered) those that were dead-lettered, V(parked) those that
        an earlier redrive parked, and V(queued) those that are queued.
      - V(abandoned) are tasks that were taken by a worker that is gone. With O(backend=rq) they are tasks that a worker took and never
        began, each one only when no live worker can have it in hand. That is waited for, up to 15 seconds.
      - V(executing) are tasks that workers have in hand. One whose worker lives on is run twice. It is meant for the end of a drain, when
        the workers have been stopped.
      - Anything else is the name of another queue. Not every system has every source.
    type: str
    default: failed
  destination:
    description: The queue to move to. Default is the queue that each task came from. It has to exist where the system knows its queues.
    type: str
  match:
    description:
      - Which tasks to move. All conditions have to hold. Default is all tasks.
      - A condition that the system does not record is refused by name.
    type: dict
    suboptions:
      ids:
        description: Ids of tasks.
        type: list
        elements: str
      task:
        description: Name of the task's function or class, for example V(mailer.send). May hold the wildcards C(*) and C(?).
        type: str
      version:
        description: Version of the worker that failed the task.
        type: str
      error:
        description:
          - A regular expression that is searched for in the error, as in V(TypeError) or V(^smtplib[.]).
          - It is compared with the exception's class and message, not with the traceback.
        type: str
      older_than:
        description: Only tasks that failed more than this many seconds ago.
        type: float
      newer_than:
        description: Only tasks that failed less than this many seconds ago.
        type: float
      header:
        description: Headers, by name, and the text that each has to have.
        type: dict
      field:
        description:
          - Places in a JSON payload, names and list positions joined by dots, and the text that each has to have.
          - For example C(args.0.customer) and V(4711).
        type: dict
      limit:
        description: Move at most this many, the oldest first. The rest is counted in RV(remaining).
        type: int
  rules:
    description: What becomes of which tasks. The first rule that a task matches counts. Instead of O(match) and O(destination).
    type: list
    elements: dict
    suboptions:
      match:
        description: As O(match).
        type: dict
        suboptions:
          ids:
            description: Ids of tasks.
            type: list
            elements: str
          task:
            description: Name of the task's function or class, for example V(mailer.send). May hold the wildcards C(*) and C(?).
            type: str
          version:
            description: Version of the worker that failed the task.
            type: str
          error:
            description:
              - A regular expression that is searched for in the error, as in V(TypeError) or V(^smtplib[.]).
              - It is compared with the exception's class and message, not with the traceback.
            type: str
          older_than:
            description: Only tasks that failed more than this many seconds ago.
            type: float
          newer_than:
            description: Only tasks that failed less than this many seconds ago.
            type: float
          header:
            description: Headers, by name, and the text that each has to have.
            type: dict
          field:
            description:
              - Places in a JSON payload, names and list positions joined by dots, and the text that each has to have.
              - For example C(args.0.customer) and V(4711).
            type: dict
      action:
        description:
          - V(requeue) puts the task back to be worked on, V(fail) makes it a failed task for good, V(dead_letter) puts it among the
            dead-lettered tasks, V(park) sets it aside until it is redriven from O(source=parked), V(discard) deletes it.
          - V(compensate) gives it to the queue O(rules[].destination), whose workers undo its effect.
          - V(finish) leaves it where it is, and counts it in RV(remaining). It is for O(source=executing) alone.
        type: str
        choices: [requeue, fail, dead_letter, park, discard, compensate, finish]
        default: requeue
      destination:
        description: For V(requeue) and V(compensate), the queue to move to.
        type: str
      name:
        description: A name for the rule, which comes back in RV(rules[].name).
        type: str
  held_by:
    description:
      - With O(source=executing), only the tasks that these workers have in hand, or had when they were killed. Default is those of all.
      - Refused where the queue system does not know one of them, since what that one has in hand is not known then.
    type: list
    elements: dict
    suboptions:
      hostname:
        description: The worker's host name, as the host itself sees it.
        type: str
        required: true
      pids:
        description: The ids of the worker's processes there.
        type: list
        elements: int
        required: true
  limit:
    description: Act on at most this many tasks, the oldest first, over all rules. The rest is counted in RV(remaining).
    type: int
  rate:
    description: Move at most this many tasks a second. Default is as fast as it goes.
    type: float
  ramp:
    description: Seconds in which the rate grows from nothing to O(rate).
    type: float
    default: 0.0
  breaker:
    description:
      - Stops the redrive by itself when too many of the redriven tasks fail again. Few tasks are sent at first, and twice as many
        each time that those did not fail. It needs workers that take them.
    type: dict
    suboptions:
      limit:
        description: The share of redriven tasks that may fail again, from 0 to below 1.
        type: float
        required: true
      min_tasks:
        description: How many of the redriven tasks must have ended before it judges.
        type: int
        default: 20
      patience:
        description: Seconds to wait for redriven tasks to end, before the redrive stops.
        type: float
        default: 300.0
  max_redrives:
    description: A task that was redriven this many times before is parked instead. Default is no limit.
    type: int
  run:
    description:
      - A name for this redrive. Run again under the same name, it leaves alone what it has moved before, even if that has failed again,
        and finishes what it had begun when it died.
      - It is remembered for seven days on the broker (with O(backend=bullmq) in the task itself, for as long as that is kept), or in the
        ledger under O(state_dir). Default is a new name each time.
      - Not with O(backend=redis_list) without O(id_field), whose tasks have no identity.
    type: str
  completions:
    description:
      - A file on the host that runs this task, to which workers write the id of each task that they complete, one a line.
      - With it, RV(conservation) can be proven also while workers take tasks.
    type: path
  state_dir:
    description: Folder for the ledger, for RabbitMQ and NATS. It is for its owner alone.
    type: path
    default: /var/lib/queueops
  missing_ok:
    description: Whether a queue that is not known yet is one without failed tasks, rather than an error.
    type: bool
    default: false
seealso:
  - module: queueops.fleet.queue_info
"""

EXAMPLES = r"""
- name: Give the tasks that version 2.0.0 failed to the workers of version 1.0.0
  queueops.fleet.queue_redrive:
    backend: rq
    url: redis://broker:6379/0
    queue: mail
    match:
      version: 2.0.0
    run: rollback-17

- name: Try ten of those that failed for one reason first
  queueops.fleet.queue_redrive:
    backend: rq
    url: redis://broker:6379/0
    queue: mail
    match:
      task: mailer.send
      error: "^smtplib[.]SMTPServerDisconnected"
      limit: 10

- name: Retry what timed out, park what the older version cannot read, and drop the rest of a test, slowly at first
  queueops.fleet.queue_redrive:
    backend: sidekiq
    url: redis://broker:6379/0
    queue: mail
    source: dead_lettered
    rules:
      - match:
          error: Timeout
      - match:
          task: "V2::*"
        action: park
      - match:
          field:
            args.0.test: "true"
        action: discard
    rate: 200
    ramp: 60
    breaker:
      limit: 0.1

- name: Put back whatever is in a list of failed tasks
  queueops.fleet.queue_redrive:
    backend: redis_list
    url: redis://broker:6379/1
    queue: thumbnails
"""

RETURN = r"""
run:
  description: The name of this redrive. Null in check mode without O(run), and where it is not remembered.
  returned: success
  type: str
ended:
  description: When the redrive ended, in seconds since the epoch.
  returned: success
  type: float
matched:
  description: Failed tasks that match. The sum of RV(moved), RV(skipped_count) and RV(remaining).
  returned: success
  type: int
moved:
  description: Tasks acted on, by whatever action. In check mode, those that would be.
  returned: success
  type: int
skipped_count:
  description: Tasks that match and cannot be moved.
  returned: success
  type: int
skipped_because:
  description: How many were skipped for which reason.
  returned: success
  type: dict
  sample:
    its record has expired on the broker: 2
remaining:
  description: Tasks that match and were left, because of a limit, or the breaker stopped the redrive, or a rule says V(finish).
  returned: success
  type: int
held:
  description: How many tasks the workers of O(held_by) have in hand, of whatever queue. Null without.
  returned: success
  type: int
undetermined:
  description: Failed tasks that do not record what O(match) asks for. They do not count as matched and are left where they are.
  returned: success
  type: int
by_action:
  description: Tasks acted on, by action.
  returned: success
  type: dict
  sample:
    park: 3
    requeue: 211
rules:
  description: What each rule took, in their order.
  returned: success
  type: list
  elements: dict
  contains:
    action:
      description: The rule's action.
      type: str
    destination:
      description: The rule's destination.
      type: str
    name:
      description: The rule's name. Null where it was given none.
      type: str
    matched:
      description: Tasks that matched it first.
      type: int
    moved:
      description: Those that were acted on.
      type: int
    skipped:
      description: Those that could not be.
      type: int
    remaining:
      description: Those that were left because of a limit or the breaker, or since the rule says so.
      type: int
    sample:
      description: Up to five of them, as in RV(sample).
      type: list
      elements: dict
stopped:
  description: Why it ended before the source did. Null when it did not.
  returned: success
  type: dict
  contains:
    by:
      description: V(limit) or V(breaker).
      type: str
    reason:
      description: The figures.
      type: str
settled:
  description: Redriven tasks whose fate is known. Null without O(breaker).
  returned: success
  type: int
failed_again:
  description: How many of RV(settled) failed again. Null without O(breaker).
  returned: success
  type: int
seconds:
  description: How long the moving took, without the taking stock before and after it.
  returned: success
  type: float
by_version:
  description: Tasks moved, by the version that failed them.
  returned: success
  type: dict
  sample:
    2.0.0: 214
by_task:
  description: Tasks moved, by the name of their function.
  returned: success
  type: dict
  sample:
    mailer.send: 214
sample:
  description: Up to 20 of the tasks moved.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The task's id.
      type: str
    task:
      description: Name of its function.
      type: str
    version:
      description: Version of the worker that failed it.
      type: str
    error:
      description: Class of the exception, without its message.
      type: str
    ended_at:
      description: When it failed, in seconds since 1970.
      type: float
    redrives:
      description: How often it had been redriven before.
      type: int
    action:
      description: What was done with it.
      type: str
conservation:
  description: What was there before and after.
  returned: success
  type: dict
  contains:
    before:
      description: Tasks before, by place.
      type: dict
    after:
      description: The same, after.
      type: dict
    by:
      description: V(identity) when every task was compared, V(count) where tasks cannot be told apart without taking them.
      type: str
    missing:
      description: Tasks that were there before and are not after, nor recorded as completed. Null when it was by count.
      type: int
    added:
      description: Tasks that are there after and were not before. Null when it was by count.
      type: int
    verdict:
      description: V(proven) or V(unproven).
      type: str
    reason:
      description: Why.
      type: str
"""

import time
from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import (
    ACTIONS,
    FINISH,
    Breaker,
    Holder,
    RedriveReport,
    RedriveRequest,
    Rule,
)
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive as run_redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue_options import MATCH_SPEC, QUEUE_SPEC, backend_of, match_of

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def redrive(module: AnsibleModule) -> Outcome:
    params = module.params
    request = RedriveRequest(
        queue=params["queue"],
        run=params["run"],
        source=params["source"],
        rules=_rules(params),
        limit=_limit(params),
        rate=params["rate"],
        ramp=params["ramp"],
        breaker=Breaker(**params["breaker"]) if params["breaker"] else None,
        max_redrives=params["max_redrives"],
        state_dir=params["state_dir"],
        completions=params["completions"],
        held_by=_holders(params["held_by"]),
    )
    try:
        report = run_redrive(backend_of(params), request, check=module.check_mode)
    except NotFound as error:
        if not params["missing_ok"] or error.option != "queue":
            raise
        report = RedriveReport(run=params["run"])
    result = dict(report.as_dict(), ended=time.time())
    return Outcome(changed=report.moved > 0, result=result, diff=report.diff, warnings=report.warnings)


def _rules(params: dict[str, Any]) -> tuple[Rule, ...]:
    if params["rules"] is None:
        return (Rule(match_of(params["match"]), "requeue", params["destination"]),)
    return tuple(Rule(match_of(rule["match"]), rule["action"], rule["destination"], rule["name"]) for rule in params["rules"])


def _holders(given: list[dict[str, Any]] | None) -> tuple[Holder, ...] | None:
    return None if given is None else tuple(Holder(worker["hostname"], tuple(worker["pids"])) for worker in given)


def _limit(params: dict[str, Any]) -> int | None:
    within = (params["match"] or {}).get("limit")
    limit: int | None = params["limit"] if within is None else within
    return limit


def main() -> None:
    spec: dict[str, Any] = dict(
        QUEUE_SPEC,
        queue={"type": "str", "required": True},
        source={"type": "str", "default": "failed"},
        destination={"type": "str"},
        match={"type": "dict", "options": dict(MATCH_SPEC, limit={"type": "int"})},
        rules={
            "type": "list",
            "elements": "dict",
            "options": {
                "match": {"type": "dict", "options": MATCH_SPEC},
                "action": {"type": "str", "choices": [*ACTIONS, FINISH], "default": "requeue"},
                "destination": {"type": "str"},
                "name": {"type": "str"},
            },
        },
        held_by={
            "type": "list",
            "elements": "dict",
            "options": {
                "hostname": {"type": "str", "required": True},
                "pids": {"type": "list", "elements": "int", "required": True},
            },
        },
        limit={"type": "int"},
        rate={"type": "float"},
        ramp={"type": "float", "default": 0.0},
        breaker={
            "type": "dict",
            "options": {
                "limit": {"type": "float", "required": True},
                "min_tasks": {"type": "int", "default": 20},
                "patience": {"type": "float", "default": 300.0},
            },
        },
        max_redrives={"type": "int"},
        run={"type": "str"},
        completions={"type": "path"},
        state_dir={"type": "path", "default": "/var/lib/queueops"},
        missing_ok={"type": "bool", "default": False},
    )
    run_module(redrive, spec, supports_check_mode=True, mutually_exclusive=[("rules", "match"), ("rules", "destination")])


if __name__ == "__main__":
    main()
