# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every contract test runs over every queue system on each of its servers, or over those named by ``--systems rq,sidekiq@redis7``.

A name is a system's class or its backend, in any case. A system whose server cannot start fails its tests.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract import systems
from tests.contract.system import Server, System
from tests.unit.conftest import _redis, redis_server

# The fixtures of a Redis of one's own, for what is special to one system.
__all__ = ["_redis", "redis_server"]


#: The sample looks at every system, and runs the rest over one system of each broker; each system's own tests redrive it there.
LONG = ("test_conservation", "test_drain", "test_errors", "test_kill", "test_redrive", "test_restart", "test_troubles")
SAMPLED = ("Rq", "RabbitmqQuorum", "Nats", "Procrastinate")


#: Which server the tests of one system alone use, by the fixture that opens it; Redis 7 if it is none of these.
OWN = {
    "here": "nats",
    "accounts": "nats",
    "own": "postgresql15",
    "rabbit": "rabbitmq3",
    "celery-rabbitmq": "rabbitmq3",
    "on_rabbitmq": "rabbitmq3",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--systems", default="", help="queue systems to test, as rq,sidekiq@redis7,@nats (default, or QUEUEOPS_SYSTEMS: all)")


def all_systems() -> list[type[System]]:
    """Every system class of the folder ``systems``, by name."""
    found: dict[str, type[System]] = {}
    for module in pkgutil.iter_modules(systems.__path__):
        loaded = importlib.import_module("%s.%s" % (systems.__name__, module.name))
        for name, kind in inspect.getmembers(loaded, inspect.isclass):
            if issubclass(kind, System) and kind.__module__ == loaded.__name__ and not inspect.isabstract(kind):
                found[name] = kind
    return [found[name] for name in sorted(found)]


def chosen_systems(wanted: str) -> list[tuple[type[System], str]]:
    """Each chosen class with each of its chosen servers."""
    names = [name.strip().lower() for name in wanted.split(",") if name.strip()]
    pairs = [(kind, server) for kind in all_systems() for server in kind.servers]
    if not names:
        return pairs
    chosen = []
    for kind, server in pairs:
        own = ("", kind.__name__.lower(), kind.backend.lower())
        if any(name in own or name in ["%s@%s" % (one, server) for one in own] for name in names):
            chosen.append((kind, server))
    if not chosen:
        raise pytest.UsageError("--systems %s names none of: %s" % (wanted, ", ".join("%s@%s" % (k.__name__.lower(), s) for k, s in pairs)))
    return chosen


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "system" not in metafunc.fixturenames:
        return
    named = metafunc.config.getoption("--systems", default="")
    pairs = chosen_systems(named or os.environ.get("QUEUEOPS_SYSTEMS", ""))
    if os.environ.get("QUEUEOPS_SAMPLE") and not named and metafunc.module.__name__.endswith(LONG):
        pairs = [pair for pair in pairs if pair[0].__name__ in SAMPLED]
    ids = ["%s@%s" % (kind.__name__.lower(), server) for kind, server in pairs]
    metafunc.parametrize("system", pairs, ids=ids, indirect=True)


def server_of(item: pytest.Function, kinds: set[str]) -> str:
    """Which of ``kinds`` of servers a test uses."""
    given: dict[str, Any] = dict(item.callspec.params) if hasattr(item, "callspec") else {}
    if "system" in given:
        return str(given["system"][1])
    names = [value for value in given.values() if isinstance(value, str)] + list(item.fixturenames)
    return next((OWN.get(name, name) for name in names if name in kinds or name in OWN), "redis7")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """Leave the tests of one server (QUEUEOPS_PART), and in the sample those of the servers that belong to it.

    ``rabbitmq3/systems`` are those that run over every queue system there, ``rabbitmq3/own`` are the others.
    """
    part, _slash, half = os.environ.get("QUEUEOPS_PART", "").partition("/")
    sampled = os.environ.get("QUEUEOPS_SAMPLE")
    wanted = {part} if part else {name.lstrip("@") for name in os.environ.get("QUEUEOPS_SYSTEMS", "").split(",")} if sampled else None
    if wanted is None:
        return
    kinds = {kind for system in all_systems() for kind in system.servers}
    ours: list[pytest.Function] = []
    others: list[pytest.Function] = []
    for item in items:
        of_half = half in ("", "systems" if "system" in item.fixturenames else "own")
        (ours if of_half and server_of(item, kinds) in wanted else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = ours


class Servers:
    """The servers of this session, each started when it is first asked for."""

    def __init__(self) -> None:
        # A short folder: the path of a unix socket is limited to 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="qo-"))
        self._folder.chmod(0o755)
        self._running: dict[str, Server] = {}
        self._failed: dict[str, str] = {}

    def get(self, kind: str) -> Server:
        if kind in self._failed:
            pytest.fail("%s could not be started: %s" % (kind, self._failed[kind]))
        if kind not in self._running:
            family = re.sub(r"\d+$", "", kind).replace("valkey", "redis")
            folder = self._folder / kind
            folder.mkdir()
            folder.chmod(0o777)
            try:
                server: Server = importlib.import_module("tests.contract.servers." + family).open_server(kind, folder)
                server.start()
            except BaseException as problem:
                self._failed[kind] = "%s: %s" % (type(problem).__name__, problem)
                raise
            self._running[kind] = server
        return self._running[kind]

    def stop(self) -> None:
        for server in self._running.values():
            # In order it would take some of them ten seconds to keep what nobody wants any more.
            server.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """``servers.get("redis7")`` is a started server, shared by the session."""
    found = Servers()
    yield found
    found.stop()


@pytest.fixture
def system(request: pytest.FixtureRequest, servers: Servers) -> Iterator[System]:
    """One queue system on one empty server."""
    kind, server_kind = request.param
    server = servers.get(server_kind)
    server.clear()
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    folder.chmod(0o777)  # Some workers run as another user.
    found: System = kind(server, folder)
    try:
        yield found
    finally:
        found.close()
        shutil.rmtree(folder, ignore_errors=True)
