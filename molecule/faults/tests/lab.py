# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet in containers: what can be done to its hosts, how its playbooks are run, and what is true on the hosts.

The hosts are looked at through the container engine and with their own tools, never through the collection's code.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

SCRATCH = Path(os.environ["QUEUEOPS_SCRATCH"])
INVENTORY = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "inventory"
NETWORK = "queueops-faults"
WORKERS = ("worker1", "worker2", "worker3")
HOSTS = (*WORKERS, "home", "broker")
STATE = "/var/lib/queueops"

#: The machine may be busy with other things: what takes seconds on an idle one gets so many.
LIMIT = 240.0

# What one host says of itself: its records, the link, and the folder that each running worker process is in.
LOOK = """
import json, os, subprocess, sys
app = sys.argv[1]
folder = "/var/lib/queueops/" + app
state = json.load(open(folder + "/state.json"))
pids = subprocess.run(["systemctl", "show", "-P", "MainPID", app + "@*.service"], capture_output=True, text=True).stdout.split()
release = json.load(open("%s/releases/%d.json" % (folder, state["live"])))
print(json.dumps({
    "release": state["live"], "phase": state["phase"], "intent": state["intent"], "version": release["version"],
    "current": os.path.basename(os.readlink("/opt/%s/current" % app)),
    "running": sorted(os.path.basename(os.readlink("/proc/%s/cwd" % pid)) for pid in pids if pid != "0"),
    "armed": os.path.exists(folder + "/timer.json"),
}))
"""

# Where the tasks are, by number, asked with RQ's own classes.
RQ_TASKS = """
import json, redis, rq
from rq.intermediate_queue import IntermediateQueue
from rq.registry import FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
connection = redis.Redis()
queue = rq.Queue("mail", connection=connection)
print(json.dumps({
    "queued": queue.get_job_ids(), "taken": list(IntermediateQueue(queue.key, connection).get_job_ids()),
    "executing": StartedJobRegistry(queue=queue).get_job_ids(), "scheduled": ScheduledJobRegistry(queue=queue).get_job_ids(),
    "failed": FailedJobRegistry(queue=queue).get_job_ids(),
}, default=str))
"""

# The same as Celery's transport has it.
CELERY_TASKS = """
import json, redis
connection = redis.Redis(db=1)
print(json.dumps({
    "queued": [json.loads(message)["headers"]["id"] for message in connection.lrange("parcel", 0, -1)],
    "taken": [json.loads(message)[0]["headers"]["id"] for message in connection.hvals("unacked")],
}))
"""


@dataclass(frozen=True)
class App:
    """One of the two fleets on the hosts."""

    name: str
    producer: str
    published: str
    ledger: str
    tasks: str
    #: Reads when a task was completed, in the ledger: unix time.
    clock: Callable[[str], float]
    #: Tasks that the broker hands to a host which is cut off, and that nobody has after it. Celery waits with BRPOP, which takes a
    #: task off the list before anybody has it; RQ moves it to another list of the broker.
    into_the_void: int


APPS = {
    "mailer": App(
        name="mailer",
        producer="producer.service",
        published="/var/lib/producer/published.tsv",
        ledger="/var/lib/mailer/ledger.tsv",
        tasks=RQ_TASKS,
        clock=lambda text: datetime.fromisoformat(text).timestamp(),
        into_the_void=0,
    ),
    "parcel": App(
        name="parcel",
        producer="parcel-producer.service",
        published="/var/lib/producer/parcels.tsv",
        ledger="/var/lib/mailer/parcel.tsv",
        tasks=CELERY_TASKS,
        clock=float,
        into_the_void=1,
    ),
}


@dataclass(frozen=True)
class Run:
    """A playbook that ended."""

    code: int
    output: str

    def told(self) -> dict[str, dict[str, Any]]:
        """The verdict's table: host to its row; empty where the run ended without one."""
        lines = [line for line in self.output.splitlines() if '"agree": false' in line]
        if not lines:
            return {}
        return {row["host"]: row for row in json.loads(lines[-1][lines[-1].index("{") :])["table"]}


