# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redriving RQ's failed tasks: each moves once, whatever else goes on, and payloads stay closed."""

from __future__ import annotations

import os
import pickle
import threading
import zlib
from dataclasses import asdict
from typing import Any

import pytest
import rq
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue import rq_redrive as room
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveReport, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.matching import error_class
from ansible_collections.queueops.fleet.plugins.module_utils._queue.rq_tasks import error_block

from tests.unit.conftest import wait_for

from .conftest import Broker, as_text

NAME = "mailer@1.0.0:worker1:1"


def by_rules(broker: Broker, *rules: Rule, check: bool = False, **more: Any) -> RedriveReport:
    report = engine.redrive(broker.backend(), RedriveRequest("mail", rules=rules or (Rule(),), **more), check)
    assert report.matched == report.moved + report.skipped + report.remaining
    return report


def redrive(
    broker: Broker, check: bool = False, run: str | None = None, destination: str | None = None, limit: int | None = None, **match: Any
) -> RedriveReport:
    return by_rules(broker, Rule(Match(**match), destination=destination), check=check, run=run, limit=limit)


def queued(broker: Broker, name: str = "mail") -> list[str]:
    return broker.queue(name).get_job_ids()


def failed(broker: Broker) -> list[str]:
    ids: list[str] = broker.queue().failed_job_registry.get_job_ids(cleanup=False)
    return ids


def test_moves_all_and_a_second_time_nothing(broker: Broker) -> None:
    ids = broker.fail(7)
    report = redrive(broker)
    assert (report.matched, report.moved, report.skipped, report.remaining) == (7, 7, 0, 0)
    assert report.by_version == {"2.0.0": 7} and report.by_task == {"tasks.note": 7}
    assert sorted(queued(broker)) == sorted(ids) and failed(broker) == []
    assert report.conservation["verdict"] == "proven", report.conservation
    assert report.diff == {"before": {"failed": 7, "redriven": 0}, "after": {"failed": 0, "redriven": 7}}
    before = broker.snapshot()
    assert redrive(broker).moved == 0
    assert broker.snapshot() == before


def test_what_was_moved_is_worked_on(broker: Broker) -> None:
    broker.fail(5)
    redrive(broker)
    broker.start_worker(NAME, burst=True)
    assert sorted(broker.noted()) == ["0", "1", "2", "3", "4"]


def test_ends_as_rqs_own_requeue(broker: Broker) -> None:
    theirs, ours = broker.fail(2)
    broker.queue().failed_job_registry.requeue(theirs)
    redrive(broker)
    varying = {b"enqueued_at", b"created_at", b"started_at", b"data", b"description", b"exc_info", b"timeout"}
    client: Any = broker.client
    left, right = (client.hgetall("rq:job:" + task) for task in (theirs, ours))
    plain = {name: value for name, value in right.items() if name not in varying and not name.startswith(b"queueops_")}
    assert {name: value for name, value in left.items() if name not in varying} == plain
    assert right[b"queueops_redrives"] == b"1" and right[b"started_at"] == left[b"started_at"] == b""
    assert broker.client.ttl("rq:job:" + ours) == -1  # A task that waits must not expire.
    job = broker.queue().fetch_job(ours)
    assert job is not None and job.get_status() == rq.job.JobStatus.QUEUED and job.ended_at is None
    assert queued(broker) == [theirs, ours]


def test_a_task_with_a_ttl_keeps_it(broker: Broker) -> None:
    job = broker.queue().enqueue("tasks.fail", 1, job_timeout=5, ttl=1000)
    broker.start_worker(NAME, burst=True)
    assert failed(broker) == [job.id]
    redrive(broker)
    assert 900 < broker.client.ttl("rq:job:" + job.id) <= 1000


def test_really_failed_tasks_are_told_by_version_task_and_error(broker: Broker) -> None:
    broker.publish(2, "fail")
    broker.start_worker("mailer@1.0.0:worker1:1", burst=True)
    broker.publish(3, "fail")
    broker.publish(4, "fail_otherwise")
    broker.start_worker("mailer@2.0.0:worker1:2", burst=True)
    assert redrive(broker, check=True, version="1.0.0").matched == 2
    assert redrive(broker, check=True, version="2.0.0", task="tasks.fail").matched == 3
    assert redrive(broker, check=True, task="*.fail*").matched == 9
    assert redrive(broker, check=True, task="fail").matched == 0
    assert redrive(broker, check=True, error="KeyError").matched == 4
    assert redrive(broker, check=True, error="^ValueError: cannot do [01] ").matched == 4
    assert redrive(broker, check=True, error="tasks.py").matched == 0  # The traceback is not searched.
    assert redrive(broker, check=True, older_than=3600).matched == 0
    assert redrive(broker, check=True, newer_than=3600).matched == 9
    report = redrive(broker, version="2.0.0", error="KeyError")
    assert report.by_task == {"tasks.fail_otherwise": 4} and report.by_version == {"2.0.0": 4}
    assert {entry["error"] for entry in report.sample} == {"KeyError"}
    assert len(failed(broker)) == 5


