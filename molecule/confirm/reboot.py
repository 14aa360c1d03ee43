# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restart the first container at once, and the second when the time that the hosts told is up: ``reboot.py FILE FIRST SECOND``."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path


def main(told: Path, first: str, second: str) -> None:
    """Leave beside the file when the second one was started again, unix time."""
    deadline = max(json.loads(told.read_text(encoding="utf-8")).values())
    subprocess.run(["docker", "stop", "--time=5", second], check=True)
    subprocess.run(["docker", "restart", "--time=5", first], check=True)
    time.sleep(max(0.0, deadline + 2 - time.time()))
    told.with_suffix(".started").write_text(str(time.time()), encoding="utf-8")
    subprocess.run(["docker", "start", second], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
