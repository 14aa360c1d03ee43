# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redrives on RabbitMQ that die, and brokers that die under them: no task is lost, and none is there twice."""

from __future__ import annotations

import json
import re
from collections import Counter

import amqp
import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict, FleetError, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive

from tests.contract.rabbit import DEAD, QUEUE, Died, Rabbit, dying_at, rabbit
from tests.unit.conftest import wait_for

__all__ = ["rabbit"]

both_kinds = pytest.mark.parametrize("kind", ["classic", "quorum"])


def names(count: int) -> list[str]:
    return ["t%06d" % number for number in range(count)]


def up_again(rabbit: Rabbit, *queues: str, count: int) -> None:
    rabbit.server.start()
    # A quorum queue counts what it has read of its log so far.
    wait_for(lambda: sum(rabbit.depth(queue) for queue in queues) >= count, limit=60, what="the broker to have read its log")


@both_kinds
def test_a_broker_killed_in_the_middle_loses_nothing(rabbit: Rabbit, kind: str) -> None:
    """SIGKILL of the broker itself: it forgets acknowledgements, and what it had not confirmed is told by what the queues hold."""
    system = rabbit.of(kind)
    queue = "killed-" + kind
    dead = queue + ".dead"
    system.declare(queue)
    # By a publisher that has them confirmed: of dead letters a broker that is killed forgets the last ones by itself.
    ids = names(300)
    rabbit.put(dead, *[system.message(task, "note") for task in ids])
    # A broker that is killed also forgets a quorum queue that it made a few seconds ago.
    rabbit.server.stop()
    up_again(rabbit, dead, count=300)
    request = rabbit.request(queue=queue, run="k1")
    with pytest.raises(Unavailable) as caught:
        redrive(dying_at(rabbit.open(), 6, rabbit.server.kill), request)
    up_again(rabbit, dead, queue, count=300)
    assert 0 < caught.value.details["moved"] < 300
    redrive(rabbit.open(), request)
    assert Counter(rabbit.ids(queue)) == Counter(ids) and rabbit.depth(dead) == 0


@both_kinds
def test_tasks_published_while_the_broker_was_killed_are_not_taken_for_redriven_ones(rabbit: Rabbit, kind: str) -> None:
    """The destination is longer by as much as the batch has tasks, but these are others."""
    system = rabbit.of(kind)
    queue = "busy-" + kind
    dead = queue + ".dead"
    system.declare(queue)
    ids = names(60)
    rabbit.put(dead, *[system.message(task, "note") for task in ids])
    rabbit.server.stop()
    up_again(rabbit, dead, count=60)
    request = rabbit.request(queue=queue, run="k1")
    with pytest.raises(Died):
        redrive(dying_at(rabbit.open(), 3, rabbit.server.kill, sends=False), request)
    rabbit.server.start()
    wait_for(lambda: rabbit.depth(dead) + rabbit.depth(queue) >= 60, limit=60, what="the broker to have read its log")
    others = ["new%d" % number for number in range(15)]
    rabbit.put(queue, *[system.message(task, "note") for task in others])
    redrive(rabbit.open(), request)
    assert Counter(rabbit.ids(queue)) == Counter(ids + others) and rabbit.depth(dead) == 0


@both_kinds
def test_a_broker_restarted_in_the_middle_of_a_hundred_thousand(rabbit: Rabbit, kind: str) -> None:
    queue, count = "many-" + kind, 100_000
    dead = queue + ".dead"
    rabbit.of(kind).declare(queue)
    ids = names(count)
    rabbit.fill(dead, ids)
    request = rabbit.request(queue=queue, run="k1")
    with pytest.raises(Unavailable) as caught:
        redrive(dying_at(rabbit.open(), 30, rabbit.server.stop, 1000), request)
    moved = caught.value.details["moved"]
    # A batch is what was delivered in time: rarely less than a thousand.
    assert 20_000 < moved <= 29_000 and "%d tasks are known to be moved" % moved in caught.value.sentence()
    assert caught.value.next_step
    up_again(rabbit, dead, queue, count=count)
    redrive(rabbit.open(), request)
    assert rabbit.depth(dead) == 0 and rabbit.depth(queue) == count
    assert Counter(rabbit.drained(queue, count)) == Counter(ids)


@both_kinds
def test_what_no_rule_takes_outlives_a_restart_of_the_broker(rabbit: Rabbit, kind: str) -> None:
    """In a quorum queue it was published to the tail again, and is not taken for what was acknowledged and came back."""
    queue = "left-" + kind
    dead = queue + ".dead"
    rabbit.of(kind).declare(queue)
    ids = names(200)
    rabbit.fill(dead, ids)
    request = rabbit.request(Rule(Match(ids=(ids[3], ids[77]))), queue=queue, run="k1")
    backend = dying_at(rabbit.open(), 7 if kind == "quorum" else 2, rabbit.server.stop)
    with pytest.raises(FleetError):
        redrive(backend, request)
    up_again(rabbit, dead, queue, count=200)
    redrive(rabbit.open(), request)
    assert Counter(rabbit.ids(dead) + rabbit.ids(queue)) == Counter(ids)
    assert sorted(rabbit.ids(queue)) == [ids[3], ids[77]]


