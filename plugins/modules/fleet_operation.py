#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_operation
short_description: Open and close a deploy or a rollback of a fleet
version_added: 0.1.0
description:
  - Opens an operation on the fleet's home, which takes the fleet's lock, gives the operation an id and a new epoch, and records both.
  - Closes it, which gives the lock back and records where every host stands, which release is known good now, and which was withdrawn.
  - The open operation in the journal B(is) the lock. Nothing beside the journal can disagree with it, and it lasts over a reboot.
  - Run it on the fleet's home, once for the fleet.
extends_documentation_fragment:
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
  - queueops.fleet.journal
attributes:
  check_mode:
    support: full
    details: Returns the id and the epoch that the operation would get, and writes nothing.
  diff_mode:
    support: full
    details: Shows what changes about the fleet, without times.
  idempotent:
    support: partial
    details: Closing again with the same outcome changes nothing. Opening again is refused, because the operation holds the fleet.
options:
  state:
    description:
      - V(opened) begins an operation. It is refused while another one holds the fleet, unless O(takeover=true).
      - V(closed) ends it.
    type: str
    choices: [opened, closed]
    required: true
  kind:
    description: What the operation is. Required with O(state=opened). With O(state=closed), another kind than the operation's is refused.
    type: str
    choices: [deploy, rollback]
  operation:
    description:
      - The id of the operation, as returned when it was opened. Required with O(state=closed).
      - With O(state=opened) and O(takeover=true), go on with this open operation under a new epoch, instead of ending it.
    type: str
  epoch:
    description:
      - With O(state=closed), the epoch that was returned when the operation was opened. An older one is refused.
      - It has to be given when the operation was taken over under its own id.
    type: int
  target:
    description:
      - With O(state=opened), the number of the release to go to. By default the next free number for a deploy, and for a
        rollback the newest known good release before the one that the fleet is on.
      - With O(state=closed) it need not be given; another number than the operation's is refused.
    type: int
  version:
    description: The version of a new release. Required for a deploy of a number that the journal does not know.
    type: str
  checksum:
    description: The checksum of the version's artifact, such as V(sha256:...).
    type: str
  digests:
    description:
      - For each host, the digest of what the release is made of there (version and config).
      - With O(state=opened), a known release with another digest on a host is refused, because releases are immutable.
      - With O(state=closed), digests of hosts that were not known before are added.
    type: dict
    default: {}
  from_release:
    description:
      - The release that the fleet is on, or that a rollback goes back from. By default what the journal says.
      - A rollback that succeeds withdraws this release.
      - With O(state=closed) and O(outcome=rolled_back) of a deploy, the release that the fleet is on again, by default the one that
        was returned as RV(back_to) when the operation was opened.
    type: int
  expect_head:
    description:
      - The journal's head as it was when the plan was made. The operation is refused when the journal has moved since.
      - It is only looked at with O(state=opened).
    type: str
  takeover:
    description:
      - Take the fleet from the operation that holds it, because its controller is dead. This is recorded.
      - The hosts refuse the older epoch from then on, so that the earlier controller cannot harm the fleet.
    type: bool
    default: false
  actor:
    description: Who acts, as V(user@controller). By default the user and the host that the module runs as.
    type: str
  controller:
    description: The name of the controller that the operation is run from, for whoever finds the fleet held.
    type: str
  reason:
    description: Why, in words. It is shown in every report, and becomes the reason of a withdrawn release.
    type: str
  hosts:
    description:
      - With O(state=closed), where each host of the fleet stands. Keys are inventory names.
      - Each value has C(release) (null where it is not known), C(phase), C(ok) and C(reason).
      - The outcomes V(confirmed) and V(rolled_back) are refused unless each host is well and on the release in question.
    type: dict
    default: {}
  outcome:
    description:
      - How the operation ended. Required with O(state=closed).
      - V(confirmed) makes the deployed release known good.
      - V(rolled_back) withdraws the release that was gone back from.
      - V(failed) leaves the fleet where its hosts are.
      - V(nothing_to_do) says that every host already was on the target.
    type: str
    choices: [confirmed, rolled_back, failed, nothing_to_do]
  events:
    description: What happened in the operation, in its order, written in front of its end.
    type: list
    elements: dict
    default: []
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
- name: Open a deploy of version 2.0.0
  queueops.fleet.fleet_operation:
    fleet: mailer
    state: opened
    kind: deploy
    version: 2.0.0
    checksum: sha256:5d41402abc4b2a76b9719d911017c5925d41402abc4b2a76b9719d911017c592
    actor: alice@ctl1
    reason: Faster templates
  register: opened

- name: Close it as confirmed
  queueops.fleet.fleet_operation:
    fleet: mailer
    state: closed
    operation: "{{ opened.operation }}"
    epoch: "{{ opened.epoch }}"
    outcome: confirmed
    hosts:
      worker1: {release: 2, phase: confirmed, ok: true}
      worker2: {release: 2, phase: confirmed, ok: true}
    events:
      - kind: gate_verdict
        data: {verdict: pass, ratio: 0.004, limit: 0.05}

- name: Roll back to the newest known good release, although a dead controller still holds the fleet
  queueops.fleet.fleet_operation:
    fleet: mailer
    state: opened
    kind: rollback
    takeover: true
    reason: Controller ctl1 lost its power during the deploy
"""

RETURN = r"""
operation:
  description: The id of the operation.
  returned: success
  type: str
  sample: op-0007-rollback
epoch:
  description: The operation's epoch. Hosts refuse an older one.
  returned: success
  type: int
  sample: 7
