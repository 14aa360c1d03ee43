# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A message of a JetStream stream: its headers, its subject, what it tells of its task, and how a copy of it differs."""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime, timezone
from typing import Any, Iterable, Mapping

#: Headers of our own. The first four are ours to write; the last three an application may write when it dead-letters a task.
ID = "x-queueops-id"
RUN = "x-queueops-run"
REDRIVES = "x-queueops-redrives"
ENQUEUED_AT = "x-queueops-enqueued-at"
ORIGIN = "x-queueops-origin"
ERROR = "x-queueops-error"
WORKER = "x-queueops-worker"

MSG_ID = "Nats-Msg-Id"
#: Of the server's own headers only this one is meant for a copy too; the others expect, replace or schedule, or tell of another stream.
KEPT = ("nats-ttl",)

ADVISORY = "io.nats.jetstream.advisory.v1."
#: Names of streams and consumers may hold none of these.
_INVALID = re.compile(r"[\s.*>/\\]|[^\x20-\U0010ffff]")


class Headers:
    """Header lines in their order, each name as often as it occurs; what the client library's ``headers`` takes."""

    __slots__ = ("lines",)

    def __init__(self, lines: list[tuple[str, str]]) -> None:
        self.lines = lines

    def items(self) -> Iterable[tuple[str, str]]:
        return self.lines

    def size(self) -> int:
        """At least as many bytes as they take on the way; exact where they are ASCII."""
        return 14 + sum([4 + (len(name) + len(value)) * (1 if value.isascii() else 4) for name, value in self.lines])

    def get(self, name: str) -> str | None:
        """The first value of ``name``, in whatever case it is written."""
        name = name.lower()
        for key, value in self.lines:
            if key.lower() == name:
                return value
        return None


def parse_headers(block: bytes) -> Headers:
    """The lines of a header block (``NATS/1.0``, then ``name: value``). Bytes that are not UTF-8 become surrogates."""
    lines = []
    for line in block.decode("utf-8", "surrogateescape").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            lines.append((name.strip(), value.strip()))
    return Headers(lines)


