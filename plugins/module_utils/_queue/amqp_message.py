# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One AMQP 0-9-1 message as it was delivered, and how its copy is written. Nothing is decoded before it is asked for."""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any, Callable, Mapping

_SHORT = struct.Struct(">h")
_LONG = struct.Struct(">I")
_SIGNED = struct.Struct(">i")
_LONGLONG = struct.Struct(">Q")
_SIGNED_LONGLONG = struct.Struct(">q")
_USHORT = struct.Struct(">H")
_FLOAT = struct.Struct(">f")
_DOUBLE = struct.Struct(">d")

#: The properties in the order of their flags, each with how it is written: s short text, t table, o octet, q time (s since 1970).
PROPERTIES: tuple[tuple[str, str], ...] = (
    ("content_type", "s"),
    ("content_encoding", "s"),
    ("headers", "t"),
    ("delivery_mode", "o"),
    ("priority", "o"),
    ("correlation_id", "s"),
    ("reply_to", "s"),
    ("expiration", "s"),
    ("message_id", "s"),
    ("timestamp", "q"),
    ("type", "s"),
    ("user_id", "s"),
    ("app_id", "s"),
    ("cluster_id", "s"),
)
_FLAGS: dict[str, int] = {name: 1 << (15 - place) for place, (name, _kind) in enumerate(PROPERTIES)}

#: The properties that are set, by the flags: messages of one application have the same.
_LAYOUTS: dict[int, tuple[tuple[str, str], ...]] = {}

# Bytes that a field value takes after its type, for the types of a fixed length.
_FIXED: dict[int, int] = {
    ord("t"): 1,
    ord("b"): 1,
    ord("B"): 1,
    ord("s"): 2,
    ord("u"): 2,
    ord("I"): 4,
    ord("i"): 4,
    ord("l"): 8,
    ord("L"): 8,
    ord("f"): 4,
    ord("d"): 8,
    ord("D"): 5,
    ord("T"): 8,
    ord("V"): 0,
}


