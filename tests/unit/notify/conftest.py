# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real servers of the kinds that people are told by."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message as Mail
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from tests.contract.servers.certificates import Authority
from tests.unit.http_server import Server

#: In the options of every channel that has one; no text that anybody sees may hold it.
SECRET = "T0001-hunter2-very-secret"


class MailServer:
    """A real SMTP server. ``says`` answers at a step (``RCPT``, ``DATA``), as often as it is there; else all is well."""

    def __init__(self, context: ssl.SSLContext | None = None, login: str | None = None, implicit: bool = False) -> None:
        self.says: list[tuple[str, str]] = []
        self.mails: list[Mail] = []
        self.to: list[list[str]] = []
        self.logins: list[bytes] = []
        self._login = login
        options: dict[str, Any] = {"tls_context": context, "require_starttls": context is not None}
        if implicit:
            # It does not know of TLS that was there before it.
            options = {"ssl_context": context, "auth_require_tls": False}
        if login is not None:
            options.update(authenticator=self._check, auth_required=not implicit)
        self.port = free_port()
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port, **options)
        self._controller.start()

    def close(self) -> None:
        self._controller.stop()

    def _check(self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, given: Any) -> AuthResult:
        self.logins.append(given.login)
        return AuthResult(success=given.password.decode() == self._login, handled=False)

    def _said(self, step: str) -> str | None:
        found = next((entry for entry in self.says if entry[0] == step), None)
        if found is None:
            return None
        self.says.remove(found)
        return found[1]

    async def handle_RCPT(self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]) -> str:
        said = self._said("RCPT " + address)
        if said is None:
            envelope.rcpt_tos.append(address)
        return said or "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:
        said = self._said("DATA")
        if said is None:
            assert isinstance(envelope.content, bytes)
            self.mails.append(message_from_bytes(envelope.content))
            self.to.append(list(envelope.rcpt_tos))
        return said or "250 OK"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@pytest.fixture
def mail_server() -> Iterator[MailServer]:
    found = MailServer()
    yield found
    found.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def trusted(authority: Authority) -> ssl.SSLContext:
    """What a server named localhost proves itself with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign("localhost"))
    return context


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        yield int(listening.getsockname()[1])


@pytest.fixture
def swallowing() -> Iterator[int]:
    """The port of a host to which no packet seems to come: its queue of connections is full, so that it answers none."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = [socket.socket() for _number in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
        yield int(listening.getsockname()[1])
        for client in waiting:
            client.close()
