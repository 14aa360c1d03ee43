# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is special to Dramatiq on Redis, with Dramatiq's own broker and worker on a real server."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
import redis
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import (
    Breaker,
    Decision,
    Match,
    QueueState,
    RedriveReport,
    RedriveRequest,
    Rule,
    Task,
    TaskStore,
)
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import capabilities_of, open_backend
from dramatiq.brokers.redis import RedisBroker
from dramatiq.message import Message
from dramatiq.middleware import Retries
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.conftest import RedisServer, wait_for

#: Texts that look like parts of a message.
ODD_TEXTS = ['"options":{', '},"options":{', ',"retries":3,', '","message_id":"x"', "\\", '\\"', '"traceback":"', "{", "]", "grüße\n"]


class Broker:
    """Dramatiq's broker with one actor, ``work``, which notes what it is given and fails while ``bad`` is true."""

    def __init__(self, server: RedisServer, namespace: str = "dramatiq") -> None:
        self.url = server.url
        self.namespace = namespace
        self.client: Any = redis.Redis.from_url(server.url)
        self.done: list[str] = []
        self.attempts: list[str] = []
        self.bad = False
        self.dramatiq: Any = self.new()
        self._workers: list[dramatiq.Worker] = []

    def new(self) -> Any:
        maker: Any = RedisBroker
        broker = maker(url=self.url, middleware=[Retries(max_retries=2, min_backoff=1, max_backoff=1)], namespace=self.namespace)
        broker.maintenance_chance = 0

        def work(task: str, *_more: Any) -> None:
            self.attempts.append(task)
            if self.bad:
                raise ValueError("no good")
            self.done.append(task)

        dramatiq.actor(broker=broker, queue_name="mail")(work)
        return broker

    def start(self) -> dramatiq.Worker:
        worker = dramatiq.Worker(self.new(), worker_threads=1, worker_timeout=50)
        self._workers.append(worker)
        worker.start()
        return worker

    def close(self) -> None:
        for worker in self._workers:
            worker.stop(5000)
        self.client.close()

    def message(self, *args: Any, queue: str = "mail", **options: Any) -> Message[Any]:
        task = str(uuid.uuid4())
        return Message(queue, "work", args or (task,), {}, options, task)

    def publish(self, count: int, delay: int | None = None, **options: Any) -> list[str]:
        return [self.dramatiq.enqueue(self.message(**options), delay=delay).message_id for _index in range(count)]

    def dead(self, count: int, data: bytes | None = None, queue: str = "mail", **options: Any) -> list[str]:
        """``count`` dead letters, as their script puts them there; those of one call died at about the same time."""
        ids = []
        for _index in range(count):
            message = self.dramatiq.enqueue(self.message(queue=queue, **options))
            if data is not None:
                self.client.hset("%s:%s.msgs" % (self.namespace, queue), message.options["redis_message_id"], data)
            ids.append(message.message_id)
        consumer = self.dramatiq.consume(queue, prefetch=1)
        for key in self.client.lrange("%s:%s" % (self.namespace, queue), 0, -1):
            self.dramatiq.do_fetch(queue, 1)
            self.dramatiq.do_nack(queue, key)
        consumer.close()
        return ids

    def backend(self, **settings: Any) -> Any:
        return open_backend("dramatiq", {"url": self.url, **settings})

    def look(self) -> QueueState:
        found: QueueState = self.backend().look(["mail"]).queues[0]
        return found

    def redrive(self, *rules: Rule, check: bool = False, **more: Any) -> RedriveReport:
        return redrive(self.backend(), RedriveRequest("mail", rules=rules or (Rule(),), **more), check)

    def messages(self, key: str) -> list[dict[str, Any]]:
        keys = self.client.lrange(key, 0, -1) if self.client.type(key) == b"list" else self.client.zrange(key, 0, -1)
        return [json.loads(text) for text in self.client.hmget(key + ".msgs", keys)] if keys else []


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[Broker]:
    found = Broker(redis_server)
    yield found
    found.close()


