# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Procrastinate, by its tables in PostgreSQL (run against Procrastinate 3.10). Procrastinate itself is never imported.

``procrastinate_jobs`` holds the tasks and their status (todo, doing, succeeded, failed, cancelled, aborted), ``procrastinate_events``
when that changed, and ``procrastinate_workers`` a number and the last heartbeat of each worker. A queue is a name in a task.
Our own table ``queueops_redrive`` beside them, made by the first redrive, remembers what redrives have moved.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Mapping

from .._errors import NotFound, Refused
from .api import Capabilities, Look, QueueBackend, QueueState, RedriveRequest, TaskStore, Unknowns, WorkerState
from .postgresql_connection import PostgresqlConnection
from .procrastinate_counts import STATES, count
from .procrastinate_store import DEAD_AFTER_S, ProcrastinateStore

#: Seconds that counting may take on the server; then it is given up, and unknown.
COUNT_S = 3.0
_GIVEN_UP = (
    "counting took longer than %g s and was given up; an index on procrastinate_jobs (queue_name, id) WHERE status = 'failed' makes it fast"
)

QUIET = "Stop the workers through their service manager (TERM: each finishes what it has and ends), and start them to go on"
_NO_EVENT = "procrastinate_events does not say when the first queued task was deferred"
NAMELESS = "Procrastinate records of a worker only a number and its last heartbeat"

CAPABILITIES = Capabilities(
    system="procrastinate",
    can=frozenset(("list_queues", "oldest_age", "redrive", "redrive_run", "redrive_count", "identify", "check", "breaker")),
    sources={
        "failed": "tasks with the status failed",
        "queued": "tasks with the status todo",
        "executing": "tasks with the status doing, whose worker has sent a heartbeat in the last %d s" % DEAD_AFTER_S,
        "abandoned": "tasks with the status doing, whose worker is gone or has not sent one",
        "parked": "tasks that an earlier redrive parked",
    },
    actions={
        "requeue": "to the status todo, in its queue or in the destination, due at once or when it was scheduled for; attempts grow as by"
        " Procrastinate's own retry, but not for a task that was still queued",
        "fail": "to the status failed",
        "park": "to the status cancelled, which no worker takes in whatever queue it is, with our mark",
        "discard": "deleted, with its events",
        "compensate": "to the destination with the status todo, marked in our table",
    },
    match=("ids", "task", "older_than", "newer_than", "field"),
    instead={
        "in_flight": "Use action=finish; what a killed worker had in hand is redriven by hand from source=abandoned",
        "rate": "Use what the workers report to your monitoring",
        "pause": QUIET,
        "counters": "Use what the workers report to your monitoring; Procrastinate does not count by worker",
        "source:dead_lettered": "Use source=failed; Procrastinate has no dead letters",
        "source:other": "Name the other queue in the option queue, with source=queued",
        "action:dead_letter": "Use action=fail; Procrastinate has no dead letters",
        "match:error": "Use match.task, match.newer_than or match.field; Procrastinate does not store errors",
        "match:version": "Use match.newer_than; Procrastinate does not record which worker's version ran a task",
        "match:header": "Use match.field; a Procrastinate task has no headers beside its arguments",
    },
    guarantee={
        "redrive": "each batch of up to %d tasks is one SQL transaction that marks and moves them; what others have locked is left to them"
        % ProcrastinateStore.batch,
    },
)

