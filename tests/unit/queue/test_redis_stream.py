# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis streams: what a look tells of groups and consumers, and moving entries with all their fields."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, NotFound, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redis_stream as room
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redis_stream_store as store_room
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import (
    Breaker,
    Decision,
    Match,
    PauseRequest,
    QueueState,
    RedriveReport,
    RedriveRequest,
    Rule,
)

from .conftest import Broker
from .test_redis_list import HOSTILE, Writes, db

NAME = "mailer@2.0.0:worker1:1"
FAILED = "mail:failed"
PARKED = "queueops:parked:stream:mail"


def stream(broker: Broker, count: int = 0, key: str = "mail", group: str = "workers") -> list[str]:
    db(broker).xgroup_create(key, group, "0", mkstream=True)
    return add(broker, key, count)


def add(broker: Broker, key: str, count: int) -> list[str]:
    pipe = db(broker).pipeline()
    for number in range(count):
        pipe.xadd(key, {"kind": "odd" if number % 2 else "even", "payload": json.dumps({"user": {"id": "u%d" % number}})})
    return [entry.decode() for entry in pipe.execute()]


def take(broker: Broker, count: int, name: str = NAME, key: str = "mail", group: str = "workers") -> None:
    db(broker).xreadgroup(group, name, {key: ">"}, count=count)


def redrive(broker: Broker, *rules: Rule, check: bool = False, settings: dict[str, Any] | None = None, **more: Any) -> RedriveReport:
    request = RedriveRequest("mail", rules=rules or (Rule(),), **more)
    report = engine.redrive(broker.backend("redis_stream", **(settings or {})), request, check)
    assert report.matched == report.moved + report.skipped + report.remaining
    return report


def state(broker: Broker, key: str = "mail", **settings: Any) -> QueueState:
    found: QueueState = broker.backend("redis_stream", **settings).look([key]).queues[0]
    return found


def fields(broker: Broker, key: str) -> list[dict[str, str]]:
    return [{name.decode(): value.decode() for name, value in entry.items()} for _id, entry in db(broker).xrange(key)]


def test_looks_at_a_group_and_its_consumers(broker: Broker) -> None:
    ids = stream(broker, 6)
    add(broker, FAILED, 2)
    take(broker, 2)
    take(broker, 1, "w2")
    db(broker).xgroup_createconsumer("mail", "workers", "idle")
    look = broker.backend("redis_stream").look(["mail"])
    mail = look.queues[0]
    assert (mail.queued, mail.executing, mail.failed, mail.abandoned, mail.exists) == (3, 3, 2, 0, True)
    assert mail.oldest_task_age_s is not None and 0 <= mail.oldest_task_age_s < 60
    workers = {worker.name: worker for worker in look.workers}
    assert {name: worker.state for name, worker in workers.items()} == {NAME: "busy", "w2": "busy", "idle": "idle"}
    first = workers[NAME]
    assert (first.version, first.host, first.task, first.task_queue) == ("2.0.0", "worker1", ids[0], "mail")
    assert first.task_since is not None and look.at - 60 < first.task_since <= look.at
    assert workers["w2"].version is None and "w2" in look.unknown["workers.version"]


def test_several_groups_are_counted_by_the_slowest_or_by_name(broker: Broker) -> None:
    stream(broker, 6)
    db(broker).xgroup_create("mail", "audit", "0")
    take(broker, 4)
    take(broker, 1, "a1", group="audit")
    assert (state(broker).queued, state(broker).executing) == (5, 5)
    assert (state(broker, group="workers").queued, state(broker, group="workers").executing) == (2, 4)
    with pytest.raises(NotFound, match="no consumer group nobody"):
        state(broker, group="nobody")


