# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sidekiq's tasks are JSON text that is cut and joined on the server: whatever is in it, only what has to change does."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
import redis
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, NotFound, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveReport, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend
from ansible_collections.queueops.fleet.plugins.module_utils._queue.sidekiq_store import DEAD_MOST

from tests.unit.conftest import RedisServer

#: A rule that takes everything, by the walk rather than by the sweep.
EACH = Rule(Match(task="*"))
MARKS = re.compile(rb',"queueops_redrives":1,"queueops_run":"r1","queueops_pass":"[0-9a-f]{12}"')


class Redis:
    """The test's Redis, and redrives on it."""

    def __init__(self, server: RedisServer) -> None:
        self.url = server.url
        self.client: Any = redis.Redis.from_url(server.url)
        self.client.sadd("queues", "mail", "undo")

    def redrive(self, *rules: Rule, check: bool = False, queue: str = "mail", **more: Any) -> RedriveReport:
        options: dict[str, Any] = {"source": "failed", "run": "r1", **more}
        backend = open_backend("sidekiq", {"url": self.url})
        return engine.redrive(backend, RedriveRequest(queue, rules=rules or (Rule(),), **options), check)

    def put(self, place: str, *tasks: bytes) -> None:
        for number, task in enumerate(tasks):
            self.client.zadd(place, {task: 1000 + number})

    def queue(self, name: str = "mail") -> list[bytes]:
        """The oldest first."""
        return list(reversed(self.client.lrange("queue:" + name, 0, -1)))


@pytest.fixture
def broker(redis_server: RedisServer) -> Redis:
    return Redis(redis_server)


def task(number: int, queue: str = "mail", args: str = '["hunter2"]', more: str = "") -> bytes:
    """As Sidekiq 6 writes it after a failure."""
    return (
        '{"retry":true,"queue":"%s","class":"Note","args":%s,"jid":"%024x","created_at":1700000000.25,"enqueued_at":1700000001.5,'
        '"error_message":"no good","error_class":"ValueError","failed_at":1700000002.125,"retry_count":3%s}' % (queue, args, number, more)
    ).encode()


ODD = {
    "plain": task(1),
    "big numbers, empty and odd values": task(1, args='[12345678901234567890123,1.10,1e400,[],{},null,"",-0.0,true,"\\u0000\\ud800"]'),
    "the same names inside": task(
        1, args='[{"queue":"x","jid":"y","retry_count":9,"enqueued_at":1,"a":{"retry_count":8,"queueops_run":"z"}},"\\"queue\\":\\"x\\""]'
    ),
    "brackets in the message": task(1).replace(b"no good", b'undefined [method] {for} nil, \\"retry_count\\":7,'),
    "a nested tag behind": task(1, more=',"cattr":{"enqueued_at":7,"retry_count":6},"tags":["retry_count"]'),
    "not ASCII": task(1, args='["grüße 邮件"]'),
    "no UTF-8": task(1).replace(b"hunter2", b"\xff\xfe"),
    "spaces": task(1).replace(b'":', b'" : ').replace(b',"', b' ,\n "').replace(b"{", b" { ", 1),
    "another order": b'{"jid":"%024x","retry_count":3,"enqueued_at":1700000001.5,"args":[1],"queue":"mail","class":"Note","retry":5}' % 1,
    "milliseconds, as from version 8 on": task(1).replace(b"1700000001.5", b"1700000001500").replace(b"1700000002.125", b"1700000002125"),
    "never tried": b'{"queue":"mail","class":"Note","args":[[]],"jid":"%024x","created_at":1.5,"enqueued_at":2.5}' % 1,
    "wrapped": task(
        1, args='[{"job_class":"Mailer","queue_name":"mail","arguments":[[]],"enqueued_at":"2026"}]', more=',"wrapped":"Mailer"'
    ),
    "names that end alike": task(1, more=',"x\\"retry_count":5,"my_queue":"other"'),
    "escaped queue": task(1).replace(b'"queue":"mail"', b'"queue":"m\\u0061il"'),
}


def without_marks(text: bytes) -> bytes:
    found, count = MARKS.subn(b"", text)
    assert count == 1, text
    return found


