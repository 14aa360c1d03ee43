# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two fleets of one broker whose queues have the same name, each in a namespace of its own: what is done in one leaves the other alone.

Their redrives have the same name, too, as the roles give it: operations are numbered by each fleet for itself.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import amqp
import pytest
import redis
import rq
from ansible_collections.queueops.fleet.plugins.module_utils._flags.redis_store import RedisStore
from ansible_collections.queueops.fleet.plugins.module_utils._queue import drain, redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Look, PauseRequest, QueueBackend, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.fence import open_fence
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redis_connection import RedisConnection
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend
from ansible_collections.queueops.fleet.plugins.module_utils._route.flag import FlagRouter
from ansible_collections.queueops.fleet.plugins.module_utils._route.moving import moved
from ansible_collections.queueops.fleet.plugins.module_utils._route.nats import NatsRouter
from ansible_collections.queueops.fleet.plugins.module_utils._route.route import Apart, known, planned
from ansible_collections.queueops.fleet.plugins.module_utils._route.version_names import named
from nats.js.api import AckPolicy, ConsumerConfig

from tests.contract.common import QUEUE, source_of
from tests.contract.conftest import Servers
from tests.contract.rabbit import Died, Rabbit, dying_at
from tests.contract.rabbit_routes import KEYS, NEW, OLD, ROUTE, TEMPLATE, Publisher, divide, looked, router, taken
from tests.contract.servers.nats import NatsServer, program
from tests.contract.servers.rabbitmq import RabbitServer, open_server
from tests.contract.servers.redis import RedisServer, free_port
from tests.contract.system import System
from tests.contract.systems.bullmq import Bullmq
from tests.contract.systems.celery import CeleryRabbitmq, CeleryRedis
from tests.contract.systems.dramatiq import DramatiqRabbitmq, DramatiqRedis
from tests.contract.systems.nats import Nats
from tests.contract.systems.rabbitmq import Rabbitmq, RabbitmqQuorum
from tests.contract.systems.redis_list import RedisList
from tests.contract.systems.redis_stream import RedisStream
from tests.contract.systems.rq import Rq
from tests.contract.systems.sidekiq import Sidekiq
from tests.unit.conftest import wait_for

RUN, ME = "op-0001-rollback", PauseRequest("tests", "bad release")
QUEUED, FAILED = 6, 5


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where both fleets keep what has to outlive a run: they are driven from one host."""
    found = Path(tempfile.mkdtemp(prefix="qo-"))
    found.chmod(0o777)
    yield found
    shutil.rmtree(found, ignore_errors=True)


class Space(NamedTuple):
    """One namespace: how it is reached, and what the broker holds in it."""

    settings: dict[str, Any]
    contents: Callable[[], Any]


def seen(backend: QueueBackend) -> Any:
    """What a look tells that no clock changes."""
    found: Look = backend.look([QUEUE])
    (queue,) = found.queues
    return queue.queued, queue.executing, queue.failed, queue.dead_lettered, queue.paused, [worker.name for worker in found.workers]


def redriven(backend: QueueBackend, folder: Path, source: str, *rules: Rule, run: str = RUN, limit: int | None = None) -> int:
    """How many tasks were moved; all were that should be."""
    request = RedriveRequest(QUEUE, run=run, source=source, rules=rules or (Rule(),), state_dir=str(folder / "state"), limit=limit)
    report = redrive.redrive(backend, request, False)
    assert not report.skipped, report.skipped_because
    return report.moved


def goes_through_all(system: System, spaces: Sequence[Space], folder: Path) -> None:
    """Look, pause, redrive and park in one of two, then in the other under the same names; each leaves the other's tasks as they are."""
    source = source_of(system)
    for here, there in (spaces, spaces[::-1]):
        own, neighbour = open_backend(system.backend, here.settings), open_backend(system.backend, there.settings)
        before, told = there.contents(), seen(neighbour)
        assert told[0] is not None
        assert redriven(own, folder, source, Rule(action="park"), limit=2) == 2
        assert redriven(own, folder, source) == FAILED - 2
        pauses = "pause" in own.capabilities.can
        if pauses:
            assert own.pause([QUEUE], ME).changed
        assert seen(own)[0] == QUEUED + FAILED - 2 and bool(seen(own)[4]) is pauses
        assert drain.watch(own, [QUEUE], False, 20.0).drained
        assert (there.contents(), seen(neighbour)) == (before, told)
        if pauses:
            assert own.resume([QUEUE], ME.owner).changed
        assert redriven(own, folder, "parked", run="op-0002-deploy") == 2
        assert (there.contents(), seen(neighbour)) == (before, told)