kind:
  description: V(deploy) or V(rollback).
  returned: success
  type: str
  sample: rollback
fleet:
  description: The name of the fleet.
  returned: success
  type: str
  sample: mailer
target:
  description: The release that the operation goes to.
  returned: success
  type: int
  sample: 1
version:
  description: The version of that release, null for release 0.
  returned: success
  type: str
  sample: 1.0.0
checksum:
  description: The checksum of that version's artifact, null where it is not known.
  returned: success
  type: str
  sample: sha256:5d41402abc4b2a76b9719d911017c5925d41402abc4b2a76b9719d911017c592
from_release:
  description: The release that the operation goes from.
  returned: success
  type: int
  sample: 2
back_to:
  description: The release that a deploy goes back to when its gate fails, 0 for the fleet as it was found. Null for a rollback.
  returned: success
  type: int
  sample: 1
outcome:
  description: How the operation ended, null while it is open.
  returned: success
  type: str
  sample: rolled_back
opened_at:
  description: When the operation was opened.
  returned: success
  type: str
  sample: "2026-03-01T07:41:22.123Z"
closed_at:
  description: When it was closed, null while it is open.
  returned: success
  type: str
  sample: "2026-03-01T07:43:02.555Z"
taken_over:
  description: The operation that held the fleet before, as it was; null unless it was taken over.
  returned: success
  type: dict
  sample: null
events:
  description: The events that were written, or would be in check mode.
  returned: success
  type: list
  elements: dict
  sample: [{"seq": 12, "kind": "operation_opened", "operation": "op-0007-rollback"}]
head:
  description: The journal's head after it.
  returned: success
  type: str
  sample: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
state:
  description: The fleet's state after it, as described for M(queueops.fleet.fleet_journal_info).
  returned: success
  type: dict
  sample: {"current": 1, "known_good": 1, "epoch": 7}
held_by:
  description: The operation that holds the fleet.
  returned: when refused because another operation is open
  type: dict
  sample: {"id": "op-0006-deploy", "actor": "alice@ctl1", "opened_at": "2026-03-01T07:40:00.000Z"}
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._journal.closing import CloseRequest, close_operation
from ansible_collections.queueops.fleet.plugins.module_utils._journal.opening import OpenRequest, open_operation
from ansible_collections.queueops.fleet.plugins.module_utils._journal.options import (
    EVENT_OPTIONS,
    JOURNAL_OPTIONS,
    diff_of,
    events_of,
    journal_of,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

_OPENING = ("kind", "target", "version", "checksum", "digests", "from_release", "expect_head", "operation", "takeover")
_CLOSING = ("operation", "outcome", "epoch", "kind", "target", "from_release", "hosts", "digests")
_BOTH = ("actor", "reason")


def body(module: AnsibleModule) -> Outcome:
    # A role that has no reason to give hands over an empty text.
    params: dict[str, Any] = {name: None if value == "" else value for name, value in module.params.items()}
    # Nor is a digest known yet of a host that did not answer, or in check mode.
    params["digests"] = {host: digest for host, digest in params["digests"].items() if digest}
    journal = journal_of(params)
    if params["state"] == "opened":
        opening = OpenRequest(controller=params["controller"], **{name: params[name] for name in _OPENING + _BOTH})
        answer = open_operation(journal, opening, dry=module.check_mode)
    else:
        closing = CloseRequest(events=events_of(params["events"]), **{name: params[name] for name in _CLOSING + _BOTH})
        answer = close_operation(journal, closing, dry=module.check_mode)
    operation = answer.operation
    release = answer.after.releases.get(operation.target)
    return Outcome(
        changed=answer.changed,
        result={
            "operation": operation.id,
            "epoch": operation.epoch,
            "kind": operation.kind,
            "fleet": params["fleet"],
            "target": operation.target,
            "version": release.version if release else None,
            "checksum": release.checksum if release else None,
            "from_release": operation.from_release,
            "back_to": operation.back_to,
            "outcome": operation.outcome,
            "opened_at": operation.opened_at,
            "closed_at": operation.closed_at,
            "taken_over": answer.taken_over,
            "events": [event.as_dict() for event in answer.written],
            "head": answer.head,
            "state": answer.after.as_dict(),
        },
        diff=diff_of(answer.before, answer.after, journal.path),
        warnings=answer.warnings,
    )


def main() -> None:
    spec: dict[str, Any] = {
        "state": {"type": "str", "choices": ["opened", "closed"], "required": True},
        "kind": {"type": "str", "choices": ["deploy", "rollback"]},
        "operation": {"type": "str"},
        "epoch": {"type": "int"},
        "target": {"type": "int"},
        "version": {"type": "str"},
        "checksum": {"type": "str"},
        "digests": {"type": "dict", "default": {}},
        "from_release": {"type": "int"},
        "expect_head": {"type": "str"},
        "takeover": {"type": "bool", "default": False},
        "actor": {"type": "str"},
        "controller": {"type": "str"},
        "reason": {"type": "str"},
        "hosts": {"type": "dict", "default": {}},
        "outcome": {"type": "str", "choices": ["confirmed", "rolled_back", "failed", "nothing_to_do"]},
        "events": {"type": "list", "elements": "dict", "default": [], "options": EVENT_OPTIONS},
    }
    spec.update(JOURNAL_OPTIONS)
    run_module(
        body,
        spec,
        supports_check_mode=True,
        required_if=[("state", "opened", ("kind",)), ("state", "closed", ("operation", "outcome"))],
    )


if __name__ == "__main__":
    main()
