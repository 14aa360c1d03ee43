# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls of our modules on a host where nothing is to be done, beside ``ansible.builtin.ping``, in turn in one run of a playbook.

``python -m tests.benchmarks.hosts_module_call``. The host is a folder on this machine with real workers under a real supervisord, and
watched files of which nothing changes. Each call is timed twice: as a task of a playbook, as Ansible's junit callback tells it, which is
what makes the module's package, sends it and runs it; and as a command of its own, ``ansible -m``, as somebody types it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from tests.benchmarks.common import ended, interruptible, show, spread
from tests.benchmarks.hosts_config_history import build
from tests.unit.release.conftest import Host

PING = "ansible.builtin.ping"
#: Ends a task's name; after it the callback shows the arguments.
END = " |"
#: How many times a ping's time a call may take at most.
MOST = 1.5


def calls(host: Host) -> dict[str, dict[str, Any]]:
    """The tasks that are measured: the module's arguments, by what is shown of it."""
    state = {"fleet": "mailer", "state_dir": str(host.state_dir)}
    worker = {"manager": "supervisor", "unit": "mailer", "server": f"unix://{host.socket}", "root": str(host.root), "drain_timeout": 10}
    return {
        "config_snapshot": {**state, "paths": [str(host.config)]},
        "config_revert, to what is live": {**state, "to": "release-1"},
        "config_info": {**state},
        "worker_version, active": {"worker": worker, "version": "1.0.0", "state": "active"},
        "worker_version_info": {"worker": worker},
        "worker_release, active": {**state, "worker": worker, "config": {"paths": [str(host.config)]}, "phase": "active", "release": 1},
    }


def playbook(host: Host, rounds: int) -> list[dict[str, Any]]:
    """Release 1 goes live; then each call ``rounds`` times in turn, once before that to warm up."""
    state = calls(host)["worker_release, active"]
    path, checksum = host.artifact("1.0.0")
    new = {**state, "phase": "prepared", "version": "1.0.0", "artifact": path, "checksum": checksum}
    tasks: list[dict[str, Any]] = [{"name": "set up", "queueops.fleet.worker_release": new}]
    tasks += [{"name": "set up", "queueops.fleet.worker_release": {**state, "phase": phase}} for phase in ("active", "confirmed")]
    for number in range(rounds + 1):
        told = f"round {number}" if number else "warm up"
        tasks.append({"name": f"{told}: {PING}{END}", PING: {}})
        for name, arguments in calls(host).items():
            tasks.append(
                {
                    "name": f"{told}: {name}{END}",
                    f"queueops.fleet.{name.partition(',')[0]}": arguments,
                    "register": "done",
                    "failed_when": "done is failed or done is changed",
                }
            )
    return [{"name": "calls", "hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}]


def as_tasks(host: Host, rounds: int) -> dict[str, list[float]]:
    """Run the playbook; the seconds of each call, by its name."""
    told = host.folder / "junit"
    book = host.folder / "calls.yml"
    book.write_text(json.dumps(playbook(host, rounds)))
    run("ansible-playbook", str(book), ANSIBLE_CALLBACKS_ENABLED="ansible.builtin.junit", JUNIT_OUTPUT_DIR=str(told))
    took: dict[str, list[float]] = {}
    for case in ET.parse(next(told.glob("*.xml"))).getroot().iter("testcase"):
        named = re.search(rf"round \d+: (.*?){re.escape(END)}", str(case.get("name")))
        if named:
            took.setdefault(named[1], []).append(float(case.get("time", 0)))
    if {len(seconds) for seconds in took.values()} != {rounds} or len(took) != len(calls(host)) + 1:
        raise SystemExit(f"of {rounds} rounds there are { ({name: len(seconds) for name, seconds in took.items()}) }")
    return took


def as_commands(host: Host, rounds: int) -> dict[str, list[float]]:
    """Run each call as a command of its own, in turn; the seconds of each, by its name."""
    took: dict[str, list[float]] = {}
    for _round in range(rounds):
        for name, arguments in {PING: {}, **calls(host)}.items():
            module = name if name == PING else f"queueops.fleet.{name.partition(',')[0]}"
            began = time.perf_counter()
            given = [f"--args={json.dumps(arguments)}"] if arguments else []
            run("ansible", "localhost", "--connection=local", f"--module-name={module}", *given)
            took.setdefault(name, []).append(time.perf_counter() - began)
    return took


def run(*command: str, **settings: str) -> None:
    """Run a command of Ansible's on this machine; what fails ends the benchmark."""
    whole = [*command, "-i", "localhost,", "-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(whole, env={**os.environ, "ANSIBLE_PIPELINING": "1", **settings}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")


def rows(way: str, took: dict[str, list[float]]) -> list[str]:
    """Show what calls took in one of the two ways; those that took too long."""
    missed = []
    base = took.pop(PING)
    show(PING, way, spread(base, "%.3f"), "1", "")
    for name, seconds in took.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds, base, strict=True)]
        reached = statistics.median(ratios) <= MOST
        show(name, way, spread(seconds, "%.3f"), spread(ratios, "%.2f"), f"at most {MOST:g}: {'met' if reached else 'missed'}")
        if not reached:
            missed.append(f"{name} as a {way} takes {statistics.median(ratios):.2f} times as long as a ping, and may take {MOST:g}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--files", type=int, default=10000, help="watched files")
    parser.add_argument("--size", type=int, default=20000, help="bytes of a file")
    chosen = parser.parse_args()
    interruptible()
    host = Host(Path(tempfile.mkdtemp(prefix="qoh-")))
    try:
        build(host.config, chosen.files, chosen.size)
        host.start_supervisor()
        tasks, commands = as_tasks(host, chosen.rounds), as_commands(host, chosen.rounds)
    finally:
        host.stop()
        shutil.rmtree(host.folder, ignore_errors=True)
    print(f"{chosen.files} files of {chosen.size} bytes are watched; two workers; {chosen.rounds} calls of each, pipelining on\n")
    show("call on an unchanged host", "as a", "s: median (range)", "times a ping, pair by pair", "bar")
    show(*["---"] * 5)
    return ended(rows("task", tasks) + rows("command", commands))


if __name__ == "__main__":
    sys.exit(main())
