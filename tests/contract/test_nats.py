# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is special to NATS: advisories, exhausted deliveries, streams that keep what is done, duplicate windows, pauses that expire."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import pickle
import shutil
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import nats.js.errors
import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, NotFound, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import (
    Breaker,
    Match,
    PauseRequest,
    RedriveReport,
    RedriveRequest,
    Rule,
)
from ansible_collections.queueops.fleet.plugins.module_utils._queue.nats_connection import NatsSession
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

from tests.contract import kill
from tests.contract.common import QUEUE, finished, places, redriven, request, state
from tests.contract.conftest import Servers
from tests.contract.kill import Job, count_steps, run, run_killed
from tests.contract.servers.certificates import Authority
from tests.contract.servers.nats import PASSWORD, USER, NatsServer
from tests.contract.systems.nats import STREAM, Nats
from tests.unit.conftest import wait_for

ADVISORIES = "$JS.EVENT.ADVISORY.CONSUMER.*.%s.%s" % (STREAM, QUEUE)


@pytest.fixture
def here(servers: Servers) -> Iterator[Nats]:
    """An empty server."""
    server = servers.get("nats")
    server.clear()
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    found = Nats(server, folder)
    yield found
    found.close()
    shutil.rmtree(folder, ignore_errors=True)


def declare(here: Nats, retention: str = "workqueue", dead: str = "dlq.work.mail.>", consumer: Any = None, stream: Any = None) -> None:
    """The queue ``mail`` with particular settings."""

    async def create(client: Any) -> None:
        manager = client.jetstream()
        await manager.add_stream(name=STREAM, subjects=["work.>"], retention=retention, **(stream or {}))
        if dead:
            await manager.add_stream(name=here.dead(QUEUE), subjects=[dead])
        options = {"durable_name": QUEUE, "filter_subject": "work.mail.>", "ack_policy": "explicit", **(consumer or {})}
        await manager.add_consumer(STREAM, **options)

    here.nats.ask(create)