# Redis: databases, and prefixes of keys

#: For each system the prefix of its own keys, another one as in the option ``key_prefix``, and as it then stands before the keys.
PREFIXES: dict[type[System], tuple[str, str, str]] = {
    Rq: ("rq:", "green", "green:"),
    Bullmq: ("bull:", "green", "green:"),
    DramatiqRedis: ("dramatiq:", "green", "green:"),
    Sidekiq: ("", "green", "green:"),
    CeleryRedis: ("", "green:", "green:"),
}


def contents(client: Any, prefix: bytes = b"") -> dict[bytes, Any]:
    """Every key with this prefix, as the server writes it down."""
    return {key: client.dump(key) for key in client.scan_iter(count=1000) if key.startswith(prefix)}


def copy_keys(client: Any, old: str, new: str, database: int) -> None:
    """Every task of one namespace in another as well, under the same ids: nothing but the namespace tells them apart."""
    for key in list(client.scan_iter(count=1000)):
        if not key.startswith(old.encode()):
            continue
        target = new.encode() + key[len(old) :]
        assert client.copy(key, target, destination_db=database, replace=True)
        if key.endswith(b"queues") and old != new and old:
            # RQ lists its queues by their whole keys.
            names = [name.replace(old.encode(), new.encode(), 1) for name in client.smembers(target)]
            client.delete(target)
            client.sadd(target, *names)


def fill(system: System) -> None:
    system.declare(QUEUE)
    system.fail(QUEUE, FAILED)
    system.publish(QUEUE, QUEUED)


@pytest.mark.parametrize("kind", [Rq, Bullmq, DramatiqRedis, Sidekiq, CeleryRedis, RedisList, RedisStream])
def test_two_databases_of_one_redis(servers: Servers, folder: Path, kind: type[System]) -> None:
    server = servers.get("redis7")
    server.clear()
    system: Any = kind(server, folder)
    try:
        fill(system)
        copy_keys(system.client, "", "", 1)
        spaces = []
        for number in (0, 1):
            settings = dict(system.settings(), url=server.url[:-1] + str(number))
            client = redis.Redis.from_url(settings["url"])
            spaces.append(Space(settings, partial(contents, client)))
        goes_through_all(system, spaces, folder)
    finally:
        system.close()


@pytest.mark.parametrize("kind", list(PREFIXES))
def test_two_prefixes_of_the_keys_of_one_database(servers: Servers, folder: Path, kind: type[System]) -> None:
    server = servers.get("redis7")
    server.clear()
    system: Any = kind(server, folder)
    old, option, new = PREFIXES[kind]
    try:
        fill(system)
        copy_keys(system.client, old, new, 0)
        client = system.client
        blue = Space(system.settings(), lambda: _others(client, new))
        green = Space(dict(system.settings(), key_prefix=option), lambda: contents(client, new.encode()))
        goes_through_all(system, (blue, green), folder)
    finally:
        system.close()


def _others(client: Any, prefix: str) -> dict[bytes, Any]:
    """Every key but those with this prefix and what redrives note."""
    return {key: told for key, told in contents(client).items() if not key.startswith((prefix.encode(), b"queueops:"))}


@pytest.mark.parametrize("kind", [CeleryRedis, Rq])
def test_workers_of_another_database_go_on_while_one_is_paused_and_drained(servers: Servers, folder: Path, kind: type[System]) -> None:
    server = servers.get("redis7")
    server.clear()
    assert isinstance(server, RedisServer)
    green = copy.copy(server)
    green.url = server.url[:-1] + "1"
    one_works_on(kind(server, part(folder, "blue")), kind(green, part(folder, "green")))


def part(folder: Path, name: str) -> Path:
    found = folder / name
    found.mkdir(mode=0o777)
    found.chmod(0o777)
    return found