def test_no_argument_and_no_message_is_shown(broker: Broker) -> None:
    broker.publish(2, "fail")
    job = broker.queue().enqueue("tasks.fail", 1, description="mail to bob@example.org (hunter2)")
    broker.start_worker(NAME, burst=True)
    report = redrive(broker)
    assert report.moved == 3
    shown = as_text(asdict(report))
    assert "hunter2" not in shown and "bob" not in shown and "cannot do" not in shown
    assert {entry["id"]: entry["task"] for entry in report.sample}[job.id] is None
    assert report.by_task == {"tasks.fail": 2, "unknown": 1}


def test_what_cannot_be_compared_stays_and_is_said(broker: Broker) -> None:
    broker.fail(3, worker="w1")
    broker.fail(2)
    report = redrive(broker, version="2.0.0")
    assert (report.moved, report.undetermined) == (2, 3)
    assert "3 tasks do not record" in report.warnings[0]
    assert len(failed(broker)) == 3


def test_check_mode_changes_nothing_and_foretells(broker: Broker) -> None:
    broker.fail(5)
    broker.fail(3, worker="mailer@1.0.0:worker1:1")
    before = broker.snapshot()
    told = redrive(broker, check=True, run="r1", version="2.0.0", limit=4)
    assert broker.snapshot() == before
    done = redrive(broker, run="r1", version="2.0.0", limit=4)
    names = ("matched", "moved", "skipped", "remaining", "by_version", "by_task", "sample", "diff")
    assert {name: getattr(told, name) for name in names} == {name: getattr(done, name) for name in names}
    assert (done.matched, done.moved, done.remaining) == (5, 4, 1)


def test_named_tasks(broker: Broker) -> None:
    ids = broker.fail(4)
    report = redrive(broker, ids=(ids[2], ids[0], "nobody"))
    assert (report.matched, report.moved, report.skipped_because) == (3, 2, {"not among the failed tasks": 1})
    assert queued(broker) == [ids[2], ids[0]]


def test_the_same_run_leaves_alone_what_it_moved_before(broker: Broker) -> None:
    broker.publish(3, "fail")
    broker.start_worker(NAME + "a", burst=True)
    assert redrive(broker, run="r1").moved == 3
    broker.start_worker(NAME + "b", burst=True)  # They fail again.
    assert redrive(broker, check=True, run="r1").moved == 0
    report = redrive(broker, run="r1")
    assert (report.moved, report.skipped_because) == (0, {"already moved by this run": 3})
    assert 6 * 86400 < broker.client.ttl("queueops:redrive:r1:moved:rq") <= 7 * 86400
    report = redrive(broker)
    assert report.moved == 3 and report.run != "r1"
    assert {entry["redrives"] for entry in report.sample} == {1}


def test_expired_and_odd_tasks_are_skipped_and_counted(broker: Broker) -> None:
    ids = broker.fail(4)
    broker.client.delete("rq:job:" + ids[0])
    broker.client.delete("rq:job:" + ids[1])
    broker.client.hset("rq:job:" + ids[1], "last_heartbeat", "x")  # RQ can leave such a rest behind.
    broker.client.hset("rq:job:" + ids[2], "status", "started")  # It runs, although it is listed.
    told = redrive(broker, check=True)
    report = redrive(broker)
    assert queued(broker) == [ids[3]]
    assert report.skipped_because == told.skipped_because
    assert report.skipped_because == {"its record has expired on the broker": 2, "its own status is not failed": 1}


