# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several benchmarks share: a look timed, and a redrive in a process of its own whose memory is measured.

Run by itself, with a backend, its settings as JSON, a rule's match as JSON and a folder for the ledger, it redrives the queue ``mail``.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Look, Match, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

LOOKS = 41


def looked(backend: str, settings: dict[str, Any]) -> tuple[str, Look]:
    """Milliseconds of a look, connection and all: median and range as text; and the last look."""
    spent = []
    for _round in range(LOOKS):
        began = time.perf_counter()
        look = open_backend(backend, settings).look(["mail"])
        spent.append(1000 * (time.perf_counter() - began))
    return "%.1f (%.1f to %.1f)" % (statistics.median(spent), min(spent), max(spent)), look


def redriven(backend: str, settings: dict[str, Any], match: dict[str, Any], folder: str) -> dict[str, Any]:
    """``{"moved", "seconds", "verdict", "mb"}`` of a redrive in a process of its own; ``mb`` is all that the process took at most."""
    command = [sys.executable, "-m", "tests.benchmarks.longest", backend, json.dumps(settings), json.dumps(match), folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def most_memory() -> float:
    """The most memory that this process took, MB. The usage that the system counts holds on to that of the parent before the exec."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "the system does not tell"
    return int(found.group(1)) / 1024


def main() -> None:
    backend, settings, match, folder = sys.argv[1:]
    request = RedriveRequest("mail", rules=(Rule(Match(**json.loads(match))),), state_dir=folder)
    began = time.perf_counter()
    report = redrive(open_backend(backend, json.loads(settings)), request)
    told = {"moved": report.moved, "seconds": time.perf_counter() - began, "verdict": report.conservation["verdict"]}
    print(json.dumps(dict(told, mb=most_memory())))


if __name__ == "__main__":
    main()
