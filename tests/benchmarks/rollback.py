# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wall time of queueops.fleet.rollback beside a hand-written playbook of built-in modules and beside the physical floor, measured in turn.

The floor is what no rollback can do without: one ``ping`` round over the fleet, the longest task in flight, one restart of the service.
Before each measured run the fleet is brought to release 2 again, with tasks being published all the while; that is not measured.
Prints a Markdown table, and writes it to build/bench/rollback-<hosts>.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = Path(os.environ["QUEUEOPS_SCRATCH"])

OURS = ["queueops.fleet.rollback", "-e", "release=1"]
BY_HAND = [str(ROOT / "tests" / "benchmarks" / "rollback_by_hand.yml")]

#: What the rollback may take at most, as a share of the playbook by hand and as a multiple of the floor; and calls on a worker host.
BAR_HAND, BAR_FLOOR, BAR_CALLS = 1 / 3, 2.5, 3

#: The longest task of the example application, s (work_s in molecule/shared/files/producer.py).
LONGEST_TASK_S = 1.2


class Fleet:
    """The scenario's hosts, and how they are reached from here."""

    def __init__(self, hosts: int, group_vars: Path) -> None:
        self.workers = [f"worker{number}" for number in range(1, hosts + 1)]
        self._forks = str(hosts + 1)
        folder = ROOT / "build" / "bench" / f"inventory-{hosts}"
        folder.mkdir(parents=True, exist_ok=True)
        groups: dict[str, dict[str, dict[str, dict[str, str]]]] = {
            "workers": {"hosts": {name: {} for name in self.workers}},
            "brokers": {"hosts": {"broker": {}}},
        }
        (folder / "hosts.json").write_text(json.dumps(groups), encoding="utf-8")
        link = folder / "group_vars"
        link.unlink(missing_ok=True)
        link.symlink_to(group_vars)
        self._inventory = str(folder)

    def timed(self, program: str, *arguments: str) -> float:
        """Run ``ansible-playbook`` or ``ansible``; its wall time, s. A failure ends the benchmark."""
        began = time.monotonic()
        command = [program, "-i", self._inventory, "-f", self._forks, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return time.monotonic() - began

    def play(self, *arguments: str) -> float:
        return self.timed("ansible-playbook", *arguments)

    def floors(self) -> tuple[float, float]:
        """The physical floor, s: with the restart of one worker until systemd has it, and with that of all until each is at work."""
        ping = self.timed("ansible", "workers", "-m", "ansible.builtin.ping")
        began = time.monotonic()
        on(self.workers[0], "systemctl restart mailer@1")
        one = time.monotonic() - began
        began = time.monotonic()
        restarts = [subprocess.Popen(_ssh(host, "systemctl restart mailer@1 mailer@2")) for host in self.workers]
        if any(restart.wait() for restart in restarts):
            sys.exit("the workers of a host could not be restarted")
        on("broker", f"timeout 120 sh -c 'until [ $(redis-cli scard rq:workers) = {2 * len(restarts)} ]; do sleep 0.1; done'")
        every = time.monotonic() - began
        return ping + LONGEST_TASK_S + one, ping + LONGEST_TASK_S + every

    def calls_since(self, moment: str) -> int:
        """The most Ansible modules that a worker host has run since then, by its own system log."""
        count = f"journalctl --since '{moment}' --output cat --grep 'Invoked with' | wc -l"
        return max(int(on(host, count)) for host in self.workers)

    def now(self) -> str:
        return on(self.workers[0], "date '+%Y-%m-%d %H:%M:%S.%N' | cut -c-26")


def on(host: str, command: str) -> str:
    """What ``command`` prints on a host."""
    return subprocess.run(_ssh(host, command), capture_output=True, text=True, check=True).stdout.strip()


def _ssh(host: str, command: str) -> list[str]:
    return ["ssh", "-F", str(SCRATCH / "ssh_config"), host, command]


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> int:
    """Measure in turn, so that all see the same noise; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hosts", type=int, required=True)
    parser.add_argument("--group-vars", type=Path, required=True)
    options = parser.parse_args()
    fleet = Fleet(options.hosts, options.group_vars)

    for host in fleet.workers:
        on(host, "mkdir -p /var/backups/mailer/1 && cp -a /etc/mailer/. /var/backups/mailer/1/")
    on("broker", "mkdir -p /var/backups/mailer && echo 1 > /var/backups/mailer/known_good")
    fleet.play("queueops.fleet.deploy", "-e", "version=3.0.0")

    ours, by_hand, floors, calls = [], [], [], {"ours": 0, "by hand": 0}
    for _round in range(options.rounds):
        # What is measured is neither the way there nor the gate on it.
        since = fleet.now()
        ours.append(fleet.play(*OURS))
        calls["ours"] = max(calls["ours"], fleet.calls_since(since))
        floors.append(fleet.floors())
        fleet.play("queueops.fleet.deploy", "-e", "release=2")
        since = fleet.now()
        by_hand.append(fleet.play(*BY_HAND))
        calls["by hand"] = max(calls["by hand"], fleet.calls_since(since))
        fleet.play("queueops.fleet.deploy", "-e", "release=2")

    to_hand = [mine / theirs for mine, theirs in zip(ours, by_hand, strict=True)]
    floor, floor_of_all = zip(*floors, strict=True)
    to_floor = [mine / least for mine, least in zip(ours, floor, strict=True)]
    to_floor_of_all = [mine / least for mine, least in zip(ours, floor_of_all, strict=True)]
    rows = [
        f"| {options.hosts} hosts | s: median (range) | module calls on a worker host | bar |",
        "| --- | --- | --- | --- |",
        f"| `queueops.fleet.rollback` | {spread(ours)} | {calls['ours']} | {held_to(calls['ours'], BAR_CALLS)} |",
        f"| by hand, built-in modules | {spread(by_hand)} | {calls['by hand']} | |",
        f"| floor: a ping round, the longest task, a restart | {spread(floor)} | | |",
        f"| the same with all workers restarted at once, until each is at work | {spread(floor_of_all)} | | |",
        f"| ours as a share of by hand, {options.rounds} pairs | {spread(to_hand)} | | {held_to(statistics.median(to_hand), BAR_HAND)} |",
        f"| ours as a multiple of the floor | {spread(to_floor)} | | {held_to(statistics.median(to_floor), BAR_FLOOR)} |",
        f"| ours as a multiple of that with all workers | {spread(to_floor_of_all)} | | none asked |",
    ]
    text = "\n".join(rows) + "\n"
    target = ROOT / "build" / "bench" / f"rollback-{options.hosts}.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    print(text)
    return 1 if "missed" in text else 0


def held_to(measured: float, most: float) -> str:
    return f"at most {most:.2g}: {'met' if measured <= most else 'missed'}"


if __name__ == "__main__":
    sys.exit(main())
