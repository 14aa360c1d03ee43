# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the queue systems' contract tests. None ran, one was skipped, or a system of the sample was left out: that fails.

``contract.py --sample`` is for every day: every system on the one version of its server that the distribution has, with the looks of the
contract and its own tests, and the whole contract for one system of each broker. Without it, every system runs on every version, and
dies at every step.
"""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from house import BUILD, ROOT, Record, environment, redis_server

#: The servers that Debian 12 has, and NATS from a wheel.
SAMPLE = ("redis7", "rabbitmq3", "nats", "postgresql15")


def main(arguments: list[str]) -> int:
    """Run pytest over tests/contract, or over what ``arguments`` name."""
    sample = "--sample" in arguments
    for script in ["servers.sh"] if sample else ["servers.sh", "trixie.sh"]:
        if subprocess.run([str(ROOT / "scripts" / script)], check=False).returncode:
            return 1
    record = Record("contract-sample" if sample else "contract")
    report = BUILD / f"{record.stage}.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "no:testinfra", "-o", "cache_dir=build/pytest", f"--junit-xml={report}"]
    extra = {"QUEUEOPS_REDIS_SERVER": redis_server(), "HYPOTHESIS_STORAGE_DIRECTORY": str(BUILD / "hypothesis")}
    if sample:
        command += ["-k", "not hundred_thousand"]
        extra.update(QUEUEOPS_SYSTEMS=",".join("@" + server for server in SAMPLE), QUEUEOPS_SAMPLE="1")
    else:
        extra["QUEUEOPS_EVERY_STEP"] = "1"
    given = [word for word in arguments if word != "--sample"]
    code = subprocess.run([*command, *(given or ["tests/contract"])], cwd=ROOT, env=environment(**extra), check=False).returncode
    count(record, report, code)
    return record.close()


def count(record: Record, report: Path, code: int) -> None:
    """Note what ran, from pytest's own report."""
    ran = broken = skipped = 0
    systems: dict[str, int] = {}
    for suite in ET.parse(report).getroot().iter("testsuite") if report.exists() else ():
        ran += int(suite.get("tests", 0))
        broken += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped += int(suite.get("skipped", 0))
        for case in suite.iter("testcase"):
            system = case.get("name", "").partition("[")[2].rstrip("]").split("-")[0]
            if "@" in system:
                systems[system] = systems.get(system, 0) + 1
    if ran - broken - skipped > 0:
        record.add(True, f"pytest: {ran - broken - skipped} tests passed", ran - broken - skipped)
    record.note("systems: " + ", ".join(f"{system} {tests}" for system, tests in sorted(systems.items())))
    if broken:
        record.add(False, f"pytest: {broken} tests failed", broken)
    if skipped:
        record.add(False, f"pytest: {skipped} tests were skipped, and none may be", skipped)
    if not ran or (code and not broken):
        record.add(False, f"pytest: {ran} tests ran, exit code {code}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
