# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one molecule scenario, and count what its verifiers ran."""

from __future__ import annotations

import json
import subprocess
import sys

from house import BUILD, ROOT, Record, environment


def main(scenario: str, arguments: list[str]) -> int:
    """See that there is an engine, run ``molecule test``, and fail if a verify step of the scenario did not run."""
    if not (ROOT / "molecule" / scenario / "molecule.yml").is_file():
        sys.exit(f"There is no scenario {scenario} in molecule/.")
    prepared = subprocess.run([str(ROOT / "scripts" / "engine.sh")], cwd=ROOT, check=False)
    record = Record("molecule" if scenario == "default" else f"molecule-{scenario}")
    if prepared.returncode:
        record.add(False, f"molecule {scenario}: no container engine")
        return record.close()

    scratch = BUILD / "molecule" / scenario
    scratch.mkdir(parents=True, exist_ok=True)
    counted = scratch / "verified.jsonl"
    counted.unlink(missing_ok=True)
    env = environment(QUEUEOPS_SCRATCH=str(scratch), QUEUEOPS_VERIFIED=str(counted), PY_COLORS="0", ANSIBLE_NOCOLOR="1", NO_COLOR="1")
    # Molecule sets its own configuration; this one would hide it.
    env.pop("ANSIBLE_CONFIG")
    command = arguments or ["test", "--scenario-name", scenario]
    code = subprocess.run(["molecule", *command], cwd=ROOT, env=env, check=False).returncode
    if arguments and arguments[0] != "test":
        return code

    wanted = (ROOT / "molecule" / scenario / "molecule.yml").read_text(encoding="utf-8").count("- verify")
    ran = [json.loads(line) for line in counted.read_text(encoding="utf-8").splitlines()] if counted.exists() else []
    for step in ran:
        good = step["passed"] > 0 and not step["failed"] and not step["skipped"]
        line = f"{scenario} {step['name']}: {step['passed']} passed, {step['failed']} failed, {step['skipped']} skipped"
        record.add(good, line, step["passed"] if good else step["failed"] + step["skipped"] or 1)
    if len(ran) != wanted or code:
        record.add(False, f"{scenario}: molecule exited with {code}; {len(ran)} of {wanted} verify steps ran")
    return record.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
