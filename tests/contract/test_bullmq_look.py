# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""BullMQ's workers are known by the names of their connections, and its own pause is ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import PauseRequest, QueueState

from tests.contract.systems.bullmq import Bullmq
from tests.contract.test_bullmq_redrive import QUEUE, Given
from tests.unit.conftest import RedisServer, wait_for


@pytest.fixture
def bullmq(redis_server: RedisServer, tmp_path: Path) -> Iterator[Bullmq]:
    found = Bullmq(Given(redis_server.url), tmp_path)
    found.declare(QUEUE)
    yield found
    found.client.acl_deluser("watcher")
    found.close()


def queue_state(bullmq: Bullmq) -> QueueState:
    return bullmq.open().look([QUEUE]).queues[0]


def test_workers_their_versions_and_tasks(bullmq: Bullmq) -> None:
    (held,) = bullmq.publish(QUEUE, 1, "hold")
    bullmq.start_worker(QUEUE, "1.0.0")
    wait_for(lambda: queue_state(bullmq).executing == 1, what="the task")
    bullmq.start_worker(QUEUE, "2.0.0")
    bullmq.start_worker("elsewhere")
    look = bullmq.open().look([QUEUE])
    assert sorted(worker.name for worker in look.workers) == sorted(name.partition(":w:")[2] for name in bullmq.tool("workers", QUEUE))
    busy, idle = sorted(look.workers, key=lambda worker: worker.version or "")
    assert (busy.version, busy.host, busy.state, busy.task, busy.task_queue) == ("1.0.0", "worker1", "busy", held, QUEUE)
    assert busy.task_since is not None and 0 <= look.at - busy.task_since < 60
    assert (idle.version, idle.state, idle.task) == ("2.0.0", "idle", None)
    assert idle.started is not None and idle.started <= look.at
    assert bullmq.open().look(["elsewhere"]).queues[0].exists
    bullmq.gate.touch()


def test_a_killed_worker_is_gone_with_its_task(bullmq: Bullmq) -> None:
    (held,) = bullmq.publish(QUEUE, 1, "hold")
    worker = bullmq.start_worker(QUEUE)
    wait_for(lambda: queue_state(bullmq).executing == 1, what="the task")
    worker.kill()
    (found,) = wait_for(lambda: [one for one in bullmq.open().look([QUEUE]).workers if one.state == "gone"], what="the worker's end")
    assert (found.name, found.task, found.started) == ("mailer@1.0.0:worker1:1", held, None)


def test_workers_of_another_database_are_none_of_this_one(bullmq: Bullmq) -> None:
    bullmq.publish(QUEUE, 1)
    bullmq.start_worker(QUEUE)
    wait_for(lambda: bullmq.open().look([QUEUE]).workers, what="the worker")
    assert bullmq.open(url=bullmq.server.url[:-1] + "1").look([QUEUE], missing_ok=True).workers == []


def test_workers_are_unknown_where_connections_may_not_be_listed(bullmq: Bullmq) -> None:
    bullmq.publish(QUEUE, 2)
    bullmq.client.acl_setuser("watcher", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-client|list"])
    look = bullmq.open(username="watcher", password="pw").look([QUEUE])
    assert (look.queues[0].queued, look.workers) == (2, [])
    assert "CLIENT LIST" in look.unknown["workers"]


def test_a_worker_without_a_name_is_not_called_idle_while_it_may_work(bullmq: Bullmq) -> None:
    bullmq.publish(QUEUE, 1, "hold")
    bullmq.start_unnamed_worker(QUEUE)
    wait_for(lambda: queue_state(bullmq).executing == 1, what="the task")
    look = bullmq.open().look([QUEUE])
    assert [worker.state for worker in look.workers] == [None] and "workers.state" in look.unknown
    bullmq.gate.touch()
    wait_for(lambda: queue_state(bullmq).executing == 0, what="the end of the task")
    assert [worker.state for worker in bullmq.open().look([QUEUE]).workers] == ["idle"]


def test_the_oldest_of_all_that_is_queued_counts(bullmq: Bullmq) -> None:
    (early,) = bullmq.publish(QUEUE, 1, priority=4)
    bullmq.publish(QUEUE, 1)
    at = bullmq.open().look([QUEUE]).at
    bullmq.client.hset(bullmq.key(QUEUE, early), "timestamp", int((at - 50) * 1000))
    age = queue_state(bullmq).oldest_task_age_s
    assert age is not None and 49 < age < 60


def test_our_pause_is_bullmqs_own_and_wakes_idle_workers_when_lifted(bullmq: Bullmq) -> None:
    bullmq.start_worker(QUEUE)
    backend = bullmq.open()
    assert backend.pause([QUEUE], PauseRequest("deploy", "bad release", 600)).changed
    assert bullmq.tool("isPaused", QUEUE) is True
    ids = bullmq.publish(QUEUE, 3)
    assert bullmq.native(QUEUE)["queued"] == 3
    assert backend.resume([QUEUE], "deploy").changed
    assert bullmq.tool("isPaused", QUEUE) is False
    wait_for(lambda: bullmq.done() == ids, what="the tasks")


def test_a_pause_by_bullmq_itself_has_no_owner_and_may_be_lifted(bullmq: Bullmq) -> None:
    bullmq.tool("pause", QUEUE)
    found = queue_state(bullmq)
    assert found.paused and found.paused_by == {"owner": None, "reason": None, "since": None, "expires_in_s": None}
    told = bullmq.open().pause([QUEUE], PauseRequest("deploy"))
    assert not told.changed and "unrecorded" in told.warnings[0]
    assert bullmq.open().resume([QUEUE], "deploy").changed
    assert queue_state(bullmq).paused is False
