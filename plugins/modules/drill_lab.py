#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: drill_lab
short_description: Bring the laboratory of the drill up or down
version_added: 0.1.0
description:
  - Makes a small fleet on one machine, for a rehearsed rollback. It consists of an embedded Redis on a private socket, one supervisor a
    host, real RQ workers that a release starts, a producer that publishes numbered tasks, and a sampler that writes down how the queue
    stands.
  - Everything lies in one folder and runs as an ordinary user under one process, which ends all the others when the playbook run that
    it belongs to is gone, however that came about.
  - This module is for the role P(queueops.fleet.drill#role). It touches no fleet of yours.
author:
  - The queueops.fleet contributors (@queueops)
extends_documentation_fragment:
  - queueops.fleet.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  idempotent:
    support: partial
    details:
      - With O(state=down) nothing is changed when nothing is running.
      - With O(state=up) a laboratory is always made anew, as a drill starts from nothing.
options:
  state:
    description: Whether the laboratory should be there.
    type: str
    choices: [up, down]
    default: up
  drill_dir:
    description:
      - Folder of the laboratory. What an earlier drill left there is removed; a folder that holds files of the same names which no
        drill made is refused.
    type: path
    required: true
  hosts:
    description: Names of the hosts to make, as in the inventory. Each gets its own root folder C(<drill_dir>/hosts/<name>).
    type: list
    elements: str
    default: []
  sources:
    description: Folder with one folder for each build of the example application. Required with O(state=up).
    type: path
  versions:
    description: Each version and the name of its folder in O(sources). A tar archive is made of each.
    type: dict
    default: {}
  group:
    description: Name of the supervisor program group.
    type: str
    default: mailer
  instances:
    description: Workers on each host.
    type: int
    default: 2
  queue:
    description: Name of the queue.
    type: str
    default: mail
  tasks:
    description: How many tasks are published at least.
    type: int
    default: 1000
  rate:
    description: Tasks published a second. While the fleet is first brought up, the rate grows with its workers.
    type: float
    default: 22
  python:
    description: The interpreter that has C(redis), C(rq) and C(supervisor). Default is the one that runs this module.
    type: path
  redis_server:
    description:
      - Path of a Valkey or Redis server. Default is C(valkey-server) or C(redis-server) on C(PATH), then what the environment variable
        E(QUEUEOPS_REDIS_SERVER) names.
    type: path
  owner_pid:
    description:
      - The laboratory ends itself when this process is gone. Default is the ansible program above this module; V(0) is for none.
    type: int
  ready_timeout:
    description: Seconds until the laboratory must be ready.
    type: float
    default: 20
notes:
  - Needs Linux, because processes are found in C(/proc).
requirements:
  - redis
  - rq
  - supervisor
seealso:
  - module: queueops.fleet.drill_report
"""

EXAMPLES = r"""
- name: Bring the laboratory up
  queueops.fleet.drill_lab:
    state: up
    drill_dir: /home/anna/fleet/build/drill
    hosts: [worker1, worker2, worker3]
    sources: /home/anna/fleet/roles/drill/files/mailer
    versions:
      1.0.0: 1.0.0
      2.0.0: 2.0.0-bad

- name: End everything that belongs to it
  queueops.fleet.drill_lab:
    state: down
    drill_dir: /home/anna/fleet/build/drill
"""

RETURN = r"""
lab:
  description: Where things are.
  type: dict
  returned: with O(state=up), unless in check mode
  contains:
    pid:
      description: The process that all others descend from.
      type: int
    owner_pid:
      description: The process it ends with; 0 for none.
      type: int
    run:
      description: Folder of the sockets.
      type: str
    redis_url:
      description: URL of the embedded Redis.
      type: str
    hosts:
      description: Host to its root folder and the address of its supervisor.
      type: dict
    checksums:
      description: Version to the checksum of its tar archive.
      type: dict
  sample:
    pid: 4711
    owner_pid: 4690
    run: /home/anna/fleet/build/drill/run
    redis_url: unix:///home/anna/fleet/build/drill/run/redis.sock?db=0
    hosts:
      worker1:
        root: /home/anna/fleet/build/drill/hosts/worker1
        server: unix:///home/anna/fleet/build/drill/run/worker1.sock
    checksums:
      1.0.0: sha256:34322e7b697cd1bd31509fb9d0ad5cbb72e282570389ad6144f49f7193943586
ended:
  description: How many processes of this or an earlier drill were found and ended.
  type: int
  returned: success
  sample: 0
"""

import os
import sys

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._drill import lab, processes


def body(module: AnsibleModule) -> Outcome:
    given = module.params
    drill_dir = os.path.realpath(given["drill_dir"])
    if given["state"] == "down":
        if module.check_mode:
            there = len(processes.marked(drill_dir))
            return Outcome(changed=there > 0, result={"ended": 0})
        found = lab.down(drill_dir)
        return Outcome(changed=found["changed"], result={"ended": found["ended"]})
    if module.check_mode:
        return Outcome(changed=True, result={"ended": 0})
    owner = given["owner_pid"] if given["owner_pid"] is not None else processes.ansible_owner(os.getpid())
    made = lab.up(
        lab.Lab(
            drill_dir=drill_dir,
            hosts=given["hosts"],
            sources=given["sources"],
            versions={str(version): str(folder) for version, folder in given["versions"].items()},
            group=given["group"],
            queue=given["queue"],
            instances=given["instances"],
            tasks=given["tasks"],
            rate=given["rate"],
            python=given["python"] or sys.executable,
            redis_server=given["redis_server"] or "",
            owner_pid=owner,
            ready_limit=given["ready_timeout"],
        )
    )
    ended = made.pop("cleared")
    warnings = []
    if not owner and given["owner_pid"] is None:
        warnings.append("No ansible program was found above this module, so that the laboratory runs until state=down ends it.")
    names = ("pid", "owner_pid", "run", "redis_url", "hosts", "checksums")
    return Outcome(changed=True, result={"lab": {name: made[name] for name in names}, "ended": ended}, warnings=warnings)


def main() -> None:
    spec = {
        "state": {"type": "str", "choices": ["up", "down"], "default": "up"},
        "drill_dir": {"type": "path", "required": True},
        "hosts": {"type": "list", "elements": "str", "default": []},
        "sources": {"type": "path"},
        "versions": {"type": "dict", "default": {}},
        "group": {"type": "str", "default": "mailer"},
        "instances": {"type": "int", "default": 2},
        "queue": {"type": "str", "default": "mail"},
        "tasks": {"type": "int", "default": 1000},
        "rate": {"type": "float", "default": 22},
        "python": {"type": "path"},
        "redis_server": {"type": "path"},
        "owner_pid": {"type": "int"},
        "ready_timeout": {"type": "float", "default": 20},
    }
    run_module(body, spec, required_if=[("state", "up", ["sources"])], supports_check_mode=True)


if __name__ == "__main__":
    main()
