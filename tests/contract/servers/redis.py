# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis 7 of this host, and Redis 8 and Valkey 8 of a Debian 13 root folder, each on a port of its own."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import redis

from tests.contract.servers.trixie import trixie_command, trixie_root
from tests.contract.system import Server
from tests.unit.conftest import wait_for


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _redis7() -> list[str]:
    """The server of version 7: on PATH, or the one named by QUEUEOPS_REDIS_SERVER."""
    seen = []
    for program in (shutil.which("redis-server"), os.environ.get("QUEUEOPS_REDIS_SERVER")):
        if not program:
            continue
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        seen.append("%s: %s" % (program, told.strip()))
        if re.search(r"v=7\.", told):
            return [program]
    raise RuntimeError("no redis-server of version 7 on PATH or in QUEUEOPS_REDIS_SERVER; seen: %s" % (seen or "none"))


def server_command(kind: str) -> list[str]:
    """The command line of the server program, without its options."""
    if kind == "redis7":
        return _redis7()
    return trixie_command([{"redis8": "redis-server", "valkey8": "valkey-server"}[kind]])


class RedisServer(Server):
    """One server on a loopback port. Nothing is saved but when it is stopped in order, or after :meth:`persist` all of it, always.

    :ivar client: connected to database 0.
    """

    troubles = MappingProxyType(
        {
            "starting": "still loading its data",
            "read_only": "too few replicas",
            "replica": "read-only replica",
            "out_of_memory": "refuses writes",
        }
    )

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.port = free_port()
        self.url = "redis://127.0.0.1:%d/0" % self.port
        self.client: Any = redis.Redis(port=self.port)
        # Inside a root folder of its own the server does not see ours.
        self._folder = str(folder) if kind == "redis7" else "/tmp"
        self._append_only = (folder if kind == "redis7" else trixie_root() / "tmp") / ("queueops-%d" % self.port)
        self._process: subprocess.Popen[bytes] | None = None
        self._appends = False

    @contextmanager
    def in_trouble(self, name: str) -> Iterator[None]:
        if name == "starting":
            yield from self._loading()
            return
        begin, end = {
            "read_only": (("CONFIG", "SET", "min-replicas-to-write", 1), ("CONFIG", "SET", "min-replicas-to-write", 0)),
            "replica": (("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE")),
            "out_of_memory": (("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0)),
        }[name]
        self.client.execute_command(*begin)
        try:
            yield
        finally:
            self.client.execute_command(*end)

    def _loading(self) -> Iterator[None]:
        """It loads a key in a tenth of a second, and answers meanwhile that it does."""
        ballast = ["ballast-%d" % number for number in range(25)]
        self.client.mset({name: os.urandom(2000) for name in ballast})
        self.stop()
        self._launch("--key-load-delay", "100000", "--loading-process-events-interval-bytes", "1024")
        wait_for(self._loads, what="the loading")
        try:
            yield
        finally:
            wait_for(self._answers, what="the end of the loading")
            self.client.config_set("key-load-delay", 0)
            self.client.delete(*ballast)

    def _loads(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2) as probe:
            # Not by the client, which asks again until it has loaded.
            probe.sendall(b"PING\r\n")
            return probe.recv(100).startswith(b"-LOADING")
        return False

    def _launch(self, *more: str) -> None:
        name = "queueops-%d" % self.port
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._folder, "--appenddirname", name]
        options += ["--dbfilename", name + ".rdb", "--enable-debug-command", "local"]
        options += ["--appendonly", "yes" if self._appends else "no", "--appendfsync", "always"]
        command = [*server_command(self.kind), *options, *more]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def start(self) -> None:
        self._launch()
        wait_for(self._answers, what="an answer of %s" % self.kind)
        version = self.client.info("server")
        assert str(version.get("valkey_version", version["redis_version"])).startswith(self.kind[-1] + "."), version

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "%s ended with %s" % (self.kind, self._process.returncode)
        with suppress(redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError):
            return bool(self.client.ping())
        return False

    def stop(self) -> None:
        if self._process is None:
            return
        with suppress(redis.exceptions.ConnectionError):
            self.client.shutdown(save=True)
        self.client.close()
        self._process.wait(30)
        self._process = None

    def persist(self) -> None:
        """An append-only file, synced before each answer."""
        self.client.config_set("appendonly", "yes")
        self._appends = True
        wait_for(self._appended, limit=60, what="the append-only file")

    def _appended(self) -> bool:
        told = self.client.info("persistence")
        return bool(told["aof_enabled"] and not told["aof_rewrite_in_progress"] and not told["aof_rewrite_scheduled"])

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def clear(self) -> None:
        if self._appends:
            self.client.config_set("appendonly", "no")
            self._appends = False
            shutil.rmtree(self._append_only)
        self.client.flushall()
        self.client.script_flush()


def open_server(kind: str, folder: Path) -> Server:
    """A server of ``kind`` (redis7, redis8, valkey8), not started yet."""
    return RedisServer(kind, folder)
