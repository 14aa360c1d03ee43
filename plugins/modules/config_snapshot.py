#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: config_snapshot
short_description: Record the state of a worker's config files in the host's config history
version_added: 0.1.0
description:
  - Records the watched files and folders as one snapshot in a git repository on the host. Nothing of it appears beside the
    watched files.
  - A snapshot holds content, mode, owner and group of files, symbolic links, empty folders, and the absence of a watched path.
    Names with spaces, newlines and bytes that are not UTF-8 work.
  - A state that is recorded already is not recorded again. If O(label) is new to it, the label is added to that snapshot.
  - A file that changes while it is read is read again, and the module fails if it keeps changing. A torn file is never recorded.
  - Hard links, extended attributes and ACLs are not recorded yet.
  - A change by M(queueops.fleet.config_revert) that was cut short by a crash is finished first, with a warning.
extends_documentation_fragment:
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
  - queueops.fleet.config
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details: Shows what changed since the snapshot that was last known to be live, at the paths that were watched then and are now.
  idempotent:
    support: full
options:
  paths:
    description:
      - Absolute paths of the files and folders to watch. A folder is watched with everything in it.
      - A path that is not there is recorded as absent, and a revert to this snapshot removes it again.
      - A symbolic link is recorded itself, not what it leads to.
      - Refused are paths inside one another, paths that have to do with O(state_dir), sockets, named pipes and devices.
      - Without this option the paths, and additionally what was excluded and sensitive, are those of the newest snapshot.
    type: list
    elements: str
  label:
    description:
      - A name for the snapshot, to find it again. A label that was used before moves to this snapshot.
      - The words V(previous) and V(live) are not allowed.
    type: str
  release:
    description:
      - The number of the release that the snapshot belongs to.
    type: int
seealso:
  - module: queueops.fleet.config_info
  - module: queueops.fleet.config_revert
"""

EXAMPLES = r"""
- name: Record the config before somebody works on it
  queueops.fleet.config_snapshot:
    fleet: mailer
    paths:
      - /etc/mailer
      - /etc/default/mailer
    exclude: ["*.pid", "*.swp"]
    sensitive: ["*/secret*"]
    label: before-tuning

- name: Has anything changed since the last snapshot? Fail if so
  queueops.fleet.config_snapshot:
    fleet: mailer
  check_mode: true
  diff: true
  register: drift
  failed_when: drift is changed
"""

RETURN = r"""
snapshot:
  description: The snapshot that holds what is on the host, be it new or recorded earlier.
  returned: success
  type: dict
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
    changed_files:
      description: In how many paths it differs from the snapshot that was live before, of those that both watched.
      type: int
  sample:
    id: 2425f9aaceb0d125f3168a2b28e22cfa7289fee5
    label: before-tuning
    labels: [before-tuning]
    time: "2026-01-01T00:00:00Z"
    release: null
    files: 5
    planned: false
    after: null
    changed_files: 5
recovered:
  description: The paths that had to be changed to finish an earlier change that a crash had cut short.
  returned: success
  type: list
  elements: str
  sample: []
error:
  description: What went wrong, with C(code), the C(option) at fault, what is C(still_true), the C(next_step), and if it is C(retryable).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._config.options import CONFIG_OPTIONS, record


def _body(module: AnsibleModule) -> Outcome:
    result, changed, diffs, warnings = record(module.params, dry_run=module.check_mode)
    return Outcome(changed, result, [diff.as_ansible() for diff in diffs] if module._diff else None, warnings)


def main() -> None:
    """Run the module."""
    own = {"paths": {"type": "list", "elements": "str"}, "label": {"type": "str"}, "release": {"type": "int"}}
    run_module(_body, {**CONFIG_OPTIONS, **own}, supports_check_mode=True)


if __name__ == "__main__":
    main()
