# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery on Redis without workers: what a look counts, and where a redrive takes tasks from and puts them."""

from __future__ import annotations

import base64
import json
import pickle
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._queue import celery_redis_keys, celery_redis_messages, celery_redis_store
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import (
    Decision,
    Match,
    PauseRequest,
    QueueState,
    RedriveReport,
    RedriveRequest,
    Rule,
)
from ansible_collections.queueops.fleet.plugins.module_utils._queue.celery_redis import CeleryRedisBackend
from ansible_collections.queueops.fleet.plugins.module_utils._queue.celery_redis_failed import ByAge
from celery import Celery
from celery.app.task import Context
from kombu import pools

from tests.unit.conftest import RedisServer
from tests.unit.queue.test_celery_message import Evil

SEP = "\x06\x16"


class Lab:
    """Celery's own producer and result backend, and ours beside them."""

    def __init__(self, server: RedisServer) -> None:
        self.url = server.url
        self.client: Any = redis.Redis.from_url(server.url)
        path = "redis+socket://%s?virtual_host=0" % server.socket
        self.app = Celery("lab", broker=path, backend=path)
        self.app.conf.update(result_extended=True)

    def backend(self, **more: Any) -> CeleryRedisBackend:
        return CeleryRedisBackend(dict({"url": self.url}, **more))

    def state(self, queue: str = "mail", **more: Any) -> QueueState:
        return self.backend(**more).look([queue]).queues[0]

    def publish(self, count: int = 1, queue: str = "mail", **options: Any) -> list[str]:
        return [self.app.send_task("app.note", args=(1, {"two": 2}), queue=queue, **options).id for _index in range(count)]

    def fail(self, count: int = 1, queue: str = "mail", worker: str = "mailer@2.0.0:vm", args: Any = ({"deep": [7]},)) -> list[str]:
        return self.failed([str(uuid.uuid4()) for _index in range(count)], queue, worker, args)

    def failed(self, ids: list[str], queue: str = "mail", worker: str = "mailer@2.0.0:vm", args: Any = ({"deep": [7]},)) -> list[str]:
        for task in ids:
            info = {"exchange": "", "routing_key": queue}
            request = Context(
                task="app.note", id=task, args=list(args), kwargs={"three": 3}, hostname=worker, retries=0, delivery_info=info
            )
            self.app.backend.store_result(task, ValueError("no good"), "FAILURE", traceback="Traceback", request=request)
        return ids

    def take(self, count: int = 1, queue: str = "mail") -> list[str]:
        """What a worker does that fetches and is then killed: out of the list, into kombu's hash."""
        ids = []
        with self.app.connection_for_read() as connection:
            channel = connection.channel()
            for _index in range(count):
                message = channel.basic_get(queue)
                ids.append(message.headers["id"])
            # Without this it would put them back, as a worker that stops in order does.
            channel.qos.restore_at_shutdown = False
            channel.qos._delivered.clear()
        return ids

    def redrive(self, *rules: Rule, check: bool = False, settings: dict[str, Any] | None = None, **more: Any) -> RedriveReport:
        request = RedriveRequest(more.pop("queue", "mail"), rules=rules or (Rule(),), **more)
        report = engine.redrive(self.backend(**(settings or {})), request, check)
        assert report.matched == report.moved + report.skipped + report.remaining, report
        return report

    def ids(self, key: str) -> list[str]:
        """Of a list, the oldest first."""
        return [json.loads(raw)["headers"]["id"] for raw in reversed(self.client.lrange(key, 0, -1))]

    def meta(self, task: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.client.get("celery-task-meta-" + task))
        return found


@pytest.fixture
def lab(redis_server: RedisServer) -> Iterator[Lab]:
    found = Lab(redis_server)
    yield found
    found.app.close()
    pools.reset()  # They are kombu's for the whole process, and remember which queues they have bound.
    found.client.close()


# Looking


def test_all_priorities_are_counted(lab: Lab) -> None:
    lab.publish(2)
    for priority in (1, 3, 5, 9):
        lab.publish(1, priority=priority)
    assert lab.client.llen("mail") == 3
    assert lab.state().queued == 6


def test_what_workers_hold_is_told_by_queue(lab: Lab) -> None:
    lab.publish(3)
    lab.publish(2, "other")
    lab.take(2)
    lab.take(1, "other")
    found = lab.state()
    # No worker listens: nobody has them in hand.
    assert (found.queued, found.executing, found.abandoned) == (1, 0, 2)
    assert lab.state("other").abandoned == 1


