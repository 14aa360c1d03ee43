#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_journal_info
short_description: Read where a fleet stands from its journal
version_added: 0.1.0
description:
  - Verifies the journal on the fleet's home, and returns what its events add up to. That is the release that the fleet is on, the
    known good release, where a rollback would go and why, who holds the fleet, and on request the events themselves.
  - A byte that was changed in the file is found, and named with its line. Whole events that were cut off at the end of the file leave a
    sound, shorter chain; hosts then refuse the older epochs that it hands out.
  - A journal that does not exist is an empty one. Nothing is ever changed.
extends_documentation_fragment:
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
  - queueops.fleet.journal
attributes:
  check_mode:
    support: full
    details: Only reads.
  diff_mode:
    support: N/A
    details: Changes nothing.
  idempotent:
    support: full
options:
  events:
    description:
      - Which events to return, beside the state.
      - V(none), V(all), or the id of an operation for the events of that one.
    type: str
    default: none
  limit:
    description: Return at most this many events, and as many operations; the newest.
    type: int
author:
  - The queueops.fleet contributors (@queueops)
"""

EXAMPLES = r"""
- name: See where the fleet stands
  queueops.fleet.fleet_journal_info:
    fleet: mailer
  register: journal

- name: Say where a rollback would go
  ansible.builtin.debug:
    msg: "Rollback goes to {{ journal.state.rollback_target }}, for {{ journal.state.rollback_reason }}"

- name: Read the events of one operation
  queueops.fleet.fleet_journal_info:
    fleet: mailer
    events: op-0003-deploy
"""

RETURN = r"""
exists:
  description: Whether the fleet has a journal yet.
  returned: success
  type: bool
  sample: true
head:
  description: The hash of the last event, or 64 zeros. Give it as O(queueops.fleet.fleet_operation#module:expect_head).
  returned: success
  type: str
  sample: fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9
count:
  description: The number of events in the journal.
  returned: success
  type: int
  sample: 42
torn:
  description:
    - What a writer that died left behind the last event, with its C(size) in bytes, and whether the event was C(complete) but for its
      newline. The next writer mends it and records that. Null when there is nothing.
  returned: success
  type: dict
  sample: null
state:
  description: Where the fleet stands.
  returned: success
  type: dict
  contains:
    current:
      description: The release that was last confirmed or rolled back to, 0 before the first.
      type: int
      sample: 1
    known_good:
      description: The release that was confirmed last and is not withdrawn. Null when there is none.
      type: int
      sample: 1
    rollback_target:
      description: Where a rollback without a number goes. Null when there is nowhere to go.
      type: int
      sample: 1
    rollback_from:
      description: The release that such a rollback withdraws.
      type: int
      sample: 2
    rollback_reason:
      description: Why that is the target, or why there is none.
      type: str
      sample: release 1 was known good before release 2
    releases:
      description:
        - Every release, by its number as text. Each has C(number), C(version), C(checksum), C(state) (V(prepared), V(active),
          V(confirmed), V(withdrawn)), C(ever_confirmed), C(digests) (by host), C(opened_by), C(opened_at), C(confirmed_at),
          C(withdrawn_at) and C(reason) (why it was withdrawn).
      type: dict
      sample: {"1": {"number": 1, "version": "1.0.0", "state": "confirmed"}}
    open_operation:
      description: The operation that holds the fleet, with the same fields as RV(state.last_operation). Null when nobody does.
      type: dict
      sample: null
    last_operation:
      description:
        - The operation that ended last. Null when none did.
        - It has C(id), C(kind), C(epoch), C(target), C(from), C(back_to), C(outcome) (V(confirmed), V(rolled_back), V(failed),
          V(nothing_to_do), V(taken_over)), C(opened_at), C(closed_at), C(actor), C(controller), C(reason) and C(touched) (hosts).
      type: dict
      sample: {"id": "op-0002-deploy", "kind": "deploy", "target": 2, "from": 1, "outcome": "rolled_back"}
    epoch:
      description: The newest epoch that was given out, 0 before the first.
      type: int
      sample: 2
    next_release:
      description: The number that the next new release gets.
      type: int
      sample: 3
    hosts:
      description: The release of each host, as last reported. Null where it is not known.
      type: dict
      sample: {"worker1": 1, "worker2": 1}
operations:
  description: The operations, oldest first, with the same fields as RV(state.last_operation).
  returned: success
  type: list
  elements: dict
  sample: [{"id": "op-0001-deploy", "kind": "deploy", "target": 1, "from": 0, "outcome": "confirmed"}]
events:
  description: The events that were asked for, oldest first.
  returned: success
  type: list
  elements: dict
  sample: []
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._journal.options import JOURNAL_OPTIONS, journal_of
from ansible_collections.queueops.fleet.plugins.module_utils._journal.overview import overview

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def body(module: AnsibleModule) -> Outcome:
    params: dict[str, Any] = module.params
    return Outcome(result=overview(journal_of(params), params["events"], params["limit"]))


def main() -> None:
    spec: dict[str, Any] = {"events": {"type": "str", "default": "none"}, "limit": {"type": "int"}}
    spec.update(JOURNAL_OPTIONS)
    run_module(body, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
