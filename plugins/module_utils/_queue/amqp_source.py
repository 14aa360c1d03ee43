# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue that a redrive over AMQP takes its tasks from: how many there are, what is in our hands, and that it ends where it ended."""

from __future__ import annotations

import time
from typing import Callable

from .._errors import Refused, Unavailable
from .amqp_connection import AmqpConnection
from .amqp_link import Link
from .amqp_message import AmqpMessage
from .api import RedriveRequest
from .rabbitmq_management import Management, is_down

#: Messages that the broker may hand out ahead, in bytes and number.
AHEAD_BYTES = 16 << 20
AHEAD = 6000
#: Messages that are taken at once by a redrive with a breaker, which may wait for long with what it has in hand.
WARY = 100
#: Seconds of a slow redrive that are taken at once: far less than the broker lets a message stay unacknowledged.
SLOW_S = 60.0
#: Seconds without a delivery after which the source is asked whether it is empty.
SILENCE_S = 0.2
#: Seconds in which a source that is not empty has to deliver something.
STARVED_S = 15.0


class Source:
    """The messages of one queue, each taken once.

    :ivar keeps: whether what is taken and put back stands where it stood, as if nothing had been; else that counts as a delivery.
    :ivar total: how many messages it held when it was opened; fewer once others took some.
    :ivar taken: how many of them were taken, and :ivar parted: how many of those were acknowledged or put back.
    :ivar returned: how many were published to its tail again.
    :ivar size: bytes of a message, on average; 0: not known.
    :ivar most: how many messages may be in our hands.
    :ivar held: the tags of messages that are to be put back at the end.
    :raises NotFound: there is no such queue.
    :raises Unavailable: its node is down.
    :raises Refused: it is a stream.
    """

    def __init__(self, amqp: AmqpConnection, management: Management, name: str, request: RedriveRequest, chooses: bool) -> None:
        self._amqp = amqp
        self.name = name
        self.total = amqp.depth(name, option="queue").ready
        told = management.queue(name) or {}
        self.kind: str | None = told.get("type")
        if is_down(told):
            raise Unavailable(
                "Queue %s at %s is %s: how many tasks it holds is not known" % (name, amqp.where, told["state"]),
                next_step="Bring back the node that holds it, or a majority of its members, and run again",
            )
        if self.kind == "stream":
            raise Refused(
                "Queue %s at %s is a stream, from which tasks cannot be taken away" % (name, amqp.where),
                option="source",
                next_step="Name a classic or quorum queue, or let the application read the stream again",
            )
        if self.kind != "classic" and told.get("messages_ready") is None:
            # It may have come up just now.
            self.total = amqp.steady(name).ready
        self.keeps = self.kind == "classic"
        self.size = int((told.get("message_bytes") or 0) / max(1, told.get("messages") or 1))
        self.most = AHEAD if not self.size else max(3, min(AHEAD, AHEAD_BYTES // self.size))
        self._portion = self.most
        if request.rate is not None:
            self._portion = max(1, int(request.rate * SLOW_S))
        if request.breaker is not None:
            self._portion = min(self._portion, WARY)
        self._limit = None if chooses else request.limit
        self._stops = request.breaker is not None
        self.taken = self.parted = self.returned = 0
        self.held: list[int] = []
        self._link: Link | None = None
        self._consuming = self._exhausted = False
        # As of the last time the broker was asked to deliver: how many it may hand out ahead, how many were held.
        self._ahead = self._held_then = 0

    @property
    def touched(self) -> bool:
        """Whether anything was taken, or it was found to be empty."""
        return bool(self.taken or self._exhausted)

    @property
    def handed_out(self) -> int:
        """How many messages of it the broker has handed out to us so far, asked for or not."""
        return self.taken + (len(self._link) if self._link is not None else 0)

    @property
    def ended(self) -> bool:
        """Whether all that it held was taken."""
        return self._exhausted or self.taken >= self.total

    def open(self, link: Link) -> None:
        """Take from it through ``link``."""
        self._link = link

    def recount(self, steady: bool) -> None:
        """Count it again; ``steady``: once the count stands still, because a run that died may be giving back what it had in hand."""
        self.total = (self._amqp.steady(self.name) if steady else self._amqp.depth(self.name)).ready

    def take(self, most: int, batch: int, flush: Callable[[], None]) -> list[AmqpMessage]:
        """The next messages, at most ``most``; none: it has ended where it ended at first, or is empty.

        :param batch: how many are acted on at once; three batches are handed out ahead.
        :param flush: acknowledges what can be, when all that may be handed out is in our hands.
        """
        link, most = self._link, max(1, min(most, self._portion))
        starved = time.monotonic() + STARVED_S
        while link is not None and self.taken < self.total:
            # What is held counts as handed out: the broker is asked anew before that is all.
            if not self._consuming or 2 * (len(self.held) - self._held_then) > self._ahead:
                self._consume(link, most if self._stops else min(self.most, 3 * batch, 3 * self._portion))
            messages = link.receive(min(most, self._ahead, self.total - self.taken), SILENCE_S)
            self.taken += len(messages)
            if messages:
                if self._stops:
                    self.stop()
                return messages
            if not self._holds_more(link, starved, flush):
                break
        self._exhausted = True
        return []

    def _consume(self, link: Link, ahead: int) -> None:
        self.stop()
        self._ahead = ahead if self._limit is None else max(1, min(ahead, self._limit))
        self._held_then = len(self.held)
        link.consume(self.name, self._ahead)
        self._consuming = True

    def _holds_more(self, link: Link, starved: float, flush: Callable[[], None]) -> bool:
        """Nothing was delivered: whether there is something all the same; then the broker is asked anew."""
        if link.cancelled:
            raise Unavailable(
                "The broker ended the reading of queue %s at %s: it was deleted, or its node is gone" % (self.name, self._amqp.where),
                next_step="Look at it with queue_info, then run again under the same run",
            )
        if not self._amqp.depth(self.name).ready:
            self.total = self.taken
            return False
        if time.monotonic() > starved:
            raise Unavailable(
                "Queue %s at %s holds tasks and delivers none: another consumer is its single active one" % (self.name, self._amqp.where),
                next_step="Stop that consumer, then run again under the same run",
            )
        # All that was handed out ahead may be in our hands.
        flush()
        self._consume(link, self._ahead)
        return True

    def stop(self) -> None:
        """Have no more handed out."""
        if self._consuming and self._link is not None:
            self._link.cancel()
            self._consuming = False

    def rest(self) -> list[AmqpMessage]:
        """The end: what was handed out and not asked for."""
        self.stop()
        messages = self._link.receive(len(self._link), 0.0) if self._link is not None else []
        self.taken += len(messages)
        self.total = self.taken
        return messages

    def give_back(self, link: Link) -> None:
        """Put back what is held, at its place, with the next commit."""
        for tag in self.held:
            link.give_back(tag)
        self.parted += len(self.held)
        self.held.clear()