def docker(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done


def container(host: str) -> str:
    return f"{NETWORK}-{host}"


def on(host: str, command: str, check: bool = True) -> str:
    """What a shell command prints on a host."""
    return docker("exec", container(host), "sh", "-c", command, check=check).stdout.strip()


def wait_until(condition: Callable[[], bool], what: str, limit: float = LIMIT) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {limit:.0f} s"
        time.sleep(0.2)


# -- what can be done to a host ---------------------------------------------------------------------------------------


def kill(host: str) -> None:
    docker("kill", container(host))


def freeze(host: str) -> None:
    docker("pause", container(host))


def cut_off(host: str) -> None:
    docker("network", "disconnect", "--force", NETWORK, container(host))


def break_unit(host: str) -> None:
    """No worker starts any more, of whatever version."""
    for app in APPS:
        folder = f"/etc/systemd/system/{app}@.service.d"
        on(host, f"mkdir -p {folder} && printf '[Service]\\nExecStartPre=/bin/false\\n' >{folder}/broken.conf")
    on(host, "systemctl daemon-reload")


def fill(host: str) -> None:
    """No space is left where the state is. It is moved into a small file system for that, all but what is open stays as it is."""
    on(host, f"mkdir -p /mnt/full && mount -t tmpfs -o size=24m tmpfs /mnt/full && cp -a {STATE}/. /mnt/full/")
    on(host, f"mount --bind /mnt/full {STATE} && umount /mnt/full; cat /dev/zero >{STATE}/filler 2>/dev/null; true")
    assert on(host, f"df --output=avail {STATE} | tail -1") == "0"


def mend() -> None:
    """Undo all that was done to any host, and wait until each can be reached."""
    for host in HOSTS:
        seen = json.loads(docker("inspect", container(host)).stdout)[0]
        if seen["State"]["Paused"]:
            docker("unpause", container(host))
        if NETWORK not in seen["NetworkSettings"]["Networks"]:
            docker("network", "connect", "--alias", host, NETWORK, container(host))
        if not seen["State"]["Running"]:
            docker("start", container(host))
    _find_hosts()
    for host in WORKERS:
        on(host, "rm -f /var/lib/sick-* /etc/systemd/system/*@.service.d/broken.conf; systemctl daemon-reload")
        if on(host, f"findmnt -n {STATE}", check=False):
            on(host, f"rm -f {STATE}/filler && mkdir -p /mnt/full && mount --bind {STATE} /mnt/full && umount {STATE}")
            on(host, f"rm -rf {STATE}/* && cp -a /mnt/full/. {STATE}/ && umount /mnt/full")


def _find_hosts() -> None:
    """Write down where the hosts are now, for a container's address may be another one when it is back."""
    path = SCRATCH / "ssh_config"
    text = path.read_text(encoding="utf-8")
    for host in HOSTS:
        seen = json.loads(docker("inspect", container(host)).stdout)[0]
        address = seen["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]
        text = re.sub(rf"(Host {host}\n    HostName ).*", rf"\g<1>{address}", text)
    path.write_text(text, encoding="utf-8")
    for host in HOSTS:
        wait_until(partial(_answers, host), f"ssh to {host}")


def _answers(host: str) -> bool:
    command = ["ssh", "-F", str(SCRATCH / "ssh_config"), "-o", "ConnectTimeout=5", "-o", "ControlPath=none", host, "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


class When:
    """Does something as soon as a condition holds on a host; the condition is a shell command there."""

    def __init__(self, host: str, condition: str, act: Callable[[], None]) -> None:
        self._act = act
        loop = f"until {condition}; do sleep 0.1; done"
        self._watch = subprocess.Popen(
            ["docker", "exec", container(host), "timeout", str(LIMIT), "sh", "-c", loop], stderr=subprocess.DEVNULL
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self.happened = False

    def _run(self) -> None:
        if self._watch.wait() == 0:
            self._act()
            self.happened = True

    def end(self) -> None:
        """Stop waiting for it."""
        self._watch.kill()
        self._thread.join()


class Lab:
    """One of the fleets, and a count of its tasks since it was made."""

    def __init__(self, app: str) -> None:
        self.app = APPS[app]
        self._begun = len(self.published())
        self._journal_begun = int(on("home", f"wc -l <{self._journal}"))

    @property
    def _journal(self) -> str:
        return f"{STATE}/{self.app.name}/journal.jsonl"

    # -- conditions -----------------------------------------------------------------------------------------------

    def written(self, kind: str, times: int = 1) -> str:
        """On the home: an event of that kind is in the journal, by now so many times."""
        begun = int(on("home", f"wc -l <{self._journal}"))
        return f'[ "$(tail -n +{begun + 1} {self._journal} | grep -Ec \'"kind": ?"{kind}"\')" -ge {times} ]'

    def switching(self) -> str:
        """On a worker host: a switch is under way."""
        return f"grep -Eq '\"intent\": ?\\{{' {STATE}/{self.app.name}/state.json"

    def going_back(self) -> str:
        """On a worker host: a switch to the release that it is on now is under way."""
        release = (self.truth("worker1") or {})["release"]
        return f"grep -Eq '\"to\": ?{release}$' {STATE}/{self.app.name}/state.json"

    def active(self) -> str:
        """On a worker host: a switch is done and has yet to be confirmed."""
        return f'grep -Eq \'"phase": ?"active"\' {STATE}/{self.app.name}/state.json'

    # -- playbooks ------------------------------------------------------------------------------------------------

    def start(self, playbook: str, **variables: Any) -> subprocess.Popen[bytes]:
        """Start a playbook in a process group of its own."""
        logs = SCRATCH / "logs"
        logs.mkdir(exist_ok=True)
        command = [
            "ansible-playbook",
            "-i",
            str(INVENTORY),
            f"queueops.fleet.{playbook}",
            "-e",
            json.dumps({"app": self.app.name, **variables}),
        ]
        with open(logs / "last.log", "wb") as output:
            return subprocess.Popen(
                command,
                env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "COLUMNS": "200"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run(self, playbook: str, **variables: Any) -> Run:
        began = time.monotonic()
        process = self.start(playbook, **variables)
        try:
            code = process.wait(timeout=3 * LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        output = (SCRATCH / "logs" / "last.log").read_text(encoding="utf-8", errors="replace")
        print(f"\n=== {playbook} {variables}: exit {code} after {time.monotonic() - began:.0f} s\n{output}")
        return Run(code, output)

    def must(self, playbook: str, **variables: Any) -> Run:
        done = self.run(playbook, **variables)
        if done.code:
            for host in WORKERS:
                words = f"journalctl -q --no-pager -n 15 -u '{self.app.name}@*'; getent hosts broker; cat /etc/resolv.conf"
                print(f"=== {host}, what its workers said last:\n{on(host, words, check=False)}")
        assert done.code == 0, f"{playbook} exited with {done.code}"
        return done

    # -- what is true ---------------------------------------------------------------------------------------------

    def truth(self, host: str) -> dict[str, Any] | None:
        """What a host says of itself; None for one that is down or frozen."""
        done = docker("exec", container(host), "python3", "-c", LOOK, self.app.name, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def events(self) -> list[dict[str, Any]]:
        """The journal's events since the beginning of this lab."""
        lines = on("home", f"tail -n +{self._journal_begun + 1} {self._journal}").splitlines()
        return [json.loads(line) for line in lines]

    def is_one_release(self) -> bool:
        """Whether every host is on the same release and runs it, and nothing waits to be taken back."""
        seen = [self.truth(host) for host in WORKERS]
        releases = {host["release"] if host else None for host in seen}
        return len(releases) == 1 and all(
            host is not None
            and host["phase"] == "confirmed"
            and host["intent"] is None
            and not host["armed"]
            and host["running"] == [host["version"]]
            and host["current"] == host["version"]
            for host in seen
        )

    def on_version(self, version: str) -> bool:
        """Whether the whole fleet is on this version."""
        return self.is_one_release() and all((self.truth(host) or {})["version"] == version for host in WORKERS)

    def is_held(self) -> bool:
        """Whether an operation was left open."""
        found = on("home", f'grep -Eo \'"kind": ?"operation_(opened|closed)"\' {self._journal} | tail -1', check=False)
        return "opened" in found

    # -- tasks ----------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        on("broker", f"systemctl start {self.app.producer}")

    def stop_publishing(self) -> None:
        on("broker", f"systemctl stop {self.app.producer}")

    def published(self) -> list[int]:
        """The numbers of all tasks ever published."""
        return [int(line) for line in on("broker", f"cat {self.app.published} 2>/dev/null", check=False).split()]

    def done(self) -> dict[int, list[tuple[str, str]]]:
        """The tasks that were completed: number to the version and the host of each time."""
        found: dict[int, list[tuple[str, str]]] = {}
        for host in WORKERS:
            for line in on(host, f"cat {self.app.ledger} 2>/dev/null", check=False).splitlines():
                number, version = line.split("\t")[:2]
                found.setdefault(int(number), []).append((version, host))
        return found

    def times(self, host: str, version: str) -> list[float]:
        """When the host completed each task with that version, unix time."""
        rows = [line.split("\t") for line in on(host, f"cat {self.app.ledger} 2>/dev/null", check=False).splitlines()]
        return [self.app.clock(row[-1]) for row in rows if row[1] == version]

    def waiting(self) -> dict[str, list[int]]:
        """The tasks that are not completed, by where they are."""
        states = json.loads(docker("exec", container("broker"), "/opt/rq/bin/python", "-c", self.app.tasks).stdout)
        return {state: [int(re.sub(r"\D*", "", name[:16])) for name in names] for state, names in states.items()}

    def check_tasks(self, cut_off: bool = False) -> dict[str, int]:
        """Stop publishing, let the queue run empty, and see that each task that was published is completed, waits or failed.

        :param cut_off: whether a host was, while tasks were published.
        """
        self.stop_publishing()
        wait_until(lambda: not self.waiting()["queued"], "an empty queue")
        # Asked in this order: a task that is completed in between is seen twice, and never missed.
        waiting = self.waiting()
        done = self.done()
        published = set(self.published()[self._begun :])
        left = {state: len(published.intersection(numbers)) for state, numbers in waiting.items()}
        lost = published.difference(done, *waiting.values())
        assert len(lost) <= (self.app.into_the_void if cut_off else 0), f"lost: {sorted(lost)} of {len(published)}; {left}"
        twice = sorted(number for number in published if len(done.get(number, ())) > 1)
        counts = {"published": len(published), "completed": len(published.intersection(done)), "twice": len(twice), **left}
        counts["lost"] = len(lost)
        print(f"=== tasks: {counts}")
        return counts
