# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources besides the queue, against real servers and real commands; Prometheus itself is in the contract tests."""

from __future__ import annotations

import http.server
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._judge.source import Answer
from ansible_collections.queueops.fleet.plugins.module_utils._judge.sources import open_source

from tests.contract.servers.certificates import Authority
from tests.unit.conftest import wait_for
from tests.unit.http_server import Server

SECRET = "hunter2"


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


def ask(kind: str, wants_number: bool = True, **options: Any) -> Answer:
    return open_source(kind, options, wants_number).ask()


def error_of(kind: str, wants_number: bool = True, **options: Any) -> FleetError:
    with pytest.raises(FleetError) as caught:
        ask(kind, wants_number, **options)
    assert SECRET not in caught.value.sentence()
    return caught.value


def vector(*samples: Any) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": "vector", "result": [{"metric": {}, **sample} for sample in samples]}}


# -- HTTP -----------------------------------------------------------------------------------------------------------------------------


def test_a_status_judges(server: Server) -> None:
    url = server.url + "/health?key=" + SECRET
    assert ask("http", False, url=url) == Answer("%s/health answers 200" % server.url, outcome="pass")
    for status in (204, 302, 404, 503):
        server.says(status, b"")
        assert ask("http", False, url=url) == Answer("%s/health answers %d, not 200" % (server.url, status), outcome="fail")
        assert ask("http", False, url=url, status=status).outcome == "pass"
    assert {path for _method, path, _headers, _body in server.seen} == {"/health?key=" + SECRET}  # No redirect was followed.


@pytest.mark.parametrize(
    ("body", "field", "value"),
    [
        ({"latency": {"p95": 0.25}}, "latency.p95", 0.25),
        ([{"value": 3}, {"value": 4}], "1.value", 4.0),
        ({"zero": 0}, "zero", 0.0),
        ({"p95": "0.25"}, "p95", None),
        ({"p95": True}, "p95", None),
        ({"p95": None}, "p95", None),
        ({"p95": [1]}, "p95", None),
        ({"p50": 1}, "p95", None),
        ([1], "1", None),
        (3, "p95", None),
        (b'{"p95": NaN}', "p95", None),
        (b'{"p95": 1e999}', "p95", None),
        (b"not JSON", "p95", None),
        (b"", "p95", None),
    ],
)
def test_a_number_in_json_or_none(server: Server, body: Any, field: str, value: float | None) -> None:
    server.says(200, body)
    found = ask("http", url=server.url, field=field)
    assert (found.value, found.outcome) == (value, None) and found.said


def test_a_wrong_status_has_no_number(server: Server) -> None:
    server.says(503, {"p95": 0.1})
    error = error_of("http", url=server.url + "/stats?key=" + SECRET, field="p95")
    assert isinstance(error, Unavailable) and "answers 503, not 200" in error.message
    server.says(503, {"p95": 0.1})
    assert ask("http", url=server.url, field="p95", status=503).value == 0.1


def test_who_does_not_answer_is_not_there(server: Server) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        closed = "http://127.0.0.1:%d/?key=%s" % (nobody.getsockname()[1], SECRET)
        assert isinstance(error_of("http", False, url=closed), Unavailable)
        nobody.listen()
        began = time.monotonic()
        assert isinstance(error_of("http", False, url=closed, timeout=0.3), Unavailable)
        assert time.monotonic() - began < 5
    assert isinstance(error_of("http", False, url="http://nowhere.invalid/"), Unavailable)

    def cut(request: http.server.BaseHTTPRequestHandler) -> None:
        request.connection.shutdown(socket.SHUT_RDWR)

    server.answer = cut
    assert isinstance(error_of("http", False, url=server.url), Unavailable)


