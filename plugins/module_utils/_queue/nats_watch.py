# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of the tasks that a redrive put back on NATS: by the consumer's counters, and by what returns to the dead-letter stream."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from .._errors import Refused
from .nats_connection import NatsSession
from .nats_message import RUN
from .nats_places import Letters, scan, window_of
from .nats_routes import Routes


class Watch:
    """Watches the one queue to which the rules requeue.

    :raises Refused: they requeue to several queues or to a bare subject, or there is no dead-letter stream.
    """

    def __init__(
        self, session: NatsSession, letters: Letters, routes: Routes, run: str | None, is_ours: Callable[[Mapping[str, Any]], bool]
    ) -> None:
        self._session = session
        self._letters = letters
        self._run = run
        self._is_ours = is_ours
        #: Sequences of the copies in the destination, and of those that a rule failed in the dead-letter stream.
        self._sent: list[int] = []
        self._failed_by_rule: set[int] = set()
        self._returned = 0
        consumers = {
            (target.stream, str(target.consumer["name"])) if target.consumer is not None else None
            for (action, _destination), target in routes.targets.items()
            if action in ("requeue", "compensate")
        }
        if None in consumers or len(consumers) > 1:
            raise Refused(
                "The breaker can watch one queue, and the rules send tasks to %s" % ("several" if len(consumers) > 1 else "a bare subject"),
                option="breaker",
                next_step="Let the rules requeue to one queue, or leave the breaker out",
            )
        self._watched = next(iter(consumers), None)
        info = session.api_or_none("STREAM.INFO." + letters.stream)
        if info is None:
            raise Refused(
                "The breaker watches the dead-letter stream %s, which does not exist" % letters.stream,
                option="dead_letter",
                next_step="Name the dead-letter stream in the option dead_letter, or leave the breaker out",
            )
        self._from = int(info["state"]["last_seq"]) + 1

    def sent(self, action: str, seq: int) -> None:
        """A copy is stored at ``seq`` of its destination."""
        if action in ("requeue", "compensate"):
            self._sent.append(seq)
        elif action == "fail":
            self._failed_by_rule.add(seq)

    def fates(self, moved: int) -> tuple[int, int]:
        """Settled is what lies before the consumer's first open task, or else the delivered ones beyond those that it waits for."""
        if self._watched is None or not self._sent:
            return 0, 0
        # The counters first: a task that failed is in the dead-letter stream before its worker acknowledges it.
        info = self._session.api("CONSUMER.INFO.%s.%s" % self._watched)
        floor, delivered = int(info["ack_floor"]["stream_seq"]), int(info["delivered"]["stream_seq"])
        before = sum(1 for seq in self._sent if seq <= floor)
        given = sum(1 for seq in self._sent if seq <= delivered)
        settled = max(before, given - int(info["num_ack_pending"]))
        self._count_returned()
        return min(moved, max(settled, self._returned)), min(moved, self._returned)

    def _count_returned(self) -> None:
        """Count the redriven tasks that came back to the dead-letter stream since the last look."""
        info = self._session.api("STREAM.INFO." + self._letters.stream)
        last = int(info["state"]["last_seq"])
        sent = set(self._sent)
        for messages in scan(self._session, self._letters.stream, self._from, last, self._letters.subjects, window_of(info)):
            for message in messages:
                told = message.advisory()
                if told is not None:
                    self._returned += 1 if self._is_ours(told) and told["stream_seq"] in sent else 0
                elif message.headers.get(RUN) == self._run and message.seq not in self._failed_by_rule:
                    self._returned += 1
        self._from = last + 1
