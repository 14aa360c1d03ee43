# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The channels against real servers that answer, refuse, break off, redirect, or say nothing at all."""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import threading
import time
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._notify.channels import Channel, Delivery, channels_of, deliver
from ansible_collections.queueops.fleet.plugins.module_utils._notify.message import Message
from ansible_collections.queueops.fleet.plugins.module_utils._notify.options import NOTIFY_OPTIONS

from tests.contract.servers.certificates import Authority
from tests.unit.conftest import wait_for
from tests.unit.http_server import Server
from tests.unit.notify.conftest import SECRET, MailServer, free_port
from tests.unit.notify.test_message import message

OPENED = message("opened", reason="first <b>line</b>")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def channels(*given: dict[str, Any]) -> list[Channel]:
    validated = ArgumentSpecValidator(NOTIFY_OPTIONS).validate({"fleet": "mailer", "channels": list(given)})
    assert not validated.error_messages
    return channels_of(validated.validated_parameters["channels"])


def tell(*given: dict[str, Any], told: Message = OPENED) -> list[Delivery]:
    found = deliver(channels(*given), told)
    for delivery in found:
        assert SECRET not in repr((delivery.problem, delivery.next_step, delivery.channel.name))
    return found


def problem(given: dict[str, Any]) -> str:
    """Why the one channel was not told."""
    (found,) = tell(given)
    assert found.problem
    return found.problem


def webhook(url: str, timeout: float = 5, **more: Any) -> dict[str, Any]:
    return {"webhook": {"url": url, **more}, "timeout": timeout}


def slack(server: Server, **more: Any) -> dict[str, Any]:
    return {"slack": {"url": "%s/services/%s" % (server.url, SECRET)}, **more}


def mail(port: int, timeout: float = 5, **more: Any) -> dict[str, Any]:
    sent = {"server": "localhost", "port": port, "tls": "none", "from": "fleet@example.com", "to": ["a@example.com", "b@example.com"]}
    return {"mail": {**sent, **more}, "timeout": timeout}


def refusal(given: dict[str, Any]) -> str:
    with pytest.raises(Refused) as caught:
        channels(given)
    assert SECRET not in caught.value.sentence()
    return caught.value.sentence()


# -- what arrives ---------------------------------------------------------------------------------------------------------------------


def test_a_webhook_gets_the_users_body_and_headers(server: Server) -> None:
    body = {"summary": "{title}", "release": "{release}", "key": SECRET}
    (told,) = tell(webhook(server.url + "/hook?key=" + SECRET, body=body, headers={"Authorization": "Bearer " + SECRET, "X-Number": 7}))
    assert not told.problem
    method, path, headers, sent = server.seen[0]
    assert (method, path, headers["authorization"], headers["x-number"]) == ("POST", "/hook?key=" + SECRET, "Bearer " + SECRET, "7")
    assert headers["content-type"] == "application/json"
    assert json.loads(sent) == {"summary": OPENED.title, "release": 2, "key": SECRET}


def test_a_webhook_without_a_body_gets_all_facts(server: Server) -> None:
    tell(webhook(server.url))
    assert json.loads(server.seen[0][3]) == dict(OPENED.variables)


def test_slack_gets_a_text(server: Server) -> None:
    tell(slack(server))
    assert server.seen[0][:2] == ("POST", "/services/" + SECRET)
    (text,) = json.loads(server.seen[0][3]).values()
    assert text.startswith("*mailer: deploy of release 2 (2.0.0) opened*\n```\n") and "first &lt;b&gt;line" in text


def test_a_mail_is_one_plain_text_to_all(mail_server: MailServer) -> None:
    (told,) = tell(mail(mail_server.port))
    assert not told.problem
    (sent,) = mail_server.mails
    assert (sent["Subject"], sent["From"], sent["To"]) == (OPENED.title, "fleet@example.com", "a@example.com, b@example.com")
    assert (sent.get_content_type(), sent["Auto-Submitted"]) == ("text/plain", "auto-generated")
    assert str(sent["Message-ID"]).endswith("@example.com>") and sent["Date"]
    assert "first <b>line</b>" in str(sent.get_payload()) and mail_server.to == [["a@example.com", "b@example.com"]]


