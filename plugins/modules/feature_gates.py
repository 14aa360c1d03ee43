#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: feature_gates
short_description: Make a list of feature gates be all that a fleet has
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - Sets all feature gates of a fleet in a file, in a key of Redis or Valkey, or in both, in one step for each. A gate of the fleet that is
    not in O(gates) is taken away. For a single gate among others there is M(queueops.fleet.feature_gate).
  - The roles P(queueops.fleet.deploy#role) and P(queueops.fleet.rollback#role) put the gates of a release into Redis with it.
  - Flags that are no gates of the fleet, such as a route's or another fleet's, stay as they are. One of them that has the name of a gate in
    O(gates) is refused, and so is a document that is no document of flags; then nothing is changed.
extends_documentation_fragment:
  - queueops.fleet.flags
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
attributes:
  check_mode:
    support: full
    details: Also refuses what can be known to fail, such as a server that does not take writes.
  diff_mode:
    support: full
    details: The definition before and after of each flag that changes, for each store.
  idempotent:
    support: full
options:
  gates:
    description: The gates. With an empty list the fleet has none any more, and applications get the defaults in their own code.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: As O(queueops.fleet.feature_gate#module:name).
        type: str
        required: true
      state:
        description: As O(queueops.fleet.feature_gate#module:state). A gate is absent where it is not in the list.
        type: str
        choices: ["on", "off", percent, targets]
        required: true
      percent:
        description: As O(queueops.fleet.feature_gate#module:percent).
        type: int
      key:
        description: As O(queueops.fleet.feature_gate#module:key).
        type: str
      targets:
        description: As O(queueops.fleet.feature_gate#module:targets).
        type: list
        elements: str
seealso:
  - module: queueops.fleet.feature_gate
  - module: queueops.fleet.feature_gate_info
"""

EXAMPLES = r"""
- name: One in ten customers gets the new invoice, nobody the new charge, and there is no other gate
  queueops.fleet.feature_gates:
    fleet: mailer
    gates:
      - name: new-invoice
        state: percent
        percent: 10
        key: customer
      - name: new-charge
        state: "off"
    redis_key: mailer:flags
    url: redis://broker:6379/0
    password: "{{ vault_fleet_password }}"
"""

RETURN = r"""
set_gates:
  description: The names of the gates that were made or changed in at least one store.
  returned: success
  type: list
  elements: str
removed_gates:
  description: The names of those that were taken away.
  returned: success
  type: list
  elements: str
where:
  description: The stores, as people call them.
  returned: success
  type: list
  elements: str
ended:
  description: When it was done, in seconds since the epoch.
  returned: success
  type: float
error:
  description: What went wrong, with C(code), the C(option) at fault, what is C(still_true), the C(next_step), and if it is C(retryable).
  returned: failure
  type: dict
"""

import time
from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._flag_options import FLAGS_SPEC, stores_of
from ansible_collections.queueops.fleet.plugins.module_utils._flags.change import set_gates
from ansible_collections.queueops.fleet.plugins.module_utils._flags.gate import wanted_gates

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

GATE_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["on", "off", "percent", "targets"], "required": True},
    "percent": {"type": "int"},
    "key": {"type": "str", "no_log": False},
    "targets": {"type": "list", "elements": "str"},
}


def change(module: AnsibleModule) -> Outcome:
    fleet = module.params["fleet"]
    plans = set_gates(fleet, wanted_gates(fleet, module.params["gates"]), stores_of(module.params), dry_run=module.check_mode)
    changed = [plan for plan in plans if plan.after is not None]
    result = {
        "set_gates": list(dict.fromkeys(name for plan in plans for name in plan.changed)),
        "removed_gates": list(dict.fromkeys(name for plan in plans for name in plan.gone)),
        "where": [plan.store.where for plan in plans],
        "ended": time.time(),
    }
    return Outcome(bool(changed), result, [diff for plan in changed for diff in plan.diffs] if module._diff else None)


def main() -> None:
    spec: dict[str, Any] = dict(FLAGS_SPEC, gates={"type": "list", "elements": "dict", "required": True, "options": GATE_SPEC})
    run_module(change, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
