# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What RQ records of a task, as text: times and errors. Nothing is unpickled."""

from __future__ import annotations

import base64
import binascii
import zlib
from datetime import datetime, timezone
from typing import Any

#: Of an error's text the last part is looked at, and no more than this is unpacked to get there.
ERROR_TAIL = 8 * 1024
ERROR_UNPACKED = 16 * 1024 * 1024


def as_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def parse_time(value: Any) -> float | None:
    """Seconds since 1970 from RQ's ``2026-01-31T12:00:00.000000Z``; None if it is none."""
    text = as_text(value) if value else ""
    if not text.endswith("Z"):
        return None
    try:
        return datetime.fromisoformat(text[:-1]).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


def iso_time(moment: float) -> str:
    """``moment`` as RQ writes it."""
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def pack_error(text: str) -> str:
    """``text`` as RQ keeps an error in a task's results."""
    return base64.b64encode(zlib.compress(text.encode())).decode()


def error_block(stored: bytes | None, packed_twice: bool) -> str | None:
    """The exception itself, without the traceback's frames, from RQ's stored text; at most the last 8 KiB.

    :param stored: zlib-compressed text; with ``packed_twice`` in base64 as well (results stream). Never unpickled.
    """
    if not stored:
        return None
    try:
        packed = base64.b64decode(stored) if packed_twice else stored
        unpacker = zlib.decompressobj()
        tail, unpacked = b"", 0
        while packed and unpacked < ERROR_UNPACKED and not unpacker.eof:
            piece = unpacker.decompress(packed, 64 * 1024)
            packed = unpacker.unconsumed_tail
            unpacked += len(piece)
            tail = (tail + piece)[-ERROR_TAIL:]
    except (binascii.Error, zlib.error):
        tail = stored[-ERROR_TAIL:]  # Older RQ kept it as plain text.
    lines = tail.decode("utf-8", "replace").rstrip().splitlines()
    first = 0
    for index, line in enumerate(lines):
        if line.startswith(("  File ", "    ", "Traceback (")):
            first = index + 1
    return "\n".join(lines[first:] or lines[-1:])
