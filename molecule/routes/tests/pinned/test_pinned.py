# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The applications of docs/routing.md as they stand: a task, its retries and its children stay with the version that began it.

Version 1.0.0 works on one host, 2.0.0 on another, and the broker's host publishes. All three read the flag from a file of their own.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab import NETWORK, SCRATCH, SECRET, call, depths, docker, module, on, tell, wait_until

PROJECT = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"])
PYTHON = "/opt/rq/bin/python"
OLD, NEW = "1.0.0", "2.0.0"
RUNS_ON = {OLD: "worker1", NEW: "worker2"}
#: A database of its own: the RQ fleet's queues have the same names in another.
REDIS, DATABASE = "redis://broker:6379/1", "1"
RABBITMQ = f"amqp://parcel:{SECRET}@broker:5672/"
FLAKY, LATER = [f"flaky-{number}" for number in range(2)], [f"later-{number}" for number in range(5)]


@dataclass(frozen=True)
class System:
    """One of the page's applications.

    :ivar worker: how its worker is started.
    :ivar enqueue: what its producer says.
    :ivar hosts: where the route is made.
    """

    name: str
    worker: str
    enqueue: str
    url: str = REDIS
    hosts: str = "broker:worker1:worker2"

    @property
    def options(self) -> dict[str, Any]:
        """Those of the route's modules."""
        if self.url == REDIS:
            flags = {"fleet": "mailer", "path": "/etc/mailer-flags/flags.json"}
            return {"backend": self.name, "url": self.url, "route": "mail", "flags": flags}
        return {"backend": "celery", "url": "amqp://broker:5672/", "username": "parcel", "password": SECRET, "route": "mail"}


SYSTEMS = [
    System("rq", "rq worker --url {url} mail-{version}", "tasks.enqueue(tasks.send, {customer!r})"),
    System("celery", "celery -A tasks worker -Q mail-{version} -c 2 -n {version}@%h", "tasks.send.delay({customer!r})"),
    System("dramatiq", "dramatiq tasks --processes 1 --threads 2", "tasks.enqueue(tasks.send, {customer!r})"),
    System(
        "celery-rabbitmq",
        "celery -A tasks worker -Q mail-{version} -c 2 -n {version}@%h",
        "tasks.send.delay({customer!r})",
        url=RABBITMQ,
        hosts="broker",
    ),
]


class Application:
    """One of them on the hosts."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.python = PYTHON if system.url == REDIS else "/usr/bin/python3"

    def install(self) -> None:
        """The page's files, on the two hosts and at the producer's."""
        blocks = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", (PROJECT / "docs" / "routing.md").read_text(encoding="utf-8"), re.S))
        folder = SCRATCH / "pinned" / self.system.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "flags.py").write_text(blocks["flags.py"], encoding="utf-8")
        (folder / "tasks.py").write_text(blocks[f"{self.system.name}/tasks.py"], encoding="utf-8")
        shutil.copy(PROJECT / "molecule" / "routes" / "files" / "mail.py", folder / "mail.py")
        for host in ("broker", *RUNS_ON.values()):
            on(host, "rm -rf /opt/pinned /etc/mailer-flags && mkdir -p /etc/mailer-flags")
            docker("cp", str(folder), f"{NETWORK}-{host}:/opt/pinned")
            on(host, "chmod -R a+rX /opt/pinned")
        on("broker", f"redis-cli -n {DATABASE} FLUSHDB")

    def _environment(self, version: str) -> dict[str, str]:
        return {"URL": self.system.url, "REDIS": REDIS, "VERSION": version, "QUEUE": f"mail-{version}"}

    def start(self, version: str) -> None:
        """As a unit whose processes end with it; the task in hand is finished."""
        settings = " ".join(f"--setenv={name}={value}" for name, value in self._environment(version).items())
        command = self.system.worker.format(url=self.system.url, version=version)
        unit = "--quiet --unit=pinned --collect --uid=mailer -p KillMode=mixed -p WorkingDirectory=/opt/pinned"
        on(RUNS_ON[version], f"systemd-run {unit} {settings} /opt/rq/bin/{command}")

    def stop(self, version: str) -> None:
        on(RUNS_ON[version], "systemctl stop pinned", check=False)

    def enqueue(self, *customers: str) -> None:
        settings = " ".join(f"{name}={value}" for name, value in self._environment("producer").items())
        lines = "; ".join(["import tasks", *(self.system.enqueue.format(customer=customer) for customer in customers)])
        on("broker", f'cd /opt/pinned && env {settings} {PYTHON} -c "{lines}"')

    def divide(self, weights: dict[str, int], **more: Any) -> bool:
        """Whether the module does so; a version is refused as long as nobody listens to its queue."""
        options = {**self.system.options, "weights": weights, **more}
        return call(self.system.hosts, "queue_route", options, self.python).code == 0

    def state_of(self, version: str) -> str:
        told = module("broker", "queue_route_info", self.system.options, self.python)["broker"]
        return next(str(one["state"]) for one in told["versions"] if one["version"] == version)

    def done(self) -> list[str]:
        return sorted(redis("LRANGE done 0 -1").splitlines())


def redis(command: str) -> str:
    return on("broker", f"redis-cli -n {DATABASE} {command}")


@pytest.fixture(params=SYSTEMS, ids=lambda system: system.name)
def application(request: pytest.FixtureRequest) -> Iterator[Application]:
    """Version 1 has all tasks, and the workers of both versions are there."""
    found = Application(request.param)
    found.install()
    try:
        # Where the broker divides, the workers make the queues; else they read the flag when they start.
        if found.system.url == REDIS:
            assert found.divide({OLD: 100})
        for version in RUNS_ON:
            found.start(version)
        wait_until(lambda: found.divide({OLD: 100, NEW: 0}), "both versions to be known", every=1)
        yield found
    finally:
        for version in RUNS_ON:
            found.stop(version)


def test_a_task_its_retries_and_its_children_stay_with_the_version_that_began_until_it_is_drained(application: Application) -> None:
    application.enqueue(*FLAKY)
    wait_until(lambda: redis("LLEN begun") != "0", "a task to be begun by version 1")

    assert application.divide({OLD: 0, NEW: 100})
    assert application.state_of(OLD) == "draining"
    assert not application.divide({NEW: 100}, remove=[OLD])
    application.enqueue(*LATER)
    redis("RPUSH divided " + " ".join(FLAKY))
    wanted = sorted(
        [f"{what} {customer} {OLD}" for what in ("send", "log") for customer in FLAKY]
        + [f"{what} {customer} {NEW}" for what in ("send", "log") for customer in LATER]
    )
    wait_until(lambda: application.done() == wanted, f"the end of all tasks ({application.done()})", every=1)
    assert [redis(f"HGET tries 'send {customer}'") for customer in FLAKY] == ["2"] * len(FLAKY)

    wait_until(lambda: application.state_of(OLD) == "drained", "version 1 to be drained", every=1)
    application.stop(OLD)
    # Its worker may be known for a while after its end.
    wait_until(lambda: application.divide({NEW: 100}, remove=[OLD]), "version 1 to be removed", every=1)
    if application.system.url == RABBITMQ:
        assert f"mail-{OLD}" not in depths() and f"mail-{NEW}" in depths()
    told = module("broker", "queue_route_info", application.system.options, application.python)["broker"]
    assert [one["version"] for one in told["versions"]] == [NEW]
    tell(
        f"{application.system.name}: {len(FLAKY)} tasks begun by {OLD} failed once after the switch; they and their children were done "
        f"by {OLD}, and {len(LATER)} later ones with theirs by {NEW}; then {OLD} was drained, and removed"
    )
