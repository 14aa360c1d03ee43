# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is special to Dramatiq on RabbitMQ: the message's body is changed, and nothing else of it."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import capabilities_of
from dramatiq.encoder import PickleEncoder

from tests.contract.common import QUEUE, executing, finished, redriven, state
from tests.contract.conftest import Servers
from tests.contract.systems.dramatiq import DramatiqRabbitmq
from tests.unit.conftest import wait_for
from tests.unit.queue.test_payloads_are_data import Bomb


@pytest.fixture
def rabbit(servers: Servers) -> Iterator[DramatiqRabbitmq]:
    server = servers.get("rabbitmq3")
    server.clear()
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    found = DramatiqRabbitmq(server, folder)
    found.declare(QUEUE)
    try:
        yield found
    finally:
        found.close()
        shutil.rmtree(folder, ignore_errors=True)


def dead(system: DramatiqRabbitmq, body: bytes, **properties: Any) -> None:
    """A message that died in the queue, by the broker's own dead-lettering."""
    connection = system.rabbit.connection()
    channel = connection.channel()
    channel.basic_publish(amqp.Message(body, delivery_mode=2, **properties), routing_key=QUEUE)
    message = wait_for(lambda: channel.basic_get(QUEUE), what="the message")
    channel.basic_reject(message.delivery_tag, requeue=False)
    wait_for(lambda: system.native(QUEUE)["failed"], what="the dead letter")
    connection.close()


def one(system: DramatiqRabbitmq, queue: str) -> dict[str, Any]:
    (body,) = bodies(system, queue)
    found: dict[str, Any] = json.loads(body)
    return found


def bodies(system: DramatiqRabbitmq, queue: str) -> list[bytes]:
    return [body.encode() if isinstance(body, str) else body for body in system._bodies(queue)]


def test_a_redriven_task_gets_all_its_attempts_again_and_is_counted(rabbit: DramatiqRabbitmq) -> None:
    (task,) = rabbit.publish(QUEUE, 1, "flaky")
    rabbit.broken.touch()
    worker = rabbit.start_worker(QUEUE)
    wait_for(lambda: state(rabbit).failed == 1, limit=40, what="the dead letter")
    executing(rabbit, 0)
    worker.stop()
    before = one(rabbit, QUEUE + ".XQ")
    assert before["options"]["retries"] == 1 and "no good" in before["options"]["traceback"]
    assert redriven(rabbit, run="r1").moved == 1
    assert one(rabbit, QUEUE) == dict(before, options={"queueops_redrives": 1, "queueops_run": "r1"})
    worker = rabbit.start_worker(QUEUE)
    wait_for(lambda: state(rabbit).failed == 1, limit=40, what="the dead letter")
    executing(rabbit, 0)
    worker.stop()
    again = one(rabbit, QUEUE + ".XQ")
    assert (again["message_id"], again["options"]["queueops_redrives"], again["options"]["retries"]) == (task, 1, 1)
    assert redriven(rabbit, run="r2", max_redrives=1).by_action == {"park": 1}
    assert one(rabbit, QUEUE + ".parked") == again
    rabbit.broken.unlink()
    assert redriven(rabbit, source="parked", run="r3").moved == 1
    rabbit.start_worker(QUEUE)
    finished(rabbit, [task])


def test_what_is_due_later_goes_to_the_delayed_ones(rabbit: DramatiqRabbitmq) -> None:
    later = int(time.time() * 1000) + 3600000
    message = rabbit.message(QUEUE + ".DQ", "note", eta=later)
    dead(rabbit, message.encode())
    assert redriven(rabbit).moved == 1
    found = one(rabbit, QUEUE + ".DQ")
    assert (found["queue_name"], found["options"]["eta"], state(rabbit).scheduled) == (QUEUE + ".DQ", later, 1)


def test_the_properties_are_kept(rabbit: DramatiqRabbitmq) -> None:
    dead(rabbit, rabbit.failed(QUEUE, "note").encode(), priority=5, application_headers={"trace": "t1"}, correlation_id="c1")
    assert redriven(rabbit).moved == 1
    connection = rabbit.rabbit.connection()
    message = connection.channel().basic_get(QUEUE)
    connection.close()
    assert (message.properties["priority"], message.properties["correlation_id"], message.properties["delivery_mode"]) == (5, "c1", 2)
    assert message.headers["trace"] == "t1"


def test_another_queue_is_written_into_the_message(rabbit: DramatiqRabbitmq) -> None:
    rabbit.declare("undo")
    rabbit.fail(QUEUE, 1)
    assert redriven(rabbit, Rule(action="compensate", destination="undo")).moved == 1
    found = one(rabbit, "undo")
    assert (found["queue_name"], found["options"]["queueops_action"]) == ("undo", "compensate")


def test_a_pickled_message_is_carried_and_not_loaded(rabbit: DramatiqRabbitmq) -> None:
    rabbit.declare("undo")
    mark = rabbit.folder / "executed"
    body = PickleEncoder().encode({"queue_name": QUEUE, "args": (Bomb(mark),), "message_id": "m1", "options": {}})
    dead(rabbit, body)
    for conditions in ({"task": "*"}, {"field": {"args.0": "1"}}, {"error": "x"}, {"header": {"x": "1"}}):
        match: dict[str, Any] = conditions
        assert redriven(rabbit, Rule(Match(**match)), check=True).moved == 0
    assert redriven(rabbit, Rule(action="compensate", destination="undo")).moved == 0
    assert redriven(rabbit, Rule(action="park")).moved == 1
    assert redriven(rabbit, source="parked").moved == 1
    assert bodies(rabbit, QUEUE) == [body]
    assert not mark.exists()


def test_queued_tasks_are_parked_and_not_requeued_to_where_they_are(rabbit: DramatiqRabbitmq) -> None:
    ids = rabbit.publish(QUEUE, 3)
    with pytest.raises(Refused) as caught:
        redriven(rabbit, source="queued")
    assert caught.value.option == "source"
    assert redriven(rabbit, Rule(Match(ids=(ids[1],)), "park"), source="queued").moved == 1
    assert (state(rabbit).queued, one(rabbit, QUEUE + ".parked")["message_id"]) == (2, ids[1])


def test_a_look_without_the_management_api_says_what_it_does_not_know(rabbit: DramatiqRabbitmq) -> None:
    rabbit.publish(QUEUE, 2)
    rabbit.start_worker(QUEUE)
    look = rabbit.open(management_url="http://127.0.0.1:9", connect_timeout=1.0).look([QUEUE])
    (found,) = look.queues
    assert (found.failed, found.executing, found.scheduled) == (0, None, None)
    assert "management" in look.unknown["queues.executing"] and "management" in look.unknown["queues.scheduled"]


def test_only_queues_of_dramatiq_are_listed(rabbit: DramatiqRabbitmq) -> None:
    rabbit.fail(QUEUE, 1)
    assert redriven(rabbit, Rule(action="park")).moved == 1
    wait_for(lambda: [entry.name for entry in rabbit.open().look().queues] == [QUEUE], what="the list of queues")
    assert "list_queues" in capabilities_of("dramatiq", rabbit.server.url).can