@pytest.mark.parametrize("commit", range(2, 9))
def test_killed_while_the_tail_of_a_quorum_queue_takes_what_no_rule_took(rabbit: Rabbit, commit: int) -> None:
    """Some of it came back from this very run, so that its headers do not tell the copy from the original."""
    rabbit.quorum.declare(QUEUE)
    ids = names(400)
    rabbit.fill(DEAD, ids[:200])
    assert rabbit.redriven(run="r1").moved == 200
    rabbit.move_all(QUEUE, DEAD)
    rabbit.fill(DEAD, ids[200:])
    request = rabbit.request(Rule(Match(ids=(ids[250],))), run="r1")
    with pytest.raises(Died):
        redrive(dying_at(rabbit.open(), commit, batch=90), request)
    redrive(rabbit.open(), request)
    assert Counter(rabbit.ids(DEAD) + rabbit.ids(QUEUE)) == Counter(ids)
    assert rabbit.ids(QUEUE) == [ids[250]]


@both_kinds
def test_a_run_that_died_in_a_commit_is_awaited_by_the_next(rabbit: Rabbit, kind: str) -> None:
    """The broker still works on what the dead one sent last, when the next one begins at once."""
    rabbit.of(kind).declare(QUEUE)
    ids = names(12000)
    rabbit.fill(DEAD, ids, b"x" * 1000)
    request = rabbit.request(run="r1")
    for _death in range(3):
        with pytest.raises(Died):
            redrive(dying_at(rabbit.open(), 2, batch=2000), request)
    redrive(rabbit.open(), request)
    assert rabbit.depth(DEAD) == 0
    assert Counter(rabbit.drained(QUEUE, rabbit.depth(QUEUE))) == Counter(ids)


def forget(rabbit: Rabbit, queue: str, ids: list[str]) -> None:
    """Take these out of a queue, as a broker that was busy when the publisher died, or as workers."""
    with rabbit.server.connection() as connection:
        channel = connection.channel()
        while (message := channel.basic_get(queue)) is not None:
            if message.properties["message_id"] in ids:
                channel.basic_ack(message.delivery_tag)


def cut_off(rabbit: Rabbit) -> tuple[list[str], RedriveRequest]:
    """A redrive of 60 tasks into a quorum queue that dies before it is told that its second batch of 20 was taken."""

    def taken() -> None:
        wait_for(lambda: rabbit.depth(QUEUE) == 40, what="two batches of twenty to be there")

    rabbit.quorum.declare(QUEUE)
    ids = names(60)
    rabbit.fill(DEAD, ids)
    request = rabbit.request(run="r1")
    with pytest.raises(Died):
        redrive(dying_at(rabbit.open(), 2, taken), request)
    wait_for(lambda: rabbit.depth(DEAD) == 40, what="the end of the run that died")
    return ids, request


@pytest.mark.parametrize("came", [0, 1, 13, 19])
def test_what_a_quorum_queue_forgot_of_the_last_batch_is_sent_again(rabbit: Rabbit, came: int) -> None:
    """Measured under load: the mark says that the batch was taken, and its tail is not there."""
    ids, request = cut_off(rabbit)
    forget(rabbit, QUEUE, ids[20 + came : 40])
    report = redrive(rabbit.open(), request)
    assert not any("twice" in warning for warning in report.warnings)
    assert Counter(rabbit.ids(QUEUE)) == Counter(ids) and rabbit.depth(DEAD) == 0


def test_what_cannot_be_told_of_a_quorum_queue_is_sent_again_and_said(rabbit: Rabbit) -> None:
    """Workers took all that came, so whether all came is not known: rather twice than lost."""
    ids, request = cut_off(rabbit)
    forget(rabbit, QUEUE, ids)
    report = redrive(rabbit.open(), request)
    said = [warning for warning in report.warnings if "twice" in warning]
    assert len(said) == 1 and "20 tasks" in said[0] and ids[20] in said[0]
    assert Counter(rabbit.ids(QUEUE)) == Counter(ids[20:]) and rabbit.depth(DEAD) == 0


def test_two_redrives_under_one_run_are_kept_apart(rabbit: Rabbit) -> None:
    rabbit.classic.declare(QUEUE)
    ids = rabbit.classic.fail(QUEUE, 4)
    first = rabbit.open().open_store(rabbit.request(run="r1"), False)
    try:
        with pytest.raises(Conflict) as caught:
            rabbit.redriven(run="r1")
        assert "this host" in caught.value.message
        from ansible_collections.queueops.fleet.plugins.module_utils._queue import amqp_resume

        patience, amqp_resume.RELEASE_S = amqp_resume.RELEASE_S, 0.5
        try:
            with pytest.raises(Conflict) as caught:
                rabbit.redriven(run="r1", state_dir=str(rabbit.folder / "elsewhere"))
        finally:
            amqp_resume.RELEASE_S = patience
        assert caught.value.option == "run" and caught.value.next_step
    finally:
        first.close()
    assert rabbit.ids(DEAD) == ids
    assert rabbit.redriven(run="r1").moved == 4


