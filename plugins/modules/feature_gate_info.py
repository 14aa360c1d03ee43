#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: feature_gate_info
short_description: Show for whom features are on
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - Shows the feature gates that M(queueops.fleet.feature_gate) has set, and that there are other flags beside them. It changes nothing.
  - They are read from one store, O(path) or O(redis_key). A document that no reader would take is an error, with line and column.
extends_documentation_fragment:
  - queueops.fleet.flags
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
  names:
    description: The flags to show. One that is not there has the state V(absent). Default is all that are there.
    type: list
    elements: str
seealso:
  - module: queueops.fleet.feature_gate
"""

EXAMPLES = r"""
- name: Look for whom features are on
  queueops.fleet.feature_gate_info:
    fleet: mailer
    path: /etc/mailer-flags/flags.json
  register: look

- name: Fail while a gate of an old release is there
  ansible.builtin.assert:
    that: look.gates | selectattr('mine') | selectattr('release', 'equalto', 6) | length == 0
"""

RETURN = r"""
exists:
  description: Whether there is a file, or a key, of flags.
  returned: success
  type: bool
gates:
  description: The flags, one entry each, in the document's order or in that of O(names).
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The flag's name.
      type: str
    mine:
      description: Whether it is a gate of O(fleet), and so whether M(queueops.fleet.feature_gate) would change it.
      type: bool
    fleet:
      description: The fleet that it belongs to. Null if its metadata names none.
      type: str
    state:
      description:
        - V(on), V(off), V(percent), V(targets) or V(absent).
        - Null if it was not made by M(queueops.fleet.feature_gate), or changed into something else since.
      type: str
    percent:
      description: For how many of each hundred it is on. Null where nothing is decided by that.
      type: int
    key:
      description: The attribute of the evaluation context that decides. Null where none does.
      type: str
    targets:
      description: For whom it is on by name. Null where nobody is named.
      type: list
      elements: str
    release:
      description: The number of the release that it belongs to. Null if it belongs to none.
      type: int
  sample:
    - name: new-invoice
      mine: true
      fleet: mailer
      state: percent
      percent: 10
      key: customer
      targets: null
      release: 7
error:
  description: What went wrong, with C(code), the C(option) at fault, what is C(still_true), the C(next_step), and if it is C(retryable).
  returned: failure
  type: dict
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._flag_options import FLAGS_SPEC, stores_of
from ansible_collections.queueops.fleet.plugins.module_utils._flags.change import list_gates
from ansible_collections.queueops.fleet.plugins.module_utils._flags.gate import check_fleet

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def look(module: AnsibleModule) -> Outcome:
    check_fleet(module.params["fleet"])
    stores = stores_of(module.params)
    if len(stores) > 1:
        raise Refused("Flags are shown from one store", option="path", next_step="Give path or redis_key, and the other in a second task")
    exists, gates = list_gates(stores[0], module.params["fleet"], module.params["names"])
    return Outcome(result={"exists": exists, "gates": gates})


def main() -> None:
    spec: dict[str, Any] = dict(FLAGS_SPEC, names={"type": "list", "elements": "str"})
    run_module(look, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