# By a partial index that holds executing tasks alone.
_EXECUTING = """
SELECT j.id, j.queue_name, j.worker_id, w.last_heartbeat >= now() - make_interval(secs => %(dead)s),
       (SELECT extract(epoch FROM max(e.at)) FROM procrastinate_events e WHERE e.job_id = j.id AND e.type = 'started')
  FROM procrastinate_jobs j LEFT JOIN procrastinate_workers w ON w.id = j.worker_id
 WHERE j.status = 'doing' ORDER BY j.id
"""
_WORKERS = """
SELECT id, extract(epoch FROM last_heartbeat), last_heartbeat >= now() - make_interval(secs => %(dead)s)
  FROM procrastinate_workers ORDER BY id
"""
# Jumps from one name to the next in the index on it, however many tasks there are.
_QUEUES = """
WITH RECURSIVE names AS (
  (SELECT queue_name FROM procrastinate_jobs ORDER BY queue_name LIMIT 1)
  UNION ALL
  SELECT (SELECT j.queue_name FROM procrastinate_jobs j WHERE j.queue_name > n.queue_name ORDER BY j.queue_name LIMIT 1)
    FROM names n WHERE n.queue_name IS NOT NULL
) SELECT queue_name FROM names WHERE queue_name IS NOT NULL
"""
_EXISTS = "SELECT EXISTS (SELECT 1 FROM procrastinate_jobs WHERE queue_name = %(queue)s)"
# The type as text: before 3.4 there is no 'retried'.
_OLDEST = """
SELECT extract(epoch FROM (
  SELECT max(e.at) FROM procrastinate_events e
   WHERE e.job_id = j.id AND e.type::text IN ('deferred', 'deferred_for_retry', 'retried') AND e.at <= now()))
  FROM procrastinate_jobs j
 WHERE j.queue_name = %(queue)s AND j.status = 'todo' AND (j.scheduled_at IS NULL OR j.scheduled_at <= now())
 ORDER BY j.id LIMIT 1
"""


