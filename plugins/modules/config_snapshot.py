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
  - It also holds hard links, extended attributes and ACLs, where the file system has them. Files of which several watched paths
    are names are one file again after a revert. A link to a file that is not watched is not recorded.
  - Recorded are the attributes C(user.*), POSIX ACLs, and by root C(trusted.*) and C(security.*). Left out are
    C(security.ima) and C(security.evm), which the kernel computes, and all other C(system.*). Only root can set C(trusted.*) and
    C(security.*), so that another user neither records nor compares nor changes them. C(security.selinux) is set where it was
    recorded and never removed.
  - A state that is recorded already is not recorded again. If O(label) is new to it, the label is added to that snapshot.
  - A file that changes while it is read is read again, and the module fails if it keeps changing. A torn file is never recorded.
  - What was recorded and did not change is not read again. A cache of inode, size and times, beside the repository, tells so.
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
      - Refused are paths inside one another, paths that have to do with O(state_dir), sockets, named pipes and devices, and paths that
        overlap with those of another fleet under the same O(state_dir).
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
  keep:
    description:
      - How many snapshots to keep, counted from the newest. Older ones are forgotten, and the space that only they took is freed.
      - Never forgotten are the snapshot that is live, the one that V(previous) leads to, and those of a release, by O(release) or by
        a label that begins with C(release-). With O(remote) what was not pushed yet is not forgotten either.
      - Other labels do not protect a snapshot. They go with it.
      - Without this option all are kept.
    type: int
  remote:
    description:
      - A git repository to push the history to, as a URL or a path, after each run. The remote gets the content of all files, also of
        those that are O(sensitive).
      - A remote that cannot be reached is reported as a warning and in RV(remote), and the run goes on. The next run catches up.
      - The host's own git settings, SSH keys and credential helpers apply. A password in the URL is refused, because other processes
        could read it. Nothing is ever asked for, and nothing on the remote is overwritten.
      - A remote that is named only after snapshots were forgotten (O(keep)) has to allow a history without its beginning, by
        C(receive.shallowUpdate) in its git settings. One that was pushed to all along need not.
    type: str
  remote_branch:
    description:
      - The branch on O(remote) that holds this history, and nothing else.
      - By default C(queueops/<fleet>/<host name>).
    type: str
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

- name: Keep the last 50 states, here and beside the application's code
  queueops.fleet.config_snapshot:
    fleet: mailer
    keep: 50
    remote: ssh://git@git.example.com/mailer-config.git

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
    who:
      description: The user who had it recorded, before any C(sudo).
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
    who: deploy
    changed_files: 5
remote:
  description:
    - How the push to O(remote) went. Whether something was pushed (C(done)), to which C(branch), how many snapshots the remote lacks now
      (C(behind)), and the C(error) in git's words, else null.
    - In check mode nothing is pushed. C(behind) is how many would have to be.
    - Null without O(remote). A push alone does not count as a change of the host.
  returned: success
  type: dict
  sample:
    done: true
    branch: queueops/mailer/worker-1
    behind: 0
    error: null
dropped:
  description: The ids of the snapshots that were forgotten because of O(keep). In check mode it is taken that the push works.
  returned: success
  type: list
  elements: str
  sample: []
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
    own = {
        "paths": {"type": "list", "elements": "str"},
        "label": {"type": "str"},
        "release": {"type": "int"},
        "keep": {"type": "int"},
        "remote": {"type": "str"},
        "remote_branch": {"type": "str"},
    }
    run_module(_body, {**CONFIG_OPTIONS, **own}, supports_check_mode=True)


if __name__ == "__main__":
    main()