def manage(here: Nats, method: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of the client's JetStream manager."""
    return here.nats.ask(lambda client: getattr(client.jetstream(), method)(*arguments, **options))


def exhaust(here: Nats, count: int) -> list[str]:
    """Publish tasks that use up their deliveries (two, of 0.2 s) and are never acknowledged."""
    ids = here.publish(QUEUE, count)

    async def take(client: Any) -> None:
        pull = await client.jetstream().pull_subscribe_bind(QUEUE, STREAM)
        for _round in range(2 * count + 1):
            with suppress(asyncio.TimeoutError):
                await pull.fetch(count, timeout=0.5)
            info = await client.jetstream().consumer_info(STREAM, QUEUE)
            if not info.num_ack_pending and not info.num_pending:
                return

    here.nats.ask(take)
    wait_for(lambda: state(here).executing == 0, what="the end of the deliveries")
    return ids


def stored(here: Nats, stream: str) -> list[Any]:
    """Every message of a stream."""

    async def read(client: Any) -> list[Any]:
        manager = client.jetstream()
        info = await manager.stream_info(stream)
        found = []
        for seq in range(max(1, info.state.first_seq), info.state.last_seq + 1):
            with suppress(nats.js.errors.NotFoundError):
                found.append(await manager.get_msg(stream, seq))
        return found

    messages: list[Any] = here.nats.ask(read)
    return messages


def raw_headers(here: Nats) -> list[tuple[str, str]]:
    """The header lines of the queue's first message as they are stored; the client library decodes them otherwise."""

    async def ask(client: Any) -> bytes:
        answer = await client.request("$JS.API.STREAM.MSG.GET." + STREAM, b'{"seq": 1}')
        return bytes(answer.data)

    block = base64.b64decode(json.loads(here.nats.ask(ask))["message"]["hdrs"]).decode()
    lines = [line.partition(": ") for line in block.split("\r\n")[1:] if line]
    return [(name, value) for name, _colon, value in lines]


#: Which steps are killed at.
EVERY = 1 if os.environ.get("QUEUEOPS_EVERY_STEP") else 4
FEW = {"max_deliver": 2, "ack_wait": 0.2}


def test_what_the_advisories_name_is_redriven(here: Nats) -> None:
    declare(here, dead=ADVISORIES, consumer=FEW)
    ids = exhaust(here, 5)
    wait_for(lambda: state(here).failed == 5, what="the advisories")
    told = redriven(here, check=True)
    assert {entry["error"] for entry in told.sample} == {"MaxDeliveries"} and {entry["id"] for entry in told.sample} == set(ids)
    report = redriven(here, Rule(Match(ids=tuple(ids[:4]), error="2 deliveries")))
    assert (report.moved, report.conservation["verdict"]) == (4, "proven"), report
    found = state(here)
    assert (found.queued, found.failed) == (4, 1)
    assert places(here) == Counter(ids)
    assert redriven(here).moved == 1
    here.start_worker(QUEUE)
    finished(here, ids)


def test_killed_at_every_step_between_advisories_and_tasks(here: Nats) -> None:
    def fresh() -> list[str]:
        here.server.clear()
        shutil.rmtree(here.folder / "state", ignore_errors=True)
        declare(here, dead=ADVISORIES, consumer=FEW)
        ids = exhaust(here, 3)
        wait_for(lambda: state(here).failed == 3, what="the advisories")
        return ids

    fresh()
    job = Job(request(here, run="r1"), batch=2)
    for step in range(1, count_steps(here, job) + 1, EVERY):
        ids = fresh()
        run_killed(here, job, step)
        assert run(here, job).error is None
        assert (places(here), state(here).queued) == (Counter(ids), 3), step


def test_nothing_twice_beyond_the_duplicate_window(here: Nats) -> None:
    """The destination forgets at once what it has taken; then the ledger and its own messages have to tell."""

    def fresh() -> list[str]:
        here.server.clear()
        shutil.rmtree(here.folder / "state", ignore_errors=True)
        declare(here, stream={"duplicate_window": 0.1})
        return here.fail(QUEUE, 5)

    fresh()
    job = Job(request(here, run="r1"), batch=2)
    calls = count_steps(here, job)
    for step in range(1, calls + 1, EVERY):
        ids = fresh()
        # How often it reads anew what it read before depends on how long it takes.
        assert run(here, job, step).killed or step > calls // 2
        time.sleep(0.15)
        again = run(here, job)
        assert again.error is None, again.error
        assert (places(here), state(here).queued, state(here).failed) == (Counter(ids), 5, 0), step


def test_exhausted_deliveries_without_a_dead_letter_stream(here: Nats) -> None:
    declare(here, dead="", consumer=FEW)
    ids = exhaust(here, 4)
    more = here.publish(QUEUE, 2)
    found = state(here)
    assert (found.queued, found.executing, found.abandoned, found.failed) == (2, 0, 4, None)
    with pytest.raises(NotFound) as caught:
        redriven(here)
    assert caught.value.option == "dead_letter" and "source=abandoned" in str(caught.value.next_step)
    report = redriven(here, source="abandoned")
    assert (report.moved, report.conservation["verdict"]) == (4, "proven"), report.conservation
    assert (state(here).queued, state(here).abandoned) == (6, 0)
    here.start_worker(QUEUE)
    finished(here, ids + more)


def test_exhausted_deliveries_cannot_be_told_while_tasks_are_executing(here: Nats) -> None:
    declare(here, consumer={"ack_wait": 60})
    here.publish(QUEUE, 1, "hold")
    here.start_worker(QUEUE)
    wait_for(lambda: state(here).executing == 1, what="the task")
    with pytest.raises(Refused) as caught:
        redriven(here, source="abandoned")
    assert caught.value.option == "source"


def test_unreadable_backlog_is_parked_while_paused_and_comes_back(here: Nats) -> None:
    declare(here)
    notes, flaky = here.publish(QUEUE, 3), here.publish(QUEUE, 2, "flaky")
    rule = Rule(Match(field={"kind": "flaky", "customer.country": "NO"}), "park")
    with pytest.raises(Refused) as caught:
        redriven(here, rule, source="queued")
    assert "queue_drain" in str(caught.value.next_step)
    here.open().pause([QUEUE], PauseRequest("tests"))
    report = redriven(here, rule, source="queued")
    assert (report.moved, report.conservation["verdict"]) == (2, "proven"), report
    assert state(here).queued == 3
    here.open().resume([QUEUE], "tests")
    here.start_worker(QUEUE)
    finished(here, notes)
    assert redriven(here, source="parked").moved == 2
    finished(here, notes + flaky)


def test_a_pause_expires_by_itself(here: Nats) -> None:
    declare(here)
    done = here.open().pause([QUEUE], PauseRequest("tests", "short", expires=2))
    assert done.after["paused_by"]["expires_in_s"] in (1, 2) and not done.warnings
    assert state(here).paused
    wait_for(lambda: state(here).paused is False, what="the end of the pause")
    manage(here, "pause_consumer", STREAM, QUEUE, "2099-01-01T00:00:00Z")
    found = state(here)
    assert found.paused and found.paused_by is not None and found.paused_by["owner"] is None  # Not the one whose record is left.


def test_headers_are_kept_and_the_servers_own_are_not(here: Nats) -> None:
    declare(here)
    payload = pickle.dumps({"never": "loaded"})
    headers = {"X-Trace": "äöü", "Nats-Msg-Id": "m1", "Nats-Expected-Stream": here.dead(QUEUE)}
    more = {"x-queueops-origin": "work.mail.note", "x-queueops-enqueued-at": "1700000000.500000"}
    here.nats.ask(lambda client: client.jetstream().publish("dlq.work.mail.note", payload, headers={**headers, **more}))
    assert redriven(here, Rule(Match(header={"X-Trace": "other"}))).matched == 0
    assert redriven(here, Rule(Match(field={"never": "loaded"}))).undetermined == 1
    assert redriven(here, Rule(Match(header={"X-Trace": "äöü"})), run="r7").moved == 1
    (message,) = stored(here, STREAM)
    assert (message.subject, message.data) == ("work.mail.note", payload)
    kept = dict(raw_headers(here))
    assert kept.pop("Nats-Msg-Id").startswith("queueops:")
    assert kept == {
        "X-Trace": "äöü",
        "x-queueops-id": "m1",
        "x-queueops-origin": "work.mail.note",
        "x-queueops-enqueued-at": "1700000000.500000",
        "x-queueops-redrives": "1",
        "x-queueops-run": "r7",
    }
    assert (state(here).oldest_task_age_s or 0) > 86400


def test_a_header_with_several_values_keeps_them(here: Nats) -> None:
    declare(here)

    class Twice:
        def items(self) -> list[tuple[str, str]]:
            return [("X-Tag", "one"), ("X-Tag", "two")]

    async def publish(client: Any) -> None:
        await client.publish("dlq.work.mail.note", b"{}", headers=Twice())
        await client.flush()

    here.nats.ask(publish)
    wait_for(lambda: state(here).failed == 1, what="the task")
    assert redriven(here).moved == 1

    assert [line for line in raw_headers(here) if line[0] == "X-Tag"] == [("X-Tag", "one"), ("X-Tag", "two")]


@pytest.mark.parametrize("limit", [{"max_msgs": 3}, {"max_bytes": 900}, {"max_msgs_per_subject": 3}])
def test_a_destination_that_would_drop_its_oldest_is_refused_or_left(here: Nats, limit: dict[str, int]) -> None:
    declare(here, retention="limits", stream=limit)
    ids = here.publish(QUEUE, 2)
    ids += here.fail(QUEUE, 4)
    before = places(here)
    try:
        report = redriven(here)
    except Refused as refused:
        assert "room" in refused.message and "max_msgs_per_subject" not in limit
        report = redriven(here, limit=1)
        assert report.moved <= 1
    else:
        assert (report.moved, report.skipped) == (1, 3) and "drop its oldest" in str(report.skipped_because)
    assert places(here) == before == Counter(ids)


def test_a_full_destination_that_refuses_is_reported_and_nothing_lost(here: Nats) -> None:
    declare(here, stream={"max_msgs": 3, "discard": "new"})
    ids = here.fail(QUEUE, 5)
    report = redriven(here)
    assert (report.moved, report.skipped) == (3, 2) and "maximum messages" in str(report.skipped_because)
    assert places(here) == Counter(ids)


def test_a_destination_nobody_waits_for_is_refused(here: Nats) -> None:
    declare(here)
    manage(here, "add_stream", name="EVENTS", subjects=["events.>"], retention="interest")
    ids = here.fail(QUEUE, 2)
    for check in (True, False):
        with pytest.raises(Refused, match="would be dropped"):
            redriven(here, Rule(destination="events.mail"), check=check)
        with pytest.raises(NotFound):
            redriven(here, Rule(destination="no.such.subject"), check=check)
    assert places(here) == Counter(ids)
    manage(here, "add_consumer", "EVENTS", durable_name="log", filter_subject="events.*")
    assert redriven(here, Rule(destination="events.mail")).moved == 2
    assert [message.subject for message in stored(here, "EVENTS")] == ["events.mail"] * 2


def test_other_consumers_of_the_stream_are_not_given_it_again_by_accident(here: Nats) -> None:
    declare(here, retention="limits")
    manage(here, "add_consumer", STREAM, durable_name="audit", filter_subject="work.>", ack_policy="explicit")
    here.fail(QUEUE, 2)
    with pytest.raises(Refused, match="audit") as caught:
        redriven(here)
    assert "destination=mail" in str(caught.value.next_step)
    assert redriven(here, Rule(destination=QUEUE)).moved == 2
    assert state(here).queued == 2


def test_a_stream_that_keeps_what_is_done_is_proven_under_workers(here: Nats) -> None:
    declare(here, retention="limits")
    ids = here.fail(QUEUE, 40)
    here.start_worker(QUEUE)
    report = redriven(here, rate=40.0)
    assert report.conservation["verdict"] == "proven", report.conservation
    wait_for(lambda: len(here.done()) == 40, what="the tasks")
    assert Counter(here.done()) == Counter(ids)


def test_one_dead_letter_stream_for_several_queues(here: Nats) -> None:
    declare(here, dead="")

    async def more(client: Any) -> None:
        await client.jetstream().add_stream(name="DEAD", subjects=["dlq.>"])
        await client.jetstream().add_consumer(STREAM, durable_name="sms", filter_subject="work.sms.>", ack_policy="explicit")

    here.nats.ask(more)
    mails, messages = here.fail(QUEUE, 3), here.fail("sms", 2)
    backend = here.open(dead_letter="DEAD:dlq.work.{queue}.>")
    assert [found.failed for found in backend.look([QUEUE, "sms"]).queues] == [3, 2]
    report = engine.redrive(backend, request(here, queue="sms"))
    assert (report.moved, report.conservation["verdict"]) == (2, "proven"), report.conservation
    assert [found.failed for found in backend.look([QUEUE, "sms"]).queues] == [3, 0]
    assert (places(here, "sms"), places(here)) == (Counter(messages), Counter(mails))


def test_the_origin_is_found_by_the_dead_letter_subject(here: Nats) -> None:
    declare(here)

    async def publish(client: Any) -> None:
        await client.jetstream().publish("dlq.work.mail.deep.note", b"{}")
        await client.jetstream().add_stream(name="ODD", subjects=["odd.*"])
        await client.jetstream().publish("odd.one", b"{}")

    here.nats.ask(publish)
    assert redriven(here).by_task == {"work.mail.deep.note": 1}
    assert [message.subject for message in stored(here, STREAM)] == ["work.mail.deep.note"]
    report = redriven(here, source="ODD")
    assert (report.moved, report.skipped) == (0, 1) and "x-queueops-origin" in str(report.skipped_because)
    assert redriven(here, Rule(destination="work.mail.note"), source="ODD").moved == 1


def test_a_task_that_grows_beyond_what_the_broker_takes_stays(here: Nats) -> None:
    declare(here)
    here.nats.ask(lambda client: client.jetstream().publish("dlq.work.mail.note", b"x" * (client.max_payload - 30)))
    ids = here.fail(QUEUE, 1)
    report = redriven(here)
    assert (report.moved, report.skipped) == (1, 1), report
    assert (state(here).queued, state(here).failed, len(ids)) == (1, 1, 1)


def test_names_with_the_stream_in_them(here: Nats) -> None:
    declare(here)
    here.fail(QUEUE, 2)
    backend = open_backend("nats", {"url": here.server.url})
    (found,) = backend.look().queues
    assert (found.name, found.failed) == ("WORK/mail", 2)
    with pytest.raises(NotFound, match="durable consumer of a stream"):
        backend.look([QUEUE])
    report = engine.redrive(backend, RedriveRequest("WORK/mail", state_dir=str(here.folder / "state")))
    assert report.moved == 2


def test_the_breaker_needs_one_queue_to_watch(here: Nats) -> None:
    declare(here)
    here.fail(QUEUE, 2)
    with pytest.raises(Refused) as caught:
        redriven(here, Rule(destination="work.mail.note"), breaker=Breaker(0.2))
    assert caught.value.option == "breaker"


def test_two_runs_beyond_the_duplicate_window_see_what_is_gone(here: Nats) -> None:
    declare(here, stream={"duplicate_window": 3})
    ids = here.fail(QUEUE, 40)
    reports: list[RedriveReport] = []

    slow = threading.Thread(target=lambda: reports.append(redriven(here, rate=10.0)))
    slow.start()
    wait_for(lambda: (state(here).queued or 0) > 3, what="the slow redrive")
    reports.append(redriven(here))
    slow.join(60)
    assert places(here) == Counter(ids)
    assert sum(report.moved for report in reports) == 40


@pytest.mark.parametrize(
    ("more", "url", "error", "option"),
    [
        ('authorization { token: "right" }', "nats://wrong-pw-9@127.0.0.1:PORT", Refused, "password"),
        (
            'accounts { A { jetstream: enabled, users: [ { user: "u", password: "p", permissions: { publish: ["_INBOX.>"] } } ] } }',
            "nats://u:p@127.0.0.1:PORT",
            Refused,
            "username",
        ),
        ('accounts { A { users: [ { user: "u", password: "p" } ] } }', "nats://u:p@127.0.0.1:PORT", Unavailable, "url"),
    ],
    ids=["token", "permissions", "no jetstream"],
)
def test_a_broker_that_says_no(more: str, url: str, error: type[FleetError], option: str, tmp_path: Path) -> None:
    server = NatsServer("nats", tmp_path, more, url)
    server.start(asks=False)
    try:
        with pytest.raises(error) as caught:
            open_backend("nats", {"url": server.url, "stream": STREAM, "connect_timeout": 3}).look([QUEUE])
        assert caught.value.option == option and caught.value.next_step, caught.value.sentence()
        assert "wrong-pw-9" not in caught.value.sentence() and "u:p" not in caught.value.sentence()
    finally:
        server.stop()


def test_the_first_address_that_answers_is_used(here: Nats) -> None:
    declare(here)
    urls = "nats://127.0.0.1:1, %s" % here.server.url
    assert open_backend("nats", {"url": urls, "stream": STREAM}).look([QUEUE]).queues[0].queued == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"url": ""},
        {"url": "http://localhost"},
        {"url": "nats://localhost", "tls_ca": "/nowhere"},
        {"url": "tls://localhost", "tls_ca": "/nowhere"},
        {"url": "nats://localhost", "credentials": "/nowhere"},
        {"url": "nats://localhost", "stream": "a b"},
    ],
)
def test_wrong_options_are_refused_before_connecting(settings: dict[str, str]) -> None:
    with pytest.raises(Refused) as caught:
        open_backend("nats", settings)
    assert caught.value.option in settings and caught.value.next_step


