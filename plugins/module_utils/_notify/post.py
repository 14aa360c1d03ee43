# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One JSON document, posted: bounded in time and size, without redirects, and with no secret in any message."""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, Mapping
from urllib.parse import urlsplit

from .._errors import Refused, Unavailable
from .message import plain
from .options import wrong

#: So much of an answer is read, bytes.
_MOST = 4096

#: An answer that may be shown: words, as Slack's no_service. Anything longer could quote what was sent.
_WORDS = re.compile(r"[A-Za-z_ ]{1,60}\Z")

#: Answers after which the same request may do: too many at a time, and what is the server's own trouble.
_AGAIN = (429, *range(500, 600))


@dataclass(frozen=True)
class Address:
    """Where to post to."""

    url: str
    headers: Mapping[str, str]
    tls_ca: str | None

    @classmethod
    def of(cls, where: str, given: Mapping[str, Any]) -> Address:
        """From the options ``url``, ``headers`` and ``tls_ca``.

        :raises Refused: the address cannot be used. The message never quotes it.
        """
        headers = {str(name): str(value) for name, value in (given.get("headers") or {}).items()}
        address = cls(given["url"], headers, given.get("tls_ca"))
        if not _usable(address.url):
            raise wrong(where, "url is not an http or https address without blanks")
        if "@" in urlsplit(address.url).netloc:
            raise wrong(
                where,
                "url holds a user name or password, which a proxy would log",
                "Give them as a header (Authorization) in webhook.headers",
            )
        for name, value in headers.items():
            if not re.match(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z", name) or not value.isascii() or not value.isprintable():
                raise wrong(where, "headers has a name or a value that HTTP does not allow")
        refuse_unreadable(where, address.tls_ca)
        return address

    @property
    def server(self) -> str:
        """The server as messages may show it; the rest of the address may be a secret."""
        return str(urlsplit(self.url).hostname)

    @property
    def secrets(self) -> list[str]:
        """What no message may hold."""
        parts = urlsplit(self.url)
        # What is short, as a path /hook or a header that is a number, is something that messages need.
        return [text for text in (self.url, parts.path.strip("/"), parts.query, *self.headers.values()) if len(text) > 7]

    def post(self, document: Any, limit: float) -> None:
        """POST ``document``; an answer of 2xx is well.

        :raises Unavailable: lost on the way, or the server's own trouble. ``Refused``: it will not have it.
        """
        request = urllib.request.Request(
            self.url,
            json.dumps(document).encode("ascii"),
            {"Content-Type": "application/json", "User-Agent": "queueops.fleet", **self.headers},
        )
        try:
            with self._opener().open(request, timeout=limit) as answer:
                self._judge(int(answer.status), answer.read1(_MOST))
        except ssl.SSLCertVerificationError as problem:
            raise self._untrusted(problem) from problem
        except (OSError, http.client.HTTPException, urllib.error.URLError) as problem:
            reason = getattr(problem, "reason", None) or problem
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise self._untrusted(reason) from problem
            # Only what the system says: an answer that is none could quote what was sent.
            said = plain(reason) if isinstance(reason, OSError) else ""
            raise Unavailable(
                "%s does not answer: %s" % (self.server, said or type(reason).__name__),
                still_true=None,
                next_step="Look whether the controller reaches it (a proxy is taken from the environment)",
            ) from problem

    def _opener(self) -> urllib.request.OpenerDirector:
        """Without a handler for errors every status is an answer, and without one for redirects it stays at this address."""
        opener = urllib.request.OpenerDirector()
        # From the environment alone: macOS' own settings cannot be asked for in a forked process.
        opener.add_handler(urllib.request.ProxyHandler(urllib.request.getproxies_environment()))
        opener.add_handler(urllib.request.HTTPHandler())
        opener.add_handler(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=self.tls_ca)))
        return opener

    def _judge(self, status: int, answer: bytes) -> None:
        if 200 <= status < 300:
            return
        words = answer.decode("ascii", "replace").strip()
        said = "%s answers %d%s" % (self.server, status, " (%s)" % words if _WORDS.match(words) else "")
        if status in _AGAIN:
            raise Unavailable(said, still_true=None, next_step="Look at that server")
        if 300 <= status < 400:
            raise Refused(said + ", a redirect, which is not followed", still_true=None, next_step="Give the address that it leads to")
        raise Refused(said, still_true=None, next_step="Look whether the address, the headers and the body are what it expects")

    def _untrusted(self, problem: ssl.SSLCertVerificationError) -> Refused:
        return Refused(
            "the certificate of %s is not trusted: %s" % (self.server, problem.verify_message),
            still_true=None,
            next_step="Name the file with its CA in tls_ca, or mend the certificate",
        )


def refuse_unreadable(where: str, tls_ca: str | None) -> None:
    """Refuse a file with a CA that the controller cannot read."""
    if tls_ca is not None and not os.access(tls_ca, os.R_OK):
        raise wrong(where, "tls_ca, %s, cannot be read on the controller" % tls_ca)


def _usable(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0 and url.isascii() and url.isprintable() and " " not in url
    )
