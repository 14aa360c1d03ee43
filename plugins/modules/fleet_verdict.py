#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_verdict
short_description: Fail unless every host of a fleet is proven to be on one release
version_added: 0.1.0
description:
  - Compares every host of the fleet with the wanted release, makes one table of it, and fails unless all agree. It is meant as the last
    task of a deploy or a rollback, so that a run never ends well with a mixed fleet.
  - A host agrees when it answered, is on the release, has it confirmed, and its running worker processes are of the release's version.
    A host that was unreachable, or of which there is no result, is not known, and does not agree.
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
  wanted:
    description: The number of the release that every host has to be on.
    type: int
    required: true
  version:
    description:
      - The version of that release. Without it, the worker processes are compared with the version that each host says the release is.
      - It is not looked at for release 0, which is each host as it was found.
    type: str
  expected_hosts:
    description: All hosts of the fleet by the inventory, those too that were dropped from the play.
    type: list
    elements: str
    required: true
  results:
    description:
      - For each host, what M(queueops.fleet.worker_release) returned last.
      - A host without a result, or with an empty one, is not known.
    type: dict
    required: true
  outcome:
    description: How the operation ended.
    type: str
  outcome_expected:
    description: Fail, too, unless the operation ended as one of these. By default it may end as it likes.
    type: list
    elements: str
    default: []
  fleet:
    description: The name of the fleet, for the message.
    type: str
  reason:
    description: Why the operation ended as it did, for the message.
    type: str
  unsettled:
    description: What else the operation should have done and did not, in sentences. Fail, too, where there is any.
    type: list
    elements: str
    default: []
  fenced:
    description: That the version of the hosts which were not reached is shut out at the broker, in a sentence; empty where it is not.
    type: str
author:
  - The queueops.fleet contributors (@queueops)
"""

EXAMPLES = r"""
- name: Compare every host with the release
  queueops.fleet.fleet_verdict:
    fleet: mailer
    wanted: 1
    version: 1.0.0
    expected_hosts: "{{ groups['mailer'] }}"
    results: "{{ dict(groups['mailer'] | zip(groups['mailer'] | map('extract', hostvars) | map(attribute='reverted', default={}))) }}"
  run_once: true
"""

RETURN = r"""
agree:
  description: Whether every host is proven to be on the release, the outcome is an expected one, and nothing was left undone.
  returned: always
  type: bool
  sample: false
table:
  description: One entry for each host of the fleet, in the order of O(expected_hosts).
  returned: always
  type: list
  elements: dict
  contains:
    host:
      description: The host.
      type: str
    wanted:
      description: The release that it has to be on.
      type: int
    found:
      description: The release that it is on, null where that is not known.
      type: int
    phase:
      description: The phase that the host is in.
      type: str
    ok:
      description: Whether it is proven to be on the release.
      type: bool
    reason:
      description: Why not. Empty when it is.
      type: str
  sample:
    - {host: worker1, wanted: 1, found: 1, phase: confirmed, ok: true, reason: ""}
    - {host: worker2, wanted: 1, found: null, phase: null, ok: false, reason: "unreachable: not known"}
text:
  description: The table as aligned plain text.
  returned: always
  type: str
differing:
  description: The hosts that are not proven to be on the release.
  returned: always
  type: list
  elements: str
  sample: [worker2]
unknown:
  description: Those of RV(differing) of which nothing is known.
  returned: always
  type: list
  elements: str
  sample: [worker2]
outcome:
  description: How the operation ended, as it was given.
  returned: always
  type: str
  sample: rolled_back
msg:
  description: The verdict in a sentence, and what to do.
  returned: always
  type: str
  sample: All 3 hosts of fleet mailer are on release 1.
"""

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._journal.options import VERDICT_OPTIONS


def body(module: object) -> Outcome:
    """The comparison is made on the controller; being here means that its action plugin was passed over."""
    raise Refused(
        "queueops.fleet.fleet_verdict runs on the controller, but was sent to a host as a module",
        next_step="Call it as the task queueops.fleet.fleet_verdict, from an installed collection",
    )


def main() -> None:
    run_module(body, VERDICT_OPTIONS, supports_check_mode=True)


if __name__ == "__main__":
    main()
