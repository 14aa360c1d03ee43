# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What certain RQ workers have in hand: theirs alone, all of it, and refused where it is not known."""

from __future__ import annotations

import os
import signal
import socket
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import FINISH, Holder, Match, Rule

from tests.unit.conftest import wait_for

from .conftest import Broker
from .test_rq_redrive import by_rules

HERE = socket.gethostname()


def begin(broker: Broker, name: str, queue: str = "mail", function: str = "hold") -> tuple[int, str]:
    """A worker with a task in hand that does not end: its pid, and the task."""
    task = broker.queue(queue).enqueue("tasks." + function, str(broker.folder / "gate")).id
    process = broker.start_worker(name, queue)
    wait_for(lambda: broker.client.hget("rq:job:" + task, "status") == b"started", what="the task's begin")
    return process.pid, task


def holder(*pids: int) -> tuple[Holder, ...]:
    return (Holder(HERE, pids),)


def test_only_what_the_named_worker_had_in_hand_is_treated(broker: Broker) -> None:
    killed, mine = begin(broker, "mailer@2.0.0:worker1:1")
    _other, others = begin(broker, "mailer@1.0.0:worker2:1")
    os.kill(killed, signal.SIGKILL)
    report = by_rules(broker, source="executing", held_by=holder(4194305, killed))
    assert (report.matched, report.moved, report.held) == (1, 1, 1)
    assert broker.queue().get_job_ids() == [mine]
    left: list[Any] = list(broker.client.zrange("rq:wip:mail", 0, -1))
    assert [member.decode().split(":")[0] for member in left] == [others]
    # A second time there is nothing.
    assert by_rules(broker, source="executing", held_by=holder(killed)).matched == 0


def test_a_task_that_has_to_finish_is_left_named_and_counted(broker: Broker) -> None:
    pid, task = begin(broker, "mailer@2.0.0:worker1:1")
    before = broker.snapshot().keys()
    rules = (Rule(Match(task="tasks.ho*"), FINISH, name="holds"), Rule(name="all"))
    for check in (True, False):
        report = by_rules(broker, *rules, source="executing", held_by=holder(pid), check=check)
        assert (report.matched, report.moved, report.remaining, report.held) == (1, 0, 1, 1)
        holds, rest = report.rules
        assert (holds["matched"], holds["remaining"], rest["matched"]) == (1, 1, 0)
        assert [(one["id"], one["task"], one["action"]) for one in holds["sample"]] == [(task, "tasks.hold", "finish")]
    assert by_rules(broker, Rule(action=FINISH), source="executing").remaining == 1
    assert broker.snapshot().keys() == before


def test_a_task_of_another_queue_is_counted_and_not_touched(broker: Broker) -> None:
    pid, _task = begin(broker, "mailer@2.0.0:worker1:1", "bulk")
    broker.publish(1)
    report = by_rules(broker, source="executing", held_by=holder(pid), check=True)
    assert (report.matched, report.held) == (0, 1)


def test_a_worker_that_the_broker_does_not_know_is_refused(broker: Broker) -> None:
    pid, _task = begin(broker, "mailer@2.0.0:worker1:1")
    before = broker.client.zrange("rq:wip:mail", 0, -1)
    for wrong in (Holder(HERE, (4194305,)), Holder("elsewhere", (pid,)), Holder(HERE, ())):
        with pytest.raises(NotFound) as refused:
            by_rules(broker, source="executing", held_by=(*holder(pid), wrong))
        assert refused.value.option == "held_by" and f"host {wrong.hostname}" in refused.value.message
    assert broker.client.zrange("rq:wip:mail", 0, -1) == before


def test_what_makes_no_sense_is_refused(broker: Broker) -> None:
    with pytest.raises(Refused, match="Only executing tasks are in a worker's hands"):
        by_rules(broker, held_by=holder(1))
    with pytest.raises(Refused, match="Only executing tasks can be left to finish"):
        by_rules(broker, Rule(action=FINISH))