def test_no_text_of_a_task_or_a_host_becomes_a_header_of_a_mail(mail_server: MailServer) -> None:
    tell(
        mail(mail_server.port),
        told=message("opened", fleet="x\r\nBcc: all@example.com\r\n\r\nbody", reason="a\n.\nRCPT TO:<c@example.com>"),
    )
    (sent,) = mail_server.mails
    assert sent["Bcc"] is None and sent["Subject"].startswith("x Bcc: all@example.com body: deploy")
    assert mail_server.to == [["a@example.com", "b@example.com"]]


@pytest.mark.parametrize("implicit", [False, True])
def test_mail_under_tls_with_a_login(authority: Authority, trusted: ssl.SSLContext, implicit: bool) -> None:
    server = MailServer(trusted, login=SECRET, implicit=implicit)
    tls: dict[str, Any] = {"tls": "tls" if implicit else "starttls", "username": "fleet"}
    try:
        assert problem(mail(server.port, **tls, password=SECRET)).startswith("the certificate of localhost is not trusted: ")
        own = {**tls, "tls_ca": str(authority.file)}
        assert problem(mail(server.port, **own, password=SECRET + "x")) == "localhost does not accept the login (535)"
        assert not server.mails
        assert not tell(mail(server.port, **own, password=SECRET))[0].problem
        assert (len(server.mails), server.logins[-1]) == (1, b"fleet")
    finally:
        server.close()


def test_a_webhook_under_tls(authority: Authority, trusted: ssl.SSLContext) -> None:
    server = Server(trusted)
    url = "https://localhost:%d/%s" % (server.port, SECRET)
    try:
        assert problem(webhook(url)).startswith("the certificate of localhost is not trusted: ")
        assert not tell(webhook(url, tls_ca=str(authority.file)))[0].problem
        wrong_name = url.replace("localhost", "127.0.0.1")
        assert "not valid for '127.0.0.1'" in problem(webhook(wrong_name, tls_ca=str(authority.file)))
        assert len(server.seen) == 1
    finally:
        server.close()


def test_a_proxy_is_taken_from_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    assert not tell(webhook("http://hooks.invalid/a"))[0].problem
    assert server.seen[0][1] == "http://hooks.invalid/a"


# -- what does not --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_once_more(server: Server, status: int) -> None:
    server.says(status, b"no_service")
    assert problem(slack(server)) == "127.0.0.1 answers %d (no_service)" % status
    assert len(server.seen) == 2

    def mends_itself(_request: http.server.BaseHTTPRequestHandler) -> tuple[int, bytes]:
        return (status if len(server.seen) == 3 else 200), b""

    server.answer = mends_itself
    assert not tell(slack(server))[0].problem
    assert len(server.seen) == 4


def test_a_connection_that_was_lost_is_made_once_more(server: Server) -> None:
    def cut_once(request: http.server.BaseHTTPRequestHandler) -> tuple[int, bytes] | None:
        if len(server.seen) > 1:
            return 200, b""
        request.connection.shutdown(socket.SHUT_RDWR)
        return None

    server.answer = cut_once
    assert not tell(slack(server))[0].problem
    assert len(server.seen) == 2


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b"no_service", "127.0.0.1 answers 404 (no_service)"),
        (400, ("unknown path /services/%s" % SECRET).encode(), "127.0.0.1 answers 400"),
        (400, b"A" * 5000, "127.0.0.1 answers 400"),
        (302, b"", "127.0.0.1 answers 302, a redirect, which is not followed"),
    ],
)
def test_a_refusal_is_not_repeated_and_quotes_nothing_that_may_be_a_secret(server: Server, status: int, body: bytes, said: str) -> None:
    server.says(status, body)
    assert problem(slack(server)) == said
    assert len(server.seen) == 1


