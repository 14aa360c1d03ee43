# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks that real Celery workers on Redis have in hand when a rollback's drain is out of time: treated by rule, or left to finish."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import pools

from tests.unit.conftest import RedisServer, wait_for
from tests.unit.playbooks.conftest import Fleet, must, new_fleet
from tests.unit.playbooks.test_in_flight import CHARGES, MAILS, RUNS
from tests.unit.playbooks.test_payloads import archive
from tests.unit.playbooks.test_rules import events, words

# Version 2 is bad: it begins a task and does not end it, as long as the file `go` is not there.
WORKER = """
import os, time
from celery import Celery
VERSION, ledger = %(version)r, %(ledger)r
app = Celery("mailer", broker=%(url)r)
app.conf.update(task_acks_late=%(late)r, worker_prefetch_multiplier=1)

def note(what):
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, ("%%s@%%s\\n" %% (what, VERSION)).encode())
    os.close(descriptor)

def work(number):
    note("begin-%%s" %% number)
    while VERSION == "2.0.0" and not os.path.exists(os.path.join(os.path.dirname(ledger), "go")):
        time.sleep(0.02)
    note("end-%%s" %% number)

app.task(name="tasks.work")(work)
app.task(name="tasks.charge")(work)
if __name__ == "__main__":
    host = os.path.basename(os.path.dirname(os.environ["HOLD"]))
    quick = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=ERROR"]
    app.worker_main(["worker", "-n", "mailer@%%s:%%s:%%d" %% (VERSION, host, os.getpid()), "-Q", "mail", "--concurrency=1", *quick])
"""


class Producer:
    """The application that publishes tasks, and what its workers noted."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.url = "redis+socket://%s?virtual_host=0" % server.socket
        self.client: Any = redis.Redis.from_url(server.url)
        self.ledger = folder / "ledger"
        self.go = folder / "go"
        self.app = Celery("producer", broker=self.url)

    def noted(self) -> list[str]:
        return self.ledger.read_text().split() if self.ledger.exists() else []

    def listening(self) -> int:
        return sum(int(one["psub"]) > 0 for one in self.client.client_list())

    def publish(self, name: str, *numbers: int) -> list[str]:
        """Tasks that are begun by now."""
        ids = [self.app.send_task("tasks." + name, args=(number,), queue="mail").id for number in numbers]
        wait_for(lambda: all(f"begin-{number}@2.0.0" in self.noted() for number in numbers), limit=60, what="the tasks' begin")
        return ids


@pytest.fixture
def producer(redis_server: RedisServer, tmp_path: Path) -> Iterator[Producer]:
    found = Producer(redis_server, tmp_path)
    yield found
    found.app.close()
    pools.reset()


@pytest.fixture
def on_release_2(redis_server: RedisServer, producer: Producer) -> Iterator[Callable[[bool], Fleet]]:
    """Makes a fleet whose workers do not end their tasks; they acknowledge them late or not."""
    with new_fleet(redis_server) as made:

        def deploy(late: bool) -> Fleet:
            for version in ("1.0.0", "2.0.0"):
                values = {"version": version, "url": producer.url, "ledger": str(producer.ledger), "late": late}
                for host in made.hosts.values():
                    files = {"worker.py": WORKER % values, "VERSION": version}
                    made.specification["artifact"]["checksums"][version] = archive(host.artifacts / f"mailer-{version}.tar.gz", files)
            made.specification["queue"].update(backend="celery", names=["mail"])
            must(made.run("deploy", version="1.0.0"))
            must(made.run("deploy", version="2.0.0"))
            wait_for(lambda: producer.listening() == 4, limit=60, what="workers that listen")
            made.specification["worker"]["drain_timeout"] = 3
            return made

        try:
            yield deploy
        finally:
            producer.go.touch()


def test_what_is_in_flight_is_killed_and_treated_when_a_rule_says_so(on_release_2: Callable[[bool], Fleet], producer: Producer) -> None:
    fleet = on_release_2(True)
    producer.publish("work", 1, 2)
    (charge,) = producer.publish("charge", 3)
    fleet.specification["rules"] = [{**CHARGES, "action": "park"}, MAILS]
    plan = fleet.run("plan")
    assert plan.returncode == 2 and "mails mail executing requeue 2" in words(plan.stdout), plan.stdout

    must(fleet.run("rollback"))
    assert (fleet.releases(), fleet.versions()) == ([1, 1], {"1.0.0"})
    wait_for(lambda: {"end-1@1.0.0", "end-2@1.0.0"} <= set(producer.noted()), limit=60, what="the end of both under version 1")
    producer.go.touch()
    assert sorted(producer.noted()) == sorted(
        [f"{what}-{number}@{version}" for number in (1, 2) for what, version in RUNS] + ["begin-3@2.0.0"]
    )
    assert charge.encode() in producer.client.lindex("queueops:parked:mail", 0)
    wait_for(lambda: producer.client.hlen("unacked") == 0, what="the last acknowledgement")
    (treated,) = [event for event in events(fleet, "tasks_treated") if event["source"] == "executing"]
    assert treated["rules"] == [
        {"name": "charges", "action": "park", "matched": 1, "moved": 1},
        {"name": "mails", "action": "requeue", "matched": 2, "moved": 2},
    ]


@pytest.mark.parametrize("late", [True, False])
def test_what_has_to_finish_or_would_be_lost_is_left_alone(on_release_2: Callable[[bool], Fleet], producer: Producer, late: bool) -> None:
    fleet = on_release_2(late)
    (charge,) = producer.publish("charge", 1)
    producer.publish("work", 2)
    fleet.specification["rules"] = [CHARGES, MAILS] if late else [{**MAILS, "match": {}}]
    done = fleet.run("rollback")
    assert done.returncode != 0
    why = f"its workers have to finish task {charge} (tasks.charge), by rule charges"
    if not late:
        why = "version 2.0.0 acknowledges tasks before they have run (tasks.charge, tasks.work; acks_late is not set), which would be lost"
    assert why in words(done.stdout), done.stdout
    producer.go.touch()
    wait_for(lambda: {"end-1@2.0.0", "end-2@2.0.0"} <= set(producer.noted()), what="the end of both under version 2")
    assert len(producer.noted()) == 4
    must(fleet.run("rollback"))
    assert (fleet.releases(), fleet.versions()) == ([1, 1], {"1.0.0"})
    assert len(producer.noted()) == 4 and producer.client.llen("mail") == 0
