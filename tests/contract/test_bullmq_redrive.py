# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is BullMQ's own: its end state after a retry, priorities, flows, ids by a counter, locks and both layouts of a paused queue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Decision, Match, RedriveReport, RedriveRequest, Rule

from tests.contract.system import Server
from tests.contract.systems.bullmq import Bullmq, Bullmq5
from tests.unit.conftest import RedisServer, wait_for

QUEUE = "mail"
#: What differs between two tasks whatever is done with them, and what only ours leaves.
OWN = {"timestamp", "data", "queueops_runs"}


class Given(Server):
    """The session's Redis, which is started and emptied by its fixture."""

    kind = "unit"

    def __init__(self, url: str) -> None:
        self.url = url

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def clear(self) -> None: ...


@pytest.fixture(params=[Bullmq, Bullmq5])
def bullmq(request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path) -> Iterator[Bullmq]:
    found: Bullmq = request.param(Given(redis_server.url), tmp_path)
    found.declare(QUEUE)
    yield found
    found.close()


@pytest.fixture
def latest(redis_server: RedisServer, tmp_path: Path) -> Iterator[Bullmq]:
    found = Bullmq(Given(redis_server.url), tmp_path)
    found.declare(QUEUE)
    yield found
    found.close()


def redriven(bullmq: Bullmq, *rules: Rule, **more: Any) -> RedriveReport:
    return engine.redrive(bullmq.open(), RedriveRequest(QUEUE, rules=rules or (Rule(),), **more))


def failed(bullmq: Bullmq, **options: Any) -> str:
    """One task that has failed."""
    (task,) = bullmq.publish(QUEUE, 1, **options)
    assert bullmq.tool("fail", QUEUE, count=1) == [task]
    return task


def record(bullmq: Bullmq, task: str) -> dict[str, str]:
    found = bullmq.client.hgetall(bullmq.key(QUEUE, task))
    return {name.decode(): value.decode().replace(task, "id") for name, value in found.items() if name.decode() not in OWN}


def members(bullmq: Bullmq, name: str) -> list[str]:
    key = bullmq.key(QUEUE, name)
    found = bullmq.client.lrange(key, 0, -1) if name in ("wait", "paused", "active") else bullmq.client.zrange(key, 0, -1)
    return [task.decode() for task in found]


def events(bullmq: Bullmq, task: str) -> list[tuple[bytes, bytes | None]]:
    entries = [fields for _id, fields in bullmq.client.xrange(bullmq.key(QUEUE, "events"))]
    return [(fields[b"event"], fields.get(b"prev")) for fields in entries if fields.get(b"jobId") == task.encode()]


@pytest.mark.parametrize("options", [{}, {"priority": 5}, {"lifo": True}])
def test_the_end_state_is_that_of_bullmqs_own_retry(bullmq: Bullmq, options: dict[str, Any]) -> None:
    theirs, swept, walked = (failed(bullmq, **options) for _index in range(3))
    assert redriven(bullmq, Rule(Match(ids=(walked,)))).moved == 1
    bullmq.client.delete(bullmq.key(QUEUE, "marker"))
    bullmq.tool("retry", QUEUE, id=theirs)
    assert redriven(bullmq).moved == 1
    assert record(bullmq, swept) == record(bullmq, walked) == record(bullmq, theirs)
    assert events(bullmq, swept) == events(bullmq, walked) == events(bullmq, theirs)
    assert bullmq.client.zscore(bullmq.key(QUEUE, "marker"), "0") == 0
    assert members(bullmq, "failed") == []
    place = "prioritized" if options.get("priority") and bullmq.library == "bullmq" else "wait"
    ours = members(bullmq, "prioritized" if options.get("priority") else "wait")
    assert theirs in members(bullmq, place) and {swept, walked} <= set(ours)
    if not options.get("priority"):
        # A list is worked on from its end: in order, or the latest first but for a sweep, which is BullMQ's retryJobs.
        assert ours == [swept, *([walked, theirs] if options.get("lifo") else [theirs, walked])]


