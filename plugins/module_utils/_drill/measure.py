# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counts what became of each published task, and looks at what really runs and lies on the hosts.

Reads the drill's own files, Redis and ``/proc``, never the collection's state: what measures must not share the faults of what is measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Iterable

from .._errors import OutOfTime, Unavailable
from .processes import marked, parents


def seconds(at: str) -> float:
    """An ISO time as seconds since 1970."""
    # Python 3.8 does not read the Z that the journal writes.
    return datetime.fromisoformat(at[:-1] + "+00:00" if at.endswith("Z") else at).timestamp()


@dataclass(frozen=True)
class Row:
    """One row of the ledger: one completion."""

    number: int
    version: str
    host: str
    setting: str
    at: float


@dataclass
class Conservation:
    """What became of the published tasks, by identity.

    published = completed + failed_by_rule + parked + waiting + lost, each task counted once; a task that has a row in the ledger counts as
    completed wherever else it is.

    :ivar lost: published and nowhere to be found.
    :ivar duplicated: rows in the ledger beyond the first of their task.
    :ivar unknown: rows of tasks that were never published.
    :ivar lost_ids: numbers of the lost tasks, at most 50.
    :ivar duplicated_ids: numbers of the tasks that ran more than once, at most 50.
    :ivar failed_ids: numbers of the tasks that stand as failed, at most 50.
    """

    published: int = 0
    completed: int = 0
    failed_by_rule: int = 0
    parked: int = 0
    waiting: int = 0
    lost: int = 0
    duplicated: int = 0
    unknown: int = 0
    lost_ids: list[int] = field(default_factory=list)
    duplicated_ids: list[int] = field(default_factory=list)
    failed_ids: list[int] = field(default_factory=list)


def conserve(
    published: dict[str, int], rows: Iterable[int], failed: Iterable[str], parked: Iterable[str], waiting: Iterable[str]
) -> Conservation:
    """Account for every published task.

    :param published: job id to task number.
    :param rows: task numbers of the ledger's rows, in order.
    :param failed: job ids that stand as failed.
    :param parked: job ids that are set aside.
    :param waiting: job ids that are queued, scheduled or executing.
    """
    ran: dict[int, int] = {}
    for number in rows:
        ran[number] = ran.get(number, 0) + 1
    numbers = set(published.values())
    left = numbers - set(ran)
    sets = []
    # Each task is counted in one place: the one nearest to being worked off wins.
    for place in (waiting, parked, failed):
        here = {published[job] for job in place if job in published} & left
        left -= here
        sets.append(here)
    twice = sorted(number for number, times in ran.items() if times > 1)
    return Conservation(
        published=len(numbers),
        completed=len(numbers & set(ran)),
        waiting=len(sets[0]),
        parked=len(sets[1]),
        failed_by_rule=len(sets[2]),
        lost=len(left),
        duplicated=sum(ran[number] - 1 for number in twice),
        unknown=len(set(ran) - numbers),
        lost_ids=sorted(left)[:50],
        duplicated_ids=twice[:50],
        failed_ids=sorted(sets[2])[:50],
    )


