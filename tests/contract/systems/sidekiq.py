# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sidekiq with its own worker processes, and a Ruby process that answers by Sidekiq's own API."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
from pathlib import Path
from typing import Any

import redis

from tests.contract.system import Server, System, Worker
from tests.contract.systems.redis_copies import copy_task, redis_content, redis_holding, redis_record
from tests.unit.conftest import wait_for

APPLICATION = Path(__file__).parents[1] / "apps" / "sidekiq"
TASKS = {"note": "Note", "hold": "Hold", "fail": "Fail", "flaky": "Flaky"}


class SidekiqWorker(Worker):
    """One Sidekiq process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


class Sidekiq(System):
    """Queues of Sidekiq."""

    backend = "sidekiq"
    servers = ("redis7", "redis8", "valkey8")

    def __init__(self, server: Server, folder: Path) -> None:
        super().__init__(server, folder)
        self.client: Any = redis.Redis.from_url(server.url)
        self._workers: list[SidekiqWorker] = []
        self._ruby: subprocess.Popen[str] | None = None

    def environment(self) -> dict[str, str]:
        found = dict(os.environ, REDIS_URL=self.server.url, QUEUEOPS_LEDGER=str(self.ledger), LANG="C.UTF-8")
        found.update(QUEUEOPS_GATE=str(self.gate), QUEUEOPS_BROKEN=str(self.broken))
        return found

    def ask(self, *order: Any) -> Any:
        """One order to the Ruby process, by Sidekiq's own API."""
        if self._ruby is None:
            with open(self.folder / "ruby.log", "a") as log:
                self._ruby = subprocess.Popen(
                    ["ruby", str(APPLICATION / "helper.rb")],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=self.environment(),
                )
        assert self._ruby.stdin is not None and self._ruby.stdout is not None
        self._ruby.stdin.write(json.dumps(order) + "\n")
        self._ruby.stdin.flush()
        answer = self._ruby.stdout.readline()
        assert answer, (self.folder / "ruby.log").read_text()
        return json.loads(answer)[0]

    def declare(self, queue: str) -> None:
        # As Sidekiq leaves it when a queue has been worked off.
        self.client.sadd("queues", queue)

    def publish(self, queue: str, count: int, kind: str = "note") -> list[str]:
        return [str(jid) for jid in self.ask("publish", queue, TASKS[kind], count)]

    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        return self.fail_into("retry", queue, count, kind)

    def fail_into(self, place: str, queue: str, count: int, kind: str = "note") -> list[str]:
        """Failed tasks in the retry or the dead set."""
        return [str(jid) for jid in self.ask("fail", queue, TASKS[kind], count, place)]

    def fail_many(self, queue: str, count: int) -> list[str]:
        ids = [*self.fail(queue, 1), *(secrets.token_hex(12) for _copy in range(count - 1))]
        copy_task(self.client, ids[:1], [[task] for task in ids[1:]])
        return ids

    def record(self, queue: str, task: str) -> Any:
        return redis_record(self.client, [task])

    def plant(self, queue: str, data: bytes) -> bytes:
        self.fail(queue, 1)
        ((entry, due),) = self.client.zpopmin("retry")
        held = base64.b64encode(data)
        self.client.zadd("retry", {json.dumps(dict(json.loads(entry), args=[held.decode()])): due})
        return held

    def holding(self, queue: str, data: bytes) -> int:
        return redis_holding(self.client, data)

    def put(self, source: str, queue: str, count: int) -> list[str]:
        return self.fail_into("dead", queue, count) if source == "dead_lettered" else super().put(source, queue, count)

    def arrived(self, queue: str) -> int:
        return int(self.client.llen("queue:" + queue))

    def start_worker(self, queue: str, version: str = "1.0.0") -> SidekiqWorker:
        command = ["sidekiq", "-r", str(APPLICATION / "contract_tasks.rb"), "-c", "1", "-q", queue, "-g", "mailer@" + version]
        with open(self.folder / "worker.log", "ab") as log:
            process = subprocess.Popen(command, env=self.environment(), stdout=log, stderr=log, cwd=self.folder)
        worker = SidekiqWorker(process)
        self._workers.append(worker)
        wait_for(lambda: self._known(process.pid), limit=40, what="the worker's registration")
        return worker

    def _known(self, pid: int) -> bool:
        return any(name.split(b":")[-2] == b"%d" % pid for name in self.client.smembers("processes"))

    def native(self, queue: str) -> dict[str, int]:
        found = {name: int(count) for name, count in self.ask("native", queue).items()}
        del found["dead"]
        return found

    def identities(self, queue: str) -> list[str]:
        entries = self.client.lrange("queue:" + queue, 0, -1)
        for key in ("retry", "dead", "queueops:parked:" + queue):
            entries += self.client.zrange(key, 0, -1)
        for process in self.client.smembers("processes"):
            for held in self.client.hvals(process + b":workers") + self.client.hvals(process + b":work"):
                entries.append(json.loads(held)["payload"])
        tasks = [json.loads(entry) for entry in entries]
        return [task["jid"] for task in tasks if task["queue"] == queue]

    def dump(self) -> Any:
        # A worker writes its own heartbeat now and then.
        beating = {name + end for name in self.client.smembers("processes") for end in (b"", b":work", b":workers")}
        keys = [key for key in self.client.scan_iter(count=1000) if key not in beating and not key.startswith(b"stat:")]
        return redis_content(self.client, keys)

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        if self._ruby is not None:
            self._ruby.kill()
            self._ruby.wait(10)
        self.client.close()
