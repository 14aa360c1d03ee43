# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks divided among versions by a real RabbitMQ: sticky, monotone, none lost, none doubled."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._route.rabbitmq import RabbitmqRouter
from ansible_collections.queueops.fleet.plugins.module_utils._route.route import Route, planned

from tests.contract.rabbit import Rabbit, rabbit
from tests.contract.rabbit_routes import KEYS, NEW, OLD, ROUTE, TEMPLATE, Publisher, divide, listening, looked, router, routes, taken
from tests.unit.conftest import wait_for

__all__ = ["rabbit", "routes"]


def published(rabbit: Rabbit, keys: list[str] = KEYS) -> set[str]:
    """Publish one task of each key; the keys that version 2 got. Each went to one version."""
    publisher = Publisher(rabbit)
    publisher.publish(keys)
    assert publisher.unroutable == 0
    publisher.close()
    old, new = taken(rabbit, OLD), taken(rabbit, NEW)
    assert sorted(old + new) == sorted(keys)
    return set(new)


def test_a_share_keeps_its_keys_when_it_grows_and_gives_back_first_what_came_last(routes: Rabbit) -> None:
    assert divide(routes, {"1.0.0": 90, "2.0.0": 10})
    ten = published(routes)
    assert 900 <= len(ten) <= 1100
    assert divide(routes, {"1.0.0": 75, "2.0.0": 25})
    assert ten < published(routes)
    assert divide(routes, {"1.0.0": 90, "2.0.0": 10})
    assert published(routes) == ten
    assert divide(routes, {"1.0.0": 100, "2.0.0": 0})
    assert published(routes) == set()
    assert not divide(routes, {"1.0.0": 100, "2.0.0": 0})
    some = KEYS[:500]
    assert divide(routes, {"1.0.0": 0, "2.0.0": 100})
    assert published(routes, some) == set(some)
    assert divide(routes, {"1.0.0": 90, "2.0.0": 10})
    assert published(routes, some) == ten & set(some)


def test_the_key_may_be_a_property_or_a_header(routes: Rabbit) -> None:
    divide(routes, {"1.0.0": 50, "2.0.0": 50}, key="property:correlation_id")
    publisher = Publisher(routes)
    for _time in range(2):
        for customer in KEYS[:40]:
            publisher.publish([customer], correlation_id=customer)
    publisher.close()
    old, new = set(taken(routes, OLD)), set(taken(routes, NEW))
    assert old and new and not old & new
    with pytest.raises(Refused, match="divides the tasks by property:correlation_id, and cannot be made to"):
        divide(routes, {"1.0.0": 100, "2.0.0": 0})


def test_a_third_version_takes_from_the_second_which_has_all(routes: Rabbit) -> None:
    divide(routes, {"1.0.0": 100})
    divide(routes, {"1.0.0": 0, "2.0.0": 100})
    divide(routes, {"2.0.0": 80, "3.0.0": 20})
    found = looked(routes)
    assert (found.rest, found.weights()) == ("2.0.0", {"1.0.0": 0, "2.0.0": 80, "3.0.0": 20})
    publisher = Publisher(routes)
    publisher.publish(KEYS[:2000])
    publisher.close()
    assert not taken(routes, OLD)
    assert 300 <= len(taken(routes, "orders-3.0.0")) <= 500


