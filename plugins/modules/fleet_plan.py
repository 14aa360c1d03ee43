#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_plan
short_description: Make the plan of a deploy or a rollback, and hold a run to it
version_added: 0.1.0
description:
  - Makes one table of what would change on each host, and an id of it. The same hosts, in the same state, with the same release to go to
    and nothing new in the fleet's journal, give the same id; anything else gives another one.
  - With O(plan) it fails unless the plan still has that id, so that what a person has read is what is done.
  - The content of sensitive files is not part of the id, since it is not part of what is shown.
  - Runs on the controller, and connects to no host. Run it once for the fleet.
extends_documentation_fragment:
  - queueops.fleet.attributes
attributes:
  check_mode:
    support: full
    details: Changes nothing in either mode.
  diff_mode:
    support: N/A
    details: Changes nothing.
  idempotent:
    support: full
options:
  fleet:
    description: The name of the fleet, for the message.
    type: str
    required: true
  kind:
    description: The operation that is planned.
    type: str
    choices: [deploy, rollback]
    required: true
  head:
    description: The head of the fleet's journal, as M(queueops.fleet.fleet_journal_info) returned it.
    type: str
    required: true
  target:
    description: The number of the release to go to.
    type: int
    required: true
  version:
    description: The version of that release.
    type: str
  from_release:
    description: The release that the fleet is on.
    type: int
  expected_hosts:
    description: All hosts of the fleet by the inventory, those too that were dropped from the play.
    type: list
    elements: str
    required: true
  results:
    description: For each host, what M(queueops.fleet.worker_release) with the phase V(prepared) returned, in check mode or not.
    type: dict
    required: true
  rules:
    description: The part C(rules) of the fleet specification. Other rules give another id.
    type: list
    elements: dict
    default: []
  tasks:
    description:
      - What the rules would take now, as P(queueops.fleet.foreseen_tasks#filter) makes it. It is shown.
      - It changes from one second to the next, and is not part of the id.
    type: dict
    default: {}
  notes:
    description: What else a person has to know beforehand, a sentence each. Other ones give another id.
    type: list
    elements: str
    default: []
  besides:
    description: What would change elsewhere than on the hosts, a sentence each. Other ones give another id.
    type: list
    elements: str
    default: []
  plan:
    description: The id of the plan that was read. Any other plan is refused.
    type: str
author:
  - The queueops.fleet contributors (@queueops)
"""

EXAMPLES = r"""
- name: Make the plan
  queueops.fleet.fleet_plan:
    fleet: mailer
    kind: rollback
    head: "{{ journal.head }}"
    target: 1
    version: 1.0.0
    from_release: 2
    expected_hosts: "{{ groups['mailer'] }}"
    results: "{{ dict(groups['mailer'] | zip(groups['mailer'] | map('extract', hostvars) | map(attribute='examined', default={}))) }}"
  run_once: true
"""

RETURN = r"""
plan:
  description: The plan's id.
  returned: always
  type: str
  sample: 3f9a1c07b2de
changes:
  description: Whether anything would be done.
  returned: always
  type: bool
pending:
  description: The hosts that would be switched.
  returned: always
  type: list
  elements: str
  sample: [worker1, worker2]
cannot:
  description: The hosts that cannot go there, or did not answer.
  returned: always
  type: list
  elements: str
  sample: []
table:
  description: One entry for each host, in the order of O(expected_hosts).
  returned: always
  type: list
  elements: dict
  contains:
    host:
      description: The host.
      type: str
    found:
      description: The release and version that are live there.
      type: str
    changes:
      description: What would change there. Empty when nothing does.
      type: str
    cannot:
      description: Why it cannot go there. Empty when it can.
      type: str
tasks:
  description: What would become of tasks, as given in O(tasks).
  returned: always
  type: dict
text:
  description: The table as aligned plain text, and what would become of tasks.
  returned: always
  type: str
msg:
  description: The plan in a sentence.
  returned: always
  type: str
"""

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._journal.options import PLAN_OPTIONS


def body(module: object) -> Outcome:
    """The plan is made on the controller; being here means that its action plugin was passed over."""
    raise Refused(
        "queueops.fleet.fleet_plan runs on the controller, but was sent to a host as a module",
        next_step="Call it as the task queueops.fleet.fleet_plan, from an installed collection",
    )


def main() -> None:
    run_module(body, PLAN_OPTIONS, supports_check_mode=True)


if __name__ == "__main__":
    main()
