#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: drill_report
short_description: Measure a drill and write its report
version_added: 0.1.0
description:
  - Tells the producer of the laboratory to finish, waits until no task is queued or executing, and accounts for every published task by
    its number.
  - Compares the running processes and the config files of every host with the release that should be there.
  - Writes C(summary.json) and C(report.html), one page that needs nothing but itself, into O(drill_dir).
  - A drill that did not pass is no failure of this module; see RV(ignore:summary.verdict).
author:
  - The queueops.fleet contributors (@queueops)
extends_documentation_fragment:
  - queueops.fleet.attributes
attributes:
  check_mode:
    support: full
    details:
      - Measures things as they stand, does not tell the producer to finish and writes nothing.
  diff_mode:
    support: none
  idempotent:
    support: none
    details:
      - The report is written anew each time.
options:
  drill_dir:
    description: Folder of the laboratory, see M(queueops.fleet.drill_lab).
    type: path
    required: true
  trial:
    description: What release 2 is in this drill. A V(bad) one has to be rolled back, a V(good) one must not be.
    type: str
    choices: [bad, good]
    required: true
  events:
    description: The events of the fleet's journal, as P(queueops.fleet.fleet_journal_info#module) returns them.
    type: list
    elements: dict
    required: true
  releases:
    description: Host to the release it is on, as far as the fleet's status knows.
    type: dict
    required: true
  target_release:
    description: The release that every host should be on.
    type: int
    required: true
  target_version:
    description: The version of that release.
    type: str
    required: true
  config:
    description: Host to path to the SHA-256 (hex digits) that the file should have.
    type: dict
    required: true
  template:
    description: Path of the report's template.
    type: path
    required: true
  queue:
    description: Name of the queue.
    type: str
    default: mail
  parked_queues:
    description: Names of queues that tasks were set aside in.
    type: list
    elements: str
    default: []
  instances:
    description: Workers that each host should run.
    type: int
    default: 2
  tasks:
    description: How many tasks must have been published at least.
    type: int
    default: 1000
  problems:
    description: What already went wrong in the run, in sentences. With any, the drill did not pass.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds to wait for the producer, and then for the tasks that are still queued or executing.
    type: float
    default: 30
requirements:
  - jinja2
  - redis
seealso:
  - module: queueops.fleet.drill_lab
"""

EXAMPLES = r"""
- name: Measure the drill
  queueops.fleet.drill_report:
    drill_dir: /home/anna/fleet/build/drill
    trial: bad
    events: "{{ journal.events }}"
    releases: {worker1: 1, worker2: 1, worker3: 1}
    target_release: 1
    target_version: 1.0.0
    config:
      worker1:
        /home/anna/fleet/build/drill/hosts/worker1/etc/mailer/routes.json: 48bbbb0e6eba1a1c5ae0f5a0b5f3b1be7ff9d8a4e0c7bc2de3a1d7e2d6a2c3f1
    template: /home/anna/fleet/roles/drill/templates/report.html.j2
  register: measured
"""

RETURN = r"""
summary:
  description: What C(summary.json) holds.
  type: dict
  returned: success
  contains:
    verdict:
      description: V(passed), or V(failed) for the RV(summary.reasons).
      type: str
    reasons:
      description: Why the drill did not pass.
      type: list
      elements: str
    published:
      description: Tasks published.
      type: int
    completed:
      description: Tasks that ran to their end, each counted once.
      type: int
    failed_by_rule:
      description: Tasks that stand as failed.
      type: int
    parked:
      description: Tasks set aside.
      type: int
    waiting:
      description: Tasks queued, scheduled or executing.
      type: int
    lost:
      description: Tasks that are nowhere.
      type: int
    duplicated:
      description: Runs beyond the first of a task.
      type: int
    lost_ids:
      description: Numbers of lost tasks, at most 50.
      type: list
      elements: int
    duplicated_ids:
      description: Numbers of tasks that ran more than once, at most 50.
      type: list
      elements: int
    failed_ids:
      description: Numbers of tasks that stand as failed, at most 50.
      type: list
      elements: int
    time_to_detect_s:
      description: Seconds from the canary's switch until its gate failed; null when none did.
      type: float
    time_to_decide_s:
      description: Seconds from the failing gate until the rollback was ordered.
      type: float
    time_to_revert_s:
      description: Seconds from the order until the last touched host worked on the target release.
      type: float
    trial:
      description: What release 2 was.
      type: str
    releases:
      description: Host to release.
      type: dict
    target_release:
      description: The release that every host should be on.
      type: int
    target_version:
      description: Its version.
      type: str
    running:
      description: Host to version to number of workers, read from the running processes.
      type: dict
    config_same:
      description: Host to whether all its config files are byte for byte those of the release.
      type: dict
  sample:
    verdict: passed
    reasons: []
    published: 1214
    completed: 1214
    failed_by_rule: 0
    parked: 0
    waiting: 0
    lost: 0
    duplicated: 0
    lost_ids: []
    duplicated_ids: []
    failed_ids: []
    time_to_detect_s: 2.5
    time_to_decide_s: 0.8
    time_to_revert_s: 9.6
    trial: bad
    releases: {worker1: 1, worker2: 1, worker3: 1}
    target_release: 1
    target_version: 1.0.0
    running: {worker1: {1.0.0: 2}, worker2: {1.0.0: 2}, worker3: {1.0.0: 2}}
    config_same: {worker1: true, worker2: true, worker3: true}
lines:
  description: The timeline, the times and the conservation table as text.
  type: list
  elements: str
  returned: success
  sample: ["Conservation", "  published          1,214"]
report:
  description: Path of the report page.
  type: str
  returned: unless in check mode
  sample: /home/anna/fleet/build/drill/report.html
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._drill import conclude


def body(module: AnsibleModule) -> Outcome:
    given = module.params
    order = conclude.Order(
        drill_dir=os.path.realpath(given["drill_dir"]),
        trial=given["trial"],
        events=given["events"],
        releases=given["releases"],
        target_release=given["target_release"],
        target_version=given["target_version"],
        config=given["config"],
        template=given["template"],
        queue=given["queue"],
        parked_queues=given["parked_queues"],
        instances=given["instances"],
        tasks=given["tasks"],
        problems=given["problems"],
        timeout=given["timeout"],
        made_at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )
    return Outcome(changed=not module.check_mode, result=conclude.conclude(order, look_only=module.check_mode))


def main() -> None:
    spec = {
        "drill_dir": {"type": "path", "required": True},
        "trial": {"type": "str", "choices": ["bad", "good"], "required": True},
        "events": {"type": "list", "elements": "dict", "required": True},
        "releases": {"type": "dict", "required": True},
        "target_release": {"type": "int", "required": True},
        "target_version": {"type": "str", "required": True},
        "config": {"type": "dict", "required": True},
        "template": {"type": "path", "required": True},
        "queue": {"type": "str", "default": "mail"},
        "parked_queues": {"type": "list", "elements": "str", "default": []},
        "instances": {"type": "int", "default": 2},
        "tasks": {"type": "int", "default": 1000},
        "problems": {"type": "list", "elements": "str", "default": []},
        "timeout": {"type": "float", "default": 30},
    }
    run_module(body, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
