# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plain Redis lists."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redis_list as room
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redis_list_store as store_room
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import (
    Breaker,
    Decision,
    Match,
    PauseRequest,
    RedriveReport,
    RedriveRequest,
    Rule,
    Task,
)
from ansible_collections.queueops.fleet.plugins.module_utils._queue.drain import watch

from .conftest import Broker

FAILED = "mail:failed"


def db(broker: Broker) -> Any:
    return broker.client


def fill(broker: Broker) -> None:
    db(broker).rpush("mail", *(json.dumps({"n": number}) for number in range(4)))
    db(broker).rpush("mail:processing:mailer@2.0.0:worker1:1", "a")
    db(broker).rpush("mail:processing:w2", "b", "c")
    db(broker).rpush(FAILED, *("f%d" % number for number in range(5)))
    db(broker).rpush("mail2", "other")


def failed_tasks(broker: Broker, count: int, **more: Any) -> list[bytes]:
    payloads = [json.dumps({"id": "t%d" % number, "odd": number % 2 == 1, **more}).encode() for number in range(count)]
    db(broker).rpush(FAILED, *payloads)
    return payloads


def redrive(broker: Broker, *rules: Rule, check: bool = False, id_field: str | None = None, **more: Any) -> RedriveReport:
    request = RedriveRequest("mail", rules=rules or (Rule(),), **more)
    report = engine.redrive(broker.backend("redis_list", id_field=id_field), request, check)
    assert report.matched == report.moved + report.skipped + report.remaining
    return report


def listed(broker: Broker, key: str) -> list[bytes]:
    found: list[bytes] = db(broker).lrange(key, 0, -1)
    return found


def test_looks_without_changing(broker: Broker) -> None:
    fill(broker)
    before = broker.snapshot()
    look = broker.backend("redis_list").look(["mail", "empty"])
    assert broker.snapshot() == before
    mail, empty = look.queues
    assert (mail.queued, mail.executing, mail.failed) == (4, 3, 5)
    assert (empty.queued, empty.executing, empty.failed, empty.exists) == (0, 0, 0, True)
    assert mail.scheduled is None and mail.oldest_task_age_s is None
    assert look.unknown["queues.scheduled"] == "a Redis list does not record it"
    assert [(worker.name, worker.version, worker.host) for worker in look.workers] == [
        ("mailer@2.0.0:worker1:1", "2.0.0", "worker1"),
        ("w2", None, None),
    ]
    assert "w2" in look.unknown["workers.version"]


def test_processing_lists_by_name_need_no_walk_over_the_keys(broker: Broker) -> None:
    fill(broker)
    backend = broker.backend("redis_list", processing=["{queue}:processing:w2", "{queue}:doing"], failed_list="dead:{queue}")
    db(broker).config_resetstat()
    state = backend.look(["mail"]).queues[0]
    assert (state.executing, state.failed) == (2, 0)
    assert "cmdstat_scan" not in db(broker).info("commandstats")


def test_a_queues_name_is_no_pattern(broker: Broker) -> None:
    db(broker).rpush("ma*l:processing:x", "1")
    db(broker).rpush("mail:processing:x", "1", "2")
    assert broker.backend("redis_list").look(["ma*l"]).queues[0].executing == 1


def test_a_key_of_another_kind_is_no_processing_list(broker: Broker) -> None:
    db(broker).hset("mail:processing-settings", "retries", "3")
    db(broker).rpush("mail:processing:w1", "x")
    assert broker.backend("redis_list").look(["mail"]).queues[0].executing == 1


