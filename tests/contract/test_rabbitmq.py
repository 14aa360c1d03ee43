# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is special about RabbitMQ: quorum queues, dead-letter settings, properties, permissions, TLS, a broker that takes no messages."""

from __future__ import annotations

import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import amqp
import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Breaker, Match, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive

from tests.contract.rabbit import DEAD, QUEUE, Rabbit, rabbit
from tests.unit.conftest import wait_for

__all__ = ["rabbit"]


class Marker:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def test_a_hundred_looks_at_a_quorum_queue_count_no_delivery(rabbit: Rabbit) -> None:
    rabbit.make(QUEUE, **{"x-queue-type": "quorum", "x-delivery-limit": 3})
    ids = rabbit.quorum.publish(QUEUE, 5)
    backend = rabbit.open()
    for _round in range(100):
        assert backend.look([QUEUE]).queues[0].queued == 5
    found = rabbit.quorum.contents(QUEUE)
    assert [message.properties["message_id"] for message in found] == ids
    assert [(message.headers or {}).get("x-delivery-count", 0) for message in found] == [0] * 5


def test_choosing_from_a_quorum_queue_burns_no_delivery_limit(rabbit: Rabbit) -> None:
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
    rabbit.make(QUEUE, **{"x-queue-type": "quorum", **dead})
    rabbit.make(DEAD, **{"x-queue-type": "quorum", "x-delivery-limit": 2})
    ids = ["t%d" % number for number in range(7)]
    rabbit.put(DEAD, *[rabbit.quorum.message(task, "note") for task in ids])
    for number in range(6):
        report = rabbit.redriven(Rule(Match(ids=(ids[number],))))
        assert (report.moved, rabbit.depth(DEAD)) == (1, 6 - number)
    assert rabbit.redriven(Rule(Match(ids=("nobody",)))).moved == 0
    found = rabbit.quorum.contents(DEAD)
    assert [message.properties["message_id"] for message in found] == ids[6:]
    assert [(message.headers or {}).get("x-delivery-count", 0) for message in found] == [0]
    assert rabbit.ids(QUEUE) == ids[:6]


def test_check_with_match_on_a_quorum_queue_is_refused(rabbit: Rabbit) -> None:
    rabbit.quorum.declare(QUEUE)
    rabbit.quorum.fail(QUEUE, 2)
    with pytest.raises(Refused) as caught:
        rabbit.redriven(Rule(Match(task="note")), check=True)
    assert "quorum" in caught.value.message and caught.value.option == "match" and caught.value.next_step
    told = rabbit.redriven(check=True)
    assert (told.matched, told.moved) == (2, 2)
    with pytest.raises(Refused) as caught:
        rabbit.redriven(Rule(Match(task="note")), check=True, settings={"management_url": "http://127.0.0.1:1", "dead_letter": DEAD})
    assert "management_url" in (caught.value.next_step or "")


def test_what_no_rule_takes_stays_at_its_place_in_a_classic_queue(rabbit: Rabbit) -> None:
    rabbit.classic.declare(QUEUE)
    ids = rabbit.classic.fail(QUEUE, 12)
    report = rabbit.redriven(Rule(Match(ids=(ids[3], ids[8]))))
    assert report.moved == 2
    assert rabbit.ids(QUEUE) == [ids[3], ids[8]]
    assert rabbit.ids(DEAD) == [task for task in ids if task not in (ids[3], ids[8])]


def test_few_are_chosen_from_many(rabbit: Rabbit) -> None:
    """More than the broker hands out ahead are passed over."""
    for system in (rabbit.classic, rabbit.quorum):
        rabbit.server.clear()
        system.declare(QUEUE)
        rabbit.make("wide")
        some = [system.message("t%05d" % number, "note") for number in range(4500)]
        with rabbit.server.connection() as connection:
            channel = connection.channel()
            for message in some:
                channel.basic_publish(message, routing_key=DEAD)
        wait_for(lambda: rabbit.depth(DEAD) == 4500, limit=60, what="the messages")
        backend = rabbit.open()
        request = RedriveRequest(
            QUEUE, rules=(Rule(Match(ids=("t00007", "t04400"))),), state_dir=str(rabbit.folder / system.kind), run="few"
        )
        assert redrive(backend, request).moved == 2
        assert (rabbit.depth(DEAD), sorted(rabbit.ids(QUEUE))) == (4498, ["t00007", "t04400"])


