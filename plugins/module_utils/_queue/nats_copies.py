# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The copies that a redrive on NATS publishes: noted in the ledger, sent, and confirmed, each once whatever the run before died of.

A copy carries the identity of its original (stream and sequence) as ``Nats-Msg-Id``, so that the destination drops a second one,
whoever sends it: this run after a crash, or another redrive at the same time.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, Mapping

from .._errors import FleetError, Unavailable
from .api import Decision, RedriveRequest
from .ledger import Ledger
from .nats_connection import Answer, ApiError, NatsConnection, NatsSession, NoAnswer
from .nats_places import Target
from .nats_routes import UNHEARD, UNWANTED, Item, Routes
from .nats_watch import Watch

#: Tasks that a warning names.
NAMED = 20
#: Of a duplicate window, what is relied upon.
SURE_SHARE = 0.75

_MOVED_BY_OTHERS = "another redrive has moved it"
_UNSENDABLE = {
    "MaxPayloadError": "it is larger than the broker takes",
    "BadHeaderError": "it has a header whose name the client library does not write",
    "BadSubjectError": "its subject is not valid",
}
_REFUSED = "the stream %s does not take it: %s"


class Copies:
    """Publishes the copies of one redrive. ``watch`` is told of each that is stored; without ``ledger`` nothing outlives this process."""

    def __init__(
        self,
        connection: NatsConnection,
        session: NatsSession,
        request: RedriveRequest,
        routes: Routes,
        watch: Watch | None,
        ledger: Ledger | None,
    ) -> None:
        self._connection = connection
        self._session = session
        self._request = request
        self._routes = routes
        self._watch = watch
        self._ledger = ledger
        #: What the operator should know; grows.
        self.warnings: list[str] = []
        self._doubtful: list[str] = []
        #: When and at which server an earlier process of this run was about to send a task, and which of them were stored.
        self._planned: dict[str, tuple[float, str]] = {}
        self._confirmed: set[str] = set()
        self._batch_number = 0
        if ledger is not None:
            for plan in ledger.plans:
                sent = float(plan.get("at") or 0), str(plan.get("server"))
                self._planned.update((key, sent) for key in plan.get("ids", ()))
                if plan["plan"] in ledger.sure:
                    self._confirmed.update(plan.get("ids", ()))
            self._batch_number = ledger.last
        self._unsettled = set(self._planned)

    def stored_before(self, item: Item) -> bool:
        """Whether an earlier process of this run knew that its copy is stored."""
        return item.key in self._confirmed

    def close(self) -> None:
        """Let go of the ledger."""
        if self._ledger is not None:
            with suppress(FleetError):
                self._ledger.sync()
            self._ledger.close()

    def publish(
        self, decisions: list[Decision], sends: list[tuple[int, Target, str]], outcomes: list[str], now: float
    ) -> tuple[list[int], FleetError | None]:
        """Send copies and note what is stored. The indexes of those, and what broke off in the middle."""
        done: list[int] = []
        sends = self._not_arrived(decisions, sends, now, done)
        if not sends:
            return done, None
        self._note([decisions[index].task.handle.key for index, _target, _subject in sends], now)
        requests = []
        for index, target, subject in sends:
            task = decisions[index].task
            item: Item = task.handle
            headers = item.message.copy_headers(
                decisions[index].action, self._request.run, item.origin, task.id, self._msg_id(item, target, subject)
            )
            requests.append((subject, item.message.data, headers))
        broken: Exception | None = None
        stored = []
        answers = self._session.ask_many(requests)
        dropped = self._routes.dropped(sends)
        for (index, target, _subject), answer in zip(sends, answers):
            told, outcomes[index], problem = self._judge(answer, target)
            broken = broken or problem
            if told is not None and index in dropped:
                outcomes[index] = UNWANTED % target.stream
            elif told is not None:
                stored.append(index)
                outcomes[index] = self._stored(decisions[index], told)
        self._sure([decisions[index].task.handle.key for index in stored], len(stored) == len(sends), now)
        return done + stored, self._connection.explain(broken, "redrive") if broken is not None else None

    def _msg_id(self, item: Item, target: Target, subject: str) -> str:
        """By which the destination knows a copy. It also remembers one that it dropped with the consumer that waited for it."""
        since = self._routes.waited_since(target, subject)
        return "queueops:%s%s" % (item.key, ":" + since if since else "")

    def _judge(self, answer: Answer, target: Target) -> tuple[dict[str, Any] | None, str, Exception | None]:
        """What became of a copy: what the stream says that has it, or why this one is skipped, or why the redrive cannot go on."""
        if isinstance(answer, NoAnswer):
            return None, UNHEARD, None
        if isinstance(answer, ValueError) or type(answer).__name__ in _UNSENDABLE:
            return None, "it cannot be sent: %s" % (_UNSENDABLE.get(type(answer).__name__) or "its headers are not text"), None
        if isinstance(answer, Exception):
            return None, "", answer
        told: dict[str, Any] = json.loads(answer)
        error = told.get("error")
        if not error:
            return told, "", None
        refusal = ApiError(int(error.get("err_code") or 0), int(error.get("code") or 0), str(error.get("description")))
        if isinstance(self._connection.explain(refusal, "redrive"), Unavailable):
            return None, "", refusal
        return None, _REFUSED % (target.stream, refusal), None

    def _stored(self, decision: Decision, told: Mapping[str, Any]) -> str:
        """Remember a copy that is stored. Why it does not count as ours, or ""."""
        if told.get("duplicate") and decision.task.handle.key not in self._planned:
            return _MOVED_BY_OTHERS
        if self._watch is not None:
            self._watch.sent(decision.action, int(told["seq"]))
        return ""

    def _not_arrived(
        self, decisions: list[Decision], sends: list[tuple[int, Target, str]], now: float, done: list[int]
    ) -> list[tuple[int, Target, str]]:
        """Without those that an earlier process of this run sent, and the destination has although it has forgotten that it has."""
        rest = []
        for entry in sends:
            index, target, subject = entry
            item = decisions[index].task.handle
            planned = self._planned.get(item.key)
            if planned is not None and not self._remembered(planned, target, now):
                if target.has_taken(self._session, {self._msg_id(item, target, subject)}, min(self._planned.values())[0] - 60):
                    done.append(index)
                    continue
                if target.config.get("retention") != "limits":
                    self._doubt(decisions[index].task.id)
            rest.append(entry)
        return rest

    def _remembered(self, planned: tuple[float, str], target: Target, now: float) -> bool:
        """Whether the broker surely knows if it took that copy. After a restart it knows of what is still in the stream alone."""
        at, server = planned
        return server == self._session.server and now - at <= target.window_s * SURE_SHARE

    def _doubt(self, task: str) -> None:
        """It is sent again, since it is not known to have arrived; a worker may have taken it and be done with it."""
        if self._doubtful:
            self.warnings.pop()
        self._doubtful.append(task)
        self.warnings.append(
            "%d tasks were sent again that the run before may have sent when it died, for the broker has forgotten whether it took them;"
            " those that workers did meanwhile are run twice: %s%s"
            % (len(self._doubtful), ", ".join(self._doubtful[:NAMED]), " and others" if len(self._doubtful) > NAMED else "")
        )

    # The ledger

    def _note(self, keys: list[str], now: float) -> None:
        if self._ledger is not None:
            self._batch_number += 1
            self._ledger.note(plan=self._batch_number, ids=keys, at=round(now, 3), server=self._session.server)
            self._ledger.sync()

    def _sure(self, keys: list[str], whole: bool, now: float) -> None:
        if self._ledger is None or not keys:
            return
        if not whole:
            self._ledger.note(doubt=self._batch_number)
            self._batch_number += 1
            self._ledger.note(plan=self._batch_number, ids=keys, at=round(now, 3), server=self._session.server)
        self._ledger.note(sure=self._batch_number)
        self._ledger.sync()

    def finished(self, item: Item) -> None:
        """What the ledger holds of it is done with."""
        self._unsettled.discard(item.key)

    def settle(self) -> None:
        """All that was sent is deleted from the source: nothing that the ledger holds open is left there."""
        if self._ledger is not None and not self._unsettled:
            self._ledger.note(settled=self._batch_number)
