# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plain Redis lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redis_list as room
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, PauseRequest, RedriveReport, RedriveRequest
from ansible_collections.queueops.fleet.plugins.module_utils._queue.drain import watch

from .conftest import Broker


def fill(broker: Broker) -> None:
    broker.client.rpush("mail", *(json.dumps({"n": number}) for number in range(4)))
    broker.client.rpush("mail:processing:mailer@2.0.0:worker1:1", "a")
    broker.client.rpush("mail:processing:w2", "b", "c")
    broker.client.rpush("mail:failed", *("f%d" % number for number in range(5)))
    broker.client.rpush("mail2", "other")


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
    broker.client.config_resetstat()
    state = backend.look(["mail"]).queues[0]
    assert (state.executing, state.failed) == (2, 0)
    assert "cmdstat_scan" not in broker.client.info("commandstats")


def test_a_queues_name_is_no_pattern(broker: Broker) -> None:
    broker.client.rpush("ma*l:processing:x", "1")
    broker.client.rpush("mail:processing:x", "1", "2")
    assert broker.backend("redis_list").look(["ma*l"]).queues[0].executing == 1


def test_too_many_keys_to_search_is_unknown_and_not_drained(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SCANNED_KEYS", 5000)
    pipe = broker.client.pipeline()
    for number in range(12000):
        pipe.set("k%d" % number, 1)
    pipe.execute()
    look = broker.backend("redis_list").look(["mail"])
    assert look.queues[0].executing is None and "processing" in look.unknown["queues.executing"]
    with pytest.raises(Refused, match="Cannot tell whether queue mail is drained"):
        watch(broker.backend("redis_list"), ["mail"], include_queued=False)


def test_drained_when_nothing_is_processed(broker: Broker) -> None:
    fill(broker)
    backend = broker.backend("redis_list")
    seen = watch(backend, ["mail"], include_queued=False, budget=0.1)
    assert not seen.drained and seen.executing == 3
    broker.client.delete("mail:processing:mailer@2.0.0:worker1:1", "mail:processing:w2")
    assert watch(backend, ["mail"], include_queued=False).drained


def redrive(broker: Broker, check: bool = False, limit: int | None = None, source: str = "failed") -> RedriveReport:
    request = RedriveRequest("mail", run=None, source=source, match=Match(limit=limit))
    report: RedriveReport = broker.backend("redis_list").redrive(request, check=check)
    assert report.matched == report.moved + report.skipped + report.remaining
    return report


def test_redrives_in_order_and_up_to_a_limit(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BATCH", 2)
    fill(broker)
    before = broker.snapshot()
    told = redrive(broker, check=True, limit=3)
    assert broker.snapshot() == before
    report = redrive(broker, limit=3)
    assert (told.moved, told.remaining, told.diff) == (report.moved, report.remaining, report.diff) == (3, 2, report.diff)
    assert broker.client.lrange("mail", 4, -1) == [b"f0", b"f1", b"f2"]
    assert broker.client.lrange("mail:failed", 0, -1) == [b"f3", b"f4"]
    assert report.conservation["verdict"] == "proven"
    assert redrive(broker).moved == 2
    assert redrive(broker).moved == 0


def test_redrives_from_another_list(broker: Broker) -> None:
    broker.client.rpush("old", "x", "y")
    assert redrive(broker, source="old").moved == 2
    assert broker.client.lrange("mail", 0, -1) == [b"x", b"y"]


def test_what_it_cannot_do_is_refused_by_name(broker: Broker) -> None:
    fill(broker)
    before = broker.snapshot()
    backend = broker.backend("redis_list")
    refused: list[tuple[Callable[[], Any], str, str]] = [
        (lambda: backend.pause(["mail"], PauseRequest("me")), "not able to pause a queue", "service manager"),
        (lambda: backend.resume(["mail"], "me"), "not able to pause a queue", "service manager"),
        (backend.look, "not able to tell which queues exist", "Name the lists in queues"),
        (lambda: backend.redrive(RedriveRequest("mail", "r1")), "remember which tasks", "Leave run out"),
        (lambda: backend.redrive(RedriveRequest("mail", None, match=Match(version="2", ids=("1",)))), "match.ids, match.", "match.limit"),
        (lambda: backend.redrive(RedriveRequest("mail", None, source="mail")), "same list", "another list"),
        (lambda: backend.capabilities.require("counters"), "completed and failed", "counts per worker"),
    ]
    for act, what, instead in refused:
        with pytest.raises(Refused) as caught:
            act()
        assert what in caught.value.message and instead in str(caught.value.next_step)
    assert broker.snapshot() == before
