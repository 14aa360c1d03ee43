# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A new version gets a share of the tasks: real RQ workers of two versions, each with a queue of its own, and a producer that goes on."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import redis
import rq
from ansible_collections.queueops.fleet.plugins.module_utils._flags.file_store import FileStore
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend
from ansible_collections.queueops.fleet.plugins.module_utils._route.flag import FlagRouter
from ansible_collections.queueops.fleet.plugins.module_utils._route.route import planned
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from rq.job import Job

from tests.unit.conftest import RedisServer, wait_for
from tests.unit.flags.conftest import sdk
from tests.unit.playbooks.conftest import Fleet, must, new_fleet
from tests.unit.playbooks.test_gates import of_kind, on_one_line
from tests.unit.playbooks.test_payloads import archive
from tests.unit.playbooks.test_plan import plan_id
from tests.unit.playbooks.test_resume import events

__all__ = ["sdk"]

OLD, NEW = "mail-1.0.0", "mail-2.0.0"

TASKS = """
import os

def note(ledger, number, bad=()):
    if os.environ["QUEUEOPS_VERSION"] in bad:
        raise ValueError(number)
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, ("%s %s\\n" % (number, os.environ["QUEUEOPS_VERSION"])).encode())
    os.close(descriptor)
"""

WORKER = """
import os
os.environ["QUEUEOPS_VERSION"] = %(version)r
import redis, rq
import tasks
connection = redis.Redis.from_url(%(url)r)
name = "mailer@%(version)s:%%s:%%d" %% (os.path.basename(os.path.dirname(os.environ["HOLD"])), os.getpid())
rq.SimpleWorker([rq.Queue("mail-%(version)s", connection=connection)], name=name, connection=connection).work(logging_level="ERROR")
"""


@pytest.fixture
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    """A fleet on release 1, version 1.0.0, which has all tasks of the route."""
    with new_fleet(redis_server) as made:
        for version in ("1.0.0", "2.0.0"):
            worker = WORKER % {"version": version, "url": redis_server.url}
            for host in made.hosts.values():
                packed = {"worker.py": worker, "VERSION": version, "tasks.py": TASKS}
                made.specification["artifact"]["checksums"][version] = archive(host.artifacts / f"mailer-{version}.tar.gz", packed)
        made.specification["queue"]["names"] = ["mail-{version}"]
        made.specification["route"] = {
            "name": "mail",
            "shares": [25],
            "flags": {"path": str(made.folder / "flags.json")},
            "drain_timeout": 30,
        }
        must(made.run("deploy", version="1.0.0"))
        yield made


class Producer(threading.Thread):
    """Publishes task after task, each to the queue that the flag names for it, as an application does."""

    def __init__(self, fleet: Fleet, client: OpenFeatureClient, url: str) -> None:
        super().__init__(daemon=True)
        self.ledger = str(fleet.folder / "ledger")
        self.sent: Counter[str] = Counter()
        self.bad: tuple[str, ...] = ()
        self._client, self._redis, self._halt = client, redis.Redis.from_url(url), threading.Event()

    def run(self) -> None:
        number = 0
        while not self._halt.wait(0.02):
            number += 1
            self.publish(str(number))

    def publish(self, key: str) -> None:
        queue = self._client.get_string_value("mail", "none", EvaluationContext(key))
        rq.Queue(queue, connection=self._redis).enqueue("tasks.note", self.ledger, key, self.bad)
        self.sent[queue] += 1

    def schedule(self, key: str) -> Job:
        """A task of version 1 that is to be executed in an hour."""
        return self._old().enqueue_in(timedelta(hours=1), "tasks.note", self.ledger, key, ())

    def due(self, job: Job) -> None:
        """Its hour has come: what RQ's scheduler does then."""
        self._old().scheduled_job_registry.remove(job)
        self._old().enqueue_job(job)

    def _old(self) -> rq.Queue:
        return rq.Queue(OLD, connection=self._redis)

    def halt(self) -> None:
        self._halt.set()
        self.join()

    def done(self) -> Counter[str]:
        """How often each task was executed well."""
        return Counter(line.split()[0] for line in self.lines())

    def by_version(self) -> Counter[str]:
        return Counter(line.split()[1] for line in self.lines())

    def lines(self) -> list[str]:
        path = Path(self.ledger)
        return path.read_text().splitlines() if path.exists() else []

    def left(self) -> dict[str, int]:
        """Tasks that are queued or failed, by queue."""
        queues = [rq.Queue(name, connection=self._redis) for name in (OLD, NEW)]
        return {queue.name: queue.count + queue.failed_job_registry.count for queue in queues}