@pytest.mark.parametrize("rule", [Rule(), EACH], ids=["sweep", "walk"])
@pytest.mark.parametrize("place", ["retry", "dead"])
@pytest.mark.parametrize("name", ODD)
def test_only_what_has_to_change_does(broker: Redis, name: str, place: str, rule: Rule) -> None:
    before = ODD[name]
    broker.put(place, before, task(2))
    began = time.time()
    report = broker.redrive(rule, source={"retry": "failed", "dead": "dead_lettered"}[place])
    assert (report.moved, report.matched, report.conservation["verdict"]) == (2, 2, "proven"), report
    assert broker.client.zcard(place) == 0 and broker.client.smembers("queueops:redrive:r1:moved") == {b"%024x" % n for n in (1, 2)}
    after = without_marks(broker.queue()[0])
    counted = re.compile(rb'(?<=[,{\s]"retry_count":)3|(?<=[,{\s]"retry_count" : )3')
    assert (b"3" in (counted.search(before) or [b""])[0]) == (name != "never tried")
    # The same text again, once what may have changed is put back.
    entered = re.search(rb'(?<=[,{\s]"enqueued_at":)(\d{10}\.\d{6}|\d{13})|(?<=[,{\s]"enqueued_at" : )\d{10}\.\d{6}', after)
    assert entered, after
    stamp = float(entered.group(0))
    assert abs((stamp / 1000 if b"." not in entered.group(0) else stamp) - began) < 30
    assert (b"." in entered.group(0)) == (b"1700000001500" not in before)
    original = b"1700000001500" if b"." not in entered.group(0) else b"2.5" if name == "never tried" else b"1700000001.5"
    restored = after.replace(entered.group(0), original)
    spot = re.search(rb'(?<=[,{\s]"retry_count":)2|(?<=[,{\s]"retry_count" : )2', restored)
    if name != "never tried":
        assert spot, restored
        restored = restored[: spot.start()] + b"3" + restored[spot.end() :]
    assert restored == before


@pytest.mark.parametrize("rule", [Rule(), EACH], ids=["sweep", "walk"])
def test_tasks_of_other_queues_and_no_tasks_stay(broker: Redis, rule: Rule) -> None:
    others = [task(9, "undo"), task(8, args='[{"queue":"mail"}]', queue="undo"), b"no JSON", b'{"queue":"mail"', b"[]"]
    for number in range(4):
        broker.client.zadd("retry", dict.fromkeys([*others, task(number)], 5))  # All due at one moment.
    report = broker.redrive(rule)
    assert (report.matched, report.moved) == (4, 4)
    assert sorted(broker.client.zrange("retry", 0, -1)) == sorted(others)
    assert [json.loads(entry)["jid"] for entry in broker.queue()] == ["%024x" % number for number in range(4)]


@pytest.mark.parametrize("rule", [Rule(), EACH], ids=["sweep", "walk"])
def test_a_task_without_an_id_is_named_and_left(broker: Redis, rule: Rule) -> None:
    broker.put("retry", b'{"queue":"mail","class":"Note","args":[]}')
    report = broker.redrive(rule)
    assert (report.moved, report.skipped_because) == (0, {"it has no id": 1})
    assert broker.client.zcard("retry") == 1


@pytest.mark.parametrize("rule", [Rule(action="fail"), Rule(Match(task="*"), "dead_letter")], ids=["sweep", "walk"])
def test_a_full_dead_set_is_not_made_to_lose_tasks(broker: Redis, rule: Rule) -> None:
    broker.client.zadd("dead", {b"%d" % number: number for number in range(DEAD_MOST - 2)})
    broker.put("retry", *(task(number) for number in range(5)))
    report = broker.redrive(rule)
    assert (report.moved, report.skipped) == (2, 3) and "the dead set is full" in next(iter(report.skipped_because))
    assert (broker.client.zcard("dead"), broker.client.zcard("retry")) == (DEAD_MOST, 3)
    assert broker.client.zrange("dead", -2, -1) == [task(0), task(1)]


@pytest.mark.parametrize("rule", [Rule(), EACH], ids=["sweep", "walk"])
@pytest.mark.parametrize("key", ["queue:mail", "queueops:redrive:r1:moved"])
def test_a_key_of_another_kind_is_refused_before_anything_changes(broker: Redis, key: str, rule: Rule) -> None:
    broker.put("retry", task(1))
    broker.client.set(key, "x")
    with pytest.raises(FleetError) as caught:
        broker.redrive(rule)
    assert "not of the kind" in caught.value.sentence()
    assert broker.client.zrange("retry", 0, -1) == [task(1)]


