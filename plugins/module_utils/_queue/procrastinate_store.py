# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Procrastinate's tasks opened for one redrive: each batch is one transaction that marks and moves."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any, Iterator

from .._errors import Unavailable
from .api import Census, Decision, RedriveRequest, Sweep, Task, TaskStore
from .postgresql_connection import PostgresqlConnection

BATCH = 500
#: Ids read by one query.
PIECE = 10000
#: A worker that has not sent a heartbeat for this long (s) is dead; Procrastinate's own default.
DEAD_AFTER_S = 30
#: How long the record of which tasks a run has moved is kept (days).
KEPT_DAYS = 30
#: How often a batch is tried that collides with tasks which are deferred at the same moment.
TRIES = 5

MOVED_BEFORE = "already moved by this run"
REASONS = {
    "m": "",
    "a": MOVED_BEFORE,
    "l": "another task with its queueing lock is queued",
    "r": "its abortion was requested",
    "g": "taken by somebody else meanwhile",
    "h": "another session of the database holds it; run again when that has ended",
}
#: What the server says when somebody else's lock was waited for long enough.
LOCKED = "55P03"

_MAKE = """
CREATE TABLE IF NOT EXISTS queueops_redrive (
  job_id bigint NOT NULL, run text NOT NULL, pass text NOT NULL, action text NOT NULL, attempts integer NOT NULL,
  at timestamp with time zone NOT NULL DEFAULT now(), PRIMARY KEY (job_id, run))
"""
_INDEX = "CREATE INDEX IF NOT EXISTS queueops_redrive_pass ON queueops_redrive (pass)"
_FORGET = "DELETE FROM queueops_redrive WHERE at < now() - make_interval(days => %(days)s) AND action <> 'park'"
#: In place of our table, while it is not there.
_NONE = "(SELECT 0::bigint AS job_id, ''::text AS run, ''::text AS action WHERE false)"

_ALIVE = (
    "(SELECT w.last_heartbeat >= now() - make_interval(secs => %d) FROM procrastinate_workers w WHERE w.id = j.worker_id)" % DEAD_AFTER_S
)
_PARKED = "j.status = 'cancelled' AND EXISTS (SELECT 1 FROM {marks} p WHERE p.job_id = j.id AND p.action = 'park')"
SOURCES = {
    "failed": "j.status = 'failed'",
    "queued": "j.status = 'todo'",
    "executing": "j.status = 'doing' AND " + _ALIVE,
    "abandoned": "j.status = 'doing' AND " + _ALIVE + " IS NOT TRUE",
    "parked": _PARKED,
}

# Whether this run has moved a task. Looked up for each one: joined, it would be by what the planner knows of the table, which is
# what was in it before the redrive began.
_ALREADY = "((SELECT count(*) FROM {marks} m WHERE m.job_id = j.id AND m.run = %(run)s) > 0)"
# By the primary key: sorting a long queue for every window would take as long each time. What is switched off has so high a cost
# for the planner that it would compile the query first, which takes half a second.
_BY_KEY = "SELECT set_config('enable_sort', 'off', true), set_config('jit', 'off', true)"

# The tasks come by their ids, in the order of the primary key, so that each window begins where the one before ended.
_WINDOW = """
SELECT j.id, j.task_name, j.args::text, {already},
       (SELECT count(*) FROM {marks} r WHERE r.job_id = j.id AND r.action IN ('requeue', 'compensate')),
       (SELECT extract(epoch FROM max(e.at)) FROM procrastinate_events e
         WHERE e.job_id = j.id AND e.type IN ('failed', 'aborted', 'cancelled', 'started', 'deferred'))
  FROM procrastinate_jobs j
 WHERE j.queue_name = %(queue)s AND {source} AND j.id > %(after)s AND j.id <= %(last)s {chosen}
 ORDER BY j.id LIMIT %(most)s
"""