def test_routes_changed_under_load_lose_and_double_nothing(routes: Rabbit) -> None:
    divide(routes, {"1.0.0": 100, "2.0.0": 0})
    publishers = [Publisher(routes) for _number in range(2)]
    done, counts = threading.Event(), [0, 0]

    def load(number: int) -> None:
        while not done.is_set():
            at = counts[number]
            publishers[number].publish([f"{number}-{each}" for each in range(at, at + 200)])
            counts[number] += 200
            # At a rate that can be counted afterwards in a few seconds.
            done.wait(0.1)

    def published_more(than: int) -> bool:
        return sum(counts) > than

    began = time.monotonic()
    threads = [threading.Thread(target=load, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        for share in (10, 50, 100, 30, 0):
            before = sum(counts)
            divide(routes, {"1.0.0": 100 - share, "2.0.0": share})
            wait_for(partial(published_more, before), what="tasks to be published after the change")
        divide(routes, {"1.0.0": 0, "2.0.0": 100})
        # The rest changes hands, under load too.
        divide(routes, {"1.0.0": 0, "2.0.0": 60, "3.0.0": 40})
    finally:
        done.set()
        for thread in threads:
            thread.join()
    rate = sum(counts) / (time.monotonic() - began)
    print(f"{rate:.0f} publishes/s")
    assert rate >= 1000, "too slow a load"
    for publisher in publishers:
        assert publisher.unroutable == 0
        publisher.close()
    found = taken(routes, OLD) + taken(routes, NEW) + taken(routes, "orders-3.0.0")
    assert len(found) == len(set(found)) == sum(counts)
    assert set(found) == {f"{number}-{each}" for number in (0, 1) for each in range(counts[number])}


class Dies(RabbitmqRouter):
    """Ends after so many changes at the broker."""

    left = 0

    def _do(self, method: str, **arguments: Any) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        super()._do(method, **arguments)


def test_after_a_death_at_any_change_each_task_goes_to_one_version_and_the_same_call_ends_it(routes: Rabbit) -> None:
    divide(routes, {"1.0.0": 100})
    divide(routes, {"1.0.0": 0, "2.0.0": 100})
    publisher = Publisher(routes)
    step, ended = 0, False
    while not ended:
        own = Dies({"url": routes.server.url, "management_url": routes.server.management})
        own.left = step
        change = planned(own.look(ROUTE), {"1.0.0": 0, "2.0.0": 97, "3.0.0": 3}, TEMPLATE)
        try:
            own.apply(ROUTE, "routing_key", change)
            ended = True
        except KeyboardInterrupt:
            pass
        publisher.publish(KEYS[:300])
        assert publisher.unroutable == 0
        found = [key for queue in (OLD, NEW, "orders-3.0.0") for key in taken(routes, queue)]
        assert sorted(found) == sorted(KEYS[:300])
        # One change further each time: the first ones, in which the rest changes hands, one by one, and then in strides.
        step = step + 1 if step < 5 else step + 20
    publisher.close()
    assert looked(routes).weights() == {"1.0.0": 0, "2.0.0": 97, "3.0.0": 3}


def test_a_version_is_removed_once_nothing_is_routed_to_it_and_nobody_listens(routes: Rabbit) -> None:
    divide(routes, {"1.0.0": 50, "2.0.0": 50})
    with pytest.raises(Refused, match=r"Version 1\.0\.0 has 50 % of the tasks of route orders and no weight"):
        divide(routes, {"2.0.0": 100})
    divide(routes, {"1.0.0": 0, "2.0.0": 100})
    with routes.server.connection() as worker:
        worker.channel().basic_consume(OLD)
        with pytest.raises(Refused, match=r"1 consumers listen to its queue orders-1\.0\.0, and would be stranded"):
            divide(routes, {"2.0.0": 100}, remove=("1.0.0",))
    wait_for(lambda: not listening(routes, OLD), what="the worker to be gone")
    routes.put(OLD, routes.classic.message("a retry", "note"))
    with pytest.raises(Refused, match="not empty"):
        divide(routes, {"2.0.0": 100}, remove=("1.0.0",))
    assert taken(routes, OLD)
    divide(routes, {"2.0.0": 100}, remove=("1.0.0",))
    assert OLD not in routes.server.queues()
    assert looked(routes).queues == {"2.0.0": NEW}
    assert not divide(routes, {"2.0.0": 100}, remove=("1.0.0",))


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"1.0.0": 60, "2.0.0": 30}, "sum to 90, and not to 100"),
        ({"1.0.0": 110, "2.0.0": -10}, "The weight of version 1.0.0 is 110"),
        ({"1.0.0": 90, "9.0.0": 10}, r"Version 9\.0\.0 is not known: there is no queue orders-9\.0\.0"),
        ({}, "sum to 0"),
    ],
)
def test_what_is_no_division_is_refused_and_nothing_changed(routes: Rabbit, weights: dict[str, int], told: str) -> None:
    divide(routes, {"1.0.0": 100})
    before = routes.server.ask("GET", "/api/bindings/%2F")
    with pytest.raises(Refused, match=told):
        divide(routes, weights)
    assert routes.server.ask("GET", "/api/bindings/%2F") == before


def test_an_exchange_that_is_no_route_is_left_alone(routes: Rabbit) -> None:
    routes.server.ask("PUT", "/api/exchanges/%2F/" + ROUTE, {"type": "direct", "durable": True})
    with pytest.raises(Refused, match="and it is no route"):
        divide(routes, {"1.0.0": 100})
    with pytest.raises(Unavailable, match="does not tell"):
        router(routes, management_url="http://127.0.0.1:1").look(ROUTE)


def test_who_may_not_change_routes_is_told_so(routes: Rabbit) -> None:
    ask = routes.server.ask
    ask("PUT", "/api/users/reader", {"password": "swordfish", "tags": "management"})
    ask("PUT", "/api/permissions/%2F/reader", {"configure": "", "write": "", "read": ".*"})
    try:
        own = router(routes, username="reader", password="swordfish")
        change = planned(own.look(ROUTE), {"1.0.0": 100}, TEMPLATE)
        with pytest.raises(Refused, match="may not do this"):
            own.apply(ROUTE, "routing_key", change)
        assert router(routes).look(ROUTE) is None
    finally:
        ask("DELETE", "/api/users/reader")


def test_a_route_is_read_from_the_broker_alone(routes: Rabbit) -> None:
    assert router(routes).look(ROUTE) is None
    divide(routes, {"1.0.0": 99, "2.0.0": 1})
    assert router(routes).look(ROUTE) == Route(ROUTE, "routing_key", {"1.0.0": OLD, "2.0.0": NEW}, ("2.0.0",) + ("1.0.0",) * 99, "1.0.0")