def test_an_answer_without_end_is_cut_off(server: Server) -> None:
    stop, began = threading.Event(), time.monotonic()

    def dribble(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not stop.is_set() and time.monotonic() < began + 10:
            try:
                request.wfile.write(b"x")
            except OSError:
                return
            stop.wait(0.05)

    server.answer = dribble
    error = error_of("http", url=server.url, field="p95", timeout=0.5)
    stop.set()
    assert isinstance(error, Unavailable) and "did not end" in error.message and time.monotonic() - began < 5
    server.says(200, b" " * (1024 * 1024 + 1))
    assert "more than" in error_of("http", url=server.url, field="p95").message


def test_who_asks_says_who_it_is_and_no_message_does(server: Server) -> None:
    server.says(500, b"")
    ask("http", False, url=server.url, username="me", password=SECRET, headers={"X-Scope-OrgID": 7})
    ask("http", False, url=server.url, token=SECRET)
    first, second = (headers for _method, _path, headers, _body in server.seen)
    assert first["authorization"] == "Basic bWU6aHVudGVyMg==" and first["x-scope-orgid"] == "7"
    assert second["authorization"] == "Bearer " + SECRET
    assert isinstance(error_of("http", url=server.url, field="a", token=SECRET, password=SECRET), Unavailable)
    error = error_of("http", False, url="http://me:%s@127.0.0.1/" % SECRET)
    assert isinstance(error, Refused) and "http.username" in error.sentence()


@pytest.mark.parametrize(
    "options",
    [
        {"token": SECRET + "\n"},
        {"token": SECRET + "\u20ac"},
        {"headers": {"X-Key": SECRET + "\r\n"}},
        {"url": "http://127.0.0.1:9/?key=%s x" % SECRET},
        {"url": "http://127.0.0.1:9/?key=%s\u20ac" % SECRET},
    ],
)
def test_what_http_does_not_allow_is_refused_and_not_repeated(options: dict[str, Any]) -> None:
    error = error_of("http", False, **{"url": "http://127.0.0.1:9/", **options})
    assert isinstance(error, Refused) and error.__cause__ is None and error.option == "http"


def test_certificates_are_checked(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign("localhost"))
    server = Server(context)
    try:
        url = "https://localhost:%d/" % server.port
        assert isinstance(error_of("http", False, url=url), Unavailable)
        assert ask("http", False, url=url, tls_ca=str(authority.file)).outcome == "pass"
        assert ask("http", False, url=url, tls_verify=False).outcome == "pass"
        error = error_of("http", False, url=url, tls_ca=str(tmp_path / "gone.pem"))
        assert isinstance(error, Refused) and error.option == "http.tls_ca"
    finally:
        server.close()


@pytest.mark.parametrize(
    ("kind", "wants_number", "options", "option"),
    [
        ("http", False, {"url": "ftp://x/"}, "http.url"),
        ("http", False, {"url": "http://[/"}, "http.url"),
        ("http", False, {"url": "http://x:99999/"}, "http.url"),
        ("http", False, {"url": "http://x/", "timeout": 0}, "http.timeout"),
        ("http", False, {"url": "http://x/", "status": 1000}, "http.status"),
        ("http", True, {"url": "http://x/"}, "http.field"),
        ("http", False, {"url": "http://x/", "field": "a"}, "limit"),
        ("prometheus", True, {"url": "x", "query": "up"}, "prometheus.url"),
        ("prometheus", True, {"url": "http://x/?a=b", "query": "up"}, "prometheus.url"),
        ("prometheus", True, {"url": "http://x/", "query": " "}, "prometheus.query"),
        ("command", False, {"argv": []}, "command.argv"),
        ("command", False, {"argv": ["true"], "timeout": 0}, "command.timeout"),
        ("command", False, {"argv": ["/nowhere/check"]}, "command.argv"),
        ("command", False, {"argv": ["true"], "chdir": "/nowhere"}, "command.argv"),
        ("command", False, {"argv": ["/etc/passwd"]}, "command.argv"),
        ("command", False, {"argv": ["a\0b"]}, "command.argv"),
    ],
)
def test_what_cannot_be_asked_is_refused(kind: str, wants_number: bool, options: dict[str, Any], option: str) -> None:
    error = error_of(kind, wants_number, **options)
    assert isinstance(error, Refused) and error.option == option


# -- Prometheus' answers, from a server that is not one ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "value"),
    [
        (vector({"value": [1.0, "0.5"]}), 0.5),
        ({"status": "success", "data": {"resultType": "scalar", "result": [1.0, "7"]}, "infos": ["fine"]}, 7.0),
        (vector(), None),
        (vector({"value": [1.0, "1"]}, {"value": [1.0, "1"]}), None),
        (vector({"value": [1.0, "NaN"]}), None),
        (vector({"value": [1.0, "+Inf"]}), None),
        (vector({"histogram": [1.0, {}]}), None),
        (dict(vector({"value": [1.0, "0.5"]}), warnings=["a store did not answer"]), None),
    ],
)
def test_one_number_or_none(server: Server, told: Any, value: float | None) -> None:
    server.says(200, told)
    found = ask("prometheus", url=server.url + "/", query="a + b", token=SECRET)
    assert (found.value, found.outcome) == (value, None) and found.said
    ((method, path, headers, body),) = server.seen
    assert (method, path, headers["authorization"]) == ("POST", "/api/v1/query", "Bearer " + SECRET)
    assert parse_qs(body.decode()) == {"query": ["a + b"]}


