#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: worker_version
short_description: Prepare, switch to, stop or quarantine a version of the workers on one host
version_added: 0.1.0
description:
  - Prepares versions of the worker's code side by side, switches the host to one of them after its workers have finished what they
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
        are healthy. A quarantined version is refused.
      - V(stopped) stops the workers gracefully and waits until they have finished their tasks.
      - V(quarantined) keeps the version from starting on this host. Not by a module, nor by hand, nor after a reboot, because the service
        manager runs a check before each start. The version need not be unpacked. Workers that run it go on until they are stopped.
      - V(unquarantined) lets it start again.
    type: str
    choices: [present, active, stopped, quarantined, unquarantined]
    default: present
  version:
    description:
      - Name of the version. Letters, digits and C(. _ + -), beginning with a letter or a digit.
      - Required unless O(state=stopped).
    type: str
  artifact:
    description:
      - What the version is made from, in one of these forms. C({version}) in it stands for O(version). Not needed when the version is
        there already.
      - A tar archive (plain, gz, bz2 or xz), as an absolute path on the host, or a C(file), C(http) or C(https) URL. Its layout is
        kept as it is. A single top folder is not stripped.
      - A folder, as an absolute path on the host. It is copied.
      - An archive or a folder is refused when it holds an absolute name, C(..), a link that leads outside of it, a device or a pipe.
        Owners, setuid and setgid bits and the write permission of group and others are dropped.
      - C(pip:) and the path or URL of a requirements file, or C(pip:NAME==VERSION) for one distribution that needs no other. The version
        becomes a virtual environment of its own, made with O(worker.python). pip runs in hash-checking mode and installs wheels only, as
        building one would run what no hash covers. It uses no user's settings and no cache, only the host's C(/etc/pip.conf) and what
        the requirements file says of an index.
      - C(image:) and a reference, or the path or URL of a tar as C(docker save) writes it, with one image in it. Only with
        O(worker.manager=docker). An image that is not on the host is pulled by the digest in O(checksum).
    type: str
  checksum:
    description:
      - Checksum of the artifact, as C(sha256:) and 64 hexadecimal digits. Required with O(artifact).
      - Of a tar archive, of a requirements file and of a saved image, that of the file. Of C(pip:NAME==VERSION), that of the wheel. Of an
        image by reference, its digest in the registry, or its id.
      - Of a folder, that of a sorted listing of all that is in it, as this shell command prints it in the folder.
        C({ find . -mindepth 1 -type d -printf 'd %p\n'; find . -type l -printf 'l %l %p\n';
        find . -type f ! -perm -100 -exec sha256sum {} + | sed 's/^/f /'; find . -type f -perm -100 -exec sha256sum {} + | sed 's/^/x /'; }
        | LC_ALL=C sort | sha256sum)
      - A version that was made from an artifact with another checksum is refused, never replaced.
    type: str
  in_flight:
    description:
      - What becomes of tasks that are still executing when O(worker.drain_timeout) is up. By default the module fails and says which.
      - V(finish) waits on, until the service manager's own kill limit.
      - What else can become of a task is the queue's business, and is refused here, before anything is changed. See
        M(queueops.fleet.queue_drain).
    type: str
    choices: [finish, requeue, fail, dead_letter]
  keep:
    description:
      - With O(state=present) and O(state=active), how many of the newest versions stay on the host. By default all do.
      - A version is never dropped, however old, if C(current) names it or named it before, if a worker runs it, if a release that is
        recorded in O(state_dir) needs it, or if it is in O(protect). Unfinished versions do not count.
    type: int
  protect:
    description: Versions that O(keep) spares, such as the fleet's known good one.
    type: list
    elements: str
    default: []
  state_dir:
    description: Folder with the collection's state on the host, for the releases that are recorded there.
    type: path
    default: /var/lib/queueops
  reason:
    description: Why the version is quarantined, for whoever finds that it does not start. Required with O(state=quarantined).
    type: str
  operation:
    description: Id of the operation that quarantines it.
    type: str
notes:
  - With O(worker.manager=systemd) the check of the quarantine is a drop-in of the unit, C(queueops-fleet.conf), with an C(ExecCondition)
    (C(ExecStartPre) before systemd 243), which a switch and a quarantine write. The unit is then skipped.
  - With O(worker.manager=supervisor) the operator's C(command) has to begin with the check, C(<root>/guard/may-start), as supervisor has
    no place of its own for it. A quarantine is refused without. The check is there as soon as a version was prepared.
  - With O(worker.manager=docker) containers begin with the check, whoever starts them. It cannot hold for a container that somebody makes
    from the image by hand. With C(unless-stopped) Docker goes on trying to start it, in longer and longer intervals.
  - M(queueops.fleet.worker_release) makes an entry for a version that a host went back from, and ends it with the next switch to that
    version. O(state=active) refuses such a version, too.
  - The check fails closed when it or the entry of a version cannot be read, and open when there is no entry. Who may write
    to O(worker.root) can end a quarantine.
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

- name: Install a version into a virtual environment of its own, and keep five
  queueops.fleet.worker_version:
    worker: "{{ queueops_fleet.worker | combine({'python': '/usr/bin/python3.13'}) }}"
    version: 1.2.0
    artifact: pip:https://artifacts.example.com/mailer-{version}/requirements.txt
    checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    keep: 5

- name: Run two containers of an image, and let port 9100 answer for ten seconds before they count as healthy
  queueops.fleet.worker_version:
    worker:
      manager: docker
      unit: mailer
      definition: /etc/mailer/container.json
      instances: 2
      root: /opt/mailer
      health:
        tcp:
          - port: 9100
            hold: 10
    version: 1.1.0
    artifact: image:/srv/artifacts/mailer-{version}.tar
    checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    state: active