def test_what_cannot_be_known_is_null_with_a_reason(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    db(broker).xadd("mail", {"a": "1"})
    look = broker.backend("redis_stream").look(["mail"])
    assert look.queues[0].queued is None and "no consumer group" in look.unknown["queues.queued"]
    db(broker).xgroup_create("mail", "workers", "0")
    add(broker, "mail", 3000)
    middle = db(broker).xrange("mail", count=100)[-1][0]
    db(broker).xdel("mail", middle)  # Since then Redis keeps no count.
    assert state(broker).queued == 3000
    monkeypatch.setattr(room, "COUNTED", 2000)
    look = broker.backend("redis_stream").look(["mail"])
    assert look.queues[0].queued is None and "more than" in look.unknown["queues.queued"]
    take(broker, 4000)
    assert (state(broker).queued, state(broker).executing) == (0, 3000)
    db(broker).xadd("old", {"a": "1"}, id="1-1")
    db(broker).xgroup_create("old", "workers", "0")
    look = broker.backend("redis_stream").look(["old"])
    assert look.queues[0].oldest_task_age_s is None and "not a time" in look.unknown["queues.oldest_task_age_s"]


def test_a_missing_stream_is_not_an_empty_one_and_not_another_key(broker: Broker) -> None:
    stream(broker)
    assert (state(broker).queued, state(broker).exists) == (0, True)
    with pytest.raises(NotFound, match="no stream nowhere"):
        state(broker, "nowhere")
    db(broker).set("text", "1")
    with pytest.raises(Refused, match="not of the kind"):
        state(broker, "text")


def test_a_consumer_is_gone_without_a_connection_and_long_silent(broker: Broker) -> None:
    stream(broker, 5)
    named: Any = redis.Redis.from_url(broker.url, client_name="alive")
    named.xreadgroup("workers", "alive", {"mail": ">"}, count=1)
    take(broker, 2, "dead")
    found = state(broker, abandoned_after=0)
    assert (found.executing, found.abandoned, found.queued) == (1, 2, 2)
    assert (state(broker).executing, state(broker).abandoned) == (3, 0)
    named.close()


def test_a_connection_to_another_database_keeps_no_consumer_of_this_one_alive(broker: Broker) -> None:
    stream(broker, 2)
    take(broker, 1, "dead")
    with redis.Redis.from_url(broker.url.replace("db=0", "db=1"), client_name="dead") as namesake:
        assert namesake.ping()
        assert state(broker, abandoned_after=0).abandoned == 1


def test_moves_all_fields_and_keeps_the_first_id(broker: Broker) -> None:
    stream(broker)
    ids = add(broker, FAILED, 3)
    before = fields(broker, FAILED)
    report = redrive(broker, run="r1")
    assert (report.moved, db(broker).xlen(FAILED)) == (3, 0)
    own = [{"queueops_id": entry, "queueops_redrives": "1", "queueops_run": "r1"} for entry in ids]
    assert fields(broker, "mail") == [{**old, **new} for old, new in zip(before, own, strict=True)]
    assert report.conservation["verdict"] == "proven" and report.conservation["by"] == "identity"
    # It fails again, and is the same task still.
    for entry in fields(broker, "mail"):
        db(broker).xadd(FAILED, dict(entry))
    db(broker).xtrim("mail", 0)
    told = redrive(broker, check=True)
    assert [(entry["id"], entry["redrives"]) for entry in told.sample] == [(entry, 1) for entry in ids]
    assert redrive(broker, run="r1").skipped_because == {"already moved by this run": 3}
    assert redrive(broker, run="r2").moved == 3
    assert [(entry["queueops_id"], entry["queueops_redrives"]) for entry in fields(broker, "mail")] == [(entry, "2") for entry in ids]


def test_matches_headers_fields_and_age(broker: Broker) -> None:
    stream(broker)
    now = int(db(broker).time()[0])
    for hours in (3, 2, 1):
        db(broker).xadd(FAILED, {"kind": "old", "payload": "no json"}, id="%d000-0" % (now - 3600 * hours))
    add(broker, FAILED, 4)
    rules = [
        Rule(Match(header={"kind": "odd"}), "discard"),
        Rule(Match(field={"payload.user.id": "u2"}), "park"),
        Rule(Match(older_than=5400.0), "fail"),
        Rule(Match(newer_than=60.0)),
    ]
    told = redrive(broker, *rules, check=True)
    report = redrive(broker, *rules)
    assert told.by_action == report.by_action == {"discard": 2, "park": 1, "fail": 2, "requeue": 1}
    assert (db(broker).xlen(FAILED), db(broker).xlen(PARKED), db(broker).xlen("mail")) == (3, 1, 1)
    assert report.conservation["verdict"] == "proven", report.conservation


def test_how_long_ago_a_task_failed_is_kept_until_it_is_worked_on(broker: Broker) -> None:
    stream(broker)
    failed_at = int(db(broker).time()[0]) - 3600
    db(broker).xadd(FAILED, {"kind": "old"}, id="%d000-0" % failed_at)
    old = Rule(Match(older_than=1800.0, newer_than=5400.0), "park")
    assert redrive(broker, old).moved == 1
    assert redrive(broker, Rule(old.match, "fail"), source="parked").moved == 1
    assert redrive(broker, check=True).sample[0]["ended_at"] == failed_at
    assert redrive(broker, Rule(old.match)).moved == 1
    assert "queueops_ended" not in fields(broker, "mail")[0]


def test_an_id_that_is_no_time_is_no_age(broker: Broker) -> None:
    """An application may number its entries itself: then nothing tells how old they are, and no rule by age takes them."""
    stream(broker)
    for number in (1, 2):
        db(broker).xadd(FAILED, {"kind": "odd"}, id="%d-1" % number)
    report = redrive(broker, Rule(Match(older_than=60.0)), source="failed")
    assert (report.moved, report.undetermined) == (0, 2)
    assert redrive(broker, source="failed").moved == 2


def test_by_a_field_of_its_own(broker: Broker) -> None:
    stream(broker)
    add(broker, FAILED, 3)
    settings = {"id_field": "payload.user.id"}
    report = redrive(broker, Rule(Match(ids=("u1",))), settings=settings)
    assert [entry["id"] for entry in report.sample] == ["u1"]
    assert json.loads(fields(broker, "mail")[0]["payload"]) == {"user": {"id": "u1"}}


def test_what_comes_back_is_not_seen_again(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_room, "WINDOW", 5)
    stream(broker)
    ids = add(broker, FAILED, 20)
    store = broker.backend("redis_stream").open_store(RedriveRequest("mail", run="r1"), False)
    seen: list[str] = []
    for window in store.windows():
        seen += [task.id for task in window]
        db(broker).xadd(FAILED, {"kind": "back"})
        db(broker).xdel(FAILED, *seen[-3:], ids[-1])
    assert seen == ids[:-1]


def test_pending_entries_of_gone_consumers(broker: Broker) -> None:
    ids = stream(broker, 6)
    named: Any = redis.Redis.from_url(broker.url, client_name="alive")
    named.xreadgroup("workers", "alive", {"mail": ">"}, count=1)
    take(broker, 3, NAME)
    report = redrive(broker, source="abandoned", settings={"abandoned_after": 0})
    assert (report.moved, report.by_version) == (3, {"2.0.0": 3})
    assert report.conservation["verdict"] == "proven", report.conservation
    assert sum(report.conservation["before"].values()) == sum(report.conservation["after"].values())
    found = state(broker)
    assert found.executing == 1
    take(broker, 10, "w3")
    assert [entry.get("queueops_id") for entry in fields(broker, "mail")] == [None, None, None, *ids[1:4]]
    assert db(broker).xlen("mail") == 6 and state(broker).executing == 6
    assert redrive(broker, source="abandoned").moved == 0  # They are not gone long enough.
    named.close()


def test_executing_ones_by_the_policy(broker: Broker) -> None:
    ids = stream(broker, 4)
    take(broker, 4)
    db(broker).xdel("mail", ids[3])
    report = redrive(broker, Rule(Match(ids=(ids[0],)), "fail"), Rule(Match(ids=(ids[1],)), "discard"), Rule(), source="executing")
    assert report.by_action == {"fail": 1, "discard": 1, "requeue": 1}
    assert report.skipped_because == {"its entry has been deleted or trimmed": 1}
    assert [entry["queueops_id"] for entry in fields(broker, FAILED)] == [ids[0]]
    assert [entry["queueops_id"] for entry in fields(broker, "mail")] == [ids[2]]
    assert state(broker).executing == 1  # The deleted one is pending still; nothing of it is left to be moved.


def test_one_that_is_acknowledged_meanwhile_is_left(broker: Broker) -> None:
    ids = stream(broker, 2)
    take(broker, 2)
    store = broker.backend("redis_stream").open_store(RedriveRequest("mail", run="r1", source="executing"), False)
    (window,) = store.windows()
    db(broker).xack("mail", "workers", ids[0])
    assert store.apply([Decision(task, "requeue") for task in window]) == ["taken by somebody else meanwhile", ""]


def test_the_backlog_is_parked_but_not_what_was_given_meanwhile(broker: Broker) -> None:
    ids = stream(broker, 5)
    take(broker, 1)
    store = broker.backend("redis_stream").open_store(
        RedriveRequest("mail", run="r1", source="queued", rules=(Rule(action="park"),)), False
    )
    (window,) = store.windows()
    assert [task.id for task in window] == ids[1:]
    take(broker, 1)
    outcomes = store.apply([Decision(task, "park") for task in window])
    assert outcomes == ["taken by somebody else meanwhile", "", "", ""]
    assert (state(broker).queued, state(broker).executing, db(broker).xlen(PARKED)) == (0, 2, 3)
    assert redrive(broker, source="parked").moved == 3
    assert state(broker).queued == 3
    assert [entry.get("queueops_id") for entry in fields(broker, "mail")[2:]] == ids[2:]


def test_other_groups_are_not_given_a_task_twice(broker: Broker) -> None:
    stream(broker, 3)
    take(broker, 3)
    db(broker).xgroup_create("mail", "audit", "0")
    before = db(broker).xrange("mail")
    for source in ("executing", "abandoned", "queued"):
        rule = Rule(action="park")
        with pytest.raises(Refused) as caught:
            redrive(broker, rule, source=source)
        assert caught.value.option == "group" and "audit" in str(caught.value.next_step)
        with pytest.raises(Refused, match="other consumer groups"):
            redrive(broker, rule, source=source, settings={"group": "workers"})
    assert db(broker).xrange("mail") == before


def test_a_destination_that_vanishes_meanwhile_is_not_made_anew(broker: Broker) -> None:
    stream(broker)
    add(broker, FAILED, 3)
    store = broker.backend("redis_stream").open_store(RedriveRequest("mail", run="r1"), False)
    (window,) = store.windows()
    db(broker).delete("mail")
    assert store.apply([Decision(task, "requeue") for task in window]) == ["its destination is gone"] * 3
    assert (db(broker).xlen(FAILED), db(broker).exists("mail")) == (3, 0)
    with pytest.raises(NotFound) as caught:
        redrive(broker)
    assert caught.value.option == "queue"


def test_a_destination_that_takes_no_more_leaves_everything(broker: Broker) -> None:
    stream(broker)
    db(broker).xadd("mail", {"last": "id"}, id="18446744073709551615-18446744073709551615")
    add(broker, FAILED, 3)
    before = db(broker).xrange(FAILED)
    with pytest.raises(Unavailable):
        redrive(broker)
    assert db(broker).xrange(FAILED) == before
    db(broker).delete("mail")
    stream(broker)
    db(broker).config_set("maxmemory", 1000)
    try:
        with pytest.raises(Unavailable, match="refuses writes"):
            redrive(broker)
        assert state(broker).failed == 3
    finally:
        db(broker).config_set("maxmemory", 0)
    assert db(broker).xrange(FAILED) == before and db(broker).xlen("mail") == 0


def test_a_producer_that_trims_is_found_out(broker: Broker) -> None:
    """A trim drops what nobody has read; the redrive cannot prevent it, but does not call it proven."""
    stream(broker)
    add(broker, FAILED, 30)
    backend = broker.backend("redis_stream")
    opened = backend.open_store

    def trimmed(*arguments: Any) -> Any:
        store = opened(*arguments)
        apply = store.apply

        def then_trim(decisions: Any) -> Any:
            outcomes = apply(decisions)
            db(broker).xadd("mail", {"kind": "new"}, maxlen=10, approximate=False)
            return outcomes

        store.apply = then_trim
        return store

    backend.open_store = trimmed
    report = engine.redrive(backend, RedriveRequest("mail"))
    assert report.moved == 30 and report.conservation["verdict"] == "unproven"
    assert report.conservation["missing"] == 21


def test_the_breaker_counts_what_every_group_has_acknowledged(broker: Broker) -> None:
    stream(broker)
    db(broker).xgroup_create("mail", "audit", "0")
    add(broker, FAILED, 3)
    store = broker.backend("redis_stream").open_store(RedriveRequest("mail", run="r1", breaker=Breaker(0.5, 2)), False)
    (window,) = store.windows()
    store.apply([Decision(task, "requeue") for task in window])
    assert store.fates(3) == (0, 0)
    take(broker, 3)
    entries = [entry for entry, _fields in db(broker).xrange("mail")]
    db(broker).xack("mail", "workers", *entries)
    assert store.fates(3) == (0, 0)
    take(broker, 2, "a1", group="audit")
    db(broker).xack("mail", "audit", entries[0])
    assert store.fates(3) == (1, 0)
    db(broker).xadd(FAILED, dict(db(broker).xrange("mail", entries[1], entries[1])[0][1]))
    db(broker).xack("mail", "audit", entries[1])
    assert store.fates(3) == (2, 1)


def test_payloads_are_data(broker: Broker, tmp_path: Path) -> None:
    stream(broker)
    payloads = [pickle.dumps(Writes(str(tmp_path / "written"))), *HOSTILE]
    for payload in payloads:
        db(broker).xadd(FAILED, {"payload": payload, b"\xff\x00": payload, "id": payload})
    settings = {"id_field": "payload.id"}
    told = redrive(broker, Rule(Match(field={"payload.id": "x"}, header={"id": "x"})), check=True, settings=settings)
    assert told.moved == 0
    for options in ({"settings": settings}, {"source": "parked"}):
        rule = Rule() if "source" in options else Rule(action="park")
        report = redrive(broker, rule, **options)
        assert (report.moved, report.conservation["verdict"]) == (len(payloads), "proven"), report
    found = [entry for _id, entry in db(broker).xrange("mail")]
    assert [entry[b"payload"] for entry in found] == [entry[b"\xff\x00"] for entry in found] == payloads
    assert not (tmp_path / "written").exists()
    json.dumps(report.as_dict()).encode()


def test_what_it_cannot_do_is_refused_by_name(broker: Broker) -> None:
    stream(broker, 1)
    add(broker, FAILED, 1)
    db(broker).xadd("plain", {"a": "1"})
    backend = broker.backend("redis_stream")

    def run(*rules: Rule, **more: Any) -> Callable[[], Any]:
        return lambda: redrive(broker, *rules, **more)

    refused: list[tuple[Callable[[], Any], str, str]] = [
        (lambda: backend.pause(["mail"], PauseRequest("me")), "not able to pause a queue", "service manager"),
        (backend.look, "not able to tell which queues exist", "Name the streams"),
        (run(Rule(Match(task="x"))), "match.task", "match.header"),
        (run(Rule(action="dead_letter")), "dead-letter", "action=fail"),
        (run(source="dead_lettered"), "no source dead_lettered", "source=failed"),
        (run(source="queued"), "same stream", "another stream"),
        (run(source="mail"), "same stream", "another stream"),
        (run(source=""), "source is empty", "failed"),
        (run(source="nowhere"), "no stream nowhere", "that is there"),
        (run(Rule(destination="nowhere")), "no stream nowhere", "that is there"),
        (run(Rule(destination="plain"), breaker=Breaker(0.1)), "No consumer group reads", "breaker out"),
    ]
    for act, what, instead in refused:
        with pytest.raises(FleetError) as caught:
            act()
        assert what in caught.value.message and instead in str(caught.value.next_step), caught.value.sentence()
    assert (db(broker).xlen("mail"), db(broker).xlen(FAILED)) == (1, 1)