def test_a_destination_and_compensation_are_written_into_the_task(broker: Redis) -> None:
    broker.put("dead", task(1), task(2))
    broker.redrive(Rule(destination="undo"), source="dead_lettered", limit=1)
    broker.redrive(Rule(action="compensate", destination="undo"), source="dead_lettered")
    first, second = (json.loads(entry) for entry in broker.queue("undo"))
    assert (first["queue"], first.get("queueops_compensates")) == ("undo", None)
    assert (second["queue"], second["queueops_compensates"], second["retry_count"]) == ("undo", True, 2)
    assert b"undo" in broker.client.smembers("queues")


def test_parked_tasks_are_what_they_were_and_come_back(broker: Redis) -> None:
    broker.put("retry", task(1), task(2), task(3, "undo"))
    assert broker.redrive(Rule(action="park")).by_action == {"park": 2}
    assert broker.client.zrange("queueops:parked:mail", 0, -1) == [task(1), task(2)]
    assert broker.redrive(source="parked", run="r2").moved == 2
    assert [json.loads(entry)["jid"][-1] for entry in broker.queue()] == ["1", "2"]


def test_failed_again_in_this_run_is_left_and_in_another_taken(broker: Redis) -> None:
    broker.put("retry", task(1))
    broker.redrive()
    (back,) = broker.queue()
    broker.client.delete("queue:mail")
    broker.put("retry", back)
    assert broker.redrive().skipped_because == {"already moved by this run": 1}
    assert broker.redrive(EACH).skipped_because == {"already moved by this run": 1}
    assert broker.redrive(run="r2").moved == 1
    again = json.loads(broker.queue()[0])
    assert (again["queueops_redrives"], again["queueops_run"]) == (2, "r2")
    assert list(again).count("queueops_run") == 1 and broker.queue()[0].count(b"queueops_run") == 1


def test_match_by_payload_error_and_age(broker: Redis) -> None:
    broker.put("retry", task(1), task(2, args='[{"to":["a","b"],"n":7}]'), task(3).replace(b"no good", b"timed out"))
    assert broker.redrive(Rule(Match(field={"args.0.to.1": "b", "args.0.n": "7"})), check=True).matched == 1
    assert broker.redrive(Rule(Match(error="^ValueError: timed")), check=True).matched == 1
    assert broker.redrive(Rule(Match(older_than=3600.0)), check=True).matched == 3
    report = broker.redrive(Rule(Match(error="timed out")))
    assert (report.moved, report.sample[0]["error"], report.sample[0]["task"]) == (1, "ValueError", "Note")
    assert "hunter2" not in str(report.as_dict()) and "timed out" not in str(report.as_dict())
    for refused in (Match(version="1"), Match(header={"a": "b"})):
        with pytest.raises(Refused) as caught:
            broker.redrive(Rule(refused))
        assert caught.value.next_step and "match.field" in caught.value.next_step


def test_queued_tasks_go_to_another_queue_in_order(broker: Redis) -> None:
    entries = [task(number, args='["%s"]' % ("a" if number % 3 else "b")) for number in range(1200)]
    broker.client.lpush("queue:mail", *entries)
    with pytest.raises(Refused):
        broker.redrive(source="queued")
    report = broker.redrive(Rule(Match(field={"args.0": "b"}), destination="undo"), source="queued")
    assert (report.moved, report.conservation["verdict"]) == (400, "proven")
    assert broker.queue() == [entry for number, entry in enumerate(entries) if number % 3]
    assert [json.loads(entry)["jid"] for entry in broker.queue("undo")] == ["%024x" % number for number in range(0, 1200, 3)]
    assert all(json.loads(entry)["queue"] == "undo" for entry in broker.queue("undo"))
    # By the other queue's name it is found too, and goes back.
    assert broker.redrive(Rule(destination="mail"), source="undo", run="r2").moved == 400
    assert broker.redrive(Rule(action="park"), source="queued", run="r3", limit=1000).moved == 1000
    assert (broker.client.llen("queue:mail"), broker.client.zcard("queueops:parked:mail")) == (200, 1000)


