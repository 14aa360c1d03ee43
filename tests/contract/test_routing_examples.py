# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The applications of docs/routing.md as they stand, with real workers of two versions: tasks, retries and children are pinned."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._flags.file_store import FileStore
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import QueueBackend
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend
from ansible_collections.queueops.fleet.plugins.module_utils._route.flag import FlagRouter
from ansible_collections.queueops.fleet.plugins.module_utils._route.rabbitmq import RabbitmqRouter
from ansible_collections.queueops.fleet.plugins.module_utils._route.route import Router, planned, require_drained, states
from redis import Redis

from tests.contract.conftest import Servers
from tests.contract.servers.rabbitmq import RabbitServer
from tests.unit.conftest import wait_for
from tests.unit.route.ad_hoc import ad_hoc

PAGE = Path(__file__).parents[2] / "docs" / "routing.md"
ROUTE, TEMPLATE = "mail", "mail-{version}"

#: What the applications do with a mail: say who did it. The first try of whom it is flaky for waits for the switch, and then fails.
MAIL = """
import os, time
from redis import Redis
URL = os.environ["URL"]
redis = Redis.from_url(os.environ["REDIS"], socket_timeout=None)
def deliver(what, customer):
    tries = redis.hincrby("tries", what + customer, 1)
    if customer.startswith("flaky") and what == "send" and tries == 1:
        redis.rpush("begun", customer)
        redis.blpop("switched", 60)
        raise RuntimeError("the mail server is away")
    redis.rpush("done", "%s %s %s" % (what, customer, os.environ["VERSION"]))
"""

WORKERS = {
    "rq": ("rq", "worker", "--url", "{url}", "mail-{version}"),
    "celery": ("celery", "-A", "tasks", "worker", "-Q", "mail-{version}", "-c", "2", "-n", "{version}@%h", "-l", "WARNING"),
    "dramatiq": ("dramatiq", "tasks", "--processes", "1", "--threads", "2"),
}
WORKERS["celery-rabbitmq"] = WORKERS["celery"]
ENQUEUE = {"rq": "tasks.enqueue(tasks.send, {0!r})", "celery": "tasks.send.delay({0!r})", "dramatiq": "tasks.enqueue(tasks.send, {0!r})"}
ENQUEUE["celery-rabbitmq"] = ENQUEUE["celery"]

#: A producer that goes on, and notes when it had published each task.
PRODUCER = """
import os, time
import tasks
number = 0
with open("published", "w", buffering=1) as published:
    while not os.path.exists("stop"):
        customer = "customer-%d" % number
        {enqueue}
        published.write("%.3f %s\\n" % (time.time(), customer))
        number += 1
        time.sleep(0.05)
"""
#: The provider's poll interval, and what a machine with other things to do may add to it (s).
POLL_S, MARGIN_S = 0.5, 0.5


