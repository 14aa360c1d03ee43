# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks that a worker took and never began: put back exactly when nobody can have them in hand."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import pytest
import redis
import rq
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue import rq_abandoned
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveReport, RedriveRequest, Rule

from tests.unit.conftest import wait_for
from tests.unit.queue.conftest import Broker

INTERMEDIATE = "rq:queue:mail:intermediate"

#: A real worker that is told to stop right after it took a task: between BLMOVE and the start of the execution.
STOPPED_IN_BETWEEN = """
import os, signal, sys
import redis, rq
original = rq.Queue._fetch_dequeued_job
def told_to_stop(*arguments, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    return original(*arguments, **options)
rq.Queue._fetch_dequeued_job = told_to_stop
rq.Worker(["mail"], connection=redis.Redis.from_url(sys.argv[1]), name="mailer@1.0.0:worker1:1").work()
"""


def abandon(broker: Broker) -> None:
    environment = dict(os.environ, PYTHONPATH=str(broker.folder))
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_IN_BETWEEN, broker.url], env=environment, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def reclaim(broker: Broker, check: bool = False, action: str = "requeue", **match: Any) -> RedriveReport:
    request = RedriveRequest("mail", source="abandoned", rules=(Rule(Match(**match), action),))
    return engine.redrive(broker.backend(), request, check)


def taken(broker: Broker) -> int:
    return int(broker.client.llen(INTERMEDIATE))


def test_rq_leaves_a_task_behind_and_it_runs_once(broker: Broker) -> None:
    broker.publish(3)
    abandon(broker)
    assert (taken(broker), broker.queue().count) == (1, 2)
    before = broker.snapshot()
    assert reclaim(broker, check=True).moved == 1
    assert broker.snapshot() == before
    report = reclaim(broker)
    assert (report.matched, report.moved, report.skipped, report.conservation["verdict"]) == (1, 1, 0, "proven")
    assert (taken(broker), broker.queue().count) == (0, 3)
    broker.start_worker("mailer@1.0.0:worker1:2", burst=True)
    assert broker.noted() == ["0", "1", "2"], "back at the head of the queue, and run once"
    assert reclaim(broker).matched == 0


def test_a_worker_that_waits_for_a_task_has_none_in_hand(broker: Broker) -> None:
    broker.publish(1)
    abandon(broker)
    broker.start_worker("mailer@2.0.0:worker2:1")
    wait_for(lambda: any("b" in entry["flags"] for entry in broker.client.client_list()), what="the waiting worker")
    assert reclaim(broker).moved == 1
    wait_for(lambda: broker.noted() == ["0"], what="the task's end")
    wait_for(lambda: taken(broker) == 0, what="an empty list")


def test_a_worker_that_is_busy_with_another_task_has_none_in_hand(broker: Broker) -> None:
    gate = broker.folder / "gate"
    broker.queue().enqueue("tasks.hold", str(gate))
    broker.start_worker("mailer@2.0.0:worker2:1")
    wait_for(lambda: broker.backend().look(["mail"]).workers[0].task_since, what="the executing task")
    broker.publish(1)
    abandon(broker)
    assert reclaim(broker).moved == 1
    gate.touch()
    wait_for(lambda: broker.noted() == ["0"], what="the task's end")


def test_what_a_live_worker_may_have_in_hand_is_left(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rq_abandoned, "PATIENCE_S", 0.5)
    broker.publish(1)
    abandon(broker)
    # Registered and idle, but not waiting for a task: as one that has just taken it.
    worker: Any = rq.Worker(["mail"], connection=broker.client, name="mailer@2.0.0:worker2:1")
    worker.register_birth()
    report = reclaim(broker)
    assert (report.moved, report.skipped_because) == (0, {rq_abandoned.IN_HAND: 1})
    assert (taken(broker), broker.queue().count) == (1, 0)
    worker.register_death()
    assert reclaim(broker).moved == 1


def test_who_waits_in_another_database_is_no_worker_of_this_one(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from its address alone it would be taken for the one that has the task in hand, and the task would be run twice."""
    monkeypatch.setattr(rq_abandoned, "PATIENCE_S", 0.5)
    broker.publish(1)
    abandon(broker)
    worker: Any = rq.Worker(["mail"], connection=broker.client, name="mailer@2.0.0:worker2:1")
    worker.register_birth()
    with redis.Redis.from_url(broker.url.replace("db=0", "db=1")) as other:
        waiting = threading.Thread(target=other.blmove, args=("rq:queue:mail", INTERMEDIATE, 30, "RIGHT", "LEFT"))
        waiting.start()
        try:
            wait_for(lambda: any("b" in entry["flags"] for entry in broker.client.client_list()), what="the waiting connection")
            assert reclaim(broker).skipped_because == {rq_abandoned.IN_HAND: 1}
        finally:
            with redis.Redis.from_url(broker.url.replace("db=0", "db=1")) as end:
                end.rpush("rq:queue:mail", "end")
            waiting.join()
    assert taken(broker) == 1


def test_a_task_that_its_worker_begins_is_not_put_back(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = broker.publish(1)
    abandon(broker)
    worker: Any = rq.Worker(["mail"], connection=broker.client, name="mailer@2.0.0:worker2:1")
    worker.register_birth()
    looks = []

    def begin(backend: Any, workers: Any) -> set[str]:
        looks.append(backend)
        if len(looks) == 2:
            broker.client.lrem(INTERMEDIATE, 1, task)
        return set()

    monkeypatch.setattr(rq_abandoned.AbandonedStore, "_waiting", begin)
    report = reclaim(broker)
    assert (report.matched, report.moved, report.skipped) == (0, 0, 0)
    assert broker.queue().count == 0


def test_rules_hold_for_abandoned_tasks_too(broker: Broker) -> None:
    broker.publish(1)
    abandon(broker)
    assert reclaim(broker, task="tasks.fail").matched == 0
    report = reclaim(broker, False, "fail", task="tasks.note")
    assert report.by_action == {"fail": 1}
    assert broker.queue().failed_job_registry.get_job_ids() and not taken(broker)


@pytest.mark.parametrize("begun_only", [False, True])
def test_a_killed_workers_task_is_reclaimed_once_its_record_has_expired(broker: Broker, begun_only: bool) -> None:
    job = broker.queue().enqueue("tasks.hold", str(broker.folder / "gate"))
    broker.start_worker("mailer@2.0.0:worker2:1")
    wait_for(lambda: job.get_status() == rq.job.JobStatus.STARTED, what="the executing task")
    broker.close()
    if begun_only:  # As when it dies a moment earlier.
        broker.client.hset("rq:job:" + job.id, "status", "queued")
        broker.client.rpush(INTERMEDIATE, job.id)
    client: Any = broker.client
    (member,) = client.zrange("rq:wip:mail", 0, -1)
    assert reclaim(broker).matched == 0  # Its heartbeat has not expired yet.
    client.zadd("rq:wip:mail", {member: 1})  # Its last heartbeat was long ago.
    assert reclaim(broker).skipped_because == {rq_abandoned.IN_HAND: 1}
    broker.client.delete("rq:worker:mailer@2.0.0:worker2:1")  # As when it expires.
    report = reclaim(broker)
    assert (report.moved, report.conservation["verdict"]) == (1, "proven")
    (broker.folder / "gate").touch()
    broker.start_worker("mailer@1.0.0:worker1:2", burst=True)
    assert broker.client.zcard("rq:wip:mail") == taken(broker) == broker.queue().count == 0
    assert broker.queue().finished_job_registry.get_job_ids() == [member.decode().split(":")[0]]