def test_too_many_held_messages_are_not_read(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.publish(5)
    lab.take(4)
    monkeypatch.setattr(celery_redis_keys, "READ_WHOLE", 3)
    assert lab.state().abandoned == 4
    monkeypatch.setattr(celery_redis_keys, "READ_TAILS", 3)
    look = lab.backend().look(["mail"])
    assert look.queues[0].executing is None and "4 messages of all queues" in look.unknown["queues.executing"]


def test_nobody_is_asked_if_so_wished(lab: Lab) -> None:
    lab.publish(1)
    look = lab.backend(ask_workers=False).look(["mail"])
    assert look.queues[0].queued == 1
    assert look.queues[0].executing is None and "ask_workers" in look.unknown["queues.executing"]
    with pytest.raises(Refused) as caught:
        lab.backend(ask_workers=False).pause(["mail"], PauseRequest("me"))
    assert caught.value.option == "ask_workers"


def test_a_look_leaves_no_key_behind(lab: Lab) -> None:
    lab.publish(2)
    lab.take(1)
    lab.fail(1)
    before = {key: lab.client.dump(key) for key in lab.client.scan_iter()}
    lab.backend().look(["mail"])
    lab.backend().look()
    assert {key: lab.client.dump(key) for key in lab.client.scan_iter()} == before


def test_a_look_where_nothing_can_be_written(lab: Lab) -> None:
    lab.publish(1)
    lab.client.config_set("maxmemory", 1)
    try:
        look = lab.backend().look(["mail"])
    finally:
        lab.client.config_set("maxmemory", 0)
    assert look.queues[0].queued == 1
    assert look.queues[0].executing is None and "takes no writes" in look.unknown["queues.executing"]


def test_failed_results_are_counted_or_their_lack_explained(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.publish(1)
    lab.fail(3)
    lab.fail(2, "other")
    assert lab.state().failed == 3
    monkeypatch.setattr("%s.COUNTED_KEYS" % CeleryRedisBackend.__module__, 2)
    look = lab.backend().look(["mail"])
    assert look.queues[0].failed is None and "check mode" in look.unknown["queues.failed"]


def test_results_in_another_database(lab: Lab) -> None:
    lab.publish(1)
    (task,) = lab.fail(1)
    lab.client.move("celery-task-meta-" + task, 3)
    assert (lab.state().failed, lab.state(result_db=3).failed) == (0, 1)
    assert lab.redrive(settings={"result_db": 3}).moved == 1
    assert lab.ids("mail")[-1] == task and lab.state(result_db=3).failed == 0
    assert lab.client.exists("celery-task-meta-" + task) == 0


def test_queues_are_listed_without_what_workers_use_themselves(lab: Lab) -> None:
    lab.publish(1, "a*b")
    lab.publish(1, "grüße 邮件")
    lab.client.sadd("_kombu.binding.celery.pidbox", SEP.join(("", "", "mailer@1:h.celery.pidbox")))
    lab.client.sadd("_kombu.binding.celeryev", SEP.join(("worker.#", "", "celeryev.x")))
    assert [state.name for state in lab.backend().look().queues] == ["a*b", "grüße 邮件"]


def test_a_dead_workers_node_is_gone_not_idle(lab: Lab) -> None:
    lab.publish(1)
    lab.client.sadd("_kombu.binding.celery.pidbox", SEP.join(("", "", "mailer@1.2:host9.celery.pidbox")))
    (worker,) = lab.backend().look(["mail"]).workers
    assert (worker.name, worker.state, worker.version, worker.host) == ("mailer@1.2:host9", "gone", "1.2", "host9")


def test_keys_with_a_prefix(lab: Lab) -> None:
    lab.app.conf.broker_transport_options = {"global_keyprefix": "app1:"}
    lab.publish(2)
    assert lab.state(key_prefix="app1:").queued == 2
    with pytest.raises(NotFound):
        lab.state()


# Redriving failed results


def test_a_failed_result_becomes_a_task_again(lab: Lab) -> None:
    lab.publish(1)
    ids = lab.fail(3)
    others = lab.fail(2, "other")
    left = lab.client.ttl("celery-task-meta-" + ids[0])
    report = lab.redrive(run="r1")
    assert report.moved == 3 and report.by_version == {"2.0.0": 3} and report.by_task == {"app.note": 3}
    assert lab.ids("mail")[1:] == ids
    body, headers = json.loads(lab.client.lindex("mail", 0)), json.loads(lab.client.lindex("mail", 0))["headers"]
    assert json.loads(base64.b64decode(body["body"]))[:2] == [[{"deep": [7]}], {"three": 3}]
    assert headers["queueops_redrives"] == 1 and headers["queueops_run"] == "r1"
    assert lab.app.AsyncResult(ids[0]).state == "RETRY"
    assert left - 5 <= lab.client.ttl("celery-task-meta-" + ids[0]) <= left
    assert [lab.app.AsyncResult(task).state for task in others] == ["FAILURE"] * 2
    assert report.conservation["verdict"] == "proven"
    assert lab.redrive(run="r1").matched == 0


def test_celery_itself_reads_the_message(lab: Lab) -> None:
    lab.publish(1)
    (task,) = lab.fail(1)
    lab.redrive()
    lab.client.rpop("mail")
    with lab.app.connection_for_read() as connection:
        found = connection.default_channel.basic_get("mail")
        args, kwargs, _embed = found.payload
        assert (found.headers["id"], args, kwargs) == (task, [{"deep": [7]}], {"three": 3})
        found.ack()


def test_without_result_extended_it_is_refused_with_what_to_set(lab: Lab) -> None:
    lab.publish(1)
    lab.app.conf.result_extended = False
    lab.fail(2)
    with pytest.raises(Refused) as caught:
        lab.redrive()
    assert "result_extended=True" in str(caught.value.next_step) and caught.value.option == "source"
    look = lab.backend().look(["mail"])
    assert look.queues[0].failed is None and "result_extended" in look.unknown["queues.failed"]
    lab.app.conf.result_extended = True
    lab.fail(1)
    report = lab.redrive()
    assert (report.moved, report.skipped) == (1, 2) and "result_extended" in str(report.skipped_because)


def test_a_result_that_changed_since_it_was_read_is_left(lab: Lab) -> None:
    lab.publish(1)
    (task,) = lab.fail(1)
    store = lab.backend().open_store(RedriveRequest("mail", run="r1"), False)
    (window,) = store.windows()
    lab.app.backend.store_result(task, 7, "SUCCESS")
    assert store.apply([Decision(window[0], "requeue")]) == ["it was taken, or has changed, meanwhile"]
    assert lab.ids("mail").count(task) == 0 and lab.app.AsyncResult(task).state == "SUCCESS"


def test_a_list_that_is_no_list_loses_nothing(lab: Lab) -> None:
    ids = lab.fail(2)
    lab.client.sadd("_kombu.binding.mail", SEP.join(("mail", "", "mail")))
    lab.client.set("mail", "something else")
    store = lab.backend(ask_workers=False).open_store(RedriveRequest("mail", run="r1"), False)
    window = next(store.windows())
    with pytest.raises(Refused):
        store.apply([Decision(task, "requeue") for task in window])
    assert [lab.app.AsyncResult(task).state for task in ids] == ["FAILURE"] * 2
    assert not lab.client.exists("queueops:redrive:r1:moved")


def test_a_failed_task_that_celery_delivers_again_is_left(lab: Lab) -> None:
    """Its failure was stored, and its worker was stopped before it acknowledged the message."""
    lab.publish(3)
    held = lab.failed(lab.take(2))
    others = lab.fail(2)
    report = lab.redrive()
    assert (report.moved, report.skipped) == (2, 2) and "not acknowledged" in next(iter(report.skipped_because))
    with lab.app.connection_for_read() as connection:
        channel = connection.channel()
        for tag in lab.client.hkeys("unacked"):
            channel.qos.restore_by_tag(tag.decode())
    assert set(held) < set(lab.ids("mail")) and not lab.client.exists("unacked")
    report = lab.redrive()
    assert (report.moved, report.skipped) == (0, 2) and "not acknowledged" in next(iter(report.skipped_because))
    found = lab.ids("mail")
    assert len(found) == len(set(found)) == 5 and set(others) < set(found)


def test_too_many_held_messages_are_a_warning_of_a_redrive(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celery_redis_keys, "READ_WHOLE", 1)
    lab.publish(2)
    lab.take(2)
    lab.fail()
    report = lab.redrive()
    assert report.moved == 1 and "run twice" in report.warnings[0]


def test_actions_on_failed_tasks(lab: Lab) -> None:
    lab.publish(1)
    lab.publish(1, "mail.dead")
    ids = lab.fail(4)
    rules = [Rule(Match(ids=(task,)), action) for task, action in zip(ids, ("park", "discard", "dead_letter", "fail"), strict=True)]
    report = lab.redrive(*rules, settings={"dead_letter": "{queue}.dead"})
    assert report.by_action == dict.fromkeys(("park", "discard", "dead_letter", "fail"), 1)
    assert lab.ids("queueops:parked:mail") == ids[:1] and lab.ids("mail.dead")[1:] == ids[2:3]
    assert not lab.client.exists("celery-task-meta-" + ids[1])
    assert (lab.state().failed, lab.app.AsyncResult(ids[0]).state) == (1, "FAILURE")
    assert lab.redrive(source="parked").moved == 1
    assert lab.ids("mail")[1:] == ids[:1]
    assert lab.redrive(source="dead_lettered", settings={"dead_letter": "{queue}.dead"}, limit=2).moved == 2
    assert lab.ids("mail")[-1] == ids[2]
    with pytest.raises(Refused) as caught:
        lab.redrive(Rule(action="dead_letter"), source="queued")
    assert "dead_letter" in str(caught.value.next_step)


def test_failed_tasks_are_sorted_by_age_in_little_memory() -> None:
    tasks = [(float(random.Random(number).random() * 1e9), str(uuid.UUID(int=number))) for number in range(1000)]
    tasks += [(5.0, "a name"), (5.0, "grüße"), (6.0, str(uuid.UUID(int=1)).upper())]
    found = ByAge(part=64)
    for ended, task in tasks + tasks[::7]:
        found.add(ended, task)
    # Seen twice by the walk over the keys, they are still there once.
    assert list(found) == list(found) == [task for _ended, task in sorted(tasks)]


def test_by_error_version_age_and_argument(lab: Lab) -> None:
    lab.publish(1)
    old, new = lab.fail(2, worker="mailer@1.0.0:vm"), lab.fail(2, args=(8,))
    assert lab.redrive(Rule(Match(version="1.0.0")), check=True).matched == 2
    assert lab.redrive(Rule(Match(error="^ValueError: no")), check=True).matched == 4
    assert lab.redrive(Rule(Match(newer_than=3600)), check=True).matched == 4
    assert lab.redrive(Rule(Match(older_than=3600)), check=True).matched == 0
    assert lab.redrive(Rule(Match(field={"args.0.deep.0": "7"})), check=True).matched == 2
    assert lab.redrive(Rule(Match(field={"args.0": "8"}))).moved == 2
    assert lab.ids("mail")[1:] == new
    assert lab.redrive(Rule(Match(ids=(old[0], "nobody", new[0])))).moved == 1


# Redriving lists


def test_queued_tasks_move_with_their_priority(lab: Lab) -> None:
    plain, urgent = lab.publish(3), lab.publish(2, priority=9)
    lab.publish(1, "other")
    report = lab.redrive(Rule(destination="other"), source="queued")
    assert report.moved == 5 and report.conservation["verdict"] == "proven"
    assert lab.ids("other")[1:] == plain and lab.ids("other" + SEP + "9") == urgent
    moved = json.loads(lab.client.lindex("other", 0))
    assert moved["properties"]["delivery_info"] == {"exchange": "", "routing_key": "other"}
    assert (lab.state().queued, lab.state("other").queued) == (0, 6)
    with pytest.raises(Refused):
        lab.redrive(source="queued")


def test_some_of_a_long_list_move_and_the_rest_stays_in_order(lab: Lab) -> None:
    ids = lab.publish(600)
    lab.publish(1, "other")
    chosen = ids[10:20] + ids[300:310] + ids[590:]
    report = lab.redrive(Rule(Match(ids=tuple(chosen)), destination="other"), source="queued")
    assert report.moved == 30
    assert lab.ids("other")[1:] == chosen
    assert lab.ids("mail") == [task for task in ids if task not in set(chosen)]


def test_workers_that_take_meanwhile_make_it_neither_skip_nor_stop(lab: Lab) -> None:
    ids = lab.publish(700)
    lab.publish(1, "other")
    backend = lab.backend()
    request = RedriveRequest("mail", run="r1", source="queued", rules=(Rule(Match(task="nothing"), destination="other"),))
    store = backend.open_store(request, False)
    seen: list[str] = []
    for window in store.windows():
        seen += [task.id for task in window]
        for _index in range(60):
            lab.client.rpop("mail")
            lab.publish(1)
    assert len(seen) == len(set(seen)) and set(ids) <= set(seen)


def test_a_task_that_was_taken_meanwhile_is_not_moved(lab: Lab) -> None:
    ids = lab.publish(10)
    lab.publish(1, "other")
    request = RedriveRequest("mail", run="r1", source="queued", rules=(Rule(destination="other"),))
    store = lab.backend().open_store(request, False)
    (window,) = store.windows()
    lab.client.rpop("mail", 3)
    lab.publish(2)
    outcomes = store.apply([Decision(task, "requeue", "other") for task in window])
    assert [bool(outcome) for outcome in outcomes] == [True] * 3 + [False] * 7
    assert lab.ids("other")[1:] == ids[3:] and len(lab.ids("mail")) == 2


def test_a_pickle_passes_through_untouched_and_unexecuted(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "written"
    body = pickle.dumps(([Evil(path)], {}, {}))
    envelope = {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/x-python-serialize",
        "content-encoding": "binary",
        "headers": {"id": "evil", "task": "app.note", "eta": "2030-01-01T00:00:00"},
        "properties": {"body_encoding": "base64", "correlation_id": "evil", "delivery_info": {"exchange": "", "routing_key": "mail"}},
    }
    lab.publish(1)
    lab.publish(1, "other")
    lab.client.lpush("mail", json.dumps(envelope))
    assert lab.redrive(Rule(Match(ids=("evil",)), "park"), source="queued").moved == 1
    assert lab.redrive(Rule(Match(field={"args.0": "x"})), source="parked").undetermined == 1
    assert lab.redrive(Rule(action="fail"), source="parked").moved == 1
    assert lab.app.AsyncResult("evil").state == "FAILURE" and lab.state().failed == 1
    assert lab.redrive(Rule(destination="other")).moved == 1
    found = json.loads(lab.client.lindex("other", 0))
    assert base64.b64decode(found["body"]) == body and found["headers"]["eta"] == "2030-01-01T00:00:00"
    assert not path.exists()


def test_a_task_is_found_however_far_workers_have_taken_on_the_right(lab: Lab) -> None:
    ids = lab.publish(1)
    raw = lab.client.lindex("mail", 0)
    ids += [str(uuid.UUID(int=number)) for number in range(1, 1500)]
    lab.client.lpush("mail", *(raw.replace(ids[0].encode(), task.encode()) for task in ids[1:]))
    store = lab.backend().open_store(RedriveRequest("mail", source="queued", rules=(Rule(action="park"),)), False)
    store.batch = 1000
    for number, tasks in enumerate(store.windows()):
        if number == 0:
            assert [task.id for task in tasks] == ids[:1000]
            continue
        lab.client.rpop("mail", 1002)
        outcomes = store.apply([Decision(task, "park") for task in tasks])
        assert [bool(outcome) for outcome in outcomes] == [index < 2 for index in range(500)]
    assert lab.ids("queueops:parked:mail") == ids[1002:] and lab.client.llen("mail") == 0


def test_what_another_redrive_took_from_the_middle_is_passed_over(lab: Lab) -> None:
    """Also when it was the last task of a window, by which the place in the list is found again."""
    ids = lab.publish(9)
    store = lab.backend().open_store(RedriveRequest("mail", run="r1", source="queued", rules=(Rule(action="park"),)), False)
    store.batch = 3
    seen: list[str] = []
    for number, tasks in enumerate(store.windows()):
        seen += [task.id for task in tasks]
        if number == 1:
            assert lab.redrive(Rule(Match(ids=(ids[5],)), "park"), source="queued", run="r2").moved == 1
            outcomes = store.apply([Decision(tasks[2], "park")])
            assert outcomes[0].startswith("it was taken")
    assert seen == ids


def test_large_messages_and_results_are_read_a_few_at_a_time(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celery_redis_messages, "WINDOW_BYTES", 20000)
    monkeypatch.setattr(celery_redis_store, "WINDOW_BYTES", 20000)
    large = ["x" * 5000]
    published = [lab.app.send_task("app.note", args=large, queue="mail").id for _index in range(40)]
    failed = lab.fail(10, args=large)
    for source, ids in (("queued", published), ("failed", failed)):
        store = lab.backend().open_store(RedriveRequest("mail", source=source, rules=(Rule(action="park"),)), False)
        windows = [[task.id for task in tasks] for tasks in store.windows()]
        assert sorted(task for window in windows for task in window) == sorted(ids)
        assert max(map(len, windows)) <= 20 and len(windows) > 1
        assert lab.redrive(Rule(action="park"), source=source).moved == len(ids)


def test_a_key_prefix_is_no_pattern(lab: Lab) -> None:
    for prefix in ("a\\*[b]?:", "axb:"):
        lab.client.sadd(prefix + "_kombu.binding.x", SEP.join(("q", "", "of " + prefix)))
    assert [state.name for state in lab.backend(key_prefix="a\\*[b]?:").look().queues] == ["of a\\*[b]?:"]


def test_what_is_no_message_stays_where_it_is(lab: Lab) -> None:
    lab.publish(2)
    lab.publish(1, "other")
    lab.client.rpush("mail", "garbage")
    report = lab.redrive(Rule(destination="other"), source="queued")
    assert (report.moved, report.skipped_because) == (2, {"it is not a message of Celery": 1})
    assert lab.client.lrange("mail", 0, -1) == [b"garbage"]


def test_from_another_queue_by_its_name(lab: Lab) -> None:
    lab.publish(1)
    ids = lab.publish(2, "old")
    assert lab.redrive(source="old").moved == 2
    assert lab.ids("mail")[1:] == ids
    with pytest.raises(NotFound) as caught:
        lab.redrive(source="nowhere")
    assert caught.value.option == "source"


# Redriving what workers held


def test_abandoned_tasks_go_back_as_kombu_puts_them(lab: Lab) -> None:
    lab.publish(4)
    lab.publish(1, "other")
    taken = lab.take(2)
    lab.take(1, "other")
    assert lab.state().abandoned == 2
    report = lab.redrive(source="abandoned")
    assert report.moved == 2 and report.conservation["verdict"] == "proven"
    assert len(lab.ids("mail")) == 4 and set(taken) <= set(lab.ids("mail"))
    assert lab.client.hlen("unacked") == lab.client.zcard("unacked_index") == 1
    assert json.loads(lab.client.lindex("mail", 0))["headers"]["redelivered"] is True


def test_abandoned_is_refused_while_anybody_takes_tasks(lab: Lab) -> None:
    lab.publish(2)
    lab.take(1)
    listening = lab.client.pubsub()
    listening.psubscribe("/0.celery.pidbox")
    assert listening.get_message(timeout=5)
    with pytest.raises(Unavailable) as silent:
        lab.redrive(source="abandoned", settings={"inspect_timeout": 0.2})
    assert "1 listen, 0 answered" in silent.value.message
    with pytest.raises(Refused) as caught:
        lab.redrive(source="abandoned", settings={"ask_workers": False})
    assert "1 workers listen, and they were not asked" in caught.value.message
    listening.close()
    # A worker without remote control shows only by how it takes tasks.
    taker = redis.Redis.from_url(lab.url)
    assert taker.brpop(["mail"], timeout=1)
    with pytest.raises(Refused) as caught:
        lab.redrive(source="abandoned", check=True)
    assert "1 clients wait for tasks, and 1 of mail are in the hands of none that answers" in caught.value.message
    taker.close()
    assert lab.client.hlen("unacked") == 1


def test_nothing_is_abandoned_where_nothing_is_unacknowledged(lab: Lab) -> None:
    lab.publish(2)
    lab.publish(1, "other")
    lab.take(1, "other")
    listening = lab.client.pubsub()
    listening.psubscribe("/0.celery.pidbox")
    assert listening.get_message(timeout=5)
    report = lab.redrive(source="abandoned")
    assert (report.matched, report.conservation["verdict"]) == (0, "proven")
    listening.close()


def test_executing_tasks_may_be_failed_or_parked(lab: Lab) -> None:
    lab.publish(3)
    taken = lab.take(3)
    rules = (Rule(Match(ids=(taken[0],)), "fail"), Rule(Match(ids=(taken[1],)), "park"), Rule())
    assert lab.redrive(*rules, source="executing").by_action == {"fail": 1, "park": 1, "requeue": 1}
    assert (lab.ids("mail"), lab.ids("queueops:parked:mail")) == ([taken[2]], [taken[1]])
    assert lab.app.AsyncResult(taken[0]).state == "FAILURE"
    assert lab.meta(taken[0])["result"]["exc_type"] == "FailedByRule"
    assert lab.client.hlen("unacked") == 0
    assert lab.redrive().moved == 1
    assert sorted(lab.ids("mail")) == sorted([taken[0], taken[2]])
