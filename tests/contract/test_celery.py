# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery with real workers: early acknowledgement, workers that do not answer, a pause that goes through them, dead letters."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue import drain
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import PauseRequest

from tests.contract.common import QUEUE, executing, places, redriven, state
from tests.contract.conftest import Servers
from tests.contract.systems.celery import CeleryRabbitmq, CeleryRedis
from tests.unit.conftest import wait_for

ME = PauseRequest("tests", "bad release")


def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="qo-"))


@pytest.fixture
def on_redis(servers: Servers) -> Iterator[CeleryRedis]:
    server = servers.get("redis7")
    server.clear()
    found = CeleryRedis(server, folder())
    yield found
    found.close()
    shutil.rmtree(found.folder, ignore_errors=True)


@pytest.fixture
def on_rabbitmq(servers: Servers) -> Iterator[CeleryRabbitmq]:
    server = servers.get("rabbitmq3")
    server.clear()
    found = CeleryRabbitmq(server, folder())
    yield found
    found.close()
    shutil.rmtree(found.folder, ignore_errors=True)


@pytest.fixture(params=["on_redis", "on_rabbitmq"])
def celery(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def test_a_task_acknowledged_before_it_runs_still_counts(celery: Any) -> None:
    """Celery's default: the broker holds nothing of the task any more, and only the worker knows of it."""
    celery.declare(QUEUE)
    celery.publish(QUEUE, 1, "hold")
    worker = celery.start_worker(QUEUE, "3.2.1", QUEUEOPS_LATE="0")
    executing(celery, 1)
    # A worker has the task in hand before one of its processes has begun it.
    wait_for(lambda: celery.open().look([QUEUE]).workers[0].task_since, what="the task's beginning")
    look = celery.open().look([QUEUE])
    (found,) = look.workers
    assert (found.name, found.version, found.host, found.pid) == (worker.node, "3.2.1", "host1", worker.pid)
    assert (found.state, found.queues, found.task_queue) == ("busy", [QUEUE], QUEUE)
    assert found.task == celery.published[0] and abs(look.at - (found.task_since or 0)) < 60
    assert not drain.watch(celery.open(), [QUEUE], False, 0.5).drained
    celery.gate.touch()
    assert drain.watch(celery.open(), [QUEUE], False, 30.0).drained
    assert celery.done() == celery.published


def test_tasks_with_an_eta_are_scheduled_and_not_taken_for_done(celery: Any) -> None:
    celery.declare(QUEUE)
    worker = celery.start_worker(QUEUE)
    celery.app.send_task("contract.note", queue=QUEUE, countdown=600)
    wait_for(lambda: state(celery).scheduled == 1, what="the scheduled task")
    assert state(celery).executing == 1
    worker.stop()
    wait_for(lambda: (state(celery).queued, state(celery).scheduled) == (1, 0), what="the task's return")


def test_a_worker_that_does_not_answer_is_not_idle(on_redis: CeleryRedis) -> None:
    """The pool solo answers between tasks alone."""
    on_redis.declare(QUEUE)
    on_redis.start_worker(QUEUE, options="--pool=solo")
    on_redis.publish(QUEUE, 1, "hold")
    wait_for(lambda: state(on_redis).executing is None, what="silence")
    look = on_redis.open(inspect_timeout=0.3).look([QUEUE])
    (worker,) = look.workers
    assert worker.state is None and "solo" in look.unknown["workers.state"]
    with pytest.raises(Refused) as caught:
        drain.watch(on_redis.open(), [QUEUE], False, 1.0)
    assert "not every worker answered" in caught.value.sentence()
    with pytest.raises(Refused):
        on_redis.open(inspect_timeout=0.3).pause([QUEUE], ME)
    assert state(on_redis).paused is False
    on_redis.gate.touch()
    wait_for(lambda: state(on_redis).executing == 0, what="its answer")


def test_a_pause_names_who_still_consumes(celery: Any) -> None:
    celery.declare(QUEUE)
    celery.declare("other")
    first, other = celery.start_worker(QUEUE), celery.start_worker("other")
    celery.open().pause([QUEUE], ME)
    paused_by = wait_for(lambda: state(celery).paused_by, what="the record")
    assert (paused_by["workers"], paused_by["still_consuming"]) == ([first.node], [])
    late = celery.start_worker(QUEUE)
    wait_for(lambda: (state(celery).paused_by or {})["still_consuming"] == [late.node], what="the late worker")
    assert celery.open().pause([QUEUE], ME).changed
    wait_for(lambda: (state(celery).paused_by or {})["still_consuming"] == [], what="its pause")
    assert (state(celery).paused_by or {})["workers"] == sorted([first.node, late.node])
    assert celery.open().resume([QUEUE], "tests").changed
    assert state(celery).paused is False

    def consuming() -> list[str]:
        look = celery.open().look()
        return sorted(worker.name for worker in look.workers if QUEUE in (worker.queues or []))

    # Those that were paused consume again; the one of another queue does not begin to.
    assert wait_for(lambda: len(consuming()) == 2 and consuming(), what="the workers") == sorted([first.node, late.node])
    assert other.node not in consuming()


def test_a_pause_of_some_of_the_queues_is_lifted_with_the_others(celery: Any) -> None:
    celery.declare(QUEUE)
    celery.declare("other")
    celery.start_worker(QUEUE)
    celery.open().pause([QUEUE], ME)
    wait_for(lambda: state(celery).paused, what="the pause")
    assert celery.open().resume(["other", QUEUE], "tests").changed
    wait_for(lambda: not state(celery).paused, what="the end of the pause")
    (task,) = celery.publish(QUEUE, 1)
    wait_for(lambda: celery.done() == [task], limit=40, what="the task")


def test_abandoned_tasks_run_once_after_their_worker_was_killed(on_redis: CeleryRedis) -> None:
    on_redis.declare(QUEUE)
    ids = on_redis.publish(QUEUE, 2, "hold")
    worker = on_redis.start_worker(QUEUE)
    executing(on_redis, 1)
    assert redriven(on_redis, source="abandoned").matched == 0, "what a living worker has in hand"
    worker.kill()
    wait_for(lambda: state(on_redis).abandoned == 1, what="the abandoned task")
    (gone,) = on_redis.open().look([QUEUE]).workers
    assert gone.state == "gone"
    assert redriven(on_redis, source="abandoned").moved == 1
    assert places(on_redis).keys() == set(ids) and state(on_redis).queued == 2
    on_redis.gate.touch()
    on_redis.start_worker(QUEUE)
    wait_for(lambda: len(on_redis.done()) == 2, limit=40, what="the tasks")
    assert sorted(on_redis.done()) == sorted(ids)


def test_a_redriven_group_keeps_its_id(on_redis: CeleryRedis) -> None:
    on_redis.declare(QUEUE)
    on_redis.broken.touch()
    worker = on_redis.start_worker(QUEUE)
    on_redis.app.send_task("contract.flaky", queue=QUEUE, task_id="t-1", group_id="g-1", args=(1, {"two": "grüße"}))
    wait_for(lambda: state(on_redis).failed == 1, limit=40, what="the failure")
    executing(on_redis, 0)  # The failure is stored before the message is acknowledged.
    worker.stop()
    assert redriven(on_redis).moved == 1
    headers = json.loads(on_redis.client.lindex(QUEUE, 0))["headers"]
    assert (headers["group"], headers["id"]) == ("g-1", "t-1")
    on_redis.broken.unlink()
    on_redis.start_worker(QUEUE)
    wait_for(lambda: on_redis.app.AsyncResult("t-1").state == "SUCCESS", limit=40, what="the result")
    assert on_redis.done() == ["t-1"]


def test_dead_letters_of_a_named_queue(on_rabbitmq: CeleryRabbitmq) -> None:
    """Without the management API, which would tell where they go."""
    on_rabbitmq.declare(QUEUE)
    ids = on_rabbitmq.fail(QUEUE, 3)
    plain = on_rabbitmq.settings()
    for settings in (dict(plain, management_url="http://127.0.0.1:9"),):
        backend = on_rabbitmq.open(**settings)
        look = backend.look([QUEUE])
        assert look.queues[0].dead_lettered is None and look.queues[0].executing is None
        assert "management" in look.unknown["queues.executing"]
        with pytest.raises(Refused) as caught:
            backend.pause([QUEUE], ME)
        assert caught.value.option == "management_url"
        named = on_rabbitmq.open(**dict(settings, dead_letter="{queue}.dead"))
        assert named.look([QUEUE]).queues[0].dead_lettered == 3
    assert redriven(on_rabbitmq).moved == 3
    assert sorted(on_rabbitmq.identities(QUEUE)) == sorted(ids)
