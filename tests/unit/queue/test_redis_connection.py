# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the on-call reads when the broker cannot be asked, from real servers that refuse in each way."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._queue.addresses import masked
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import PauseRequest, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import BACKENDS, open_backend

from tests.contract.servers.certificates import Authority
from tests.unit.conftest import RedisServer, find_redis_server, wait_for

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def start() -> Iterator[Callable[..., RedisServer]]:
    """Starts servers of their own, with extra arguments."""
    servers: list[tuple[RedisServer, str]] = []

    def begin(*extra: str, files: dict[str, bytes] | None = None) -> RedisServer:
        folder = tempfile.mkdtemp(prefix="qo-")
        for name, content in (files or {}).items():
            Path(folder, name).write_bytes(content)
        server = RedisServer(Path(folder))
        servers.append((server, folder))
        server.start(*extra)
        # The socket is there a moment before anybody listens on it.
        wait_for(lambda: _listens(server.socket), what="the server")
        return server

    yield begin
    for server, folder in servers:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def look(url: str, **settings: Any) -> Any:
    return open_backend("rq", {"url": url, **settings}).look()


def test_unknown_backend_names_the_known_ones() -> None:
    with pytest.raises(Refused) as caught:
        open_backend("sidekick", {"url": "redis://x"})
    assert caught.value.option == "backend"
    assert all(name in caught.value.sentence() for name in BACKENDS)


def test_every_backend_opens_and_says_what_it_can_do(redis_server: RedisServer) -> None:
    on_redis = {"bullmq", "celery", "dramatiq", "redis_list", "redis_stream", "rq", "sidekiq"}
    for name in sorted(on_redis & set(BACKENDS)):
        backend = open_backend(name, {"url": redis_server.url})
        assert backend.capabilities.system == name
        missing = set(backend.capabilities.instead) & set(backend.capabilities.can)
        assert not missing, "says what to use instead of what it can do"
        assert backend.look(["nothing"], missing_ok=True).queues[0].queued in (0, None)


@pytest.mark.parametrize("url", ["", "broker:6379", "http://broker", "redis://broker:port/0"])
def test_a_wrong_url(url: str) -> None:
    with pytest.raises(Refused) as caught:
        look(url)
    assert caught.value.option == "url"


def test_nobody_there() -> None:
    for url in ("redis://:geheim@127.0.0.1:1/0", "unix:///nowhere/redis.sock?password=geheim"):
        with pytest.raises(Unavailable) as caught:
            look(url)
        text = caught.value.sentence()
        assert caught.value.option == "url" and caught.value.retryable
        assert "geheim" not in text and "***" in text and "Could not look at the queues" in text


def test_passwords_are_masked() -> None:
    assert masked("redis://user:geh@eim@broker:6379/0") == "redis://***@broker:6379/0"
    assert masked("unix:///x.sock?db=0&password=geheim") == "unix:///x.sock?db=0&password=***"
    assert masked("redis://broker:6379/0") == "redis://broker:6379/0"


def test_wrong_and_right_password(start: Callable[..., RedisServer]) -> None:
    url = start("--requirepass", "geheim").url
    for settings in ({}, {"password": "falsch"}, {"username": "nobody", "password": "geheim"}):
        with pytest.raises(Refused, match="user name or password") as caught:
            look(url, **settings)
        assert caught.value.option == "password" and "falsch" not in caught.value.sentence()
    assert look(url, password="geheim").queues == []


def test_a_user_without_permission(start: Callable[..., RedisServer]) -> None:
    url = start().url
    client = redis.Redis.from_url(url)
    may = ["+@read", "+time", "+multi", "+exec", "+ping"]
    client.acl_setuser("watcher", enabled=True, passwords=["+pw"], keys=["*"], commands=may)
    client.sadd("rq:queues", "rq:queue:mail")
    assert [state.name for state in look(url, username="watcher", password="pw").queues] == ["mail"]  # Reading is all a look needs.
    with pytest.raises(Refused, match="may not do this") as caught:
        open_backend("rq", {"url": url, "username": "watcher", "password": "pw"}).pause(["mail"], PauseRequest("me"))
    assert caught.value.option == "username"
    assert client.exists("rq:suspended") == 0


