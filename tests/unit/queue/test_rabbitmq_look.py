# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What RabbitMQ's statistics tell of workers is older than what its queues tell: no worker is called idle by them alone."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_connection import Depth
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import QueueState, Unknowns
from ansible_collections.queueops.fleet.plugins.module_utils._queue.celery_amqp import CeleryAmqpBackend
from ansible_collections.queueops.fleet.plugins.module_utils._queue.celery_control import Answers
from ansible_collections.queueops.fleet.plugins.module_utils._queue.rabbitmq import RabbitmqBackend, _Seen


def states(executing: dict[str, int | None], held: dict[str, int]) -> tuple[dict[str, str | None], dict[str, str]]:
    """The workers one and two of the queue mail, and three of the queue other."""
    seen: Any = object.__new__(_Seen)
    seen.reason, seen.held = None, held
    seen.connections = {name: {"client_properties": {"connection_name": name}} for name in ("one", "two", "three")}
    seen.consumers = {
        queue: [{"queue": {"name": queue}, "channel_details": {"connection_name": name}} for name in names]
        for queue, names in (("mail", ["one", "one", "two"]), ("other", ["three"]))
    }
    unknowns = Unknowns()
    workers = RabbitmqBackend({"url": "amqp://localhost"})._workers(seen, executing, unknowns)
    return {worker.name: worker.state for worker in workers}, unknowns.as_dict()


@pytest.mark.parametrize(
    ("executing", "held", "wanted"),
    [
        ({"mail": 1, "other": 0}, {"one": 1, "two": 0, "three": 0}, ["busy", "idle", "idle"]),
        ({"mail": 0, "other": 0}, {"one": 0, "two": 0, "three": 0}, ["idle", "idle", "idle"]),
        ({"mail": 1, "other": 0}, {"one": 0, "two": 0, "three": 0}, [None, None, "idle"]),
        ({"mail": 2, "other": None}, {"one": 1, "two": 0, "three": 0}, ["busy", None, None]),
        ({"mail": 0, "other": 0}, {"one": 0}, ["idle", None, None]),
    ],
)
def test_a_worker_is_idle_only_if_all_that_is_in_hand_is_accounted_for(
    executing: dict[str, int | None], held: dict[str, int], wanted: list[str | None]
) -> None:
    found, unknown = states(executing, held)
    assert [found[name] for name in ("one", "two", "three")] == wanted
    assert ("workers.state" in unknown) == (None in wanted)


def test_consumers_that_the_statistics_do_not_list_yet_are_missed() -> None:
    seen: Any = object.__new__(_Seen)
    seen.consumers = {"mail": [{}]}
    assert [seen.lacks_consumers("mail", Depth(0, count)) for count in (0, 1, 2)] == [False, False, True]
    assert seen.lacks_consumers("other", Depth(0, 1))


@pytest.mark.parametrize(("consumers", "nodes", "wanted"), [(0, [], 0), (1, [], 1), (0, ["w@h"], 1)])
def test_what_a_killed_celery_worker_had_in_hand_is_not_counted_twice(consumers: int, nodes: list[str], wanted: int) -> None:
    """It is back in the queue at once, and still in the statistics. A paused worker consumes nothing and has tasks in hand."""
    state = QueueState("mail", queued=1)
    answers = Answers(by={"active": {node: [] for node in nodes}}, complete=True, nodes=nodes)
    told = {"mail": {"messages_unacknowledged": 1}}
    CeleryAmqpBackend({"url": "amqp://localhost"})._executing(state, Depth(1, consumers), answers, told, Unknowns())
    assert state.executing == wanted
