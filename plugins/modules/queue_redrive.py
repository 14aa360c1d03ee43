#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: queue_redrive
short_description: Move failed tasks back to be worked on
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - Moves failed tasks back to their queue, oldest first, all or those that O(match) selects.
  - Each task leaves the failed ones and enters the queue in one step on the broker, many at a time. Whatever dies meanwhile, no
    task is lost or moved twice. C(rq requeue) does this in two steps and can lose a task in between.
  - Two redrives at the same time move each task once.
  - Payloads are neither read nor unpickled.
extends_documentation_fragment:
  - queueops.fleet.queue
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
attributes:
  check_mode:
    support: full
    details: Counts what would be moved.
  diff_mode:
    support: full
    details: Shows the number of failed and of queued tasks, as this redrive by itself changes them.
  idempotent:
    support: full
    details: A task that failed again in the meantime is redriven again, unless O(run) is the same.
options:
  queue:
    description: The queue whose failed tasks are meant.
    type: str
    required: true
  source:
    description:
      - V(failed) are the failed tasks of O(queue).
      - V(abandoned), with O(backend=rq), are tasks that a worker took and never began, because it was stopped between the two. They
        go back to the head of O(queue), each one only when no live worker can have it in hand. That is waited for, up to 15 seconds.
      - With O(backend=redis_list) it may be the name of any other list.
    type: str
    default: failed
  destination:
    description: The queue to move to. Default is the queue that each task came from. With O(backend=rq) it has to exist.
    type: str
  match:
    description:
      - Which tasks to move. All conditions have to hold. Default is all tasks.
      - With O(backend=redis_list) only O(match.limit) is understood.
    type: dict
    suboptions:
      ids:
        description: Ids of tasks.
        type: list
        elements: str
      task:
        description: Name of the task's function with its module, for example V(mailer.send). May hold the wildcards C(*) and C(?).
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
      limit:
        description: Move at most this many, the oldest first. The rest is counted in RV(remaining).
        type: int
  run:
    description:
      - A name for this redrive. Run again under the same name, it leaves alone what it has moved before, even if that has failed again.
      - It is remembered on the broker for seven days. Default is a new name each time.
      - Not with O(backend=redis_list), whose tasks have no identity.
    type: str
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

- name: Put back whatever is in a list of failed tasks
  queueops.fleet.queue_redrive:
    backend: redis_list
    url: redis://broker:6379/1
    queue: thumbnails
"""

RETURN = r"""
run:
  description: The name of this redrive. Null in check mode without O(run), and with O(backend=redis_list).
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
  description: Tasks moved. In check mode, those that would be.
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
  description: Tasks that match and were left because of O(match.limit).
  returned: success
  type: int
undetermined:
  description: Failed tasks that do not record what O(match) asks for. They do not count as matched and are left where they are.
  returned: success
  type: int
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
conservation:
  description: What was counted before and after.
  returned: success
  type: dict
  contains:
    before:
      description: Tasks V(failed) and V(queued) before; with O(backend=rq) also V(executing), and V(finished) by the workers there.
      type: dict
    after:
      description: The same, after.
      type: dict
    verdict:
      description: V(proven) when the counts agree with what was moved and no worker took a task meanwhile, else V(unproven).
      type: str
    reason:
      description: Why.
      type: str
"""

import time
from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveReport, RedriveRequest
from ansible_collections.queueops.fleet.plugins.module_utils._queue_options import QUEUE_SPEC, backend_of

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def redrive(module: AnsibleModule) -> Outcome:
    params = module.params
    wanted = dict(params["match"] or {})
    if wanted.get("ids") is not None:
        wanted["ids"] = tuple(wanted["ids"])
    request = RedriveRequest(
        queue=params["queue"],
        run=params["run"],
        source=params["source"],
        destination=params["destination"],
        match=Match(**wanted),
    )
    try:
        report = backend_of(params).redrive(request, check=module.check_mode)
    except NotFound as error:
        if not params["missing_ok"] or error.option != "queue":
            raise
        report = RedriveReport(run=params["run"])
    result = dict(report.as_dict(), ended=time.time())
    return Outcome(changed=report.moved > 0, result=result, diff=report.diff, warnings=report.warnings)


def main() -> None:
    spec: dict[str, Any] = dict(
        QUEUE_SPEC,
        queue={"type": "str", "required": True},
        source={"type": "str", "default": "failed"},
        destination={"type": "str"},
        match={
            "type": "dict",
            "options": {
                "ids": {"type": "list", "elements": "str"},
                "task": {"type": "str"},
                "version": {"type": "str"},
                "error": {"type": "str"},
                "older_than": {"type": "float"},
                "newer_than": {"type": "float"},
                "limit": {"type": "int"},
            },
        },
        run={"type": "str"},
        missing_ok={"type": "bool", "default": False},
    )
    run_module(redrive, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