def test_everything_of_a_message_is_kept(rabbit: Rabbit) -> None:
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD}
    rabbit.make(QUEUE, **{"x-max-priority": 5, **dead})
    rabbit.make(DEAD)
    properties = {
        "message_id": "m1",
        "correlation_id": "c1",
        "reply_to": "answers",
        "priority": 3,
        "timestamp": 1700000000,
        "type": "note",
        "app_id": "shop",
        "expiration": "1",
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "delivery_mode": 2,
    }
    headers = {"trace": "ü-1", "number": 7, "deep": {"list": [1, True, None, "x"]}, "x-own": b"\x00\xff"}
    rabbit.put(QUEUE, amqp.Message("{}", application_headers=dict(headers), **properties))
    wait_for(lambda: rabbit.depth(DEAD) == 1, what="its end")
    rabbit.make("there")
    assert rabbit.redriven(Rule(destination="there"), run="r1").moved == 1
    # Its time to live is restored, so that it is not there for long.
    wait_for(lambda: rabbit.depth("there") == 0, what="its end again")
    rabbit.put(QUEUE, amqp.Message("{}", application_headers=dict(headers), **{**properties, "expiration": "1000000"}))
    with rabbit.server.connection() as connection:
        channel = connection.channel()
        channel.basic_reject(channel.basic_get(QUEUE).delivery_tag, requeue=False)
    wait_for(lambda: rabbit.depth(DEAD) == 1, what="the dead letter")
    assert rabbit.redriven(Rule(destination="there"), run="r1").moved == 1
    (found,) = rabbit.classic.contents("there")
    kept = {name: value for name, value in found.properties.items() if name not in ("application_headers", "timestamp")}
    assert kept == {name: value for name, value in {**properties, "expiration": "1000000"}.items() if name != "timestamp"}
    assert {name: found.headers[name] for name in ("trace", "number", "deep")} == {
        name: headers[name] for name in ("trace", "number", "deep")
    }
    assert (found.headers["x-queueops-redrives"], found.headers["x-queueops-run"]) == (1, "r1")
    assert found.headers["x-first-death-queue"] == QUEUE


def test_payloads_are_passed_on_untouched(rabbit: Rabbit) -> None:
    written = rabbit.folder / "written"
    bodies = [b"", b"\x80" + pickle.dumps(Marker(written)), pickle.dumps(Marker(written)), b"x" * 400_000, b"{]", b"\xff\xfe"]
    for system in (rabbit.classic, rabbit.quorum):
        rabbit.server.clear()
        system.declare(QUEUE)
        rabbit.put(DEAD, *[amqp.Message(body, message_id=str(number)) for number, body in enumerate(bodies)])
        rules = (Rule(Match(field={"kind": "x"})), Rule(Match(ids=("1", "2")), "park"), Rule())
        report = rabbit.redriven(*rules, run=system.kind)
        assert report.moved + report.undetermined == len(bodies)
        parked = {message.properties["message_id"]: message.body for message in rabbit.classic.contents(QUEUE + ".parked")}
        rest = {message.properties["message_id"]: message.body for message in rabbit.classic.contents(DEAD)}
        went = {message.properties["message_id"]: message.body for message in rabbit.classic.contents(QUEUE)}
        found = {**parked, **rest, **went}
        assert [found[str(number)] or b"" for number in range(len(bodies))] == bodies
    assert not written.exists()
    assert b"Marker" not in b"".join(path.read_bytes() for path in (rabbit.folder / "state" / "redrive").iterdir())


def test_where_failed_tasks_are_is_found_by_policy_and_bindings_or_asked_for(rabbit: Rabbit) -> None:
    rabbit.make(QUEUE)
    rabbit.make("graveyard")
    orders: list[Callable[[], Any]] = [rabbit.redriven, lambda: rabbit.redriven(Rule(action="dead_letter"), source="graveyard")]
    for order in orders:
        with pytest.raises(Refused) as caught:
            order()
        assert caught.value.option == "dead_letter" and QUEUE in (caught.value.next_step or "")
    (state,) = rabbit.open().look([QUEUE]).queues
    assert state.dead_lettered is None and "dead_letter" in rabbit.open().look([QUEUE]).unknown["queues.dead_lettered"]
    with rabbit.server.connection() as connection:
        channel = connection.channel()
        channel.exchange_declare("dlx", "direct", durable=True, auto_delete=False)
        channel.queue_bind("graveyard", "dlx", routing_key="lost")
    definition = {"dead-letter-exchange": "dlx", "dead-letter-routing-key": "lost"}
    rabbit.server.ask("PUT", "/api/policies/%2F/dead", {"pattern": "^mail$", "definition": definition, "apply-to": "queues"})
    ids = rabbit.classic.publish(QUEUE, 1)

    def dead() -> bool:
        policy = rabbit.server.ask("GET", "/api/queues/%2F/mail").get("effective_policy_definition") or {}
        return bool(policy.get("dead-letter-exchange") == "dlx")

    wait_for(dead, what="the policy")
    with rabbit.server.connection() as connection:
        channel = connection.channel()
        channel.basic_reject(channel.basic_get(QUEUE).delivery_tag, requeue=False)
    wait_for(lambda: rabbit.depth("graveyard") == 1, what="the dead letter")
    assert rabbit.open().look([QUEUE]).queues[0].dead_lettered == 1
    assert rabbit.redriven().moved == 1
    assert rabbit.ids(QUEUE) == ids


