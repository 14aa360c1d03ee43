# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis streams with one consumer group."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import redis

from tests.contract.systems.redis_list import RedisSystem


class RedisStream(RedisSystem):
    """Streams whose tasks are known by their entry's id."""

    backend = "redis_stream"
    tells_missing = True
    abandoned_settings: Mapping[str, Any] = {"abandoned_after": 0}

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

    def fail_many(self, queue: str, count: int) -> list[str]:
        found = []
        for first in range(0, count, 10_000):
            found += self.fail(queue, min(10_000, count - first))
        return found

    def record(self, queue: str, task: str) -> Any:
        ((_entry, fields),) = self.client.xrange(queue + ":failed", task, task)
        # What it counts is all that differs.
        return {name: re.sub(rb"\d+", b"N", value) for name, value in fields.items()}

    def plant(self, queue: str, data: bytes) -> bytes:
        self.client.xadd(queue + ":failed", {"kind": "note", "payload": data})
        return data

    def put(self, source: str, queue: str, count: int) -> list[str]:
        if source != "abandoned":
            return super().put(source, queue, count)
        ids = self.publish(queue, count)
        # By one that has no connection of its name; how long it has been silent is an option.
        self.client.xreadgroup("workers", "mailer@2.0.0:worker9:1", {queue: ">"}, count=count)
        return ids

    def arrived(self, queue: str) -> int:
        return int(self.client.xlen(queue))

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
