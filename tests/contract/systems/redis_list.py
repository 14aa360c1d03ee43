# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plain Redis lists, with a field that identifies a task and without."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import redis

from tests.contract.system import Server, System, Worker
from tests.contract.systems.redis_copies import redis_content, redis_holding
from tests.unit.conftest import wait_for

APPLICATIONS = Path(__file__).parents[1] / "apps"


class ProcessWorker(Worker):
    """A worker that is one process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(60)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(10)


class RedisSystem(System):
    """What lists and streams have in common: worker programs that name their connection."""

    servers = ("redis7", "redis8", "valkey8")
    tells_missing = False

    def __init__(self, server: Server, folder: Path) -> None:
        super().__init__(server, folder)
        self.client: Any = redis.Redis.from_url(server.url)
        self._workers: list[ProcessWorker] = []

    def start_worker(self, queue: str, version: str = "1.0.0") -> ProcessWorker:
        name = "mailer@%s:worker1:%d" % (version, len(self._workers) + 1)
        environment = dict(os.environ, QUEUEOPS_LEDGER=str(self.ledger), QUEUEOPS_GATE=str(self.gate), QUEUEOPS_BROKEN=str(self.broken))
        command = [sys.executable, str(APPLICATIONS / self.backend / "worker.py"), self.server.url, queue, name]
        with open(self.folder / "worker.log", "ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.folder)
        worker = ProcessWorker(process)
        self._workers.append(worker)
        wait_for(lambda: name in [entry["name"] for entry in self.client.client_list()], limit=40, what="the worker's connection")
        return worker

    def holding(self, queue: str, data: bytes) -> int:
        return redis_holding(self.client, data)

    def dump(self) -> Any:
        return redis_content(self.client, self.client.scan_iter(count=1000))

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self.client.close()


class RedisList(RedisSystem):
    """Lists whose JSON payloads hold an id."""

    backend = "redis_list"

    def settings(self) -> dict[str, Any]:
        return dict(super().settings(), id_field="id")

    def declare(self, queue: str) -> None:
        """A list that is empty does not exist."""

    def _payloads(self, count: int, kind: str) -> list[bytes]:
        return [json.dumps({"id": str(uuid.uuid4()), "kind": kind}).encode() for _index in range(count)]

    def _id(self, payload: bytes) -> str:
        return str(json.loads(payload)["id"])

    def _push(self, key: str, count: int, kind: str) -> list[str]:
        payloads = self._payloads(count, kind)
        self.client.rpush(key, *payloads)
        return [self._id(payload) for payload in payloads]

    def publish(self, queue: str, count: int, kind: str = "note") -> list[str]:
        return self._push(queue, count, kind)

    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        return self._push(queue + ":failed", count, kind)

    def fail_many(self, queue: str, count: int) -> list[str]:
        found = []
        for first in range(0, count, 10_000):
            found += self.fail(queue, min(10_000, count - first))
        return found

    def record(self, queue: str, task: str) -> Any:
        payloads = self.client.lrange(queue + ":failed", 0, -1)
        (found,) = [json.loads(payload) for payload in payloads if self._id(payload) == task]
        return {name: value for name, value in found.items() if name not in ("id", "user")}

    def plant(self, queue: str, data: bytes) -> bytes:
        self.client.rpush(queue + ":failed", data)
        return data

    def arrived(self, queue: str) -> int:
        return int(self.client.llen(queue))

    def _held(self, queue: str) -> list[bytes]:
        return [key for key in self.client.scan_iter(count=1000) if key.startswith((queue + ":processing:").encode())]

    def native(self, queue: str) -> dict[str, int]:
        executing = sum(self.client.llen(key) for key in self._held(queue))
        return {"queued": self.client.llen(queue), "executing": executing, "failed": self.client.llen(queue + ":failed")}

    def identities(self, queue: str) -> list[str]:
        keys = [queue.encode(), (queue + ":failed").encode(), ("queueops:parked:list:" + queue).encode(), *self._held(queue)]
        return [self._id(payload) for key in keys for payload in self.client.lrange(key, 0, -1)]


class RedisListPlain(RedisList):
    """Lists whose payloads hold no id: a task is known by the hash of its payload, and moved unread where nothing is chosen."""

    def settings(self) -> dict[str, Any]:
        return System.settings(self)

    def _payloads(self, count: int, kind: str) -> list[bytes]:
        return [json.dumps({"user": str(uuid.uuid4()), "kind": kind}).encode() for _index in range(count)]

    def _id(self, payload: bytes) -> str:
        return hashlib.blake2b(payload, digest_size=8).hexdigest()