def dead_letters(here: Nats, subjects: list[str], origin: str = "work.mail.note", stream: str = "") -> None:
    """Publish a dead letter of one origin on each of ``subjects``."""

    async def publish(client: Any) -> None:
        for subject in subjects:
            await client.jetstream().publish(subject, b"{}", headers={"x-queueops-origin": origin}, stream=stream or None)

    here.nats.ask(publish)


def test_a_task_that_no_consumer_waits_for_is_not_lost(here: Nats) -> None:
    """A stream with the retention interest confirms it and drops it."""
    declare(here, retention="interest")
    ids = here.fail(QUEUE, 2)
    dead_letters(here, ["dlq.work.mail.sms"], "work.sms.note")
    report = redriven(here)
    assert (report.moved, report.skipped) == (2, 1) and "none waits for its subject" in str(report.skipped_because)
    assert (state(here).queued, state(here).failed) == (2, 1)
    here.start_worker(QUEUE)
    finished(here, ids)


@pytest.mark.parametrize("destination", [None, "work.mail.note"])
def test_a_consumer_that_goes_while_tasks_are_sent_to_it_loses_none(
    here: Nats, monkeypatch: pytest.MonkeyPatch, destination: str | None
) -> None:
    declare(here, retention="interest")
    here.fail(QUEUE, 3)
    original = NatsSession.ask_many

    def gone(session: NatsSession, requests: Any, *more: Any) -> Any:
        if requests and requests[0][0].startswith("work."):
            manage(here, "delete_consumer", STREAM, QUEUE)
            monkeypatch.undo()
        return original(session, requests, *more)

    monkeypatch.setattr(NatsSession, "ask_many", gone)
    with suppress(FleetError):  # The proof asks the consumer, which is not there any more.
        assert redriven(here, Rule(destination=destination), run="r1").moved == 0
    declare_again = {"durable_name": QUEUE, "filter_subject": "work.mail.>", "ack_policy": "explicit"}
    here.nats.ask(lambda client: client.jetstream().add_consumer(STREAM, **declare_again))
    assert state(here).failed == 3
    redriven(here, Rule(destination=destination), run="r1")
    assert (state(here).queued, state(here).failed) == (3, 0)


