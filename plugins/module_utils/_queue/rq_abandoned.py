# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks that an RQ worker took and never began: found, proven to be in nobody's hands, and put back at the head of their queue.

A worker takes a task by moving it to ``rq:queue:<q>:intermediate``, and begins it by taking it out of there. A worker that is
told to stop between the two exits and leaves the task behind (seen with RQ 3.0.0: SIGTERM raises StopRequested while the worker
is not busy yet). RQ finds it after a minute or more, and counts it as failed.

Such a task looks like one that a live worker is about to begin. What tells them apart: a worker has one task at a time. So each
worker that was alive when the task was seen has to show that it does not have it: it is gone, or busy with another task, or has
finished one since, or waits for one.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any, Callable

from .api import Look, RedriveReport, RedriveRequest, WorkerState
from .connection import RedisConnection

#: Seconds that live workers get to show that they do not have the task.
PATIENCE_S = 15.0
#: At most this many tasks are looked at; there can be no more of them than workers that were stopped.
MOST = 1000
SAMPLE = 20

IN_HAND = "a live worker may still have it in hand; run again later"

# KEYS: intermediate, queue, set of queues. ARGV: ids... Answers how many were put back; one that was begun is not there any more.
_PUT_BACK = """
local moved = {}
for i = 1, #ARGV do
  if redis.call('LREM', KEYS[1], 1, ARGV[i]) == 1 then
    redis.call('DEL', KEYS[1] .. ':first_seen:' .. ARGV[i])
    redis.call('LPUSH', KEYS[2], ARGV[i])
    moved[#moved + 1] = ARGV[i]
  end
end
if #moved > 0 then redis.call('SADD', KEYS[3], KEYS[2]) end
return moved
"""


class Reclaim:
    """One queue's abandoned tasks.

    :param prefix: of RQ's keys.
    :param look: looks at all queues and workers.
    """

    def __init__(self, redis: RedisConnection, prefix: str, queue: str, look: Callable[[], Look]) -> None:
        self._redis = redis
        self._queue = queue
        self._queue_key = "%s:queue:%s" % (prefix, queue)
        self._queues_key = "%s:queues" % prefix
        self._worker_key = "%s:worker" % prefix
        self._look = look

    def run(self, request: RedriveRequest, check: bool) -> RedriveReport:
        """Put back what is proven to be in nobody's hands; leave and name the rest."""
        report = RedriveReport(run=request.run)
        abandoned = self._taken()
        if request.match.limit is not None:
            report.remaining = max(0, len(abandoned) - request.match.limit)
            abandoned = abandoned[: request.match.limit]
        left = self._wait_for_proof(abandoned) if abandoned else []
        proven = [task for task in left if task not in self._unproven] if left else []
        moved = proven if check else self._put_back(proven)
        report.moved = len(moved)
        in_hand = len(left) - len(proven)
        if in_hand:
            report.skip(IN_HAND, in_hand)
        # What its worker has begun meanwhile was not abandoned.
        report.matched = report.moved + in_hand + report.remaining
        report.sample = [{"id": task} for task in moved[:SAMPLE]]
        report.conservation = {
            "before": {"abandoned": report.matched},
            "after": {"abandoned": report.remaining + in_hand + (report.moved if check else 0)},
            "verdict": "unproven" if check or in_hand else "proven",
            "reason": "check mode: nothing was moved"
            if check
            else (IN_HAND if in_hand else "each of them was put back, or has been begun by its worker"),
        }
        return report

    def _taken(self) -> list[str]:
        with self._redis.asking("look for abandoned tasks") as client:
            found = client.lrange(self._queue_key + ":intermediate", 0, MOST - 1)
        return [task.decode() if isinstance(task, bytes) else str(task) for task in found]

    def _wait_for_proof(self, abandoned: list[str]) -> list[str]:
        """Those that are still there once every worker is cleared, or time is up; ``_unproven`` holds those that are not proven."""
        self._unproven: set[str] = set()
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
            left = [task for task in abandoned if task in still]
            if not left or not suspects:
                return left
            if time.monotonic() > end:
                self._unproven.update(left)
                return left
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)

    def _alive(self) -> dict[str, WorkerState]:
        """All workers in the database: those of other queues wait on connections of their own."""
        return {worker.name: worker for worker in self._look().workers if worker.state != "gone"}

    def _waiting(self, workers: dict[str, WorkerState]) -> set[str]:
        """Workers that wait for a task: from their address come as many waiting connections as there are idle workers.

        RQ does not name the connection that a worker waits on, so they can only be counted.
        """
        idle = _idle(workers)
        if not idle:
            return set()
        with self._redis.asking("look for waiting workers") as client:
            try:
                listed: list[dict[str, Any]] = client.client_list()
            except self._redis.redis.exceptions.ResponseError:
                # Some hosted servers do not tell; then only the workers' own records count.
                return set()
            pipe = client.pipeline(transaction=False)
            for name in idle:
                pipe.hget("%s:%s" % (self._worker_key, name), "ip_address")
            addresses = dict(zip(idle, (_host_of(address) for address in pipe.execute())))
        # A worker that changed meanwhile may have been counted on both sides, or on none.
        if _idle(self._alive()) != idle:
            return set()
        connections = Counter(_host_of(entry.get("addr")) for entry in listed if _waits(entry))
        idle_at = Counter(addresses.values())
        return {name for name, address in addresses.items() if address and connections[address] == idle_at[address]}

    def _put_back(self, tasks: list[str]) -> list[str]:
        if not tasks:
            return []
        with self._redis.asking("put abandoned tasks back") as client:
            # The last one first, so that the first one is at the head again.
            moved = client.eval(_PUT_BACK, 3, self._queue_key + ":intermediate", self._queue_key, self._queues_key, *reversed(tasks))
        names = [task.decode() if isinstance(task, bytes) else str(task) for task in moved]
        return list(reversed(names))


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
