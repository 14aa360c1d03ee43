# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two fleets in containers: how their playbooks and the modules are run, and what is true on the hosts.

The hosts are looked at through the container engine and with their own tools, never through the collection's code.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

SCRATCH = Path(os.environ["QUEUEOPS_SCRATCH"])
INVENTORY = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory"
NETWORK = "queueops-routes"
WORKERS = ("worker1", "worker2", "worker3")
STATE = "/var/lib/queueops"
#: The user's password at RabbitMQ, as in group_vars/workers.yml.
SECRET = "swordfish-94d1"

#: The machine may be busy with other things: what takes seconds on an idle one gets so many.
LIMIT = 240.0

#: How old what a producer knows of a flag may be, seconds.
POLL_S = 0.5

#: What the tests measured, for the closing lines.
FIGURES: list[str] = []

# What one host says of itself: its records, and the folder that each running worker process is in.
LOOK = """
import json, os, subprocess, sys
app = sys.argv[1]
state = json.load(open("/var/lib/queueops/%s/state.json" % app))
pids = subprocess.run(["systemctl", "show", "-P", "MainPID", app + "@*.service"], capture_output=True, text=True).stdout.split()
print(json.dumps({
    "release": state["live"], "phase": state["phase"],
    "running": sorted(os.path.basename(os.readlink("/proc/%s/cwd" % pid)) for pid in pids if pid != "0"),
}))
"""

# How many tasks are in the queues of all versions, asked with RQ's own classes.
RQ_TASKS = """
import json, redis, rq
from rq.intermediate_queue import IntermediateQueue
from rq.registry import FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
connection = redis.Redis()
print(json.dumps({queue.name: {
    "queued": queue.count, "taken": len(IntermediateQueue(queue.key, connection).get_job_ids()),
    "executing": StartedJobRegistry(queue=queue).count, "scheduled": ScheduledJobRegistry(queue=queue).count,
    "failed": FailedJobRegistry(queue=queue).count,
} for queue in rq.Queue.all(connection=connection) if queue.name.startswith("mail-")}))
"""


@dataclass(frozen=True)
class App:
    """One of the two fleets on the hosts."""

    name: str
    producer: str
    #: On the broker: a row for each task that was published, which begins with its number.
    published: str
    #: On the worker hosts: a row for each task that was completed, number and version first, the time last.
    ledger: str
    instances: int
    clock: Callable[[str], float]


APPS = {
    "mailer": App(
        name="mailer",
        producer="mail-producer.service",
        published="/var/lib/producer/mails.tsv",
        ledger="/var/lib/mailer/ledger.tsv",
        instances=2,
        clock=lambda text: datetime.fromisoformat(text).timestamp(),
    ),
    "parcel": App(
        name="parcel",
        producer="parcel-producer.service",
        published="/var/lib/producer/parcels.tsv",
        ledger="/var/lib/mailer/parcel.tsv",
        instances=1,
        clock=float,
    ),
}


@dataclass(frozen=True)
class Run:
    """A playbook that ended."""

    code: int
    output: str


@dataclass(frozen=True)
class Row:
    """A task in a ledger.

    :ivar host: where the ledger is.
    :ivar at: when it was completed, unix time.
    :ivar more: what the application wrote between the version and the time.
    """

    number: int
    version: str
    host: str
    at: float
    more: tuple[str, ...]