def fail_for_good(broker: Broker, count: int) -> list[str]:
    """By Dramatiq's own worker, with all attempts."""
    broker.bad = True
    ids = broker.publish(count)
    worker = broker.start()
    wait_for(lambda: broker.look().failed == count, what="the dead letters")
    worker.stop(5000)
    return ids


def test_a_redriven_task_gets_all_its_attempts_again(broker: Broker) -> None:
    (task,) = fail_for_good(broker, 1)
    assert len(broker.attempts) == 3
    (dead,) = broker.messages("dramatiq:mail.XQ")
    assert dead["options"]["retries"] == 2 and "no good" in dead["options"]["traceback"]
    assert broker.redrive().moved == 1
    (queued,) = broker.messages("dramatiq:mail")
    kept = {"redis_message_id": dead["options"]["redis_message_id"]}
    assert queued == dict(dead, options=dict(kept, queueops_redrives=1))
    worker = broker.start()
    wait_for(lambda: broker.look().failed == 1, what="the dead letter")
    worker.stop(5000)
    assert len(broker.attempts) == 6
    (again,) = broker.messages("dramatiq:mail.XQ")
    assert (again["message_id"], again["options"]["queueops_redrives"]) == (task, 1)
    report = broker.redrive(max_redrives=1)
    assert report.by_action == {"park": 1}
    assert broker.redrive(source="parked").moved == 1
    broker.bad = False
    broker.start()
    wait_for(lambda: broker.done == [task], what="the task")
    wait_for(lambda: not broker.client.exists("dramatiq:mail.msgs"), what="an empty queue")


def test_without_a_second_attempt_no_error_is_recorded(broker: Broker) -> None:
    broker.bad = True
    broker.publish(1, max_retries=0)
    broker.start()
    wait_for(lambda: broker.look().failed == 1, what="the dead letter")
    report = broker.redrive(Rule(Match(error="no good")))
    assert (report.matched, report.undetermined, broker.look().failed) == (0, 1, 1)


def test_priority_publication_and_arguments_are_kept(broker: Broker) -> None:
    odd = [1e22, 10**30, "grüße \u2028", {"options": {"a": [None, 0.1]}}, '"options":{']
    text = broker.message(*odd, priority=7, retries=9, redis_message_id="k1").encode()
    key = "dramatiq:mail.XQ"
    broker.client.zadd(key, {"k1": 1})
    broker.client.hset(key + ".msgs", "k1", text)
    assert broker.redrive().moved == 1
    (found,) = broker.messages("dramatiq:mail")
    before = json.loads(text)
    options = {"priority": 7, "redis_message_id": "k1", "queueops_redrives": 1}
    assert found == dict(before, options=options)
    assert broker.client.hget("dramatiq:mail.msgs", "k1").split(b'"options":{"priority"')[0] == text.split(b'"options":{"priority"')[0]
    assert not broker.client.exists(key, key + ".msgs")


OPTIONS = st.dictionaries(
    st.sampled_from(
        ["retries", "traceback", "requeue_timestamp", "eta", "queueops_redrives", "queueops_action", "priority", "x", "options"]
    ),
    st.none()
    | st.integers(-1, 10**13)
    | st.floats(0, 9)
    | st.text(max_size=9)
    | st.sampled_from(ODD_TEXTS)
    | st.just({"options": {"retries": 1}}),
)
ARGUMENTS = st.lists(st.integers() | st.sampled_from(ODD_TEXTS) | st.just({"a": {}, "options": {"retries": 1}}), max_size=2)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(OPTIONS, ARGUMENTS, st.booleans()), min_size=1, max_size=12))
def test_the_sweep_on_the_server_writes_what_the_slow_way_writes(
    broker: Broker, made: list[tuple[dict[str, Any], list[Any], bool]]
) -> None:
    texts = {}
    for number, (options, args, spaced) in enumerate(made):
        message: Message[Any] = Message(
            "mail", "work", tuple(args), {"k": {}, "o": args}, dict(options, redis_message_id="k%d" % number), "m%d" % number
        )
        texts["k%d" % number] = json.dumps(message.asdict(), separators=(", ", ": ") if spaced else (",", ":")).encode()
    found = []
    for rule in (Rule(), Rule(Match(task="*"))):
        broker.client.flushall()
        for number, (key, text) in enumerate(texts.items()):
            broker.client.zadd("dramatiq:mail.XQ", {key: number})
            broker.client.hset("dramatiq:mail.XQ.msgs", key, text)
        report = broker.redrive(rule)
        assert (report.moved, report.by_task, report.conservation["verdict"]) == (len(made), {"work": len(made)}, "proven")
        everything = [
            (key.decode(), text)
            for key in ("dramatiq:mail", "dramatiq:mail.DQ")
            for key, text in broker.client.hgetall(key + ".msgs").items()
        ]
        found.append({key: (json.loads(text), text.split(b"options")[0]) for key, text in everything})
        assert sorted(broker.client.lrange("dramatiq:mail", 0, -1) + broker.client.lrange("dramatiq:mail.DQ", 0, -1)) == sorted(
            key.encode() for key in texts
        )
    assert found[0] == found[1]


