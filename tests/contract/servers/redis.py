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
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis

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
    from tests.contract.servers.trixie import trixie_command

    return trixie_command([{"redis8": "redis-server", "valkey8": "valkey-server"}[kind]])


class RedisServer(Server):
    """One server on a loopback port. Nothing is saved but when it is stopped in order.

    :ivar client: connected to database 0.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.port = free_port()
        self.url = "redis://127.0.0.1:%d/0" % self.port
        self.client: Any = redis.Redis(port=self.port)
        # Inside a root folder of its own the server does not see ours.
        self._folder = str(folder) if kind == "redis7" else "/tmp"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._folder]
        options += ["--dbfilename", "queueops-%d.rdb" % self.port, "--enable-debug-command", "local"]
        command = [*server_command(self.kind), *options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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

    def clear(self) -> None:
        self.client.flushall()
        self.client.script_flush()


def open_server(kind: str, folder: Path) -> Server:
    """A server of ``kind`` (redis7, redis8, valkey8), not started yet."""
    return RedisServer(kind, folder)
