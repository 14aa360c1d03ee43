# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One HTTP request of a source: bounded in time and size, without redirects and proxies, and with no secret in any message."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import Any, Mapping
from urllib.parse import urlsplit

from .._errors import Refused, Unavailable

#: An answer is read up to this size (bytes).
MOST = 1024 * 1024


@dataclass(frozen=True)
class Place:
    """An address and how to reach it. ``option`` is the module's option that holds it; ``limit`` (s) bounds a whole answer."""

    url: str
    option: str
    headers: Mapping[str, str]
    tls_ca: str | None
    tls_verify: bool
    limit: float

    @classmethod
    def of(cls, options: Mapping[str, Any], option: str) -> Place:
        """From the suboptions of ``option``.

        :raises Refused: the URL cannot be used.
        """
        url = str(options.get("url") or "")
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            usable = False
        if not usable:
            raise Refused("%s.url is not an http or https address" % option, option=option + ".url")
        if "@" in urlsplit(url).netloc:
            raise Refused(
                "%s.url holds a user name or password, which would be logged" % option,
                option=option + ".url",
                next_step="Give them in %s.username and %s.password, or a token in %s.token" % (option, option, option),
            )
        limit = float(options["timeout"] if options.get("timeout") is not None else 10.0)
        if limit <= 0:
            raise Refused("%s.timeout is a number of seconds above 0" % option, option=option + ".timeout")
        return cls(url, option, _headers(options), options.get("tls_ca"), options.get("tls_verify") is not False, limit)

    @property
    def shown(self) -> str:
        """The address as messages may show it: without its query, which may hold a key."""
        parts = urlsplit(self.url)
        return "%s://%s%s" % (parts.scheme, parts.netloc, parts.path)

    def ask(self, path: str = "", body: bytes | None = None) -> tuple[int, bytes]:
        """GET, or with ``body`` POST: the status, whatever it is, and the answer.

        :raises Unavailable: nobody answers, not in time, or without end.
        """
        # Loading these takes longer than most gates' looks, which do not need them.
        import http.client
        import ssl
        import urllib.error
        import urllib.request

        if self.url.startswith("https"):
            context = _context(ssl, self)
            handlers: list[Any] = [urllib.request.HTTPSHandler(context=context)]
        else:
            handlers = [urllib.request.HTTPHandler()]
        opener = urllib.request.OpenerDirector()
        for handler in handlers:
            opener.add_handler(handler)
        end = time.monotonic() + self.limit
        try:
            # Without a handler for errors and redirects, every status is an answer.
            with opener.open(urllib.request.Request(self.url + path, body, dict(self.headers)), timeout=self.limit) as answer:
                return int(answer.status), self._read(answer, end)
        except (ValueError, http.client.InvalidURL):
            # Without what it says, and what it was raised by: that quotes the address, or the header.
            raise Refused(
                "%s cannot be asked: the address or a header holds a character that HTTP does not allow" % self.option,
                option=self.option,
                next_step="Look for blanks, line breaks and letters beyond ASCII in the url, the token and the headers",
            ) from None
        except (OSError, http.client.HTTPException, urllib.error.URLError) as problem:
            raise Unavailable(
                "%s does not answer: %s" % (self.shown, getattr(problem, "reason", None) or str(problem) or type(problem).__name__),
                option=self.option + ".url",
            ) from problem

    def _read(self, answer: Any, end: float) -> bytes:
        found = b""
        while True:
            piece = answer.read1(65536)
            if not piece:
                return found
            found += piece
            if len(found) > MOST:
                raise Unavailable("%s answers with more than %d bytes" % (self.shown, MOST), option=self.option + ".url")
            if time.monotonic() > end:
                raise Unavailable("%s did not end its answer within %g s" % (self.shown, self.limit), option=self.option + ".timeout")


def _headers(options: Mapping[str, Any]) -> dict[str, str]:
    found = {str(name): str(value) for name, value in (options.get("headers") or {}).items()}
    if options.get("username") is not None:
        pair = "%s:%s" % (options["username"], options.get("password") or "")
        found["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    elif options.get("token") is not None:
        found["Authorization"] = "Bearer %s" % options["token"]
    return found


def _context(ssl: Any, place: Place) -> Any:
    try:
        context = ssl.create_default_context(cafile=place.tls_ca)
    except OSError as problem:
        raise Refused(
            "The CA file %s cannot be read: %s" % (place.tls_ca, problem),
            option=place.option + ".tls_ca",
            next_step="Put it on the host that runs this task",
        ) from problem
    if not place.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
