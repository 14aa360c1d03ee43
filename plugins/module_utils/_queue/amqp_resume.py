# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a redrive over AMQP that died goes on: what its last batch has become, so that nothing is lost and nothing is sent twice.

Batch n is one AMQP transaction: its messages are published, those of batch n-1 (confirmed, and noted in the ledger) are acknowledged, and
a marker "n" is put into a queue of the run's own, the witness, which holds one message. Whenever this process dies, a transaction has
been taken or not, and the marker tells which. What was taken is whole in a classic queue; a quorum queue that is busy when the channel
dies forgets what stands last of it, so there the batch is looked for. The marker is not kept over a restart of the broker: then, because
the broker may have lost what it had not confirmed, the destinations' lengths are compared, or what may be sent twice is listed.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .._errors import Conflict, FleetError, Refused
from .amqp_arrivals import Arrivals
from .amqp_connection import NAME as CONNECTION
from .amqp_connection import AmqpConnection
from .amqp_dialect import HASHED
from .amqp_link import Link
from .amqp_message import AmqpMessage
from .conservation import fingerprint
from .ledger import Ledger, run_name_is_plain, sent

#: A witness that nobody asks for so long (ms) is deleted by the broker.
EXPIRES_MS = 7 * 24 * 3600 * 1000
#: How long a run that died may still be worked on by the broker (s), and how often that is asked.
RELEASE_S = 30.0
AGAIN_S = 0.1
#: Ids named in a remark.
NAMED = 20


class Witness:
    """The queue ``queueops.redrive.<run>`` with the number of the last batch that took effect, and another that is empty: while a channel
    consumes from that, the broker has not yet done all that a run, which may be dead, has asked of it.

    :ivar reason: why there is none; None as long as there is.
    :ivar number: what it held when the run was opened; None: nothing, or there was none.
    """

    def __init__(self, amqp: AmqpConnection, ledger: Ledger) -> None:
        self._amqp = amqp
        self._token = ledger.token
        self.queue = "queueops.redrive.%s" % ledger.name
        self._lock = self.queue + ".lock"
        self.reason: str | None = None
        self.number: int | None = None
        if not run_name_is_plain(ledger.name):
            self.reason = "the name of the run does not fit into a queue's name"
            return
        try:
            for queue, most in ((self.queue, {"x-max-length": 1}), (self._lock, {})):
                if amqp.depths([queue])[queue] is None:
                    arguments = {"x-queue-type": "classic", "x-expires": EXPIRES_MS, **most}
                    amqp.declare(queue, arguments, "make the mark of the run")
        except Refused as problem:
            self._is_lacking(problem)

    def _is_lacking(self, problem: Exception) -> None:
        self.reason = "the queue %s cannot be used (%s)" % (self.queue, problem)

    def open(self, doing: str) -> Link:
        """The channel of the run, once that of a run that died has ended, and :attr:`number`.

        :raises Conflict: it does not end, or the run was begun with another ledger.
        """
        link = self._held(doing)
        if self.reason is None:
            try:
                self._read()
            except BaseException as problem:
                link.close()
                if not isinstance(problem, (Refused, ValueError)) or isinstance(problem, Conflict):
                    raise
                self._is_lacking(problem)
                link = Link(self._amqp, doing)
        return link

    def _held(self, doing: str) -> Link:
        end = time.monotonic() + RELEASE_S
        while True:
            link = Link(self._amqp, doing)
            if self.reason is not None:
                return link
            try:
                link.hold(self._lock)
            except Refused as problem:
                link.close()
                if "exclusive use" not in problem.message:
                    self._is_lacking(problem)
                elif time.monotonic() > end:
                    raise Conflict(
                        "Another redrive under this run is going on, or the broker still waits for one that died (its connection is %s)"
                        % CONNECTION,
                        option="run",
                        still_true="Nothing was changed",
                        next_step="Wait for its end, or close its connection if its host is gone; then run again under the same run",
                    ) from problem
                else:
                    time.sleep(AGAIN_S)
            except FleetError:
                link.close()
                raise
            else:
                return link

    def _read(self) -> None:
        with self._amqp.asking("read the mark of the run") as channel:
            found = channel.basic_get(self.queue)
            if found is None:
                return
            text = found.body if isinstance(found.body, str) else bytes(found.body).decode("ascii", "replace")
            channel.basic_reject(found.delivery_tag, requeue=True)
        number, _space, token = text.partition(" ")
        self.number = int(number)
        if token != self._token:
            raise Conflict(
                "The run of %s was begun with another ledger than that of this host" % self.queue,
                option="run",
                still_true="Nothing was changed",
                next_step="Run it on the host, and with the state_dir, on which it was begun; or use another run",
            )

    def mark(self, link: Link, number: int) -> None:
        """Put the marker into the transaction of batch ``number``."""
        if self.reason is None:
            body = b"%d %s" % (number, self._token.encode("ascii"))
            link.publish(self.queue, _TRANSIENT, link.frames(body), len(body))

    def close(self, ended: bool) -> None:
        """Delete it when the run has come to its end in order."""
        if ended and self.reason is None:
            try:
                for queue in (self.queue, self._lock):
                    self._amqp.delete(queue, "delete the mark of the run")
            except FleetError:
                return  # It expires by itself.


