# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kill a host at every operation of every phase, and cut its power. None ran, or one failed: that fails."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

from house import BUILD, ROOT, Record, environment


def main(arguments: list[str]) -> int:
    """Run pytest over tests/crash, or over what ``arguments`` name."""
    report = BUILD / "crash.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "no:testinfra", "-o", "cache_dir=build/pytest", "-o", "junit_logging=system-out"]
    command += [f"--junit-xml={report}", *(arguments or ["tests/crash"])]
    code = subprocess.run(command, cwd=ROOT, env=environment(), check=False).returncode
    record = Record("crash")
    points = 0
    for case in ET.parse(report).getroot().iter("testcase") if report.exists() else ():
        good = not any(case.find(what) is not None for what in ("failure", "error", "skipped"))
        said = [line for line in (case.findtext("system-out") or "").splitlines() if "points" in line or "states" in line]
        points += sum(int(number) for line in said for number in re.findall(r"(?:points|states) (\d+)", line))
        record.add(good, "; ".join(said) or str(case.get("name")))
    if not record.passed or (code and not record.failed):
        record.add(False, f"pytest exited with {code}")
    record.note(f"{points} points and states tried")
    return record.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