class AmqpMessage:
    """One message that was delivered.

    :ivar tag: its delivery tag.
    :ivar redelivered: whether the broker had handed it out before.
    :ivar exchange: the exchange it was last published to ("" is the default exchange).
    :ivar routing_key: with this key.
    :ivar body_frames: the body as it came, in AMQP frames; :attr:`body` is its bytes.
    :ivar copy: what its copy will be, and :ivar told: its identity and label, as far as a redrive has prepared them.
    """

    __slots__ = ("_exchange", "_headers", "_places", "_raw", "_routing_key", "body_frames", "copy", "redelivered", "size", "tag", "told")

    def __init__(self, tag: int, redelivered: bool, exchange: bytes, routing_key: bytes) -> None:
        self.tag = tag
        self.redelivered = redelivered
        self._exchange = exchange
        self._routing_key = routing_key
        self.size = 0
        self.body_frames = b""
        self.copy: Any = None
        self.told: Any = None
        self._raw = b"\0\0"
        self._places: dict[str, tuple[int, int]] | None = None
        self._headers: dict[str, tuple[int, int]] | None = None

    def take(self, raw: bytes) -> None:
        """Its properties, as they came: flags first."""
        self._raw = raw

    @property
    def exchange(self) -> str:
        return self._exchange.decode("utf-8", "surrogateescape")

    @property
    def routing_key(self) -> str:
        return self._routing_key.decode("utf-8", "surrogateescape")

    @property
    def body(self) -> bytes:
        """The payload. Data: never to be unpickled, evaluated or shown."""
        frames, at, pieces = self.body_frames, 0, []
        while at < len(frames):
            length = _LONG.unpack_from(frames, at + 3)[0]
            pieces.append(frames[at + 7 : at + 7 + length])
            at += length + 8
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def prop(self, name: str) -> Any:
        """The property ``name`` (see :data:`PROPERTIES`; not headers): text, a number, or None if it is not set."""
        place = (self._places or self._locate()).get(name)
        if place is None:
            return None
        start, end = place
        kind = end - start
        if name in ("delivery_mode", "priority"):
            return self._raw[start]
        if name == "timestamp" and kind == 8:
            return _LONGLONG.unpack_from(self._raw, start)[0]
        return self._raw[start:end].decode("utf-8", "surrogateescape")

    def header(self, name: str) -> Any:
        """The value of the header ``name``, None if there is none. The others are not decoded."""
        place = (self._walk() if self._headers is None else self._headers).get(name)
        return None if place is None else _value(self._raw, place[0] + 1, self._raw[place[0]])[0]

    def has_header(self, name: str) -> bool:
        """Whether there is a header ``name``."""
        return name in (self._walk() if self._headers is None else self._headers)

    def header_names(self) -> list[str]:
        """The names of all headers."""
        return list(self._walk() if self._headers is None else self._headers)

    @property
    def headers(self) -> dict[str, Any]:
        """All headers, decoded: text as str, binary as bytes, tables as dict, arrays as list, times as int."""
        return {name: self.header(name) for name in self.header_names()}

    def properties(self) -> dict[str, Any]:
        """All properties that are set, without the headers."""
        return {name: self.prop(name) for name in (self._places or self._locate()) if name != "headers"}

    def raw_properties(self) -> bytes:
        """The properties with their headers as they came, for a fingerprint."""
        return self._raw

    def _locate(self) -> dict[str, tuple[int, int]]:
        """Where each property's value stands."""
        raw, at, places = self._raw, 2, {}
        flags = _USHORT.unpack_from(raw, 0)[0]
        layout = _LAYOUTS.get(flags)
        if layout is None:
            layout = _LAYOUTS[flags] = tuple(entry for entry in PROPERTIES if flags & _FLAGS[entry[0]])
        for name, kind in layout:
            if kind == "s":
                end = at + 1 + raw[at]
                places[name] = (at + 1, end)
            elif kind == "t":
                end = at + 4 + _LONG.unpack_from(raw, at)[0]
                places[name] = (at + 4, end)
            else:
                end = at + (8 if kind == "q" else 1)
                places[name] = (at, end)
            at = end
        self._places = places
        return places

    def _walk(self) -> dict[str, tuple[int, int]]:
        """Where each header's value stands, its type first."""
        found: dict[str, tuple[int, int]] = {}
        place = (self._places or self._locate()).get("headers")
        if place is not None:
            raw = self._raw
            at, end = place
            while at < end:
                stop = at + 1 + raw[at]
                name = raw[at + 1 : stop].decode("utf-8", "surrogateescape")
                length = _FIXED.get(raw[stop])
                after = stop + 1 + length if length is not None else stop + 5 + _LONG.unpack_from(raw, stop + 1)[0]
                found[name] = (stop, after)
                at = after
        self._headers = found
        return found

    def extended(self, table: bytes) -> bytes | None:
        """The properties of a copy that has these headers as well (see :func:`header_table`); None where it has none to add them to."""
        place = (self._places or self._locate()).get("headers")
        if not table:
            return self._raw
        if place is None:
            return None
        raw, (start, end) = self._raw, place
        return b"".join((raw[: start - 4], _LONG.pack(end - start + len(table)), raw[start:end], table, raw[end:]))

    def rewritten(
        self, headers: Mapping[str, Any], without: frozenset[str] = frozenset(), properties: Mapping[str, Any] | None = None
    ) -> bytes:
        """The properties of a copy, as they are sent: these headers set, those left out, these properties set (None: left out)."""
        raw = self._raw
        places = self._places or self._locate()
        walked = self._walk() if self._headers is None else self._headers
        table = [_entry(name, value) for name, value in headers.items()]
        if walked:
            start, end = places["headers"]
            dropped = [name for name in walked if name in without or name in headers]
            if not dropped:
                table.insert(0, raw[start:end])
            else:
                table[:0] = [
                    raw[at - len(name.encode("utf-8", "surrogateescape")) - 1 : after]
                    for name, (at, after) in walked.items()
                    if name not in without and name not in headers
                ]
        whole = b"".join(table)
        changed = properties or {}
        flags, pieces = 0, []
        for name, kind in PROPERTIES:
            if name == "headers":
                if whole:
                    flags |= _FLAGS[name]
                    pieces.append(_LONG.pack(len(whole)) + whole)
            elif name in changed:
                if changed[name] is not None:
                    flags |= _FLAGS[name]
                    pieces.append(_property(kind, changed[name]))
            elif name in places:
                flags |= _FLAGS[name]
                start, end = places[name]
                pieces.append(raw[start - 1 : end] if kind == "s" else raw[start:end])
        return _USHORT.pack(flags) + b"".join(pieces)


