# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Moving messages over AMQP, a batch at a time: ledger, publish, confirm, acknowledge. See ``amqp_resume.py`` for what a death leaves."""

from __future__ import annotations

import time
from typing import Any, Callable, NamedTuple

from .._errors import FleetError, Refused
from .amqp_connection import AmqpConnection
from .amqp_destinations import Destinations
from .amqp_dialect import CC, COPIES, NO_CHANGE, REDRIVES, RUN, USER, Change, Dialect
from .amqp_link import Link
from .amqp_message import AmqpMessage, header_table
from .amqp_resume import Resumed, Witness
from .amqp_source import Source
from .ledger import Ledger

#: Destinations whose length is noted with each batch.
MEASURED = 8
#: Headers that are set or left out in a copy.
OURS = (REDRIVES, RUN, CC)

UNCLEAR = "No task is lost; of the batch in hand it is not known whether it was sent"


class Going(NamedTuple):
    """A message on its way: its place among those asked for, what becomes of it and where (None: nowhere)."""

    place: int
    message: AmqpMessage
    action: str
    queue: str | None
    identity: str


class Batches:
    """The batches of one run.

    :ivar sent_at: when the last one was published (``time.monotonic``).
    :ivar meanwhile: what to do while the broker is busy with a batch, or None.
    """

    def __init__(
        self,
        amqp: AmqpConnection,
        link: Link,
        ledger: Ledger,
        witness: Witness,
        resumed: Resumed,
        source: Source,
        destinations: Destinations,
        dialect: Dialect,
        run: str,
    ) -> None:
        self._amqp = amqp
        self._link = link
        self._ledger = ledger
        self._witness = witness
        self._resumed = resumed
        self._source = source
        self._destinations = destinations
        self._dialect = dialect
        self._run = run
        self._number = ledger.last
        # Delivery tags: to be acknowledged with the next batch; all up to this one are acknowledged.
        self._done: list[int] = []
        self._cleared = 0
        self._unsettled = False
        # Our headers, by how often a message was redriven.
        self._tables: dict[int, bytes] = {}
        self.sent_at = 0.0
        self.meanwhile: Callable[[], None] | None = None

    def begin(self) -> None:
        """From here on a witness that holds nothing means that the broker has restarted."""
        if not self._ledger.plans and self._witness.reason is None:
            self._witness.mark(self._link, self._number)
            self._link.commit()

    def done(self, message: AmqpMessage) -> None:
        """It was published by the run that died: it is acknowledged with the next batch."""
        self._done.append(message.tag)

    def move(self, going: list[Going]) -> list[Going]:
        """One batch; returns those that the broker could route nowhere.

        :raises FleetError: it broke off; the next run under the same name finds out how far it came.
        """
        link, ledger, witness = self._link, self._ledger, self._witness
        queues = list(dict.fromkeys(entry.queue for entry in going))
        if self._source.name in queues:
            # A quorum queue that is busy with what we publish puts off what we acknowledge, and forgets it if we die.
            self.flush()
        self._plan(going, queues)
        for _place, message, action, queue, _identity in going:
            if queue is not None:
                prepared = message.copy
                if prepared is None or prepared[0] != action or prepared[1] != queue:
                    prepared = self.prepare(message, action, queue)
                link.publish(queue, prepared[2], prepared[3], prepared[4])
                message.copy = None
        self._acknowledge()
        witness.mark(link, self._number)
        try:
            link.commit(self.meanwhile)
        except Refused as problem:
            # The broker took a part: a full queue refused the rest.
            ledger.note(doubt=self._number)
            ledger.sync()
            problem.still_true = UNCLEAR
            raise
        except FleetError as problem:
            problem.still_true = UNCLEAR
            raise
        self._unsettled = True
        self.sent_at = time.monotonic()
        self._source.returned += sum(entry.queue == self._source.name for entry in going) if self._source.name in queues else 0
        back = self._returned(going)
        if back:
            ledger.note(back=self._number, ids=[entry.identity for entry in back])
            ledger.sync()
        lost = {entry.place for entry in back}
        self._done = [entry.message.tag for entry in going if entry.place not in lost]
        return back

    def flush(self) -> None:
        """Acknowledge what is published by now, without waiting for the next batch."""
        if self._done:
            self.move([])

    def end(self) -> None:
        """Nothing of the source is in our hands any more: the ledger says so."""
        self._ledger.note(sure=self._number)
        self._ledger.note(settled=self._number)
        self._ledger.note(closed=self._number)
        self._ledger.sync()

    def _plan(self, going: list[Going], queues: list[str | None]) -> None:
        """What is about to be done, on disk, with what is sure by now."""
        ledger, source = self._ledger, self._source
        if self._unsettled:
            ledger.note(sure=self._number)
            ledger.note(settled=self._number - 1)
        self._number += 1
        depths: list[int | None] = []
        consumers: list[int] = []
        for queue in queues:
            found = self._amqp.depths([queue])[queue] if queue is not None and len(queues) <= MEASURED else None
            depths.append(found.ready if found else None)
            consumers.append(found.consumers if found else 0)
        here = sum(entry.queue == source.name for entry in going) if source.name in queues else 0
        entry: dict[str, Any] = {
            "plan": self._number,
            "queues": queues,
            "ids": [one.identity for one in going],
            "depths": depths,
            "consumers": consumers,
            # What the source holds, of what it held at first, once this batch is published and the last one acknowledged.
            "left": source.total - source.parted - len(self._done) + source.returned + here,
        }
        entry.update(self._resumed.carried())
        if len(queues) > 1:
            places = {queue: place for place, queue in enumerate(queues)}
            entry["to"] = [places[one.queue] for one in going]
        ledger.note(**entry)
        ledger.sync()

    def prepare(self, message: AmqpMessage, action: str, queue: str) -> tuple[str, str, bytes, bytes, int]:
        """What is to be published of a message: action and queue, properties, body in frames, its size; kept in the message."""
        change = self._dialect.change(message, action, queue) if action != "leave" else NO_CHANGE
        count = self._dialect.redrives(message) + 1 if action in ("requeue", "compensate") else 0
        frames, size = message.body_frames, message.size
        if change.body is not None:
            frames, size = self._link.frames(change.body), len(change.body)
        copy = (action, queue, self._plain(message, change, count) or self._properties(message, change, count), frames, size)
        message.copy = copy
        return copy

    def _plain(self, message: AmqpMessage, change: Change, count: int) -> bytes | None:
        """The properties of the copy, quickly: of a message to which nothing happens but that our headers are added. None: of another."""
        user = message.prop("user_id")
        if (
            change.headers
            or change.without
            or change.properties
            or message.prop("delivery_mode") != 2
            or (user is not None and user != self._amqp.username)
            or any(message.has_header(name) for name in OURS)
        ):
            return None
        table = self._tables.get(count)
        if table is None:
            table = self._tables[count] = header_table({REDRIVES: count, RUN: self._run} if count else {})
        return message.extended(table)

    def _properties(self, message: AmqpMessage, change: Change, count: int) -> bytes:
        """The properties of the copy."""
        headers: dict[str, Any] = dict(change.headers)
        without = change.without
        if count:
            headers[REDRIVES] = count
            headers[RUN] = self._run
        properties: dict[str, Any] = {"delivery_mode": 2}
        user = message.prop("user_id")
        if user is not None and user != self._amqp.username:
            # The broker takes no message in another user's name.
            properties["user_id"] = None
            headers[USER] = user
        if message.has_header(CC):
            # The broker would send copies to these queues as well, which had theirs when it was published.
            headers[COPIES] = message.header(CC)
            without = without | {CC}
        properties.update(change.properties)
        return message.rewritten(headers, without, properties)

    def _acknowledge(self) -> None:
        """Acknowledge what the ledger knows to be published, with the next commit."""
        link, done = self._link, sorted(self._done)
        self._done = []
        if not done:
            return
        if done[0] == self._cleared + 1 and done[-1] - done[0] == len(done) - 1:
            link.ack(done[-1], multiple=True)
            self._cleared = done[-1]
        else:
            for tag in done:
                link.ack(tag)
        self._source.parted += len(done)

    def _returned(self, going: list[Going]) -> list[Going]:
        """Which of these the broker could not route."""
        back: list[Going] = []
        rest = list(going)
        for queue, message in self._link.returned:
            if queue == self._witness.queue:
                self._witness.reason = "the queue %s was deleted" % queue
                continue
            self._destinations.gone(queue)
            same = [entry for entry in rest if entry.queue == queue and _is_copy(message, entry.message)]
            entry = same[0] if same else next(entry for entry in rest if entry.queue == queue)
            rest.remove(entry)
            back.append(entry)
        return back


def _is_copy(copy: AmqpMessage, message: AmqpMessage) -> bool:
    return bool(copy.prop("message_id") == message.prop("message_id") and copy.body_frames == message.body_frames)
