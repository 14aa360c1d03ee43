# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What certain RQ workers have in hand, or had when they were killed: by the host name and the pid in a worker's own record.

That record, and the set of its executions beside it, stay for minutes after the worker's death. RQ itself notices a killed worker only
when the heartbeat of its task has expired, and then counts the task as failed.
"""

from __future__ import annotations

from typing import Iterator

from .._errors import NotFound
from .api import Holder, Task
from .rq_redrive import RqStore
from .rq_tasks import as_text


class InHandStore(RqStore):
    """The executing tasks of one queue that the workers ``held_by`` have in hand."""

    def windows(self) -> Iterator[list[Task]]:
        return self._named(self._held_by(self._request.held_by or ()))

    def _held_by(self, holders: tuple[Holder, ...]) -> list[str]:
        with self._redis.asking("look for what workers have in hand") as client:
            keys = sorted(client.smembers(self._key("workers")))
            # At one moment: what is finished meanwhile is in all of the answers or in none.
            pipe = client.pipeline(transaction=True)
            pipe.zrange(self._key("wip", self._queue), 0, -1)
            for key in keys:
                pipe.hmget(key, "hostname", "pid")
                pipe.smembers(key + b":executions")
            here, *answers = pipe.execute()
        found: dict[tuple[str, str], set[bytes]] = {}
        for (hostname, pid), members in zip(answers[::2], answers[1::2]):
            if hostname and pid:
                found.setdefault((as_text(hostname), as_text(pid)), set()).update(members)
        held: set[bytes] = set()
        for holder in holders:
            known = [found[holder.hostname, str(pid)] for pid in holder.pids if (holder.hostname, str(pid)) in found]
            if not known:
                raise NotFound(
                    "RQ knows no worker on the host %s with one of the pids %s" % (holder.hostname, ", ".join(map(str, holder.pids))),
                    option="held_by",
                    next_step="Look at what the workers' records say with queue_info: they have to run where their host name and pid are"
                    " those that the host sees",
                )
            held.update(*known)
        self.held = len(held)
        return [as_text(member) for member in here if member in held]
