# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the rollback against a hand-written playbook and against the physical floor, in turn, on as many worker hosts as are asked for.

The hosts are the containers of the molecule scenario ``default``, in a scenario of their own that is made here and removed again. With
``--write`` the tables go into docs/benchmarks.md. 1: a bar was missed, or it could not be measured.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from bench_tables import PAGE, Kind, put_in, state
from house import BUILD, ROOT, environment

#: Whose marks the page has.
KIND = Kind("rollback", ())
DEFAULT = ROOT / "molecule" / "default"
#: Inotify instances of one container with systemd: 128 were used up by 26 of them.
WATCHERS_OF_A_HOST = 5


def make_scenario(hosts: int) -> Path:
    """The scenario ``default`` with this many worker hosts, and without a gate, which is not what is measured."""
    folder = ROOT / "molecule" / f"bench-{hosts}"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "group_vars").mkdir(parents=True)
    scenario = yaml.safe_load((DEFAULT / "molecule.yml").read_text(encoding="utf-8"))
    workers = [{"name": f"worker{number}", "image": "worker", "groups": ["workers"]} for number in range(1, hosts + 1)]
    scenario["platforms"] = [platform for platform in scenario["platforms"] if platform["name"] == "broker"] + workers
    scenario["ansible"]["cfg"]["defaults"]["forks"] = hosts + 1
    (folder / "molecule.yml").write_text(yaml.safe_dump(scenario), encoding="utf-8")
    for name in ("converge.yml", "prepare.yml"):
        shutil.copy(DEFAULT / name, folder / name)
    shutil.copy(DEFAULT / "group_vars" / "all.yml", folder / "group_vars" / "all.yml")
    workers_vars = yaml.safe_load((DEFAULT / "group_vars" / "workers.yml").read_text(encoding="utf-8"))
    workers_vars["queueops_fleet"]["gate"] = {"min_tasks": 0}
    (folder / "group_vars" / "workers.yml").write_text(yaml.safe_dump(workers_vars), encoding="utf-8")
    return folder


def refuse_too_many(hosts: int) -> None:
    """Where the kernel gives systemd too few watches for so many containers, the last of them end as soon as they are started."""
    found = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text(encoding="ascii"))
    wanted = WATCHERS_OF_A_HOST * (hosts + 1)
    if found < wanted:
        sys.exit(
            f"For {hosts} hosts fs.inotify.max_user_instances has to be {wanted}, it is {found}: systemd would not start in the last.\n"
            f"Nothing was measured. Raise it with sysctl fs.inotify.max_user_instances={wanted}, then run this again."
        )


def measured(hosts: int, others: list[str]) -> int:
    """Bring the fleet up on release 1, measure, and take it down again; the exit code."""
    scenario = make_scenario(hosts)
    scratch = BUILD / "molecule" / scenario.name
    scratch.mkdir(parents=True, exist_ok=True)
    env = environment(QUEUEOPS_SCRATCH=str(scratch), MOLECULE_PROJECT_DIRECTORY=str(ROOT), ANSIBLE_NOCOLOR="1")
    molecule_env = {name: value for name, value in env.items() if name not in ("ANSIBLE_CONFIG", "MOLECULE_PROJECT_DIRECTORY")}
    try:
        for step in ("destroy", "converge"):
            subprocess.run(["molecule", step, "--scenario-name", scenario.name], cwd=ROOT, env=molecule_env, check=True)
        measure = [sys.executable, str(ROOT / "tests" / "benchmarks" / "rollback.py"), "--group-vars", str(scenario / "group_vars")]
        return subprocess.run([*measure, "--hosts", str(hosts), *others], cwd=ROOT, env=env, check=False).returncode
    finally:
        subprocess.run(["molecule", "destroy", "--scenario-name", scenario.name], cwd=ROOT, env=molecule_env, check=False)
        shutil.rmtree(scenario, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """Measure each number of hosts, and write down what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[10])
    parser.add_argument("--write", action="store_true")
    options, others = parser.parse_known_args(arguments)
    refuse_too_many(max(options.hosts))
    if options.write:
        put_in(PAGE, KIND)
    if subprocess.run([str(ROOT / "scripts" / "engine.sh")], cwd=ROOT, check=False).returncode:
        return 1
    code, tables = 0, []
    for hosts in options.hosts:
        table = BUILD / "bench" / f"rollback-{hosts}.md"
        table.unlink(missing_ok=True)
        code = max(code, measured(hosts, others))
        if not table.is_file():
            return 1
        tables.append(table.read_text(encoding="utf-8").strip())
        if options.write:
            put_in(PAGE, KIND, "\n\n".join([f"Measured at {state()}.", *tables]))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
