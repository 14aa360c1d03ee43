# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the verifiers look at the hosts: through the container engine, with the hosts' own tools, and never through the collection's code."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

SCRATCH = Path(os.environ["QUEUEOPS_SCRATCH"])
WORKERS = ("worker1", "worker2")
UNIT = "/etc/systemd/system/queueops-confirm-mailer.service"
LINK = "/etc/systemd/system/multi-user.target.wants/queueops-confirm-mailer.service"


class Hosts:
    """The worker hosts of the scenario, as they are now."""

    def __init__(self) -> None:
        self.workers: dict[str, Host] = {name: testinfra.get_host(f"docker://queueops-confirm-{name}") for name in WORKERS}

    def running(self, name: str) -> list[str]:
        """Return the version of each worker process, from the folder that it is in; empty for one that does not run."""
        script = "for i in 1 2; do readlink /proc/$(systemctl show -P MainPID mailer@$i.service)/cwd || echo none; done"
        return [line.removeprefix("/opt/mailer/versions/") for line in self.workers[name].run(script).stdout.splitlines()]

    def config(self, name: str) -> str:
        """Return the checksums, modes and owners of the config folder."""
        return str(
            self.workers[name].check_output("cd /etc/mailer && find . -type f -exec sha256sum {} + | sort && stat -c '%n %a %U %G' *")
        )

    def armed(self, name: str) -> list[bool]:
        """Return whether the timer's unit is on the disk, whether it is enabled, and whether its process runs."""
        host = self.workers[name]
        active = host.run("systemctl is-active queueops-confirm-mailer.service").stdout.strip() == "active"
        return [host.file(UNIT).exists, host.file(LINK).exists, active]

    def deadline(self, story: str) -> float:
        """Return when the last of the hosts said that it takes itself back."""
        return float(max(json.loads((SCRATCH / f"{story}.json").read_text(encoding="utf-8")).values()))


def wait_until(end: float, condition: Callable[[], bool]) -> bool:
    """Poll until the condition holds or it is ``end``, unix time; whether it holds."""
    while not condition():
        if time.time() > end:
            return False
        time.sleep(0.2)
    return True


@pytest.fixture(scope="session")
def hosts() -> Hosts:
    """Return the hosts."""
    return Hosts()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Leave the counts for the closing lines of ``make molecule-confirm``."""
    counts = {kind: len(terminalreporter.stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped")}
    line = {
        "name": "/".join(Path(argument).parent.name for argument in config.args[:1]),
        "passed": counts["passed"],
        "failed": counts["failed"] + counts["error"],
        "skipped": counts["skipped"],
    }
    with Path(os.environ["QUEUEOPS_VERIFIED"]).open("a", encoding="utf-8") as counted:
        counted.write(json.dumps(line) + "\n")
