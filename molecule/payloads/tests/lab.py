# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet in containers: how its playbooks are run, and what is true on the hosts.

The hosts are looked at through the container engine and with their own tools, never through the collection's code.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

INVENTORY = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory"
WORKERS = ("worker1", "worker2", "worker3")
#: The machine may be busy with other things: what takes seconds on an idle one gets so many.
LIMIT = 240.0


@dataclass(frozen=True)
class Lab:
    """One of the two fleets.

    :ivar queued: what counts the queued tasks at the broker, as redis-cli takes it; in the same way ``parked``.
    """

    name: str
    queue: str
    queued: str
    parked: str
    #: Whether a task that a worker cannot read is kept as a failed one; Celery's workers throw it away.
    keeps: bool

    def run(self, playbook: str, **variables: str) -> tuple[int, str]:
        """Run a playbook; its exit code, and what it printed as one line."""
        given = json.dumps({"app": self.name, **variables})
        command = ["ansible-playbook", "-i", str(INVENTORY), f"queueops.fleet.{playbook}", "-e", given]
        env = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "COLUMNS": "200"}
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=4 * LIMIT, check=False)
        print(f"\n=== {playbook} {variables}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.returncode, " ".join(done.stdout.split())

    def must(self, playbook: str, **variables: str) -> None:
        code, _output = self.run(playbook, **variables)
        assert code == 0, f"{playbook} exited with {code}"

    def publish(self, first: int, count: int) -> None:
        on("broker", f"/opt/rq/bin/python /opt/producer/publish.py {self.name} {first} {count}")

    def waiting(self) -> tuple[int, int]:
        """How many tasks are queued, and how many parked."""
        queued, parked = (int(on("broker", f"redis-cli {command}")) for command in (self.queued, self.parked))
        return queued, parked

    def done(self) -> dict[int, Counter[str]]:
        """The tasks that were completed: number to how often, by version."""
        found: dict[int, Counter[str]] = {}
        for host in WORKERS:
            for line in on(host, f"cat /var/lib/mailer/{self.name}.tsv 2>/dev/null || true").splitlines():
                number, version = line.split("\t")
                found.setdefault(int(number), Counter())[version] += 1
        return found

    def errors(self) -> int:
        """How many tasks the workers of all hosts could not read: RQ's tracebacks, and what Celery does not know."""
        words = f"journalctl -q --no-pager -u '{self.name}@*' | grep -Ec 'Traceback|unregistered task' || true"
        return sum(int(on(host, words)) for host in WORKERS)

    def versions(self) -> set[str]:
        """The folders that the workers' processes run in, on all hosts."""
        folders = f"for pid in $(systemctl show -P MainPID '{self.name}@*'); do basename $(readlink /proc/$pid/cwd); done"
        return {version for host in WORKERS for version in on(host, folders).split()}


def on(host: str, command: str) -> str:
    """What a shell command prints on a host."""
    words = ["docker", "exec", f"queueops-payloads-{host}", "sh", "-c", command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{host}: {command}: {done.stderr}"
    return done.stdout.strip()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look each second; a look takes the hosts' time as well."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {LIMIT:.0f} s"
        time.sleep(1)