class Application:
    """One of the examples in a folder of its own, and its workers.

    :param redis: the url of the Redis that the applications tell what they did; ``url`` is their broker's.
    """

    def __init__(self, system: str, folder: Path, url: str, redis: str) -> None:
        self.system, self._folder, self._url = system, folder, url
        self.flags = folder / "flags.json"
        blocks = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(), re.S))
        (folder / "flags.py").write_text(blocks["flags.py"].replace("/etc/mailer-flags/flags.json", str(self.flags)))
        (folder / "tasks.py").write_text(blocks[system + "/tasks.py"])
        (folder / "mail.py").write_text(MAIL)
        self._redis_url, self.redis = redis, cast(Any, Redis.from_url(redis))
        self._workers: dict[str, subprocess.Popen[bytes]] = {}

    def _environment(self, version: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
        return {
            **kept,
            "PYTHONPATH": str(self._folder),
            "URL": self._url,
            "REDIS": self._redis_url,
            "VERSION": version,
            "QUEUE": "mail-" + version,
        }

    def start(self, version: str) -> None:
        command = [word.format(url=self._url, version=version) for word in WORKERS[self.system]]
        with (self._folder / f"worker-{version}.log").open("wb") as log:
            self._workers[version] = subprocess.Popen(
                command, cwd=self._folder, env=self._environment(version), stdout=log, stderr=log, start_new_session=True
            )

    def stop(self, version: str) -> None:
        worker = self._workers.pop(version)
        os.killpg(worker.pid, signal.SIGTERM)
        try:
            worker.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait(10)

    def stop_all(self) -> None:
        for version in list(self._workers):
            self.stop(version)

    def enqueue(self, *customers: str) -> None:
        """By a producer of its own, which reads the flag when it starts."""
        lines = ["import tasks", *(ENQUEUE[self.system].format(customer) for customer in customers)]
        command = [sys.executable, "-c", "\n".join(lines)]
        subprocess.run(command, cwd=self._folder, env=self._environment("producer"), check=True, timeout=60, capture_output=True)

    @contextmanager
    def producer(self) -> Iterator[None]:
        """A process that publishes twenty tasks a second and keeps its SDK; at the end it is told to stop, and has."""
        lines = PRODUCER.replace("{enqueue}", ENQUEUE[self.system].replace("{0!r}", "customer"))
        with (self._folder / "producer.log").open("wb") as log:
            producer = subprocess.Popen(
                [sys.executable, "-c", lines], cwd=self._folder, env=self._environment("producer"), stdout=log, stderr=log
            )
        try:
            yield
            (self._folder / "stop").touch()
            assert producer.wait(30) == 0, (self._folder / "producer.log").read_text()
        finally:
            producer.kill()
            producer.wait(10)

    def published(self) -> dict[str, float]:
        """When each task was published, seconds since 1970."""
        lines = (self._folder / "published").read_text().splitlines() if (self._folder / "published").exists() else []
        return {customer: float(at) for at, _space, customer in (line.partition(" ") for line in lines)}

    def done(self) -> list[str]:
        return sorted(bytes(entry).decode() for entry in self.redis.lrange("done", 0, -1))

    def logs(self) -> str:
        return "\n".join(path.read_text()[-3000:] for path in sorted(self._folder.glob("worker-*.log")))

    def begin(self) -> None:
        """Give version 1 all tasks, with the workers of both versions there."""
        self.divide({"1.0.0": 100})
        for version in ("1.0.0", "2.0.0"):
            self.start(version)
        wait_for(lambda: divided(self, {"1.0.0": 100, "2.0.0": 0}), limit=60, what="both versions' workers to be known")

    def _backend(self) -> QueueBackend:
        return open_backend(self.system, {"url": self._url})

    def _router(self) -> tuple[Router, str]:
        return FlagRouter("mailer", [FileStore(str(self.flags))], self._backend()), "targetingKey"

    def divide(self, weights: dict[str, int], remove: tuple[str, ...] = ()) -> None:
        """What the module does."""
        router, key = self._router()
        before = router.look(ROUTE)
        change = planned(before, weights, TEMPLATE, remove)
        router.preflight(ROUTE, key, change)
        if before and change.removed:
            looked = self._backend().look([before.queues[version] for version in change.removed], missing_ok=True)
            require_drained([one for one in states(before, looked.queues) if one.version in change.removed], change)
        router.apply(ROUTE, key, change)

    @property
    def options(self) -> dict[str, Any]:
        """Those of the route's modules."""
        flags = {"fleet": "mailer", "path": str(self.flags)}
        return {"backend": self.system, "url": self._url, "route": ROUTE, "flags": flags}

    def state_of(self, version: str) -> str:
        """By the module as it stands: what it asks the workers by default is what an operator gets to know."""
        told = ad_hoc("queue_route_info", self.options)
        return next(str(one["state"]) for one in told["versions"] if one["version"] == version)


class OnRabbitmq(Application):
    """The example whose tasks the broker divides."""

    def __init__(self, system: str, folder: Path, server: RabbitServer, redis: str) -> None:
        super().__init__(system, folder, server.url, redis)
        self._settings = {"url": server.url, "management_url": server.management}

    def begin(self) -> None:
        # Here the workers make the queues.
        for version in ("1.0.0", "2.0.0"):
            self.start(version)
        wait_for(lambda: divided(self, {"1.0.0": 100, "2.0.0": 0}), limit=60, what="both versions' queues")

    @property
    def options(self) -> dict[str, Any]:
        return {"backend": "celery", "route": ROUTE, **self._settings}

    def _backend(self) -> QueueBackend:
        return open_backend("celery", self._settings)

    def _router(self) -> tuple[Router, str]:
        return RabbitmqRouter(self._settings), "routing_key"


@pytest.fixture(params=sorted(WORKERS))
def application(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Iterator[Application]:
    redis = servers.get("redis7")
    redis.clear()
    if request.param == "celery-rabbitmq":
        server = servers.get("rabbitmq3")
        assert isinstance(server, RabbitServer)
        server.clear()
        found: Application = OnRabbitmq(request.param, tmp_path, server, redis.url)
    else:
        found = Application(request.param, tmp_path, redis.url, redis.url)
    yield found
    found.stop_all()


def test_a_task_its_retries_and_its_children_stay_with_the_version_that_began_until_it_is_drained(application: Application) -> None:
    flaky, later = [f"flaky-{number}" for number in range(2)], [f"later-{number}" for number in range(5)]
    application.begin()
    application.enqueue(*flaky)
    wait_for(lambda: application.redis.llen("begun"), limit=60, what="a task to be begun by version 1")

    application.divide({"1.0.0": 0, "2.0.0": 100})
    assert application.state_of("1.0.0") == "draining"
    with pytest.raises(Refused, match=r"1\.0\.0"):
        application.divide({"2.0.0": 100}, remove=("1.0.0",))
    application.enqueue(*later)
    application.redis.rpush("switched", *flaky)
    wanted = sorted(
        [f"{what} {customer} 1.0.0" for what in ("send", "log") for customer in flaky]
        + [f"{what} {customer} 2.0.0" for what in ("send", "log") for customer in later]
    )
    wait_for(lambda: application.done() == wanted, limit=90, what=f"the tasks to be done as they should, not {application.done()}")
    assert {application.redis.hget("tries", "send" + customer) for customer in flaky} == {b"2"}

    wait_for(lambda: application.state_of("1.0.0") == "drained", limit=30, what="version 1 to be drained")
    application.stop("1.0.0")
    wait_for(lambda: removed(application), limit=60, what="version 1 to be removed")


def test_a_producer_that_goes_on_gives_a_version_with_0_percent_no_task_after_one_poll_interval(application: Application) -> None:
    application.begin()
    application.divide({"1.0.0": 50, "2.0.0": 50})
    with application.producer():
        wait_for(lambda: {line[-5:] for line in application.done()} == {"1.0.0", "2.0.0"}, limit=60, what="tasks of both versions")
        application.divide({"1.0.0": 100, "2.0.0": 0})
        returned = time.time()
        wait_for(
            lambda: max(application.published().values()) > returned + 4 * (POLL_S + MARGIN_S), limit=60, what="tasks published after it"
        )
    published = application.published()
    wait_for(lambda: len(application.done()) == 2 * len(published), limit=90, what="all of them to be done")
    sent = {customer: version for what, customer, version in (line.split() for line in application.done()) if what == "send"}
    assert sent.keys() == published.keys()
    last = max(at for customer, at in published.items() if sent[customer] == "2.0.0") - returned
    later = sum(1 for at in published.values() if at > returned)
    print(f"{application.system}: the last of version 2 was published {last:+.2f} s after the change had returned, of {later} after it")
    assert last <= POLL_S + MARGIN_S and later > 20


def divided(application: Application, weights: dict[str, int]) -> bool:
    try:
        application.divide(weights)
    except Refused:
        return False
    return True


def removed(application: Application) -> bool:
    try:
        application.divide({"2.0.0": 100}, remove=("1.0.0",))
    except Refused:
        return False
    return True