class ProcrastinateBackend(QueueBackend):
    """Queues of Procrastinate in one database. Setting ``schema``: where its tables are; default: as the user's search path says."""

    capabilities = CAPABILITIES

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._database = PostgresqlConnection(settings)

    # Looking

    def look(self, queues: list[str] | None = None, missing_ok: bool = False) -> Look:
        """Some queries in one read-only snapshot. What takes longer than :data:`COUNT_S` to count is given up."""
        unknowns = Unknowns()
        try:
            return self._look(queues, missing_ok, unknowns)
        finally:
            self._database.close()

    def _look(self, queues: list[str] | None, missing_ok: bool, unknowns: Unknowns) -> Look:
        with self._database.transaction("look at the queues", timeout=self._database.timeout) as cursor:
            self._require_schema(cursor)
            now = _one(cursor, "SELECT extract(epoch FROM now())")
            names = list(dict.fromkeys(queues)) if queues is not None else [row[0] for row in _all(cursor, _QUEUES)]
            exist = {name: bool(_one(cursor, _EXISTS, queue=name)) for name in names}
            executing = _all(cursor, _EXECUTING, dead=DEAD_AFTER_S)
            workers = _all(cursor, _WORKERS, dead=DEAD_AFTER_S)
            if not missing_ok and not all(exist.values()):
                raise self._missing([name for name in names if not exist[name]], [row[0] for row in _all(cursor, _QUEUES)])
            counts = self._in_time(cursor, lambda: count(cursor, names))
            oldest = {name: self._in_time(cursor, partial(_all, cursor, _OLDEST, queue=name)) for name in names}
        states = []
        for name in names:
            state = QueueState(name, exists=exist[name])
            held = [alive for _task, queue, _worker, alive, _since in executing if queue == name]
            state.executing, state.abandoned = sum(1 for alive in held if alive), sum(1 for alive in held if not alive)
            for field in STATES:
                if counts is not None:
                    setattr(state, field, counts[name].found.get(field))
                note = _GIVEN_UP % COUNT_S if counts is None else counts[name].notes.get(field)
                if note:
                    unknowns.note("queues." + field, note, name)
            since = oldest[name]
            if since and since[0][0] is not None:
                state.oldest_task_age_s = round(max(0.0, float(now) - float(since[0][0])), 3)
            else:
                reason = "finding it took too long" if since is None else _NO_EVENT if since else "no task is queued"
                unknowns.note("queues.oldest_task_age_s", reason, name)
            states.append(state)
        if states:
            unknowns.note("queues.dead_lettered", "Procrastinate has no dead letters; tasks that failed for good are counted in failed")
            unknowns.note("queues.paused", "Procrastinate knows no pause")
            unknowns.note("queues.rate_per_s", CAPABILITIES.instead["counters"])
        return Look(float(now), states, [_worker(row, executing, unknowns) for row in workers], unknowns.as_dict())

    def _in_time(self, cursor: Any, ask: Callable[[], Any]) -> Any:
        """The answer; None if the server needs longer than :data:`COUNT_S`."""
        try:
            with cursor.connection.transaction():
                cursor.execute("SELECT set_config('statement_timeout', %s, true)", ("%dms" % (COUNT_S * 1000),))
                return ask()
        except self._database.psycopg.errors.QueryCanceled:
            return None

    def _require_schema(self, cursor: Any) -> None:
        jobs, workers = _all(cursor, "SELECT to_regclass('procrastinate_jobs'), to_regclass('procrastinate_workers')")[0]
        if jobs is None or workers is None:
            raise Refused(
                "There are %s at %s"
                % ("no tables of Procrastinate" if jobs is None else "only tables of a Procrastinate before 3.1", self._database.where),
                option="schema",
                next_step="Check url and schema" if jobs is None else "Apply Procrastinate's migrations",
            )

    def _missing(self, missing: list[str], known: list[str], option: str = "queues") -> NotFound:
        return NotFound(
            "There is no queue %s at %s" % (" and no queue ".join(missing), self._database.where),
            option=option,
            next_step="Name one of: %s" % (", ".join(known[:20]) or "none; no task was ever deferred there, check url and schema"),
        )

    # Redriving

    def open_store(self, request: RedriveRequest, check: bool) -> TaskStore:
        named = [rule.destination for rule in request.rules if rule.destination]
        if request.source == "queued" and any(
            rule.action == "requeue" and rule.destination in (None, request.queue) for rule in request.rules
        ):
            raise Refused(
                "Queued tasks would go from queue %s to where they are" % request.queue,
                option="rules",
                next_step="Name another queue in the rule's destination",
            )
        try:
            if not check:
                self._database.require_writable("redrive")
            with self._database.transaction("redrive") as cursor:
                self._require_schema(cursor)
                for names, option in (([request.queue], "queue"), (named, "destination")):
                    missing = [name for name in names if not _one(cursor, _EXISTS, queue=name)]
                    if missing:
                        raise self._missing(missing, [row[0] for row in _all(cursor, _QUEUES)], option)
            return ProcrastinateStore(self._database, request, list(dict.fromkeys((request.queue, *named))), check)
        except BaseException:
            self._database.close()
            raise


def _all(cursor: Any, query: str, **values: Any) -> list[tuple[Any, ...]]:
    cursor.execute(query, values)
    found: list[tuple[Any, ...]] = cursor.fetchall()
    return found


def _one(cursor: Any, query: str, **values: Any) -> Any:
    rows = _all(cursor, query, **values)
    return rows[0][0] if rows else None


def _worker(row: tuple[Any, ...], executing: list[tuple[Any, ...]], unknowns: Unknowns) -> WorkerState:
    number, seen, alive = row
    worker = WorkerState(str(number), last_seen=float(seen))
    held = [(task, queue, since) for task, queue, holder, _alive, since in executing if holder == number]
    worker.state = "gone" if not alive else "busy" if held else "idle"
    if held and alive:
        task, worker.task_queue, since = min(held, key=lambda entry: (entry[2] is None, entry[2]))
        worker.task, worker.task_since = str(task), float(since) if since is not None else None
    for name in ("host", "pid", "version", "queues", "started", "completed", "failed"):
        unknowns.note("workers." + name, NAMELESS)
    return worker
