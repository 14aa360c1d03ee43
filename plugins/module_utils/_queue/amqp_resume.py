# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a redrive over AMQP that died goes on: what its last batch has become, so that nothing is lost and nothing is sent twice.

Batch n is one AMQP transaction: its messages are published, those of batch n-1 (confirmed, and noted in the ledger) are acknowledged, and
a marker "n" is put into a queue of the run's own, the witness, which holds one message. Whenever this process dies, a transaction has
happened whole or not at all, and the marker tells which. The marker is not kept over a restart of the broker: then, because the broker
may have lost what it had not confirmed, the destinations' lengths are compared, or what may be sent twice is listed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .._errors import Conflict, FleetError, Refused
from .amqp_connection import AmqpConnection
from .amqp_dialect import HASHED
from .amqp_link import Link
from .amqp_message import AmqpMessage
from .conservation import fingerprint
from .ledger import Ledger, run_name_is_plain

#: A witness that nobody asks for so long (ms) is deleted by the broker.
EXPIRES_MS = 7 * 24 * 3600 * 1000
#: Ids named in a remark.
NAMED = 20


class Witness:
    """The queue ``queueops.redrive.<run>`` with the number of the last batch that took effect.

    :ivar reason: why there is none; None as long as there is.
    :ivar number: what it held when the run was opened; None: nothing, or there was none.
    """

    def __init__(self, amqp: AmqpConnection, run: str) -> None:
        self._amqp = amqp
        self.queue = "queueops.redrive.%s" % run
        self.reason: str | None = None
        self.number: int | None = None
        self.existed = False
        if not run_name_is_plain(run):
            self.reason = "the name of the run does not fit into a queue's name"
            return
        try:
            self.existed = amqp.depths([self.queue])[self.queue] is not None
            if self.existed:
                with amqp.asking("read the mark of run %s" % run) as channel:
                    found = channel.basic_get(self.queue)
                    if found is not None:
                        self.number = int(found.body)
                        channel.basic_reject(found.delivery_tag, requeue=True)
            else:
                arguments = {"x-queue-type": "classic", "x-max-length": 1, "x-expires": EXPIRES_MS}
                amqp.declare(self.queue, arguments, "make the mark of run %s" % run)
        except (Refused, ValueError) as problem:
            self.reason = "the queue %s cannot be used (%s)" % (self.queue, problem)

    def mark(self, link: Link, number: int) -> None:
        """Put the marker into the transaction of batch ``number``."""
        if self.reason is None:
            body = b"%d" % number
            link.publish(self.queue, _TRANSIENT, link.frames(body), len(body))

    def close(self, ended: bool) -> None:
        """Delete it when the run has come to its end in order."""
        if ended and self.reason is None:
            try:
                self._amqp.delete(self.queue, "delete the mark of the run")
            except FleetError:
                return  # It expires by itself.


#: Delivery mode 1: not kept over a restart of the broker.
_TRANSIENT = AmqpMessage(0, False, b"", b"").rewritten({}, properties={"delivery_mode": 1})


@dataclass
class Resumed:
    """What the run that died has left.

    :ivar published: identities of messages that are published, and may still be in the source: to be acknowledged, not published.
    :ivar remarks: what an operator has to know.
    """

    published: Counter[str] = field(default_factory=Counter)
    #: Fingerprints, sorted, of what was acknowledged before the broker restarted: one that was killed may have forgotten that.
    settled: array[int] = field(default_factory=lambda: array("Q"))
    remarks: list[str] = field(default_factory=list)
    _seen: Counter[int] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(self.published or self.settled)

    def takes(self, identity: str, ours: bool) -> bool:
        """Whether this message of the source is one of those; each counts once.

        :param ours: whether no redrive has published it yet. What came back after a redrive is another matter.
        """
        if self.published[identity]:
            self.published[identity] -= 1
            return True
        if not self.settled or not ours:
            return False
        mark = fingerprint(identity)
        if bisect_right(self.settled, mark) - bisect_left(self.settled, mark) <= self._seen[mark]:
            return False
        self._seen[mark] += 1
        return True


def resume(amqp: AmqpConnection, ledger: Ledger, witness: Witness, source: str) -> Resumed:
    """Find out what has become of the last batches.

    :raises Conflict: the run was begun on another host, whose ledger is not here.
    """
    found = Resumed()
    if witness.number is None and ledger.last > ledger.closed:
        found.settled = _sorted(ledger)
    if not ledger.plans:
        if witness.number is not None and witness.number > ledger.last:
            raise Conflict(
                "The run of %s was begun with another ledger than %s" % (witness.queue, ledger.path),
                option="run",
                still_true="Nothing was changed",
                next_step="Run it on the host, and with the state_dir, on which it was begun; or use another run",
            )
        return found
    if witness.number is not None and not ledger.doubt:
        for plan in ledger.plans:
            if plan["plan"] == witness.number:
                found.published.update(plan["ids"])
                # Of an even earlier batch, not seen again by then.
                found.published.update(plan.get("carry", ()))
        return found
    left = amqp.steady(source).ready
    for plan in ledger.plans:
        _without_mark(amqp, ledger, plan, left, found)
    if ledger.plans:
        found.published.update(ledger.plans[-1].get("carry", ()))
    return found


def _sorted(ledger: Ledger) -> array[int]:
    """Eight bytes a task, whatever their number."""
    marks = array("Q")
    for ids in ledger.settled_ids():
        # Without an id of their own, tasks that are alike cannot be told apart: rather sent twice than lost.
        marks.extend(fingerprint(identity) for identity in ids if not identity.startswith(HASHED))
    ordered = array("Q")
    # A sixteenth at a time, because numbers take five times the memory while they are sorted.
    for part in range(16):
        ordered.extend(sorted(mark for mark in marks if mark >> 60 == part))
    return ordered


def _without_mark(amqp: AmqpConnection, ledger: Ledger, plan: dict[str, Any], left: int, found: Resumed) -> None:
    """Judge one batch by the lengths of the queues."""
    ids, number = plan["ids"], plan["plan"]
    if not ids:
        return
    if number in ledger.sure:
        # Confirmed, perhaps acknowledged: the source is shorter by as much, unless tasks failed meanwhile.
        if left > plan["left"] - len(ids):
            found.published.update(ids)
        return
    doubtful: list[str] = []
    targets = plan.get("to") or [0] * len(ids)
    for place, queue in enumerate(plan["queues"]):
        mine = [identity for identity, target in zip(ids, targets) if target == place]
        if queue is None:
            continue  # Nothing was published of what is to be discarded.
        depth = None if amqp.depths([queue])[queue] is None else amqp.steady(queue)
        before = plan["depths"][place]
        arrived = None if depth is None or before is None or depth.consumers or plan["consumers"][place] else depth.ready - before
        if arrived is not None and 0 <= arrived <= len(mine):
            found.published.update(mine[:arrived])
        else:
            doubtful.extend(mine)
    if doubtful:
        found.remarks.append(
            "The broker restarted before it confirmed %d tasks, and workers took tasks meanwhile: those that it kept are worked on twice."
            " All are in %s; the first are %s" % (len(doubtful), ledger.path, ", ".join(doubtful[:NAMED]))
        )
