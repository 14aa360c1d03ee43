# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is special about RabbitMQ: quorum queues, dead-letter settings, properties, permissions, TLS, a broker that takes no messages."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import amqp
import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict, NotFound, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_connection import AmqpConnection
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_link import Link
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_message import AmqpMessage
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, QueueBackend, RedriveReport, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

from tests.contract.conftest import Servers
from tests.contract.servers.rabbitmq import RabbitServer
from tests.contract.systems.rabbitmq import Rabbitmq, RabbitmqQuorum
from tests.unit.conftest import wait_for

QUEUE, DEAD = "mail", "mail.dead"


class Marker:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


class Fixture:
    """One server, both types of queues."""

    def __init__(self, server: RabbitServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.classic, self.quorum = Rabbitmq(server, folder), RabbitmqQuorum(server, folder)

    def open(self, **more: Any) -> QueueBackend:
        return open_backend("rabbitmq", dict(self.classic.settings(), **more))

    def redriven(self, *rules: Rule, check: bool = False, settings: dict[str, Any] | None = None, **more: Any) -> RedriveReport:
        options: dict[str, Any] = {"state_dir": str(self.folder / "state"), "queue": QUEUE, **more}
        return redrive(self.open(**(settings or {})), RedriveRequest(rules=rules or (Rule(),), **options), check)

    def put(self, queue: str, *messages: amqp.Message) -> None:
        with self.server.connection() as connection:
            channel = connection.channel()
            channel.confirm_select()
            for message in messages:
                channel.basic_publish_confirm(message, routing_key=queue, mandatory=True)

    def make(self, queue: str, **arguments: Any) -> None:
        with self.server.connection() as connection:
            connection.channel().queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)

    def depth(self, queue: str) -> int:
        with self.server.connection() as connection:
            return int(connection.channel().queue_declare(queue, passive=True).message_count)

    def ids(self, queue: str) -> list[str]:
        return [str(message.properties["message_id"]) for message in self.classic.contents(queue)]


@pytest.fixture(params=["rabbitmq3", "rabbitmq4"])
def rabbit(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Fixture]:
    server = servers.get(request.param)
    assert isinstance(server, RabbitServer)
    server.clear()
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    found = Fixture(server, folder)
    yield found
    found.classic.close()
    found.quorum.close()
    shutil.rmtree(folder)


def test_a_hundred_looks_at_a_quorum_queue_count_no_delivery(rabbit: Fixture) -> None:
    rabbit.make(QUEUE, **{"x-queue-type": "quorum", "x-delivery-limit": 3})
    ids = rabbit.quorum.publish(QUEUE, 5)
    backend = rabbit.open()
    for _round in range(100):
        assert backend.look([QUEUE]).queues[0].queued == 5
    found = rabbit.quorum.contents(QUEUE)
    assert [message.properties["message_id"] for message in found] == ids
    assert [(message.headers or {}).get("x-delivery-count", 0) for message in found] == [0] * 5


def test_choosing_from_a_quorum_queue_burns_no_delivery_limit(rabbit: Fixture) -> None:
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


def test_check_with_match_on_a_quorum_queue_is_refused(rabbit: Fixture) -> None:
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


def test_what_no_rule_takes_stays_at_its_place_in_a_classic_queue(rabbit: Fixture) -> None:
    rabbit.classic.declare(QUEUE)
    ids = rabbit.classic.fail(QUEUE, 12)
    report = rabbit.redriven(Rule(Match(ids=(ids[3], ids[8]))))
    assert report.moved == 2
    assert rabbit.ids(QUEUE) == [ids[3], ids[8]]
    assert rabbit.ids(DEAD) == [task for task in ids if task not in (ids[3], ids[8])]


def test_few_are_chosen_from_many(rabbit: Fixture) -> None:
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
        wait_for(lambda: rabbit.depth(DEAD) == 4500, what="the messages")
        backend = rabbit.open()
        request = RedriveRequest(
            QUEUE, rules=(Rule(Match(ids=("t00007", "t04400"))),), state_dir=str(rabbit.folder / system.kind), run="few"
        )
        assert redrive(backend, request).moved == 2
        assert (rabbit.depth(DEAD), sorted(rabbit.ids(QUEUE))) == (4498, ["t00007", "t04400"])


