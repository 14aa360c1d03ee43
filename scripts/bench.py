# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the rollback against a hand-written playbook, in turn, on the containers of the molecule scenario ``default``."""

from __future__ import annotations

import subprocess
import sys

from house import BUILD, ROOT, environment


def main(arguments: list[str]) -> int:
    """Bring the scenario's fleet up on release 1, measure, and take it down again."""
    scratch = BUILD / "molecule" / "default"
    scratch.mkdir(parents=True, exist_ok=True)
    if subprocess.run([str(ROOT / "scripts" / "engine.sh")], cwd=ROOT, check=False).returncode:
        return 1
    env = environment(QUEUEOPS_SCRATCH=str(scratch), MOLECULE_PROJECT_DIRECTORY=str(ROOT), ANSIBLE_NOCOLOR="1")
    molecule_env = {name: value for name, value in env.items() if name not in ("ANSIBLE_CONFIG", "MOLECULE_PROJECT_DIRECTORY")}
    try:
        for step in ("destroy", "converge"):
            subprocess.run(["molecule", step, "--scenario-name", "default"], cwd=ROOT, env=molecule_env, check=True)
        measure = [sys.executable, str(ROOT / "tests" / "benchmarks" / "rollback.py"), *arguments]
        return subprocess.run(measure, cwd=ROOT, env=env, check=False).returncode
    finally:
        subprocess.run(["molecule", "destroy", "--scenario-name", "default"], cwd=ROOT, env=molecule_env, check=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
