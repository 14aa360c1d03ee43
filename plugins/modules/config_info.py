#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: config_info
short_description: Show the config history of a host, and what differs between two of its snapshots or what is live
version_added: 0.1.0
description:
  - Lists the snapshots that M(queueops.fleet.config_snapshot) and M(queueops.fleet.worker_release) recorded, and tells which of them
    the host is at now.
  - With O(from), returns the diff between two snapshots, or between a snapshot and what is on the host.
  - Changes nothing.
extends_documentation_fragment:
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
  - queueops.fleet.config
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    details: Changes nothing. The RV(diff) that is asked for with O(from) is returned in any case, and shown with C(--diff).
  idempotent:
    support: full
options:
  paths:
    description:
      - Restrict what is compared to these absolute paths.
      - Without this option it is what the newest snapshot watched.
    type: list
    elements: str
  snapshot:
    description:
      - Show only this snapshot, by label, id, time or V(previous) as in M(queueops.fleet.config_revert), and list what it holds.
    type: str
  from:
    description:
      - Return the diff from this snapshot, by label, id, time or V(previous). V(live) is what is on the host now.
    type: str
  to:
    description:
      - Return the diff to this snapshot. V(live) is what is on the host now.
      - Only with O(from).
    type: str
    default: live
seealso:
  - module: queueops.fleet.config_snapshot
  - module: queueops.fleet.config_revert
"""

EXAMPLES = r"""
- name: Which config is this host at?
  queueops.fleet.config_info:
    fleet: mailer
  register: config

- name: What was changed by hand since the snapshot?
  queueops.fleet.config_info:
    fleet: mailer
    from: before-tuning
  register: config
"""

RETURN = r"""
snapshots:
  description: The snapshots, the newest last. Only the one asked for with O(snapshot).
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: The snapshot's id, the id of its git commit. Null for one that check mode did not record.
      type: str
    label:
      description: The label that it was recorded with. Null without one.
      type: str
    labels:
      description: All labels that lead to it now. A label that is used again moves to the newer snapshot.
      type: list
      elements: str
    time:
      description: When it was recorded, ISO 8601 in UTC.
      type: str
    release:
      description: The number of the release that it was recorded for. Null without one.
      type: int
    files:
      description: How many files and symbolic links it holds.
      type: int
    planned:
      description: Whether it was prepared for a release, not found on the host.
      type: bool
    after:
      description: The id of the snapshot that was live before this one. Null for the first.
      type: str
    who:
      description: The user who had it recorded, before any C(sudo).
      type: str
    live:
      description: Whether the watched files are as in this snapshot now. True for one snapshot at most.
      type: bool
    entries:
      description: What the snapshot holds, each with C(path), C(type), C(mode), C(owner), C(group), C(size), C(target), the
        first path of those that are the same file (C(link)), and the names of its C(attributes).
      returned: with O(snapshot)
      type: list
      elements: dict
  sample:
    - id: 2425f9aaceb0d125f3168a2b28e22cfa7289fee5
      label: before-tuning
      labels: [before-tuning]
      time: "2026-01-01T00:00:00Z"
      release: null
      files: 5
      planned: false
      after: null
      who: deploy
      live: true
live:
  description: The id of the snapshot that the host is at now. Null when what is there was not recorded.
  returned: success
  type: str
  sample: 2425f9aaceb0d125f3168a2b28e22cfa7289fee5
pending:
  description:
    - A change that was cut short, with its C(phase), the id of the C(snapshot) that it leads to, and its C(paths).
    - Null when there is none. The next M(queueops.fleet.config_snapshot) or M(queueops.fleet.config_revert) finishes it.
  returned: success
  type: dict
  sample: null
damaged:
  description: The ids of snapshots that cannot be read because the history is damaged. The others can still be used.
  returned: success
  type: list
  elements: str
  sample: []
watched:
  description: What is compared with what is live, as C(paths), C(exclude) and C(sensitive).
  returned: success
  type: dict
  sample:
    paths: [/etc/mailer]
    exclude: []
    sensitive: []
diff:
  description: One element a path that differs, with C(before_header), C(before), C(after_header) and C(after).
  returned: with O(from)
  type: list
  elements: dict
error:
  description: What went wrong, with C(code), the C(option) at fault, what is C(still_true), the C(next_step), and if it is C(retryable).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._config.options import CONFIG_OPTIONS, survey


def _body(module: AnsibleModule) -> Outcome:
    result, warnings = survey(module.params)
    return Outcome(result=result, warnings=warnings)


def main() -> None:
    """Run the module."""
    own = {
        "paths": {"type": "list", "elements": "str"},
        "snapshot": {"type": "str"},
        "from": {"type": "str"},
        "to": {"type": "str", "default": "live"},
    }
    run_module(_body, {**CONFIG_OPTIONS, **own}, supports_check_mode=True)


if __name__ == "__main__":
    main()
