# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks that real RQ workers have in hand when a rollback's drain is out of time: killed and treated by rule, or left to finish."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.unit.conftest import RedisServer, wait_for
from tests.unit.playbooks.conftest import Fleet, must, new_fleet
from tests.unit.playbooks.test_payloads import archive
from tests.unit.playbooks.test_playbooks import sick_under_version_2
from tests.unit.playbooks.test_rules import events, words
from tests.unit.queue.conftest import Broker

# Version 2 is bad: it begins a task and does not end it, as long as the file `go` is not there.
TASKS = """
import os, time
VERSION = %(version)r

def note(ledger, what):
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, ("%%s@%%s\\n" %% (what, VERSION)).encode())
    os.close(descriptor)

def work(ledger, number):
    note(ledger, "begin-%%s" %% number)
    while VERSION == "2.0.0" and not os.path.exists(os.path.join(os.path.dirname(ledger), "go")):
        time.sleep(0.02)
    note(ledger, "end-%%s" %% number)

def charge(ledger, number):
    work(ledger, number)
"""

WORKER = """
import os, redis, rq
host = os.path.basename(os.path.dirname(os.environ["HOLD"]))
connection = redis.Redis.from_url(%(url)r)
name = "mailer@%(version)s:%%s:%%d" %% (host, os.getpid())
rq.Worker([rq.Queue("mail", connection=connection)], name=name, connection=connection).work(logging_level="ERROR")
"""

MAILS = {"name": "mails", "of": "in_flight", "match": {"task": "tasks.work"}, "action": "requeue"}
CHARGES = {"name": "charges", "of": "in_flight", "match": {"task": "tasks.charge"}, "action": "finish"}
#: What a task notes that is begun, killed, and run again.
RUNS = (("begin", "2.0.0"), ("begin", "1.0.0"), ("end", "1.0.0"))


@pytest.fixture
def broker(redis_server: RedisServer, tmp_path: Path) -> Broker:
    return Broker(redis_server, tmp_path)


@pytest.fixture
def fleet(redis_server: RedisServer, broker: Broker) -> Iterator[Fleet]:
    """On release 2, whose workers do not end their tasks."""
    with new_fleet(redis_server) as made:
        for version in ("1.0.0", "2.0.0"):
            values = {"version": version, "url": redis_server.url}
            files = {"worker.py": WORKER % values, "tasks.py": TASKS % values, "VERSION": version}
            for host in made.hosts.values():
                made.specification["artifact"]["checksums"][version] = archive(host.artifacts / f"mailer-{version}.tar.gz", files)
        try:
            must(made.run("deploy", version="1.0.0"))
            must(made.run("deploy", version="2.0.0"))
            made.specification["worker"]["drain_timeout"] = 2
            yield made
        finally:
            (broker.folder / "go").touch()


def publish(broker: Broker, function: str, *numbers: int) -> list[str]:
    """Tasks that are begun by now."""
    ids = [broker.queue().enqueue("tasks." + function, broker.ledger, number).id for number in numbers]
    wait_for(lambda: all(f"begin-{number}@2.0.0" in broker.noted() for number in numbers), what="the tasks' begin")
    return ids


@pytest.mark.sampled
def test_what_is_in_flight_is_killed_and_put_back_when_a_rule_says_so(fleet: Fleet, broker: Broker) -> None:
    publish(broker, "work", 1, 2)
    fleet.specification["rules"] = [CHARGES, MAILS]
    plan = fleet.run("plan")
    assert plan.returncode == 2 and "mails mail executing requeue 2" in words(plan.stdout), plan.stdout

    must(fleet.run("rollback"))
    assert (fleet.releases(), fleet.versions()) == ([1, 1], {"1.0.0"})
    wait_for(lambda: {"end-1@1.0.0", "end-2@1.0.0"} <= set(broker.noted()), what="the end of both under version 1")
    (broker.folder / "go").touch()
    # Each began under both versions, and ended under the good one alone: nothing of the killed workers is left.
    assert sorted(broker.noted()) == sorted(f"{what}-{number}@{version}" for number in (1, 2) for what, version in RUNS)
    assert (broker.queue().failed_job_registry.count, broker.client.zcard("rq:wip:mail")) == (0, 0)
    (treated,) = [event for event in events(fleet, "tasks_treated") if event["source"] == "executing"]
    assert treated["rules"] == [{"name": "mails", "action": "requeue", "matched": 2, "moved": 2}]
    assert events(fleet, "workers_killed")


