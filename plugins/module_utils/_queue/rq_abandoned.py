# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks that an RQ worker took and never began: found, proven to be in nobody's hands, and put back at the head of their queue.

A worker takes a task by moving it to ``rq:queue:<q>:intermediate``, and begins it by taking it out of there. A worker that is
told to stop between the two exits and leaves the task behind (seen with RQ 3.0.0: SIGTERM raises StopRequested while the worker
is not busy yet). RQ finds it after a minute or more, and counts it as failed.

A task whose execution has stopped sending heartbeats, of a worker whose own record has expired, is abandoned as well; RQ finds
those when one of its workers cleans up, and counts them as failed.

A task that was never begun looks like one that a live worker is about to begin. What tells them apart: a worker has one task at
a time. So each worker that was alive when the task was seen has to show that it does not have it: it is gone, or busy with
another task, or has finished one since, or waits for one.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Iterator

from .api import Task, WorkerState
from .rq_redrive import RqStore
from .rq_scripts import CARDS

#: Seconds that live workers get to show that they do not have the task.
PATIENCE_S = 15.0
#: At most this many tasks are looked at; there can be no more of them than workers that were stopped.
MOST = 1000

IN_HAND = "a live worker may still have it in hand; run again later"


class AbandonedStore(RqStore):
    """One queue's abandoned tasks: those that were never begun, then those whose worker died. They go back to the head of the queue."""

    def windows(self) -> Iterator[list[Task]]:
        abandoned = self._taken()
        unproven = self._wait_for_proof(abandoned) if abandoned else set()
        yield from self._named([task for task in abandoned if task not in unproven])
        if unproven:
            yield [_hindered(task) for task in self._listed(sorted(unproven))]
        yield from self._expired()

    def _listed(self, members: list[str]) -> list[Task]:
        return [task for window in self._named(members) for task in window]

    def _taken(self) -> list[str]:
        with self._redis.asking("look for abandoned tasks") as client:
            found = client.lrange(self._place, 0, MOST - 1)
            begun = {member.rpartition(b":")[0] for member in client.zrange(self._key("wip", self._queue), 0, -1)}
        # A task is in both places while its execution begins.
        return [task.decode() for task in found if task not in begun]

    def _wait_for_proof(self, abandoned: list[str]) -> set[str]:
        """Wait until every worker is cleared, or time is up. ``abandoned`` is left with those still there; answers what is not proven."""
        first = self._alive()
        suspects = {name for name, worker in first.items() if worker.queues is None or self._queue in worker.queues}
        end = time.monotonic() + PATIENCE_S
        pause = 0.05
        while True:
            now = self._alive()
            waiting = self._waiting(now)
            suspects -= {
                name for name in suspects if name not in now or name in waiting or _shows_another_task(first[name], now[name], abandoned)
            }
            still = set(self._taken())
            # What its worker has begun meanwhile was not abandoned.
            abandoned[:] = [task for task in abandoned if task in still]
            if not abandoned or not suspects:
                return set()
            if time.monotonic() > end:
                return set(abandoned)
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)

    def _alive(self) -> dict[str, WorkerState]:
        """All workers in the database: those of other queues wait on connections of their own."""
        return {worker.name: worker for worker in self._look(None).workers if worker.state != "gone"}

    def _waiting(self, workers: dict[str, WorkerState]) -> set[str]:
        """Workers that wait for a task: from their address come as many waiting connections as there are idle workers.

        RQ does not name the connection that a worker waits on, so they can only be counted.
        """
        idle = _idle(workers)
        if not idle:
            return set()
        with self._redis.asking("look for waiting workers") as client:
            try:
                listed = self._redis.neighbours()
            except self._redis.redis.exceptions.ResponseError:
                # Some hosted servers do not tell; then only the workers' own records count.
                return set()
            pipe = client.pipeline(transaction=False)
            for name in idle:
                pipe.hget(self._key("worker", name), "ip_address")
            addresses = dict(zip(idle, (_host_of(address) for address in pipe.execute())))
        # A worker that changed meanwhile may have been counted on both sides, or on none.
        if _idle(self._alive()) != idle:
            return set()
        connections = Counter(_host_of(entry.get("addr")) for entry in listed if _waits(entry))
        idle_at = Counter(addresses.values())
        return {name for name, address in addresses.items() if address and connections[address] == idle_at[address]}

    def _expired(self) -> Iterator[list[Task]]:
        """Executions without heartbeat, whose worker is gone with its record."""
        wip = self._key("wip", self._queue)
        with self._redis.asking("look for abandoned executions") as client:
            found = client.zrangebyscore(wip, "-inf", "(%f" % self._opened, start=0, num=MOST)
            alive = sorted(self._alive()) if found else []
            pipe = client.pipeline(transaction=False)
            for name in alive:
                pipe.smembers(self._key("worker", name, "executions"))
            held = {member for members in (pipe.execute() if alive else ()) for member in members}
        tasks, _seen = self._tasks(CARDS, [repr(self._opened), *(member.decode() for member in found)], "executing") if found else ([], [])
        kept = {member.decode() for member in held}
        if tasks:
            yield [_hindered(task) if task.handle.member in kept else task for task in tasks]


def _hindered(task: Task) -> Task:
    task.obstacle = task.obstacle or IN_HAND
    return task


def _idle(workers: dict[str, WorkerState]) -> dict[str, int]:
    """Name to finished tasks of those that have no task."""
    return {name: _finished(worker) for name, worker in workers.items() if worker.task_since is None}


def _finished(worker: WorkerState) -> int:
    return (worker.completed or 0) + (worker.failed or 0)


def _waits(entry: dict[str, Any]) -> bool:
    return "b" in entry.get("flags", "") and entry.get("cmd", "") in ("blmove", "brpoplpush", "blpop", "brpop")


def _host_of(address: Any) -> str:
    """``10.0.0.7`` of ``10.0.0.7:51312``."""
    text = address.decode(errors="replace") if isinstance(address, bytes) else str(address or "")
    return text.rpartition(":")[0]


def _shows_another_task(then: WorkerState, now: WorkerState, abandoned: list[str]) -> bool:
    if now.task is not None and now.task_since is not None and now.task not in abandoned:
        return True
    return _finished(now) > _finished(then)