def test_priorities_are_kept_among_those_that_wait(latest: Bullmq) -> None:
    low, high = failed(latest, priority=9), failed(latest, priority=1)
    (middle,) = latest.publish(QUEUE, 1, priority=5)
    assert redriven(latest).moved == 2
    assert members(latest, "prioritized") == [high, middle, low]


@pytest.mark.parametrize("rules", [(Rule(),), (Rule(Match(task="note")),)])
def test_a_paused_queue_takes_them_and_gives_them_to_nobody(bullmq: Bullmq, rules: tuple[Rule, ...]) -> None:
    ids = bullmq.fail(QUEUE, 5)
    waiting = bullmq.publish(QUEUE, 2)
    bullmq.tool("pause", QUEUE)
    bullmq.start_worker(QUEUE)
    assert redriven(bullmq, *rules).moved == 5
    assert bullmq.native(QUEUE) == {"queued": 7, "executing": 0, "failed": 0}
    assert not bullmq.client.exists(bullmq.key(QUEUE, "marker")) and bullmq.done() == []
    assert len(members(bullmq, "paused" if bullmq.library == "bullmq5" else "wait")) == 7
    bullmq.tool("resume", QUEUE)
    wait_for(lambda: len(bullmq.done()) == 7, what="the tasks")
    assert bullmq.done() == waiting + ids


def test_our_resume_takes_back_what_an_older_bullmq_paused(redis_server: RedisServer, tmp_path: Path) -> None:
    bullmq = Bullmq5(Given(redis_server.url), tmp_path)
    bullmq.declare(QUEUE)
    ids = bullmq.publish(QUEUE, 3)
    bullmq.tool("pause", QUEUE)
    # One was published by a newer BullMQ, into the list that the older one would overwrite.
    bullmq.client.lpush(bullmq.key(QUEUE, "wait"), *bullmq.publish("elsewhere", 1, jobId="newer"))
    assert bullmq.open().resume([QUEUE], "tests").changed
    assert bullmq.tool("isPaused", QUEUE) is False
    assert (members(bullmq, "wait"), members(bullmq, "paused")) == (["newer", *ids[::-1]], [])
    bullmq.close()


def test_a_failed_child_of_a_flow_counts_again_for_its_parent(latest: Bullmq) -> None:
    child = {"name": "note", "queueName": QUEUE, "opts": {"jobId": "child", "ignoreDependencyOnFailure": True}}
    other = {"name": "note", "queueName": "other", "opts": {"jobId": "later"}}
    tree = {"name": "note", "queueName": "tree", "opts": {"jobId": "top"}, "children": [child, other]}
    latest.tool("flow", flow=tree)
    latest.tool("fail", QUEUE, count=1)
    assert latest.client.hexists("bull:tree:top:failed", "bull:mail:child")
    latest.declare("undo")
    for rule in (Rule(action="park"), Rule(action="discard"), Rule(destination="undo")):
        report = redriven(latest, rule)
        assert (report.moved, list(report.skipped_because)) == (0, ["it belongs to a flow, whose other tasks know it by its queue"])
    assert redriven(latest).moved == 1
    assert not latest.client.hexists("bull:tree:top:failed", "bull:mail:child")
    assert latest.client.sismember("bull:tree:top:dependencies", "bull:mail:child")
    latest.start_worker(QUEUE)
    latest.start_worker("other")
    wait_for(lambda: latest.tool("state", "tree", id="top") == "waiting", what="the parent's release")


def test_numbered_tasks_do_not_meet_others_of_the_same_number(latest: Bullmq) -> None:
    latest.declare("undo")
    assert latest.publish_numbered(QUEUE, 3) == latest.publish_numbered("undo", 3) == ["1", "2", "3"]
    latest.tool("fail", QUEUE, count=3)
    report = redriven(latest, Rule(Match(task="note"), "compensate", "undo"))
    assert (report.moved, report.conservation["verdict"]) == (3, "proven"), report.conservation
    assert sorted(latest.identities("undo")) == ["1", "2", "3", "mail-1", "mail-2", "mail-3"]
    assert latest.client.hget("bull:undo:mail-2", "queueops_compensates") == b"2"
    assert latest.tool("job", "undo", id="mail-2")["name"] == "note"
    latest.start_worker("undo")
    wait_for(lambda: len(latest.done()) == 6, what="the tasks")