def test_too_many_keys_to_search_is_unknown_and_not_drained(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SCANNED_KEYS", 5000)
    pipe = db(broker).pipeline()
    for number in range(12000):
        pipe.set("k%d" % number, 1)
    pipe.execute()
    look = broker.backend("redis_list").look(["mail"])
    assert look.queues[0].executing is None and "processing" in look.unknown["queues.executing"]
    with pytest.raises(Refused, match="Cannot tell whether queue mail is drained"):
        watch(broker.backend("redis_list"), ["mail"], include_queued=False)
    with pytest.raises(Refused, match="Cannot redrive what is executing"):
        redrive(broker, Rule(action="fail"), source="executing")


def test_drained_when_nothing_is_processed(broker: Broker) -> None:
    fill(broker)
    backend = broker.backend("redis_list")
    seen = watch(backend, ["mail"], include_queued=False, budget=0.1)
    assert not seen.drained and seen.executing == 3
    db(broker).delete("mail:processing:mailer@2.0.0:worker1:1", "mail:processing:w2")
    assert watch(backend, ["mail"], include_queued=False).drained


@pytest.mark.parametrize("id_field", [None, "id"])
def test_redrives_in_order_and_up_to_a_limit(broker: Broker, id_field: str | None) -> None:
    payloads = failed_tasks(broker, 5)
    db(broker).rpush("mail", "first")
    before = broker.snapshot()
    told = redrive(broker, check=True, limit=3, id_field=id_field)
    assert broker.snapshot() == before
    report = redrive(broker, limit=3, id_field=id_field)
    assert (told.moved, told.remaining, told.diff, told.by_version) == (report.moved, report.remaining, report.diff, report.by_version)
    assert (report.moved, report.remaining) == (3, 2)
    assert listed(broker, "mail") == [b"first", *payloads[:3]] and listed(broker, FAILED) == payloads[3:]
    assert report.conservation["verdict"] == "proven"
    assert report.conservation["by"] == ("identity" if id_field else "count")
    assert redrive(broker, id_field=id_field).moved == 2
    assert redrive(broker, id_field=id_field).moved == 0


def test_what_is_moved_unread_is_not_sent_to_the_client(broker: Broker) -> None:
    db(broker).rpush(FAILED, *(b"secret-" + bytes(1000) for _index in range(3000)))
    begun = db(broker).info("stats")["total_net_output_bytes"]
    assert redrive(broker).moved == 3000
    sent = db(broker).info("stats")["total_net_output_bytes"] - begun
    assert sent < 30000, sent


def test_a_sweep_ends_where_the_source_ended(broker: Broker) -> None:
    """What comes back meanwhile is not swept again, and what others took is told."""
    failed_tasks(broker, 10)
    backend = broker.backend("redis_list")
    store = backend.open_store(RedriveRequest("mail"), False)
    db(broker).rpush(FAILED, *("back%d" % number for number in range(5)))
    swept = store.sweep("requeue", None, 8)
    assert (swept.matched, swept.moved) == (8, 8)
    assert store.sweep("requeue", None, 0).matched == 2
    assert store.sweep("requeue", None, 8).moved == 2
    assert store.sweep("requeue", None, 8).matched == 0
    assert db(broker).llen(FAILED) == 5
    store = backend.open_store(RedriveRequest("mail"), False)
    db(broker).ltrim(FAILED, 2, -1)
    swept = store.sweep("requeue", None, 8)
    assert (swept.matched, swept.moved, swept.skipped_because) == (5, 3, {"taken by somebody else meanwhile": 2})


def test_by_rules_the_order_of_what_stays_is_kept(broker: Broker) -> None:
    payloads = failed_tasks(broker, 2000)
    rules = [
        Rule(Match(ids=("t7", "t1999")), "discard"),
        Rule(Match(field={"odd": "true"}), "park"),
        Rule(Match(ids=("t8", "t0")), destination="undo"),
    ]
    told = redrive(broker, *rules, check=True, id_field="id")
    assert listed(broker, FAILED) == payloads
    report = redrive(broker, *rules, id_field="id")
    assert told.by_action == report.by_action == {"discard": 2, "park": 998, "requeue": 2}
    assert listed(broker, FAILED) == [payload for index, payload in enumerate(payloads) if index % 2 == 0 and index not in (0, 8)]
    parked = [payload for index, payload in enumerate(payloads) if index % 2 == 1 and index not in (7, 1999)]
    assert listed(broker, "queueops:parked:list:mail") == parked
    assert listed(broker, "undo") == [payloads[0], payloads[8]]
    assert report.conservation["verdict"] == "proven", report.conservation
    assert redrive(broker, source="parked", id_field="id").moved == 998
    assert listed(broker, "mail") == parked


def test_equal_payloads_are_different_tasks(broker: Broker) -> None:
    db(broker).rpush(FAILED, *[b"same"] * 5, b"other")
    told = redrive(broker, check=True)
    names = [entry["id"] for entry in told.sample]
    assert names[1:5] == ["%s#%d" % (names[0], number) for number in range(2, 6)]
    report = redrive(broker, Rule(Match(ids=(names[0], names[2]))))
    assert report.moved == 2 and listed(broker, FAILED) == [b"same"] * 3 + [b"other"]
    assert report.conservation["verdict"] == "proven" and report.conservation["by"] == "identity"


def walk(broker: Broker, between: Callable[[int], Any]) -> list[str]:
    """The tasks that the windows show, while ``between`` does something after each."""
    store = broker.backend("redis_list", id_field="id").open_store(
        RedriveRequest("mail", run="r1", rules=(Rule(Match(ids=("x",))),)), False
    )
    windows: Iterator[list[Task]] = store.windows()
    seen = []
    for number, window in enumerate(windows):
        seen += [task.id for task in window]
        between(number)
    return seen


def test_others_that_take_tasks_make_the_walk_neither_skip_nor_stop(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_room, "WINDOW", 10)
    failed_tasks(broker, 100)
    # Seven from the head after each of the first windows: positions move, and seven tasks slip past each time.
    seen = walk(broker, lambda number: db(broker).ltrim(FAILED, 7, -1) if number < 5 else None)
    assert len(seen) == len(set(seen))
    assert set(seen) >= {"t%d" % number for number in range(35, 100)}


def test_a_task_that_comes_back_is_not_seen_again(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_room, "WINDOW", 10)
    payloads = failed_tasks(broker, 30)
    seen = walk(broker, lambda _number: db(broker).rpush(FAILED, *payloads[:20], '{"id": "new"}'))
    assert seen == ["t%d" % number for number in range(30)]


def test_moves_from_where_a_task_is_by_now(broker: Broker) -> None:
    payloads = failed_tasks(broker, 20)
    request = RedriveRequest("mail", run="r1", rules=(Rule(Match(ids=("t5",))),))
    store = broker.backend("redis_list", id_field="id").open_store(request, False)
    window = next(iter(store.windows()))
    db(broker).ltrim(FAILED, 4, -1)
    db(broker).lrem(FAILED, 1, payloads[9])
    decisions = [Decision(window[index], "requeue") for index in (2, 5, 9, 12)]
    gone = "taken by somebody else meanwhile"
    assert store.apply(decisions) == [gone, "", gone, ""]
    assert listed(broker, "mail") == [payloads[5], payloads[12]]
    assert listed(broker, FAILED) == [payload for index, payload in enumerate(payloads) if index not in (0, 1, 2, 3, 5, 9, 12)]


def test_the_same_run_twice_at_once_moves_a_task_that_came_back_once(broker: Broker) -> None:
    failed_tasks(broker, 2)
    backend = broker.backend("redis_list", id_field="id")
    one, other = (backend.open_store(RedriveRequest("mail", run="r1"), False) for _index in range(2))
    mine, theirs = (next(iter(store.windows())) for store in (one, other))
    assert one.apply([Decision(task, "requeue") for task in mine]) == ["", ""]
    db(broker).rename("mail", FAILED)
    assert other.apply([Decision(task, "requeue") for task in theirs]) == ["already moved by this run"] * 2
    assert db(broker).llen(FAILED) == 2


def test_the_processing_lists_of_stopped_workers(broker: Broker) -> None:
    fill(broker)
    report = redrive(broker, source="executing")
    assert (report.moved, report.by_version) == (3, {"2.0.0": 1, "unknown": 2})
    assert listed(broker, "mail")[4:] == [b"a", b"b", b"c"]
    assert broker.backend("redis_list").look(["mail"]).queues[0].executing == 0
    assert redrive(broker, source="executing").matched == 0


def test_the_backlog_is_parked_and_put_back(broker: Broker) -> None:
    fill(broker)
    before = listed(broker, "mail")
    assert redrive(broker, Rule(action="park"), source="queued").moved == 4
    assert db(broker).llen("mail") == 0
    assert redrive(broker, source="parked").moved == 4
    assert listed(broker, "mail") == before


def test_redrives_from_another_list(broker: Broker) -> None:
    db(broker).rpush("old", "x", "y")
    assert redrive(broker, source="old").moved == 2
    assert listed(broker, "mail") == [b"x", b"y"]


def test_counts_redrives_and_parks_after_so_many(broker: Broker) -> None:
    payloads = failed_tasks(broker, 3)
    for number in range(2):
        assert redrive(broker, id_field="id", run="r%d" % number, max_redrives=2).by_action == {"requeue": 3}
        db(broker).rename("mail", FAILED)
    assert [entry["redrives"] for entry in redrive(broker, id_field="id", check=True).sample] == [2, 2, 2]
    # The same run leaves them alone; another one parks them.
    assert redrive(broker, id_field="id", run="r1", max_redrives=2).skipped_because == {"already moved by this run": 3}
    assert redrive(broker, id_field="id", run="r2", max_redrives=2).by_action == {"park": 3}
    assert listed(broker, "queueops:parked:list:mail") == payloads
    kept = list(db(broker).scan_iter("queueops:redrive*"))
    assert kept and all(db(broker).ttl(key) > 6 * 24 * 3600 for key in kept)


class Writes:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


HOSTILE = [
    b'{"id": "\\ud800"}',
    b'{"id": {"a": 1}}',
    b'{"id": null}',
    b'{"id": ' + b"9" * 5000 + b"}",
    b"[" * 100000,
    b"\xff\xfe\x00",
    b"",
    b"\x00\r\n,;",
    b'{"id": 12345678901234567890}',
    b'{"id": 12345678901234567891}',
]


def test_payloads_are_data(broker: Broker, tmp_path: Path) -> None:
    payloads = [pickle.dumps(Writes(str(tmp_path / "written"))), *HOSTILE]
    db(broker).rpush(FAILED, *payloads)
    match = Match(field={"id": "no such"})
    assert redrive(broker, Rule(match, "discard"), Rule(), id_field="id").moved <= len(payloads)
    db(broker).delete("mail", FAILED)
    db(broker).rpush(FAILED, *payloads)
    report = redrive(broker, Rule(action="park"), id_field="id")
    assert (report.moved, report.conservation["verdict"]) == (len(payloads), "proven")
    assert redrive(broker, source="parked").moved == len(payloads)
    assert listed(broker, "mail") == payloads
    assert not (tmp_path / "written").exists()
    json.dumps(report.as_dict()).encode()


def test_large_payloads_are_read_a_few_at_a_time(broker: Broker) -> None:
    payloads = [json.dumps({"id": number, "text": "x" * 300000}) for number in range(20)]
    db(broker).rpush(FAILED, *payloads)
    store = broker.backend("redis_list", id_field="id").open_store(RedriveRequest("mail", run="r1"), False)
    windows = [len(window) for window in store.windows()]
    assert sum(windows) == 20 and max(windows) <= 10
    assert redrive(broker, id_field="id").moved == 20
    assert listed(broker, "mail") == [payload.encode() for payload in payloads]


def test_a_redrive_that_breaks_off_says_so(broker: Broker) -> None:
    failed_tasks(broker, 2500)
    db(broker).set("undo", "no list")
    for id_field in (None, "id"):
        before = broker.snapshot()
        with pytest.raises(Refused, match="not of the kind"):
            redrive(broker, Rule(destination="undo"), id_field=id_field)
        assert broker.snapshot() == before


def test_out_of_memory_leaves_everything(broker: Broker) -> None:
    failed_tasks(broker, 50)
    before = broker.snapshot()
    db(broker).config_set("maxmemory", 1000)
    try:
        for id_field in (None, "id"):
            with pytest.raises(Unavailable, match="refuses writes"):
                redrive(broker, id_field=id_field)
        assert broker.backend("redis_list").look(["mail"]).queues[0].failed == 50
    finally:
        db(broker).config_set("maxmemory", 0)
    assert broker.snapshot() == before


def test_the_breaker_needs_ids_and_sees_completions(broker: Broker) -> None:
    payloads = failed_tasks(broker, 4)
    request = RedriveRequest("mail", run="r1", breaker=Breaker(0.5, 2))
    store = broker.backend("redis_list", id_field="id").open_store(request, False)
    window = next(iter(store.windows()))
    store.apply([Decision(task, "requeue") for task in window])
    assert store.fates(4) == (0, 0)
    db(broker).lmove("mail", "mail:processing:w", "LEFT", "RIGHT")
    db(broker).lpop("mail")
    db(broker).rpush(FAILED, db(broker).lpop("mail"))
    assert store.fates(4) == (1, 1)  # One that is nowhere is done only on the second look.
    assert store.fates(4) == (2, 1)
    db(broker).delete("mail:processing:w")
    store.fates(4)
    assert store.fates(4) == (3, 1)
    assert listed(broker, "mail") == payloads[3:]


def test_what_it_cannot_do_is_refused_by_name(broker: Broker) -> None:
    fill(broker)
    before = broker.snapshot()
    backend = broker.backend("redis_list")

    def run(*rules: Rule, **more: Any) -> Callable[[], Any]:
        return lambda: redrive(broker, *rules, **more)

    refused: list[tuple[Callable[[], Any], str, str]] = [
        (lambda: backend.pause(["mail"], PauseRequest("me")), "not able to pause a queue", "service manager"),
        (lambda: backend.resume(["mail"], "me"), "not able to pause a queue", "service manager"),
        (backend.look, "not able to tell which queues exist", "Name the lists in queues"),
        (run(run="r1"), "remember which tasks", "id_field"),
        (run(max_redrives=3), "how often a task was redriven", "id_field"),
        (run(breaker=Breaker(0.1)), "failed again", "id_field"),
        (run(Rule(Match(version="2"))), "match.version", "match.field"),
        (run(Rule(action="dead_letter")), "dead-letter", "action=fail"),
        (run(source="mail"), "same list", "another list"),
        (run(source="queued"), "same list", "another list"),
        (run(source=""), "source is empty", "failed"),
        (run(source="abandoned"), "no source abandoned", "source=executing"),
        (run(source="dead_lettered"), "no source dead_lettered", "source=failed"),
        (lambda: backend.capabilities.require("counters"), "completed and failed", "counts per worker"),
    ]
    for act, what, instead in refused:
        with pytest.raises(FleetError) as caught:
            act()
        assert what in caught.value.message and instead in str(caught.value.next_step), caught.value.sentence()
    assert broker.snapshot() == before