@pytest.fixture
def producer(fleet: Fleet, redis_server: RedisServer, sdk: Callable[..., OpenFeatureClient]) -> Iterator[Producer]:
    made = Producer(fleet, sdk(fleet.folder / "flags.json"), redis_server.url)
    yield made
    if made.is_alive():
        made.halt()


def weights(fleet: Fleet) -> dict[str, int]:
    """What the flag itself says."""
    flag = json.loads((fleet.folder / "flags.json").read_text())["flags"]["mail"]
    runs = (flag.get("targeting") or {}).get("if", [None, {"fractional": [None, [flag["defaultVariant"], 100]]}])[1]["fractional"][1:]
    shares: Counter[str] = Counter()
    for version, count in runs:
        shares[version] += count
    return {version: shares[version] for version in flag["variants"]}


def divided(fleet: Fleet) -> list[dict[str, int]]:
    return [event["data"]["weights"] for event in of_kind(fleet, "tasks_divided")]


def kinds(fleet: Fleet) -> list[str]:
    return [event["kind"] for event in events(fleet)]


def every_task_once(producer: Producer) -> None:
    wait_for(lambda: len(producer.done()) == producer.sent.total(), limit=60, what="the end of all tasks")
    assert set(producer.done().values()) == {1}
    assert producer.left() == {OLD: 0, NEW: 0}


def test_a_version_gets_its_share_then_all_tasks_and_the_old_one_works_off_its_own(fleet: Fleet, producer: Producer) -> None:
    fleet.specification["gate"] = {"min_tasks": 10, "bake": 1, "timeout": 60}
    plan = fleet.run("plan", version="2.0.0")
    told = "share of the tasks: 25 % after wave 1; all before wave 2, which waits until 1.0.0 has worked off what is in its queue"
    assert plan.returncode == 2 and told in on_one_line(plan.stdout), plan.stdout
    producer.start()
    done = must(fleet.run("deploy", version="2.0.0"))
    producer.halt()
    assert (fleet.releases(), fleet.versions()) == ([2, 2], {"2.0.0"}), done
    assert divided(fleet) == [{"1.0.0": 100}, {"1.0.0": 75, "2.0.0": 25}, {"1.0.0": 0, "2.0.0": 100}]
    assert weights(fleet) == {"1.0.0": 0, "2.0.0": 100}
    order = [kind for kind in kinds(fleet) if kind in ("wave_started", "tasks_divided", "host_switched")][-6:]
    assert order == ["wave_started", "host_switched", "tasks_divided", "wave_started", "tasks_divided", "host_switched"]
    every_task_once(producer)
    assert producer.by_version().total() == producer.sent.total() and producer.by_version()["2.0.0"] >= producer.sent[NEW] > 0


@pytest.mark.sampled
def test_a_bad_version_first_loses_its_share_and_its_tasks_go_to_the_good_one(fleet: Fleet, producer: Producer) -> None:
    fleet.specification["gate"] = {"min_tasks": 10, "bake": 1, "timeout": 60, "limit": 0.05}
    producer.bad = ("2.0.0",)
    producer.start()
    done = fleet.run("deploy", version="2.0.0")
    producer.halt()
    assert done.returncode == 2 and "FAIL" in done.stdout.upper(), done.stdout
    assert (fleet.releases(), fleet.versions()) == ([1, 1], {"1.0.0"}), done.stdout
    assert divided(fleet)[1:] == [{"1.0.0": 75, "2.0.0": 25}, {"1.0.0": 100, "2.0.0": 0}]
    order = [kind for kind in kinds(fleet) if kind in ("rollback_ordered", "tasks_divided", "host_reverted")][2:]
    assert order == ["rollback_ordered", "tasks_divided", "host_reverted"]
    every_task_once(producer)
    assert set(producer.by_version()) == {"1.0.0"}


def test_a_rollback_of_a_confirmed_version_takes_all_its_tasks_along(fleet: Fleet, producer: Producer) -> None:
    must(fleet.run("deploy", version="2.0.0"))
    producer.bad = ("2.0.0",)
    wait_for(lambda: producer._client.get_string_value("mail", "none", EvaluationContext("1")) == NEW, what="the reader's look at the flag")
    producer.start()
    wait_for(lambda: producer.left()[NEW] > 20, what="tasks that version 2 failed")
    done = must(fleet.run("rollback"))
    producer.halt()
    assert (fleet.versions(), weights(fleet)) == ({"1.0.0"}, {"1.0.0": 100, "2.0.0": 0}), done
    assert divided(fleet)[-1] == {"1.0.0": 100, "2.0.0": 0}
    # What a producer sent within the flag's poll interval after the rollback's last look: the next run takes it along.
    must(fleet.run("redrive", rules=[{"match": {}, "action": "requeue", "destination": OLD}], source="queued", queues=[NEW]))
    every_task_once(producer)
    must(fleet.run("status"))


