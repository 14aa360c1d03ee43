#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_journal_rebuild
short_description: Make a fleet's lost journal anew from what its hosts know
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - Writes the journal anew on the fleet's home, from what M(queueops.fleet.worker_release_info) returned on every host.
  - The hosts' own events come first, as they were. A release is known good if every host on which it was live wrote down that it was
    confirmed there, and none went back from it later. What else is on the disks proves nothing.
  - Where the hosts do not all stand on the newest known good release, the journal says so, and a rollback takes them there.
  - A journal that is there and sound is never touched. A damaged one is kept under another name.
  - Run it on the fleet's home, once for the fleet.
extends_documentation_fragment:
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
  - queueops.fleet.journal
attributes:
  check_mode:
    support: full
    details: Shows what would be known, and writes nothing.
  diff_mode:
    support: none
  idempotent:
    support: none
    details: A second run is refused, for the journal is there then.
options:
  hosts:
    description: For each host of the fleet, what M(queueops.fleet.worker_release_info) returned.
    type: dict
    required: true
  actor:
    description: Who acts.
    type: str
  reason:
    description: Why, in words.
    type: str
seealso:
  - module: queueops.fleet.worker_release_info
  - module: queueops.fleet.fleet_journal_info
"""

EXAMPLES = r"""
- name: See what each host knows
  queueops.fleet.worker_release_info:
    fleet: mailer
  register: known

- name: Make the journal anew
  queueops.fleet.fleet_journal_rebuild:
    fleet: mailer
    hosts: "{{ dict(groups['mailer'] | zip(groups['mailer'] | map('extract', hostvars, 'known'))) }}"
    reason: The disk of worker1 was replaced
  run_once: true
"""

RETURN = r"""
state:
  description: Where the fleet stands by the new journal, as described for M(queueops.fleet.fleet_journal_info).
  returned: success
  type: dict
  sample: {"current": 2, "known_good": 2, "rollback_target": 1}
head:
  description: The hash of the last event. In check mode it means nothing.
  returned: success
  type: str
  sample: fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9
count:
  description: The number of events that were written, or would be.
  returned: success
  type: int
  sample: 17
moved_to:
  description: Where the damaged journal was moved. Null if there was none.
  returned: success
  type: str
  sample: /var/lib/queueops/mailer/journal.jsonl.damaged-2026-03-01T074122.123Z
msg:
  description: What is known again, and what to do next.
  returned: success
  type: str
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._journal.options import JOURNAL_OPTIONS, journal_of
from ansible_collections.queueops.fleet.plugins.module_utils._journal.rebuild import rebuild

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def body(module: AnsibleModule) -> Outcome:
    params: dict[str, Any] = module.params
    done = rebuild(journal_of(params), params["hosts"], params["actor"], params["reason"] or None, dry=module.check_mode)
    return Outcome(
        changed=done.changed,
        result={
            "state": done.state.as_dict(),
            "head": done.events[-1].hash,
            "count": len(done.events),
            "moved_to": done.moved_to,
            "msg": done.sentence(params["fleet"]),
        },
    )


def main() -> None:
    spec: dict[str, Any] = {
        "hosts": {"type": "dict", "required": True},
        "actor": {"type": "str"},
        "reason": {"type": "str"},
    }
    spec.update(JOURNAL_OPTIONS)
    run_module(body, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