- name: Keep a bad version from starting again, also after a reboot
  queueops.fleet.worker_version:
    worker: "{{ queueops_fleet.worker }}"
    version: 1.1.0
    state: quarantined
    reason: Sends each mail twice
"""

RETURN = r"""
version:
  description: The version that was asked for.
  returned: when O(version) was given
  type: str
  sample: 1.1.0
current:
  description: The version that the link C(current) names now, or in check mode would name. Null without a link.
  returned: unless O(state) was V(quarantined) or V(unquarantined)
  type: str
  sample: 1.1.0
previous:
  description: The version that the link named before. Null without a link.
  returned: unless O(state) was V(quarantined) or V(unquarantined)
  type: str
  sample: 1.0.0
unpacked:
  description: Whether the version was unpacked, or installed, or its image loaded.
  returned: unless O(state) was V(quarantined) or V(unquarantined)
  type: bool
  sample: true
restarted:
  description: Whether workers were stopped or started.
  returned: unless O(state) was V(quarantined) or V(unquarantined)
  type: bool
  sample: true
dropped:
  description: The versions that O(keep) removed, or in check mode would remove, oldest first.
  returned: unless O(state) was V(quarantined) or V(unquarantined)
  type: list
  elements: str
  sample: [0.8.0, 0.9.0]
quarantined:
  description: How the version is quarantined now. Null if it is not.
  returned: when O(state) was V(quarantined) or V(unquarantined)
  type: dict
  contains:
    version:
      description: The version.
      type: str
    why:
      description: The reason.
      type: str
    since:
      description: From when on it cannot start, seconds since 1970.
      type: float
    by:
      description: Id of the operation that quarantined it.
      type: str
    went_back:
      description: Whether a switch made it, as the host went back from the version, and the next switch to the version ends it.
      type: bool
workers:
  description:
    - The workers as they are afterwards, in check mode as they are. Empty with O(state=present).
    - With O(state=quarantined), those that run the version all the same, since before.
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
      version: 1.1.0
      unknown: null
      extra: false
      leaving: false
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

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._release.record import HostRecord
from ansible_collections.queueops.fleet.plugins.module_utils._worker.ensure import Wanted, ensure
from ansible_collections.queueops.fleet.plugins.module_utils._worker.quarantine import end_quarantine, quarantine
from ansible_collections.queueops.fleet.plugins.module_utils._worker_options import worker_options


def recorded_versions(state_dir: str) -> set[str]:
    """The versions that the releases of any fleet on this host need."""
    try:
        fleets = sorted(os.listdir(state_dir))
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise Refused(
            f"{state_dir} cannot be read ({error.strerror}), so which versions a release needs is not known",
            option="state_dir",
            next_step="Run with become, or leave keep out",
        ) from None
    records = [HostRecord(state_dir, fleet) for fleet in fleets if os.path.isdir(os.path.join(state_dir, fleet, "releases"))]
    return {str(release.version) for record in records for release in record.releases() if release.version is not None}


def _quarantine(module: AnsibleModule) -> Outcome:
    params = module.params
    if params["state"] == "quarantined":
        done = quarantine(params["worker"], params["version"], params["reason"], params["operation"], module.check_mode)
    else:
        done = end_quarantine(params["worker"], params["version"], module.check_mode)
    result: dict[str, Any] = {
        "version": params["version"],
        "quarantined": done.entry.as_dict() if done.entry else None,
        "workers": [worker.as_dict() for worker in done.running],
    }
    warnings = [f"{worker.name} runs the quarantined version {worker.version} until it is stopped" for worker in done.running]
    return Outcome(done.changed, result, {"before": done.before, "after": done.after}, warnings)


def _body(module: AnsibleModule) -> Outcome:
    params = module.params
    if params["state"] in ("quarantined", "unquarantined"):
        return _quarantine(module)
    wanted = Wanted(**{name: params[name] for name in ("state", "version", "artifact", "checksum", "in_flight", "keep")})
    if wanted.keep is not None:
        wanted.protect = {*params["protect"], *recorded_versions(params["state_dir"])}
    done = ensure(params["worker"], wanted, module.check_mode)
    result = {
        "current": done.current,
        "previous": done.previous,
        "unpacked": done.unpacked,
        "restarted": done.restarted,
        "dropped": done.dropped,
        "workers": [worker.as_dict() for worker in done.workers],
    }
    if wanted.version:
        result["version"] = wanted.version
    return Outcome(done.changed, result, {"before": done.before, "after": done.after})


def main() -> None:
    """Run the module."""
    run_module(
        _body,
        {
            "worker": worker_options(),
            "state": {
                "type": "str",
                "choices": ["present", "active", "stopped", "quarantined", "unquarantined"],
                "default": "present",
            },
            "version": {"type": "str"},
            "artifact": {"type": "str"},
            "checksum": {"type": "str"},
            "in_flight": {"type": "str", "choices": ["finish", "requeue", "fail", "dead_letter"]},
            "keep": {"type": "int"},
            "protect": {"type": "list", "elements": "str", "default": []},
            "state_dir": {"type": "path", "default": "/var/lib/queueops"},
            "reason": {"type": "str"},
            "operation": {"type": "str"},
        },
        required_if=[
            ("state", "present", ("version",)),
            ("state", "active", ("version",)),
            ("state", "quarantined", ("version", "reason")),
            ("state", "unquarantined", ("version",)),
        ],
        required_by={"artifact": ("checksum",)},
        supports_check_mode=True,
    )


if __name__ == "__main__":
    main()
