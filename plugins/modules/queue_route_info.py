#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: queue_route_info
short_description: Show how the tasks of a logical queue are divided among versions, and which of them are drained
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - Reads the route from the broker, or from the flag that the producers read, and counts what is in each version's queue. Changes nothing.
  - Of Celery only the workers know what they execute, and so whether a version is drained. They are asked, unless O(ask_workers=false).
extends_documentation_fragment:
  - queueops.fleet.queue
  - queueops.fleet.route
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
seealso:
  - module: queueops.fleet.queue_route
  - module: queueops.fleet.queue_info
"""

EXAMPLES = r"""
- name: Wait until version 1.0.0 is drained
  queueops.fleet.queue_route_info:
    backend: celery
    url: amqp://fleet@broker/
    password: "{{ vault_fleet_password }}"
    route: mail
  register: mail
  until: (mail.versions | selectattr('version', 'equalto', '1.0.0') | first).state == 'drained'
  retries: 60
  delay: 5
"""

RETURN = r"""
exists:
  description: Whether there is such a route.
  returned: success
  type: bool
key:
  description: What of a task decides which version gets it; null without a route.
  returned: success
  type: str
  sample: property:correlation_id
versions:
  description: Each version that was given tasks and not removed since.
  returned: success
  type: list
  elements: dict
  contains:
    version:
      description: The version.
      type: str
      sample: 2.0.0
    queue:
      description: Its queue.
      type: str
      sample: mail-2.0.0
    weight:
      description: Percent of the tasks that it gets.
      type: int
      sample: 10
    state:
      description:
        - V(active) gets tasks. V(draining) gets none and has some left, or it is not known whether it has. V(drained) has none left.
        - A task that waits for its time is counted where the system counts it (RV(versions[].scheduled)); one that a worker holds until
          then is counted as executing.
      type: str
      sample: active
    queued:
      description: How many tasks wait in its queue; null where that is not known.
      type: int
    executing:
      description: How many tasks its workers have in hand; null where that is not known.
      type: int
    scheduled:
      description: How many tasks wait for their time; null where the system does not tell.
      type: int
"""

from typing import TYPE_CHECKING

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._queue_options import backend_of
from ansible_collections.queueops.fleet.plugins.module_utils._route.route import states
from ansible_collections.queueops.fleet.plugins.module_utils._route_options import ROUTE_SPEC, router_of

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def look(module: AnsibleModule) -> Outcome:
    route = router_of(module.params).look(module.params["route"])
    if route is None:
        return Outcome(result={"exists": False, "key": None, "versions": []})
    looked = backend_of(module.params).look(sorted(route.queues.values()), missing_ok=True)
    return Outcome(result={"exists": True, "key": route.key, "versions": [vars(version) for version in states(route, looked.queues)]})


def main() -> None:
    run_module(look, ROUTE_SPEC, supports_check_mode=True)


if __name__ == "__main__":
    main()
