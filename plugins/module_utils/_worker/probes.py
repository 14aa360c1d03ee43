# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Health probes: what is asked besides the service manager, over and over, and for how long it must answer well."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from .._errors import Refused

#: Seconds that one answer may take.
ANSWER_LIMIT = 5.0


class Probe(ABC):
    """One question that is asked until it was answered well for `hold` seconds."""

    hold: float

    @abstractmethod
    def wrong(self) -> str:
        """Ask once: what is wrong, in words that name the place; empty when nothing is."""


@dataclass(frozen=True)
class TcpProbe(Probe):
    """Somebody accepts connections at `host`:`port`."""

    host: str
    port: int
    hold: float

    def wrong(self) -> str:
        try:
            socket.create_connection((self.host, self.port), ANSWER_LIMIT).close()
        except OSError as error:
            return f"nobody accepts a connection at {self.host}:{self.port} ({error})"
        return ""


@dataclass(frozen=True)
class HttpProbe(Probe):
    """`url` answers with the status `status`. Redirects are not followed, and no proxy is used."""

    url: str
    status: int
    hold: float

    def wrong(self) -> str:
        # Few have such a probe, and loading this takes longer than a look at a host's workers.
        import urllib.error
        import urllib.request

        opener = urllib.request.OpenerDirector()
        for handler in (urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(), urllib.request.UnknownHandler()):
            opener.add_handler(handler)
        try:
            answer = opener.open(self.url, timeout=ANSWER_LIMIT)
        except (OSError, ValueError, urllib.error.URLError) as error:
            return f"{self.url} does not answer ({error})"
        # Without a handler for errors and redirects, every status is an answer.
        with answer:
            found = int(answer.status)
        return "" if found == self.status else f"{self.url} answers {found}, not {self.status}"


def read_probes(health: dict[str, Any]) -> list[Probe]:
    """The probes that the option `health` has, in its order.

    :raises Refused: one is not possible.
    """
    probes: list[Probe] = []
    for given in health.get("tcp") or []:
        port = int(given.get("port") or 0)
        if not 0 < port < 65536:
            raise Refused(f"{port} is not a port", option="worker.health.tcp", next_step="Give 1 to 65535")
        probes.append(TcpProbe(given.get("host") or "127.0.0.1", port, _hold(given, "tcp")))
    for given in health.get("http") or []:
        url = str(given.get("url") or "")
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise Refused(f"{url!r} is not an http or https URL", option="worker.health.http")
        if "@" in urlsplit(url).netloc:
            raise Refused(
                "The URL of a health probe holds a user name or password, which would be logged",
                option="worker.health.http",
                next_step="Let it answer without one on this host, or use a health command",
            )
        probes.append(HttpProbe(url, int(given.get("status") or 200), _hold(given, "http")))
    return probes


def longest_hold(health: dict[str, Any]) -> float:
    """Seconds for which the slowest condition of the option `health` has to hold."""
    own = float(health["hold"]) if health.get("hold") is not None else 2.0
    return max([own, *(probe.hold for probe in read_probes(health))])


def _hold(given: dict[str, Any], kind: str) -> float:
    hold = float(given.get("hold") or 0.0)
    if hold < 0:
        raise Refused(f"{hold} is not a number of seconds to hold", option=f"worker.health.{kind}", next_step="Give 0 or more")
    return hold