def test_other_messages_in_the_stream_of_dead_letters_stay(here: Nats) -> None:
    """Those on a subject that the stream does not take any more."""
    declare(here, dead="")
    manage(here, "add_stream", name="DEAD", subjects=["dlq.old.>", "dlq.work.mail.>"])
    dead_letters(here, ["dlq.old.one", "dlq.work.mail.note", "dlq.work.mail.note", "dlq.old.two", "dlq.work.mail.note"])
    manage(here, "update_stream", name="DEAD", subjects=["dlq.work.mail.>"])
    report = engine.redrive(here.open(dead_letter="DEAD:dlq.work.mail.>"), request(here))
    assert report.moved == 3
    assert [message.subject for message in stored(here, "DEAD")] == ["dlq.old.one", "dlq.old.two"]


def test_a_mirror_of_the_dead_letters_is_refused_and_gathered_ones_are_warned_of(here: Nats) -> None:
    declare(here)
    here.fail(QUEUE, 2)
    dead = {"name": here.dead(QUEUE)}

    async def more(client: Any) -> None:
        for name, config in (("MIRROR", {"mirror": dead}), ("GATHERED", {"sources": [dead]})):
            asked = {"name": name, "retention": "limits", "storage": "file", "num_replicas": 1, **config}
            answer = json.loads((await client.request("$JS.API.STREAM.CREATE." + name, json.dumps(asked).encode())).data)
            assert "error" not in answer, answer

    here.nats.ask(more)
    wait_for(lambda: len(stored(here, "MIRROR")) == len(stored(here, "GATHERED")) == 2, what="the copies")
    with pytest.raises(Refused, match=here.dead(QUEUE)) as caught:
        engine.redrive(here.open(dead_letter="MIRROR"), request(here))
    assert caught.value.option == "dead_letter"
    told = engine.redrive(here.open(dead_letter="GATHERED"), request(here), True)
    assert here.dead(QUEUE) in told.warnings[0]


