# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wall time of queueops.fleet.rollback beside a hand-written playbook of built-in modules, measured in turn.

Before each measured run the fleet is brought to release 2 again, with tasks being published all the while; that is not measured.
Prints a Markdown table, and writes it to build/bench/rollback.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = Path(os.environ["QUEUEOPS_SCRATCH"])
WORKERS = ("worker1", "worker2", "worker3")

OURS = ["queueops.fleet.rollback", "-e", "release=1"]
BY_HAND = [str(ROOT / "tests" / "benchmarks" / "rollback_by_hand.yml")]


def inventory() -> str:
    """An inventory of the scenario's hosts, with the scenario's group_vars."""
    folder = ROOT / "build" / "bench" / "inventory"
    folder.mkdir(parents=True, exist_ok=True)
    groups: dict[str, dict[str, dict[str, dict[str, str]]]] = {
        "workers": {"hosts": {name: {} for name in WORKERS}},
        "brokers": {"hosts": {"broker": {}}},
    }
    (folder / "hosts.json").write_text(json.dumps(groups), encoding="utf-8")
    group_vars = folder / "group_vars"
    if not group_vars.is_symlink():
        group_vars.symlink_to(ROOT / "molecule" / "default" / "group_vars")
    return str(folder)


def play(*arguments: str) -> float:
    """Run ``ansible-playbook``; return its wall time, s. A failure ends the benchmark."""
    began = time.monotonic()
    done = subprocess.run(["ansible-playbook", "-i", inventory(), "-f", "10", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return time.monotonic() - began


def on(host: str, command: str) -> str:
    """What ``command`` prints on a host."""
    call = ["ssh", "-F", str(SCRATCH / "ssh_config"), host, command]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


def module_calls(host: str, since: str) -> int:
    """How many Ansible modules the host has run since then, by its own system log."""
    return int(on(host, f"journalctl --since '{since}' --output cat --grep 'Invoked with' | wc -l"))


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> int:
    """Measure in turn, so that both see the same noise; print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    for host in WORKERS:
        on(host, "mkdir -p /var/backups/mailer/1 && cp -a /etc/mailer/. /var/backups/mailer/1/")
    on("broker", "mkdir -p /var/backups/mailer && echo 1 > /var/backups/mailer/known_good")
    play("queueops.fleet.deploy", "-e", "version=3.0.0")

    ours, by_hand, calls = [], [], {}
    for _round in range(rounds):
        # What is measured is neither the way there nor the gate on it.
        since = on("worker1", "date '+%Y-%m-%d %H:%M:%S.%N' | cut -c-26")
        ours.append(play(*OURS))
        calls["queueops.fleet.rollback"] = max(module_calls(host, since) for host in WORKERS)
        play("queueops.fleet.deploy", "-e", "release=2")
        since = on("worker1", "date '+%Y-%m-%d %H:%M:%S.%N' | cut -c-26")
        by_hand.append(play(*BY_HAND))
        calls["by hand"] = max(module_calls(host, since) for host in WORKERS)
        play("queueops.fleet.deploy", "-e", "release=2")

    ratios = [mine / theirs for mine, theirs in zip(ours, by_hand, strict=True)]
    rows = [
        "| playbook | wall time, s: median (range) | module calls on a worker host |",
        "| --- | --- | --- |",
        f"| `queueops.fleet.rollback` | {spread(ours)} | {calls['queueops.fleet.rollback']} |",
        f"| by hand, built-in modules | {spread(by_hand)} | {calls['by hand']} |",
        f"| ratio, pair by pair, {rounds} pairs | {spread(ratios)} | |",
    ]
    text = "\n".join(rows) + "\n"
    target = ROOT / "build" / "bench" / "rollback.md"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
    print(text)
    return 0 if calls["queueops.fleet.rollback"] <= 3 else 1


if __name__ == "__main__":
    sys.exit(main())