def _text(value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogateescape")


def _property(kind: str, value: Any) -> bytes:
    if kind == "s":
        text = _text(value)[:255]
        return bytes((len(text),)) + text
    return _LONGLONG.pack(int(value)) if kind == "q" else bytes((int(value),))


def _entry(name: str, value: Any) -> bytes:
    text = _text(name)
    return bytes((len(text),)) + text + encoded(value)


def header_table(headers: Mapping[str, Any]) -> bytes:
    """Headers as AMQP writes them, without their length."""
    return b"".join(_entry(name, value) for name, value in headers.items())


def encoded(value: Any) -> bytes:
    """A field value as AMQP writes it, its type first."""
    if value is None:
        return b"V"
    if isinstance(value, bool):
        return b"t" + bytes((int(value),))
    if isinstance(value, int):
        return b"I" + _SIGNED.pack(value) if -(2**31) <= value < 2**31 else b"l" + _SIGNED_LONGLONG.pack(value)
    if isinstance(value, float):
        return b"d" + _DOUBLE.pack(value)
    if isinstance(value, bytes):
        return b"x" + _LONG.pack(len(value)) + value
    if isinstance(value, Mapping):
        inner = b"".join(_entry(name, kept) for name, kept in value.items())
        return b"F" + _LONG.pack(len(inner)) + inner
    if isinstance(value, (list, tuple)):
        inner = b"".join(encoded(kept) for kept in value)
        return b"A" + _LONG.pack(len(inner)) + inner
    text = _text(value)
    return b"S" + _LONG.pack(len(text)) + text


def _decimal(raw: bytes, at: int) -> Decimal:
    return Decimal(_SIGNED.unpack_from(raw, at + 1)[0]).scaleb(-raw[at])


# Field types of a fixed length, and how each is read.
_READ: dict[int, Callable[[bytes, int], Any]] = {
    ord("t"): lambda raw, at: bool(raw[at]),
    ord("b"): lambda raw, at: raw[at] - 256 if raw[at] > 127 else raw[at],
    ord("B"): lambda raw, at: raw[at],
    ord("s"): lambda raw, at: _SHORT.unpack_from(raw, at)[0],
    ord("u"): lambda raw, at: _USHORT.unpack_from(raw, at)[0],
    ord("I"): lambda raw, at: _SIGNED.unpack_from(raw, at)[0],
    ord("i"): lambda raw, at: _LONG.unpack_from(raw, at)[0],
    ord("l"): lambda raw, at: _SIGNED_LONGLONG.unpack_from(raw, at)[0],
    ord("L"): lambda raw, at: _LONGLONG.unpack_from(raw, at)[0],
    ord("f"): lambda raw, at: _FLOAT.unpack_from(raw, at)[0],
    ord("d"): lambda raw, at: _DOUBLE.unpack_from(raw, at)[0],
    ord("D"): _decimal,
    ord("T"): lambda raw, at: _LONGLONG.unpack_from(raw, at)[0],
    ord("V"): lambda raw, at: None,
}


def _value(raw: bytes, at: int, kind: int) -> tuple[Any, int]:
    """The value of type ``kind`` at ``at``, and where the next begins."""
    length = _FIXED.get(kind)
    if length is not None:
        return _READ[kind](raw, at), at + length
    start = at + 4
    end = start + _LONG.unpack_from(raw, at)[0]
    if kind == ord("F"):
        return _table(raw, start, end), end
    if kind == ord("A"):
        found = []
        while start < end:
            value, start = _value(raw, start + 1, raw[start])
            found.append(value)
        return found, end
    return (raw[start:end].decode("utf-8", "surrogateescape") if kind == ord("S") else raw[start:end]), end


def _table(raw: bytes, at: int, end: int) -> dict[str, Any]:
    found = {}
    while at < end:
        stop = at + 1 + raw[at]
        name = raw[at + 1 : stop].decode("utf-8", "surrogateescape")
        found[name], at = _value(raw, stop + 1, raw[stop])
    return found
