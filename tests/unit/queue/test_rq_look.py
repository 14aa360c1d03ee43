# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looking at RQ: the numbers are RQ's own, and nothing on the broker changes."""

from __future__ import annotations

from datetime import timedelta

import pytest
import rq
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound
from rq.executions import Execution

from tests.unit.conftest import wait_for

from .conftest import Broker

NAME = "mailer@1.0.0:worker1:1"


def test_agrees_with_rq_itself(broker: Broker) -> None:
    broker.publish(3, "fail", "mail")
    broker.publish(4, "note", "mail")
    broker.start_worker(NAME, "mail", burst=True)
    broker.start_worker("mailer@2.0.0:worker2:7", "mail", "bulk")
    gate = broker.folder / "gate"
    held = broker.queue().enqueue("tasks.hold", str(gate))
    wait_for(lambda: broker.queue().started_job_registry.get_job_count(cleanup=False), what="the execution")
    broker.publish(5, "note", "mail")
    broker.queue().enqueue_in(timedelta(hours=1), "tasks.note", broker.ledger, 1)

    look = broker.backend().look()

    assert {state.name for state in look.queues} == {queue.name for queue in rq.Queue.all(connection=broker.client)}
    for state in look.queues:
        queue = broker.queue(state.name)
        assert state.queued == queue.count
        assert state.executing == queue.started_job_registry.get_job_count(cleanup=False)
        assert state.failed == queue.failed_job_registry.get_job_count(cleanup=False)
        assert state.scheduled == queue.scheduled_job_registry.get_job_count(cleanup=False)
        assert state.exists and state.paused is False and state.paused_by is None
    mail = next(state for state in look.queues if state.name == "mail")
    assert (mail.queued, mail.executing, mail.failed, mail.scheduled) == (5, 1, 3, 1)
    assert mail.oldest_task_age_s is not None and 0 <= mail.oldest_task_age_s < 60
    assert mail.dead_lettered is None and "RQ has no dead letters" in look.unknown["queues.dead_lettered"]

    theirs = {worker.name: worker for worker in rq.Worker.all(connection=broker.client)}
    assert {worker.name for worker in look.workers} == set(theirs)
    worker = look.workers[0]
    own = theirs[worker.name]
    assert (worker.completed, worker.failed) == (own.successful_job_count, own.failed_job_count)
    assert (worker.pid, worker.state, worker.queues) == (own.pid, own.get_state(), own.queue_names())
    assert (worker.version, worker.host) == ("2.0.0", "worker2")
    assert (worker.task, worker.task_queue) == (held.id, "mail")
    assert worker.task_since is not None and abs(look.at - worker.task_since) < 60
    assert own.birth_date is not None and worker.started == own.birth_date.timestamp()
    gate.touch()


def test_counts_what_the_worker_finished(broker: Broker) -> None:
    broker.publish(3, "fail")
    broker.publish(4)
    broker.start_worker(NAME)
    # The counter is written a moment before the worker is idle again.
    wait_for(lambda: broker.backend().look().workers[0].completed == 4, what="the tasks")
    wait_for(lambda: broker.backend().look().workers[0].state == "idle", what="the idle worker")
    worker = broker.backend().look(["mail"]).workers[0]
    assert (worker.completed, worker.failed, worker.state, worker.task) == (4, 3, "idle", None)


def test_changes_nothing_where_rq_would_clean_up(broker: Broker) -> None:
    """An execution whose worker is gone: RQ's own look moves it to the failed tasks."""
    (task,) = broker.publish(1)
    job = broker.queue().fetch_job(task)
    assert job is not None
    broker.client.delete(broker.queue().key)
    job.set_status(rq.job.JobStatus.STARTED)
    pipe = broker.client.pipeline()
    execution = Execution.create(job, ttl=90, pipeline=pipe)
    pipe.zadd("rq:wip:mail", {execution.composite_key: 1})
    pipe.execute()
    broker.fail(2)
    before = broker.snapshot()

    state = broker.backend().look().queues[0]

    assert broker.snapshot() == before
    assert (state.executing, state.abandoned, state.failed) == (0, 1, 2)
    assert broker.queue().started_job_registry.count == 0  # Theirs cleans up ...
    assert broker.queue().failed_job_registry.get_job_count(cleanup=False) == 3  # ... and that is seen.