def test_everything_of_a_message_is_kept(rabbit: Fixture) -> None:
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


def test_payloads_are_passed_on_untouched(rabbit: Fixture) -> None:
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


def test_where_failed_tasks_are_is_found_by_policy_and_bindings_or_asked_for(rabbit: Fixture) -> None:
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


def test_a_dead_letter_queue_that_serves_several_queues(rabbit: Fixture) -> None:
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


def test_a_destination_that_would_drop_tasks_is_refused(rabbit: Fixture) -> None:
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


def test_a_queue_that_tasks_came_from_and_that_is_gone(rabbit: Fixture) -> None:
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


def test_a_run_that_was_begun_elsewhere_is_not_begun_again(rabbit: Fixture) -> None:
    rabbit.classic.declare(QUEUE)
    rabbit.classic.fail(QUEUE, 2)
    rabbit.make("queueops.redrive.r1", **{"x-queue-type": "classic", "x-max-length": 1, "x-expires": 7 * 24 * 3600 * 1000})
    rabbit.put("queueops.redrive.r1", amqp.Message("4"))
    with pytest.raises(Conflict) as caught:
        rabbit.redriven(run="r1")
    assert "state_dir" in (caught.value.next_step or "")
    assert rabbit.depth(DEAD) == 2
    assert rabbit.redriven(run="r2").moved == 2
    assert sorted(rabbit.server.queues()) == sorted([QUEUE, DEAD, "queueops.redrive.r1"])


def test_a_broker_that_takes_no_messages(rabbit: Fixture) -> None:
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


def test_a_user_who_may_not(rabbit: Fixture) -> None:
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


def test_vhosts_and_several_nodes(rabbit: Fixture) -> None:
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


def test_without_management_what_is_not_known_is_null(rabbit: Fixture) -> None:
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


def dying_at(end: Callable[[], None], opened: Any, number: int, batch: int = 20) -> Any:
    """``open_store`` of small batches, whose commit of that number is sent to a broker that ends meanwhile."""

    def store(request: RedriveRequest, check: bool) -> Any:
        found = opened(request, check)
        found.batch = batch
        link = found._link
        commit, commits = link.commit, []

        def commit_or_die() -> None:
            commits.append(1)
            if len(commits) == number:
                link.begin_commit()
                end()
                link.end_commit()
            commit()

        link.commit = commit_or_die
        return found

    return store


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_broker_killed_in_the_middle_loses_nothing(rabbit: Fixture, kind: str) -> None:
    """SIGKILL of the broker itself: it forgets acknowledgements, and what it had not confirmed is told by the queues' lengths."""
    system = rabbit.classic if kind == "classic" else rabbit.quorum
    queue = "killed-" + kind
    dead = queue + ".dead"
    system.declare(queue)
    # By a publisher that has them confirmed: of dead letters a broker that is killed forgets the last ones by itself.
    ids = ["t%03d" % number for number in range(300)]
    rabbit.put(dead, *[system.message(task, "note") for task in ids])
    # A broker that is killed also forgets a quorum queue that it made a few seconds ago.
    rabbit.server.stop()
    rabbit.server.start()
    wait_for(lambda: rabbit.depth(dead) == 300, limit=60, what="the broker to have read its log")
    backend: Any = rabbit.open()
    backend.open_store = dying_at(rabbit.server.kill, backend.open_store, 6)
    request = RedriveRequest(queue, run="k1", state_dir=str(rabbit.folder / "state"))
    with pytest.raises(Unavailable) as caught:
        redrive(backend, request)
    rabbit.server.start()
    assert 0 < caught.value.details["moved"] < 300
    # A quorum queue counts what it has read of its log so far.
    wait_for(lambda: rabbit.depth(dead) + rabbit.depth(queue) >= 300, limit=60, what="the broker to have read its log")
    redrive(rabbit.open(), request)
    assert Counter(rabbit.ids(queue)) == Counter(ids) and rabbit.depth(dead) == 0


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_broker_restarted_in_the_middle_of_a_hundred_thousand(rabbit: Fixture, kind: str) -> None:
    system = rabbit.classic if kind == "classic" else rabbit.quorum
    queue, count = "many-" + kind, 100_000
    dead = queue + ".dead"
    system.declare(queue)
    ids = ["t%06d" % number for number in range(count)]
    fill(rabbit, dead, ids)
    backend: Any = rabbit.open()
    backend.open_store = dying_at(rabbit.server.stop, backend.open_store, 30, 1000)
    request = RedriveRequest(queue, run="k1", state_dir=str(rabbit.folder / "state"))
    with pytest.raises(Unavailable) as caught:
        redrive(backend, request)
    rabbit.server.start()
    assert caught.value.details["moved"] == 29_000 and "29000 tasks are known to be moved" in caught.value.sentence()
    assert caught.value.next_step
    wait_for(lambda: rabbit.depth(dead) + rabbit.depth(queue) >= count, limit=60, what="the broker to have read its log")
    redrive(rabbit.open(), request)
    assert rabbit.depth(dead) == 0 and rabbit.depth(queue) == count
    assert Counter(drained(rabbit, queue, count)) == Counter(ids)