def test_parked_tasks_survive_the_removal_of_orphans(latest: Bullmq) -> None:
    ids = latest.fail(QUEUE, 3)
    assert redriven(latest, Rule(action="park")).moved == 3
    assert latest.tool("orphans", QUEUE) == 0
    # One of them is published anew, so that it cannot come back under its id.
    latest.publish(QUEUE, 1, jobId=ids[1])
    report = redriven(latest, source="parked")
    assert (report.moved, report.skipped_because) == (2, {"where it should go there is a task of the same id": 1})
    assert report.conservation["verdict"] == "proven", report.conservation
    assert sorted(latest.identities(QUEUE)) == sorted([*ids, ids[1]])


@pytest.mark.parametrize("action", ["requeue", "fail", "park", "discard"])
def test_tasks_are_taken_from_workers_by_the_in_flight_policy(latest: Bullmq, action: str) -> None:
    held, left = latest.publish(QUEUE, 2)
    waiting = latest.publish(QUEUE, 1)
    assert latest.tool("take", QUEUE, count=2) == [held, left]
    latest.client.delete(latest.key(QUEUE, left + ":lock"))
    look = latest.open().look([QUEUE]).queues[0]
    assert (look.executing, look.abandoned) == (1, 1)
    assert redriven(latest, Rule(action=action), source="executing").moved == 1
    assert members(latest, "active") == [left]
    assert redriven(latest, Rule(action=action), source="abandoned").moved == 1
    assert members(latest, "active") == [] and not latest.client.exists(latest.key(QUEUE, held + ":lock"))
    look = latest.open().look([QUEUE]).queues[0]
    assert (look.queued, look.failed) == ({"requeue": 3}.get(action, 1), {"fail": 2}.get(action, 0))
    if action == "requeue":
        assert members(latest, "wait") == [*waiting, held, left]  # At the end that workers take from.
    if action == "fail":
        assert latest.tool("state", QUEUE, id=held) == "failed"
        assert "queueops" in latest.tool("job", QUEUE, id=held)["failedReason"]


def test_an_abandoned_task_that_a_worker_holds_again_is_left_alone(latest: Bullmq) -> None:
    (task,) = latest.publish(QUEUE, 1)
    latest.tool("take", QUEUE, count=1)
    lock = latest.key(QUEUE, task + ":lock")
    latest.client.delete(lock)
    store: Any = latest.open().open_store(RedriveRequest(QUEUE, run="r1", source="abandoned"), False)
    ((found,),) = store.windows()
    latest.client.set(lock, "token")
    assert store.apply([Decision(found, "requeue")]) == ["a worker holds it"]
    assert members(latest, "active") == [task]


def test_some_are_taken_out_of_a_long_queue_and_the_order_stays(latest: Bullmq) -> None:
    ids = latest.publish(QUEUE, 2300)
    urgent = latest.publish(QUEUE, 10, priority=3)
    rule = Rule(Match(field={"number": "7"}), "park")
    assert redriven(latest, rule, source="queued").moved == 2
    assert ids[7] not in members(latest, "wait") and urgent[7] not in members(latest, "prioritized")
    chosen = [task for index, task in enumerate(ids) if index % 3 == 0]
    report = redriven(latest, Rule(Match(ids=tuple(chosen)), "fail"), source="queued")
    assert (report.moved, report.conservation["verdict"]) == (len(chosen), "proven")
    rest = [task for index, task in enumerate(ids) if index % 3 and index != 7]
    assert members(latest, "wait")[::-1] == rest
    with pytest.raises(Refused):
        redriven(latest, source="queued")


