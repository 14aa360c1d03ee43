# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pause of Celery, the same on every broker: its workers are told to stop consuming, and a record says who paused and why."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import Any, Mapping, Sequence

from .._errors import Conflict, Refused
from .api import PauseReport, PauseRequest
from .celery_control import Answers, queues_of

#: How long a worker that has answered may take to do what it was told (s).
SETTLE_S = 10.0
#: What a record that cannot be read tells.
UNREADABLE: Mapping[str, Any] = {"owner": None, "reason": None, "since": None}


class Pauses(ABC):
    """Where the records of pauses are kept on one broker, and how its workers are asked there.

    A record is ``{"owner", "reason", "since", "workers"}``.

    :ivar where: the broker, for messages.
    :ivar asks: whether workers may be asked at all.
    :ivar promise: what such a pause does and does not, for the operator.
    """

    where: str
    asks: bool
    promise: str

    @abstractmethod
    def read(self, queues: list[str]) -> list[Mapping[str, Any] | None]:
        """The record of each queue; None: there is none.

        :raises NotFound: there is no such queue, where the broker tells.
        """

    @abstractmethod
    def write(self, queue: str, record: Mapping[str, Any]) -> None:
        """Keep the record of a queue, in place of an earlier one."""

    @abstractmethod
    def lift(self, queue: str) -> None:
        """Remove the record."""

    @abstractmethod
    def ask(self, questions: Mapping[str, Mapping[str, Any]], nodes: list[str] | None = None) -> Answers:
        """Ask the workers ``nodes``; None: all."""

    @abstractmethod
    def silent(self, answers: Answers) -> Refused:
        """The error that says that not every worker answered."""

    def pause(self, queues: list[str], request: PauseRequest, check: bool) -> PauseReport:
        """Tell every worker that consumes one of ``queues`` to stop; each has to answer. The record says who, why and which workers."""
        self._require_asking()
        records = self.read(queues)
        before = _told(records)
        holder = before["paused_by"] or {}
        if before["paused"] and holder.get("owner") != request.owner:
            return PauseReport(False, before, before, ["It was paused before, by %s; that pause is left as it is" % holder.get("owner")])
        answers = self._complete()
        consuming = {queue: _consumers(answers, queue) for queue in queues}
        if before["paused"] and not any(consuming.values()):
            return PauseReport(False, before, before)
        noted = {"owner": request.owner, "reason": request.reason, "since": holder.get("since") or int(time.time())}
        for queue, record in zip(queues, records) if not check else ():
            # The record first: a pause that nobody knows of would be worse than a record without a pause.
            earlier = (record or {}).get("workers") or []
            self.write(queue, dict(noted, workers=sorted({*earlier, *consuming[queue]})))
            self._tell("cancel_consumer", queue, consuming[queue])
        warnings = [self.promise]
        if request.expires is not None:
            warnings.append("expires is not kept: Celery's workers cannot be told to go on by themselves; lift the pause with state=active")
        return PauseReport(True, before, {"paused": True, "paused_by": dict(noted, expires_in_s=None)}, warnings)

    def resume(self, queues: list[str], owner: str, check: bool) -> PauseReport:
        """Tell the workers that the pause stopped to consume again. One that was started since then does so already.

        :raises Conflict: somebody else holds the pause.
        """
        self._require_asking()
        records = self.read(queues)
        before = _told(records)
        holder = before["paused_by"]
        if holder is None:
            return PauseReport(False, before, before)
        if holder.get("owner") not in (None, owner):
            raise Conflict(
                "The queues at %s are paused by %s (%s), not by %s"
                % (self.where, holder.get("owner"), holder.get("reason") or "no reason given", owner),
                option="owner",
                still_true="They stay paused and nothing was changed",
                next_step="Ask %s, or give owner=%s to lift it in that name" % (holder.get("owner"), holder.get("owner")),
            )
        if not check:
            answers = self._complete()
            for queue, record in zip(queues, records):
                stopped = (record or {}).get("workers") or []
                consuming = _consumers(answers, queue)
                self._tell("add_consumer", queue, [node for node in answers.names() if node in stopped and node not in consuming])
                self.lift(queue)
        return PauseReport(True, before, {"paused": False, "paused_by": None})

    def _require_asking(self) -> None:
        if not self.asks:
            raise Refused("A pause goes through Celery's workers, and ask_workers=false forbids it", option="ask_workers")

    def _complete(self) -> Answers:
        answers = self.ask({"active_queues": {}})
        if not answers.complete:
            raise self.silent(answers)
        return answers

    def _tell(self, order: str, queue: str, nodes: list[str]) -> None:
        if not nodes:
            return
        answers = self.ask({order: {"queue": queue}}, nodes)
        refused = [node for node in nodes if "ok" not in (answers.by.get(order, {}).get(node) or {})]
        # A worker answers that it will; only what it consumes afterwards shows that it did.
        end = time.monotonic() + SETTLE_S
        wanted = order == "add_consumer"
        left = list(nodes)
        while not refused and left:
            told = self.ask({"active_queues": {}}, nodes)
            left = [node for node in nodes if (queue in (queues_of(told, node) or [])) != wanted or queues_of(told, node) is None]
            if left and time.monotonic() > end:
                refused = left
            elif left:
                time.sleep(0.05)
        if refused:
            raise Refused(
                "Of the Celery workers, %s did not confirm %s of %s" % (", ".join(refused[:5]), order, queue),
                option="state",
                still_true="%d other workers have done so, and the pause is recorded" % (len(nodes) - len(refused)),
                next_step="Run again; it tells only those that have not",
            )


def _told(records: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Paused are queues that all are; by whom, as the first record tells."""
    held = [record for record in records if record is not None]
    return {"paused": bool(held) and len(held) == len(records), "paused_by": dict(held[0], expires_in_s=None) if held else None}


def _consumers(answers: Answers, queue: str) -> list[str]:
    return [node for node in answers.names() if queue in (queues_of(answers, node) or [])]