def test_a_host_whose_task_has_to_finish_is_left_alone_and_named(fleet: Fleet, broker: Broker) -> None:
    (charge,) = publish(broker, "charge", 1)
    publish(broker, "work", 2, 3, 4)
    fleet.specification["rules"] = [CHARGES, {**MAILS, "match": {}}]
    done = fleet.run("rollback")
    assert done.returncode != 0
    kept = [name for name, host in fleet.hosts.items() if host.transaction().status()["release"] == 2]
    assert len(kept) == 1, done.stdout
    why = f"{kept[0]} cannot go to release 1 yet, because the drain's time was up: its workers have to finish task {charge} "
    assert why + "(tasks.charge), by rule charges" in words(done.stdout), done.stdout
    # The other host's two were given up. Of the kept one's, nothing was broken off.
    wait_for(lambda: sum(line.endswith("@1.0.0") for line in broker.noted()) == 4, what="the end of two under version 1")
    assert not any(line.startswith("end") and line.endswith("@2.0.0") for line in broker.noted())
    (treated,) = [event for event in events(fleet, "tasks_treated") if event["source"] == "executing"]
    assert (treated["matched"], treated["moved"]) == (2, 2)

    (broker.folder / "go").touch()
    wait_for(lambda: sum(line.startswith("end") and line.endswith("@2.0.0") for line in broker.noted()) == 2, what="the end of those kept")
    must(fleet.run("rollback"))
    assert (fleet.releases(), fleet.versions()) == ([1, 1], {"1.0.0"})
    assert [line for line in broker.noted() if line.split("@")[0] in ("begin-1", "end-1")] == ["begin-1@2.0.0", "end-1@2.0.0"]


def test_a_deploy_that_is_undone_gives_up_what_its_version_has_in_hand(fleet: Fleet, broker: Broker) -> None:
    fleet.specification["worker"].update(drain_timeout=10, start_timeout=10)
    must(fleet.run("rollback"))
    fleet.specification["rules"] = [{**MAILS, "match": {}, "action": "fail"}]
    fleet.specification["worker"]["drain_timeout"] = 2
    sick_under_version_2(fleet, "worker2")
    deploy = fleet.start("deploy", version="2.0.0")
    # Whoever is of version 2 gets stuck: the canary, and the host whose switch fails because it is sick, and which could not go back alone.
    published = 0
    while deploy.poll() is None:
        broker.queue().enqueue("tasks.work", broker.ledger, published)
        published += 1
        with suppress(subprocess.TimeoutExpired):
            deploy.wait(0.3)
    output = (fleet.folder / "output").read_text()
    assert deploy.returncode != 0 and (fleet.releases(), fleet.versions()) == ([1, 1], {"1.0.0"}), output
    given_up = {line.split("@")[0] for line in broker.noted() if line.startswith("begin") and line.endswith("@2.0.0")}
    assert len(given_up) >= 2, output
    left = published - len(given_up)
    wait_for(lambda: sum(line.startswith("end") for line in broker.noted()) == left, what="the end of all others under version 1")
    assert broker.queue().failed_job_registry.count == len(given_up) and not broker.client.zcard("rq:wip:mail")


def test_resume_treats_what_a_dead_controller_has_killed(fleet: Fleet, broker: Broker) -> None:
    publish(broker, "work", 1, 2)
    fleet.specification["rules"] = [MAILS]
    rollback = fleet.start("rollback")
    written = [host.folder / "state" / "mailer" / "killed.json" for host in fleet.hosts.values()]
    wait_for(lambda: any(path.exists() for path in written) or rollback.poll() is not None, limit=60, what="the kill")
    os.killpg(rollback.pid, signal.SIGKILL)
    rollback.wait()
    must(fleet.run("resume", takeover=True))
    assert (fleet.releases(), fleet.versions()) == ([1, 1], {"1.0.0"})
    wait_for(lambda: {"end-1@1.0.0", "end-2@1.0.0"} <= set(broker.noted()), what="the end of both under version 1")
    (broker.folder / "go").touch()
    assert sorted(broker.noted()) == sorted(f"{what}-{number}@{version}" for number in (1, 2) for what, version in RUNS)
    assert (broker.queue().failed_job_registry.count, broker.client.zcard("rq:wip:mail")) == (0, 0)


def test_without_such_a_rule_nobody_is_asked(fleet: Fleet) -> None:
    fleet.specification["worker"]["drain_timeout"] = 10
    fleet.specification["rules"] = [CHARGES]
    output = must(fleet.run("rollback"))
    assert "Quiet the workers" not in output and "in hand" not in output
