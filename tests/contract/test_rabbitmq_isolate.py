# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A task type moved out of a live queue of a real RabbitMQ into a queue of its own, and back; and what that does for the others."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from amqp import Message

from tests.contract.rabbit import Rabbit, rabbit
from tests.contract.rabbit_routes import NEW, OLD, ROUTE, Publisher, divide, looked, routes, taken
from tests.unit.conftest import wait_for
from tests.unit.route.ad_hoc import ad_hoc

__all__ = ["rabbit", "routes"]

TASK, OWN = "orders.newsletter", "orders-newsletter"
TRIES = 60
ISOLATE = {"route": ROUTE, "task": TASK, "queue": OWN}


def module(rabbit: Rabbit, name: str, options: dict[str, Any], check: bool = False) -> dict[str, Any]:
    """Run a module as an ad-hoc task on this host; what it returned."""
    given = {**options, "backend": "rabbitmq", "url": rabbit.server.url, "management_url": rabbit.server.management}
    return ad_hoc(name, given, check)


def test_a_task_type_goes_out_of_a_live_queue_and_back_without_loss(routes: Rabbit) -> None:
    divided = {"route": ROUTE, "weights": {"1.0.0": 60, "2.0.0": 40}}
    assert module(routes, "queue_route", divided, check=True)["weights"] == {"1.0.0": 60, "2.0.0": 40}
    assert not module(routes, "queue_route_info", {"route": ROUTE})["exists"]
    assert module(routes, "queue_isolate", dict(ISOLATE, state="isolated"))["msg"].startswith("There is no route orders")
    assert module(routes, "queue_route", divided)["changed"]
    publisher = Publisher(routes)
    publisher.publish([f"new-{number}" for number in range(200)], headers={"task": TASK})
    publisher.publish([f"old-{number}" for number in range(200)], headers={"task": "orders.invoice"})
    missing = module(routes, "queue_isolate", dict(ISOLATE, state="isolated"))
    assert OWN in missing["msg"] and not looked(routes).apart
    routes.make(OWN)

    state = {"state_dir": str(routes.folder / "state")}
    foreseen = module(routes, "queue_isolate", dict(ISOLATE, state="isolated", **state), check=True)
    assert foreseen["changed"] and sum(foreseen["moved"].values()) == 200 and not looked(routes).apart
    done = module(routes, "queue_isolate", dict(ISOLATE, state="isolated", **state))
    assert done["changed"] and done["moved"] == foreseen["moved"] and set(done["moved"]) == {OLD, NEW}
    assert not module(routes, "queue_isolate", dict(ISOLATE, state="isolated", **state))["changed"]
    publisher.publish(["new-later"], headers={"task": TASK})
    publisher.publish(["old-later"], headers={"task": "orders.invoice"})
    assert publisher.unroutable == 0
    assert sorted(taken(routes, OWN)) == sorted([*(f"new-{number}" for number in range(200)), "new-later"])
    assert sorted(taken(routes, OLD) + taken(routes, NEW)) == sorted([*(f"old-{number}" for number in range(200)), "old-later"])

    publisher.publish(["left"], headers={"task": TASK})
    back = module(routes, "queue_isolate", dict(ISOLATE, state="joined", **state))
    assert back["changed"] and back["moved"] == {OWN: 1} and back["routed"]
    assert not module(routes, "queue_isolate", dict(ISOLATE, state="joined", **state))["changed"]
    publisher.publish(["divided again"], headers={"task": TASK})
    publisher.close()
    assert sorted(taken(routes, OLD) + taken(routes, NEW)) == ["divided again", "left"]
    told = module(routes, "queue_route_info", {"route": ROUTE})
    assert [(one["version"], one["weight"], one["state"]) for one in told["versions"]] == [("1.0.0", 60, "active"), ("2.0.0", 40, "active")]


@pytest.mark.parametrize(
    ("queue", "told"), [(OLD, "one of the versions' queues"), ("elsewhere", "are apart already, in the queue orders-newsletter")]
)
def test_a_queue_that_is_not_the_task_s_own_is_refused(routes: Rabbit, queue: str, told: str) -> None:
    divide(routes, {"1.0.0": 100})
    routes.make(OWN)
    routes.make("elsewhere")
    state = {"state_dir": str(routes.folder / "state")}
    module(routes, "queue_isolate", dict(ISOLATE, state="isolated", **state))
    before = looked(routes)
    refused = module(routes, "queue_isolate", dict(ISOLATE, queue=queue, state="isolated", **state))
    assert told in refused["msg"] and "Nothing was changed" in refused["msg"]
    assert looked(routes) == before


