# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mail, by SMTP: one plain text to all who are named, under TLS unless that is given up by name."""

from __future__ import annotations

import os
import re
import smtplib
import ssl
from contextlib import suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any, Callable, Mapping, Sequence

from .._errors import Refused, Unavailable
from .message import Message, plain
from .options import wrong
from .post import refuse_unreadable

#: One address and nothing else: no name beside it, no second one, no line of a header.
_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]+@[^\s@<>,;:\"()\[\]\\]+\Z")

_PORTS = {"starttls": 587, "tls": 465, "none": 25}


def sender(where: str, given: Mapping[str, Any]) -> tuple[str, list[str], Callable[[Message, float], None]]:
    """Its server, its secrets, and what sends a message to it.

    :raises Refused: it cannot work so.
    """
    for address in (given["from"], *given["to"]):
        if not _ADDRESS.match(address):
            raise wrong(where, "%r is not a plain mail address" % plain(address))
    if not given["to"]:
        raise wrong(where, "to is empty")
    if given["username"] is not None and given["tls"] == "none":
        raise wrong(where, "its password would be sent in the clear", "Set tls to starttls or tls, or leave username out")
    refuse_unreadable(where, given["tls_ca"])
    post = Post(
        given["server"],
        given["port"] or _PORTS[given["tls"]],
        given["tls"],
        given["tls_ca"],
        given["username"],
        given["password"],
        given["from"],
        tuple(given["to"]),
    )
    return post.server, [given["password"] or ""], post.send


@dataclass(frozen=True)
class Post:
    """A server, and whom to write to by it."""

    server: str
    port: int
    tls: str
    tls_ca: str | None
    username: str | None
    password: str | None
    sender: str
    to: Sequence[str]

    def send(self, message: Message, limit: float) -> None:
        """Hand one mail to the server.

        :raises Unavailable: lost on the way, or refused for now. ``Refused``: it will not have it.
        """
        try:
            client = self._connect(limit)
            try:
                if self.tls == "starttls":
                    client.starttls(context=self._trust())
                if self.username is not None:
                    client.login(self.username, self.password or "")
                left_out = client.send_message(self._mail(message), self.sender, list(self.to))
                # It has the mail: however it takes the farewell.
                with suppress(OSError, smtplib.SMTPException):
                    client.quit()
            finally:
                client.close()
        except ssl.SSLCertVerificationError as problem:
            raise self._refused(
                "the certificate of %s is not trusted: %s" % (self.server, problem.verify_message), "Name the file with its CA in tls_ca"
            ) from problem
        except smtplib.SMTPAuthenticationError as problem:
            # Without what it says: that may quote what it was given.
            raise self._refused(
                "%s does not accept the login (%d)" % (self.server, problem.smtp_code), "Look at username and password"
            ) from problem
        except smtplib.SMTPRecipientsRefused as problem:
            raise self._of_recipients(problem.recipients) from problem
        except smtplib.SMTPNotSupportedError as problem:
            raise self._refused("%s cannot do what is asked: %s" % (self.server, plain(problem)), "Look at tls and username") from problem
        except smtplib.SMTPResponseException as problem:
            raise self._answered(problem.smtp_code, problem.smtp_error) from problem
        except (OSError, smtplib.SMTPException) as problem:
            raise Unavailable(
                "%s, port %d, does not answer: %s" % (self.server, self.port, plain(problem) or type(problem).__name__),
                still_true=None,
                next_step="Look whether the controller reaches it, and whether tls (%s) and port are what it expects" % self.tls,
            ) from problem
        if left_out:
            # The others have it: no second try.
            raise self._refused(self._of_recipients(left_out).message, "Look at these addresses; the others have the mail")

    def _connect(self, limit: float) -> smtplib.SMTP:
        # Its own name is not looked up, which can take long where there is no network.
        own = os.uname().nodename
        named = own if "." in own else "[127.0.0.1]"
        if self.tls == "tls":
            return smtplib.SMTP_SSL(self.server, self.port, named, timeout=limit, context=self._trust())
        return smtplib.SMTP(self.server, self.port, named, timeout=limit)

    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.tls_ca)

    def _mail(self, message: Message) -> EmailMessage:
        mail = EmailMessage()
        mail["Subject"] = message.title
        mail["From"] = self.sender
        mail["To"] = ", ".join(self.to)
        mail["Date"] = formatdate()
        mail["Message-ID"] = make_msgid(domain=self.sender.rpartition("@")[2])
        # So that nobody's absence is answered to it.
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content("\n".join([*message.lines, ""]))
        return mail

    def _of_recipients(self, refused: Mapping[str, tuple[int, bytes]]) -> Refused | Unavailable:
        told = "; ".join("%s: %s" % (address, self._reply(*answer)) for address, answer in refused.items())
        said = "%s does not take mail for %s" % (self.server, told)
        if all(400 <= answer[0] < 500 for answer in refused.values()):
            return Unavailable(said, still_true=None, next_step="Look at that server")
        return self._refused(said, "Look at these addresses")

    def _answered(self, code: int, text: bytes | str) -> Refused | Unavailable:
        said = "%s answers %s" % (self.server, self._reply(code, text))
        if 400 <= code < 500:
            return Unavailable(said, still_true=None, next_step="Look at that server")
        return self._refused(said, "Look whether it takes mail from this controller and from %s" % self.sender)

    @staticmethod
    def _reply(code: int, text: bytes | str) -> str:
        return plain("%d %s" % (code, text.decode("ascii", "replace") if isinstance(text, bytes) else text))[:200]

    @staticmethod
    def _refused(said: str, next_step: str) -> Refused:
        return Refused(said, still_true=None, next_step=next_step)