def test_what_is_due_later_goes_to_the_delayed_ones(broker: Broker) -> None:
    later, sooner = time.time() * 1000 + 3600000, time.time() * 1000 - 1
    for key, eta in (("k1", later), ("k2", sooner)):
        message = broker.message(queue="mail.DQ", eta=eta, redis_message_id=key)
        broker.client.zadd("dramatiq:mail.XQ", {key: 1})
        broker.client.hset("dramatiq:mail.XQ.msgs", key, message.encode())
    assert broker.redrive().moved == 2
    (delayed,), (queued,) = broker.messages("dramatiq:mail.DQ"), broker.messages("dramatiq:mail")
    assert (delayed["queue_name"], delayed["options"]["eta"]) == ("mail.DQ", later)
    assert queued["queue_name"] == "mail" and "eta" not in queued["options"]
    assert (broker.look().scheduled, broker.look().queued) == (1, 1)


def gone(broker: Broker, count: int) -> Any:
    """A worker that has taken ``count`` tasks, half of them delayed, and has not been seen for two minutes."""
    other = broker.new()
    for queue in ("mail", "mail.DQ"):
        consumer = other.consume(queue, prefetch=count)
        wait_for(consumer.__next__, what="a task")
    broker.client.zadd("dramatiq:__heartbeats__", {other.broker_id: time.time() * 1000 - 120000})
    return other


def test_abandoned_tasks_go_back_as_dramatiq_would_put_them(broker: Broker) -> None:
    ids = broker.publish(3) + broker.publish(2, delay=3600000)
    gone(broker, 4)
    found = broker.look()
    assert (found.queued, found.executing, found.scheduled, found.abandoned) == (0, 0, 0, 5)
    (worker,) = [entry for entry in broker.backend().look(["mail"]).workers if entry.state == "gone"]
    assert worker.last_seen < time.time() - 100
    report = broker.redrive(source="abandoned")
    assert (report.moved, report.conservation["verdict"]) == (5, "proven")
    found = broker.look()
    assert (found.queued, found.scheduled, found.abandoned) == (3, 2, 0)
    assert sorted(m["message_id"] for q in ("mail", "mail.DQ") for m in broker.messages("dramatiq:" + q)) == sorted(ids)
    assert all(message["options"]["eta"] for message in broker.messages("dramatiq:mail.DQ"))
    broker.start()
    wait_for(lambda: sorted(broker.done) == sorted(ids[:3]), what="the tasks")


def test_a_worker_that_is_back_keeps_its_tasks(broker: Broker) -> None:
    broker.publish(3)
    broker.publish(1, delay=3600000)
    other = gone(broker, 4)
    store = broker.backend().open_store(RedriveRequest("mail", run="r1", source="abandoned"), False)
    (window, delayed) = store.windows()
    broker.client.zadd("dramatiq:__heartbeats__", {other.broker_id: time.time() * 1000})
    outcomes = store.apply([Decision(task, "requeue") for task in window + delayed])
    assert outcomes == ["its worker is back"] * 4
    assert (broker.look().executing, broker.look().scheduled, broker.look().queued) == (3, 1, 0)