def test_a_server_that_echoes_a_secret_is_masked(server: Server) -> None:
    server.says(401, b"supersecretword")
    assert problem(webhook(server.url, headers={"X-Token": "supersecretword"})) == "127.0.0.1 answers 401 (***)"


def test_nobody_there(silent: int, swallowing: int) -> None:
    closed = free_port()
    assert "Connection refused" in problem(webhook("http://127.0.0.1:%d/%s" % (closed, SECRET)))
    assert problem(mail(closed)).startswith("localhost, port %d, does not answer: " % closed)
    began = time.monotonic()
    found = tell(
        *(given(port) for port in (silent, swallowing) for given in (lambda p: webhook("http://127.0.0.1:%d" % p, 0.6), _short_mail))
    )
    assert all(delivery.problem for delivery in found)
    # All at the same time, each within its own limit.
    assert 0.5 < time.monotonic() - began < 2


def _short_mail(port: int) -> dict[str, Any]:
    return mail(port, 0.6, server="127.0.0.1")


def test_a_name_whose_look_up_never_ends_holds_nobody_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    gone_on, real = threading.Event(), socket.getaddrinfo

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == "nowhere.invalid":
            gone_on.wait(30)
            raise socket.gaierror("no network")
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    began = time.monotonic()
    lost, arrived = tell(webhook("http://nowhere.invalid/" + SECRET, 0.2), slack(server))
    assert (lost.problem, arrived.problem) == ("no answer within 0.2 s; it may have arrived all the same", "")
    assert time.monotonic() - began < 3
    # The end of the process does not wait for it either.
    assert [thread.daemon for thread in threading.enumerate() if thread.name.startswith("webhook")] == [True]
    gone_on.set()


def test_an_answer_that_is_none_is_not_quoted(server: Server) -> None:
    def nonsense(request: http.server.BaseHTTPRequestHandler) -> None:
        request.wfile.write(("%s\r\n\r\n" % request.path.replace("-", "_")).encode())

    server.answer = nonsense
    assert problem(slack(server)) == "127.0.0.1 does not answer: BadStatusLine"


def test_an_answer_without_end_is_cut_off(server: Server) -> None:
    stop = threading.Event()

    def dribble(request: http.server.BaseHTTPRequestHandler) -> None:
        while not stop.wait(0.05):
            request.wfile.write(b"HTTP/1.1")

    server.answer = dribble
    assert "no answer within 0.4 s" in problem(webhook(server.url, 0.4))
    stop.set()


def test_a_mail_server_that_says_later_is_asked_once_more(mail_server: MailServer) -> None:
    mail_server.says = [("DATA", "451 try again later")]
    assert not tell(mail(mail_server.port))[0].problem
    assert len(mail_server.mails) == 1
    mail_server.says = [("DATA", "421 busy"), ("DATA", "452 full")]
    assert problem(mail(mail_server.port)) == "localhost answers 452 full"


def test_what_a_mail_server_refuses_is_named_and_not_repeated(mail_server: MailServer) -> None:
    mail_server.says = [("DATA", "554 spam"), ("DATA", "554 still spam")]
    assert problem(mail(mail_server.port)) == "localhost answers 554 spam"
    mail_server.says = [("RCPT b@example.com", "550 no such user")]
    assert problem(mail(mail_server.port)) == "localhost does not take mail for b@example.com: 550 no such user"
    assert mail_server.to == [["a@example.com"]]
    mail_server.says = [("RCPT %s@example.com" % name, "550 no") for name in "ab"]
    assert problem(mail(mail_server.port)).startswith("localhost does not take mail for a@example.com: 550 no; b@example.com: ")
    assert problem(mail(mail_server.port, tls="starttls", server="127.0.0.1")).startswith("127.0.0.1 cannot do what is asked: STARTTLS")
    assert len(mail_server.mails) == 1


