# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real RQ on a real Redis: queues, tasks that write a ledger, and worker processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import rq
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend
from rq.job_lifecycle import record_job_failure

from tests.unit.conftest import RedisServer, wait_for

TASKS = """
import os, time

def note(ledger, number):
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, ("%s\\n" % number).encode())
    os.close(descriptor)

def fail(number, secret="hunter2"):
    raise ValueError("cannot do %s with %s" % (number, secret))

def fail_otherwise(number):
    raise KeyError(number)

def hold(path):
    while not os.path.exists(path):
        time.sleep(0.02)
"""

ERROR = 'Traceback (most recent call last):\n  File "tasks.py", line 9, in fail\n    raise ValueError()\nValueError: no such thing\n'


class Broker:
    """RQ on the test's Redis, and the worker processes started on it."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.url = server.url
        self.folder = folder
        self.client = redis.Redis.from_url(server.url)
        self.ledger = str(folder / "ledger")
        self._processes: list[subprocess.Popen[bytes]] = []
        (folder / "tasks.py").write_text(TASKS)

    def backend(self, name: str = "rq", **settings: Any) -> Any:
        return open_backend(name, {"url": self.url, **settings})

    def queue(self, name: str = "mail") -> rq.Queue:
        return rq.Queue(name, connection=self.client)

    def publish(self, count: int, function: str = "note", queue: str = "mail") -> list[str]:
        """``count`` numbered tasks; ``note`` writes its number to the ledger."""
        target = self.queue(queue)
        arguments = [(self.ledger, number) if function == "note" else (number,) for number in range(count)]
        prepared = [rq.Queue.prepare_data("tasks." + function, args=given) for given in arguments]
        return [job.id for job in target.enqueue_many(prepared)]

    def fail(self, count: int, function: str = "note", queue: str = "mail", worker: str = "mailer@2.0.0:worker1:1") -> list[str]:
        """``count`` tasks that failed, by RQ's own code for it but without a worker process."""
        ids = self.publish(count, function, queue)
        pipe = self.client.pipeline()
        for job in rq.job.Job.fetch_many(ids, connection=self.client):
            assert job is not None
            job.worker_name = worker
            job.started_at = job.ended_at = rq.utils.now()
            record_job_failure(job, ERROR, pipe)
        pipe.delete(self.queue(queue).key)
        pipe.execute()
        return ids

    def start_worker(self, name: str, *queues: str, burst: bool = False) -> subprocess.Popen[bytes]:
        """A worker process; returns when it has registered (burst: when it has finished)."""
        options = ["--url", self.url, "--name", name, *(["--burst"] if burst else [])]
        command = [sys.executable, "-m", "rq.cli", "worker", *options, *(queues or ("mail",))]
        environment = dict(os.environ, PYTHONPATH=str(self.folder))
        with open(self.folder / "worker.log", "ab") as log:
            # A session of its own, so that what it forks can be found after it was killed.
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        self._processes.append(process)
        if burst:
            assert process.wait(60) == 0
        else:
            wait_for(lambda: self.client.sismember("rq:workers", "rq:worker:" + name), what="the worker's registration")
        return process

    def noted(self) -> list[str]:
        return Path(self.ledger).read_text().split() if os.path.exists(self.ledger) else []

    def snapshot(self) -> dict[bytes, Any]:
        """Everything in the database, and whether it expires."""
        return {key: (content(self.client, key), self.client.ttl(key) >= 0) for key in self.client.scan_iter(count=1000)}

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait(10)
        # A task's process outlives its killed worker, and would write into the next test's database.
        wait_for(self._no_more_forked, what="the end of the tasks' processes")

    def _no_more_forked(self) -> bool:
        sessions = {process.pid for process in self._processes}
        forked = [pid for pid, session, state in processes() if session in sessions and state != "Z"]
        for pid in forked:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not forked


def content(client: Any, key: bytes) -> Any:
    """What a key holds, comparable. A large hash is dumped in another order after each growth, so its fields are read."""
    return client.hgetall(key) if client.type(key) == b"hash" else client.dump(key)


def processes() -> Iterator[tuple[int, int, str]]:
    """Pid, session and state of every process."""
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        yield int(entry.parent.name), int(fields[3]), fields[0]


@pytest.fixture
def broker(redis_server: RedisServer, tmp_path: Path) -> Iterator[Broker]:
    found = Broker(redis_server, tmp_path)
    yield found
    found.close()


def as_text(value: Any) -> str:
    """A result as it would be printed, to search it for what must not be there."""
    return json.dumps(value)