def test_what_changes_between_reading_and_moving_is_seen(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script on the server checks everything again: here others act just before it runs."""
    ids = broker.fail(5)
    apply = room.RqStore.apply

    def others_first(self: room.RqStore, *arguments: Any) -> list[str]:
        broker.queue().failed_job_registry.requeue(ids[0])
        broker.client.delete("rq:job:" + ids[1])
        broker.client.hset("rq:job:" + ids[2], "status", "started")
        broker.client.sadd("queueops:redrive:r1:moved:rq", ids[3])
        broker.client.hset("rq:job:" + ids[3], "queueops_redrives", "1")
        return apply(self, *arguments)

    monkeypatch.setattr(room.RqStore, "apply", others_first)
    report = redrive(broker, run="r1")
    assert report.moved == 1
    assert report.skipped_because == {
        "not among the failed tasks": 1,
        "its record has expired on the broker": 1,
        "its own status is not failed": 1,
        "already moved by this run": 1,
    }
    assert queued(broker) == [ids[0], ids[4]]


def test_many_windows_with_some_that_stay(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BATCH", 7)  # All fail within a second: the scores are the same.
    for _index in range(4):
        broker.fail(11, worker="mailer@1.0.0:worker1:1")
        broker.fail(13)
        broker.fail(3, worker="w1")
    told = redrive(broker, check=True, version="2.0.0")
    report = redrive(broker, version="2.0.0")
    assert (told.moved, told.undetermined) == (report.moved, report.undetermined) == (52, 12)
    assert len(failed(broker)) == 4 * 14
    report = redrive(broker, limit=20)
    assert (report.matched, report.moved, report.remaining) == (56, 20, 36)


def test_two_at_once_move_each_task_once(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BATCH", 20)
    ids = broker.fail(1500)
    reports: list[RedriveReport] = []
    begin = threading.Barrier(2)

    def one() -> None:
        begin.wait()
        reports.append(redrive(broker))

    threads = [threading.Thread(target=one) for _index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(queued(broker)) == sorted(ids)
    assert sum(report.moved for report in reports) == 1500
    assert failed(broker) == []


def test_nothing_is_lost_or_doubled_under_live_workers(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BATCH", 10)
    broker.fail(120)
    for number in (1, 2):
        broker.start_worker("mailer@1.0.0:worker%d:1" % number)
    report = by_rules(broker, rate=100.0)
    assert report.moved == 120
    wait_for(lambda: len(broker.noted()) >= 120, what="the tasks", limit=60)
    wait_for(lambda: all(worker.state == "idle" for worker in broker.backend().look().workers), what="idle workers")
    assert sorted(map(int, broker.noted())) == list(range(120))
    assert report.conservation["verdict"] == "unproven" and "meanwhile" in report.conservation["reason"]


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.path,))


def test_payloads_are_never_unpickled(broker: Broker) -> None:
    (task,) = broker.fail(1)
    trap = str(broker.folder / "trap")
    bomb = pickle.dumps(Bomb(trap))
    broker.client.hset("rq:job:" + task, mapping={"data": zlib.compress(bomb), "meta": bomb, "result": bomb})
    broker.client.delete("rq:results:" + task)
    broker.client.hset("rq:job:" + task, "exc_info", zlib.compress(b"ValueError: x"))
    broker.backend().look()
    assert redrive(broker, check=True, error="Value", task="tasks.note", version="2.0.0").moved == 1
    assert redrive(broker, error="Value", task="tasks.note", version="2.0.0").moved == 1
    assert not os.path.exists(trap)
    assert broker.client.hget("rq:job:" + task, "data") == zlib.compress(bomb)
    broker.queue().fetch_job(task)  # RQ itself unpickles as it looks, so it would have shown.
    assert os.path.exists(trap)


def test_a_rate_limited_task_waits_for_its_slot_as_with_rq(broker: Broker) -> None:
    limit = rq.rate_limit.RateLimit("smtp", 1)
    for number in range(3):
        broker.queue().enqueue("tasks.fail", number, rate_limit=limit)
    broker.start_worker(NAME, burst=True)
    assert len(failed(broker)) == 3
    assert redrive(broker).moved == 3
    registry = rq.rate_limit.RateLimitRegistry("smtp", broker.client)
    assert len(queued(broker)) == 1 and registry.get_allowed_job_ids() == queued(broker)
    assert registry.get_rate_limited_job_count() == 2


def test_another_destination(broker: Broker) -> None:
    broker.publish(1, queue="slow")
    ids = broker.fail(2)
    report = redrive(broker, destination="slow")
    assert report.moved == 2 and report.conservation["verdict"] == "proven"
    assert sorted(queued(broker, "slow")[1:]) == sorted(ids) and queued(broker) == []
    job = broker.queue("slow").fetch_job(ids[0])
    assert job is not None and job.origin == "slow"


@pytest.mark.parametrize(
    ("request_", "option", "said"),
    [
        (RedriveRequest("mial"), "queue", "no queue mial"),
        (RedriveRequest("mail", rules=(Rule(destination="slwo"),)), "destination", "no queue slwo"),
        (RedriveRequest("mail", rules=(Rule(Match(error="(")),)), "match.error", "regular expression"),
        (RedriveRequest("mail", source="dead_lettered"), "source", "Give source=failed"),
        (RedriveRequest("mail", source="slow"), "source", "no source slow"),
        (RedriveRequest("mail", source="queued"), "rules", "to where they are"),
        (RedriveRequest("mail", rules=(Rule(action="dead_letter"),)), "rules", "Use action=fail or park"),
        (RedriveRequest("mail", rules=(Rule(Match(field={"a": "b"})),)), "match", "never read"),
        (RedriveRequest("mail", rules=(Rule(Match(header={"a": "b"})),)), "match", "never read"),
    ],
)
def test_refused_before_anything_changes(broker: Broker, request_: RedriveRequest, option: str, said: str) -> None:
    broker.fail(2)
    before = broker.snapshot()
    for check in (True, False):
        with pytest.raises(Refused) as caught:
            engine.redrive(broker.backend(), request_, check)
        assert caught.value.option == option and said in caught.value.sentence()
        assert "Nothing was changed." in caught.value.sentence()
    assert broker.snapshot() == before
    assert isinstance(caught.value, NotFound) == ("no queue" in said)


def test_a_huge_error_is_read_within_bounds() -> None:
    text = "Traceback (most recent call last):\n" + '  File "x"\n    y\n' * 200000 + "ValueError: the end"
    assert error_block(zlib.compress(text.encode()), False) == "ValueError: the end"
    assert error_block(b"not compressed\nKeyError: 'x'", False) == "not compressed\nKeyError: 'x'"
    assert error_class("smtplib.SMTPServerDisconnected: gone") == "smtplib.SMTPServerDisconnected"
    assert error_block(None, True) is None


def test_parked_tasks_are_nobodys_and_come_back(broker: Broker) -> None:
    ids = broker.fail(3)
    enqueued = broker.client.hget("rq:job:" + ids[0], "enqueued_at")
    assert by_rules(broker, Rule(Match(ids=tuple(ids[:2])), "park")).by_action == {"park": 2}
    assert failed(broker) == ids[2:] and queued(broker) == []
    assert broker.client.ttl("rq:job:" + ids[0]) == -1
    rq.registry.clean_registries(broker.queue())
    broker.start_worker(NAME, burst=True)
    assert broker.noted() == [] and broker.client.zcard("queueops:parked:rq:mail") == 2
    assert by_rules(broker, source="parked", check=True).moved == 2
    report = by_rules(broker, source="parked")
    assert report.moved == 2 and report.conservation["verdict"] == "proven", report.conservation
    assert broker.client.hget("rq:job:" + ids[0], "enqueued_at") == enqueued
    broker.start_worker(NAME + "0", burst=True)
    assert len(broker.noted()) == 2


def test_queued_tasks_are_found_however_far_apart_they_are(broker: Broker) -> None:
    rest, chosen = [], []
    for _round in range(12):
        rest += broker.publish(99)
        chosen += broker.publish(1, "fail")
    report = by_rules(broker, Rule(Match(task="tasks.fail"), "park"), source="queued")
    assert (report.matched, report.moved, report.skipped_because) == (12, 12, {})
    assert queued(broker) == rest
    assert by_rules(broker, source="parked").moved == len(chosen)


def test_queued_tasks_are_parked_failed_and_moved_by_rule(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BATCH", 4)
    broker.publish(1, queue="slow")
    ids = broker.publish(12) + broker.publish(3, "fail")
    rules = (
        Rule(Match(task="tasks.fail"), "fail"),
        Rule(Match(ids=tuple(ids[1:12:3])), "park"),
        Rule(Match(ids=tuple(ids[2:12:3])), destination="slow"),
        Rule(Match(ids=(ids[3],)), "discard"),
    )
    told = by_rules(broker, *rules, source="queued", check=True)
    report = by_rules(broker, *rules, source="queued")
    assert told.by_action == report.by_action == {"fail": 3, "park": 4, "requeue": 4, "discard": 1}
    assert queued(broker) == [ids[0], ids[6], ids[9]]
    assert queued(broker, "slow")[1:] == ids[2:12:3]
    assert sorted(failed(broker)) == sorted(ids[12:])
    assert not broker.client.exists("rq:job:" + ids[3])
    assert report.conservation["verdict"] == "proven", report.conservation
    job = broker.queue().fetch_job(ids[12])
    result = job.latest_result() if job is not None else None
    assert result is not None and job is not None and job.is_failed
    assert result.exc_string is not None and "by a rule of the redrive" in result.exc_string
    assert redrive(broker, check=True, error="by a rule").matched == 3


def test_executing_tasks_are_put_back_failed_or_parked(broker: Broker) -> None:
    for action in ("requeue", "fail", "park"):
        broker.client.flushdb()
        broker.queue().enqueue("tasks.hold", str(broker.folder / "gate"))
        broker.start_worker(NAME)
        wait_for(lambda: broker.client.hget("rq:job:%s" % broker.backend().look().workers[0].task, "status") == b"started", what="the task")
        broker.close()
        report = by_rules(broker, Rule(action=action), source="executing")
        assert report.by_action == {action: 1} and report.conservation["verdict"] == "proven"
        look = broker.backend().look(["mail"]).queues[0]
        assert (look.executing, look.abandoned) == (0, 0)
        assert (look.queued, look.failed) == {"requeue": (1, 0), "fail": (0, 1), "park": (0, 0)}[action]
        rq.registry.clean_registries(broker.queue())
        assert broker.backend().look(["mail"]).queues[0].failed == (1 if action == "fail" else 0)


def test_compensating_workers_can_tell(broker: Broker) -> None:
    broker.publish(1, queue="undo")
    (task,) = broker.fail(1)
    assert by_rules(broker, Rule(action="compensate", destination="undo")).by_action == {"compensate": 1}
    assert broker.client.hget("rq:job:" + task, "queueops_action") == b"compensate"
    assert queued(broker, "undo")[1:] == [task]


def test_its_queues_key_holds_something_else(broker: Broker) -> None:
    ids = broker.fail(2)
    broker.client.set("rq:queue:mail", "x")
    with pytest.raises(Refused, match="not of the kind"):
        redrive(broker)
    assert failed(broker) == sorted(ids)


def test_tasks_that_fail_at_once_again_are_not_seen_twice(broker: Broker) -> None:
    broker.publish(30, "fail")
    broker.start_worker(NAME)
    wait_for(lambda: len(failed(broker)) == 30, what="the failures", limit=60)
    report = by_rules(broker, rate=30.0)
    assert (report.matched, report.moved) == (30, 30)
    wait_for(lambda: len(failed(broker)) == 30, what="the failures again", limit=60)
    assert {int(broker.client.hget("rq:job:" + task, "queueops_redrives") or 0) for task in failed(broker)} == {1}


def test_a_task_that_was_stopped_on_request_is_redriven_as_with_rq(broker: Broker) -> None:
    """RQ keeps it among the failed tasks, with a status of its own."""
    job = broker.queue().enqueue("tasks.hold", str(broker.folder / "gate"))
    broker.start_worker(NAME)
    for match in (Match(task="tasks.hold"), Match()):
        wait_for(lambda: broker.client.hget("rq:job:" + job.id, "status") == b"started", what="the task")
        wait_for(lambda: broker.backend().look().workers[0].task == job.id, what="the worker's record of it")
        rq.command.send_stop_job_command(broker.client, job.id)
        wait_for(lambda: failed(broker) == [job.id] and broker.client.hget("rq:job:" + job.id, "status") == b"stopped", what="its stop")
        assert by_rules(broker, Rule(match), check=True).moved == 1
        assert by_rules(broker, Rule(match)).moved == 1


def test_dependents_of_a_redriven_task_do_not_expire(broker: Broker) -> None:
    first = broker.queue().enqueue("tasks.fail", 1, failure_ttl=1000)
    broker.queue("later").enqueue("tasks.note", broker.ledger, 1, depends_on=first)
    broker.start_worker(NAME, burst=True)
    assert 0 < broker.client.ttl("rq:job:%s:dependents" % first.id) <= 1000
    assert redrive(broker).moved == 1
    assert broker.client.ttl("rq:job:%s:dependents" % first.id) == -1
