# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dramatiq's message as it lies on the broker: read, and changed in place, so that all but its options stays byte for byte.

A message is JSON with ``queue_name``, ``actor_name``, ``args``, ``kwargs``, ``options``, ``message_id`` and ``message_timestamp``
(ms). Applications may use another encoder (pickle, MessagePack): such a message is carried as it is, and never decoded.
"""

from __future__ import annotations

import json
import re
from typing import Any, Mapping, NamedTuple

#: In a message's options: how often it was redriven, what was asked of the queue that undoes its effect, and by which run.
REDRIVES = "queueops_redrives"
ACTION = "queueops_action"
RUN = "queueops_run"
#: What Dramatiq's retries leave in the options; without them a message has all its attempts again.
_OF_RETRIES = frozenset(("retries", "traceback", "requeue_timestamp"))
#: Of an error's text the last part is looked at.
ERROR_TAIL = 8 * 1024

_decoder: Any = json.JSONDecoder()
_scan = _decoder.scan_once
_write = json.JSONEncoder(separators=(",", ":")).encode
_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER = re.compile(r"[ \t\n\r]*([,}])[ \t\n\r]*")
_COLON = re.compile(r"[ \t\n\r]*:[ \t\n\r]*")


class Member(NamedTuple):
    """One member of a JSON object: its value, and where in the text it and its value begin and end."""

    value: Any
    start: int
    value_start: int
    end: int


class Splice(NamedTuple):
    """Bytes ``start`` to ``end`` of a message are to be ``new``."""

    start: int
    end: int
    new: bytes


# A message as Dramatiq's own encoder writes it, around what is in its arguments and options.
_HEAD = re.compile(r'\{"queue_name":("[^"\\]*"),"actor_name":("[^"\\]*"),"args":(?=\[)')
_TAIL = re.compile(r',"message_id":("[^"\\]*"),"message_timestamp":(\d+)\}$')


def plain(text: str) -> dict[str, Member] | None:
    """The members of a message that is just as Dramatiq writes it, several times as fast as :func:`members`; None if it is not."""
    head = _HEAD.match(text)
    if head is None:
        return None
    found = {
        "queue_name": Member(head.group(1)[1:-1], 1, head.start(1), head.end(1)),
        "actor_name": Member(head.group(2)[1:-1], 1, head.start(2), head.end(2)),
    }
    start = head.end()
    try:
        for name, following in (("args", ',"kwargs":'), ("kwargs", ',"options":'), ("options", None)):
            value, end = _scan(text, start)
            found[name] = Member(value, start, start, end)
            if following is not None:
                if not text.startswith(following, end):
                    return None
                start = end + len(following)
    except StopIteration:
        return None
    tail = _TAIL.match(text, end)
    if tail is None:
        return None
    found["message_id"] = Member(tail.group(1)[1:-1], end, tail.start(1), tail.end(1))
    found["message_timestamp"] = Member(int(tail.group(2)), end, tail.start(2), tail.end(2))
    return found


def members(text: str, at: int = 0) -> tuple[dict[str, Member], int]:
    """The members of the JSON object that begins at ``at``, and where it ends.

    :raises ValueError: there is no such object, or it has a name twice.
    """
    found: dict[str, Member] = {}
    if text[at : at + 1] != "{":
        raise ValueError("not an object")
    at = _end(_SPACE.match(text, at + 1))
    if text[at : at + 1] == "}":
        return found, at + 1
    try:
        while True:
            name, after = _scan(text, at)
            start = _end(_COLON.match(text, after))
            value, end = _scan(text, start)
            if not isinstance(name, str) or name in found:
                raise ValueError("no name, or a name twice")
            found[name] = Member(value, at, start, end)
            following = _AFTER.match(text, end)
            if following is None:
                raise ValueError("neither , nor }")
            at = following.end()
            if following.group(1) == "}":
                return found, following.end(1)
    except StopIteration:
        raise ValueError("not JSON") from None


def _end(found: re.Match[str] | None) -> int:
    if found is None:
        raise ValueError("not JSON")
    return found.end()


class Message:
    """One message. Without ``options`` it is not JSON, or not a message: then nothing of it is known but its bytes.

    :ivar id: the ``message_id``, which retries and redrives keep; None if it cannot be read.
    :ivar timestamp: when it was first enqueued, seconds since 1970.
    """

    __slots__ = ("_members", "_text", "actor", "data", "id", "options", "queue", "timestamp")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.id: str | None = None
        self.actor: str | None = None
        self.queue: str | None = None
        self.timestamp: float | None = None
        self.options: Mapping[str, Any] | None = None
        self._members: dict[str, Member] = {}
        try:
            self._text = data.decode("utf-8")
            found, end = plain(self._text) or {}, len(self._text)
            if not found:
                found, end = members(self._text, _end(_SPACE.match(self._text)))
        except (ValueError, RecursionError):
            self._text = ""
            return
        known = all(
            isinstance(found[name].value, kind) if name in found else False
            for name, kind in (("message_id", str), ("actor_name", str), ("queue_name", str), ("options", dict))
        )
        if not known or self._text[end:].strip():
            return
        self._members = found
        self.id, self.actor, self.queue = found["message_id"].value, found["actor_name"].value, found["queue_name"].value
        self.options = found["options"].value
        stamp = found["message_timestamp"].value if "message_timestamp" in found else None
        self.timestamp = stamp / 1000 if isinstance(stamp, (int, float)) and not isinstance(stamp, bool) else None

    @property
    def redrives(self) -> int:
        count = (self.options or {}).get(REDRIVES)
        return count if isinstance(count, int) and count > 0 else 0

    @property
    def run(self) -> str | None:
        """The run that redrove it last, where that is noted in the message."""
        run = (self.options or {}).get(RUN)
        return run if isinstance(run, str) else None

    @property
    def eta(self) -> float | None:
        """When it is due, ms since 1970; None: at once."""
        due = (self.options or {}).get("eta")
        return float(due) if isinstance(due, (int, float)) and not isinstance(due, bool) else None

    @property
    def error(self) -> str | None:
        """The exception that the last retry recorded, without the traceback's frames."""
        text = (self.options or {}).get("traceback")
        return error_block(text) if isinstance(text, str) and text.strip() else None

    @property
    def headers(self) -> dict[str, str] | None:
        """The options that are text or numbers."""
        if self.options is None:
            return None
        told = {}
        for name, value in self.options.items():
            if isinstance(value, bool) or value is None:
                told[name] = {True: "true", False: "false", None: "null"}[value]
            elif isinstance(value, (str, int, float)):
                told[name] = str(value)
        return told

    @property
    def fields(self) -> dict[str, Any] | None:
        """``args`` and ``kwargs``."""
        if self.options is None:
            return None
        return {name: self._members[name].value for name in ("args", "kwargs") if name in self._members}

    def readdressed(self, queue: str, fresh: bool, due: bool, compensate: bool = False, run: str | None = None) -> list[Splice]:
        """The changes that make it a message of ``queue``, redriven once more; in the order of their places.

        :param fresh: it gets all its attempts again, and forgets the error of the last one.
        :param due: it no longer waits for its time.
        :param run: the name of the run, to be noted; None: as it was.
        """
        if self.options is None:
            return []
        options = self._members["options"]
        dropped = {REDRIVES, ACTION}
        if fresh:
            dropped |= _OF_RETRIES
        if due:
            dropped.add("eta")
        kept = {name: value for name, value in self.options.items() if name not in dropped}
        kept[REDRIVES] = self.redrives + 1
        if compensate:
            kept[ACTION] = "compensate"
        if run is not None:
            kept[RUN] = run
        # As Dramatiq itself writes the options again at every attempt.
        changes = [(options.value_start, options.end, _write(kept))]
        if self.queue != queue:
            address = self._members["queue_name"]
            changes.append((address.value_start, address.end, json.dumps(queue)))
        return [Splice(self._place(start), self._place(end), new.encode()) for start, end, new in sorted(changes)]

    def options_place(self) -> tuple[int, int]:
        """Where in the bytes the options are; they differ between any two times that a message was enqueued."""
        if self.options is None:
            return 0, 0
        options = self._members["options"]
        return self._place(options.value_start), self._place(options.end)

    def _place(self, index: int) -> int:
        """Which byte a character is."""
        return index if len(self._text) == len(self.data) else len(self._text[:index].encode())


def spliced(data: bytes, splices: list[Splice]) -> bytes:
    """``data`` with the changes made."""
    pieces, at = [], 0
    for splice in splices:
        pieces += [data[at : splice.start], splice.new]
        at = splice.end
    return b"".join([*pieces, data[at:]])


def error_block(text: str) -> str:
    """The exception itself from a traceback's text: class and message, at most the last 8 KiB."""
    lines = text[-ERROR_TAIL:].rstrip().splitlines()
    first = 0
    for index, line in enumerate(lines):
        if line.startswith(("  File ", "    ", "Traceback (")):
            first = index + 1
    return "\n".join(lines[first:] or lines[-1:])