def test_tasks_taken_by_others_meanwhile_do_not_move_the_walk_over_a_list(latest: Bullmq) -> None:
    ids = latest.publish(QUEUE, 100)
    store: Any = latest.open().open_store(RedriveRequest(QUEUE, "r1", "queued", (Rule(action="park"),)), False)
    store.batch = 20
    seen: list[str] = []
    for window in store.windows():
        seen += [task.id for task in window]
        outcomes = store.apply([Decision(task, "fail") for task in window[::2]])
        assert set(outcomes) == {""}
        latest.client.rpop(latest.key(QUEUE, "wait"), 3)
    assert seen == ids


def test_tasks_taken_before_they_are_acted_on_are_skipped(latest: Bullmq) -> None:
    latest.publish(QUEUE, 30)
    store: Any = latest.open().open_store(RedriveRequest(QUEUE, "r1", "queued", (Rule(action="park"),)), False)
    (window,) = store.windows()
    latest.client.rpop(latest.key(QUEUE, "wait"), 4)
    outcomes = store.apply([Decision(task, "park") for task in window])
    assert outcomes == ["no longer where it was"] * 4 + [""] * 26


def test_a_task_whose_record_has_expired_is_reported(latest: Bullmq) -> None:
    ids = latest.fail(QUEUE, 4)
    latest.client.delete(latest.key(QUEUE, ids[1]))
    report = redriven(latest)
    assert (report.moved, report.skipped_because) == (3, {"its record has expired on the broker": 1})
    report = redriven(latest, Rule(Match(ids=(ids[1],))))
    assert (report.moved, report.skipped_because) == (0, {"its record has expired on the broker": 1})


def test_what_failed_again_in_the_middle_is_not_seen_twice(latest: Bullmq) -> None:
    """Even with a time of failure before the end of the source, from a worker whose clock is late."""
    ids = latest.fail(QUEUE, 6)
    score = latest.client.zscore(latest.key(QUEUE, "failed"), ids[0])
    store: Any = latest.open().open_store(RedriveRequest(QUEUE, run="r1"), False)
    assert store.sweep("requeue", None, 3).moved == 3
    latest.client.lrem(latest.key(QUEUE, "wait"), 1, ids[0])
    latest.client.zadd(latest.key(QUEUE, "failed"), {ids[0]: score - 1})
    swept = [store.sweep("requeue", None, 3) for _index in range(3)]
    assert [(entry.matched, entry.moved) for entry in swept] == [(3, 2), (1, 1), (0, 0)]
    assert members(latest, "failed") == [ids[0]]


def test_payload_and_message_are_matched_and_never_told(latest: Bullmq) -> None:
    jobs = [{"data": {"to": {"name": "hunter2" if number else "x"}}, "opts": {"jobId": "t%d" % number}} for number in range(3)]
    latest.tool("publish", QUEUE, kind="note", jobs=jobs)
    latest.tool("fail", QUEUE, count=3, message="secret")
    assert redriven(latest, Rule(Match(field={"to.name": "x"}))).moved == 1
    report = redriven(latest, Rule(Match(error="^ValueError: secret$", field={"to.name": "hunter2"})))
    assert report.moved == 2
    assert "hunter2" not in str(report) and "secret" not in str(report)
    assert {entry["error"] for entry in report.sample} == {"ValueError"}


def test_a_run_over_two_queues_takes_the_tasks_of_both(latest: Bullmq) -> None:
    """Each queue numbers its own tasks, so that the same ids come again."""
    latest.declare("other")
    assert latest.publish_numbered(QUEUE, 2) == latest.publish_numbered("other", 2)
    for queue in (QUEUE, "other"):
        latest.tool("fail", queue, count=2)
        assert engine.redrive(latest.open(), RedriveRequest(queue, run="r 1+=")).moved == 2
        latest.tool("fail", queue, count=2)
        report = engine.redrive(latest.open(), RedriveRequest(queue, run="r 1+="))
        assert (report.moved, report.skipped_because) == (0, {"already moved by this run": 2})
        assert {entry.redrives for window in latest.open().open_store(RedriveRequest(queue), True).windows() for entry in window} == {1}


