# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the unit tests. None ran, or one was skipped: that fails."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET

from house import BUILD, ROOT, Record, environment, redis_server


def main(arguments: list[str]) -> int:
    """Run pytest over tests/unit, or over what ``arguments`` name."""
    if subprocess.run([str(ROOT / "scripts" / "browser.sh")], check=False).returncode:
        return 1
    report = BUILD / "unit.xml"
    report.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:testinfra",
        "-o",
        "cache_dir=build/pytest",
        f"--junit-xml={report}",
        # Most tests wait for a playbook or a worker, so that a second core is idle without it. A file's tests share what they set up.
        "--numprocesses=2",
        "--dist=loadfile",
        "--no-loadscope-reorder",
        *(arguments or ["tests/unit"]),
    ]
    code = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(QUEUEOPS_REDIS_SERVER=redis_server(), HYPOTHESIS_STORAGE_DIRECTORY=str(BUILD / "hypothesis")),
        check=False,
    ).returncode
    record = Record("unit")
    ran = broken = skipped = 0
    if report.exists():
        for suite in ET.parse(report).getroot().iter("testsuite"):
            ran += int(suite.get("tests", 0))
            broken += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skipped += int(suite.get("skipped", 0))
    if ran - broken - skipped > 0:
        record.add(True, f"pytest: {ran - broken - skipped} tests passed", ran - broken - skipped)
    if broken:
        record.add(False, f"pytest: {broken} tests failed", broken)
    if skipped:
        record.add(False, f"pytest: {skipped} tests were skipped, and none may be", skipped)
    if not ran or (code and not broken):
        record.add(False, f"pytest: {ran} tests ran, exit code {code}")
    return record.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
