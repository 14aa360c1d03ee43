#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: worker_version_info
short_description: Show the versions of the workers on one host, and which of them really run
version_added: 0.1.0
description:
  - Lists the versions that are there, the one that the link C(current) names, those that are quarantined, and each worker with the
    version that its running process has.
  - Changes nothing.
author:
  - The queueops.fleet contributors (@queueops)
extends_documentation_fragment:
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
  - queueops.fleet.worker
attributes:
  check_mode:
    support: full
  diff_mode:
    support: N/A
    details: Changes nothing, so there is no difference to show.
  idempotent:
    support: full
seealso:
  - module: queueops.fleet.worker_version
"""

EXAMPLES = r"""
- name: See what runs
  queueops.fleet.worker_version_info:
    worker: "{{ queueops_fleet.worker }}"
  register: found

- name: Fail unless every worker runs the version that the link names
  ansible.builtin.assert:
    that: found.workers | rejectattr('version', 'eq', found.current) | length == 0
"""

RETURN = r"""
versions:
  description: The versions in the folder C(versions), in the order in which they were unpacked.
  returned: success
  type: list
  elements: dict
  contains:
    version:
      description: Name of the version.
      type: str
    live:
      description: Whether the link names it or a worker runs it.
      type: bool
    unfinished:
      description: Whether its unpacking was broken off. Such a version is never used, and the next attempt replaces it.
      type: bool
    unpacked_at:
      description: When it was unpacked, in UTC. Null when it is unfinished.
      type: str
    checksum:
      description: Checksum of the artifact that it was made from. Null when it is unfinished.
      type: str
    kind:
      description: Kind of that artifact. One of V(tar), V(folder), V(pip), V(image). Null when it is unfinished.
      type: str
    quarantined:
      description: Whether it is kept from starting.
      type: bool
  sample:
    - version: 1.0.0
      live: true
      unfinished: false
      unpacked_at: "2026-01-01T00:00:00.000Z"
      checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      kind: tar
      quarantined: false
current:
  description: The version that the link C(current) names, which is what would be started next. Null without a link.
  returned: success
  type: str
  sample: 1.0.0
previous:
  description: The version that the link named before it was switched last. Null if there was none.
  returned: success
  type: str
  sample: 0.9.0
quarantined:
  description:
    - The versions that cannot start on this host, also those that are not unpacked.
    - One with a time in the future can start until then.
  returned: success
  type: list
  elements: dict
  contains:
    version:
      description: The version.
      type: str
    why:
      description: The reason that was given.
      type: str
    since:
      description: From when on it cannot start, seconds since 1970.
      type: float
    by:
      description: Id of the operation that quarantined it. Null if none did.
      type: str
    went_back:
      description: Whether a switch made it, as the host went back from the version, and the next switch to the version ends it.
      type: bool
  sample:
    - version: 1.1.0
      why: Sends each mail twice
      since: 1767225600.0
      by: null
      went_back: false
guarded:
  description: Whether the service manager runs the check of the quarantine before each start. Without it no version can be quarantined.
  returned: success
  type: bool
workers:
  description: The workers on this host.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The service manager's name of the worker.
      type: str
    pid:
      description: Its main process. Null when it has none.
      type: int
    state:
      description: One of V(running), V(starting), V(stopping), V(stopped), V(failed).
      type: str
    since:
      description: When the process started, seconds since 1970.
      type: float
    version:
      description: The version that the process runs. Null when that cannot be told.
      type: str
    unknown:
      description: Why the version of a running process cannot be told.
      type: str
    extra:
      description: Whether it runs besides the fleet's instances.
      type: bool
    leaving:
      description: Whether it was told to stop, still finishes its task, and another worker has been started in its place.
      type: bool
  sample:
    - name: mailer@1.service
      pid: 4711
      state: running
      since: 1767225600.5
      version: 1.0.0
      unknown: null
      extra: false
      leaving: false
error:
  description: What went wrong, with C(code), the C(option) at fault, what is C(still_true), the C(next_step), and if it is C(retryable).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._worker.ensure import survey
from ansible_collections.queueops.fleet.plugins.module_utils._worker_options import worker_options


def _body(module: AnsibleModule) -> Outcome:
    return Outcome(result=survey(module.params["worker"]))


def main() -> None:
    """Run the module."""
    run_module(_body, {"worker": worker_options()}, supports_check_mode=True)


if __name__ == "__main__":
    main()
