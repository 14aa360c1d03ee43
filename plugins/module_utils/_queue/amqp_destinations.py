# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a redrive over AMQP may send tasks to: which queues there are, and how much fits into them before they drop or refuse some."""

from __future__ import annotations

from dataclasses import dataclass

from .._errors import Refused
from .amqp_connection import AmqpConnection
from .rabbitmq_management import Management, effective

#: Why a task is not sent there.
NO_QUEUE = "its destination %s does not exist"
FULL = "its destination %s is full, and would drop tasks"


@dataclass
class _Limits:
    """What a queue holds at most: messages, and bytes that may still be sent. None: any number, as far as is known."""

    messages: int | None = None
    bytes_left: int | None = None


class Destinations:
    """The queues that one redrive sends to.

    :ivar warnings: what is not known of them; one sentence each.
    """

    def __init__(self, amqp: AmqpConnection, management: Management) -> None:
        self._amqp = amqp
        self._management = management
        self._known: dict[str, bool] = {}
        self._limits: dict[str, _Limits] = {}
        self.warnings: list[str] = []

    def require(self, queue: str, option: str) -> int:
        """How many tasks are ready in it.

        :raises NotFound: it does not exist; ``option`` named it.
        """
        found = self._amqp.depth(queue, option=option)
        self._known[queue] = True
        return found.ready

    def exists(self, queue: str) -> bool:
        """Whether it does, as of the first time this was asked."""
        there = self._known.get(queue)
        if there is None:
            there = self._known[queue] = self._amqp.depths([queue])[queue] is not None
        return there

    def is_known(self, queue: str) -> bool:
        """Whether it exists for certain; does not ask."""
        return self._known.get(queue, False)

    def make(self, queue: str, quorum: bool) -> None:
        """Make a durable queue if it is not there."""
        if not self.exists(queue):
            self._amqp.declare(queue, {"x-queue-type": "quorum"} if quorum else {}, "make the parking place %s" % queue)
            self._known[queue] = True

    def gone(self, queue: str) -> None:
        """The broker could not route to it."""
        self._known[queue] = False

    def names(self) -> list[str]:
        """Those that are known to exist."""
        return sorted(name for name, there in self._known.items() if there)

    def room(self, queue: str) -> int | None:
        """How many messages fit into it now; None: any number, as far as is known."""
        limits = self._of(queue)
        if limits.bytes_left is not None and limits.bytes_left <= 0:
            return 0
        return None if limits.messages is None else max(0, limits.messages - self._amqp.depth(queue).ready)

    def spend(self, queue: str, size: int) -> bool:
        """Whether a message of so many bytes still fits, which is then taken for sent. What workers take out meanwhile makes no room."""
        limits = self._of(queue)
        if limits.bytes_left is None:
            return True
        if limits.bytes_left < size:
            # A smaller one that follows would overtake it.
            limits.bytes_left = 0
            return False
        limits.bytes_left -= size
        return True

    def refuse_dropping(self, queue: str, wanted: int, size: int) -> None:
        """Refuse one that cannot hold ``wanted`` tasks of ``size`` bytes (0: not known) that may be sent to it."""
        limits = self._of(queue)
        room = self.room(queue)
        if limits.bytes_left is not None and size and (room is None or limits.bytes_left // size < room):
            room = limits.bytes_left // size
        if room is not None and room < wanted:
            raise Refused(
                "Queue %s at %s has a max-length and room for %d tasks; up to %d would be sent, and it would drop or refuse the rest"
                % (queue, self._amqp.where, room, wanted),
                option="limit",
                next_step="Raise its max-length, or %s" % ("redrive with limit=%d" % room if room else "let workers empty it"),
            )

    def _of(self, queue: str) -> _Limits:
        if queue not in self._limits:
            told = self._management.queue(queue)
            if told is None and self._management.reason is not None and not self.warnings:
                self.warnings.append(
                    "Whether the queues that tasks go to have a max-length, and drop some, is not known: %s" % self._management.reason
                )
            settings = effective(told or {})
            most = settings.get("x-max-length-bytes")
            left = None if most is None else int(most) - int((told or {}).get("message_bytes_ready") or 0)
            self._limits[queue] = _Limits(settings.get("x-max-length"), left)
        return self._limits[queue]
