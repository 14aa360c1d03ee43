#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: worker_release_info
short_description: Show what a host knows of its releases
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - Shows the release that is live on the host, the releases that are there, and what the host wrote down itself.
  - Changes nothing, and needs neither the fleet's home nor its journal. From what it returns on every host a lost journal is made anew,
    see M(queueops.fleet.fleet_journal_rebuild).
extends_documentation_fragment:
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    details: Changes nothing.
  idempotent:
    support: full
options:
  fleet:
    description: The name of the fleet.
    type: str
    required: true
  state_dir:
    description: Folder for the collection's state.
    type: path
    default: /var/lib/queueops
seealso:
  - module: queueops.fleet.worker_release
"""

EXAMPLES = r"""
- name: See what each host knows
  queueops.fleet.worker_release_info:
    fleet: mailer
  register: known
"""

RETURN = r"""
release:
  description: The number of the release that is live. Null where nothing was ever deployed.
  returned: success
  type: int
  sample: 2
phase:
  description: V(confirmed), V(active) while the confirm timer runs, or V(interrupted) if a change was cut off.
  returned: success
  type: str
  sample: confirmed
epoch:
  description: The newest epoch that gave an order here.
  returned: success
  type: int
  sample: 4
operation:
  description: The id of the operation with that epoch.
  returned: success
  type: str
  sample: op-0004-deploy
releases:
  description: The releases that are here, with C(number), C(version), C(checksum), C(snapshot), C(digest) and C(activated).
  returned: success
  type: list
  elements: dict
  sample: [{"number": 2, "version": "1.1.0", "activated": true}]
events:
  description: What the host wrote down, the oldest first, at most the newest 200.
  returned: success
  type: list
  elements: dict
  sample: [{"kind": "host_confirmed", "host": "worker1", "data": {"release": 2}}]
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._journal.options import JOURNAL_OPTIONS
from ansible_collections.queueops.fleet.plugins.module_utils._release.record import HostRecord
from ansible_collections.queueops.fleet.plugins.module_utils._release.testimony import testify

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def body(module: AnsibleModule) -> Outcome:
    params: dict[str, Any] = module.params
    return Outcome(result=testify(HostRecord(params["state_dir"], params["fleet"])))


def main() -> None:
    run_module(body, JOURNAL_OPTIONS, supports_check_mode=True)


if __name__ == "__main__":
    main()