def test_what_a_run_decided_is_remembered_and_is_no_redrive(latest: Bullmq) -> None:
    latest.fail(QUEUE, 2)
    assert redriven(latest, Rule(action="fail"), run="r1").moved == 2
    assert redriven(latest, run="r1").skipped_because == {"already moved by this run": 2}
    assert redriven(latest, run="r1", max_redrives=1).moved == 0
    assert redriven(latest, run="r2", max_redrives=1).by_action == {"requeue": 2}
    latest.tool("fail", QUEUE, count=2)
    assert redriven(latest, run="r3", max_redrives=1).by_action == {"park": 2}


def test_a_queue_may_be_called_as_one_of_the_keys(latest: Bullmq) -> None:
    for name in ("wait", "active"):
        latest.declare(name)
        (task,) = latest.publish(name, 1)
        latest.tool("fail", name, count=1)
        assert engine.redrive(latest.open(), RedriveRequest(name, rules=(Rule(action="park"),))).moved == 1
        report = engine.redrive(latest.open(), RedriveRequest(name, source="parked"))
        assert (report.moved, report.conservation["verdict"]) == (1, "proven")
        assert latest.identities(name) == [task]


@pytest.mark.parametrize("rule", [Rule(), Rule(Match(task="note")), Rule(action="park")])
@pytest.mark.parametrize("denied", ["hset", "hdel", "xadd", "lpush", "zadd", "zrem", "rename"])
def test_a_user_that_may_not_do_all_of_it_changes_nothing(latest: Bullmq, rule: Rule, denied: str) -> None:
    latest.fail(QUEUE, 3)
    before = latest.dump()
    latest.client.acl_setuser("few", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=["+@all", "-" + denied])
    try:
        with pytest.raises(Refused) as caught:
            engine.redrive(latest.open(username="few", password="pw"), RedriveRequest(QUEUE, rules=(rule,)))
    finally:
        latest.client.acl_deluser("few")
    assert caught.value.option == "username" and denied in caught.value.sentence()
    assert latest.dump() == before


def test_a_user_of_bullmqs_keys_and_ours_is_enough(latest: Bullmq) -> None:
    latest.fail(QUEUE, 3)
    latest.client.acl_setuser("few", enabled=True, passwords=["+pw"], keys=["bull:*", "queueops:*"], commands=["+@all"])
    try:
        for rule, source in ((Rule(action="park"), "failed"), (Rule(), "parked")):
            report = engine.redrive(latest.open(username="few", password="pw"), RedriveRequest(QUEUE, source=source, rules=(rule,)))
            assert report.moved == 3
    finally:
        latest.client.acl_deluser("few")


def test_a_task_arrives_before_it_leaves(latest: Bullmq) -> None:
    """Whatever a script dies of: here the key of the list comes to hold something else."""
    ids = latest.fail(QUEUE, 3)
    for run in ("swept", "walked"):
        store: Any = latest.open().open_store(RedriveRequest(QUEUE, run=run), False)
        (window,) = store.windows()
        latest.client.set(latest.key(QUEUE, "wait"), "x")
        with pytest.raises(Refused, match="not of the kind"):
            store.sweep("requeue", None, 3) if run == "swept" else store.apply([Decision(task, "requeue") for task in window])
        latest.client.delete(latest.key(QUEUE, "wait"))
        assert members(latest, "failed") == ids


def test_a_server_that_evicts_is_named_in_the_report(latest: Bullmq) -> None:
    failed(latest)
    latest.client.config_set("maxmemory", "1gb")
    latest.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        report = redriven(latest)
    finally:
        latest.client.config_set("maxmemory-policy", "noeviction")
        latest.client.config_set("maxmemory", 0)
    assert report.moved == 1 and "maxmemory-policy allkeys-lru" in report.warnings[0]
