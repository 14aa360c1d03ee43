# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The health probes, against real sockets and a real HTTP server."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import OutOfTime, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._worker import process
from ansible_collections.queueops.fleet.plugins.module_utils._worker.api import WorkerProcess, WorkerSettings
from ansible_collections.queueops.fleet.plugins.module_utils._worker.health import wait_healthy
from ansible_collections.queueops.fleet.plugins.module_utils._worker.probes import HttpProbe, TcpProbe, longest_hold, read_probes
from ansible_collections.queueops.fleet.plugins.module_utils._worker.registry import open_manager
from ansible_collections.queueops.fleet.plugins.module_utils._worker.supervisor import Supervisor

from tests.unit.conftest import wait_for


class Steady(Supervisor):
    """One worker that runs all the time."""

    def workers(self) -> list[WorkerProcess]:
        return [WorkerProcess("mailer", 1, "running", version="1.0")]


@pytest.fixture
def manager() -> Steady:
    return Steady(WorkerSettings("supervisor", "mailer", "/opt/mailer"))


class Web:
    """An HTTP server whose answer is a status that a function of the seconds since its start gives."""

    def __init__(self) -> None:
        self.status: Callable[[float], int] = lambda _age: 200
        self.asked: list[str] = []
        begun = time.monotonic()
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                self.send_response(web.status(time.monotonic() - begun))
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert TcpProbe("127.0.0.1", port, 0).wrong() == ""
    assert f"127.0.0.1:{port}" in TcpProbe("127.0.0.1", port, 0).wrong()
    assert "no.such.host.invalid" in TcpProbe("no.such.host.invalid", 80, 0).wrong()