@pytest.mark.parametrize(
    ("status", "body", "kind", "option"),
    [
        (400, {"status": "error", "error": "parse error"}, Refused, "prometheus.query"),
        (401, b"", Refused, "prometheus.token"),
        (403, b"", Refused, "prometheus.token"),
        (404, b"", Refused, "prometheus.url"),
        (302, b"", Refused, "prometheus.url"),
        (200, b"<html>", Refused, "prometheus.url"),
        (200, {"status": "success"}, Refused, "prometheus.url"),
        (200, {"status": "success", "data": {"resultType": "matrix", "result": []}}, Refused, "prometheus.query"),
        (429, b"", Unavailable, "prometheus.url"),
        (503, {"status": "error", "error": "query timed out"}, Unavailable, "prometheus.url"),
    ],
)
def test_what_is_no_number_is_told_by_who_can_mend_it(server: Server, status: int, body: Any, kind: type[FleetError], option: str) -> None:
    server.says(status, body)
    error = error_of("prometheus", url=server.url, query="up", token=SECRET)
    assert isinstance(error, kind) and error.option == option


def test_a_query_that_cannot_be_evaluated_says_nothing(server: Server) -> None:
    server.says(422, {"status": "error", "error": "many-to-many matching not allowed"})
    assert (
        ask("prometheus", url=server.url, query="a * b").said
        == "Prometheus could not evaluate the query: many-to-many matching not allowed"
    )


# -- commands -------------------------------------------------------------------------------------------------------------------------


def shell(text: str, wants_number: bool = False, **options: Any) -> Answer:
    return ask("command", wants_number, argv=["/bin/sh", "-c", text], **options)


def test_exit_codes_judge() -> None:
    assert [shell("exit %d" % code).outcome for code in (0, 1, 2)] == ["pass", "fail", "inconclusive"]
    assert shell("exit 1").said == "the command /bin/sh ended with 1 (fail)"
    for text, told in (("echo %s >&2; exit 3" % SECRET, "ended with 3"), ("kill -9 $$", "was ended by signal 9")):
        error = error_of("command", False, argv=["/bin/sh", "-c", text])
        assert isinstance(error, Unavailable) and told in error.message


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("echo 7", 7.0),
        ("printf ' -1.5e2\\n'", -150.0),
        ("exit 2", None),
        ("echo 7; exit 2", None),
        ("true", None),
        ("echo many", None),
        ("echo 1 2", None),
        ("echo nan", None),
        ("echo inf", None),
        ("printf '\\377'", None),
    ],
)
def test_what_it_writes_is_the_number(text: str, value: float | None) -> None:
    assert shell(text, True).value == value and SECRET not in shell("echo " + SECRET, True).said


def test_a_command_that_failed_has_no_number() -> None:
    for code in (1, 3):
        assert isinstance(error_of("command", argv=["/bin/sh", "-c", "echo 7; exit %d" % code]), Unavailable)


def test_it_has_no_input() -> None:
    """Although we have one, on which nothing ever comes."""
    ours, (reading, writing) = os.dup(0), os.pipe()
    os.dup2(reading, 0)
    try:
        assert shell('test -z "$(cat)"', timeout=5.0).outcome == "pass"
    finally:
        os.dup2(ours, 0)
        for descriptor in (ours, reading, writing):
            os.close(descriptor)


def test_it_has_no_shell_and_its_folder(tmp_path: Path) -> None:
    assert shell('test -z "$(cat)" && test "$(pwd)" = %s' % tmp_path, chdir=str(tmp_path), timeout=5.0).outcome == "pass"
    assert ask("command", False, argv=["/usr/bin/test", "$HOME", "=", "$HOME"]).outcome == "pass"
    assert ask("command", False, argv=["/usr/bin/test", "$HOME", "=", os.path.expanduser("~")]).outcome == "fail"


def test_one_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "child"
    began = time.monotonic()
    error = error_of("command", False, argv=["/bin/sh", "-c", "sleep 600 & echo $! > %s; wait" % note], timeout=1.0)
    assert isinstance(error, Unavailable) and error.option == "command.timeout" and time.monotonic() - began < 10
    child = int(note.read_text())

    def gone() -> bool:
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], capture_output=True, text=True, check=False).stdout
        return not state.strip() or state.startswith("Z")

    wait_for(gone, what="the end of the child")


def test_one_that_writes_without_end_is_not_read_to_its_end() -> None:
    error = error_of("command", argv=["/usr/bin/yes"], timeout=5.0)
    assert isinstance(error, Unavailable) and "was ended by signal 13" in error.message
