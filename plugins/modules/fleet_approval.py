#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_approval
short_description: Let a person decide whether a deploy goes on
version_added: 0.1.0
description:
  - A gate whose verdict is a person's. It passes where O(name) is among O(approved), and asks on the controller's terminal elsewhere.
  - Where there is no terminal (AWX, CI, a pipe) it does not wait. The verdict is then V(inconclusive), which never promotes.
  - Runs on the controller, and connects to no host. Run it once for the fleet.
extends_documentation_fragment:
  - queueops.fleet.attributes
attributes:
  check_mode:
    support: full
    details: Asks nobody.
  diff_mode:
    support: N/A
    details: Changes nothing.
  idempotent:
    support: N/A
    details: Changes nothing.
options:
  name:
    description: Name of the gate.
    type: str
    required: true
  question:
    description: What the person is asked.
    type: str
    default: Shall the deploy go on?
  approved:
    description: The gates that were approved beforehand, as with C(-e approve=).
    type: list
    elements: str
    default: []
  actor:
    description: Who runs this, and so is named as the one who decided.
    type: str
    default: unknown
  timeout:
    description: Seconds to wait for an answer on the terminal. After them the verdict is V(inconclusive).
    type: int
    default: 300
author:
  - The queueops.fleet contributors (@queueops)
seealso:
  - module: queueops.fleet.fleet_gate
"""

EXAMPLES = r"""
- name: Ask the release manager
  queueops.fleet.fleet_approval:
    name: release-manager
    question: The canary has baked for an hour. Shall 2.0.0 go to the whole fleet?
    approved: "{{ approve | default([]) }}"
  run_once: true
  register: gate
"""

RETURN = r"""
verdict:
  description: V(pass), V(fail) or V(inconclusive).
  returned: success
  type: str
  sample: pass
reason:
  description: Who decided what, or why nobody did.
  returned: success
  type: str
  sample: approved by alice
metric:
  description: Always V(approval).
  returned: success
  type: str
  sample: approval
began_at:
  description: When it was asked, in seconds since 1970 by the controller's clock.
  returned: success
  type: float
decided_at:
  description: When it was decided, in seconds since 1970 by the controller's clock.
  returned: success
  type: float
"""

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._gate_options import APPROVAL_SPEC


def body(module: object) -> Outcome:
    """A person is asked on the controller; being here means that its action plugin was passed over."""
    raise Refused(
        "queueops.fleet.fleet_approval runs on the controller, but was sent to a host as a module",
        next_step="Call it as the task queueops.fleet.fleet_approval, from an installed collection",
    )


def main() -> None:
    run_module(body, APPROVAL_SPEC, supports_check_mode=True)


if __name__ == "__main__":
    main()