def test_a_deploy_is_paused_where_the_old_version_does_not_come_to_an_end_and_goes_on_when_it_has(fleet: Fleet, producer: Producer) -> None:
    fleet.specification["route"]["drain_timeout"] = 1
    later = producer.schedule("later")
    done = fleet.run("deploy", version="2.0.0")
    said = on_one_line(done.stdout)
    assert done.returncode == 2 and fleet.releases() == [2, 1], done.stdout
    assert "version 1.0.0 has not worked off what is in its queue" in said and "1 scheduled" in said, said
    assert weights(fleet) == {"1.0.0": 0, "2.0.0": 100}
    producer.due(later)
    must(fleet.run("resume"))
    assert (fleet.versions(), producer.by_version()) == ({"2.0.0"}, {"1.0.0": 1})


def test_a_paused_deploy_is_undone_or_goes_on_in_spite_of_it_and_says_what_is_left(fleet: Fleet, producer: Producer) -> None:
    fleet.specification["route"]["drain_timeout"] = 1
    producer.schedule("later")
    assert fleet.run("deploy", version="2.0.0").returncode == 2
    must(fleet.run("resume", do="undo"))
    assert (fleet.versions(), weights(fleet)) == ({"1.0.0"}, {"1.0.0": 100, "2.0.0": 0})
    assert fleet.run("deploy", version="2.0.0").returncode == 2
    done = fleet.run("resume", approve="drained")
    assert done.returncode == 2 and fleet.versions() == {"2.0.0"}, done.stdout
    assert "nobody listens to queue mail-1.0.0 of version 1.0.0 any more, which has 1 scheduled" in on_one_line(done.stdout), done.stdout


def test_a_plan_holds_only_as_long_as_nobody_divides_the_tasks_anew(fleet: Fleet) -> None:
    read = fleet.run("plan", version="2.0.0")
    assert "tasks of route mail now: 1.0.0 100 %" in on_one_line(read.stdout), read.stdout
    router = FlagRouter(
        "mailer", [FileStore(str(fleet.folder / "flags.json"))], open_backend("rq", {"url": fleet.specification["queue"]["url"]})
    )
    before = router.look("mail")
    change = planned(before, {"1.0.0": 60, "2.0.0": 40}, "mail-{version}", ())
    router.apply("mail", "targetingKey", change)
    held = fleet.run("deploy", version="2.0.0", plan=plan_id(read))
    assert held.returncode == 2 and fleet.releases() == [1, 1] and "The plan is no longer" in held.stdout, held.stdout

    must(fleet.run("deploy", version="2.0.0"))
    read = fleet.run("plan")
    told = "tasks of route mail now: 2.0.0 100 %"
    assert told in on_one_line(read.stdout) and "all of them go to 1.0.0 before the first host goes back" in on_one_line(read.stdout), (
        read.stdout
    )


def test_what_cannot_be_divided_is_refused_before_anything_changes(fleet: Fleet) -> None:
    before = (fleet.everything(), (fleet.folder / "flags.json").read_bytes())
    route, names = fleet.specification["route"], fleet.specification["queue"]["names"]

    def refused(words: str) -> None:
        done = fleet.run("deploy", version="2.0.0")
        assert done.returncode == 2 and words in on_one_line(done.stdout) and "Nothing was changed" in done.stdout, done.stdout

    fleet.specification["waves"] = ["100%"]
    refused("switches all 2 hosts at once")
    del fleet.specification["waves"]
    fleet.specification["route"] = {**route, "shares": [50, 25]}
    refused("do not become less")
    fleet.specification["route"] = {**route, "shares": [25, 50]}
    refused("2 shares for 2 waves")
    fleet.specification["queue"]["names"] = ["mail"]
    fleet.specification["route"] = route
    refused("Put {version} into the name of one queue, as in mail-{version}")
    fleet.specification["queue"]["names"] = names
    del fleet.specification["route"]
    refused("nothing divides the tasks among them")
    fleet.specification["route"] = {**route, "name": "other"}
    refused("There is no route other, and fleet mailer is on version 1.0.0")
    assert (fleet.everything(), (fleet.folder / "flags.json").read_bytes()) == before