def test_costs_the_same_for_many_tasks_as_for_few(broker: Broker) -> None:
    def cost() -> tuple[dict[str, int], int]:
        backend.look()
        broker.client.config_resetstat()
        backend.look()
        calls = {name: int(stat["calls"]) for name, stat in broker.client.info("commandstats").items() if "config" not in name}
        return calls, int(broker.client.info("stats")["total_net_output_bytes"])

    backend = broker.backend()
    broker.fail(3)
    broker.publish(3)
    few_calls, few_bytes = cost()
    broker.fail(2000)
    broker.publish(3000)
    many_calls, many_bytes = cost()
    assert many_calls == few_calls
    assert many_bytes < few_bytes + 200
    assert not {"cmdstat_keys", "cmdstat_scan", "cmdstat_hgetall"} & set(many_calls)


def test_a_task_on_its_way_is_counted_once(broker: Broker) -> None:
    worker = rq.Worker(["mail"], connection=broker.client, name=NAME)
    worker.register_birth()
    (task,) = broker.publish(1)
    broker.client.lmove(broker.queue().key, broker.queue().intermediate_queue_key, "LEFT", "RIGHT")
    assert broker.backend().look().queues[0].executing == 1
    job = broker.queue().fetch_job(task)
    assert job is not None
    worker.prepare_execution(job)
    look = broker.backend().look()
    assert look.queues[0].executing == 1
    assert (look.workers[0].task, look.workers[0].state) == (task, "busy")


def test_a_task_taken_by_a_worker_that_is_gone_is_abandoned(broker: Broker) -> None:
    broker.publish(1)
    broker.client.lmove(broker.queue().key, broker.queue().intermediate_queue_key, "LEFT", "RIGHT")
    state = broker.backend().look().queues[0]
    assert (state.queued, state.executing, state.abandoned) == (0, 0, 1)


def test_a_killed_worker_is_gone_once_its_heartbeat_expired(broker: Broker) -> None:
    broker.start_worker(NAME).kill()
    broker.client.pexpire("rq:worker:" + NAME, 1)
    wait_for(lambda: not broker.client.exists("rq:worker:" + NAME), what="the expiry")
    broker.publish(1)
    look = broker.backend().look(["mail"])
    assert [(worker.name, worker.state, worker.version, worker.completed) for worker in look.workers] == [(NAME, "gone", "1.0.0", None)]
    assert look.unknown["workers.completed"] == NAME + ": its heartbeat has expired"


def test_a_name_without_version_is_unknown_and_says_how_to_name_it(broker: Broker) -> None:
    rq.Worker(["mail"], connection=broker.client, name="w1").register_birth()
    look = broker.backend().look()
    assert look.workers[0].version is None
    assert look.workers[0].host  # From RQ's own record.
    assert look.unknown["workers.version"] == "w1: its name does not carry the version; name workers <app>@<version>:<host>:<anything>"


def test_a_queue_that_does_not_exist_is_an_error_that_names_the_others(broker: Broker) -> None:
    broker.publish(1)
    with pytest.raises(NotFound, match="no queue mial") as caught:
        broker.backend().look(["mial"])
    assert caught.value.option == "queues" and "mail" in caught.value.sentence()
    state = broker.backend().look(["mial"], missing_ok=True).queues[0]
    assert (state.exists, state.queued) == (False, 0)


def test_an_emptied_queue_still_exists(broker: Broker) -> None:
    broker.publish(1)
    broker.start_worker(NAME, burst=True)
    assert not broker.client.exists("rq:queue:mail")
    look = broker.backend().look(["mail"])
    assert look.queues[0].exists and look.queues[0].queued == 0
    assert look.queues[0].oldest_task_age_s is None and look.unknown["queues.oldest_task_age_s"] == "mail: no task is queued"


def test_another_key_prefix(broker: Broker) -> None:
    broker.client.sadd("jobs:queues", "jobs:queue:mail")
    broker.client.rpush("jobs:queue:mail", "a", "b")
    assert broker.backend(key_prefix="jobs").look().queues[0].queued == 2
    assert broker.backend().look().queues == []
