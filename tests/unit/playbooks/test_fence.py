# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that a rollback cannot reach, with real RQ workers that log in as their version's user: it takes no task with the bad version."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.conftest import RedisServer, wait_for
from tests.unit.playbooks.conftest import Fleet, must, new_fleet
from tests.unit.playbooks.test_faults import Network
from tests.unit.playbooks.test_payloads import archive
from tests.unit.queue.conftest import Broker

USERS = "user default on nopass ~* &* +@all\nuser worker on >swordfish ~* &* +@all -acl\n"
FENCE = {"user": "mailer-{version}", "like": "worker"}

# A task notes which version ran it, and where.
TASKS = """
import os

def note(ledger):
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, ("%s@%%s\\n" %% os.environ["WORKER_HOST"]).encode())
    os.close(descriptor)
"""
WORKER = """
import os, time
import redis, rq
os.environ["WORKER_HOST"] = host = os.path.basename(os.path.dirname(os.environ["HOLD"]))
connection = redis.Redis.from_url(%(url)r)
name = "mailer@%(version)s:%%s:%%d" %% (host, os.getpid())
rq.SimpleWorker([rq.Queue("mail", connection=connection)], name=name, connection=connection).work(logging_level="ERROR")
"""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis that keeps its users in a file."""
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    (folder / "users.acl").write_text(USERS)
    found = RedisServer(folder)
    found.start("--aclfile", "users.acl")
    yield found
    found.stop()
    shutil.rmtree(folder)


@pytest.fixture
def fleet(server: RedisServer) -> Iterator[Fleet]:
    """On version 1; version 2 logs in as its own user, too, and the version 1.1.0 as somebody else."""
    with new_fleet(server) as made:
        for version, user in {"1.0.0": "mailer-1.0.0", "1.1.0": "worker", "2.0.0": "mailer-2.0.0"}.items():
            worker = WORKER % {"version": version, "url": f"unix://{user}:swordfish@{server.socket}?db=0"}
            for host in made.hosts.values():
                packed = {"worker.py": worker, "VERSION": version, "tasks.py": TASKS % version}
                made.specification["artifact"]["checksums"][version] = archive(host.artifacts / f"mailer-{version}.tar.gz", packed)
        made.specification["queue"].update(fence=dict(FENCE), via="broker1")
        made.specification["home"] = "home1"
        made.others = {"home1": {}, "broker1": {}}
        must(made.run("deploy", version="1.0.0"))
        yield made


def users(broker: Broker) -> set[str]:
    return {user for user in map(str, broker.client.acl_users()) if user.startswith("mailer-")}


@pytest.mark.sampled
def test_a_host_out_of_reach_takes_no_task_with_the_bad_version(fleet: Fleet, server: RedisServer, tmp_path: Path) -> None:
    broker = Broker(server, tmp_path)
    assert users(broker) == {"mailer-1.0.0"}
    must(fleet.run("deploy", version="2.0.0"))
    assert users(broker) == {"mailer-1.0.0", "mailer-2.0.0"}

    plan = " ".join(fleet.run("plan").stdout.split())
    assert "where a host is out of reach: the broker shuts mailer-2.0.0 out" in plan

    network = Network(fleet)
    network.cut("worker2")
    done = fleet.run("rollback")
    assert done.returncode == 2, done.stdout
    told = " ".join(done.stdout.split())
    assert "worker2: unreachable" in told
    assert "Version 2.0.0 is shut out at the broker (user mailer-2.0.0), so that a host that was not reached takes no task with it." in told
    assert "may consume" not in told, "with the version they had"
    assert users(broker) == {"mailer-1.0.0"}

    for _number in range(20):
        broker.queue().enqueue("tasks.note", broker.ledger)
    wait_for(lambda: len(broker.noted()) == 20, limit=60, what="the end of all tasks")
    assert set(broker.noted()) == {"1.0.0@worker1"}

    (written,) = fleet.folder.rglob("journal.jsonl")
    journal = [json.loads(line) for line in written.read_text().splitlines()]
    fenced = [event for event in journal if event["kind"] == "version_fenced"]
    assert [(event["data"]["version"], event["data"]["user"]) for event in fenced] == [("2.0.0", "mailer-2.0.0")]
    assert fenced[0]["data"]["connections"] > 0

    network.mend()
    status = fleet.run("status")
    assert status.returncode == 2
    assert "1 of 2 hosts of fleet mailer are not proven to be on release 1. worker2: on another release" in " ".join(status.stdout.split())
    must(fleet.run("rollback"))
    assert fleet.versions() == {"1.0.0"}
    must(fleet.run("deploy", version="2.0.0"))
    assert users(broker) == {"mailer-1.0.0", "mailer-2.0.0"}


def test_a_rollback_that_reaches_every_host_leaves_the_bad_version_s_user_alone(fleet: Fleet, server: RedisServer, tmp_path: Path) -> None:
    broker = Broker(server, tmp_path)
    must(fleet.run("deploy", version="2.0.0"))
    must(fleet.run("rollback"))
    assert users(broker) == {"mailer-1.0.0", "mailer-2.0.0"}
    assert fleet.run("plan", version="2.0.0").returncode == 2


def test_a_version_whose_workers_log_in_as_somebody_else_goes_back_after_the_first_wave(fleet: Fleet) -> None:
    done = fleet.run("deploy", version="1.1.0")
    assert done.returncode == 2, done.stdout
    assert "the fence would not hold: nobody logs in at the broker as mailer-1.1.0 (queue.fence)" in " ".join(done.stdout.split())
    assert fleet.versions() == {"1.0.0"}


def test_a_broker_that_dies_before_the_version_is_shut_out_leaves_it_undone_and_says_so(fleet: Fleet) -> None:
    must(fleet.run("deploy", version="2.0.0"))
    network = Network(fleet)
    network.cut("worker2")
    network.cut_at("broker1", "before", "state", "fenced")
    done = fleet.run("rollback")
    assert done.returncode == 2, done.stdout
    told = " ".join(done.stdout.split())
    assert "version 2.0.0 should have been shut out at the broker" in told
    assert "may consume with the version they had" in told
    network.mend()
    network.cut("worker2")
    assert "is shut out at the broker" in " ".join(fleet.run("rollback").stdout.split())


def test_a_broker_that_dies_before_the_good_version_is_let_in_leaves_it_undone_and_says_so(fleet: Fleet) -> None:
    fleet.specification["gate"] = {"min_tasks": 5, "bake": 0, "timeout": 2}
    assert fleet.run("deploy", version="2.0.0").returncode == 2, "nothing completes a task, so that the gate cannot decide"
    network = Network(fleet)
    network.cut_at("broker1", "before", "state", "open")
    done = fleet.run("resume", do="undo")
    assert done.returncode != 0
    assert "version 1.0.0 should have been let in at the broker" in " ".join(done.stdout.split())
    network.mend()
    must(fleet.run("resume"))
    assert fleet.versions() == {"1.0.0"}


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"user": "mailer"}, "queueops_fleet.queue.fence.user is mailer for every version"),
        ({"like": "nobody"}, "has no user nobody"),
    ],
)
def test_what_cannot_be_fenced_is_refused_before_anything_changes(fleet: Fleet, change: dict[str, str], refusal: str) -> None:
    before = fleet.everything()
    fleet.specification["queue"]["fence"] = {**FENCE, **change}
    for playbook, variables in (("deploy", {"version": "2.0.0"}), ("plan", {"version": "2.0.0"})):
        done = fleet.run(playbook, **variables)
        assert done.returncode != 0
        assert refusal in " ".join(done.stdout.split())
    assert fleet.everything() == before