def test_one_dead_channel_keeps_no_other_from_being_told(server: Server, mail_server: MailServer, silent: int) -> None:
    first, second = (webhook("http://127.0.0.1:%d/%s" % (silent, path), 0.5) for path in "ab")
    assert [bool(delivery.problem) for delivery in tell(first, slack(server), second, mail(mail_server.port))] == [True, False, True, False]
    wait_for(lambda: server.seen and mail_server.mails, what="the messages")


# -- who is asked ---------------------------------------------------------------------------------------------------------------------


def test_a_channel_is_told_of_what_it_asked_for(server: Server) -> None:
    everything, some, trouble = channels(slack(server), slack(server, events=["gate", "ended"]), slack(server, only_trouble=True))
    failed = {"verdict": "fail"}
    cases: list[tuple[Message, bool, bool]] = [
        (message("opened"), False, False),
        (message("gate", gate={"verdict": "pass"}), True, False),
        (message("gate", gate=failed), True, True),
        (message("rolling_back"), False, True),
        (message("rolling_back", gate=failed), True, True),
    ]
    for told, by_some, by_trouble in cases:
        assert (everything.wants(told), some.wants(told), trouble.wants(told)) == (True, by_some, by_trouble)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (webhook("ftp://example.com/" + SECRET), "channel 1 (webhook): url is not an http or https address"),
        (webhook("file:///etc/" + SECRET), "channel 1 (webhook): url is not an http or https address"),
        (webhook("http:///" + SECRET), "channel 1 (webhook): url is not an http or https address"),
        (webhook("http://example.com:x/" + SECRET), "channel 1 (webhook): url is not an http or https address"),
        (webhook("http://example.com/%s\r\nX: y" % SECRET), "channel 1 (webhook): url is not an http or https address"),
        (webhook("https://me:%s@example.com/" % SECRET), "channel 1 (webhook): url holds a user name or password"),
        ({"slack": {"url": SECRET}}, "channel 1 (slack): url is not an http or https address"),
        (
            webhook("https://example.com", headers={"X-Key": SECRET + "\r\nX-Other: 1"}),
            "channel 1 (webhook): headers has a name or a value",
        ),
        (webhook("https://example.com", headers={"X Key": SECRET}), "channel 1 (webhook): headers has a name or a value"),
        (
            webhook("https://example.com", body={"a": ["{tilte} {text}"], "b": SECRET}),
            "channel 1 (webhook): body names {tilte}, which no event has",
        ),
        (webhook("https://example.com", tls_ca="/nowhere.pem"), "channel 1 (webhook): tls_ca, /nowhere.pem, cannot be read"),
        (webhook("https://example.com", timeout=0), "channel 1: timeout is a number of seconds above 0"),
        (mail(25, username="a", password=SECRET), "channel 1 (mail): its password would be sent in the clear"),
        (mail(25, to=["a@example.com, b@example.com"]), "channel 1 (mail): 'a@example.com, b@example.com' is not a plain"),
        (mail(25, to=["a@example.com\r\nBcc: b@example.com"]), "is not a plain mail address"),
        (mail(25, to=[]), "channel 1 (mail): to is empty"),
        ({"mail": {"server": "x", "from": "Fleet <a@example.com>", "to": ["a@example.com"]}}, "is not a plain mail address"),
    ],
)
def test_what_cannot_work_is_refused_before(given: dict[str, Any], complaint: str) -> None:
    assert complaint in refusal(given)


@pytest.mark.parametrize("channel", [{}, {"slack": {"url": "https://a"}, "webhook": {"url": "https://a"}}])
def test_a_channel_is_exactly_one_kind(channel: dict[str, Any]) -> None:
    assert ArgumentSpecValidator(NOTIFY_OPTIONS).validate({"fleet": "mailer", "channels": [channel]}).error_messages