# What moves, in one statement: locked, checked, changed as procrastinate_retry_job_v2 would, and marked. What is due later stays so,
# and what was never tried has no attempt more.
_MOVE = """
WITH chosen AS MATERIALIZED (
  SELECT j.id, j.status, j.task_name, j.attempts, j.queueing_lock, j.abort_requested, {already} AS already
    FROM procrastinate_jobs j
   WHERE {which} AND {source} ORDER BY j.id LIMIT %(most)s FOR UPDATE OF j {locked}
), judged AS MATERIALIZED (
  SELECT c.id, c.task_name, c.attempts + CASE WHEN %(back)s AND c.status <> 'todo' THEN 1 ELSE 0 END AS attempts, CASE
      WHEN c.already AND %(action)s <> 'park' THEN 'a'
      WHEN %(back)s AND c.status = 'doing' AND c.abort_requested THEN 'r'
      WHEN %(back)s AND c.queueing_lock IS NOT NULL AND c.status <> 'todo' AND (
           EXISTS (SELECT 1 FROM procrastinate_jobs o WHERE o.queueing_lock = c.queueing_lock AND o.status = 'todo')
           OR EXISTS (SELECT 1 FROM chosen d WHERE d.queueing_lock = c.queueing_lock AND d.id < c.id)) THEN 'l'
      ELSE 'm' END AS outcome
    FROM chosen c
), changed AS (
  {change}
), marked AS (
  INSERT INTO queueops_redrive (job_id, run, pass, action, attempts)
  SELECT id, %(run)s, %(pass)s, %(action)s, attempts FROM judged WHERE outcome = 'm'
      ON CONFLICT (job_id, run) DO UPDATE SET action = excluded.action, pass = excluded.pass, attempts = excluded.attempts, at = now()
) SELECT id, outcome, task_name FROM judged ORDER BY id
"""
_BACK = """
UPDATE procrastinate_jobs j
   SET status = 'todo', attempts = judged.attempts, abort_requested = false,
       scheduled_at = CASE WHEN j.scheduled_at > now() THEN j.scheduled_at END,
       queue_name = coalesce(%(destination)s, j.queue_name)
  FROM judged WHERE j.id = judged.id AND judged.outcome = 'm' RETURNING j.id
"""
_STATUS = """
UPDATE procrastinate_jobs j SET status = '%s', abort_requested = false
  FROM judged WHERE j.id = judged.id AND judged.outcome = 'm' RETURNING j.id
"""
_DELETE = "DELETE FROM procrastinate_jobs j USING judged WHERE j.id = judged.id AND judged.outcome = 'm' RETURNING j.id"
CHANGES = {"requeue": _BACK, "compensate": _BACK, "fail": _STATUS % "failed", "park": _STATUS % "cancelled", "discard": _DELETE}

# Of these, what is where it was: somebody else holds it.
_THERE = "SELECT j.id FROM procrastinate_jobs j WHERE j.id = ANY(%(ids)s) AND {source}"
# All that this run has not moved of what was there when it began.
_LEFT = "SELECT count(*) FROM procrastinate_jobs j WHERE j.queue_name = %(queue)s AND j.id <= %(last)s AND {source} AND NOT {already}"

# What was parked and moves again is parked no more.
_UNPARK = "UPDATE queueops_redrive SET action = 'unparked' WHERE action = 'park' AND job_id = ANY(%(ids)s)"
# Workers look by themselves every few seconds; this wakes them now.
_WAKE = """
SELECT pg_notify('procrastinate_queue_v1#' || %(queue)s, told), pg_notify('procrastinate_any_queue_v1', told)
  FROM (SELECT json_build_object('type', 'job_inserted', 'job_id', %(id)s::bigint)::text AS told) n
"""
_CENSUS = """
SELECT count(*) FILTER (WHERE j.status = 'failed'), count(*) FILTER (WHERE j.status = 'todo'),
       count(*) FILTER (WHERE j.status = 'doing'), count(*) FILTER (WHERE {parked})
  FROM procrastinate_jobs j WHERE j.queue_name = ANY(%(queues)s) AND j.status IN ('failed', 'todo', 'doing', 'cancelled')
"""
_IDS = """
SELECT j.id FROM procrastinate_jobs j
 WHERE j.queue_name = ANY(%(queues)s) AND (j.status IN ('failed', 'todo', 'doing') OR {parked}) AND j.id > %(after)s
 ORDER BY j.id LIMIT %(most)s
"""
# One that is gone was deleted when it succeeded, as the worker may be told to do; one with more attempts than when it was moved has
# failed again, and waits for another or is at it.
_FATES = """
SELECT count(*) FILTER (WHERE j.id IS NULL OR j.status IN ('succeeded', 'cancelled', 'aborted')),
       count(*) FILTER (WHERE j.status = 'failed' OR (j.status IN ('todo', 'doing') AND j.attempts > r.attempts))
  FROM queueops_redrive r LEFT JOIN procrastinate_jobs j ON j.id = r.job_id
 WHERE r.pass = %(pass)s AND r.action IN ('requeue', 'compensate')
"""


