#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: config_revert
short_description: Put the config files of a worker back to a snapshot
version_added: 0.1.0
description:
  - Makes the watched files and folders what they were in a snapshot that M(queueops.fleet.config_snapshot) recorded. What was
    absent then is removed. What is not watched is never touched, and neither is a file that is the same already.
  - Hard links, extended attributes and ACLs come back too. Where the file system does not have them, or does not take one, the path and
    the attribute are named before anything live changes.
  - All files or none. New content is staged beside its target and made durable, then an intent is recorded, then everything is
    renamed. The next run finishes what a crash cut short.
  - What is on the host and was never recorded is recorded first, so that no edit is lost. Find it with
    M(queueops.fleet.config_info).
  - Goes forward in the same way. Give the id of a newer snapshot.
  - With O(confirm_timeout) the host itself puts back what was there before, unless O(state=confirmed) comes in time, however the
    controller, the connection or the host fared meanwhile. Until then another change of the config or a switch of the release is
    refused; going back to RV(was), without O(confirm_timeout), is not.
  - Does not restart or reload the workers. A rollback of code and config together is M(queueops.fleet.worker_release).
extends_documentation_fragment:
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
  - queueops.fleet.config
attributes:
  check_mode:
    support: full
    details: O(validate) does not run in check mode, because it needs staged files.
  diff_mode:
    support: full
  idempotent:
    support: partial
    details: With an id or a label a second run changes nothing. With V(previous) each run goes one snapshot further back.
options:
  to:
    description:
      - The snapshot to go to, or with O(state=confirmed) the one that is confirmed.
      - Named by its label, by its id, or by the first digits of its id, at least four. A label goes before an id.
      - Or a time, for the snapshot that was live then. As C(2026-11-26T20:00:00Z), with or without the seconds, and with another zone
        as C(2026-11-26T21:00+01:00). Or as a duration back from now in weeks, days, hours, minutes and seconds, for example
        C(90m ago), C(1d12h ago) or C(2w ago).
      - V(previous) is the snapshot that was live before the one that is live now. Each snapshot remembers what was live when it came,
        so using V(previous) again goes one further back and never to and fro. It is refused at the first snapshot.
      - If what is on the host was edited since and never recorded, V(previous) is the snapshot that was last live, so only the edits
        go.
    type: str
    required: true
  state:
    description:
      - V(reverted) puts the snapshot O(to) in place.
      - V(confirmed) keeps it. It fails if the host is not at that snapshot any more, because the time was up.
    type: str
    choices: [reverted, confirmed]
    default: reverted
  confirm_timeout:
    description:
      - Seconds after which the host puts back what was there before, unless it was confirmed. Armed before the first live change,
        as a systemd service where systemd is, which survives a reboot. Elsewhere a process waits, and after a reboot the next run of
        the collection on the host does its work.
      - Without it the change needs no confirmation.
    type: int
  paths:
    description:
      - Restrict the revert to these absolute paths. Only what the snapshot watched as well is touched.
      - Without this option everything is reverted that the newest snapshot and the one to go to watched.
    type: list
    elements: str
  validate:
    description:
      - A command, as a list of its words, that must exit with 0 for each file with new content before anything live changes. The word
        with V(%s) names the staged copy, which lies beside the live file under another name. No shell is used.
      - What it writes appears in the error, except for sensitive files.
      - The staged copies of sensitive files have mode C(0600) until they are put in place, whatever mode they get then.
    type: list
    elements: str
    default: []
seealso:
  - module: queueops.fleet.config_snapshot
  - module: queueops.fleet.config_info
  - module: queueops.fleet.worker_release
"""

EXAMPLES = r"""
- name: See what going back to the labelled snapshot would change
  queueops.fleet.config_revert:
    fleet: mailer
    to: before-tuning
  check_mode: true
  diff: true

- name: Go back, if the old files still parse
  queueops.fleet.config_revert:
    fleet: mailer
    to: before-tuning
    validate: [/opt/mailer/current/bin/mailer, --check-config, "%s"]

- name: Back to how it was yesterday evening
  queueops.fleet.config_revert:
    fleet: mailer
    to: "2026-11-26T20:00:00Z"

- name: Go back for five minutes at most, unless it is confirmed
  queueops.fleet.config_revert:
    fleet: mailer
    to: before-tuning
    confirm_timeout: 300
  register: tuning

- name: Keep it
  queueops.fleet.config_revert:
    fleet: mailer
    to: "{{ tuning.snapshot.id }}"
    state: confirmed

- name: Undo the last change, whatever it was
  queueops.fleet.config_revert:
    fleet: mailer
    to: previous
"""

RETURN = r"""
snapshot:
  description: The snapshot that the host is at now.
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
was:
  description: The id of the snapshot that the host was at before. Null in check mode when that state was not recorded yet.
  returned: success
  type: str
  sample: 04d72623ea8bb9b5d2fb2fd51701a5e5553935c1
files:
  description: The paths that were changed, created or removed.
  returned: success
  type: list
  elements: str
  sample: [/etc/mailer/worker.conf]
recovered:
  description: The paths that had to be changed to finish an earlier change that a crash had cut short.
  returned: success
  type: list
  elements: str
  sample: []
confirm_until:
  description: When the host puts back what was there before, in seconds since the epoch. Null when nothing waits for a confirmation.
  returned: success
  type: float
  sample: null
known:
  description: The newest snapshots with C(id), C(label) and C(time).
  returned: failure, when there is no snapshot O(to)
  type: list
  elements: dict
error:
  description: What went wrong, with C(code), the C(option) at fault, what is C(still_true), the C(next_step), and if it is C(retryable).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._config.options import CONFIG_OPTIONS
from ansible_collections.queueops.fleet.plugins.module_utils._release.config_change import ConfigChange


def _body(module: AnsibleModule) -> Outcome:
    change = ConfigChange(module.params)
    if module.params["state"] == "confirmed":
        result, changed, diffs, warnings = change.confirm(module.check_mode)
    else:
        result, changed, diffs, warnings = change.revert(module.params["confirm_timeout"], module.check_mode)
    return Outcome(changed, result, [diff.as_ansible() for diff in diffs] if module._diff else None, warnings)


def main() -> None:
    """Run the module."""
    own = {
        "to": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["reverted", "confirmed"], "default": "reverted"},
        "confirm_timeout": {"type": "int"},
        "paths": {"type": "list", "elements": "str"},
        "validate": {"type": "list", "elements": "str", "default": []},
    }
    run_module(_body, {**CONFIG_OPTIONS, **own}, supports_check_mode=True)


if __name__ == "__main__":
    main()
