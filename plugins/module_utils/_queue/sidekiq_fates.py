# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of the tasks that a redrive gave back to Sidekiq's workers, for its breaker.

Each carries this redrive's mark wherever it is: one that failed again is in the retry or the dead set, and is known at once. That one
succeeded is nowhere written: it did when it is in no queue, in neither set, and in no worker's hands. What a worker has in hand it
tells some seconds late, so every worker has to have told once more after the task left its queue.
"""

from __future__ import annotations

import re
import time
from typing import Any

from .redis_connection import RedisConnection
from .redis_scripts import text
from .sidekiq_scripts import MARKED

#: Tasks looked at by one command.
PIECE = 1000
#: No more than this share of the time is spent on counting.
SHARE = 0.2
#: A worker writes down first what it has in hand and then that it did; between the two pass milliseconds.
MARGIN_S = 0.2

_JID = re.compile(rb'"jid"\s*:\s*"([^"]*)"')


class Fates:
    """Counts by the mark, at a bounded share of the time.

    :param queues: where the tasks were given to.
    :param mark: the text that each of them holds.
    """

    def __init__(self, redis: RedisConnection, prefix: str, queues: list[str], mark: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._queues = ["%squeue:%s" % (prefix, queue) for queue in queues]
        self._mark = mark
        self._count = redis.client.register_script(MARKED)
        self._failed: set[bytes] = set()
        self._succeeded = 0
        self._not_before = 0.0
        # When, how many had left their queues, and when each worker had told last (once the margin has passed).
        self._seen: list[tuple[float, int, dict[bytes, bytes] | None]] = []

    def known(self, moved: int) -> tuple[int, int]:
        """Of ``moved`` tasks: of how many the fate is known, and how many of those failed again."""
        began = time.monotonic()
        if began >= self._not_before:
            with self._redis.asking("look what became of the redriven tasks") as client:
                self._look(client, moved)
            ended = time.monotonic()
            self._not_before = ended + (ended - began) / SHARE if ended - began > 0.05 else 0.0
        failed = len(self._failed)
        return min(moved, failed + self._succeeded), failed

    def _look(self, client: Any, moved: int) -> None:
        absent = moved - sum(self._waiting(client, queue) for queue in self._queues)
        now = time.monotonic()
        beats, executing = self._workers(client)
        for key in ("retry", "dead"):
            self._collect(client, self._prefix + key)
        confirmed = None
        seen = []
        for at, count, told in self._seen:
            if told is None:
                seen.append((at, count, beats if now - at >= MARGIN_S else None))
            elif all(name not in beats or beats[name] != beat for name, beat in told.items()):
                confirmed = count
            else:
                seen.append((at, count, told))
        # Some looks are enough to remember: there are five a second, and a heartbeat takes 10 s at most.
        if len(seen) < 60:
            seen.append((now, absent, None))
        self._seen = seen
        if not beats:
            confirmed = absent
        if confirmed is not None:
            self._succeeded = max(self._succeeded, confirmed - executing - len(self._failed))

    def _waiting(self, client: Any, queue: str) -> int:
        """Redriven tasks in a queue. Counted from its left end, where they enter: one may be counted twice but none is missed."""
        found, first, length = 0, 0, int(client.llen(queue))
        while first < length:
            found += int(self._count(keys=[queue], args=[first, first + PIECE - 1, self._mark]))
            first += PIECE
        return found

    def _workers(self, client: Any) -> tuple[dict[bytes, bytes], int]:
        """When each worker told last, and how many redriven tasks they have in hand."""
        names = sorted(client.smembers(self._prefix + "processes"))
        pipe = client.pipeline(transaction=False)
        for name in names:
            process = self._prefix + text(name)
            pipe.hget(process, "beat")
            pipe.hvals(process + ":work")
            pipe.hvals(process + ":workers")
        answers = iter(pipe.execute() if names else [])
        beats, executing = {}, 0
        # In a worker's record the task's text is a text itself.
        mark = self._mark.replace('"', '\\"').encode()
        for name in names:
            beat, *hands = (next(answers) for _index in range(3))
            if beat is not None:
                beats[name] = beat
                executing += sum(1 for held in hands for entry in held if mark in entry)
        return beats, executing

    def _collect(self, client: Any, key: str) -> None:
        """Note the redriven tasks that are in a set of failed ones."""
        cursor = 0
        pattern = "*%s*" % self._mark
        while True:
            cursor, entries = client.zscan(key, cursor, match=pattern, count=PIECE)
            for member, _score in entries:
                jid = _JID.search(member)
                self._failed.add(jid.group(1) if jid else member)
            if not cursor:
                return