def test_a_dead_letter_queue_that_serves_several_queues(rabbit: Rabbit) -> None:
    for name in (QUEUE, "other"):
        rabbit.make(name, **{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD})
    rabbit.make(DEAD)
    mine = rabbit.classic.fail(QUEUE, 2)
    theirs = []
    with rabbit.server.connection() as connection:
        channel = connection.channel()
        theirs = rabbit.classic.publish("other", 2)
        for _number in range(2):
            channel.basic_reject(channel.basic_get("other").delivery_tag, requeue=False)
    wait_for(lambda: rabbit.depth(DEAD) == 4, what="the dead letters")
    report = rabbit.redriven()
    assert (report.moved, report.skipped) == (2, 2)
    assert (rabbit.ids(QUEUE), rabbit.ids(DEAD)) == (mine, theirs)
    # By its name, each goes to where it came from.
    report = rabbit.redriven(source=DEAD)
    assert (report.moved, rabbit.ids("other")) == (2, theirs)


def test_a_destination_that_would_drop_tasks_is_refused(rabbit: Rabbit) -> None:
    rabbit.classic.declare(QUEUE)
    ids = rabbit.classic.fail(QUEUE, 5)
    for name, overflow in (("small", "drop-head"), ("strict", "reject-publish")):
        rabbit.make(name, **{"x-max-length": 3, "x-overflow": overflow})
        with pytest.raises(Refused) as caught:
            rabbit.redriven(Rule(destination=name))
        assert caught.value.option == "limit" and "limit=3" in (caught.value.next_step or ""), caught.value.sentence()
    assert rabbit.ids(DEAD) == ids
    report = rabbit.redriven(Rule(destination="small"), limit=3)
    assert (report.moved, rabbit.ids("small"), rabbit.ids(DEAD)) == (3, ids[:3], ids[3:])


def test_a_destination_that_would_drop_tasks_by_their_bytes(rabbit: Rabbit) -> None:
    rabbit.classic.declare(QUEUE)
    rabbit.make("small", **{"x-max-length-bytes": 1000})
    ids = ["t%d" % number for number in range(10)]
    rabbit.fill(DEAD, ids, b"x" * 300)
    wait_for(lambda: rabbit.server.ask("GET", "/api/queues/%2F/" + DEAD).get("message_bytes") == 3000, what="the statistics")
    with pytest.raises(Refused) as caught:
        rabbit.redriven(Rule(destination="small"))
    assert caught.value.option == "limit" and "limit=3" in (caught.value.next_step or ""), caught.value.sentence()
    # Of the parking place this is told task by task: what does not fit stays.
    rabbit.make(QUEUE + ".parked", **{"x-max-length-bytes": 1000})
    report = rabbit.redriven(Rule(action="park"), source=DEAD)
    assert (report.moved, report.skipped, rabbit.ids(QUEUE + ".parked"), rabbit.ids(DEAD)) == (3, 7, ids[:3], ids[3:])
    assert "full" in next(iter(report.skipped_because))


def test_whether_a_destination_drops_tasks_is_not_known_without_management(rabbit: Rabbit) -> None:
    rabbit.classic.declare(QUEUE)
    rabbit.fill(DEAD, ["a"])
    report = rabbit.redriven(settings={"management_url": "http://127.0.0.1:1", "dead_letter": DEAD})
    assert report.moved == 1 and any("max-length" in warning and "management" in warning for warning in report.warnings)


def test_a_stream_is_no_source(rabbit: Rabbit) -> None:
    rabbit.classic.declare(QUEUE)
    rabbit.make("log", **{"x-queue-type": "stream"})
    rabbit.put("log", amqp.Message("{}", message_id="a"))
    with pytest.raises(Refused) as caught:
        rabbit.redriven(source="log")
    assert "stream" in caught.value.message and caught.value.option == "source"