def test_a_replica_may_be_looked_at_but_not_changed(start: Callable[..., RedisServer]) -> None:
    url = start().url
    redis.Redis.from_url(url).replicaof("127.0.0.1", 1)
    assert look(url).queues == []
    for change in (
        lambda: open_backend("rq", {"url": url}).pause(["mail"], PauseRequest("me")),
        lambda: redrive(open_backend("rq", {"url": url}), RedriveRequest("mail")),
        lambda: redrive(open_backend("redis_list", {"url": url}), RedriveRequest("mail")),
    ):
        with pytest.raises(Refused, match="read-only replica") as caught:
            change()
        assert caught.value.option == "url" and "primary" in caught.value.sentence()


def test_still_loading(start: Callable[..., RedisServer]) -> None:
    server = start()
    client = redis.Redis.from_url(server.url)
    for number in range(200):
        client.set("k%d" % number, os.urandom(100000))
    client.save()
    dump = Path(server.socket).parent.joinpath("dump.rdb").read_bytes()
    # Every 2 MB it answers those who ask meanwhile: here about twice a second, for about four seconds.
    slow = start("--key-load-delay", "20000", files={"dump.rdb": dump})

    def refused() -> FleetError | None:
        try:
            look(slow.url)
        except FleetError as error:
            return error
        return None

    error = wait_for(refused, what="the refusal")
    assert isinstance(error, Unavailable) and "loading its data" in error.message and error.retryable


def test_keys_of_another_kind(redis_server: RedisServer) -> None:
    client = redis.Redis.from_url(redis_server.url)
    client.sadd("rq:queues", "rq:queue:mail")
    client.set("rq:queue:mail", "no list")
    with pytest.raises(Refused, match="not of the kind") as caught:
        look(redis_server.url)
    assert caught.value.option == "backend"


def test_no_such_database(redis_server: RedisServer) -> None:
    with pytest.raises(Refused, match="no such database number"):
        look("unix://%s?db=99" % redis_server.socket)


def test_full_memory_moves_nothing_half(start: Callable[..., RedisServer]) -> None:
    url = start().url
    client = redis.Redis.from_url(url)
    client.rpush("mail:failed", *range(50))
    client.sadd("rq:queues", "rq:queue:mail")
    for number in range(5):
        client.hset("rq:job:%d" % number, mapping={"status": "failed", "origin": "mail", "data": "x"})
        client.zadd("rq:failed:mail", {str(number): 1})
    client.config_set("maxmemory", "1")
    for name in ("rq", "redis_list"):
        # One can still look.
        assert open_backend(name, {"url": url}).look(["mail"]).queues[0].failed in (5, 50)
        with pytest.raises(Unavailable, match="refuses writes") as caught:
            redrive(open_backend(name, {"url": url}), RedriveRequest("mail"))
        assert caught.value.details["moved"] == 0
    assert client.llen("mail:failed") == 50 and client.zcard("rq:failed:mail") == 5
    assert client.llen("mail") == client.llen("rq:queue:mail") == 0
    assert client.hget("rq:job:0", "status") == b"failed"


def test_the_library_is_missing() -> None:
    """Without site-packages Python has no redis, as on a host where nobody installed it."""
    script = (
        "from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend\n"
        "try:\n    open_backend('rq', {'url': 'redis://x'})\n"
        "except Exception as error:\n    print(error.code, error.option, error.sentence())\n"
    )
    run = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PYTHONPATH": str(REPOSITORY / "build"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.startswith("missing_library backend Host ")
    assert "python3-redis" in run.stdout and "-m pip install redis" in run.stdout and sys.executable in run.stdout


def test_tls_options_without_tls_are_refused() -> None:
    with pytest.raises(Refused) as caught:
        look("redis://broker", tls_ca="/ca.pem")
    assert caught.value.option == "tls_ca"


