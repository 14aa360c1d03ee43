# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Flags in a key of Redis or Valkey, replaced only if nobody else has replaced them meanwhile."""

from __future__ import annotations

import contextlib
from typing import Any, ContextManager, Iterator, Protocol

from .._errors import Refused


class Connection(Protocol):
    """What is needed of a connection to Redis.

    :ivar redis: the client library.
    :ivar where: the server's address, without a password.
    """

    redis: Any
    where: str

    def asking(self, doing: str) -> ContextManager[Any]:
        """The client, with the library's errors turned into ours."""

    def require_writable(self, doing: str) -> list[str]:
        """Refuse a server that does not take writes."""


class RedisStore:
    """One key that holds a document of flags as text.

    :raises Refused: the key has no name.
    """

    option = "redis_key"

    def __init__(self, connection: Connection, key: str) -> None:
        if not key:
            raise Refused("redis_key is empty", option="redis_key", next_step="Name the key, for example flags")
        self._connection = connection
        self._key = key
        self._before: bytes | None = None
        self._after = b""
        self.where = "the key %s at %s" % (key, connection.where)

    def read(self) -> bytes | None:
        """What the key holds; None if there is no such key.

        :raises Refused: it holds something else than text.
        """
        with self._connection.asking("read the flags") as client:
            kind = _as_bytes(client.type(self._key))
            if kind not in (b"none", b"string"):
                raise Refused(
                    "There is no text in %s but a %s" % (self.where, (kind or b"").decode()),
                    option="redis_key",
                    next_step="Name another key, or another database in url",
                )
            return _as_bytes(client.get(self._key))

    def require_writable(self) -> None:
        """Refuse a server that does not take writes: a replica, a cluster, one that is about to evict what is written."""
        self._connection.require_writable("write the flags")

    def pending(self) -> None:
        """What besides the content is not as it should be: nothing, a key has no more than content."""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Other writers are not kept out; :meth:`commit` sees that they were there."""
        yield

    def stage(self, before: bytes | None, after: bytes) -> None:
        """Remember what to put into the key, and what it has to hold until then."""
        self._before, self._after = before, after

    def discard(self) -> None:
        """Nothing is left of what was staged."""

    def commit(self) -> bool:
        """Put what was staged into the key if nobody has changed it meanwhile, in one step.

        :returns: False if somebody else was there first; then nothing was written.
        """
        with self._connection.asking("write the flags") as client, client.pipeline() as pipe:
            pipe.watch(self._key)
            if _as_bytes(pipe.get(self._key)) != self._before:
                return False
            pipe.multi()
            pipe.set(self._key, self._after)
            try:
                pipe.execute()
            except self._connection.redis.exceptions.WatchError:
                return False
            return True


def _as_bytes(value: Any) -> bytes | None:
    """An answer as the server gave it; with ``decode_responses`` in the url it comes as text."""
    return value.encode() if isinstance(value, str) else value