def test_a_source_that_another_connection_holds_for_itself(rabbit: Rabbit) -> None:
    rabbit.classic.declare(QUEUE)
    rabbit.fill(DEAD, ["a", "b"])
    with rabbit.server.connection() as connection:
        channel = connection.channel()
        channel.basic_qos(0, 1, False)
        channel.basic_consume(DEAD, exclusive=True, consumer_tag="only", callback=lambda message: None)
        with pytest.raises(Refused) as caught:
            rabbit.redriven(run="r1")
    assert caught.value.next_step == "Stop that consumer first"
    wait_for(lambda: rabbit.depth(DEAD) == 2, what="the task's return")
    assert rabbit.redriven(run="r1").moved == 2


def test_a_slow_redrive_has_few_tasks_in_hand(rabbit: Rabbit) -> None:
    """A broker closes the channel of a consumer that has a task in hand for longer than half an hour."""
    for system, slow in ((rabbit.classic, {"rate": 0.5}), (rabbit.quorum, {"rate": 0.5}), (rabbit.quorum, {"breaker": Breaker(0.5)})):
        rabbit.server.clear()
        system.declare(QUEUE)
        rabbit.fill(DEAD, ["t%04d" % number for number in range(1000)])
        store = rabbit.open().open_store(rabbit.request(Rule(Match(ids=("t0000",))), **slow), False)
        try:
            first = next(store.windows())
            wait_for(lambda: rabbit.depth(DEAD) < 1000, what="the deliveries")
            assert 0 < len(first) <= 100 and rabbit.depth(DEAD) >= 900
        finally:
            store.close()


def test_a_queue_that_tasks_came_from_and_that_is_gone(rabbit: Rabbit) -> None:
    rabbit.make("old", **{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD})
    rabbit.classic.declare(QUEUE)
    with rabbit.server.connection() as connection:
        channel = connection.channel()
        rabbit.classic.publish("old", 3)
        for _number in range(3):
            channel.basic_reject(channel.basic_get("old").delivery_tag, requeue=False)
        wait_for(lambda: rabbit.depth(DEAD) == 3, what="the dead letters")
        channel.queue_delete("old")
    report = rabbit.redriven(source=DEAD)
    assert (report.moved, report.skipped, rabbit.depth(DEAD)) == (0, 3, 3)
    assert "old does not exist" in next(iter(report.skipped_because))


def test_a_broker_that_takes_no_messages(rabbit: Rabbit) -> None:
    rabbit.classic.declare(QUEUE)
    ids = rabbit.classic.fail(QUEUE, 3)
    rabbit.server.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        wait_for(lambda: rabbit.server.ask("GET", "/api/nodes")[0]["mem_alarm"], what="the alarm")
        with pytest.raises(Unavailable) as caught:
            rabbit.redriven()
        assert "memory" in caught.value.sentence() and caught.value.next_step
        assert rabbit.open().look([QUEUE]).queues[0].dead_lettered == 3
    finally:
        rabbit.server.ctl("set_vm_memory_high_watermark", "absolute", "2GB")
    assert rabbit.ids(DEAD) == ids
    wait_for(lambda: not rabbit.server.ask("GET", "/api/nodes")[0]["mem_alarm"], what="the end of the alarm")
    assert rabbit.redriven().moved == 3


def test_a_user_who_may_not(rabbit: Rabbit) -> None:
    rabbit.classic.declare(QUEUE)
    rabbit.classic.fail(QUEUE, 3)
    rabbit.server.ask("PUT", "/api/users/some", {"password": "pw", "tags": ""})
    try:
        permissions = {"configure": "", "write": "", "read": ".*"}
        rabbit.server.ask("PUT", "/api/permissions/%2F/some", permissions)
        user = {"username": "some", "password": "pw", "dead_letter": "{queue}.dead"}
        look = rabbit.open(**user).look([QUEUE])
        assert (look.queues[0].queued, look.queues[0].dead_lettered) == (0, 3)
        assert "management" in look.unknown["workers"] and "pw" not in str(look.unknown)
        with pytest.raises(Refused) as caught:
            rabbit.redriven(settings=user)
        assert caught.value.option == "username" and rabbit.depth(DEAD) == 3
        # Without the right to make a queue it goes, and says what is lacking.
        rabbit.server.ask("PUT", "/api/permissions/%2F/some", {**permissions, "write": ".*"})
        report = rabbit.redriven(settings=user)
        assert report.moved == 3 and any("twice" in warning for warning in report.warnings)
    finally:
        rabbit.server.ask("DELETE", "/api/users/some")


