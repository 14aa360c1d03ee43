# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the option `worker`, which the fleet specification shares with every module that has to do with workers."""

from __future__ import annotations


class ModuleDocFragment:
    """The fragment `queueops.fleet.worker`."""

    DOCUMENTATION = r"""
options:
  worker:
    description:
      - The workers of the fleet on this host, as C(queueops_fleet.worker) has them in the inventory.
    type: dict
    required: true
    suboptions:
      manager:
        description:
          - The service manager that runs the workers.
        type: str
        required: true
        choices: [supervisor, systemd]
      unit:
        description:
          - With V(systemd) the service unit. A template unit such as V(mailer@.service) runs O(worker.instances) workers,
            numbered from 1.
          - With V(supervisor) the program group. A section C([program:mailer]) is the group V(mailer), too.
          - The unit has to start the worker with the link C(current) in O(worker.root) as its working folder, or with an executable
            below it, because the running version is read from those of the process. Where neither is possible, set the variable
            E(QUEUEOPS_VERSION) for the process.
        type: str
        required: true
      root:
        description:
          - Folder of the worker's code. A version is unpacked to C(versions/<version>) in it. The link C(current) names the version
            that is started next.
        type: path
        required: true
      instances:
        description:
          - How many workers of a template unit run on this host. Workers that run besides them are stopped by a switch.
          - Only with O(worker.manager=systemd). A program group of supervisor has its own C(numprocs).
        type: int
        default: 1
      server:
        description:
          - Where supervisor on this host answers, as V(unix:///path/to/socket) or V(http://user@localhost:9001).
          - Only with O(worker.manager=supervisor).
        type: str
        default: unix:///run/supervisor.sock
      server_username:
        description:
          - User name for O(worker.server), if it asks for one.
        type: str
      server_password:
        description:
          - Password for O(worker.server), if it asks for one.
        type: str
      owner:
        description:
          - User, by name or number, that unpacked files belong to. By default the user that the module runs as.
        type: str
      group:
        description:
          - Group, by name or number, that unpacked files belong to. By default the group of O(worker.owner).
        type: str
      forks:
        description:
          - Whether a worker executes its tasks in child processes, as RQ and Celery's default pool do.
          - Then a service manager that signals the children as well would break off the executing tasks, and is refused. This is
            C(KillMode=control-group), the default of systemd (set C(KillMode=mixed) in the unit), and C(stopasgroup=true) of
            supervisor. As supervisor does not tell C(stopasgroup), C(killasgroup=true), which it implies, is refused in its place.
        type: bool
        default: true
      drain_timeout:
        description:
          - Seconds to wait for executing tasks after the workers were asked to stop.
          - Refused when the service manager would kill a worker earlier (C(TimeoutStopSec) of systemd, C(stopwaitsecs) of supervisor).
        type: float
        default: 60.0
      start_timeout:
        description:
          - Seconds that the workers may take to start, and the health command to answer.
        type: float
        default: 30.0
      health:
        description:
          - When workers that were started count as healthy.
        type: dict
        suboptions:
          hold:
            description:
              - Seconds for which every worker has to run the wanted version without a restart.
            type: float
            default: 2.0
          command:
            description:
              - A command, as a list of its arguments, that then has to exit with 0. It runs without a shell, as the module's user,
                with the version in the variable E(QUEUEOPS_VERSION). The end of what it writes is part of an error's result.
            type: list
            elements: str
            default: []
"""
