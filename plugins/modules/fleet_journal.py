#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_journal
short_description: Record what happens in an open operation of a fleet
version_added: 0.1.0
description:
  - Appends events to the journal on the fleet's home. The journal is a file of JSON lines that only grows, in which each line carries
    the hash of the one before, so that a changed byte is found.
  - An event is on the disk when the module returns. Many writers at a time are safe.
  - Events are refused when the operation has ended, or was taken over and goes on under a newer epoch. Only that nobody could be told of
    its end (V(notification_failed), see M(queueops.fleet.fleet_notify)) is written after it.
extends_documentation_fragment:
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
  - queueops.fleet.journal
attributes:
  check_mode:
    support: full
    details: Checks everything, and writes nothing.
  diff_mode:
    support: full
    details: Shows the events without their times.
  idempotent:
    support: none
    details: Each run records the events again, because they happened again.
options:
  operation:
    description: The id of the open operation, as returned by M(queueops.fleet.fleet_operation).
    type: str
    required: true
  epoch:
    description: The operation's epoch, as returned by M(queueops.fleet.fleet_operation).
    type: int
    required: true
  actor:
    description: Who acts, as V(user@controller). By default the user and the host that the module runs as.
    type: str
  events:
    description:
      - What happened, in its order.
      - The kinds V(host_switched), V(host_confirmed), V(host_reverted), V(host_put_back), V(host_recovered), V(confirm_timer_reverted) and
        V(host_reported) with a C(host) and a C(release) in their C(data) tell the journal where that host is.
      - What M(queueops.fleet.fleet_operation) writes itself is refused, such as V(operation_closed) and V(release_confirmed).
    type: list
    elements: dict
    required: true
    suboptions:
      kind:
        description: What happened, in lower case with underscores.
        type: str
        required: true
      host:
        description: The inventory host that it happened on.
        type: str
      reason:
        description: Why, in words.
        type: str
      data:
        description: Numbers and names. No payloads, no secrets.
        type: dict
        default: {}
      at:
        description: When, as ISO 8601 with a zone. By default now.
        type: str
author:
  - The queueops.fleet contributors (@queueops)
"""

EXAMPLES = r"""
- name: Record that the canary was switched, and what its gate said
  queueops.fleet.fleet_journal:
    fleet: mailer
    operation: op-0003-deploy
    epoch: 3
    events:
      - kind: host_switched
        host: worker1
        data: {release: 3}
      - kind: gate_verdict
        reason: 31 of 90 tasks failed
        data: {verdict: fail, ratio: 0.344, limit: 0.05}
"""

RETURN = r"""
events:
  description: The events as they were written, or would be in check mode.
  returned: success
  type: list
  elements: dict
  sample:
    - seq: 9
      at: "2026-03-01T07:41:22.123Z"
      operation: op-0003-deploy
      epoch: 3
      host: worker1
      actor: alice@ctl1
      kind: host_switched
      reason: null
      data: {release: 3}
      prev: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
      hash: fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9
head:
  description: The journal's head after it.
  returned: success
  type: str
  sample: fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._journal.operation import append_events
from ansible_collections.queueops.fleet.plugins.module_utils._journal.options import (
    EVENT_OPTIONS,
    JOURNAL_OPTIONS,
    events_diff,
    events_of,
    journal_of,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def body(module: AnsibleModule) -> Outcome:
    params: dict[str, Any] = module.params
    journal = journal_of(params)
    answer = append_events(
        journal, params["operation"], params["epoch"], events_of(params["events"]), actor=params["actor"], dry=module.check_mode
    )
    return Outcome(
        changed=answer.changed,
        result={"events": [event.as_dict() for event in answer.written], "head": answer.head},
        diff=events_diff(answer.written, journal.path),
    )


def main() -> None:
    spec: dict[str, Any] = {
        "operation": {"type": "str", "required": True},
        "epoch": {"type": "int", "required": True},
        "actor": {"type": "str"},
        "events": {"type": "list", "elements": "dict", "required": True, "options": EVENT_OPTIONS},
    }
    spec.update(JOURNAL_OPTIONS)
    run_module(body, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