def one_works_on(blue: System, green: System) -> None:
    """Pause and drain ``blue``, while a worker of ``green`` has a task in hand, and takes the next one."""
    try:
        for system in (blue, green):
            system.declare(QUEUE)
            system.start_worker(QUEUE)
        (held,) = green.publish(QUEUE, 1, "hold")
        wait_for(lambda: green.open().look([QUEUE]).queues[0].executing == 1, limit=40, what="the task in hand")
        assert blue.open().pause([QUEUE], ME).changed
        assert drain.watch(blue.open(), [QUEUE], False, 30.0).drained
        assert not drain.watch(green.open(), [QUEUE], False, 0.5).drained
        assert [queue.paused for system in (blue, green) for queue in system.open().look([QUEUE]).queues] == [True, False]
        # RQ may take one more, before it sees the pause.
        waiting = blue.publish(QUEUE, 2)
        green.gate.touch()
        (later,) = green.publish(QUEUE, 1)
        wait_for(lambda: green.done() == [held, later], limit=40, what="the tasks of the other namespace")
        assert blue.arrived(QUEUE) >= 1
        assert blue.open().resume([QUEUE], ME.owner).changed
        wait_for(lambda: blue.done() == waiting, limit=40, what="the tasks that waited")
    finally:
        blue.close()
        green.close()


def test_a_route_and_a_task_type_apart_in_one_database(servers: Servers, folder: Path) -> None:
    """With the flag at the broker, under one name in each database; the task type's queued tasks move in one alone."""
    server = servers.get("redis7")
    server.clear()
    news = Apart("task", "mailer.newsletter", "orders-news")
    spaces = []
    for number in (0, 1):
        url = server.url[:-1] + str(number)
        client: Any = redis.Redis.from_url(url)
        for name in (OLD, NEW, news.queue):
            client.sadd("rq:queues", f"rq:queue:{name}")
        for task in (news.task, "mailer.invoice"):
            for index in range(3):
                rq.Queue(OLD, connection=client).enqueue(task, job_id=f"{task[7:]}-{index}")
        store = RedisStore(RedisConnection({"url": url}), "flags")
        spaces.append((client, open_backend("rq", {"url": url}), FlagRouter("mailer", [store], open_backend("rq", {"url": url}))))
    (blue, backend, own), (green, _other, neighbour) = spaces
    own.apply(ROUTE, "targetingKey", planned(None, {"1.0.0": 50, "2.0.0": 50}, TEMPLATE))
    assert neighbour.look(ROUTE) is None
    neighbour.apply(ROUTE, "targetingKey", planned(None, {"1.0.0": 100}, TEMPLATE))
    before = contents(green)
    own.isolate(ROUTE, news)
    assert moved(backend, OLD, news.queue, news, str(folder), False) == 3
    assert (blue.llen(f"rq:queue:{OLD}"), blue.llen(f"rq:queue:{news.queue}")) == (3, 3)
    assert contents(green) == before and known(neighbour.look(ROUTE), ROUTE).apart == ()


# RabbitMQ: vhosts


@pytest.fixture(params=["rabbitmq3", "rabbitmq4"])
def vhosts(request: pytest.FixtureRequest, servers: Servers) -> Iterator[tuple[RabbitServer, RabbitServer]]:
    """One broker seen in each of two vhosts."""
    server = servers.get(request.param)
    assert isinstance(server, RabbitServer)
    if server._process is None:
        server.start()  # A test that failed has left it dead.
    yield server.within("blue"), server.within("green")
    for name in ("blue", "green"):
        server.ask("DELETE", "/api/vhosts/" + name)


@pytest.mark.parametrize("kind", [Rabbitmq, RabbitmqQuorum, DramatiqRabbitmq])
def test_two_vhosts_of_one_rabbitmq(vhosts: tuple[RabbitServer, RabbitServer], folder: Path, kind: type[System]) -> None:
    systems = [kind(vhost, folder) for vhost in vhosts]
    try:
        for system in systems:
            fill(system)
        spaces = [Space(system.settings(), partial(whole, system)) for system in systems]
        goes_through_all(systems[0], spaces, folder)
    finally:
        for system in systems:
            system.close()


def whole(system: System) -> Any:
    """What is in which queue of the vhost, and in which order."""
    return system.dump(), system.identities(QUEUE)


def test_workers_of_another_vhost_go_on_while_one_is_paused_and_drained(vhosts: tuple[RabbitServer, RabbitServer], folder: Path) -> None:
    one_works_on(*(CeleryRabbitmq(vhost, part(folder, vhost.vhost)) for vhost in vhosts))


def test_a_run_that_died_is_finished_in_its_own_vhost(vhosts: tuple[RabbitServer, RabbitServer], folder: Path) -> None:
    a_run_that_died_is_finished(*(Rabbit(vhost, folder) for vhost in vhosts))


@pytest.mark.parametrize("kind", ["rabbitmq3"])
def test_a_run_that_died_is_finished_at_its_own_broker(servers: Servers, folder: Path, tmp_path: Path, kind: str) -> None:
    """Two brokers of one host that drives both: their vhosts and queues have the same names."""
    server, other = servers.get(kind), open_server(kind, tmp_path)
    assert isinstance(server, RabbitServer) and isinstance(other, RabbitServer)
    server.clear()
    other.start()
    try:
        a_run_that_died_is_finished(Rabbit(server, folder), Rabbit(other, folder))
    finally:
        other.kill()


