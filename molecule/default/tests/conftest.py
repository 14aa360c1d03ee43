# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How the verifiers look at the hosts: over SSH, with the hosts' own tools, and never through the collection's code."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pytest
import testinfra
from testinfra.host import Host

SCRATCH = Path(os.environ["QUEUEOPS_SCRATCH"])
TEMPLATES = Path(__file__).resolve().parents[2] / "shared" / "templates" / "mailer"
WORKERS = ("worker1", "worker2", "worker3")
INSTANCES = 2
URL = "redis://broker:6379/0"
SECRET = "swordfish-94d1"
FILES = ("routes.json", "secret.conf", "worker.conf")

# Read with RQ's own classes, on the broker.
LOOK = """
import json, redis, rq
from rq.intermediate_queue import IntermediateQueue
from rq.registry import FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
connection = redis.Redis()
queue = rq.Queue("mail", connection=connection)
print(json.dumps({
    "queued": queue.count,
    # Taken from the queue by a worker that has not begun it; one that is ended just then leaves it there.
    "taken": len(IntermediateQueue(queue.key, connection).get_job_ids()),
    "executing": StartedJobRegistry(queue=queue).count,
    "scheduled": ScheduledJobRegistry(queue=queue).count,
    "failed": FailedJobRegistry(queue=queue).count,
    "paused": bool(connection.exists("rq:suspended")),
    "workers": sorted(worker.name for worker in rq.Worker.all(queue=queue)),
}))
"""


@dataclass
class Row:
    """One completed task in a ledger."""

    number: int
    version: str
    host: str
    setting: str


class Fleet:
    """The hosts of the scenario, as they are now."""

    def __init__(self) -> None:
        config = f"ssh_config={SCRATCH / 'ssh_config'}"
        self.broker: Host = testinfra.get_host(f"ssh://broker?{config}")
        self.workers: dict[str, Host] = {name: testinfra.get_host(f"ssh://{name}?{config}") for name in WORKERS}

    def running(self, name: str) -> list[str]:
        """Return the version that each worker process on the host runs, from the folder that the process itself is in."""
        host = self.workers[name]
        versions = []
        for instance in range(1, INSTANCES + 1):
            pid = host.check_output(f"systemctl show --property MainPID --value mailer@{instance}.service")
            assert pid != "0", f"mailer@{instance} does not run on {name}"
            versions.append(host.check_output(f"readlink /proc/{pid}/cwd").removeprefix("/opt/mailer/versions/"))
        return versions

    def configs(self, name: str) -> dict[str, str]:
        """Return the sha256 of every file in the config folder of the host."""
        found = self.workers[name].check_output("find /etc/mailer -type f -exec sha256sum {} +")
        return {path.removeprefix("/etc/mailer/"): digest for digest, path in (line.split() for line in found.splitlines())}

    def wanted_configs(self, name: str, version: str) -> dict[str, str]:
        """Return what the sha256 sums have to be: the templates of the version, rendered here without Ansible."""
        wanted = {}
        for file in FILES:
            template = jinja2.Template((TEMPLATES / version / f"{file}.j2").read_text(encoding="utf-8"), keep_trailing_newline=True)
            text = template.render(inventory_hostname=name, queueops_fleet={"queue": {"url": URL}}, mailer_secret=SECRET)
            wanted[file] = hashlib.sha256(text.encode()).hexdigest()
        return wanted

    def queue(self) -> dict[str, Any]:
        """Return the queue's state as RQ itself tells it."""
        state: dict[str, Any] = json.loads(self.broker.run("/opt/rq/bin/python -c %s", LOOK).stdout)
        return state

    def ledger(self) -> list[Row]:
        """Return the completed tasks of all hosts."""
        rows = []
        for host in self.workers.values():
            for line in host.check_output("cat /var/lib/mailer/ledger.tsv 2>/dev/null || true").splitlines():
                number, version, name, setting, _at = line.split("\t")
                rows.append(Row(int(number), version, name, setting))
        return rows

    def published(self) -> list[int]:
        """Return the numbers of the tasks that were published."""
        return [int(line) for line in self.broker.check_output("cat /var/lib/producer/published.tsv").splitlines()]

    def settle(self) -> None:
        """Stop publishing, and wait until nothing is queued or executing."""
        self.broker.check_output("systemctl stop producer.service")
        end = time.monotonic() + 120
        while True:
            state = self.queue()
            if not state["queued"] and not state["executing"]:
                return
            assert time.monotonic() < end, f"the queue did not run empty: {state}"
            time.sleep(0.5)

    def resume(self) -> None:
        """Publish again."""
        self.broker.check_output("systemctl start producer.service")

    def log(self, name: str) -> str:
        """Return what a playbook of the story printed."""
        return (SCRATCH / "logs" / f"{name}.log").read_text(encoding="utf-8")

    def recap(self, name: str) -> dict[str, dict[str, int]]:
        """Return the closing counts of a playbook, by host."""
        recap: dict[str, dict[str, int]] = {}
        for host, counts in re.findall(r"^(\w+)\s+: (ok=.*)$", self.log(name), re.MULTILINE):
            recap[host] = {key: int(value) for key, value in (pair.split("=") for pair in counts.split())}
        return recap


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    """Return the hosts."""
    return Fleet()


@pytest.fixture(scope="module")
def settled(fleet: Fleet) -> Iterator[Fleet]:
    """Return the hosts while no task is published, queued or executing."""
    fleet.settle()
    yield fleet
    fleet.resume()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Leave the counts for the closing lines of ``make molecule``."""
    counts = {kind: len(terminalreporter.stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped")}
    line = {
        "name": "/".join(Path(argument).parent.name for argument in config.args[:1]),
        "passed": counts["passed"],
        "failed": counts["failed"] + counts["error"],
        "skipped": counts["skipped"],
    }
    with Path(os.environ["QUEUEOPS_VERIFIED"]).open("a", encoding="utf-8") as counted:
        counted.write(json.dumps(line) + "\n")
