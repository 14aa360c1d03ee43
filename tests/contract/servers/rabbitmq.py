# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RabbitMQ 3 of this host and RabbitMQ 4 of a Debian 13 root folder, with management and shovel, each on ports of its own."""

from __future__ import annotations

import atexit
import base64
import copy
import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote

import amqp

from tests.contract.system import Server
from tests.unit.conftest import wait_for

PLUGINS = "[rabbitmq_management,rabbitmq_shovel,rabbitmq_shovel_management,rabbitmq_consistent_hash_exchange]."
#: Statistics are this old at most (ms); the server's own default is 5000.
STATISTICS_MS = 250


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RabbitServer(Server):
    """One node on loopback.

    :ivar management: the url of its management API, of user guest.
    :ivar vhost: the one in which queues are meant, as a part of a path.
    :ivar tls: a folder with ca.pem, server.pem and server.key; then it also listens with TLS at ``tls_port``. Set before start.
    """

    troubles = MappingProxyType({"starting": "[Cc]onnection refused", "out_of_memory": "memory"})

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.port, self.tls_port, self._dist, self._http, self._epmd = (free_port() for _number in range(5))
        self.url = "amqp://guest:guest@127.0.0.1:%d/" % self.port
        self.management = "http://127.0.0.1:%d" % self._http
        self.vhost = "%2F"
        self.tls: Path | None = None
        self._new = kind == "rabbitmq4"
        self._name = "qo%d@localhost" % self.port
        if self._new:
            from tests.contract.servers.trixie import trixie_root

            self._root = trixie_root()
            self._inside = "/tmp/rabbit-%d" % self.port
            self._folder = self._root / self._inside[1:]
        else:
            self._root, self._inside, self._folder = Path("/"), str(folder), folder
        self._process: subprocess.Popen[bytes] | None = None
        # A test session that breaks off leaves neither a node nor its data behind.
        atexit.register(self.remove)

    def _program(self) -> str:
        found = sorted((self._root / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-%s.*/sbin/rabbitmq-server" % self.kind[-1]))
        if not found:
            raise RuntimeError("no RabbitMQ %s under %s: install rabbitmq-server" % (self.kind[-1], self._root))
        return "/" + str(found[-1].relative_to(self._root))

    def start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "plugins").write_text(PLUGINS)
        lines = [
            "listeners.tcp.default = 127.0.0.1:%d" % self.port,
            "management.tcp.ip = 127.0.0.1",
            "management.tcp.port = %d" % self._http,
            "collect_statistics_interval = %d" % STATISTICS_MS,
            "vm_memory_high_watermark.absolute = 2GB",
            "disk_free_limit.absolute = 50MB",
            "log.file.level = warning",
        ]
        if self.tls is not None:
            for name in ("ca.pem", "server.pem", "server.key"):
                shutil.copy(self.tls / name, self._folder / name)
            lines += [
                "listeners.ssl.default = 127.0.0.1:%d" % self.tls_port,
                "ssl_options.cacertfile = %s/ca.pem" % self._inside,
                "ssl_options.certfile = %s/server.pem" % self._inside,
                "ssl_options.keyfile = %s/server.key" % self._inside,
            ]
        (self._folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        command = self._command(self._program())
        with (self._folder / "out").open("ab") as out:
            # A session of its own: the Erlang node is stopped as one group.
            self._process = subprocess.Popen(
                command, env=self._settings(), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        wait_for(self._answers, limit=90, what="an answer of %s" % self.kind)
        version = self.ask("GET", "/api/overview")["rabbitmq_version"]
        assert version.startswith(self.kind[-1] + "."), version

    def _settings(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "HOME": self._inside,
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_DIST_PORT": str(self._dist),
            "ERL_EPMD_PORT": str(self._epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": self._inside + "/data",
            "RABBITMQ_LOG_BASE": self._inside + "/log",
            "RABBITMQ_PID_FILE": self._inside + "/pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self._inside + "/plugins",
            "RABBITMQ_CONFIG_FILE": self._inside + "/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": self._inside + "/none",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _command(self, *command: str) -> list[str]:
        if self._new:
            from tests.contract.servers.trixie import trixie_command

            return trixie_command(list(command))
        return list(command)

    def ctl(self, *arguments: str) -> str:
        """What rabbitmqctl answers. It asks the queues themselves."""
        program = str(Path(self._program()).with_name("rabbitmqctl"))
        command = self._command(program, "--quiet", *arguments)
        return subprocess.run(command, env=self._settings(), capture_output=True, text=True, check=True, timeout=60).stdout

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "%s ended: %s" % (self.kind, (self._folder / "out").read_text()[-2000:])
        with suppress(OSError, amqp.exceptions.AMQPError):
            self.connection().close()
            self.ask("GET", "/api/overview")
            return True
        return False

    def connection(self) -> Any:
        """A connection of the client library, open."""
        found = amqp.Connection(
            "127.0.0.1:%d" % self.port,
            userid="guest",
            password="guest",
            virtual_host=unquote(self.vhost),
            connect_timeout=30,
            read_timeout=30,
        )
        found.connect()
        return found

    def within(self, vhost: str) -> RabbitServer:
        """The same server, in a vhost of this name, which is made if it is missing and is empty."""
        found = copy.copy(self)
        found.vhost, found.url = vhost, self.url + vhost
        with suppress(urllib.error.HTTPError):
            self.ask("DELETE", "/api/vhosts/" + vhost)
        self.ask("PUT", "/api/vhosts/" + vhost)
        self.ask("PUT", "/api/permissions/%s/guest" % vhost, {"configure": ".*", "write": ".*", "read": ".*"})
        return found

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the management API; the decoded answer, None if it is empty."""
        request = urllib.request.Request(self.management + path, method=method)
        request.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
        data = None
        if body is not None:
            request.add_header("Content-Type", "application/json")
            data = json.dumps(body).encode()
        with urllib.request.urlopen(request, data, timeout=20) as answer:
            told = answer.read()
        return json.loads(told) if told else None

    def queues(self) -> list[str]:
        """The names of the queues in the vhost, exact at this moment."""
        return [entry["name"] for entry in self.ask("GET", "/api/queues/%s?disable_stats=true&columns=name" % self.vhost)]

    def depth(self, queue: str) -> int:
        """How many messages are ready in a queue at this moment."""
        with self.connection() as connection:
            return int(connection.channel().queue_declare(queue, passive=True).message_count)

    def settle(self, count: int) -> None:
        """A queue counts what it has read of its log so far."""
        wait_for(lambda: sum(map(self.depth, self.queues())) >= count, limit=60, what="the broker to have read its log")

    @contextmanager
    def in_trouble(self, name: str) -> Iterator[None]:
        if name == "starting":
            self.ctl("stop_app")
            try:
                yield
            finally:
                self.ctl("start_app")
                wait_for(self._answers, limit=90, what="an answer of %s" % self.kind)
            return
        self.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            wait_for(self._alarmed, what="the alarm")
            yield
        finally:
            self.ctl("set_vm_memory_high_watermark", "absolute", "2GB")
            wait_for(lambda: not self._alarmed(), what="the end of the alarm")

    def _alarmed(self) -> bool:
        return bool(self.ask("GET", "/api/nodes")[0].get("mem_alarm"))

    def _group(self, number: int) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def stop(self) -> None:
        """SIGTERM, which the node answers by an orderly stop."""
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self.kill()

    def persist(self) -> None:
        """By a restart: what was published without confirms, as dead letters are, and queues made just now are not synced yet."""
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL the node and its port mapper."""
        if self._process is None:
            return
        self._group(signal.SIGKILL)
        self._process.wait(30)
        self._process = None
        self._end_port_mapper()

    def _end_port_mapper(self) -> None:
        """The port mapper daemon leaves the group; it is known by its port."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if (
                        b"epmd" in (entry / "cmdline").read_bytes()
                        and b"ERL_EPMD_PORT=%d\0" % self._epmd in (entry / "environ").read_bytes()
                    ):
                        os.kill(int(entry.name), signal.SIGKILL)

    def clear(self) -> None:
        for name in self.queues():
            with suppress(urllib.error.HTTPError):
                self.ask("DELETE", "/api/queues/%s/" % self.vhost + quote(name, safe=""))
        for policy in self.ask("GET", "/api/policies/%s" % self.vhost):
            self.ask("DELETE", "/api/policies/%s/" % self.vhost + quote(policy["name"], safe=""))
        for exchange in self.ask("GET", "/api/exchanges/%s?disable_stats=true&columns=name" % self.vhost):
            if exchange["name"] and not exchange["name"].startswith("amq."):
                self.ask("DELETE", "/api/exchanges/%s/" % self.vhost + quote(exchange["name"], safe=""))

    def remove(self) -> None:
        """End it, and remove what it wrote into the root folder."""
        self.kill()
        if self._new:
            shutil.rmtree(self._folder, ignore_errors=True)


def open_server(kind: str, folder: Path) -> Server:
    """A server of ``kind`` (rabbitmq3, rabbitmq4), not started yet."""
    return RabbitServer(kind, folder)
