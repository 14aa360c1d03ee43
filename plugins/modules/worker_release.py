#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: worker_release
short_description: Prepare, switch, confirm or roll back a release on one worker host
version_added: 0.1.0
description:
  - The transaction on one host. Worker version and config files change together, or not at all.
  - A change is written down before the first live file is touched. Whatever instruction the process dies at, the next run, or the
    host's own confirm timer, puts the earlier release back.
  - While a release waits for its confirmation, its version can be started only until the deadline. So a host that was down then does not
    start it when it comes back. A version that the host went back from, or could not be switched to, cannot be started until the next
    V(active) or V(reverted) leads to it. See V(quarantined) of M(queueops.fleet.worker_version), which a person orders and ends.
  - One task a host and phase. The roles P(queueops.fleet.deploy#role) and P(queueops.fleet.rollback#role) call it for a whole fleet.
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
  fleet:
    description: Name of the fleet.
    type: str
    required: true
  state_dir:
    description: Folder that holds the collection's state on the host. It is for root alone (mode 0700).
    type: path
    default: /var/lib/queueops
  phase:
    description:
      - V(prepared) fetches and verifies the artifact, records the new config beside the old, and reports what a switch would change.
        Nothing live changes. Without O(version), it examines a O(release) that is recorded here already.
      - V(active) arms the confirm timer, quiets the local workers, waits for their tasks, swaps config and version, starts the
        workers and checks their health. Any failure puts the host back by itself.
      - V(confirmed) disarms the confirm timer. The release is known good from here on.
      - V(reverted) takes the same path as V(active) to an earlier release, and needs no confirmation.
      - V(drained) quiets the workers of a host that is not on the release and waits for their tasks. When the time is up that is no
        failure. RV(in_hand) tells which workers still execute.
      - V(killed) kills these workers, with the processes in which they execute tasks. What becomes of the tasks is the caller's business,
        see O(queueops.fleet.queue_redrive#module:held_by).
    type: str
    choices: [prepared, active, confirmed, reverted, drained, killed]
    required: true
  release:
    description:
      - The release, by its number. V(0) is the host as it was found before the first deploy.
      - V(known_good) is the release that was confirmed last on this host and that it was not rolled back from. That is the live one,
        unless it still waits for its confirmation; so a second rollback, and one on a host that missed the deploy, change nothing.
        To go behind a confirmed release name it by number or version, as P(queueops.fleet.rollback#role) does from the fleet's journal.
      - Without it, the newest release here of O(version) is meant.
    type: raw
  version:
    description:
      - Worker version to prepare. In the other phases, without O(release), it names the release.
    type: str
  artifact:
    description:
      - What the version is made from, in one of the forms that M(queueops.fleet.worker_version) takes. They are a tar archive by path or
        URL, a folder, a pip requirement or a container image. C({version}) stands for O(version).
    type: str
  checksum:
    description:
      - Checksum of the artifact, as C(sha256:<hex digits>). What it is taken of, M(queueops.fleet.worker_version) says for each form.
    type: str
  config:
    description: What of the host's configuration belongs to a release.
    type: dict
    default: {}
    suboptions:
      paths:
        description:
          - Absolute paths of the files and folders to watch. Default are the destinations in O(config.files) and O(config.feature_gates).
        type: list
        elements: path
        default: []
      exclude:
        description: Globs of paths inside the watched folders that are left alone.
        type: list
        elements: str
        default: []
      sensitive:
        description: Globs of paths whose content is never shown in a diff.
        type: list
        elements: str
        default: []
      files:
        description: The config files of the release. They are rendered on the controller, for each host, when it is prepared.
        type: list
        elements: dict
        default: []
        suboptions:
          src:
            description:
              - Path of a Jinja2 template on the controller, absolute or from the inventory's folder.
                C({version}) stands for O(version).
            type: str
          dest:
            description: Absolute path on the host.
            type: path
            required: true
          content:
            description: The rendered file, in Base64. Set by the action plugin from O(config.files[].src).
            type: str
          mode:
            description: Permissions as an octal string. Default are those of the live file, or V(0644) for a new one.
            type: str
          owner:
            description: Owner. Default is that of the live file, or the user who runs the module.
            type: str
          group:
            description: Group. Default is that of the live file, or the group of the user who runs the module.
            type: str
      feature_gates:
        description:
          - The feature gates of the release, as files in the format that M(queueops.fleet.feature_gate) writes and the OpenFeature SDKs
            read. Each is one more config file of the release. It is put in place with all others or none, and shown in the diff. A switch
            to an earlier release puts back, to the byte, the file that belongs to that. Who reads it need not be restarted.
          - The release owns the whole file. A file is refused that holds a flag which is no gate of the fleet, such as another fleet's or
            a route's (see M(queueops.fleet.queue_route)), and so is one that is no document of flags.
          - Where the live release does not have the file yet, a gate in it has to let nobody in who is not in already, for a rollback to
            that release could not let them out again. So begin with V(off), and go on with the next release. Only the first release of all
            may begin as it likes.
          - What M(queueops.fleet.feature_gate) changes in the file is a difference from the release, like an edit by hand. The role
            P(queueops.fleet.status#role) tells of it, and the next switch puts it back. Change the gate here, and deploy. Keep gates that
            are to change between releases in another file, outside of O(config.paths), or in a key of their own in Redis.
          - As with all config files, a switch leaves alone what is not watched. So go on naming the file while a release may be rolled
            back that has it, if only with an empty O(config.feature_gates[].gates).
        type: list
        elements: dict
        default: []
        suboptions:
          dest:
            description: Absolute path of the file on the host.
            type: path
            required: true
          mode:
            description: As O(config.files[].mode).
            type: str
          owner:
            description: As O(config.files[].owner).
            type: str
          group:
            description: As O(config.files[].group).
            type: str
          gates:
            description: The gates in the file, in this order. An empty list is a document without flags.
            type: list
            elements: dict
            required: true
            suboptions:
              name:
                description: As O(queueops.fleet.feature_gate#module:name).
                type: str
                required: true
              state:
                description: As O(queueops.fleet.feature_gate#module:state). A gate is absent where it is not in the list.
                type: str
                choices: ["on", "off", percent, targets]
                required: true
              percent:
                description: As O(queueops.fleet.feature_gate#module:percent).
                type: int
              key:
                description: As O(queueops.fleet.feature_gate#module:key).
                type: str
              targets:
                description: As O(queueops.fleet.feature_gate#module:targets).
                type: list
                elements: str
  operation:
    description: Id of the operation that gives the order, from M(queueops.fleet.fleet_operation).
    type: str
  epoch:
    description: Epoch of that operation. A host refuses an order from an older epoch than the newest it has seen.
    type: int
  confirm_timeout:
    description: Seconds after which the host takes itself back, unless O(phase=confirmed) came before. Only for O(phase=active).
    type: int
    default: 900
  spared:
    description:
      - For O(phase=reverted), the tasks in hand that have to finish, in words. The phase fails with that, unless the workers have ended by
        now.
    type: str
    default: ""
  host:
    description: The host's name for messages and events. The action plugin sets it to the inventory name.
    type: str
seealso:
  - module: queueops.fleet.worker_version
  - module: queueops.fleet.config_revert
"""

EXAMPLES = r"""
- name: Prepare release 2, beside what is live
  queueops.fleet.worker_release:
    fleet: mailer
    phase: prepared
    release: 2
    version: 2.0.0
    artifact: https://artifacts.example.com/mailer-{version}.tar.gz
    checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    config: "{{ queueops_fleet.config }}"
    worker: "{{ queueops_fleet.worker }}"

- name: Prepare release 3, which lets the new invoices in for one in four
  queueops.fleet.worker_release:
    fleet: mailer
    phase: prepared
    release: 3
    version: 2.0.0
    artifact: https://artifacts.example.com/mailer-{version}.tar.gz
    checksum: sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    config:
      feature_gates:
        - dest: /etc/mailer/gates.json
          gates:
            - name: new-invoice
              state: percent
              percent: 25
    worker: "{{ queueops_fleet.worker }}"

- name: Switch to release 2; the host takes itself back unless this is confirmed within 10 minutes
  queueops.fleet.worker_release:
    fleet: mailer
    phase: active
    release: 2
    confirm_timeout: 600
    config: "{{ queueops_fleet.config }}"
    worker: "{{ queueops_fleet.worker }}"

- name: Go back to what was confirmed last, if what is live was not
  queueops.fleet.worker_release:
    fleet: mailer
    phase: reverted
    release: known_good
    config: "{{ queueops_fleet.config }}"
    worker: "{{ queueops_fleet.worker }}"

- name: Go back by version
  queueops.fleet.worker_release:
    fleet: mailer
    phase: reverted
    version: 1.0.0
    config: "{{ queueops_fleet.config }}"
    worker: "{{ queueops_fleet.worker }}"

- name: Put release 1 back, code and config
  queueops.fleet.worker_release:
    fleet: mailer
    phase: reverted
    release: 1
    config: "{{ queueops_fleet.config }}"
    worker: "{{ queueops_fleet.worker }}"
"""

RETURN = r"""
release:
  description: The release that the phase was about.
  returned: success
  type: dict
  contains:
    number:
      description: The fleet's number of the release.
      type: int
    version:
      description: The worker version.
      type: str
    checksum:
      description: Checksum of the version's artifact.
      type: str
    snapshot:
      description: Id of the config snapshot. V(null) in check mode for a release that is not recorded yet.
      type: str
    digest:
      description: Equal for releases that are made of the same version and config.
      type: str
differs:
  description: Whether a release of this number was live here before, made of another version or config. It needs a new number.
  returned: success
  type: bool
pending:
  description: Whether this host has to be switched in order to be on the release.
  returned: success
  type: bool
began:
  description: When the phase began on this host, in seconds since the epoch.
  returned: success
  type: float
ended:
  description: When it ended.
  returned: success
  type: float
feature_gates:
  description: The gates of the fleet that the release has in each file of O(config.feature_gates), in the order of these.
  returned: when O(phase=prepared) and O(config.feature_gates) has files
  type: list
  elements: dict
  contains:
    dest:
      description: The file.
      type: str
    gates:
      description: The gates, with the options of M(queueops.fleet.feature_gate). None where the release does not have the file.
      type: list
      elements: dict
live:
  description: Where the host stands now.
  returned: always, where it can be told
  type: dict
  contains:
    release:
      description: Number of the live release, or V(null) before the first.
      type: int
    version:
      description: The live release's version.
      type: str
    phase:
      description: V(confirmed), V(active) while the confirm timer runs, or V(interrupted).
      type: str
    confirm_until:
      description: When the confirm timer takes the host back, in seconds since the epoch, or V(null).
      type: float
    workers:
      description: The workers, each with its name, pid, state, since (seconds since the epoch) and the version that its process runs.
      type: list
      elements: dict
in_hand:
  description: The workers that still execute when the drain's time is up.
  returned: when O(phase=drained)
  type: list
  elements: dict
  contains:
    name:
      description: The service manager's name of the worker.
      type: str
    hostname:
      description: Its host name, as the worker itself sees it.
      type: str
    pids:
      description: The ids of all its processes, as they see them themselves.
      type: list
      elements: int
    state:
      description: As in RV(live.workers).
      type: str
    pid:
      description: Its main process.
      type: int
    since:
      description: When that started, seconds since 1970.
      type: float
    version:
      description: The version that it runs.
      type: str
    children:
      description: The processes in which it executes tasks, each with its pid and since.
      type: list
      elements: dict
killed:
  description: The workers that were killed for O(operation), each with its name, hostname and pids as in RV(in_hand).
  returned: when O(phase) is V(drained) or V(killed)
  type: list
  elements: dict
timings:
  description: Seconds spent on C(drain), C(swap) and C(start).
  returned: when the host was switched
  type: dict
error:
  description: What went wrong, apart from the message - C(code), C(option), C(still_true), C(next_step), C(retryable).
  returned: failure
  type: dict
"""

import base64
import socket
import time
from contextlib import suppress
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._config.history import DesiredFile
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._flags.release_file import (
    OPTION,
    ReleaseFile,
    as_options,
    gates_in,
    release_file,
)
from ansible_collections.queueops.fleet.plugins.module_utils._release.in_flight import InFlight
from ansible_collections.queueops.fleet.plugins.module_utils._release.orders import HostSettings, Order, Result, Wanted
from ansible_collections.queueops.fleet.plugins.module_utils._worker_options import worker_options

CONFIG_SPEC = {
    "type": "dict",
    "default": {},
    "options": {
        "paths": {"type": "list", "elements": "path", "default": []},
        "exclude": {"type": "list", "elements": "str", "default": []},
        "sensitive": {"type": "list", "elements": "str", "default": []},
        "files": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "src": {"type": "str"},
                "dest": {"type": "path", "required": True},
                "content": {"type": "str", "no_log": True},
                "mode": {"type": "str"},
                "owner": {"type": "str"},
                "group": {"type": "str"},
            },
        },
        "feature_gates": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "dest": {"type": "path", "required": True},
                "mode": {"type": "str"},
                "owner": {"type": "str"},
                "group": {"type": "str"},
                "gates": {
                    "type": "list",
                    "elements": "dict",
                    "required": True,
                    "options": {
                        "name": {"type": "str", "required": True},
                        "state": {"type": "str", "choices": ["on", "off", "percent", "targets"], "required": True},
                        "percent": {"type": "int"},
                        "key": {"type": "str", "no_log": False},
                        "targets": {"type": "list", "elements": "str"},
                    },
                },
            },
        },
    },
}


def wanted_release(module: AnsibleModule) -> Wanted:
    """The release that the options describe."""
    params = module.params
    for option in ("version", "artifact", "checksum", "release"):
        if params[option] in (None, "") or (option == "release" and not str(params[option]).isdigit()):
            raise Refused(
                "phase=prepared of a new release needs the option %s" % option,
                option=option,
                next_step="Give version, artifact, checksum and a number as release; or no version, to examine a release that is here",
            )
    files = [_desired(entry, base64.b64decode(entry["content"] or "")) for entry in params["config"]["files"]]
    for entry, flags in zip(params["config"]["feature_gates"], gate_files(params)):
        if flags.dest in [file.dest for file in files]:
            raise Refused("%s is given twice" % flags.dest, option=OPTION, next_step="Give the gates a file of their own")
        files.append(_desired(entry, flags.content()))
    artifact = params["artifact"].replace("{version}", params["version"])
    return Wanted(int(params["release"]), params["version"], artifact, params["checksum"], files)


def _desired(entry: dict[str, Any], content: bytes) -> DesiredFile:
    return DesiredFile(entry["dest"], content, int(entry["mode"], 8) if entry["mode"] else None, entry["owner"], entry["group"])


def gate_files(params: dict[str, Any]) -> list[ReleaseFile]:
    """The files of feature gates that the options describe."""
    return [release_file(params["fleet"], entry["dest"], entry["gates"]) for entry in params["config"]["feature_gates"]]


def gates_of_release(transaction: InFlight, params: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """The gates that the release has in each file: a new one those of the options, one that is recorded here what it recorded."""
    found = []
    for flags in gate_files(params):
        gates = flags.gates if params["version"] else gates_in(transaction.content_of(number, flags.dest), flags.dest, params["fleet"])
        found.append({"dest": flags.dest, "gates": [as_options(gate) for gate in gates]})
    return found


def run_phase(transaction: InFlight, module: AnsibleModule) -> Result:
    """The one call into the room that the options ask for."""
    params = module.params
    order = Order(params["operation"], params["epoch"])
    if params["phase"] == "prepared" and params["version"]:
        wanted = wanted_release(module)
        for flags in gate_files(params):
            now = flags.refuse_loss(params["fleet"])
            if not transaction.is_rolled_back(flags.dest):
                flags.refuse_no_way_back(now)
        return transaction.foresee(wanted, order) if module.check_mode else transaction.prepare(wanted, order)
    number = transaction.record.named(params["release"], params["version"])
    if params["phase"] == "prepared":
        return transaction.examine(number, order)
    if params["phase"] == "confirmed":
        return transaction.foresee_confirm(number, order) if module.check_mode else transaction.confirm(number, order)
    if module.check_mode:
        return transaction.foresee_switch(number, order, params["confirm_timeout"] if params["phase"] == "active" else None)
    if params["phase"] == "active":
        return transaction.activate(number, order, params["confirm_timeout"])
    if params["phase"] == "drained":
        return transaction.drain(number, order)
    if params["phase"] == "killed":
        return transaction.kill(number, order)
    return transaction.spare(number, order, params["spared"]) if params["spared"] else transaction.revert(number, order)


def body(module: AnsibleModule) -> Outcome:
    params = module.params
    config = params["config"]
    watched: dict[str, Any] = {
        "paths": config["paths"] or [entry["dest"] for entry in config["files"] + config["feature_gates"]],
        "exclude": config["exclude"],
        "sensitive": config["sensitive"],
    }
    settings = HostSettings(
        host=params["host"] or socket.gethostname(),
        fleet=params["fleet"],
        state_dir=params["state_dir"],
        worker=params["worker"],
        config=watched,
    )
    began = time.time()
    transaction = InFlight(settings)
    try:
        found = run_phase(transaction, module)
    except (FleetError, OSError) as problem:
        told = problem if isinstance(problem, FleetError) else refused_by_system(problem, settings.host)
        # Where the host stands now is what a failure makes most wanted; not told where it cannot be told.
        with suppress(FleetError, OSError):
            told.details.setdefault("live", transaction.status())
        raise told from problem
    result: dict[str, Any] = {
        "release": found.release,
        "differs": found.differs,
        "pending": found.pending,
        "timings": found.timings,
        "live": transaction.status(),
        "began": began,
        "ended": time.time(),
    }
    if params["phase"] == "prepared" and config["feature_gates"] and found.release is not None:
        result["feature_gates"] = gates_of_release(transaction, params, found.release["number"])
    if params["phase"] in ("drained", "killed"):
        result.update(in_hand=found.in_hand, killed=found.killed)
    diff = [entry.as_ansible() for entry in found.diffs]
    if found.before != found.after and found.pending | found.changed:
        diff.insert(0, {"before_header": "version", "after_header": "version", "before": found.before + "\n", "after": found.after + "\n"})
    return Outcome(changed=found.changed, result=result, diff=diff)


def refused_by_system(problem: OSError, host: str) -> FleetError:
    """What the operating system refused, as the on-call reads it: no space, a file system gone read-only, an input or output error."""
    where = ": %s" % problem.filename if problem.filename else ""
    return FleetError(
        "The operating system of %s refused: %s%s" % (host, problem.strerror or problem, where),
        still_true="A switch that was begun there is recorded, and the next run finishes or undoes it",
        next_step="Mend that on %s, then run the same playbook again" % host,
    )


def main() -> None:
    spec = {
        "fleet": {"type": "str", "required": True},
        "state_dir": {"type": "path", "default": "/var/lib/queueops"},
        "phase": {"type": "str", "choices": ["prepared", "active", "confirmed", "reverted", "drained", "killed"], "required": True},
        "release": {"type": "raw"},
        "version": {"type": "str"},
        "artifact": {"type": "str"},
        "checksum": {"type": "str"},
        "config": CONFIG_SPEC,
        "worker": worker_options(),
        "operation": {"type": "str"},
        "epoch": {"type": "int"},
        "confirm_timeout": {"type": "int", "default": 900},
        "spared": {"type": "str", "default": ""},
        "host": {"type": "str"},
    }
    run_module(body, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
