# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One event of a journal, and the one way to write it down: a canonical JSON line that carries its own hash."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from .._errors import Refused

#: What the first event names as its predecessor, and the head of an empty journal.
GENESIS = "0" * 64

#: The longest line, bytes. A journal holds decisions and figures, not logs.
MAX_LINE = 65536

#: The order of the fields in a line; the hash is last because it covers the others.
FIELDS = ("seq", "at", "operation", "epoch", "host", "actor", "kind", "reason", "data", "prev", "hash")

_KIND = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Whoever reports an event fills in the upper part; ``Journal.append`` fills in the lower part.

    :ivar kind: what happened, in lower case with underscores: ``operation_opened``, ``host_switched``, ``gate_verdict``…
    :ivar operation: id of the operation it happened in, if any.
    :ivar epoch: epoch of that operation.
    :ivar host: the inventory host it happened on, if any.
    :ivar actor: who caused it, ``user@controller``.
    :ivar reason: why, in words.
    :ivar data: numbers and names, JSON values only. No payloads, no secrets.
    :ivar at: when, ISO 8601 in UTC to the millisecond; filled in when not given.
    :ivar seq: the line's number, from 1.
    :ivar prev: the hash of the line before.
    :ivar hash: SHA-256 over all other fields.
    """

    kind: str
    operation: str | None = None
    epoch: int | None = None
    host: str | None = None
    actor: str | None = None
    reason: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    at: str | None = None
    seq: int = 0
    prev: str = ""
    hash: str = ""

    def sealed(self, seq: int, prev: str) -> Event:
        """This event as line ``seq`` after the line whose hash is ``prev``. Refused when it is not fit to be written."""
        if not _KIND.match(self.kind):
            raise Refused(
                "%r is not a kind of event: lower case letters, digits and underscores, at most 64" % self.kind,
                option="events",
                next_step="Name the event like gate_verdict or wave_started",
            )
        try:
            data = json.loads(json.dumps(self.data, sort_keys=True, allow_nan=False))
        except (TypeError, ValueError) as problem:
            raise Refused(
                "The data of the event %s is not plain JSON: %s" % (self.kind, problem),
                option="events",
                next_step="Give numbers, texts, lists and dictionaries with text keys only",
            ) from problem
        placed = replace(self, at=canonical_time(self.at), data=data, seq=seq, prev=prev, hash="")
        sealed = replace(placed, hash=placed.digest())
        if len(sealed.line()) > MAX_LINE:
            raise Refused(
                "The event %s is %d bytes long; a line of the journal has at most %d" % (self.kind, len(sealed.line()), MAX_LINE),
                option="events",
                next_step="Record figures and names, and keep logs elsewhere",
            )
        return sealed

    def digest(self) -> str:
        """SHA-256 over every field but the hash."""
        body = self.as_dict()
        del body["hash"]
        return hashlib.sha256(_canonical(body)).hexdigest()

    def line(self) -> bytes:
        """The one way to write this event down. A line that differs by a byte is damaged."""
        return _canonical(self.as_dict()) + b"\n"

    def as_dict(self) -> dict[str, Any]:
        """The fields in their order in the line."""
        return {name: getattr(self, name) for name in FIELDS}


def parse_line(line: bytes) -> Event | None:
    """The event in ``line`` (without its newline), or None unless it is exactly what ``Event.line`` writes."""
    try:
        found = json.loads(line.decode("ascii"))
    except ValueError:
        return None
    if not isinstance(found, dict) or tuple(found) != FIELDS or not isinstance(found["data"], dict):
        return None
    event = Event(**found)
    try:
        sound = event.line() == line + b"\n" and event.hash == event.digest()
    except ValueError:
        return None
    return event if sound else None


def now() -> str:
    """The time as it stands in events."""
    return _iso(datetime.now(timezone.utc))


def canonical_time(given: str | None) -> str:
    """``given`` as UTC to the millisecond; now when it is None. Refused when it is not an ISO 8601 time with a zone."""
    if given is None:
        return now()
    try:
        moment = datetime.fromisoformat(re.sub(r"[zZ]\Z", "+00:00", given))
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Refused(
            "%r is not a time like 2026-03-01T07:41:22.123Z" % given,
            option="events",
            next_step="Give ISO 8601 with a zone, or leave it out",
        )
    return _iso(moment.astimezone(timezone.utc))


def _iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + "%03dZ" % (moment.microsecond // 1000)


def _canonical(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")
