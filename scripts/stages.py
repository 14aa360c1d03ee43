# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run stages one after the other and close with what ran. One failed stage does not keep the next from running."""

from __future__ import annotations

import subprocess
import sys
import time

from house import RAN, ROOT


def main(stages: list[str]) -> int:
    """Run each stage as its own ``make`` target; return 0 only if every stage ran and nothing in it failed."""
    passed = failed = 0
    closing: list[str] = []
    for stage in stages:
        record = RAN / stage
        record.unlink(missing_ok=True)
        print(f"\n== {stage}", flush=True)
        began = time.monotonic()
        code = subprocess.run(["make", stage], cwd=ROOT, check=False).returncode
        took = time.monotonic() - began
        if record.exists():
            first, *lines = record.read_text(encoding="utf-8").splitlines()
            good, bad = (int(number) for number in first.split())
        else:
            lines, good, bad = ["FAIL it ended without a record of what it ran"], 0, 1
        if code and not bad:
            lines.append(f"FAIL make {stage} exited with {code}")
            bad = 1
        passed += good
        failed += bad
        closing += [f"{stage} ({took:.0f} s): {good} passed, {bad} failed", *(f"  {line}" for line in lines)]
    print("\n== what ran")
    print("\n".join(closing))
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
