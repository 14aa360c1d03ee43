# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL 15 of this host and 17 of a Debian 13 root folder, each on a port of its own. It refuses to run as root."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import psycopg

from tests.contract.servers.trixie import trixie_command, trixie_root
from tests.contract.system import Server
from tests.unit.conftest import wait_for

PASSWORD = "postgres-pw-1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _programs(kind: str) -> Path:
    """The folder of the server's programs, as they are on this host or in the root folder."""
    return Path("/usr/lib/postgresql") / kind[len("postgresql") :] / "bin"


class PostgresqlServer(Server):
    """One cluster with the database ``test``, which asks for a password."""

    troubles = MappingProxyType({"starting": "still starting", "read_only": "read-only database", "replica": "read-only replica"})

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.port = free_port()
        self.url = "postgresql://postgres:%s@127.0.0.1:%d/test" % (PASSWORD, self.port)
        # Inside a root folder of its own the server does not see ours; there is room for its files where both see them.
        self._root = None if kind == "postgresql15" else trixie_root()
        self._folder = folder if self._root is None else self._root / "tmp" / ("queueops-%d" % self.port)
        self._programs = _programs(kind)
        if self._root is None and not (self._programs / "postgres").exists():
            raise RuntimeError("there is no %s; install the Debian package postgresql-15" % (self._programs / "postgres"))
        self._process: subprocess.Popen[bytes] | None = None
        if self._root is not None:
            atexit.register(shutil.rmtree, self._folder, ignore_errors=True)

    def _command(self, program: str, *options: str) -> list[str]:
        """The command line of one of its programs, as the user that may run it."""
        command = [str(self._programs / program), *options]
        if os.getuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        return command if self._root is None else trixie_command(command)

    def _seen(self, path: Path) -> str:
        """Where the server sees a file of ours."""
        return str(path) if self._root is None else "/" + str(path.relative_to(self._root))

    def _make(self) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD + "\n")
        options = ["-U", "postgres", "-A", "scram-sha-256", "--pwfile", self._seen(password), "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        command = self._command("initdb", "-D", self._seen(self._data), *options)
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise RuntimeError("initdb: %s" % made.stderr)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def start(self) -> None:
        fresh = not self._data.exists()
        if fresh:
            self._folder.mkdir(exist_ok=True)
            if os.getuid() == 0:
                # Its user's number is another one in another root folder.
                passwords = (self._root or Path("/")) / "etc" / "passwd"
                (number,) = re.findall(r"^postgres:[^:]*:(\d+):", passwords.read_text(), re.M)
                os.chown(self._folder, int(number), -1)
            self._make()
        self._launch()
        wait_for(lambda: self._answers("postgres"), limit=40, what="an answer of %s" % self.kind)
        if fresh:
            self.run("CREATE DATABASE test", "postgres")
        with psycopg.connect(self.url) as connection:
            assert connection.info.server_version // 10000 == int(self.kind[len("postgresql") :])

    def _launch(self, *more: str) -> None:
        options = ["-p", str(self.port), "-h", "127.0.0.1", "-k", self._seen(self._folder), "-c", "fsync=off", "-c", "max_connections=50"]
        with open(self._folder / "log", "ab") as log:
            command = self._command("postgres", "-D", self._seen(self._data), *options, *more)
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    @contextmanager
    def in_trouble(self, name: str) -> Iterator[None]:
        if name == "read_only":
            self.run("ALTER DATABASE test SET default_transaction_read_only = on", "postgres")
            try:
                yield
            finally:
                self.run("ALTER DATABASE test RESET default_transaction_read_only", "postgres")
            return
        # A replica that has no primary; without hot standby it says that it is not ready yet.
        self.stop()
        (self._data / "standby.signal").touch()
        if name == "replica":
            self.start()
        else:
            self._launch("-c", "hot_standby=off")
            wait_for(self._is_starting, limit=40, what="the beginning of its start")
        try:
            yield
        finally:
            self.stop()
            (self._data / "standby.signal").unlink()
            self.start()

    def _is_starting(self) -> bool:
        try:
            self.run("SELECT 1", "postgres")
        except psycopg.OperationalError as problem:
            return "hot standby mode is disabled" in str(problem).lower()
        return False

    def run(self, statement: str, database: str = "test") -> None:
        with psycopg.connect(self.url.replace("/test", "/" + database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def _answers(self, database: str) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        with suppress(psycopg.OperationalError):
            self.run("SELECT 1", database)
            return True
        return False

    def stop(self) -> None:
        if self._process is None:
            return
        # SIGINT: those who are connected are sent away, and everything is written down.
        self._process.send_signal(2)
        self._process.wait(30)
        self._process = None

    def kill(self) -> None:
        """SIGKILL it and the processes it forked. It does not sync (fsync=off), which only an end of the whole host would show."""
        if self._process is None:
            return
        listed = Path("/proc/%d/task/%d/children" % (self._process.pid, self._process.pid))
        for pid in [self._process.pid, *map(int, listed.read_text().split())]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(30)
        self._process = None

    def clear(self) -> None:
        self.run("DROP SCHEMA public CASCADE")
        self.run("CREATE SCHEMA public")


def open_server(kind: str, folder: Path) -> Server:
    """A server of ``kind`` (postgresql15, postgresql17), not started yet."""
    return PostgresqlServer(kind, folder)