def seconds(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time with any number of decimals, as JetStream writes it (UTC unless it has an offset)."""
    whole = datetime(
        int(text[0:4]), int(text[5:7]), int(text[8:10]), int(text[11:13]), int(text[14:16]), int(text[17:19]), tzinfo=timezone.utc
    )
    rest = text[19:]
    offset = re.search(r"([+-])(\d\d):(\d\d)$", rest)
    shift = 0
    if offset:
        shift = (int(offset.group(2)) * 3600 + int(offset.group(3)) * 60) * (1 if offset.group(1) == "+" else -1)
    fraction = re.match(r"\.\d+", rest)
    return whole.timestamp() - shift + (float("0" + fraction.group(0)) if fraction else 0.0)


def rfc3339(moment: float) -> str:
    """``moment`` (s since 1970) as JetStream reads it, to the second."""
    return datetime.fromtimestamp(int(moment), timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Message:
    """One stored message.

    :ivar time: when the stream took it (s since 1970, by the broker's clock).
    """

    __slots__ = ("data", "headers", "seq", "stream", "subject", "time")

    def __init__(self, stream: str, raw: Mapping[str, Any]) -> None:
        """From the ``message`` of a ``stream_msg_get_response``."""
        self.stream = stream
        self.seq = int(raw["seq"])
        self.subject = str(raw["subject"])
        self.time = seconds(raw["time"])
        self.data = base64.b64decode(raw.get("data") or "")
        self.headers = parse_headers(base64.b64decode(raw["hdrs"])) if raw.get("hdrs") else Headers([])

    def identity(self, id_field: str | None = None) -> str:
        """What tells this task from others: its first id, else ``Nats-Msg-Id``, else a JSON field, else stream and sequence."""
        found = self.headers.get(ID) or self.headers.get(MSG_ID)
        if not found and id_field:
            value = self.fields()
            for part in id_field.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            found = str(value) if isinstance(value, (str, int)) else None
        return found or "%s:%d" % (self.stream, self.seq)

    def fields(self) -> Any:
        """The payload, decoded if it is JSON, else None."""
        try:
            return json.loads(self.data)
        except (ValueError, RecursionError):
            return None

    def advisory(self) -> dict[str, Any] | None:
        """The server's own report of a task that exhausted its deliveries or was terminated, if that is what this message is."""
        if not self.data.startswith(b"{") or ADVISORY.encode() not in self.data[:200]:
            return None
        found = self.fields()
        kind = str(found.get("type")) if isinstance(found, dict) else ""
        if kind not in (ADVISORY + "max_deliver", ADVISORY + "terminated") or not isinstance(found.get("stream_seq"), int):
            return None
        return dict(found)

    def redrives(self) -> int:
        found = self.headers.get(REDRIVES) or ""
        return int(found) if found.isdigit() else 0

    def enqueued_at(self) -> float:
        """When it was published at first (s since 1970), as far as is known."""
        found = self.headers.get(ENQUEUED_AT)
        try:
            return float(found) if found else self.time
        except ValueError:
            return self.time

    def copy_headers(self, action: str, run: str | None, origin: str, identity: str, msg_id: str) -> Headers:
        """The headers of the copy: all of the application's, and our own marks.

        :param msg_id: by which the destination knows a copy that it has already.
        """
        ours = {ID, RUN, REDRIVES, ENQUEUED_AT, ORIGIN}
        lines = [
            (name, value)
            for name, value in self.headers.lines
            if name.lower() not in ours and (not name.lower().startswith("nats-") or name.lower() in KEPT)
        ]
        redrives = self.redrives() + (1 if action in ("requeue", "compensate") else 0)
        lines += [(ID, identity), (ENQUEUED_AT, "%.6f" % self.enqueued_at()), (REDRIVES, str(redrives))]
        if origin:
            lines.append((ORIGIN, origin))
        if run is not None:
            lines.append((RUN, run))
        lines.append((MSG_ID, msg_id))
        return Headers(lines)


# Subjects


def valid_name(name: str) -> bool:
    """Whether a stream or consumer may have this name."""
    return bool(name) and not _INVALID.search(name)


def valid_subject(subject: str) -> bool:
    """Whether something may be published there."""
    return bool(subject) and not re.search(r"\s", subject) and literal(subject) and all(subject.split("."))


def literal(pattern: str) -> bool:
    """Whether it is one subject rather than a pattern."""
    return not any(token in ("*", ">") for token in pattern.split("."))


def captured(pattern: str, subject: str) -> list[str] | None:
    """What the wildcards of ``pattern`` stand for in ``subject``; None if it does not match."""
    wanted, tokens = pattern.split("."), subject.split(".")
    found: list[str] = []
    for index, token in enumerate(wanted):
        if token == ">":
            return [*found, ".".join(tokens[index:])] if len(tokens) > index else None
        if index >= len(tokens) or token not in ("*", tokens[index]):
            return None
        if token == "*":
            found.append(tokens[index])
    return found if len(tokens) == len(wanted) else None


def matches(patterns: Iterable[str], subject: str) -> bool:
    return any(captured(pattern, subject) is not None for pattern in patterns)


def filled(pattern: str, tokens: list[str]) -> str | None:
    """``pattern`` with its wildcards replaced in order; None if there are more or fewer of them."""
    parts, rest = [], list(tokens)
    for token in pattern.split("."):
        if token in ("*", ">"):
            if not rest:
                return None
            parts.append(rest.pop(0))
        else:
            parts.append(token)
    return None if rest else ".".join(parts)


def filters_of(consumer: Mapping[str, Any]) -> list[str]:
    """The subjects that a consumer's configuration takes; ``>`` for all."""
    several = consumer.get("filter_subjects")
    if several:
        return [str(subject) for subject in several]
    return [str(consumer.get("filter_subject") or ">")]


def overlap(one: str, other: str) -> bool:
    """Whether some subject matches both patterns."""
    left, right = one.split("."), other.split(".")
    for index in range(max(len(left), len(right))):
        here = left[index] if index < len(left) else None
        there = right[index] if index < len(right) else None
        if here == ">" or there == ">":
            return here is not None and there is not None
        if here is None or there is None or ("*" not in (here, there) and here != there):
            return False
    return True
