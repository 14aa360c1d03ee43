# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command, and kill it and all its children with SIGKILL as soon as a file is there: ``kill_when.py FILE COMMAND...``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LIMIT = 120.0


def main(marker: Path, command: list[str]) -> int:
    """Exit 0 if the command was killed, 1 if it ended by itself or the file did not come."""
    process = subprocess.Popen(command, start_new_session=True)
    end = time.monotonic() + LIMIT
    while not marker.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    came = marker.exists() and process.poll() is None
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return 0 if came else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