@pytest.mark.parametrize("status", [204, 302, 404, 503])
def test_http_wants_its_status_and_follows_nothing(web: Web, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    web.status = lambda _age: status
    assert HttpProbe(web.url + "/health", status, 0).wrong() == ""
    assert f"answers {status}, not 200" in HttpProbe(web.url + "/health", 200, 0).wrong()
    assert set(web.asked) == {"/health"}


def test_http_that_does_not_answer() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert "does not answer" in HttpProbe(f"http://127.0.0.1:{unused.getsockname()[1]}/", 200, 0).wrong()


def test_each_has_to_hold_for_its_own_time_without_a_break(manager: Steady, web: Web) -> None:
    begun = time.monotonic()
    wait_healthy(manager, "1.0", {"hold": 0, "http": [{"url": web.url, "hold": 0.6}]}, 5)
    assert time.monotonic() - begun >= 0.6
    # It breaks off once, half a second after it began to be watched: the time begins anew.
    broken_at = time.monotonic() - begun + 0.5
    web.status = lambda age: 503 if broken_at < age < broken_at + 0.3 else 200
    watched = time.monotonic()
    wait_healthy(manager, "1.0", {"hold": 0, "http": [{"url": web.url, "hold": 1.0}]}, 10)
    assert time.monotonic() - watched >= 1.5


def test_probe_that_does_not_hold_in_time_is_a_failure_with_words(manager: Steady, web: Web) -> None:
    web.status = lambda _age: 503
    with pytest.raises(OutOfTime, match="answers 503, not 200") as late:
        wait_healthy(manager, "1.0", {"hold": 0, "http": [{"url": web.url}]}, 0.3)
    assert late.value.details["workers"]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(OutOfTime, match=f"nobody accepts a connection at 127.0.0.1:{port}"):
            wait_healthy(manager, "1.0", {"hold": 0, "tcp": [{"port": port}]}, 0.3)
    web.status = lambda _age: 200
    wait_healthy(manager, "1.0", {"hold": 0, "http": [{"url": web.url}], "tcp": [{"port": web.server.server_port}]}, 5)


@pytest.mark.parametrize(
    ("health", "option"),
    [
        ({"tcp": [{"port": 0}]}, "worker.health.tcp"),
        ({"tcp": [{"port": 70000}]}, "worker.health.tcp"),
        ({"tcp": [{"port": 80, "hold": -1}]}, "worker.health.tcp"),
        ({"http": [{"url": "ftp://x/"}]}, "worker.health.http"),
        ({"http": [{"url": "/health"}]}, "worker.health.http"),
        ({"http": [{"url": "http://me:hush@localhost/"}]}, "worker.health.http"),
        ({"http": [{"url": "http://localhost/", "hold": -1}]}, "worker.health.http"),
        ({"hold": -1}, "worker.health.hold"),
    ],
)
def test_impossible_probes_are_refused_beforehand(health: dict[str, Any], option: str) -> None:
    with pytest.raises(Refused) as refused:
        open_manager({"manager": "supervisor", "unit": "mailer", "root": "/opt/mailer", "health": health})
    assert refused.value.option == option
    assert "hush" not in refused.value.sentence()


def test_longest_hold() -> None:
    assert longest_hold({}) == 2
    assert longest_hold({"hold": 1, "tcp": [{"port": 1, "hold": 7}], "http": [{"url": "http://x", "hold": 3}]}) == 7
    assert [type(probe) for probe in read_probes({"tcp": [{"port": 1}], "http": [{"url": "http://x"}]})] == [TcpProbe, HttpProbe]


@pytest.mark.parametrize(
    ("worker", "option"),
    [
        ({"quiet_signal": "KILL"}, "worker.quiet_signal"),
        ({"quiet_signal": "HELLO"}, "worker.quiet_signal"),
        ({"framework": "x"}, "worker.framework"),
    ],
)
def test_signals_that_cannot_quiet_are_refused(worker: dict[str, Any], option: str) -> None:
    with pytest.raises(Refused) as refused:
        open_manager({"manager": "supervisor", "unit": "mailer", "root": "/opt/mailer", **worker})
    assert refused.value.option == option


@pytest.mark.parametrize(
    ("worker", "name"),
    [
        ({}, None),
        ({"framework": "rq"}, None),
        ({"framework": "celery"}, None),
        ({"framework": "sidekiq"}, "SIGTSTP"),
        ({"framework": "sidekiq", "quiet_signal": "usr1"}, "SIGUSR1"),
        ({"quiet_signal": "SIGTERM"}, None),
    ],
)
def test_signal_that_quiets(worker: dict[str, Any], name: str | None) -> None:
    found = open_manager({"manager": "supervisor", "unit": "mailer", "root": "/opt/mailer", **worker}).settings.quiet_by()
    assert (found.name if found else None) == name


class Quieted(Steady):
    """One worker of Sidekiq that is told things, and ends when it is told to stop."""

    def __init__(self) -> None:
        super().__init__(WorkerSettings("supervisor", "mailer", "/opt/mailer", framework="sidekiq"))
        self.told: list[str] = []

    def workers(self) -> list[WorkerProcess]:
        return [WorkerProcess("mailer", 1, "stopped" if "stop" in self.told else "running", version="1.0")]

    def _signal(self, _worker: WorkerProcess, number: signal.Signals) -> None:
        self.told.append(number.name)

    def _begin_stop(self) -> None:
        self.told.append("stop")


def test_sidekiq_is_stopped_only_when_it_has_nothing_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    busy: list[int | None] = [1, 1, 1, 0]
    monkeypatch.setattr(process, "sidekiq_busy", lambda _pid: busy.pop(0) if len(busy) > 1 else busy[0])
    manager = Quieted()
    manager.quiet()
    manager.wait_stopped(5)
    assert (manager.told, busy) == (["SIGTSTP", "stop"], [0])
    # It does not end by itself: with a task that outlasts the time it is not stopped, and nobody says that it will end.
    busy[:] = [3]
    manager = Quieted()
    manager.quiet()
    with pytest.raises(OutOfTime) as late:
        manager.wait_stopped(0.2)
    assert manager.told == ["SIGTSTP"]
    assert late.value.still_true == "They take no new task"
    # One that has not begun has no handler for the signal, which would only freeze it.
    busy[:] = [None]
    manager = Quieted()
    manager.quiet()
    manager.wait_stopped(1)
    assert manager.told == ["stop"]


@pytest.mark.parametrize(
    ("title", "busy"),
    [
        ("sidekiq 6.4.1 app [0 of 5 busy]", 1),
        ("sidekiq 6.4.1 app [3 of 5 busy]", 3),
        ("sidekiq 6.4.1 app [2 of 5 busy] stopping", 2),
        ("sidekiq 6.4.1 app [0 of 5 busy] stopping", 0),
        ("ruby /usr/bin/sidekiq", None),
    ],
)
def test_sidekiqs_title_counts_only_when_it_is_of_after_the_quiet(title: str, busy: int | None) -> None:
    with subprocess.Popen([title, "60"], executable="/bin/sleep") as child:
        try:
            wait_for(lambda: b"60" in Path(f"/proc/{child.pid}/cmdline").read_bytes(), what="the process")
            assert process.sidekiq_busy(child.pid) == busy
        finally:
            child.kill()
    assert process.sidekiq_busy(child.pid) is None