def a_run_that_died_is_finished(blue: Rabbit, green: Rabbit) -> None:
    """Each of its tasks is redriven once, although the other fleet's run of the same name ran in between, with the same ledgers' folder."""
    ids = {rabbit: [f"{name}-{number}" for number in range(50)] for name, rabbit in (("blue", blue), ("green", green))}
    for rabbit, tasks in ids.items():
        rabbit.classic.declare(QUEUE)
        rabbit.fill(QUEUE + ".dead", tasks)
    with pytest.raises(Died):
        redrive.redrive(dying_at(blue.open(), 2), blue.request(run=RUN), False)
    assert green.redriven(run=RUN).moved == 50
    assert green.ids(QUEUE) == ids[green]
    blue.redriven(run=RUN)
    assert blue.ids(QUEUE) == ids[blue] and blue.depth(QUEUE + ".dead") == 0


def test_a_route_and_a_task_type_apart_in_one_vhost(vhosts: tuple[RabbitServer, RabbitServer], folder: Path) -> None:
    blue, green = (Rabbit(vhost, folder) for vhost in vhosts)
    for rabbit in (blue, green):
        for queue in (OLD, NEW, "orders-news"):
            rabbit.make(queue)
    divide(blue, {"1.0.0": 50, "2.0.0": 50})
    assert router(green).look(ROUTE) is None
    divide(green, {"1.0.0": 100, "2.0.0": 0})
    news = Apart("task", "orders.newsletter", "orders-news")
    for rabbit in (blue, green):
        publisher = Publisher(rabbit)
        publisher.publish(KEYS[:50], headers={"task": news.task})
        publisher.publish(KEYS[50:100], headers={"task": "orders.invoice"})
        publisher.close()
    router(blue).isolate(ROUTE, news)
    counts = [moved(blue.open(), queue, news.queue, news, str(folder / "state"), False) for queue in (OLD, NEW)]
    assert sum(counts) == 50 and sorted(taken(blue, news.queue)) == sorted(KEYS[:50])
    assert looked(green).apart == () and looked(green).weights() == {"1.0.0": 100, "2.0.0": 0}
    assert (taken(green, OLD), taken(green, NEW), taken(green, news.queue)) == (KEYS[:100], [], [])


def test_a_version_s_user_may_use_the_vhosts_of_the_user_that_it_is_like(vhosts: tuple[RabbitServer, RabbitServer]) -> None:
    """Users are the broker's: shutting one out leaves the other fleet's alone as long as each fleet's users have names of their own."""
    blue, _green = vhosts
    users = {"mailer-blue": "blue", "mailer-green": "green"}
    try:
        for user, vhost in users.items():
            blue.ask("PUT", "/api/users/" + user, {"password": "swordfish", "tags": ""})
            blue.ask("PUT", "/api/permissions/%s/%s" % (vhost, user), {"configure": "", "write": ".*", "read": ".*"})
        fence = open_fence({"url": blue.url, "management_url": blue.management})
        for user in users:
            fence.let_in(user + "-2.0.0", user)
        for user, vhost in users.items():
            assert [logs_in(blue, user + "-2.0.0", other) for other in users.values()] == [other == vhost for other in users.values()]
        fence.shut_out("mailer-blue-2.0.0")
        assert not logs_in(blue, "mailer-blue-2.0.0", "blue")
        assert logs_in(blue, "mailer-green-2.0.0", "green") and fence.is_like("mailer-green-2.0.0", "mailer-green")
    finally:
        for user in users:
            for name in (user, user + "-2.0.0"):
                with suppress(urllib.error.HTTPError):
                    blue.ask("DELETE", "/api/users/" + name)


def logs_in(server: RabbitServer, user: str, vhost: str) -> bool:
    connection = amqp.Connection("127.0.0.1:%d" % server.port, userid=user, password="swordfish", virtual_host=vhost, connect_timeout=30)
    try:
        connection.connect()
    except (amqp.exceptions.AccessRefused, amqp.exceptions.NotAllowed, OSError):
        return False
    connection.close()
    return True


# NATS: accounts, and subjects