class ProcrastinateStore(TaskStore):
    """The tasks of one queue in one state."""

    batch = BATCH

    def __init__(self, database: PostgresqlConnection, request: RedriveRequest, queues: list[str], check: bool) -> None:
        self._database = database
        self._request = request
        self._queues = queues
        self._run = request.run or ""
        self._pass = uuid.uuid4().hex
        self._after = 0
        # Others' locks on tasks are waited for, as a run that was killed holds some until the server notices; but only once.
        self._waits = True
        self._refused = 0
        if not check:
            self._prepare()
        with database.transaction("redrive") as cursor:
            cursor.execute("SELECT to_regclass('queueops_redrive'), (SELECT max(id) FROM procrastinate_jobs), extract(epoch FROM now())")
            marks, last, now = cursor.fetchone()
        self._marks = _NONE if marks is None else "queueops_redrive"
        # Tasks that come later are not part of this redrive.
        self._last = int(last or 0)
        self._now = float(now)
        ids = [rule.match.ids for rule in request.rules]
        self._ids = (
            None if None in ids else sorted({int(task) for named in ids for task in named or () if task.isdigit() and len(task) < 19})
        )

    def _prepare(self) -> None:
        with self._database.transaction("look for the table queueops_redrive") as cursor:
            cursor.execute("SELECT to_regclass('queueops_redrive')")
            there = cursor.fetchone()[0]
        with self._database.transaction("make the table queueops_redrive", write=True) as cursor:
            if there is None:
                # Two that begin at once would both find that it is not there.
                cursor.execute("SELECT pg_advisory_xact_lock(hashtext('queueops_redrive'))")
                cursor.execute(_MAKE)
                cursor.execute(_INDEX)
            else:
                cursor.execute(_FORGET, {"days": KEPT_DAYS})

    def _sql(self, text: str, **pieces: str) -> str:
        source = SOURCES[self._request.source]
        locked = "" if self._waits else "SKIP LOCKED"
        known = {"source": source, "parked": _PARKED, "already": _ALREADY, "locked": locked, **pieces, "marks": self._marks}
        for name, value in known.items():
            text = text.replace("{%s}" % name, value)
        return text

    def now(self) -> float:
        return self._now

    def census(self) -> Census:
        with self._database.transaction("count the tasks") as cursor:
            cursor.execute(self._sql(_CENSUS), {"queues": self._queues})
            failed, queued, executing, parked = cursor.fetchone()
        word = {"abandoned": "executing"}.get(self._request.source, self._request.source)
        counts = {"failed": failed, "queued": queued, "executing": executing, "parked": parked}
        return Census({word: counts.pop(word), **counts})

    def identities(self) -> Iterator[list[str]]:
        after = 0
        while True:
            with self._database.transaction("read the ids of the tasks") as cursor:
                cursor.execute(self._sql(_IDS), {"queues": self._queues, "after": after, "most": PIECE})
                ids = [row[0] for row in cursor.fetchall()]
            if not ids:
                return
            yield [str(number) for number in ids]
            after = ids[-1]

    def windows(self) -> Iterator[list[Task]]:
        after = 0
        chosen = "" if self._ids is None else "AND j.id = ANY(%(ids)s)"
        values = {"run": self._run, "queue": self._request.queue, "last": self._last, "most": self.batch, "ids": self._ids}
        while True:
            with self._database.transaction("read the tasks") as cursor:
                cursor.execute(_BY_KEY)
                cursor.execute(self._sql(_WINDOW, chosen=chosen), dict(values, after=after))
                rows = cursor.fetchall()
            if not rows:
                return
            after = rows[-1][0]
            yield [_task(row) for row in rows]

    def load(self, tasks: list[Task], what: frozenset[str]) -> None:
        if "fields" in what:
            for task in tasks:
                task.fields = json.loads(task.handle)

    def apply(self, decisions: list[Decision]) -> list[str]:
        """One transaction; one statement for each action and destination."""
        groups: dict[tuple[str, str | None], list[int]] = {}
        for decision in decisions:
            groups.setdefault((decision.action, decision.destination), []).append(int(decision.task.id))
        found: dict[int, str] = {}

        def move(cursor: Any) -> None:
            found.clear()
            for (action, destination), ids in groups.items():
                rows = self._move(cursor, "j.id = ANY(%(ids)s)", action, destination, len(ids), {"ids": ids})
                found.update((row[0], row[1]) for row in rows)
                if not self._waits:
                    cursor.execute(self._sql(_THERE), {"ids": [number for number in ids if number not in found]})
                    found.update((row[0], "h") for row in cursor.fetchall())

        self._write(move)
        return [REASONS[found.get(int(decision.task.id), "g")] for decision in decisions]

    def sweep(self, action: str, destination: str | None, most: int) -> Sweep | None:
        rows: list[tuple[int, str, str]] = []
        which = "j.queue_name = %(queue)s AND j.id > %(after)s AND j.id <= %(last)s"
        values = {"queue": self._request.queue, "after": self._after, "last": self._last}
        if not most:
            with self._database.transaction("count the tasks") as cursor:
                query = "SELECT count(*) FROM procrastinate_jobs j WHERE %s AND {source}" % which
                cursor.execute(self._sql(query), values)
                return Sweep(matched=cursor.fetchone()[0])

        def move(cursor: Any) -> None:
            rows[:] = self._move(cursor, which, action, destination, most, values)

        self._write(move)
        found = Sweep(matched=len(rows))
        for _id, outcome, name in rows:
            if outcome == "m":
                found.moved += 1
                found.by_task[name] = found.by_task.get(name, 0) + 1
            else:
                found.skipped_because[REASONS[outcome]] = found.skipped_because.get(REASONS[outcome], 0) + 1
                self._refused += outcome in "lr"
        if not rows and not self._waits:
            self._held(found)
        if rows:
            self._after = rows[-1][0]
            if found.moved:
                found.by_version["unknown"] = found.moved
        return found

    def _held(self, found: Sweep) -> None:
        """At the end, count what was passed over because others hold it; what was counted is not counted again."""
        with self._database.transaction("count the tasks that are left") as cursor:
            cursor.execute(self._sql(_LEFT), {"run": self._run, "queue": self._request.queue, "last": self._last})
            held = max(0, int(cursor.fetchone()[0]) - self._refused)
        if held:
            self._refused += held
            found.matched = held
            found.skipped_because[REASONS["h"]] = held

    def _write(self, move: Any) -> None:
        """Run ``move`` in a transaction; again where tasks are deferred at the same moment that take the same queueing lock, and without
        the tasks that others hold, where those were waited for in vain.
        """
        for left in reversed(range(TRIES)):
            try:
                with self._database.transaction("redrive", write=True) as cursor:
                    move(cursor)
                return
            except Unavailable as error:
                state = getattr(error.__cause__, "sqlstate", None)
                if (state not in ("23505", "40001", "40P01") and not (state == LOCKED and self._waits)) or not left:
                    raise
                self._waits = self._waits and state != LOCKED
                time.sleep(0.05)

    def _move(self, cursor: Any, which: str, action: str, destination: str | None, most: int, values: dict[str, Any]) -> list[Any]:
        back = action in ("requeue", "compensate")
        told = {"run": self._run, "pass": self._pass, "action": action, "back": back, "destination": destination, "most": most, **values}
        cursor.execute(_BY_KEY)
        cursor.execute(self._sql(_MOVE, which=which, change=CHANGES[action]), told)
        rows: list[Any] = cursor.fetchall()
        moved = [row[0] for row in rows if row[1] == "m"]
        if moved and self._request.source == "parked" and action != "park":
            cursor.execute(_UNPARK, {"ids": moved})
        if moved and back:
            cursor.execute(_WAKE, {"queue": destination or self._request.queue, "id": moved[0]})
        return rows

    def fates(self, moved: int) -> tuple[int, int]:
        with self._database.transaction("look what became of the redriven tasks") as cursor:
            cursor.execute(_FATES, {"pass": self._pass})
            good, failed = cursor.fetchone()
        return good + failed, failed

    def close(self) -> None:
        self._database.close()


def _task(row: tuple[Any, ...]) -> Task:
    number, name, arguments, already, redrives, ended = row
    return Task(
        str(number),
        name=name,
        ended_at=float(ended) if ended is not None else None,
        redrives=redrives,
        obstacle=MOVED_BEFORE if already else None,
        handle=arguments,
    )