class Worker:
    """Works on one queue, one task after the other: 1 ms each, and the new task type 30 ms, after which it fails and is tried again.

    As Celery does it: at the tail of the queue that it was taken from, and at most so often.

    :ivar latencies: seconds from publishing to the end of each of the other tasks.
    :ivar outcomes: by task type: succeeded, failed.
    """

    def __init__(self, rabbit: Rabbit, queue: str) -> None:
        self._rabbit, self._queue, self._ends = rabbit, queue, threading.Event()
        self._failed_at = 0.0
        self.latencies: list[float] = []
        self.outcomes: dict[str, list[int]] = {}

    def fails_no_more(self) -> bool:
        return time.monotonic() - self._failed_at > 1.0

    def has_done(self, count: int) -> bool:
        return len(self.latencies) >= count

    def _work(self, message: Any) -> None:
        if self._ends.is_set():
            return  # It comes while the connection is being closed, and is put back with it.
        task = message.headers["task"]
        outcome = self.outcomes.setdefault(task, [0, 0])
        time.sleep(0.03 if task == TASK else 0.001)
        if task == TASK:
            outcome[1] += 1
            self._failed_at = time.monotonic()
            headers = dict(message.headers, tries=message.headers.get("tries", 0) + 1)
            if headers["tries"] < TRIES:
                message.channel.basic_publish(Message(message.body, application_headers=headers), routing_key=self._queue)
            message.channel.basic_ack(message.delivery_tag)
            return
        outcome[0] += 1
        self.latencies.append(time.monotonic() - float(message.headers["sent"]))
        message.channel.basic_ack(message.delivery_tag)

    def _run(self) -> None:
        with self._rabbit.server.connection() as connection:
            channel = connection.channel()
            channel.basic_qos(0, 1, False)
            channel.basic_consume(self._queue, callback=self._work)
            while not self._ends.is_set():
                try:
                    connection.drain_events(timeout=0.2)
                except TimeoutError:
                    continue

    @contextmanager
    def working(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._ends.set()
            thread.join()


def latency_of_the_others(rabbit: Rabbit, worker: Worker, count: int = 150) -> float:
    """The median latency (s) of so many tasks, published one after the other's end."""
    begun = len(worker.latencies)
    with rabbit.server.connection() as connection:
        channel = connection.channel()
        for number in range(count):
            done = len(worker.latencies)
            headers = {"task": "orders.invoice", "sent": str(time.monotonic())}
            channel.basic_publish(Message("x", application_headers=headers), exchange=ROUTE, routing_key=str(number))
            wait_for(partial(worker.has_done, done + 1), what="the task to be done")
    return statistics.median(worker.latencies[begun:])


def test_a_type_that_always_fails_does_not_concern_the_others_once_it_is_apart(routes: Rabbit) -> None:
    divide(routes, {"1.0.0": 100})
    routes.make(OWN)
    shared, own = Worker(routes, OLD), Worker(routes, OWN)
    with shared.working(), own.working():
        alone = latency_of_the_others(routes, shared)
        publisher = Publisher(routes)
        publisher.publish([str(number) for number in range(20)], headers={"task": TASK})
        publisher.close()
        beside = latency_of_the_others(routes, shared, 15)
        assert shared.outcomes[TASK][1] > 0
        options = dict(ISOLATE, state="isolated", state_dir=str(routes.folder / "state"))
        moved = module(routes, "queue_isolate", options)["moved"][OLD]
        # What the worker had in hand then is tried there as often as it may be.
        wait_for(shared.fails_no_more, limit=60, what="the last one to be tried for the last time")
        failed = shared.outcomes[TASK][1]
        apart = latency_of_the_others(routes, shared)
        assert shared.outcomes[TASK][1] == failed and own.outcomes[TASK][1] > 0
    told = "median latency of the others: %.1f ms alone, %.1f ms beside it, %.1f ms with it apart; %d moved at once"
    print(told % (alone * 1000, beside * 1000, apart * 1000, moved))
    assert shared.outcomes["orders.invoice"] == [315, 0]
    # A busy machine has its share in each of them; what the new type did has another size.
    assert 10 * max(alone, apart) < beside, told % (alone * 1000, beside * 1000, apart * 1000, moved)