def test_a_pause_that_may_end_in_the_middle_is_not_relied_upon(here: Nats) -> None:
    declare(here)
    here.publish(QUEUE, 2)
    here.open().pause([QUEUE], PauseRequest("tests", expires=30))
    with pytest.raises(Refused, match="not paused for 60 s"):
        redriven(here, Rule(action="park"), source="queued")
    here.open().resume([QUEUE], "tests")
    here.open().pause([QUEUE], PauseRequest("tests", expires=300))
    assert redriven(here, Rule(action="park"), source="queued").moved == 2


def forgotten(here: Nats, task: str) -> bool:
    """Whether the stream has forgotten that it took this."""
    return not manage(here, "publish", "work.probe", b"{}", headers={"Nats-Msg-Id": task}).duplicate


@pytest.mark.parametrize("how", ["time", "restart"])
def test_what_may_be_run_twice_is_named(here: Nats, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The run dies when it has sent tasks and before it knows; workers do them; and the broker forgets that it took them."""

    def fresh() -> list[str]:
        here.server.clear()
        shutil.rmtree(here.folder / "state", ignore_errors=True)
        declare(here, stream={"duplicate_window": 0.1} if how == "time" else None)
        return here.fail(QUEUE, 5)

    def forget() -> None:
        if how == "time":
            wait_for(partial(forgotten, here, "probe"), what="the end of the duplicate window")
        manage(here, "purge_stream", STREAM)
        if how == "restart":
            here.server.stop()
            here.server.start()

    fresh()
    job = Job(request(here, run="r1"), batch=2)
    # Killed before a write to the ledger: what is written and not yet on disk outlives a process.
    monkeypatch.setattr(kill, "STEPS", ("ansible_collections.queueops.fleet.plugins.module_utils._queue.ledger:Ledger.sync",))
    named = 0
    for step in range(1, count_steps(here, job) + 1):
        ids = fresh()
        if not run(here, job, step).killed:
            continue
        assert forgotten(here, "probe")
        done = {json.loads(message.data)["id"] for message in stored(here, STREAM) if message.subject != "work.probe"}
        forget()
        again = run(here, job)
        assert again.error is None, again.error
        after = {json.loads(message.data)["id"] for message in stored(here, STREAM)}
        assert done | after == set(ids), step
        assert all(task in str(again.result["warnings"]) for task in done & after), (step, again.result["warnings"])
        named += len(done & after)
    assert named


def restricted(tmp_path: Path, denied: str) -> Nats:
    """A queue with dead letters on a server whose user may do all but ``denied``."""
    users = '{ user: "u", password: "p", permissions: { publish: { allow: ">", deny: ["%s"] } } }, { user: "all", password: "p" }' % denied
    server = NatsServer("nats", tmp_path, "accounts { A { jetstream: enabled, users: [ %s ] } }" % users, "nats://all:p@127.0.0.1:PORT")
    server.start()
    return Nats(server, tmp_path)


def test_who_may_not_delete_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    system = restricted(tmp_path, "$JS.API.STREAM.MSG.DELETE.>")
    try:
        declare(system)
        system.fail(QUEUE, 3)
        backend = system.open(url=system.server.url.replace("all:p", "u:p"))
        with pytest.raises(Refused) as caught:
            engine.redrive(backend, request(system))
        assert caught.value.option == "username" and "DELETE" in caught.value.message.upper()
        assert (state(system).queued, state(system).failed) == (0, 3)
    finally:
        system.server.stop()


def test_who_may_not_purge_deletes_one_by_one(tmp_path: Path) -> None:
    system = restricted(tmp_path, "$JS.API.STREAM.PURGE.>")
    try:
        declare(system)
        system.fail(QUEUE, 3)
        backend = system.open(url=system.server.url.replace("all:p", "u:p"))
        assert engine.redrive(backend, request(system)).moved == 3
        assert (state(system).queued, state(system).failed) == (3, 0)
    finally:
        system.server.stop()


def test_tls_is_checked_against_the_authority_and_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, other = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    certificate, key = authority.sign("localhost")
    tls = 'tls { cert_file: "%s", key_file: "%s" }' % (certificate, key)
    server = NatsServer("nats", tmp_path, tls)
    by_name, by_number = (server.url.replace("nats://", "tls://").replace("127.0.0.1", host) for host in ("localhost", "127.0.0.1"))
    ours, theirs = str(authority.file), str(other.file)
    server.start(asks=False)
    try:
        good: list[dict[str, Any]] = [
            {"url": by_name, "tls_ca": ours},
            {"url": "tls://127.0.0.1:1," + by_name, "tls_ca": ours},
            {"url": by_number, "tls_verify": False},
            {"url": by_number, "tls_verify": False, "tls_ca": theirs},
        ]
        for settings in good:
            assert open_backend("nats", settings).look().queues == [], settings
        bad: list[tuple[dict[str, Any], str]] = [
            ({"url": by_name, "tls_ca": theirs}, "certificate verify failed"),
            ({"url": by_name}, "certificate verify failed"),
            ({"url": by_name.replace("tls://", "nats://")}, "certificate verify failed"),
            ({"url": by_number, "tls_ca": ours}, "127.0.0.1"),
        ]
        for settings, text in bad:
            with pytest.raises(Refused) as caught:
                open_backend("nats", settings).look()
            assert caught.value.option == "tls_ca" and text in caught.value.message and caught.value.next_step, caught.value.sentence()
            assert PASSWORD not in caught.value.sentence()
        # Signed by one that this host trusts.
        monkeypatch.setenv("SSL_CERT_FILE", ours)
        assert open_backend("nats", {"url": by_name}).look().queues == []
    finally:
        server.stop()


def test_the_password_is_not_told_without_tls(here: Nats) -> None:
    """A server that does not ask for TLS, or somebody on the way who takes that out of what it says."""
    with pytest.raises(Refused, match="offers none") as caught:
        open_backend("nats", {"url": here.server.url.replace("nats://", "tls://")}).look()
    assert caught.value.option == "tls_ca"
    heard: list[bytes] = []

    def speak() -> None:
        connection, _address = listening.accept()
        with connection:
            connection.sendall(b'INFO {"server_id":"x","version":"2.11.0","headers":true,"max_payload":1048576,"auth_required":true}\r\n')
            while received := connection.recv(4096):
                heard.append(received)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        speaking = threading.Thread(target=speak)
        speaking.start()
        url = "tls://127.0.0.1:%d" % listening.getsockname()[1]
        with pytest.raises(Refused, match="offers none"):
            open_backend("nats", {"url": url, "username": USER, "password": PASSWORD, "tls_verify": False}).look()
        speaking.join(10)
    assert not heard
