# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's load: publishes numbered tasks with RQ, and writes down four times a second how the queue stands.

One process for both, because the machine has few cores. The samples are read from Redis directly and not through the collection's
own queue room: what measures a drill must not share its faults.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import datetime, timezone
from typing import IO, Any

from .daemon import write_json

#: Tasks a second while no worker is there yet: enough to show that nothing waits for the workers, too few to pile up.
IDLE_RATE = 4.0
#: Tasks a second for what is still missing when the drill is over; those are all quick ones.
CLOSING_RATE = 150.0
SAMPLE_EVERY_S = 0.25
SLOW_EVERY = 11
SLOW_WORK_S = (1.0, 1.2, 1.5)
QUICK_WORK_S = 0.005


def task_id(number: int) -> str:
    """The RQ job id of task ``number``: the identity by which the drill counts."""
    return "mail-%05d" % number


def now_iso() -> str:
    """The time of day in UTC with milliseconds, as the journal writes it."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def work_for(number: int) -> float:
    """How long task ``number`` takes, in seconds: each eleventh is slow, so that some are always executing."""
    if number % SLOW_EVERY == 7:
        return SLOW_WORK_S[number // SLOW_EVERY % len(SLOW_WORK_S)]
    return QUICK_WORK_S


class Ledger:
    """Counts the rows that workers append, reading only what is new.

    :param path: the ledger file; it need not exist yet.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.rows = 0
        self._offset = 0

    def count(self) -> int:
        """Return the number of whole rows so far."""
        try:
            with open(self.path, "rb") as handle:
                handle.seek(self._offset)
                new = handle.read()
        except FileNotFoundError:
            return self.rows
        self._offset += len(new)
        self.rows += new.count(b"\n")
        return self.rows


class Load:
    """Producer and sampler.

    :param settings: ``drill_dir``, ``run``, ``queue``, ``tasks`` (how many at least), ``rate`` (tasks a second) and
        ``fleet_size`` (workers of the whole fleet).
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        import redis
        from rq import Queue

        self.drill_dir: str = settings["drill_dir"]
        self.queue_name: str = settings["queue"]
        self.tasks = int(settings["tasks"])
        self.rate = float(settings["rate"])
        self.redis: Any = redis.Redis(unix_socket_path=os.path.join(settings["run"], "redis.sock"), socket_timeout=5)
        self.queue = Queue(self.queue_name, connection=self.redis)
        self.number = 0
        self.ledger = Ledger(os.path.join(self.drill_dir, "ledger.tsv"))
        self.finish_file = os.path.join(self.drill_dir, "lab", "finish")
        self.fleet_size = int(settings["fleet_size"])
        self.most_workers = 0

    def main(self) -> None:
        """Publish and sample until told to finish; then only sample, until ended by a signal."""
        self._await_redis()
        names = [os.path.join(self.drill_dir, name) for name in ("published.tsv", "samples.jsonl")]
        with open(names[0], "ab", buffering=0) as published, open(names[1], "ab", buffering=0) as samples:
            self._work(published, samples)

    def _work(self, published: IO[bytes], samples: IO[bytes]) -> None:
        began = time.monotonic()
        next_sample = next_task = began
        finished = False
        while True:
            now = time.monotonic()
            if now >= next_sample:
                samples.write(json.dumps(self._sample(now - began)).encode() + b"\n")
                next_sample = max(next_sample + SAMPLE_EVERY_S, now)
            closing = os.path.exists(self.finish_file)
            if not finished and closing and self.number >= self.tasks:
                finished = True
                write_json(os.path.join(self.drill_dir, "lab", "producer.json"), {"published": self.number, "finished_at": now_iso()})
            if not finished and now >= next_task:
                published.write(self._publish(closing))
                rate = CLOSING_RATE if closing else self._rate()
                # After a stall the rate is kept, not made up for: a burst would be load that nobody asked for.
                next_task = max(next_task + 1.0 / rate, now)
            pause = min(next_sample, next_sample if finished else next_task) - time.monotonic()
            if pause > 0:
                time.sleep(pause)

    def _rate(self) -> float:
        """Tasks a second: grows with the fleet while it is first brought up, then stays, as callers know nothing of a rollout."""
        return max(IDLE_RATE, self.rate * min(1.0, self.most_workers / float(self.fleet_size)))

    def _await_redis(self) -> None:
        import redis

        while True:
            try:
                self.redis.ping()
                return
            except redis.ConnectionError:
                # The daemon ends this process when Redis never comes.
                time.sleep(0.02)

    def _publish(self, closing: bool) -> bytes:
        self.number += 1
        work_s = QUICK_WORK_S if closing else work_for(self.number)
        job = self.queue.enqueue("tasks.send", self.number, work_s, job_id=task_id(self.number), description="mail %d" % self.number)
        return ("%d\t%s\t%s\t%s\n" % (self.number, job.id, work_s, now_iso())).encode()

    def _sample(self, elapsed: float) -> dict[str, Any]:
        name = self.queue_name
        pipe = self.redis.pipeline(transaction=True)
        pipe.llen("rq:queue:" + name)
        pipe.zcard("rq:wip:" + name)
        pipe.zcard("rq:scheduled:" + name)
        pipe.zcard("rq:failed:" + name)
        pipe.scard("rq:workers:" + name)
        queued, executing, scheduled, failed, workers = pipe.execute()
        self.most_workers = max(self.most_workers, workers)
        return {
            "at": now_iso(),
            "t": round(elapsed, 3),
            "published": self.number,
            "queued": queued,
            "executing": executing,
            "scheduled": scheduled,
            "failed": failed,
            "completed": self.ledger.count(),
            "workers": workers,
        }


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as source:
        Load(json.load(source)).main()
