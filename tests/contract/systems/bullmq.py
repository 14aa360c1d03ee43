# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""BullMQ of Node.js with its own worker processes: the present layout of its keys, and the one before version 6."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import redis

from tests.contract.system import Server, System, Worker
from tests.contract.systems.redis_copies import copy_task, redis_holding, redis_record
from tests.unit.conftest import wait_for

APPLICATION = Path(__file__).parents[1] / "apps" / "bullmq"
INSTALLED = Path(__file__).parents[3] / "build" / "contract" / "bullmq"
LOCK = "package-lock.json"


def install() -> Path:
    """The folder with the libraries that ``package-lock.json`` pins, installed by npm if they are not there yet."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    stamp = INSTALLED / "installed"
    wanted = (APPLICATION / LOCK).read_text()
    with open(INSTALLED / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != wanted:
            for name in ("package.json", LOCK):
                shutil.copy(APPLICATION / name, INSTALLED / name)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run(command, cwd=INSTALLED, check=True, capture_output=True, timeout=300)
            stamp.write_text(wanted)
    return INSTALLED / "node_modules"


def node(script: str, given: dict[str, Any], log: Path, **options: Any) -> subprocess.Popen[str]:
    """A Node.js process that runs one of our scripts."""
    environment = dict(os.environ, NODE_PATH=str(install()))
    with open(log, "ab") as errors:
        command = ["node", str(APPLICATION / script), json.dumps(given)]
        return subprocess.Popen(command, env=environment, stderr=errors, text=True, start_new_session=True, **options)


class Tool:
    """BullMQ's own API, in one Node.js process that is started when it is first asked."""

    def __init__(self, given: dict[str, Any], log: Path) -> None:
        self._given = given
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, order: str, queue: str = "", **more: Any) -> Any:
        if self._process is None:
            self._process = node("tool.js", self._given, self._log, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": order, "queue": queue, **more}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._log.read_text()
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer.get("value")

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate(timeout=10)
            self._process = None


class BullmqWorker(Worker):
    """A worker is one process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(60)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(10)


class Bullmq(System):
    """Queues of BullMQ 6."""

    backend = "bullmq"
    servers: tuple[str, ...] = ("redis7", "redis8", "valkey8")
    #: The name under which the library is installed.
    library = "bullmq"
    prefix = "bull"

    def __init__(self, server: Server, folder: Path) -> None:
        super().__init__(server, folder)
        self.client: Any = redis.Redis.from_url(server.url)
        self._log = folder / "node.log"
        self.tool = Tool({"library": self.library, "connection": self.connection(), "prefix": self.prefix}, self._log)
        self._workers: list[BullmqWorker] = []

    def connection(self) -> dict[str, Any]:
        """The server's address as ioredis wants it."""
        parts = urlsplit(self.server.url)
        if parts.scheme == "unix":
            return {"path": parts.path, "db": int(parse_qs(parts.query).get("db", ["0"])[0])}
        return {"host": parts.hostname, "port": parts.port, "db": int(parts.path.strip("/") or 0)}

    def key(self, queue: str, name: str) -> str:
        return "%s:%s:%s" % (self.prefix, queue, name)

    def declare(self, queue: str) -> None:
        self.tool("declare", queue)

    def publish(self, queue: str, count: int, kind: str = "note", **options: Any) -> list[str]:
        jobs = [{"data": {"number": number}, "opts": {"jobId": uuid.uuid4().hex, **options}} for number in range(count)]
        ids: list[str] = self.tool("publish", queue, kind=kind, jobs=jobs)
        return ids

    def publish_numbered(self, queue: str, count: int, kind: str = "note", **options: Any) -> list[str]:
        """With ids by the queue's own counter, as most applications have them."""
        ids: list[str] = self.tool("publish", queue, kind=kind, jobs=[{"data": {"number": n}, "opts": options} for n in range(count)])
        return ids

    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        """All that waits has to be ours, for it is taken in order and fails."""
        assert self.client.llen(self.key(queue, "wait")) == 0
        ids = self.publish(queue, count, kind)
        assert self.tool("fail", queue, count=count) == ids
        # What failed in the same millisecond is ordered by its id.
        failed = [task.decode() for task in self.client.zrange(self.key(queue, "failed"), 0, -1)]
        wanted = set(ids)
        return [task for task in failed if task in wanted]

    def fail_many(self, queue: str, count: int) -> list[str]:
        ids = [*self.fail(queue, 1), *(uuid.uuid4().hex for _copy in range(count - 1))]
        copy_task(self.client, ids[:1], [[task] for task in ids[1:]], self._logs(queue))
        return ids

    def _logs(self, queue: str) -> list[str]:
        """Of its events BullMQ keeps the last ones alone."""
        return [self.key(queue, "events")]

    def record(self, queue: str, task: str) -> Any:
        return redis_record(self.client, [task], self._logs(queue))

    def plant(self, queue: str, data: bytes) -> bytes:
        held = base64.b64encode(data)
        self.tool("publish", queue, kind="note", jobs=[{"data": {"args": [held.decode()]}, "opts": {}}])
        self.tool("fail", queue, count=1)
        return held

    def holding(self, queue: str, data: bytes) -> int:
        return redis_holding(self.client, data)

    def put(self, source: str, queue: str, count: int) -> list[str]:
        if source != "abandoned":
            return super().put(source, queue, count)
        ids = self.publish(queue, count)
        assert self.tool("take", queue, count=count) == ids
        # As when nobody has renewed the lock for long.
        self.client.delete(*(self.key(queue, task + ":lock") for task in ids))
        return ids

    def arrived(self, queue: str) -> int:
        return int(self.client.llen(self.key(queue, "wait")))

    def start_worker(self, queue: str, version: str = "1.0.0") -> BullmqWorker:
        name = "mailer@%s:worker1:%d" % (version, len(self._workers) + 1)
        worker = self._start(queue, name)
        wait_for(lambda: self._connected(":w:" + name), limit=40, what="the worker's connection")
        return worker

    def start_unnamed_worker(self, queue: str) -> BullmqWorker:
        """A worker as most applications start it."""
        worker = self._start(queue, None)
        wait_for(lambda: self._connected(":" + base64.b64encode(queue.encode()).decode()), limit=40, what="the worker's connection")
        return worker

    def _start(self, queue: str, name: str | None) -> BullmqWorker:
        given = {"library": self.library, "connection": self.connection(), "prefix": self.prefix, "queue": queue, "name": name}
        given.update(ledger=str(self.ledger), gate=str(self.gate), broken=str(self.broken))
        worker = BullmqWorker(node("worker.js", given, self._log, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
        self._workers.append(worker)
        return worker

    def _connected(self, ending: str) -> bool:
        return any(connection["name"].endswith(ending) for connection in self.client.client_list())

    def native(self, queue: str) -> dict[str, int]:
        counts = self.tool("counts", queue)
        queued = counts["wait"] + counts["paused"] + counts["prioritized"]
        return {"queued": queued, "executing": counts["active"], "failed": counts["failed"]}

    def identities(self, queue: str) -> list[str]:
        found: list[bytes] = []
        for name in ("wait", "paused", "active"):
            found += self.client.lrange(self.key(queue, name), 0, -1)
        for key in (self.key(queue, "prioritized"), self.key(queue, "failed"), "queueops:parked:%s:%s" % (self.prefix, queue)):
            found += self.client.zrange(key, 0, -1)
        return [task.decode() for task in found]

    def dump(self) -> Any:
        # A worker renews its locks, looks for stalled tasks and waits by the marker.
        passing = (b":lock", b":stalled", b":stalled-check", b":marker")
        keys = [key for key in self.client.scan_iter(count=1000) if not key.endswith(passing)]
        return {key: (self._value(key), self.client.ttl(key) >= 0) for key in keys}

    def _value(self, key: bytes) -> Any:
        # The order of a large hash's fields is Redis' own affair.
        return self.client.hgetall(key) if self.client.type(key) == b"hash" else self.client.dump(key)

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self.tool.close()
        self.client.close()


class Bullmq5(Bullmq):
    """Queues of BullMQ 5, which keeps the tasks of a paused queue in a list of their own."""

    servers = ("redis7",)
    library = "bullmq5"
