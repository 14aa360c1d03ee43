# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A redrive in a process of its own, whose memory is measured: what the module takes of a managed host.

Run by itself, with a :class:`Place` and a rule's match as JSON, it redrives that queue and prints what :func:`redriven` returns.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend


@dataclass(frozen=True, eq=False)
class Place:
    """A queue: the backend, its settings, the queue's name, and where its failed tasks are (failed or dead_lettered)."""

    backend: str
    settings: dict[str, Any]
    queue: str
    source: str = "failed"


def redriven(place: Place, match: dict[str, Any]) -> dict[str, Any]:
    """``{"moved", "seconds", "verdict", "by", "mb"}`` of the redrive; ``mb`` is all that its process took at most."""
    command = [sys.executable, "-m", "tests.benchmarks.own_process", json.dumps(asdict(place)), json.dumps(match)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit("the redrive failed, see above")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def most_memory() -> float:
    """The most memory that this process took, MB. The usage that the system counts holds on to that of the parent before the exec."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, "the system does not tell"
    return int(found.group(1)) / 1024


def main() -> None:
    place, match = Place(**json.loads(sys.argv[1])), Match(**json.loads(sys.argv[2]))
    with tempfile.TemporaryDirectory(prefix="qo-") as state:
        request = RedriveRequest(place.queue, source=place.source, rules=(Rule(match),), state_dir=state)
        began = time.perf_counter()
        report = redrive(open_backend(place.backend, place.settings), request)
        told = {"moved": report.moved, "seconds": time.perf_counter() - began, "mb": most_memory()}
    print(json.dumps(dict(told, verdict=report.conservation["verdict"], by=report.conservation["by"])))


if __name__ == "__main__":
    main()
