# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis streams with one consumer group."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import redis

from tests.contract.systems.redis_list import RedisSystem


class RedisStream(RedisSystem):
    """Streams whose tasks are known by their entry's id."""

    backend = "redis_stream"
    tells_missing = True

    def declare(self, queue: str) -> None:
        with suppress(redis.exceptions.ResponseError):  # It is there already.
            self.client.xgroup_create(queue, "workers", "0", mkstream=True)

    def _add(self, key: str, count: int, kind: str) -> list[str]:
        pipe = self.client.pipeline()
        for number in range(count):
            pipe.xadd(key, {"kind": kind, "payload": '{"user": {"number": %d}}' % number})
        return [entry.decode() for entry in pipe.execute()]

    def publish(self, queue: str, count: int, kind: str = "note") -> list[str]:
        return self._add(queue, count, kind)

    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        return self._add(queue + ":failed", count, kind)

    def native(self, queue: str) -> dict[str, int]:
        (group,) = self.client.xinfo_groups(queue)
        found = {"executing": group["pending"], "failed": self.client.xlen(queue + ":failed")}
        if group["lag"] is not None:
            found["queued"] = group["lag"]
        return found

    def identities(self, queue: str) -> list[str]:
        keys = [queue, queue + ":failed", "queueops:parked:stream:" + queue]
        return [fields.get(b"queueops_id", entry).decode() for key in keys for entry, fields in self.client.xrange(key)]

    def dump(self) -> Any:
        found: dict[bytes, Any] = {}
        for key in self.client.scan_iter(count=1000):
            if self.client.type(key) != b"stream":
                found[key] = self.client.dump(key)
                continue
            # A worker that waits for a task shows itself in the consumer's record.
            groups = self.client.xinfo_groups(key)
            pending = [self.client.xpending_range(key, group["name"], "-", "+", 1000) for group in groups]
            held = [[(entry["message_id"], entry["consumer"], entry["times_delivered"]) for entry in entries] for entries in pending]
            found[key] = (self.client.xrange(key), groups, held)
        return found