def test_one_run_over_several_queues(rabbit: Rabbit) -> None:
    """A playbook goes on with the next queue when one broke off, under the same name."""
    for queue in (QUEUE, "other"):
        rabbit.classic.declare(queue)
        rabbit.fill(queue + ".dead", names(60))
    with pytest.raises(Died):
        redrive(dying_at(rabbit.open(), 2), rabbit.request(run="r1"))
    assert rabbit.redriven(queue="other", run="r1").moved == 60
    rabbit.redriven(run="r1")
    for queue in (QUEUE, "other"):
        assert (Counter(rabbit.ids(queue)), rabbit.depth(queue + ".dead")) == (Counter(names(60)), 0)


def test_a_run_that_was_begun_elsewhere_is_not_begun_again(rabbit: Rabbit) -> None:
    rabbit.classic.declare(QUEUE)
    rabbit.fill(DEAD, names(60))
    with pytest.raises(Died):
        redrive(dying_at(rabbit.open(), 2), rabbit.request(run="r1", state_dir=str(rabbit.folder / "there")))
    wait_for(lambda: rabbit.depth(DEAD) == 40, what="the end of the run that died")
    elsewhere = rabbit.request(run="r1", state_dir=str(rabbit.folder / "here"))
    with pytest.raises(Conflict) as caught:
        redrive(rabbit.open(), elsewhere)
    assert "state_dir" in (caught.value.next_step or "")
    assert rabbit.depth(DEAD) == 40
    rabbit.redriven(run="r1", state_dir=str(rabbit.folder / "there"))
    assert Counter(rabbit.ids(QUEUE)) == Counter(names(60))
    assert sorted(rabbit.server.queues()) == sorted([QUEUE, DEAD])


def test_a_limited_run_that_died_still_knows_what_it_published(rabbit: Rabbit) -> None:
    """What it published last may stand behind what the next one takes, by priority."""
    rabbit.make(QUEUE)
    rabbit.make(DEAD, **{"x-max-priority": 3})
    ids = names(40)
    low = [rabbit.classic.message(task, "note", priority=1) for task in ids[:20]]
    rabbit.put(DEAD, *low)
    settings = {"dead_letter": DEAD}
    request = rabbit.request(run="r1", limit=10)
    with pytest.raises(Died):
        redrive(dying_at(rabbit.open(**settings), 1, batch=10), request)
    rabbit.put(DEAD, *[rabbit.classic.message(task, "note", priority=3) for task in ids[20:]])
    redrive(rabbit.open(**settings), request)
    redrive(rabbit.open(**settings), rabbit.request(run="r1"))
    assert (Counter(rabbit.ids(QUEUE)), rabbit.depth(DEAD)) == (Counter(ids), 0)


def test_copies_to_other_queues_are_not_sent_again(rabbit: Rabbit) -> None:
    """The header CC makes RabbitMQ send a message to those queues as well; a dead letter may still have it."""
    for kind in ("classic", "quorum"):
        rabbit.server.clear()
        rabbit.make(QUEUE, **{"x-queue-type": kind, "x-dead-letter-exchange": "graves"})
        rabbit.make(DEAD, **{"x-queue-type": kind})
        rabbit.make("audit")
        with rabbit.server.connection() as connection:
            channel = connection.channel()
            channel.exchange_declare("graves", "fanout", durable=True, auto_delete=False)
            channel.queue_bind(DEAD, "graves")
        for task in ("a", "b"):
            rabbit.put(QUEUE, amqp.Message("{}", message_id=task, application_headers={"CC": ["audit"], "trace": "x"}))
        assert rabbit.depth("audit") == 2
        with rabbit.server.connection() as connection:
            channel = connection.channel()
            for _number in range(2):
                channel.basic_reject(channel.basic_get(QUEUE).delivery_tag, requeue=False)
        wait_for(lambda: rabbit.depth(DEAD) == 2, what="the dead letters")
        assert rabbit.redriven(Rule(Match(ids=("a",))), settings={"dead_letter": DEAD}).moved == 1
        assert (rabbit.ids(QUEUE), rabbit.ids(DEAD), rabbit.depth("audit")) == (["a"], ["b"], 2)
        (message,) = rabbit.classic.contents(QUEUE)
        assert (message.headers["trace"], message.headers["x-queueops-cc"]) == ("x", ["audit"])


def test_the_ledger_holds_identities_alone(rabbit: Rabbit) -> None:
    rabbit.classic.declare(QUEUE)
    ids = rabbit.classic.fail(QUEUE, 3)
    rabbit.redriven(run="r1")
    (path,) = (rabbit.folder / "state" / "redrive").iterdir()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert path.name.startswith("r1.") and re.match(r"qo%d@\S+ / %s$" % (rabbit.server.port, DEAD), lines[0]["of"])
    assert next(line["ids"] for line in lines if "plan" in line) == ids
    assert lines[-1] == {"closed": lines[-1]["closed"]}
    assert not any("someone" in str(line) or "kind" in str(line) for line in lines)