def fill(rabbit: Fixture, queue: str, ids: list[str]) -> None:
    """Publish that many messages quickly."""
    link = Link(AmqpConnection({"url": rabbit.server.url}), "fill")
    body, blank = link.frames(b"{}"), AmqpMessage(0, False, b"", b"")
    for number, task in enumerate(ids, 1):
        link.publish(queue, blank.rewritten({}, properties={"message_id": task, "delivery_mode": 2}), body, 2)
        if number % 2000 == 0 or number == len(ids):
            link.commit()
    link.close()


def drained(rabbit: Fixture, queue: str, count: int) -> list[str]:
    """The ids of so many messages, taken out quickly."""
    link = Link(AmqpConnection({"url": rabbit.server.url}), "drain")
    link.consume(queue, 5000)
    found: list[str] = []
    while len(found) < count:
        messages = link.receive(2000, 10.0)
        assert messages, "only %d messages came" % len(found)
        found += [message.prop("message_id") for message in messages]
        link.ack(messages[-1].tag, multiple=True)
        link.commit()
    link.close()
    return found


def test_tls(rabbit: Fixture, tmp_path: Path) -> None:
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


def test_workers_are_known_by_their_connections(rabbit: Fixture) -> None:
    rabbit.classic.declare(QUEUE)
    worker = rabbit.classic.start_worker(QUEUE, "3.1.4")

    def seen() -> Any:
        return [found for found in rabbit.open().look([QUEUE]).workers if found.version == "3.1.4"]

    (found,) = wait_for(seen, what="the worker")
    assert (found.pid, found.queues, found.state) == (worker.pid, [QUEUE], "idle")
    assert found.started is not None


def test_the_age_of_the_oldest_task(rabbit: Fixture) -> None:
    rabbit.classic.declare(QUEUE)
    rabbit.put(QUEUE, rabbit.classic.message("a", "note", timestamp=1700000000))
    found = wait_for(lambda: rabbit.open().look([QUEUE]).queues[0].oldest_task_age_s, what="the statistics")
    assert found > 80_000_000


def test_the_ledger_holds_identities_alone(rabbit: Fixture) -> None:
    rabbit.classic.declare(QUEUE)
    ids = rabbit.classic.fail(QUEUE, 3)
    rabbit.redriven(run="r1")
    lines = [json.loads(line) for line in (rabbit.folder / "state" / "redrive" / "r1.jsonl").read_text().splitlines()]
    assert next(line["ids"] for line in lines if "plan" in line) == ids
    assert lines[-1] == {"closed": lines[-1]["closed"]}
    assert not any("someone" in str(line) or "kind" in str(line) for line in lines)
