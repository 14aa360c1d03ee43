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
        choices: [docker, supervisor, systemd]
      unit:
        description:
          - With V(systemd) the service unit. A template unit such as V(mailer@.service) runs O(worker.instances) workers,
            numbered from 1.
          - With V(supervisor) the program group. A section C([program:mailer]) is the group V(mailer), too.
          - With V(docker) the value of the label C(queueops.unit), which O(worker.definition) has to give its containers. The version of
            a worker is told by the image that its container runs.
          - Otherwise the unit has to start the worker with the link C(current) in O(worker.root) as its working folder, or with an
            executable below it, because the running version is read from those of the process. Where neither is possible, set the variable
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
          - How many workers of a template unit, or containers, run on this host. Workers that run besides them are stopped by a switch.
          - Not with O(worker.manager=supervisor). A program group has its own C(numprocs).
        type: int
        default: 1
      server:
        description:
          - Where supervisor on this host answers, as V(unix:///path/to/socket) or V(http://user@localhost:9001). Default is
            V(unix:///run/supervisor.sock).
          - Where Docker Engine on this host answers, as V(unix:///path/to/socket). Default is V(unix:///var/run/docker.sock).
          - Only with O(worker.manager=supervisor) and O(worker.manager=docker).
        type: str
      server_username:
        description:
          - User name for O(worker.server), if it asks for one.
        type: str
      server_password:
        description:
          - Password for O(worker.server), if it asks for one.
        type: str
      definition:
        description:
          - File on the host with the definition of a container, which is to containers what a unit file is to systemd. It is the
            body of a container in JSON, as Docker Engine's API takes it to create one (C(POST /containers/create)), without C(Image).
            It may be one of the config files of a release.
          - Its C(Labels) have to hold C(queueops.unit) with O(worker.unit), and its restart policy has to be C(unless-stopped) or
            C(on-failure). C(StopTimeout) is the kill limit. It says what C(docker stop) and the host's shutdown grant. A switch
            itself sends C(StopSignal) and never kills.
          - Each start makes new containers named C(<unit>-<version>-<number>). Those that ended stay until their version is dropped.
            The variables E(QUEUEOPS_VERSION) and E(QUEUEOPS_INSTANCE) are set in them.
          - A container begins with the check of the quarantine, which needs C(/bin/sh) in the image. The label
            C(queueops.guard) with the value C(none) leaves it out, and then no version can be quarantined.
          - Required with O(worker.manager=docker), and only used with it.
        type: path
      python:
        description:
          - Absolute path of the interpreter that the virtual environment of a version is made with, see the artifacts that begin with
            C(pip:). Default is the one that runs the module.
        type: path
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
      framework:
        description:
          - What the workers are made with, for the signal that quiets one. On it a worker takes no new task and finishes those it has.
          - Workers of RQ and of Celery get C(TERM) from their service manager, and end when they have finished. A worker of Sidekiq
            gets C(TSTP), and is stopped when it says in its process title that it executes nothing. On C(TERM) alone it would put
            tasks back that take longer than its own time limit.
          - Without it, a worker is stopped by its service manager and has to finish what it has before it ends.
        type: str
        choices: [celery, rq, sidekiq]
      side_by_side:
        description:
          - Whether a switch to another version starts its workers while those of the old version still finish their tasks, so that the host
            is not without workers for as long as the longest task takes. The old workers have been told to stop by then. Never do both
            versions take tasks.
          - The switch still ends only when the old workers have ended, within O(worker.drain_timeout).
          - M(queueops.fleet.worker_release) does so only where the two releases have the same config, as the old workers would otherwise
            see the new one.
          - With V(systemd), O(worker.unit) has to be a template unit. The second version runs in the instances above
            O(worker.instances), which are not to be enabled. After a reboot the workers are in the first ones again.
          - With V(supervisor), a second program group is needed, whose name is that of O(worker.unit) with C(_beside) at its end, and
            with C(autostart=false).
          - Refused where workers are quieted by a signal of their own (O(worker.framework=sidekiq), O(worker.quiet_signal)).
        type: bool
        default: false
      quiet_signal:
        description:
          - Name of the signal that quiets a worker, such as V(USR1), if it is not that of O(worker.framework).
          - Unless it is a worker of Sidekiq, it has to end by itself after this signal, with exit code 0, when it has finished.
        type: str
      drain_timeout:
        description:
          - Seconds to wait for executing tasks after the workers were asked to stop.
          - Refused when the service manager would kill a worker earlier (C(TimeoutStopSec) of systemd, C(stopwaitsecs) of supervisor,
            C(StopTimeout) of docker).
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
          tcp:
            description:
              - Ports that have to accept connections, each without a break for its own time. They are asked while the workers are
                watched, so that the times do not add up.
            type: list
            elements: dict
            default: []
            suboptions:
              host:
                description: Name or address, as seen from this host.
                type: str
                default: 127.0.0.1
              port:
                description: Number of the port.
                type: int
                required: true
              hold:
                description: Seconds for which it has to accept connections.
                type: float
                default: 0.0
          http:
            description:
              - URLs that have to answer, each without a break for its own time. Redirects are not followed, and no proxy is used.
            type: list
            elements: dict
            default: []
            suboptions:
              url:
                description: The URL, with C(http) or C(https), as seen from this host. It may hold no user name and no password.
                type: str
                required: true
              status:
                description: The status that it has to answer with.
                type: int
                default: 200
              hold:
                description: Seconds for which it has to answer so.
                type: float
                default: 0.0
"""