def test_workers_take_queued_tasks_meanwhile(broker: Redis) -> None:
    """What was left behind is taken from the right while the walk goes on: none is skipped, none met twice."""
    entries = [task(number) for number in range(1500)]
    broker.client.lpush("queue:mail", *entries)
    backend = open_backend("sidekiq", {"url": broker.url})
    store = backend.open_store(RedriveRequest("mail", run="r1", source="queued", rules=(Rule(action="park"),)), False)
    met: list[str] = []
    for number, window in enumerate(store.windows()):
        met += [entry.id for entry in window]
        taken = [broker.client.rpop("queue:mail") for _index in range((0, 150, 400, 0, 100, 0, 0, 0)[number])]
        assert None not in taken
        broker.client.lpush("queue:mail", task(5000 + number))
    assert met == ["%024x" % number for number in range(1500)]


@pytest.mark.parametrize("vanish", [True, False])
def test_others_take_tasks_out_of_the_set_meanwhile(broker: Redis, vanish: bool) -> None:
    """All are due at one moment, and the task at which the walk stands is taken away."""
    broker.client.zadd("retry", {task(number): 5 for number in range(1300)})
    wanted = broker.client.zrange("retry", 0, -1)
    backend = open_backend("sidekiq", {"url": broker.url})
    store = backend.open_store(RedriveRequest("mail", run="r1"), False)
    met: list[bytes] = []
    for window in store.windows():
        met += [entry.handle.member for entry in window]
        if vanish:
            broker.client.zrem("retry", *met[-3:], met[0])
    assert met == wanted


def test_a_missing_queue_or_destination(broker: Redis) -> None:
    broker.put("retry", task(1))
    with pytest.raises(NotFound) as caught:
        broker.redrive(Rule(destination="nowhere"))
    assert caught.value.option == "destination"
    with pytest.raises(NotFound) as caught:
        broker.redrive(queue="nowhere")
    assert caught.value.option == "queue"


def test_an_empty_set_is_no_error(broker: Redis) -> None:
    assert broker.redrive().matched == broker.redrive(EACH).matched == 0


@pytest.mark.parametrize("rule", [Rule(), EACH], ids=["sweep", "walk"])
def test_what_fails_while_it_runs_is_not_part_of_it(broker: Redis, rule: Rule) -> None:
    """Otherwise a worker that fails new tasks as fast as they are redriven would keep it going for ever."""
    later = [b"%.3f" % (time.time() + 3600), b"%d" % ((time.time() + 3600) * 1000)]
    broker.put("retry", *(task(number + 5).replace(b"1700000002.125", stamp) for number, stamp in enumerate(later)), task(1))
    assert broker.redrive(rule).moved == 1
    assert broker.client.zcard("retry") == 2


def test_many_tasks_of_another_queue_are_passed_over(broker: Redis) -> None:
    """Of another queue's tasks each script passes over a bounded number, and the walk goes on behind them."""
    broker.client.zadd("dead", {task(number, "undo"): number for number in range(4000)})
    broker.client.zadd("dead", {task(9000): 9000, task(9001): 1500.5})
    report = broker.redrive(source="dead_lettered")
    assert (report.matched, report.moved) == (2, 2)
    assert broker.client.zcard("dead") == 4000


@pytest.mark.parametrize("rule", [Rule(action="fail"), Rule(Match(task="*"), "fail")], ids=["sweep", "walk"])
def test_dead_tasks_that_are_to_be_dead_are_each_seen_once(broker: Redis, rule: Rule) -> None:
    """They come back to the end of the set that is walked."""
    broker.put("dead", *(task(number) for number in range(700)))
    report = broker.redrive(rule, source="dead_lettered")
    assert (report.matched, report.moved, broker.client.zcard("dead")) == (700, 700, 700)
    assert broker.client.zrange("dead", 0, -1) == [task(number) for number in range(700)]


def test_queued_tasks_that_are_compensated_in_their_own_queue_are_there_once(broker: Redis) -> None:
    broker.client.lpush("queue:mail", *(task(number) for number in range(5)))
    report = broker.redrive(Rule(Match(field={"jid": "%024x" % 2}), "compensate", "mail"), source="queued")
    assert report.moved == 1
    assert [json.loads(text)["jid"] for text in broker.queue()] == ["%024x" % number for number in (0, 1, 3, 4, 2)]