def test_vhosts_and_several_nodes(rabbit: Rabbit) -> None:
    rabbit.server.ask("PUT", "/api/vhosts/" + quote("a/b ü", safe=""))
    try:
        address = "127.0.0.1:%d" % rabbit.server.port
        url = "amqp://guest:guest@127.0.0.1:1/%s,amqp://%s" % (quote("a/b ü", safe=""), address)
        backend = rabbit.open(url=url)
        with pytest.raises(NotFound):
            backend.look([QUEUE])
        found = amqp.Connection(address, virtual_host="a/b ü")
        found.connect()
        found.channel().queue_declare(QUEUE, durable=True, auto_delete=False)
        found.close()
        assert backend.look([QUEUE]).queues[0].queued == 0
        assert [state.name for state in backend.look().queues] == [QUEUE]
        with pytest.raises(Refused) as caught:
            rabbit.open(url="amqp://%s/nowhere" % address).look([QUEUE])
        assert caught.value.option == "url"
    finally:
        rabbit.server.ask("DELETE", "/api/vhosts/" + quote("a/b ü", safe=""))


def test_without_management_what_is_not_known_is_null(rabbit: Rabbit) -> None:
    rabbit.classic.declare(QUEUE)
    rabbit.classic.publish(QUEUE, 2)
    rabbit.classic.publish(QUEUE, 1, "hold")
    rabbit.classic.start_worker(QUEUE)
    backend = rabbit.open(management_url="http://127.0.0.1:1", connect_timeout=1.0)
    look = wait_for(lambda: (found := backend.look([QUEUE])).queues[0].queued == 0 and found, what="the worker")
    assert look.queues[0].executing is None and "management" in look.unknown["queues.executing"]
    with pytest.raises(Refused) as caught:
        backend.look()
    assert "management_url" in (caught.value.next_step or "")


def test_tls(rabbit: Rabbit, tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    folder.mkdir()
    make = [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr",
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
    ]
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for command in make:
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    for path in folder.iterdir():
        path.chmod(0o644)
    rabbit.server.stop()
    rabbit.server.tls = folder
    rabbit.server.start()
    try:
        rabbit.classic.declare(QUEUE)
        rabbit.classic.fail(QUEUE, 50)
        url = "amqps://guest:guest@localhost:%d" % rabbit.server.tls_port
        rabbit.make("plain")
        assert rabbit.redriven(settings={"url": url, "tls_ca": str(folder / "ca.pem")}).moved == 50
        assert rabbit.open(url=url, tls_verify=False).look([QUEUE]).queues[0].queued == 50
        for wrong in ({"url": url}, {"url": url, "tls_ca": str(folder / "server.key")}):
            with pytest.raises(Refused) as caught:
                rabbit.open(**wrong).look([QUEUE])
            assert caught.value.option == "tls_ca", caught.value.sentence()
        with pytest.raises((Refused, Unavailable)):
            rabbit.open(url="amqps://guest:guest@localhost:%d" % rabbit.server.port, connect_timeout=2.0).look([QUEUE])
        with pytest.raises(Refused):
            rabbit.open(tls_ca=str(folder / "ca.pem"))
    finally:
        rabbit.server.stop()
        rabbit.server.tls = None
        rabbit.server.start()


def test_workers_are_known_by_their_connections(rabbit: Rabbit) -> None:
    rabbit.classic.declare(QUEUE)
    worker = rabbit.classic.start_worker(QUEUE, "3.1.4")

    def seen() -> Any:
        # The broker's statistics tell the worker before they tell what it does.
        return [found for found in rabbit.open().look([QUEUE]).workers if found.version == "3.1.4" and found.state is not None]

    (found,) = wait_for(seen, what="the worker")
    assert (found.pid, found.queues, found.state) == (worker.pid, [QUEUE], "idle")
    assert found.started is not None


def test_the_age_of_the_oldest_task(rabbit: Rabbit) -> None:
    rabbit.classic.declare(QUEUE)
    rabbit.put(QUEUE, rabbit.classic.message("a", "note", timestamp=1700000000))
    found = wait_for(lambda: rabbit.open().look([QUEUE]).queues[0].oldest_task_age_s, what="the statistics")
    assert found > 80_000_000