def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    """A TLS server with a certificate of its own making; it never gets as far as speaking Redis."""
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-subj", "/CN=broker"]
    subprocess.run(make, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _index in range(2):
                connection, _peer = listener.accept()
                with connection:
                    try:
                        context.wrap_socket(connection, server_side=True).close()
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = "rediss://127.0.0.1:%d/0" % listener.getsockname()[1]
        with pytest.raises(Refused, match="TLS failed") as caught:
            look(url)
        assert caught.value.option == "tls_ca"
        with pytest.raises(Unavailable):  # Not checked, it gets further.
            look(url, tls_verify=False)
        thread.join(10)
    with pytest.raises(Refused) as caught:
        look("rediss://127.0.0.1:1/0", tls_ca=str(tmp_path / "nothing.pem"))
    assert caught.value.option == "tls_ca"


def test_tls_is_checked_against_the_authority_and_the_name(start: Callable[..., RedisServer], tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    certificate, key = ours.sign("localhost")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = {"--tls-cert-file": certificate, "--tls-key-file": key, "--tls-ca-cert-file": ours.file}
    options = [word for option, file in files.items() for word in (option, str(file))]
    start("--tls-port", str(port), "--tls-auth-clients", "no", "--requirepass", "hush", *options)
    url = "rediss://localhost:%d/0" % port
    assert look(url, password="hush", tls_ca=str(ours.file)).queues == []
    for refused, authority in ((url, theirs.file), (url.replace("localhost", "127.0.0.1"), ours.file)):
        with pytest.raises(Refused, match="TLS failed") as caught:
            look(refused, password="hush", tls_ca=str(authority))
        assert caught.value.option == "tls_ca"
    with pytest.raises(Refused) as wrong:
        look(url, password="loud", tls_ca=str(ours.file))
    assert wrong.value.option == "password"


class Sentinels:
    """A primary, its replica, and a sentinel that watches them, each on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self.primary, self.replica, self.sentinel = (self._start() for _index in range(3))

    def _start(self) -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        lines = ["port %d" % port, "bind 127.0.0.1", "dir %s" % self._folder, 'save ""', "dbfilename %d.rdb" % port]
        command = [find_redis_server(), str(self._folder / ("%d.conf" % port))]
        if len(self._processes) == 1:
            lines.append("replicaof 127.0.0.1 %d" % next(iter(self._processes)))
        elif len(self._processes) == 2:
            lines = [*lines[:3], "sentinel monitor mail 127.0.0.1 %d 1" % next(iter(self._processes))]
            lines += ["sentinel down-after-milliseconds mail 500", "sentinel failover-timeout mail 2000"]
            command.append("--sentinel")
        Path(command[1]).write_text("\n".join(lines) + "\n")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0 or process.poll() is not None, what="a listening server")
        if process.poll() is not None:
            # Somebody else has taken the port meanwhile.
            return self._start()
        self._processes[port] = process
        return port

    def kill(self, port: int) -> None:
        self._processes[port].kill()
        self._processes[port].wait(10)

    def close(self) -> None:
        for port in self._processes:
            self.kill(port)


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    found = Sentinels(tmp_path)
    yield found
    found.close()


def test_the_primary_is_found_by_sentinels_before_and_after_a_failover(sentinels: Sentinels) -> None:
    client = redis.Redis(port=sentinels.primary)
    failed_tasks(client, 3)
    wait_for(lambda: client.info("replication").get("slave0", {}).get("state") == "online", what="the replica", limit=60)
    asked: Any = redis.Redis(port=sentinels.sentinel)
    wait_for(lambda: asked.sentinel_master("mail")["num-slaves"] == 1, what="the sentinel's knowledge", limit=40)
    # The first one does not answer, and is passed over.
    url = "redis+sentinel://127.0.0.1:1,127.0.0.1:%d/mail/0" % sentinels.sentinel
    backend = open_backend("rq", {"url": url})
    assert backend.look(["mail"]).queues[0].failed == 3
    assert redrive(backend, RedriveRequest("mail", limit=1, run="r1")).moved == 1
    replica = redis.Redis(port=sentinels.replica)
    wait_for(lambda: replica.zcard("rq:failed:mail") == 2, what="the replica's catching up", limit=60)
    sentinels.kill(sentinels.primary)
    wait_for(lambda: asked.sentinel_master("mail")["port"] == sentinels.replica, what="the failover", limit=60)
    wait_for(lambda: replica.info("replication")["role"] == "master", what="the new primary", limit=60)
    # What was marked and moved before is so on the new primary.
    assert redrive(backend, RedriveRequest("mail", run="r1")).moved == 2
    assert backend.look(["mail"]).queues[0].queued == 3
    with pytest.raises(Unavailable, match="know no primary of that name") as caught:
        look(url.replace("/mail/", "/letters/"))
    assert caught.value.option == "url"


@pytest.mark.parametrize("url", ["redis+sentinel://host", "redis+sentinel://host:26379/", "redis+sentinel://host:port/mail/0"])
def test_a_wrong_sentinel_url(url: str) -> None:
    with pytest.raises(Refused) as caught:
        look(url)
    assert caught.value.option == "url"


def failed_tasks(client: Any, count: int) -> None:
    client.sadd("rq:queues", "rq:queue:mail")
    for number in range(count):
        client.hset("rq:job:%d" % number, mapping={"status": "failed", "origin": "mail", "data": "x"})
        client.zadd("rq:failed:mail", {str(number): 1})


def test_a_cluster_is_refused_by_name(tmp_path: Path) -> None:
    port = 65536
    while port + 10000 > 65535:  # The cluster's own port is 10,000 above.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
    command = [find_redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--cluster-enabled", "yes", "--dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, what="the server")
        url = "redis://127.0.0.1:%d/0" % port
        with pytest.raises(Refused, match="this is a Redis Cluster") as caught:
            look(url)  # It has no slots yet, as one that is down.
        assert "sentinel" in caught.value.sentence()
        client: Any = redis.Redis(port=port)
        client.execute_command("CLUSTER", "ADDSLOTSRANGE" if redis_major() >= 7 else "ADDSLOTS", 0, 16383)
        with pytest.raises(Refused, match="this is a Redis Cluster"):
            open_backend("rq", {"url": url}).pause(["mail"], PauseRequest("tests"))
    finally:
        process.kill()
        process.wait(10)


def redis_major() -> int:
    told = subprocess.run([find_redis_server(), "--version"], capture_output=True, text=True, check=True).stdout
    return int(told.split("v=")[1].split(".")[0])


def test_a_server_that_evicts_keys_is_said_and_refused_when_nearly_full(start: Callable[..., RedisServer]) -> None:
    url = start().url
    client = redis.Redis.from_url(url)
    failed_tasks(client, 5)
    client.config_set("maxmemory-policy", "allkeys-lru")
    assert redrive(open_backend("rq", {"url": url}), RedriveRequest("mail", limit=1)).warnings == []  # Without limit it never evicts.
    client.config_set("maxmemory", "1gb")
    report = redrive(open_backend("rq", {"url": url}), RedriveRequest("mail", limit=1))
    assert report.moved == 1 and "maxmemory-policy allkeys-lru" in report.warnings[0]
    client.config_set("maxmemory-policy", "volatile-lru")
    report = redrive(open_backend("rq", {"url": url}), RedriveRequest("mail", rules=(Rule(action="park"),), limit=1))
    assert report.moved == 1 and "maxmemory-policy volatile-lru" in report.warnings[0]  # RQ lets failed tasks expire.
    assert redrive(open_backend("rq", {"url": url}), RedriveRequest("mail", source="parked")).warnings == []
    client.config_set("maxmemory-policy", "allkeys-lru")
    # Enough in it that the rest is more than what a connection takes.
    client.set("ballast", b"x" * 20_000_000)
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.05))
    with pytest.raises(Refused, match="evicts any key") as caught:
        redrive(open_backend("rq", {"url": url}), RedriveRequest("mail"))
    assert "noeviction" in caught.value.sentence() and client.zcard("rq:failed:mail") == 2
