# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Procrastinate with its own worker processes."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import procrastinate
import psycopg
from procrastinate.jobs import Status

from tests.contract.system import Server, System, Worker
from tests.unit.conftest import wait_for

APPLICATION = Path(__file__).parents[1] / "apps" / "procrastinate"
TABLES = ("procrastinate_jobs", "procrastinate_events", "procrastinate_periodic_defers", "queueops_redrive")


class ProcrastinateWorker(Worker):
    """One worker process."""

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


class Procrastinate(System):
    """Queues of Procrastinate."""

    backend = "procrastinate"
    servers = ("postgresql15", "postgresql17")

    def __init__(self, server: Server, folder: Path) -> None:
        super().__init__(server, folder)
        self._workers: list[ProcrastinateWorker] = []

    def app(self) -> procrastinate.App:
        """Procrastinate's own application, on a schema that is made when it is not there."""
        found = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=self.server.url))
        for name in ("note", "hold", "fail", "flaky"):
            found.task(name=name)(lambda text: None)
        return found

    def query(self, query: str, *values: Any) -> list[Any]:
        with psycopg.connect(self.server.url, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def _ensure(self) -> None:
        if self.query("SELECT to_regclass('procrastinate_jobs')")[0][0] is None:
            with self.app().open() as app:
                app.schema_manager.apply_schema()

    def declare(self, queue: str) -> None:
        # A queue is known by the tasks that it has or had.
        (task,) = self.publish(queue, 1)
        with self.app().open() as app:
            app.connector.execute_query("SELECT procrastinate_finish_job_v1(%(id)s, 'succeeded', false)", id=int(task))

    def publish(self, queue: str, count: int, kind: str = "note") -> list[str]:
        self._ensure()
        with self.app().open() as app:
            deferrer = app.configure_task(kind, queue=queue)
            arguments: list[dict[str, Any]] = [{"text": "hunter2"}] * count
            return [str(number) for number in deferrer.batch_defer(*arguments)]

    def fail(self, queue: str, count: int, kind: str = "note") -> list[str]:
        ids = self.publish(queue, count, kind)
        numbers = [int(task) for task in ids]
        # As a worker takes them and gives them up.
        self.query("UPDATE procrastinate_jobs SET status = 'doing' WHERE id = ANY(%s)", numbers)
        self.query("SELECT procrastinate_finish_job_v1(id, 'failed', false) FROM unnest(%s::bigint[]) AS id", numbers)
        return ids

    def record(self, queue: str, task: str) -> Any:
        job = self.query("SELECT to_jsonb(j) - 'id' FROM procrastinate_jobs j WHERE id = %s AND queue_name = %s", int(task), queue)
        events = self.query("SELECT type::text FROM procrastinate_events WHERE job_id = %s ORDER BY id", int(task))
        return job, events

    def plant(self, queue: str, data: bytes) -> bytes:
        (task,) = self.fail(queue, 1)
        held = base64.b64encode(data)
        self.query("UPDATE procrastinate_jobs SET args = jsonb_build_object('args', %s::text) WHERE id = %s", held.decode(), int(task))
        return held

    def holding(self, queue: str, data: bytes) -> int:
        query = "SELECT count(*) FROM procrastinate_jobs WHERE queue_name = %s AND strpos(args::text, %s) > 0"
        return int(self.query(query, queue, data.decode())[0][0])

    def put(self, source: str, queue: str, count: int) -> list[str]:
        if source != "abandoned":
            return super().put(source, queue, count)
        ids = self.publish(queue, count)
        # As a worker takes them whose record is gone.
        self.query("UPDATE procrastinate_jobs SET status = 'doing' WHERE id = ANY(%s)", [int(task) for task in ids])
        return ids

    def arrived(self, queue: str) -> int:
        return int(self.query("SELECT count(*) FROM procrastinate_jobs WHERE queue_name = %s AND status = 'todo'", queue)[0][0])

    def start_worker(self, queue: str, version: str = "1.0.0") -> ProcrastinateWorker:
        self._ensure()
        before = self._registered()
        environment = dict(os.environ, PYTHONPATH=str(APPLICATION), QUEUEOPS_URL=self.server.url, QUEUEOPS_LEDGER=str(self.ledger))
        environment.update(QUEUEOPS_GATE=str(self.gate), QUEUEOPS_BROKEN=str(self.broken))
        command = [
            sys.executable,
            "-m",
            "procrastinate",
            "--app",
            "contract_tasks.app",
            "worker",
            "-c",
            "1",
            *(["-q", queue] if queue else []),
        ]
        with open(self.folder / "worker.log", "ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self.folder)
        worker = ProcrastinateWorker(process)
        self._workers.append(worker)
        wait_for(lambda: self._registered() - before, limit=40, what="the worker's registration")
        return worker

    def _registered(self) -> set[int]:
        return {row[0] for row in self.query("SELECT id FROM procrastinate_workers")}

    def native(self, queue: str) -> dict[str, int]:
        with self.app().open() as app:
            found = {"todo": 0, "doing": 0, "failed": 0}
            for row in app.job_manager.list_queues(queue=queue):
                found.update({name: row[name] for name in found})
            executing = len(list(app.job_manager.list_jobs(queue=queue, status=Status.DOING.value)))
        assert executing == found["doing"]
        return {"queued": found["todo"], "executing": found["doing"], "failed": found["failed"]}

    def identities(self, queue: str) -> list[str]:
        parked = "status = 'cancelled'"
        rows = self.query(
            "SELECT id FROM procrastinate_jobs WHERE queue_name = %s AND (status IN ('todo', 'doing', 'failed') OR " + parked + ")", queue
        )
        return [str(row[0]) for row in rows]

    def dump(self) -> Any:
        there = [name for name in TABLES if self.query("SELECT to_regclass(%s)", name)[0][0]]
        return {name: self.query("SELECT t.*, t.xmin::text FROM %s t ORDER BY 1, 2" % name) for name in there}

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()