def test_an_executing_task_that_is_requeued_is_run_twice_and_not_lost(broker: Broker) -> None:
    (task,) = broker.publish(1)
    consumer = broker.dramatiq.consume("mail")
    message = wait_for(lambda: next(consumer), what="the task")
    assert broker.redrive(source="executing").moved == 1
    consumer.ack(message)  # The first one is done with it.
    assert (broker.look().queued, broker.look().executing) == (1, 0)
    broker.start()
    wait_for(lambda: broker.done == [task], what="the second run")


def all_of(store: TaskStore, meanwhile: Any = None) -> list[str]:
    """The ids of all windows; ``meanwhile`` is called with each window."""
    found: list[str] = []
    for window in store.windows():
        found += [task.id for task in window]
        if meanwhile is not None:
            meanwhile(window)
    return found


def small(broker: Broker, size: int, **request: Any) -> TaskStore:
    store: TaskStore = broker.backend().open_store(RedriveRequest("mail", run="r1", **request), False)
    store.batch = size
    return store


def test_dead_letters_of_one_millisecond_are_each_seen_once(broker: Broker) -> None:
    ids = broker.dead(40)
    broker.client.zadd("dramatiq:mail.XQ", dict.fromkeys(broker.client.zrange("dramatiq:mail.XQ", 0, -1), 5))
    random.seed(1)

    def meanwhile(window: list[Task]) -> None:
        # Somebody takes some of those seen away, the last one as well, and another one dies.
        for task in random.sample(window[:-1], len(window) // 2) + window[-1:]:
            broker.client.zrem("dramatiq:mail.XQ", task.handle.key)
        broker.dead(1)

    assert sorted(all_of(small(broker, 7), meanwhile)) == sorted(ids)


def test_queued_tasks_are_each_seen_once_while_workers_take_them(broker: Broker) -> None:
    ids = broker.publish(60)
    store = small(broker, 7, source="queued")

    def meanwhile(window: list[Task]) -> None:
        store.apply([Decision(task, "park") for task in window[1::3]])
        for _task in range(3):
            broker.client.lpop("dramatiq:mail")
        broker.publish(2)

    found = all_of(store, meanwhile)
    assert len(set(found)) == len(found)
    assert [task for task in ids if task in found] == [task for task in found if task in ids]
    assert set(ids) <= set(found)


def test_queued_tasks_are_parked_by_field_and_come_back_in_order(broker: Broker) -> None:
    ids = broker.publish(700)
    report = broker.redrive(Rule(Match(ids=tuple(ids[5:650])), "park"), source="queued")
    assert (report.moved, report.conservation["verdict"]) == (645, "proven")
    assert [m["message_id"] for m in broker.messages("dramatiq:mail")] == ids[:5] + ids[650:]
    assert broker.redrive(Rule(Match(field={"args.0": ids[5]})), source="parked").moved == 1
    assert broker.redrive(source="parked", limit=100).moved == 100
    assert broker.look().queued == 156
    assert broker.redrive(Rule(action="discard"), source="parked").moved == 544
    assert not broker.client.keys("queueops:parked:*")


def test_a_message_that_is_not_json_moves_untouched(broker: Broker) -> None:
    data = b"\x80\x04\x95\x00 not json \xff"
    broker.dead(2, data)
    assert broker.redrive(Rule(Match(task="*"))).undetermined == 2
    assert broker.redrive(Rule(destination="other")).skipped_because == {
        "its message is not JSON, and cannot be addressed to another queue": 2
    }
    assert broker.redrive(max_redrives=1).skipped == 2
    report = broker.redrive()
    assert (report.moved, report.conservation["verdict"]) == (2, "proven")
    assert set(broker.client.hvals("dramatiq:mail.msgs")) == {data}
    assert broker.look().oldest_task_age_s is None


def test_another_queue_is_written_into_the_message(broker: Broker) -> None:
    broker.dead(1)
    assert broker.redrive(Rule(action="compensate", destination="undo grüße")).moved == 1
    (message,) = broker.messages("dramatiq:undo grüße")
    assert (message["queue_name"], message["options"]["queueops_action"]) == ("undo grüße", "compensate")


def test_a_dead_letter_that_comes_from_the_parking_place_is_kept_for_seven_days(broker: Broker) -> None:
    broker.dead(1)
    key = broker.client.zrange("dramatiq:mail.XQ", 0, 0)[0]
    broker.client.zadd("dramatiq:mail.XQ", {key: 1000.0})
    assert broker.redrive(Rule(action="park")).moved == 1
    assert broker.client.zscore("queueops:parked:dramatiq:mail", key) == 1000
    assert broker.redrive(Rule(Match(older_than=3600.0), "dead_letter"), source="parked").moved == 1
    assert broker.client.zscore("dramatiq:mail.XQ", key) > time.time() * 1000 - 60000
    broker.dramatiq.maintenance_chance = 1000000
    broker.dramatiq.do_fetch("mail", 1)
    assert broker.look().failed == 1


def test_by_option_and_not_by_version(broker: Broker) -> None:
    broker.dead(2, worker_version="1.4.2")
    broker.dead(1, worker_version="1.4.3")
    with pytest.raises(Refused) as caught:
        broker.redrive(Rule(Match(version="1.4.2")))
    assert "match.header" in (caught.value.next_step or "")
    assert broker.redrive(Rule(Match(header={"worker_version": "1.4.2"}))).moved == 2


def test_a_namespace_is_a_world_of_its_own(redis_server: RedisServer) -> None:
    broker = Broker(redis_server, "app:two")
    broker.dead(2)
    assert broker.look().failed == 0
    backend = broker.backend(key_prefix="app:two")
    assert backend.look(["mail"]).queues[0].failed == 2
    assert redrive(backend, RedriveRequest("mail")).moved == 2
    assert backend.look(["mail"]).queues[0].queued == 2
    broker.close()


def test_a_key_of_another_kind_is_refused_before_anything_moves(broker: Broker) -> None:
    broker.dead(2)
    broker.client.set("dramatiq:mail.msgs", "x")
    before = broker.client.dump("dramatiq:mail.XQ.msgs")
    with pytest.raises(Refused) as caught:
        broker.redrive(run="r1")
    assert "not of the kind" in caught.value.message
    broker.client.delete("dramatiq:mail.msgs")
    assert broker.client.dump("dramatiq:mail.XQ.msgs") == before
    assert broker.redrive(run="r1").moved == 2


def test_a_retry_that_waits_counts_as_failed_again(broker: Broker) -> None:
    broker.bad = True
    broker.dead(30, min_backoff=3600000, max_backoff=3600000)
    broker.start()
    report = broker.redrive(breaker=Breaker(0.5, min_tasks=4, patience=20.0))
    assert report.stopped is not None and "failed again" in report.stopped["reason"]
    assert (report.moved, report.settled, report.failed_again, report.remaining) == (4, 4, 4, 26)
    assert broker.look().scheduled == 4


def test_redrives_of_one_name_know_the_fates_of_their_own_tasks_alone(broker: Broker) -> None:
    broker.dead(3)
    broker.dramatiq.declare_queue("sms")
    broker.dead(1, queue="sms")
    store, other = (broker.backend().open_store(RedriveRequest(queue, run="r1", breaker=Breaker(0.5)), False) for queue in ("mail", "sms"))
    (window,) = store.windows()
    assert store.apply([Decision(task, "requeue") for task in window]) == [""] * 3
    later = broker.backend().open_store(RedriveRequest("sms", run="r1", breaker=Breaker(0.5)), False)
    broker.start()
    wait_for(lambda: len(broker.done) == 3, what="the redriven tasks")
    wait_for(lambda: store.fates(3) == (3, 0), what="their fates")
    assert later.fates(1) == other.fates(1) == (0, 0)


def test_a_part_of_a_queue_is_no_queue(broker: Broker) -> None:
    with pytest.raises(Refused) as caught:
        broker.backend().look(["mail.DQ"])
    assert caught.value.option == "queues"
    with pytest.raises(Refused):
        broker.redrive(Rule(destination="mail.XQ"))
    with pytest.raises(Refused):
        broker.redrive(source="mail.XQ")


def test_an_address_of_neither_broker_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        open_backend("dramatiq", {"url": "nats://user:hunter2@host"})
    assert caught.value.option == "url" and "hunter2" not in caught.value.sentence()
    assert "redrive" in capabilities_of("dramatiq").can