#: Delivery mode 1: not kept over a restart of the broker.
_TRANSIENT = AmqpMessage(0, False, b"", b"").rewritten({}, properties={"delivery_mode": 1})


@dataclass
class Resumed:
    """What the run that died has left in the source.

    :ivar published: identities of messages that are published elsewhere: to be acknowledged, not published.
    :ivar kept: identities of messages that were published to the tail of the source itself, and may be there twice: so many are left,
    :ivar spare: and so many more acknowledged.
    :ivar exact: whether they are there twice for certain.
    :ivar remarks: what an operator has to know.
    """

    published: Counter[str] = field(default_factory=Counter)
    kept: Counter[str] = field(default_factory=Counter)
    spare: Counter[str] = field(default_factory=Counter)
    #: Fingerprints, sorted, of what was acknowledged before the broker restarted: one that was killed may have forgotten that.
    settled: array[int] = field(default_factory=lambda: array("Q"))
    remarks: list[str] = field(default_factory=list)
    exact: bool = True
    _seen: Counter[int] = field(default_factory=Counter)

    def __bool__(self) -> bool:
        return bool(self.published or self.spare or self.settled)

    def returned(self, identities: list[str]) -> None:
        """These went, or were to go, to the tail of the source."""
        self.kept.update(identities)
        self.spare.update(identities)

    def carried(self) -> dict[str, list[str]]:
        """What of it has not been seen yet, for the next plan: this run may die as well."""
        left = {"carry": self.published}
        if self.exact:
            # Else the next run would take for spare what this one publishes once more: rather twice than lost.
            left.update(kept=self.kept, spare=self.spare)
        return {name: list(counts.elements()) for name, counts in left.items() if counts}

    def carry(self, plan: dict[str, Any]) -> None:
        """Take over what an even earlier run left, and the plan's run had not seen yet."""
        self.published.update(plan.get("carry", ()))
        self.kept.update(plan.get("kept", ()))
        self.spare.update(plan.get("spare", ()))

    def takes(self, identity: str, by: str | None, run: str) -> bool:
        """Whether this message of the source is done with; each counts once.

        :param by: the run that redrove it last. What came back after a redrive is another matter.
        """
        if _less(self.kept, identity):
            return False
        if _less(self.spare, identity):
            return True
        if by == run:
            return False
        if _less(self.published, identity):
            return True
        if not self.settled or by is not None:
            return False
        mark = fingerprint(identity)
        if bisect_right(self.settled, mark) - bisect_left(self.settled, mark) <= self._seen[mark]:
            return False
        self._seen[mark] += 1
        return True


def _less(counts: Counter[str], identity: str) -> bool:
    """Count one less; False: there was none."""
    if not counts[identity]:
        return False
    counts[identity] -= 1
    if not counts[identity]:
        del counts[identity]
    return True


def resume(amqp: AmqpConnection, ledger: Ledger, witness: Witness, source: str, arrivals: Arrivals) -> Resumed:
    """Find out what has become of the last batches."""
    found = Resumed()
    if not ledger.plans and (witness.number is not None or ledger.last <= ledger.closed):
        return found
    if witness.number is not None and not ledger.doubt:
        for plan in ledger.plans:
            if plan["plan"] == witness.number:
                if plan["plan"] not in ledger.sure:
                    _make_sure(amqp, ledger, plan, source, found, arrivals)
                elsewhere, back = sent(plan, source)
                found.published.update(elsewhere)
                found.returned(back)
                # Of an even earlier batch, not seen again by then.
                found.carry(plan)
        return found
    found.exact = False
    left = amqp.steady(source).ready
    if witness.number is None and left > max((plan["left"] for plan in ledger.plans), default=-1):
        # The source holds more than it should: it has forgotten acknowledgements.
        found.settled = _sorted(ledger, source)
    for plan in ledger.plans:
        _without_mark(amqp, ledger, plan, source, left, found, arrivals)
    if ledger.plans:
        found.carry(ledger.plans[-1])
    return found


