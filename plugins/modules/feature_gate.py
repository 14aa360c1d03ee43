#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: feature_gate
short_description: Turn a feature on for some, for all or for nobody
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - Sets a feature gate, for whom a feature is on, as a boolean flag in flagd's JSON format. An application in any language reads it with
    the OpenFeature SDK that it has, through a flagd provider; it needs nothing of this collection.
  - Such a gate has nothing to do with those of M(queueops.fleet.fleet_gate), which decide whether a deploy goes on.
  - The flags are in a file on the host (O(path)), in a key of Redis or Valkey (O(redis_key)), or in both, which then change in one call.
  - Other flags, and whatever else is in the document, stay as they are and in their order. A gate of another fleet, a flag that was not
    made by this module, and one that somebody has changed into something else, are refused.
  - A document that is no JSON, or no document of flags, is refused with its line and column or its place, and stays as it is.
extends_documentation_fragment:
  - queueops.fleet.flags
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
attributes:
  check_mode:
    support: full
    details: Also refuses what can be known to fail, such as a folder that may not be written.
  diff_mode:
    support: full
    details: The flag's definition before and after, for each store. A file's owner, group and mode where they change.
  idempotent:
    support: full
options:
  name:
    description: The flag's name, by which the application asks for it. Up to 100 letters, digits, dots, dashes and underscores.
    type: str
    required: true
  state:
    description:
      - V(on) is on for all, V(off) for nobody.
      - V(percent) is on for O(percent) of each hundred. V(targets) is on for those that O(targets) names.
      - V(absent) takes the flag away. An application then gets the default in its own code, which need not be off.
    type: str
    choices: ["on", "off", percent, targets, absent]
    required: true
  percent:
    description:
      - For how many of each hundred it is on, from 0 to 100. A hash of the flag's name and O(key) decides who is in, so that it is the same
        ones each time. A higher figure keeps all that were in; a lower one lets go first who came last. With 0 it is nobody.
      - With O(state=targets), for how many of those that are no target.
    type: int
  key:
    description:
      - The attribute of the evaluation context that decides. By default it is C(targetingKey), which every SDK has.
      - Who has no such attribute, or an empty one, is off. The parts of a nested attribute are separated by dots.
    type: str
  targets:
    description: Values of O(key), as text, for which it is on.
    type: list
    elements: str
  release:
    description:
      - The number of the release that the gate is for, as a note. Without it the gate is for none.
      - A gate that is to go back with its release belongs in O(queueops.fleet.worker_release#module:config.feature_gates).
    type: int
  owner:
    description: The file's owner. Default is the one that it has, for a new file the user that runs the task.
    type: str
  group:
    description: The file's group. Default is the one that it has, for a new file that of the user that runs the task.
    type: str
  mode:
    description:
      - The file's permissions as octal digits that begin with 0, in quotation marks.
      - Default are those that it has, for a new file V(0644), so that the application can read it.
    type: str
notes:
  - A file that belongs to a release (O(queueops.fleet.worker_release#module:config.feature_gates)), or is in the watched paths of one,
    can be changed in place. That is a difference from the release then. The role P(queueops.fleet.status#role) tells of it, and the next
    deploy or rollback puts the release's file back. Give gates that are to change between releases a file that is in neither.
  - The new file is written beside the old one, read again as a reader would, and renamed, so that a reader finds a whole document at every
    moment, also after a power cut. So the file is another one (another inode) after each change. A container that has the file alone
    mounted keeps the old one; mount its folder. A watcher has to watch the folder, or to look at the path again, as flagd and the SDKs do.
  - The file's extended attributes and ACLs are not taken over from the old one. A file C(.<name>.lock) beside it keeps two writers apart.
  - Each change gives the file a later time of modification than it had, whatever the host's clock says, since some SDKs go by that.
  - A key in Redis is only written if nobody has changed it since it was read; else the change is made anew on what is there then.
  - With both stores all is checked, and the file's new content is on the disk, before the key is written; the rename comes last. If the
    key cannot be written the file stays as it is. If the rename fails after that the module fails and says so; run it again.
  - The hash by which C(fractional) decides is changing from one generation of flagd's evaluators to the next, from that of the key's text
    to that of its CBOR encoding (Python's C(openfeature-flagd-core) from 2.0 on; C(@openfeature/flagd-core) 4.0 of JavaScript still
    hashes text). With either, who is in at 10 is in at 25, but each has its own set. Let all readers of a flag be of one generation.
seealso:
  - module: queueops.fleet.feature_gate_info
  - name: flagd's flag definitions
    description: The format of the flags.
    link: https://flagd.dev/reference/flag-definitions/
"""

EXAMPLES = r"""
- name: A new way of charging, for nobody yet
  queueops.fleet.feature_gate:
    fleet: mailer
    name: new-invoice
    state: percent
    percent: 0
    path: /etc/mailer-flags/flags.json

- name: For one in ten customers, on all hosts and for who reads Redis, as a part of release 7
  queueops.fleet.feature_gate:
    fleet: mailer
    name: new-invoice
    state: percent
    percent: 10
    key: customer
    release: 7
    path: /etc/mailer-flags/flags.json
    redis_key: mailer:flags
    url: redis://broker:6379/0
    password: "{{ vault_fleet_password }}"

- name: For two customers, whoever they are, and for one in a hundred of the others
  queueops.fleet.feature_gate:
    fleet: mailer
    name: new-invoice
    state: targets
    targets: [acme, initech]
    percent: 1
    key: customer
    path: /etc/mailer-flags/flags.json

- name: For nobody any more, whatever the application's own default is
  queueops.fleet.feature_gate:
    fleet: mailer
    name: new-invoice
    state: "off"
    path: /etc/mailer-flags/flags.json
"""

RETURN = r"""
gate:
  description: The gate as it is now, in check mode as it would be.
  returned: success
  type: dict
  contains:
    name:
      description: The flag's name.
      type: str
    fleet:
      description: The fleet that it belongs to.
      type: str
    state:
      description: V(on), V(off), V(percent), V(targets) or V(absent).
      type: str
    percent:
      description: For how many of each hundred it is on. Null where nothing is decided by that.
      type: int
    key:
      description: The attribute that decides. Null where none does.
      type: str
    targets:
      description: For whom it is on by name. Null where nobody is named.
      type: list
      elements: str
    release:
      description: The number of the release that it belongs to. Null if it belongs to none.
      type: int
  sample:
    name: new-invoice
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
from ansible_collections.queueops.fleet.plugins.module_utils._flag_options import FLAGS_SPEC, stores_of
from ansible_collections.queueops.fleet.plugins.module_utils._flags.change import set_gate
from ansible_collections.queueops.fleet.plugins.module_utils._flags.gate import wanted_gate

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

GATE_SPEC: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["on", "off", "percent", "targets", "absent"], "required": True},
    "percent": {"type": "int"},
    "key": {"type": "str", "no_log": False},
    "targets": {"type": "list", "elements": "str"},
    "release": {"type": "int"},
}


def change(module: AnsibleModule) -> Outcome:
    gate = wanted_gate(fleet=module.params["fleet"], **{name: module.params[name] for name in GATE_SPEC})
    plans = set_gate(gate, stores_of(module.params), dry_run=module.check_mode)
    changed = [plan for plan in plans if plan.after is not None]
    return Outcome(bool(changed), {"gate": gate.as_dict()}, [diff for plan in changed for diff in plan.diffs] if module._diff else None)


def main() -> None:
    spec: dict[str, Any] = dict(FLAGS_SPEC, **GATE_SPEC, owner={"type": "str"}, group={"type": "str"}, mode={"type": "str"})
    run_module(change, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
