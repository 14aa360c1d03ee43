# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RQ with its own worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
import rq
from rq.job_lifecycle import record_job_failure

from tests.contract.system import Server, System, Worker
from tests.contract.systems.redis_copies import copy_task, redis_holding, redis_record
from tests.unit.conftest import wait_for
from tests.unit.queue.conftest import content, processes

APPLICATION = Path(__file__).parents[1] / "apps" / "rq"
ERROR = 'Traceback (most recent call last):\n  File "tasks.py", line 9, in fail\n    raise ValueError("no good")\nValueError: no good\n'


class RqWorker(Worker):
    """A worker and what it forks, in a session of their own."""

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
        # A task's process outlives its killed worker, and would write into the next test's ledger.
        wait_for(self._alone, what="the end of the tasks' processes")

    def _alone(self) -> bool:
        forked = [pid for pid, session, state in processes() if session == self.pid and state != "Z"]
        for pid in forked:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not forked


class Rq(System):
    """Queues of RQ."""

    backend = "rq"
    servers = ("redis7", "redis8", "valkey8")

    def __init__(self, server: Server, folder: Path) -> None:
        super().__init__(server, folder)
        self.client: Any = redis.Redis.from_url(server.url)
        self._workers: list[RqWorker] = []

    def _queue(self, name: str) -> rq.Queue:
        return rq.Queue(name, connection=self.client)

    def declare(self, queue: str) -> None:
        # RQ knows a queue from its first task on.
        job = self._queue(queue).enqueue("contract_tasks.note", "none")
        job.delete()

    def publish(self, queue: str, count: int, kind: str = "note") -> list[str]:
        ids = [str(uuid.uuid4()) for _index in range(count)]
        prepared = [rq.Queue.prepare_data("contract_tasks." + kind, args=(task,), job_id=task) for task in ids]
        self._queue(queue).enqueue_many(prepared)
        return ids

    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        ids = self.publish(queue, count, kind)
        pipe = self.client.pipeline()
        # What is left to expire at the same second is ordered by its name.
        for job in rq.job.Job.fetch_many(ids, connection=self.client):
            assert job is not None
            job.worker_name = "mailer@2.0.0:worker1:1"
            job.started_at = job.ended_at = rq.utils.now()
            record_job_failure(job, ERROR, pipe)
            pipe.lrem(self._queue(queue).key, 1, job.id)
        pipe.execute()
        failed = self._queue(queue).failed_job_registry.get_job_ids(cleanup=False)
        return [task for task in failed if task in set(ids)]

    def fail_many(self, queue: str, count: int) -> list[str]:
        ids = [*self.fail(queue, 1), *(str(uuid.uuid4()) for _copy in range(count - 1))]
        copy_task(self.client, ids[:1], [[task] for task in ids[1:]])
        return ids

    def record(self, queue: str, task: str) -> Any:
        return redis_record(self.client, [task])

    def plant(self, queue: str, data: bytes) -> bytes:
        (task,) = self.fail(queue, 1)
        held = zlib.compress(data)
        self.client.hset("rq:job:" + task, "data", held)
        return held

    def holding(self, queue: str, data: bytes) -> int:
        return redis_holding(self.client, data)

    def put(self, source: str, queue: str, count: int) -> list[str]:
        if source != "abandoned":
            return super().put(source, queue, count)
        ids = self.publish(queue, count)
        for _task in ids:
            # As a worker takes a task that it then does not begin.
            self.client.lmove("rq:queue:" + queue, "rq:queue:%s:intermediate" % queue, "LEFT", "RIGHT")
        return ids

    def arrived(self, queue: str) -> int:
        return int(self.client.llen("rq:queue:" + queue))

    def start_worker(self, queue: str, version: str = "1.0.0") -> RqWorker:
        name = "mailer@%s:worker1:%d" % (version, len(self._workers) + 1)
        environment = dict(os.environ, PYTHONPATH=str(APPLICATION), QUEUEOPS_LEDGER=str(self.ledger))
        environment.update(QUEUEOPS_GATE=str(self.gate), QUEUEOPS_BROKEN=str(self.broken))
        command = [sys.executable, "-m", "rq.cli", "worker", "--url", self.server.url, "--name", name, queue]
        with open(self.folder / "worker.log", "ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        worker = RqWorker(process)
        self._workers.append(worker)
        wait_for(lambda: self.client.sismember("rq:workers", "rq:worker:" + name), limit=40, what="the worker's registration")
        return worker

    def native(self, queue: str) -> dict[str, int]:
        found = self._queue(queue)
        started, failed = found.started_job_registry, found.failed_job_registry
        return {
            "queued": found.count,
            "executing": len(started.get_job_ids(cleanup=False)),
            "failed": len(failed.get_job_ids(cleanup=False)),
        }

    def identities(self, queue: str) -> list[str]:
        found: list[str] = []
        key = "rq:queue:" + queue
        executing = [member.decode().rsplit(":", 1)[0] for member in self.client.zrange("rq:wip:" + queue, 0, -1)]
        taken = [task.decode() for task in self.client.lrange(key + ":intermediate", 0, -1)]
        found += [task.decode() for task in self.client.lrange(key, 0, -1)]
        found += executing + [task for task in taken if task not in executing]
        found += [task.decode() for task in self.client.zrange("rq:failed:" + queue, 0, -1)]
        found += [task.decode() for task in self.client.zrange("queueops:parked:rq:" + queue, 0, -1)]
        return found

    def dump(self) -> Any:
        # A worker writes its own heartbeat now and then.
        keys = [key for key in self.client.scan_iter(count=1000) if not key.startswith(b"rq:worker:")]
        return {key: (content(self.client, key), self.client.ttl(key) >= 0) for key in keys}

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
        self.client.close()
