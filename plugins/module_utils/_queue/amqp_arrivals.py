# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a redrive over AMQP that died has sent to a queue, as the queue itself tells."""

from __future__ import annotations

from collections import Counter

from .amqp_connection import AmqpConnection
from .amqp_dialect import Dialect
from .amqp_link import Link
from .rabbitmq_management import Management, effective

#: A queue whose messages may be delivered fewer times than this is not read.
LOOKS = 5
#: Messages that are looked at with one consumer, and the longest wait for the next (s).
LOOKED_AT = 60000
LOOKED_S = 5.0


class Arrivals:
    """Looks for tasks in the queues to which they were sent. Messages are taken and put back at their places."""

    def __init__(self, amqp: AmqpConnection, management: Management, dialect: Dialect) -> None:
        self._amqp = amqp
        self._management = management
        self._dialect = dialect

    def are_whole(self, queue: str) -> bool:
        """Whether a queue has all that a channel had committed when it died, as classic ones have. A queue that is gone has what it had."""
        told = self._management.queue(queue)
        if told is None:
            return self._management.reason is None
        return told.get("type") == "classic"

    def of(self, queue: str, wanted: frozenset[str]) -> Counter[str] | None:
        """How often each of these identities is ready in a queue; None where reading it could end tasks, or its type is not known."""
        told = self._management.queue(queue)
        limit = effective(told or {}).get("x-delivery-limit")
        if told is None or told.get("type") not in ("classic", "quorum") or (limit is not None and limit < LOOKS):
            return None
        return self._read(queue, wanted, self._amqp.depth(queue).ready)

    def _read(self, queue: str, wanted: frozenset[str], most: int) -> Counter[str]:
        found: Counter[str] = Counter()
        link = Link(self._amqp, "look for what was sent to queue %s" % queue)
        try:
            seen = at_once = 0
            while seen < most:
                if seen >= at_once:
                    if at_once:
                        link.cancel()
                    link.consume(queue, LOOKED_AT)
                    at_once = seen + LOOKED_AT
                messages = link.receive(min(most, at_once) - seen, LOOKED_S)
                if not messages:
                    break
                seen += len(messages)
                identities = (self._dialect.identity_before(message) for message in messages)
                found.update(identity for identity in identities if identity in wanted)
        finally:
            link.close()
        return found
