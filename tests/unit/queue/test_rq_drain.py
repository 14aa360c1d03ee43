# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Draining and pausing RQ with real workers."""

from __future__ import annotations

from datetime import timedelta

import pytest
import rq
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict, NotFound, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import PauseRequest
from ansible_collections.queueops.fleet.plugins.module_utils._queue.drain import watch

from tests.unit.conftest import wait_for

from .conftest import Broker

NAME = "mailer@1.0.0:worker1:1"


def test_not_drained_while_a_task_executes(broker: Broker) -> None:
    gate = broker.folder / "gate"
    broker.start_worker(NAME)
    held = broker.queue().enqueue("tasks.hold", str(gate))
    wait_for(lambda: broker.backend().look().queues[0].executing, what="the execution")
    broker.publish(2)
    seen = watch(broker.backend(), ["mail"], include_queued=False, budget=0.3)
    assert (seen.drained, seen.executing, seen.queued) == (False, 1, 2)
    assert [(worker.name, worker.task) for worker in seen.busy] == [(NAME, held.id)]
    gate.touch()
    seen = watch(broker.backend(), ["mail"], include_queued=True, budget=20)
    assert (seen.drained, seen.executing, seen.queued) == (True, 0, 0)
    assert sorted(broker.noted()) == ["0", "1"]


def test_queued_tasks_only_count_if_asked(broker: Broker) -> None:
    broker.publish(2)
    assert watch(broker.backend(), ["mail"], include_queued=False).drained
    assert not watch(broker.backend(), ["mail"], include_queued=True, budget=0.1).drained


def test_scheduled_tasks_only_count_if_asked(broker: Broker) -> None:
    broker.publish(0)
    broker.queue().enqueue_in(timedelta(hours=1), "tasks.note", "later")
    seen = watch(broker.backend(), ["mail"], include_queued=True, budget=0.1)
    assert (seen.drained, seen.scheduled) == (True, 1)
    assert not watch(broker.backend(), ["mail"], include_queued=True, budget=0.1, include_scheduled=True).drained


def test_a_queue_that_is_not_there_is_drained_only_if_that_may_be(broker: Broker) -> None:
    assert watch(broker.backend(), ["nobody"], include_queued=True, include_scheduled=True, missing_ok=True).drained
    with pytest.raises(NotFound):
        watch(broker.backend(), ["nobody"], include_queued=True)


def test_a_worker_busy_with_another_queue_does_not_hold_this_one(broker: Broker) -> None:
    gate = broker.folder / "gate"
    broker.publish(0)
    broker.start_worker(NAME, "mail", "bulk")
    broker.queue("bulk").enqueue("tasks.hold", str(gate))
    wait_for(lambda: broker.backend().look(["bulk"]).queues[0].executing, what="the execution")
    both = watch(broker.backend(), ["mail", "bulk"], include_queued=False, budget=0.1)
    assert not both.drained and both.executing == 1
    gate.touch()


def test_a_worker_between_taking_and_recording_is_not_idle(broker: Broker) -> None:
    worker = rq.Worker(["mail"], connection=broker.client, name=NAME)
    worker.register_birth()
    worker.set_state(rq.worker.WorkerStatus.BUSY)
    assert not watch(broker.backend(), ["mail"], include_queued=False, budget=0.1).drained
    worker.set_state(rq.worker.WorkerStatus.IDLE)
    assert watch(broker.backend(), ["mail"], include_queued=False).drained


def test_pause_holds_workers_expires_and_is_shown(broker: Broker) -> None:
    broker.publish(1)
    broker.start_worker(NAME)
    wait_for(broker.noted, what="the first task")
    wait_for(lambda: any(client["cmd"] == "blmove" for client in broker.client.client_list()), what="the waiting worker")
    backend = broker.backend()
    request = PauseRequest(owner="mailer", reason="bad release", expires=600)
    told = backend.pause(["mail"], request, check=True)
    assert told.changed and not broker.client.exists("rq:suspended")
    done = backend.pause(["mail"], request)
    assert done.changed and told.before == done.before
    assert {**told.after["paused_by"], "since": 0} == {**done.after["paused_by"], "since": 0}
    assert rq.suspension.is_suspended(broker.client)
    assert 590 < broker.client.ttl("rq:suspended") <= 600
    assert "all queues of the Redis database" in done.warnings[0] and "one task" in done.warnings[0]

    state = backend.look(["mail"]).queues[0]
    assert state.paused and state.paused_by is not None
    assert (state.paused_by["owner"], state.paused_by["reason"]) == ("mailer", "bad release")
    assert 590 < state.paused_by["expires_in_s"] <= 600

    broker.publish(1)  # The idle worker takes one more before it notices, as we warn.
    wait_for(lambda: backend.look().workers[0].state == "suspended", what="the worker's notice")
    assert len(broker.noted()) == 2
    broker.publish(1)
    assert backend.look(["mail"]).queues[0].queued == 1
    assert watch(backend, ["mail"], include_queued=False).drained

    before = broker.client.dump("queueops:paused:rq")
    assert not backend.pause(["mail"], request).changed
    assert broker.client.dump("queueops:paused:rq") == before
    broker.client.expire("rq:suspended", 100)
    assert backend.pause(["mail"], request).changed  # Renewed: less than half is left.

    assert backend.resume(["mail"], "mailer", check=True).changed
    assert rq.suspension.is_suspended(broker.client)
    assert backend.resume(["mail"], "mailer").changed
    assert not backend.resume(["mail"], "mailer").changed
    wait_for(lambda: len(broker.noted()) == 3, what="the task")


def test_somebody_elses_pause_is_left_alone(broker: Broker) -> None:
    broker.publish(1)
    backend = broker.backend()
    backend.pause(["mail"], PauseRequest(owner="payments", reason="migration"))
    report = backend.pause(["mail"], PauseRequest(owner="mailer", expires=60))
    assert not report.changed and report.after["paused_by"]["owner"] == "payments"
    assert "by payments" in report.warnings[-1]
    with pytest.raises(Conflict, match="paused by payments") as caught:
        backend.resume(["mail"], "mailer")
    assert "owner=payments" in caught.value.sentence()
    assert rq.suspension.is_suspended(broker.client)


def test_a_pause_by_rq_itself_can_be_lifted(broker: Broker) -> None:
    broker.publish(1)
    rq.suspension.suspend(broker.client)
    state = broker.backend().look(["mail"]).queues[0]
    assert state.paused and state.paused_by == {"owner": None, "reason": None, "since": None, "expires_in_s": None}
    assert broker.backend().resume(["mail"], "mailer").changed
    assert not rq.suspension.is_suspended(broker.client)


def test_a_pause_that_cannot_be(broker: Broker) -> None:
    with pytest.raises(Refused) as caught:
        broker.backend().pause(["mail"], PauseRequest(owner="mailer", expires=0))
    assert caught.value.option == "expires"
