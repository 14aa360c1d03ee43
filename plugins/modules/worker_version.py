#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: worker_version
short_description: Unpack, switch to or stop a version of the workers on one host
version_added: 0.1.0
description:
  - Unpacks versions of the worker's code side by side, switches the host to one of them after its workers have finished what they
    have, or stops them in the same way.
  - Only the code. It does not touch config, and does not go back by itself when a start fails. M(queueops.fleet.worker_release)
    switches code and config as one transaction.
  - The running version is read from the running processes, never from the link. A worker that still runs an older version is
    restarted though the link is right already.
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
    support: full
  idempotent:
    support: full
options:
  state:
    description:
      - V(present) unpacks the version beside the others. No worker notices.
      - V(active) does that, too, and then lets every worker run this version. Unless that is so already, it stops the workers
        gracefully, waits until they have finished their tasks, switches the link C(current), starts them and waits until they
        are healthy.
      - V(stopped) stops the workers gracefully and waits until they have finished their tasks.
    type: str
    choices: [present, active, stopped]
    default: present
  version:
    description:
      - Name of the version. Letters, digits and C(. _ + -), beginning with a letter or a digit.
      - Required unless O(state=stopped).
    type: str
  artifact:
    description:
      - Tar archive (plain, gz, bz2 or xz) of the version, as an absolute path on the host, or a C(file), C(http) or C(https) URL.
        C({version}) in it stands for O(version).
      - Its layout is kept as it is. A single top folder is not stripped.
      - It is refused when it holds an absolute name, C(..), a link that leads outside of it, a device or a pipe. Owners, setuid and
        setgid bits and the write permission of group and others are dropped.
      - Not needed when the version is unpacked already.
    type: str
  checksum:
    description:
      - Checksum of the artifact, as C(sha256:) and 64 hexadecimal digits. Required with O(artifact).
      - A version that was unpacked from an artifact with another checksum is refused, never replaced.
    type: str
seealso:
  - module: queueops.fleet.worker_version_info
  - module: queueops.fleet.worker_release
"""

EXAMPLES = r"""
- name: Unpack the next version beside the running one
  queueops.fleet.worker_version:
    worker: "{{ queueops_fleet.worker }}"
    version: 1.1.0
    artifact: https://artifacts.example.com/mailer-{version}.tar.gz
    checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

- name: Switch two RQ workers to it, with up to five minutes for the tasks that they execute
  queueops.fleet.worker_version:
    worker:
      manager: systemd
      unit: mailer@.service
      instances: 2
      root: /opt/mailer
      drain_timeout: 300
    version: 1.1.0
    state: active

- name: Stop the workers of a program group of supervisor when they have finished their tasks
  queueops.fleet.worker_version:
    worker:
      manager: supervisor
      unit: mailer
      root: /opt/mailer
    state: stopped
"""

RETURN = r"""
version:
  description: The version that was asked for.
  returned: when O(version) was given
  type: str
  sample: 1.1.0
current:
  description: The version that the link C(current) names now, or in check mode would name. Null without a link.
  returned: success
  type: str
  sample: 1.1.0
previous:
  description: The version that the link named before. Null without a link.
  returned: success
  type: str
  sample: 1.0.0
unpacked:
  description: Whether the version was unpacked.
  returned: success
  type: bool
  sample: true
restarted:
  description: Whether workers were stopped or started.
  returned: success
  type: bool
  sample: true
workers:
  description: The workers as they are afterwards, in check mode as they are. Empty with O(state=present).
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
  sample:
    - name: mailer@1.service
      pid: 4711
      state: running
      since: 1767225600.5
      version: 1.1.0
      unknown: null
      extra: false
executing:
  description:
    - When the time for finishing was up, the workers that still execute, each with C(name), C(pid), C(since), C(version) and
      C(children), the processes in which it executes tasks.
  returned: failure, when O(worker.drain_timeout) was up
  type: list
  elements: dict
waited_s:
  description: Seconds that were waited.
  returned: failure, when O(worker.drain_timeout) was up
  type: float
error:
  description: What went wrong, with C(code), the C(option) at fault, what is C(still_true), the C(next_step), and if it is C(retryable).
  returned: failure
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._worker.ensure import ensure
from ansible_collections.queueops.fleet.plugins.module_utils._worker_options import worker_options


def _body(module: AnsibleModule) -> Outcome:
    wanted = module.params
    done = ensure(wanted["worker"], wanted["state"], wanted["version"], wanted["artifact"], wanted["checksum"], module.check_mode)
    result = {
        "current": done.current,
        "previous": done.previous,
        "unpacked": done.unpacked,
        "restarted": done.restarted,
        "workers": [worker.as_dict() for worker in done.workers],
    }
    if wanted["version"]:
        result["version"] = wanted["version"]
    return Outcome(done.changed, result, {"before": done.before, "after": done.after})


def main() -> None:
    """Run the module."""
    run_module(
        _body,
        {
            "worker": worker_options(),
            "state": {"type": "str", "choices": ["present", "active", "stopped"], "default": "present"},
            "version": {"type": "str"},
            "artifact": {"type": "str"},
            "checksum": {"type": "str"},
        },
        required_if=[("state", "present", ("version",)), ("state", "active", ("version",))],
        required_by={"artifact": ("checksum",)},
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