class Measurement:
    """Reads a lab.

    :param lab: what ``lab.json`` says.
    :param queue: the queue's name.
    :param parked_queues: queues that tasks are set aside in.
    """

    def __init__(self, lab: dict[str, Any], queue: str, parked_queues: list[str]) -> None:
        import redis

        self.lab = lab
        self.drill_dir: str = lab["drill_dir"]
        self.queue = queue
        self.parked_queues = parked_queues
        self._redis_error = redis.RedisError
        self._redis: Any = redis.Redis(unix_socket_path=os.path.join(lab["run"], "redis.sock"), socket_timeout=5)

    def settle(self, limit: float) -> bool:
        """Tell the producer to finish, then wait until nothing is queued or executing.

        :returns: False when tasks are still waiting after ``limit`` seconds; they are counted as waiting then.
        :raises OutOfTime: the producer did not finish.
        """
        finish = os.path.join(self.drill_dir, "lab", "finish")
        with open(finish, "w", encoding="utf-8"):
            pass
        done = os.path.join(self.drill_dir, "lab", "producer.json")
        end = time.monotonic() + limit
        pause = 0.05
        while not os.path.exists(done):
            if time.monotonic() > end:
                raise OutOfTime(
                    "The drill's producer did not finish within %d s; %d tasks are published" % (limit, len(self.published())),
                    next_step="Read %s" % os.path.join(self.drill_dir, "lab", "load.log"),
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.25)
        pause = 0.05
        while self.waiting():
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, 0.25)
        return True

    def published(self) -> dict[str, int]:
        """Job id to number of all published tasks."""
        found = {}
        for line in self._lines("published.tsv"):
            number, job = line.split("\t")[:2]
            found[job] = int(number)
        return found

    def rows(self) -> list[Row]:
        """The ledger."""
        found = []
        for line in self._lines("ledger.tsv"):
            number, version, host, setting, at = line.split("\t")
            found.append(Row(int(number), version, host, setting, seconds(at)))
        return found

    def samples(self) -> list[dict[str, Any]]:
        """What the sampler saw, oldest first."""
        return [json.loads(line) for line in self._lines("samples.jsonl")]

    def _lines(self, name: str) -> list[str]:
        try:
            with open(os.path.join(self.drill_dir, name), encoding="utf-8") as handle:
                text = handle.read()
        except FileNotFoundError:
            return []
        # The last line may still be under way.
        return text[: text.rfind("\n") + 1].splitlines()

    def waiting(self) -> list[str]:
        """Job ids that are queued, on their way to a worker, executing, scheduled or deferred."""
        name = self.queue
        queued, moving, wip, scheduled, deferred = self._read(
            ("lrange", "rq:queue:" + name, 0, -1),
            ("lrange", "rq:queue:%s:intermediate" % name, 0, -1),
            ("zrange", "rq:wip:" + name, 0, -1),
            ("zrange", "rq:scheduled:" + name, 0, -1),
            ("zrange", "rq:deferred:" + name, 0, -1),
        )
        # A member of wip is "<job>:<execution>"; the lab's job ids have no colon.
        return [entry.decode().partition(":")[0] for entry in queued + moving + wip + scheduled + deferred]

    def failed(self) -> list[str]:
        """Job ids that stand as failed."""
        (found,) = self._read(("zrange", "rq:failed:" + self.queue, 0, -1))
        return [entry.decode() for entry in found]

    def parked(self) -> list[str]:
        """Job ids that are set aside."""
        lists = self._read(*[("lrange", "rq:queue:" + name, 0, -1) for name in self.parked_queues])
        return [entry.decode() for found in lists for entry in found]

    def _read(self, *commands: tuple[Any, ...]) -> list[list[bytes]]:
        pipe = self._redis.pipeline(transaction=True)
        for command in commands:
            pipe.execute_command(*command)
        try:
            found: list[list[bytes]] = pipe.execute()
            return found
        except self._redis_error as error:
            raise Unavailable(
                "The drill's Redis in %s does not answer: %s" % (self.lab["run"], error),
                next_step="Read %s" % os.path.join(self.drill_dir, "lab", "lab.log"),
            ) from error

    def conservation(self) -> Conservation:
        """Account for every published task as things stand now."""
        # Read in the direction that tasks move, so that one that moves meanwhile is seen twice rather than not at all.
        published, failed, parked, waiting = self.published(), self.failed(), self.parked(), self.waiting()
        return conserve(published, (row.number for row in self.rows()), failed, parked, waiting)

    def running(self) -> dict[str, dict[str, int]]:
        """Host to version to number of workers, read from the working folder of the processes that run."""
        found: dict[str, dict[str, int]] = {name: {} for name in self.lab["hosts"]}
        pids = marked(self.drill_dir)
        # Looked at afterwards, so that the parent of each is known; a worker's child may be born any moment.
        tree = parents()
        for pid in pids & set(tree):
            folder = _folder(pid)
            for host, there in self.lab["hosts"].items():
                versions = os.path.join(os.path.realpath(there["root"]), "opt", "mailer", "versions") + os.sep
                # A worker's child that executes a task stands in the same folder; the worker's own parent does not.
                if folder.startswith(versions) and not _folder(tree[pid]).startswith(versions):
                    version = folder[len(versions) :].partition(os.sep)[0]
                    found[host][version] = found[host].get(version, 0) + 1
        return found


def _folder(pid: int) -> str:
    try:
        return os.readlink("/proc/%d/cwd" % pid)
    except OSError:
        return ""


def compare_files(expected: dict[str, str]) -> list[dict[str, Any]]:
    """Compare files with what they should be, byte for byte.

    :param expected: path to SHA-256 in hex.
    :returns: one dict a file: ``path``, ``sha256`` (None when it cannot be read), ``expected``, ``same``.
    """
    found = []
    for path, wanted in sorted(expected.items()):
        try:
            with open(path, "rb") as handle:
                digest = hashlib.sha256(handle.read()).hexdigest()
        except OSError:
            digest = None
        found.append({"path": path, "sha256": digest, "expected": wanted, "same": digest == wanted})
    return found