ACCOUNTS = """accounts {
  BLUE { jetstream: enabled, users: [{user: blue, password: pw}], mappings = { include "blue.route" } }
  GREEN { jetstream: enabled, users: [{user: green, password: pw}], mappings = { include "green.route" } }
}
http: "127.0.0.1:%d"
pid_file: "%s/pid"
"""


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[tuple[NatsServer, NatsServer]]:
    """One server seen by the users of two accounts."""
    for name in ("blue", "green"):
        (tmp_path / (name + ".route")).write_text("")
    (tmp_path / "monitor").write_text(str(free_port()))
    more = ACCOUNTS % (int((tmp_path / "monitor").read_text()), tmp_path)
    blue = NatsServer("nats", tmp_path, more, url="nats://blue:pw@127.0.0.1:PORT")
    blue.start()
    green = copy.copy(blue)
    green.url = blue.url.replace("blue", "green")
    yield blue, green
    blue.kill()


def test_two_accounts_of_one_nats(accounts: tuple[NatsServer, NatsServer], folder: Path) -> None:
    systems = [Nats(account, part(folder, name)) for name, account in zip(("blue", "green"), accounts, strict=True)]
    for system in systems:
        fill(system)
    goes_through_all(systems[0], [Space(system.settings(), partial(whole, system)) for system in systems], folder)


@pytest.mark.parametrize("kind", ["nats"])
def test_two_prefixes_of_subjects_in_one_account(servers: Servers, folder: Path, kind: str) -> None:
    server = servers.get(kind)
    server.clear()
    blue, green = Nats(server, folder), Nats(server, folder)
    green.stream, green.root = "GREEN", "green"
    for system in (blue, green):
        fill(system)
    goes_through_all(blue, [Space(system.settings(), partial(held_by, system)) for system in (blue, green)], folder)


def held_by(system: Nats) -> Any:
    """What a queue's own streams hold, and its consumer."""
    info = system._info(QUEUE)
    ids = [json.loads(message.data)["id"] for message in system._stored(QUEUE, system.stream, system.dead(QUEUE))]
    return system.native(QUEUE), ids, info.delivered, info.ack_floor, info.config.metadata


def test_redrives_of_one_name_go_on_in_two_accounts_at_a_time(accounts: tuple[NatsServer, NatsServer], folder: Path) -> None:
    blue, green = (Nats(account, part(folder, name)) for name, account in zip(("blue", "green"), accounts, strict=True))
    for system in (blue, green):
        fill(system)
    request = RedriveRequest(QUEUE, run=RUN, state_dir=str(folder / "state"))
    going_on = blue.open().open_store(request, False)
    try:
        assert redriven(green.open(), folder, "failed") == FAILED
    finally:
        going_on.close()
    assert redriven(blue.open(), folder, "failed") == FAILED


def test_a_route_in_one_account(accounts: tuple[NatsServer, NatsServer], tmp_path: Path) -> None:
    monitor = "http://127.0.0.1:" + (tmp_path / "monitor").read_text()
    routers = []
    for name, account in zip(("blue", "green"), accounts, strict=True):
        account.ask(make_versions)
        own = {"mappings": str(tmp_path / (name + ".route")), "config": str(tmp_path / "nats.conf"), "pid_file": str(tmp_path / "pid")}
        server = dict(own, monitor=monitor, account=name.upper(), program=program())
        routers.append(NatsRouter({"url": account.url}, server))
    for one, weights in zip(routers, ({"1.0.0": 0, "2.0.0": 100}, {"1.0.0": 100, "2.0.0": 0}), strict=True):
        change = planned(one.look("orders"), weights, "ORDERS-{version}/worker", (), partial(named, backend="nats"))
        assert change.before is None
        one.preflight("orders", "subject", change)
        one.apply("orders", "subject", change)
    assert [dict(known(one.look("orders"), "orders").weights()) for one in routers] == [
        {"1.0.0": 0, "2.0.0": 100},
        {"1.0.0": 100, "2.0.0": 0},
    ]
    assert [account.ask(publish_one) for account in accounts] == ["ORDERS-2_0_0", "ORDERS-1_0_0"]


async def make_versions(client: Any) -> None:
    for version in ("1_0_0", "2_0_0"):
        await client.jetstream().add_stream(name=f"ORDERS-{version}", subjects=[f"orders-{version}.>"])
        await client.jetstream().add_consumer(f"ORDERS-{version}", ConsumerConfig(durable_name="worker", ack_policy=AckPolicy.EXPLICIT))


async def publish_one(client: Any) -> str:
    """The stream that took a task of the route."""
    return str((await client.jetstream().publish("orders.7.task", b"x")).stream)