def _sorted(ledger: Ledger, source: str) -> array[int]:
    """Eight bytes a task, whatever their number."""
    marks = array("Q")
    for ids in ledger.settled_ids(source):
        # Without an id of their own, tasks that are alike cannot be told apart: rather sent twice than lost.
        marks.extend(fingerprint(identity) for identity in ids if not identity.startswith(HASHED))
    ordered = array("Q")
    # A sixteenth at a time, because numbers take five times the memory while they are sorted.
    for part in range(16):
        ordered.extend(sorted(mark for mark in marks if mark >> 60 == part))
    return ordered


def _make_sure(amqp: AmqpConnection, ledger: Ledger, plan: dict[str, Any], source: str, found: Resumed, arrivals: Arrivals) -> None:
    """Take out of a batch that the broker had taken, and not confirmed, what did not arrive; the ledger then says so."""
    lost: list[str] = []
    unknown: list[str] = []
    targets = plan.get("to") or [0] * len(plan["ids"])
    for place, queue in enumerate(plan["queues"]):
        if queue is None or arrivals.are_whole(queue):
            continue
        if queue == source:
            # The originals are there as well, and tell nothing.
            found.exact = False
            continue
        mine = [identity for identity, target in zip(plan["ids"], targets) if target == place]
        came = _came(amqp, queue, mine, plan["depths"][place], plan["consumers"][place], arrivals)
        if came is None:
            unknown.extend(mine)
        else:
            lost.extend(mine[came:])
    if unknown:
        found.remarks.append(
            "The run died while the broker took %d tasks for a quorum queue, and what arrived of them cannot be told, as workers took some:"
            " those are worked on twice. All are in %s; the first are %s" % (len(unknown), ledger.path, ", ".join(unknown[:NAMED]))
        )
    if lost or unknown:
        ledger.take_back(plan, lost + unknown)
    if found.exact:
        ledger.note(sure=plan["plan"])
        ledger.sync()


def _came(amqp: AmqpConnection, queue: str, mine: list[str], before: int | None, consumers: int, arrivals: Arrivals) -> int | None:
    """How many of these, which were published in this order, came to a quorum queue; None: that cannot be told.

    It takes them in their order, and forgets none but the last: with one that is there, all before it came.
    """
    depth = amqp.steady(queue)
    arrived = arrivals.of(queue, frozenset(mine))
    if arrived is None:
        return None
    undisturbed = before is not None and not consumers and not depth.consumers and depth.ready >= before
    if undisturbed and depth.ready - (before or 0) == len(mine) and Counter(mine) <= arrived:
        return len(mine)
    for place in range(len(mine), 0, -1):
        identity = mine[place - 1]
        # Tasks without ids of their own, which are alike, may have been there before.
        if arrived[identity] and not identity.startswith(HASHED):
            return place
    none_came = depth.ready == before or not any(identity.startswith(HASHED) for identity in mine)
    return 0 if undisturbed and none_came else None


def _without_mark(
    amqp: AmqpConnection,
    ledger: Ledger,
    plan: dict[str, Any],
    source: str,
    left: int,
    found: Resumed,
    arrivals: Arrivals,
) -> None:
    """Judge one batch by the lengths of the queues, and by what is in them."""
    elsewhere, back = sent(plan, source)
    found.returned(back)
    if plan["plan"] in ledger.sure:
        # Confirmed, perhaps acknowledged: the source is shorter by as much, unless tasks failed meanwhile.
        if left > plan["left"] - len(plan["ids"]):
            found.published.update(elsewhere)
        return
    doubtful: list[str] = []
    targets = plan.get("to") or [0] * len(plan["ids"])
    for place, queue in enumerate(plan["queues"]):
        if queue is None or queue == source:
            continue  # Nothing was published of what is to be discarded; what went to the source itself is told by that.
        mine = [identity for identity, target in zip(plan["ids"], targets) if target == place]
        depth = None if amqp.depths([queue])[queue] is None else amqp.steady(queue)
        before = plan["depths"][place]
        if depth is None or before is None or depth.consumers or plan["consumers"][place] or depth.ready < before:
            doubtful.extend(mine)
        elif depth.ready > before:
            # Tasks of others may have come meanwhile, so that the length alone does not tell.
            arrived = arrivals.of(queue, frozenset(mine))
            if arrived is None:
                doubtful.extend(mine)
                continue
            ours = Counter(mine) & arrived
            found.published.update(ours)
            doubtful.extend(identity for identity in Counter(mine) - ours if identity.startswith(HASHED))
    if doubtful:
        found.remarks.append(
            "The broker restarted before it confirmed %d tasks, and what it kept of them cannot be told: those are worked on twice."
            " All are in %s; the first are %s" % (len(doubtful), ledger.path, ", ".join(doubtful[:NAMED]))
        )