def docker(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done


def on(host: str, command: str, check: bool = True) -> str:
    """What a shell command prints on a host."""
    return docker("exec", f"{NETWORK}-{host}", "sh", "-c", command, check=check).stdout.strip()


def wait_until(condition: Callable[[], bool], what: str, limit: float = LIMIT, every: float = 0.2) -> None:
    """Look every so many seconds; a look takes the hosts' time as well."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {limit:.0f} s"
        time.sleep(every)


def tell(figure: str) -> None:
    """Keep a figure for the closing lines."""
    FIGURES.append(figure)


def _run(*command: str) -> Run:
    env = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_DEPRECATION_WARNINGS": "0", "COLUMNS": "200"}
    began = time.monotonic()
    done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=4 * LIMIT, check=False)
    print(f"\n=== {' '.join(command)}: exit {done.returncode} after {time.monotonic() - began:.0f} s\n{done.stdout}{done.stderr}")
    return Run(done.returncode, done.stdout + done.stderr)


def call(hosts: str, name: str, options: dict[str, Any], python: str = "/usr/bin/python3") -> Run:
    """Run a module as an ad-hoc task, with that interpreter there."""
    interpreter = f"ansible_python_interpreter={python}"
    return _run("ansible", hosts, "-i", str(INVENTORY), "-m", f"queueops.fleet.{name}", "-a", json.dumps(options), "-e", interpreter)


def module(hosts: str, name: str, options: dict[str, Any], python: str = "/usr/bin/python3") -> dict[str, dict[str, Any]]:
    """Run a module in the same way; what it returned, by host. It must not fail."""
    done = call(hosts, name, options, python)
    assert done.code == 0, done.output
    found = re.findall(r"^(\w+) \| \w+ => (\{.*?^\})", done.output, re.MULTILINE | re.DOTALL)
    return {host: json.loads(returned) for host, returned in found}


def depths() -> dict[str, int]:
    """How many messages are in each queue of RabbitMQ, as the broker itself says."""
    told = on("broker", "rabbitmqctl --quiet list_queues --formatter json name messages")
    return {queue["name"]: queue["messages"] for queue in json.loads(told)}


class Lab:
    """One of the fleets."""

    def __init__(self, app: str) -> None:
        self.app = APPS[app]
        self._begun = len(self._journal())

    # -- playbooks ------------------------------------------------------------------------------------------------

    def run(self, playbook: str, **variables: Any) -> Run:
        given = json.dumps({"app": self.app.name, **variables})
        return _run("ansible-playbook", "-i", str(INVENTORY), f"queueops.fleet.{playbook}", "-e", given)

    def must(self, playbook: str, **variables: Any) -> Run:
        done = self.run(playbook, **variables)
        assert done.code == 0, f"{playbook} exited with {done.code}: {done.output[-3000:]}"
        return done

    # -- what is true ---------------------------------------------------------------------------------------------

    def check_release(self, release: int, version: str) -> None:
        """Every host is on that release, which is confirmed, and runs its version."""
        for host in WORKERS:
            told = json.loads(docker("exec", f"{NETWORK}-{host}", "python3", "-c", LOOK, self.app.name).stdout)
            assert told == {"release": release, "phase": "confirmed", "running": [version] * self.app.instances}, host

    def _journal(self) -> list[str]:
        return on("home", f"cat {STATE}/{self.app.name}/journal.jsonl 2>/dev/null", check=False).splitlines()

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """The journal's events of these kinds since this lab was made."""
        events = [json.loads(line) for line in self._journal()[self._begun :]]
        return [event for event in events if event["kind"] in kinds]

    def divided(self) -> list[dict[str, int]]:
        """How the tasks were divided, one after the other, without the versions that got none."""
        return [{version: share for version, share in event["data"]["weights"].items() if share} for event in self.events("tasks_divided")]

    # -- tasks ----------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        on("broker", f"systemctl start {self.app.producer}")

    def stop_publishing(self) -> None:
        on("broker", f"systemctl stop {self.app.producer}")
        assert on("broker", f"systemctl show -P Result {self.app.producer}") == "success", "the producer died"

    def published(self) -> dict[int, tuple[str, float]]:
        """All tasks ever published: number to what became of it, and when, unix time."""
        rows = (line.split("\t") for line in on("broker", f"cat {self.app.published} 2>/dev/null", check=False).splitlines())
        return {int(number): (outcome, float(at)) for number, outcome, at in rows}

    def done(self) -> list[Row]:
        """All tasks ever completed."""
        found = []
        for host in WORKERS:
            for line in on(host, f"cat {self.app.ledger} 2>/dev/null", check=False).splitlines():
                number, version, *more, at = line.split("\t")
                found.append(Row(int(number), version, host, self.app.clock(at), tuple(more)))
        return found

    def waiting(self) -> dict[str, dict[str, int]]:
        """How many tasks are not completed, by queue and state."""
        if self.app.name == "parcel":
            return {name: {"queued": count} for name, count in depths().items() if name.startswith("parcel-")}
        told: dict[str, dict[str, int]] = json.loads(on("broker", f"/opt/rq/bin/python -c '{RQ_TASKS}'"))
        return told

    def check_tasks(self) -> dict[int, Row]:
        """Stop publishing, wait for the end of all tasks, and see that each was completed once; by number."""
        self.stop_publishing()
        unfinished = ("queued", "taken", "executing")
        wait_until(
            lambda: not any(count for states in self.waiting().values() for state, count in states.items() if state in unfinished),
            "the end of all tasks",
        )
        wait_until(lambda: {row.number for row in self.done()} >= set(self.published()), "a row for each task", limit=30)
        done, published = self.done(), self.published()
        times = Counter(row.number for row in done)
        found = {
            "lost": sorted(set(published) - set(times)),
            "twice": sorted(number for number, count in times.items() if count > 1),
            "never published": sorted(set(times) - set(published)),
            "left": {queue: states for queue, states in self.waiting().items() if any(states.values())},
        }
        assert found == {"lost": [], "twice": [], "never published": [], "left": {}}
        return {row.number: row for row in done}


def moment(event: dict[str, Any]) -> float:
    """When an event was written, unix time."""
    return datetime.fromisoformat(event["at"].replace("Z", "+00:00")).timestamp()


def check_share_before_hosts(lab: Lab) -> None:
    """On the way back the share was taken back before any host went back, as the journal has it."""
    kinds = [event["kind"] for event in lab.events("operation_opened", "rollback_ordered", "tasks_divided", "host_reverted")]
    while {"operation_opened", "rollback_ordered"} & set(kinds):
        kinds.pop(0)
    assert kinds[0] == "tasks_divided" and set(kinds[1:]) == {"host_reverted"}, kinds
