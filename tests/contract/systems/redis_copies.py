# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All that a Redis holds of one task: read to compare it with another task's, and written again under other ids.

What belongs to a task is every key with its id in it, and every member of another key that mentions it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

#: Tasks written in one round trip.
BATCH = 1000
_ZLIB = b"\x78\x9c"


def _shown(value: bytes) -> bytes:
    """A value as the application wrote it: RQ keeps some compressed."""
    return zlib.decompress(value) if value.startswith(_ZLIB) else value


def _members(client: Any, key: bytes) -> list[tuple[bytes, ...]]:
    """The members of a key, each as a tuple of what an entry of it is made of."""
    kind = client.type(key)
    if kind == b"string":
        return [(client.get(key),)]
    if kind == b"hash":
        return list(client.hgetall(key).items())
    if kind == b"list":
        return [(member,) for member in client.lrange(key, 0, -1)]
    if kind == b"set":
        return [(member,) for member in client.smembers(key)]
    if kind == b"zset":
        return [(repr(score).encode(), member) for member, score in client.zrange(key, 0, -1, withscores=True)]
    assert kind == b"stream", kind
    return [(entry, *(part for pair in fields.items() for part in pair)) for entry, fields in client.xrange(key)]


def _mentions(parts: Iterable[bytes], ids: Sequence[bytes]) -> bool:
    return any(one in _shown(part) for part in parts for one in ids)


def _belongings(client: Any, ids: Sequence[bytes], leave: Sequence[bytes]) -> Iterable[tuple[bytes, bool, list[tuple[bytes, ...]]]]:
    """Each key that holds something of the task, whether it is the task's own, and what it holds of it."""
    for key in sorted(set(client.scan_iter(count=1000)) - set(leave)):
        own = _mentions([key], ids)
        mine = [parts for parts in _members(client, key) if own or _mentions(parts, ids)]
        if mine:
            yield key, own, mine


def redis_record(client: Any, ids: Sequence[str], leave: Sequence[str] = ()) -> dict[bytes, Any]:
    """What the server holds of the task of these ids, each id written as ``ID``. ``leave``: keys that are not looked at."""
    named = [one.encode() for one in ids]

    def neutral(value: bytes) -> bytes:
        value = _shown(value)
        for one in named:
            value = value.replace(one, b"ID")
        return value

    found = {}
    for key, own, members in _belongings(client, named, [name.encode() for name in leave]):
        # The entries of a log that several tasks share are numbered by when they came.
        start = 1 if not own and client.type(key) == b"stream" else 0
        found[neutral(key)] = (sorted(tuple(map(neutral, parts[start:])) for parts in members), own and client.ttl(key) >= 0)
    return found


def copy_task(client: Any, model: Sequence[str], copies: Sequence[Sequence[str]], leave: Sequence[str] = ()) -> None:
    """Write all that the server holds of the task ``model`` again for each of ``copies``: as many ids, in the same order, as long."""
    ids = [one.encode() for one in model]
    found = [
        (key, client.type(key), members, client.pttl(key) if own else -1)
        for key, own, members in _belongings(client, ids, [name.encode() for name in leave])
    ]
    for first in range(0, len(copies), BATCH):
        pipe = client.pipeline(transaction=False)
        for copy in copies[first : first + BATCH]:
            _write(pipe, found, ids, [one.encode() for one in copy])
        pipe.execute()


def _write(pipe: Any, found: list[tuple[bytes, bytes, list[tuple[bytes, ...]], int]], ids: list[bytes], copy: list[bytes]) -> None:
    def renamed(value: bytes) -> bytes:
        shown = _shown(value)
        new = shown
        for one, other in zip(ids, copy, strict=True):
            new = new.replace(one, other)
        return zlib.compress(new) if shown is not value else new

    for old, kind, members, expires in found:
        key = renamed(old)
        parts = [[renamed(part) for part in member] for member in members]
        if kind == b"string":
            pipe.set(key, parts[0][0])
        elif kind == b"stream":
            for (_entry, *_rest), (entry, *fields) in zip(members, parts, strict=True):
                pipe.execute_command("XADD", key, entry if key != old else "*", *fields)
        else:
            command = {b"hash": "HSET", b"list": "RPUSH", b"set": "SADD", b"zset": "ZADD"}[kind]
            pipe.execute_command(command, key, *(part for member in parts for part in member))
        if expires > 0:
            pipe.pexpire(key, expires)


def redis_content(client: Any, keys: Iterable[bytes]) -> dict[bytes, Any]:
    """What some keys hold and whether it expires, comparable also over a restart, after which a hash is in another order."""
    found = {}
    for key in keys:
        members = _members(client, key)
        found[key] = (sorted(members) if client.type(key) in (b"hash", b"set") else members, client.ttl(key) >= 0)
    return found


def redis_holding(client: Any, data: bytes) -> int:
    """In how many values the server holds these bytes."""
    return sum(1 for key in client.scan_iter(count=1000) for parts in _members(client, key) for part in parts if data in part)
