# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The redrive over AMQP, for every application on RabbitMQ: take, decide, publish, confirm, ledger, acknowledge.

A system on RabbitMQ (plain, Celery, Dramatiq) brings a :class:`Dialect`, which says what its messages mean, and :class:`Places`,
which says which queues are meant; then ``open_store`` returns ``AmqpStore(connection, management, request, check, places, dialect)``.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from typing import Any, Iterator, Mapping, NamedTuple

from .._errors import NotFound, Refused, Unavailable
from .amqp_connection import AmqpConnection
from .amqp_dialect import NO_CHANGE, REDRIVES, RUN, USER, Change, Dialect, Places
from .amqp_link import Link
from .amqp_message import AmqpMessage
from .amqp_resume import Resumed, Witness, resume
from .api import Census, Decision, RedriveRequest, Sweep, Task, TaskStore
from .ledger import Ledger
from .rabbitmq_management import LAG_S, Management, effective, is_down

__all__ = ["CAME_BACK", "AmqpStore", "Change", "Dialect", "Places"]

#: Messages that the broker may hand out ahead, in bytes and number.
AHEAD_BYTES = 16 << 20
AHEAD = 6000
#: Seconds of a slow redrive that are taken at once: far less than the broker lets a message stay unacknowledged.
SLOW_S = 60.0
#: Seconds without a delivery after which the source is asked whether it is empty.
SILENCE_S = 0.2
#: Seconds in which a source that is not empty has to deliver something.
STARVED_S = 15.0
#: Destinations whose length is noted with each batch.
MEASURED = 8

#: Tasks named of one sweep.
NAMED = 20

#: Why a task is skipped.
CAME_BACK = "this run has redriven it before, and it came back"
NO_ORIGIN = "the message does not tell which queue it came from; name a destination in the rule"
NO_QUEUE = "its destination %s does not exist"
NOT_OURS = "it came from another queue than %s"
FULL = "its destination %s is full, and would drop tasks"
UNROUTABLE = "the broker could route it nowhere"


class _Going(NamedTuple):
    """A message on its way: its place among those asked for, what becomes of it and where (None: nowhere)."""

    place: int
    message: AmqpMessage
    action: str
    queue: str | None
    identity: str


class AmqpStore(TaskStore):
    """The messages of one queue, for one redrive. See ``amqp_resume.py`` for what a run that died leaves and how it goes on.

    What no rule takes is held and put back at its place (classic queues), or published again to the tail of the source (quorum queues,
    and where the type is not known), because there each message put back counts as a delivery, and too many of them end it.

    :raises NotFound: the source or a destination does not exist.
    :raises Refused: the destination would drop tasks, or with ``check`` they would have to be taken from a quorum queue.
    """

    batch = 2000

    def __init__(
        self,
        connection: AmqpConnection,
        management: Management,
        request: RedriveRequest,
        check: bool,
        places: Places,
        dialect: Dialect | None = None,
    ) -> None:
        self._amqp = connection
        self._management = management
        self._request = request
        self._check = check
        self._places = places
        self._dialect = dialect or Dialect()
        self._run = request.run or "auto-%s" % uuid.uuid4().hex[:12]
        self._limits: dict[str, int | None] = {}
        self._known: dict[str, bool] = {}
        self._base: dict[str, int] = {}
        self._link: Link | None = None
        self._ledger: Ledger | None = None
        self._witness: Witness | None = None
        self._resumed = Resumed()
        self.warnings: list[str] = []
        # Delivery tags: put back at the end; to be acknowledged with the next batch; all below this one are acknowledged.
        self._held: list[int] = []
        self._done: list[int] = []
        self._cleared = 0
        self._rotating: list[AmqpMessage] = []
        # Counts of messages: taken from the source, put back or acknowledged, published to its tail again.
        self._taken = self._parted = self._rotated = 0
        self._consuming = False
        self._number = 0
        self._unsettled = self._exhausted = self._ended = False
        # As of the last time the broker was asked to deliver: how many it may hand out ahead, how many were held.
        self._ahead_now = self._held_then = 0
        self._sent_at = 0.0
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    # Opening

    def _prepare(self) -> None:
        source, rules = self._places.source, self._request.rules
        self._total = self._must_exist(source, "queue")
        told = self._management.queue(source) or {}
        self._type: str | None = told.get("type")
        if is_down(told):
            raise Unavailable(
                "Queue %s at %s is %s: how many tasks it holds is not known" % (source, self._amqp.where, told["state"]),
                next_step="Bring back the node that holds it, or a majority of its members, and run again",
            )
        if self._type != "classic" and told.get("messages_ready") is None:
            # It may have come up just now.
            self._total = self._amqp.steady(source).ready
        #: Whether what is taken and put back stands where it stood, as if nothing had been.
        self._keeps = self._type == "classic"
        self._size = int((told.get("message_bytes") or 0) / max(1, told.get("messages") or 1))
        if self._check and any(rule.match.named() for rule in rules) and not self._keeps:
            raise Refused(
                "Queue %s at %s is %s: to look at its messages is to take them, and each look counts towards their delivery limit"
                % (source, self._amqp.where, "a quorum queue" if self._type == "quorum" else "of a type that is not known"),
                option="match",
                next_step="Leave match out in check mode, or redrive a few with limit"
                if self._type
                else "Set management_url, or leave match out in check mode",
            )
        named = {rule.destination for rule in rules if rule.destination}
        if self._places.home and any(rule.action == "requeue" and not rule.destination for rule in rules):
            named.add(self._places.home)
        for queue in sorted(named):
            self._base[queue] = self._must_exist(queue, "rules")
            self._refuse_dropping(queue)
        actions = {rule.action for rule in rules}
        for action in sorted(actions & set(self._places.actions) - {"park"}):
            self._must_exist(self._places.actions[action], "rules")
        if self._check:
            return
        park = self._places.actions.get("park")
        if park and ("park" in actions or self._request.max_redrives is not None):
            if self._amqp.depths([park])[park] is None:
                self._amqp.declare(park, {"x-queue-type": "quorum"} if self._type == "quorum" else {}, "make the parking place %s" % park)
            self._known[park] = True
        self._begin()

    def _must_exist(self, queue: str, option: str) -> int:
        try:
            found = self._amqp.depth(queue)
        except NotFound as problem:
            problem.option = option
            raise
        self._known[queue] = True
        return found.ready

    def _room(self, queue: str) -> int | None:
        """How many messages fit into ``queue`` before it drops some or refuses them; None: any number, as far as is known."""
        if queue not in self._limits:
            self._limits[queue] = effective(self._management.queue(queue) or {}).get("x-max-length")
        limit = self._limits[queue]
        return None if limit is None else max(0, limit - self._amqp.depth(queue).ready)

    def _refuse_dropping(self, queue: str) -> None:
        """Refuse a destination that cannot hold what may be sent to it."""
        room = self._room(queue)
        wanted = min(self._total, self._request.limit or self._total)
        if room is not None and room < wanted:
            raise Refused(
                "Queue %s at %s holds at most %s tasks and has room for %d; up to %d would be sent, and it would drop or refuse the rest"
                % (queue, self._amqp.where, self._limits[queue], room, wanted),
                option="limit",
                next_step="Raise its max-length, or %s" % ("redrive with limit=%d" % room if room else "let workers empty it"),
            )

    def _begin(self) -> None:
        """Take up the run: its ledger, its mark, and what it left if it died."""
        source = self._places.source
        self._ledger = ledger = Ledger(self._request.state_dir, self._run)
        self._witness = witness = Witness(self._amqp, self._run)
        self._resumed = resume(self._amqp, ledger, witness, source)
        self.warnings.extend(self._resumed.remarks)
        if witness.reason is not None:
            self.warnings.append(
                "%s: if this run is killed, up to %d tasks may be sent twice, and are then listed" % (witness.reason, self.batch)
            )
        self._number = ledger.last
        self._link = Link(self._amqp, "redrive queue %s" % source)
        if not ledger.plans and witness.reason is None:
            # From here on a witness that holds nothing means that the broker has restarted.
            witness.mark(self._link, self._number)
            self._link.commit()

    # What the engine asks

    def now(self) -> float:
        return time.time()

    def census(self) -> Census:
        self._settle()
        source = self._places.source
        counts = {self._places.label: self._amqp.depth(source).ready + self._taken - self._parted}
        consumers = 0
        for queue in sorted(name for name, there in self._known.items() if there and name != source):
            found = self._amqp.depths([queue])[queue]
            if found is not None:
                counts[queue] = found.ready
                consumers += found.consumers
        # How many tasks workers took is only known where there are none.
        return Census(counts, activity=None if consumers else 0)

    def windows(self) -> Iterator[list[Task]]:
        if self._check and not self._keeps:
            # Not taken, so nothing is known but how many there are.
            for start in range(0, self._total, self.batch):
                yield [Task("") for _index in range(min(self.batch, self._total - start))]
            return
        if self._link is None:
            self._link = Link(self._amqp, "look at queue %s" % self._places.source)
        while True:
            messages = self._take(self.batch)
            if not messages:
                return
            if self._check:
                self._held.extend(message.tag for message in messages)
            yield [self._task(message) for message in messages]

    def _task(self, message: AmqpMessage) -> Task:
        dialect = self._dialect
        task = Task(dialect.identity(message), redrives=dialect.redrives(message), handle=message)
        dialect.describe(message, task)
        task.obstacle = self._obstacle(message)
        return task

    def _obstacle(self, message: AmqpMessage) -> str | None:
        if message.header(RUN) == self._run:
            return CAME_BACK
        only = self._places.only
        if only is not None and self._dialect.origin(message) not in (None, only):
            return NOT_OURS % only
        return None

    def load(self, tasks: list[Task], what: frozenset[str]) -> None:
        for task in tasks:
            if task.handle is not None:
                self._dialect.load(task.handle, task, what)

    def apply(self, decisions: list[Decision]) -> list[str]:
        return self._act([(made.task.handle, made.action, made.destination, made.task.id) for made in decisions])

    def leave(self, tasks: list[Task]) -> None:
        if not self._check:
            self._leave([task.handle for task in tasks if task.handle is not None])

    def sweep(self, action: str, destination: str | None, most: int) -> Sweep | None:
        if not most:
            return Sweep(matched=max(0, self._total - self._taken))
        messages = self._take(most)
        swept = Sweep(matched=len(messages))
        chosen, dialect = [], self._dialect
        for message in messages:
            obstacle = self._obstacle(message)
            if obstacle is None:
                chosen.append((message, action, destination, dialect.identity(message)))
            else:
                swept.skipped_because[obstacle] = swept.skipped_because.get(obstacle, 0) + 1
                self._leave([message])
        names: Counter[str] = Counter()
        versions: Counter[str] = Counter()
        for entry, outcome in zip(chosen, self._act(chosen)):
            if outcome:
                swept.skipped_because[outcome] = swept.skipped_because.get(outcome, 0) + 1
                continue
            name, version = dialect.label(entry[0])
            if len(swept.sample) < NAMED:
                swept.sample.append(self._task(entry[0]))
            names[name or "unknown"] += 1
            versions[version or "unknown"] += 1
        swept.moved = sum(names.values())
        swept.by_task, swept.by_version = dict(names), dict(versions)
        return swept

    def fates(self, moved: int) -> tuple[int, int]:
        """By counts: what the source has more than it should has failed again; what is in no queue and in no worker's hand is settled.

        Other tasks that fail meanwhile count as well, so the breaker errs to the safe side.
        """
        # What was handed out ahead is in our hands as well, and not asked for yet.
        ours = self._taken + (len(self._link) if self._link is not None else 0)
        failed = max(0, self._amqp.depth(self._places.source).ready + ours - self._total - self._rotated)
        settled = failed
        waiting = 0
        for queue, before in self._base.items():
            unacked = (self._management.queue(queue) or {}).get("messages_unacknowledged")
            if unacked is None:
                break
            waiting += max(0, self._amqp.depth(queue).ready - before) + int(unacked)
        else:
            # What workers have in hand is told late.
            if time.monotonic() - self._sent_at > LAG_S:
                settled = max(failed, moved - waiting)
        return min(moved, settled), min(moved, failed)

    def unfinished(self) -> str:
        return "of the batch in hand, up to %d tasks, it is not known; none is lost, and a second run under run=%s on this host goes on" % (
            self.batch,
            self._run,
        )

    def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if self._ledger is not None:
            if self._witness is not None and link is not None:
                self._witness.close(self._ended or not (self._taken or self._ledger.plans))
            self._ledger.close()
        self._amqp.close()

    # Taking

    def _ahead(self) -> int:
        """How many messages the broker may hand out ahead; three batches, unless they are large."""
        most = AHEAD if not self._size else max(3, min(AHEAD, AHEAD_BYTES // self._size))
        self.batch = max(1, min(self.batch, most // 3))
        ahead = min(most, 3 * self.batch)
        limit = self._request.limit
        chosen = self._check or any(rule.match.named() for rule in self._request.rules)
        return ahead if limit is None or chosen else max(1, min(ahead, limit))

    def _consume(self, link: Link) -> None:
        self._stop_consuming()
        self._ahead_now = self._ahead()
        self._held_then = len(self._held)
        link.consume(self._places.source, self._ahead_now)
        self._consuming = True

    def _take(self, most: int) -> list[AmqpMessage]:
        """The next messages, at most ``most``; none: the source has ended where it ended at first, or is empty."""
        link = self._link
        if self._request.rate is not None:
            most = max(1, min(most, int(self._request.rate * SLOW_S)))
        starved = time.monotonic() + STARVED_S
        while link is not None and self._taken < self._total:
            # What is held counts as handed out: the broker is asked anew before that is all.
            if not self._consuming or 2 * (len(self._held) - self._held_then) > self._ahead_now:
                self._consume(link)
            messages = link.receive(min(most, self._ahead_now, self._total - self._taken), SILENCE_S)
            self._taken += len(messages)
            if messages:
                if self._resumed:
                    messages = [message for message in messages if not self._is_published(message)]
                if messages:
                    if self._request.breaker is not None:
                        self._stop_consuming()
                    return messages
            elif not self._is_silent(link, starved):
                break
        self._exhausted = True
        return []

    def _is_silent(self, link: Link, starved: float) -> bool:
        """Nothing was delivered: whether the source holds something all the same; then the broker is asked anew."""
        source, where = self._places.source, self._amqp.where
        if link.cancelled:
            raise Unavailable(
                "The broker ended the reading of queue %s at %s: it was deleted, or its node is gone" % (source, where),
                next_step="Look at it with queue_info, then run again under the same run",
            )
        if not self._amqp.depth(source).ready:
            self._total = self._taken
            return False
        if time.monotonic() > starved:
            raise Unavailable(
                "Queue %s at %s holds tasks and delivers none: another consumer is its single active one" % (source, where),
                next_step="Stop that consumer, then run again under the same run",
            )
        # All that was handed out ahead may be in our hands.
        self._flush()
        self._consume(link)
        return True

    def _is_published(self, message: AmqpMessage) -> bool:
        """Whether the run that died has published this one already; it is then acknowledged with the next batch."""
        last = message.header(RUN)
        if last == self._run or not self._resumed.takes(self._dialect.identity(message), last is None):
            return False
        self._done.append(message.tag)
        return True

    def _stop_consuming(self) -> None:
        if self._consuming and self._link is not None:
            self._link.cancel()
            self._consuming = False

    def _leave(self, messages: list[AmqpMessage]) -> None:
        if self._keeps:
            self._held.extend(message.tag for message in messages)
            return
        self._rotating.extend(messages)
        if len(self._rotating) >= self.batch:
            self._rotate()

    def _rotate(self) -> None:
        """Publish what nobody wants to the tail of the source, as it is."""
        messages, self._rotating = self._rotating, []
        source = self._places.source
        while messages:
            portion, messages = messages[: self.batch], messages[self.batch :]
            going = [_Going(place, message, "leave", source, self._dialect.identity(message)) for place, message in enumerate(portion)]
            self._move(going, [""] * len(going))
            self._rotated += len(going)

    # Moving

    def _act(self, chosen: list[tuple[AmqpMessage, str, str | None, str]]) -> list[str]:
        """Act on these; one text each, "" when done, else why it was skipped and left."""
        outcomes = [""] * len(chosen)
        going, left = [], []
        rooms: dict[str, int | None] = {}
        for place, (message, action, destination, identity) in enumerate(chosen):
            queue, problem = self._target(message, action, destination)
            if queue is not None and not problem:
                if queue not in rooms:
                    rooms[queue] = self._room(queue)
                room = rooms[queue]
                if room is not None:
                    problem = "" if room else FULL % queue
                    rooms[queue] = room - 1
            if problem:
                outcomes[place] = problem
                left.append(message)
            else:
                going.append(_Going(place, message, action, queue, identity))
        if going:
            left.extend(self._move(going, outcomes))
        if left:
            self._leave(left)
        return outcomes

    def _target(self, message: AmqpMessage, action: str, destination: str | None) -> tuple[str | None, str]:
        """Where to, and why not."""
        if action == "discard":
            return None, ""
        queue = destination or self._places.actions.get(action) if action != "requeue" else destination
        if queue is None:
            queue = self._dialect.origin(message) or self._places.home
            if queue is None:
                return None, NO_ORIGIN
        there = self._known.get(queue)
        if there is None:
            there = self._known[queue] = self._amqp.depths([queue])[queue] is not None
        return queue, "" if there else NO_QUEUE % queue

    def _move(self, going: list[_Going], outcomes: list[str]) -> list[AmqpMessage]:
        """One batch: plan, ledger, publish, commit. Those that could not be routed; their outcome says so."""
        link, ledger, witness = self._link, self._ledger, self._witness
        if link is None or ledger is None or witness is None:
            raise Refused("This redrive only looks")
        queues = list(dict.fromkeys(entry.queue for entry in going))
        self._plan(ledger, going, queues)
        for entry in going:
            if entry.queue is not None:
                self._publish(link, entry)
        self._acknowledge(link)
        witness.mark(link, self._number)
        try:
            link.commit()
        except Refused:
            # The broker took a part: a full queue refused the rest.
            ledger.note(doubt=self._number)
            ledger.sync()
            raise
        self._unsettled = True
        self._sent_at = time.monotonic()
        back = self._returned(link, going, witness)
        if back:
            ledger.note(back=self._number, ids=[entry.identity for entry in back])
            ledger.sync()
            for entry in back:
                outcomes[entry.place] = UNROUTABLE
        lost = {entry.place for entry in back}
        self._done = [entry.message.tag for entry in going if entry.place not in lost]
        return [entry.message for entry in back]

    def _plan(self, ledger: Ledger, going: list[_Going], queues: list[str | None]) -> None:
        """What is about to be done, on disk, with what is sure by now."""
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
        entry: dict[str, Any] = {
            "plan": self._number,
            "queues": queues,
            "ids": [one.identity for one in going],
            "depths": depths,
            "consumers": consumers,
            # What the source holds of what it held at first, once this batch is published and the last one acknowledged.
            "left": self._total - self._parted - len(self._done),
        }
        carried = list(self._resumed.published.elements())
        if carried:
            entry["carry"] = carried
        if len(queues) > 1:
            places = {queue: place for place, queue in enumerate(queues)}
            entry["to"] = [places[one.queue] for one in going]
        ledger.note(**entry)
        ledger.sync()

    def _publish(self, link: Link, entry: _Going) -> None:
        message, action = entry.message, entry.action
        change = self._dialect.change(message, action, str(entry.queue)) if action != "leave" else NO_CHANGE
        headers: Mapping[str, Any] = change.headers
        if action in ("requeue", "compensate"):
            headers = dict(headers)
            headers[REDRIVES] = self._dialect.redrives(message) + 1
            headers[RUN] = self._run
        properties: dict[str, Any] = {"delivery_mode": 2}
        user = message.prop("user_id")
        if user is not None and user != self._amqp.username:
            # The broker takes no message in another user's name.
            properties["user_id"] = None
            headers = dict(headers, **{USER: user})
        properties.update(change.properties)
        frames, size = message.body_frames, message.size
        if change.body is not None:
            frames, size = link.frames(change.body), len(change.body)
        link.publish(str(entry.queue), message.rewritten(headers, change.without, properties), frames, size)

    def _acknowledge(self, link: Link) -> None:
        """Acknowledge what the ledger knows to be published, with the next commit."""
        done, self._done = sorted(self._done), []
        if not done:
            return
        if done[0] == self._cleared + 1 and done[-1] - done[0] == len(done) - 1:
            link.ack(done[-1], multiple=True)
            self._cleared = done[-1]
        else:
            for tag in done:
                link.ack(tag)
        self._parted += len(done)

    def _returned(self, link: Link, going: list[_Going], witness: Witness) -> list[_Going]:
        """Which of these the broker could not route."""
        back: list[_Going] = []
        rest = list(going)
        for queue, message in link.returned:
            if queue == witness.queue:
                witness.reason = "the queue %s was deleted" % queue
                continue
            self._known[queue] = False
            same = [entry for entry in rest if entry.queue == queue and self._is_copy(message, entry.message)]
            entry = same[0] if same else next(entry for entry in rest if entry.queue == queue)
            rest.remove(entry)
            back.append(entry)
        return back

    def _is_copy(self, copy: AmqpMessage, message: AmqpMessage) -> bool:
        return copy.prop("message_id") == message.prop("message_id") and copy.body_frames == message.body_frames

    def _flush(self) -> None:
        """Acknowledge what is published by now, without waiting for the next batch."""
        if self._done or self._unsettled:
            self._move([], [])

    def _settle(self) -> None:
        """Come to an end: nothing of the source is in our hands any more, and the ledger says so."""
        link = self._link
        if link is None or self._ended or not (self._taken or self._exhausted):
            return
        self._stop_consuming()
        undecided = link.receive(len(link), 0.0)
        self._taken += len(undecided)
        self._leave(undecided)
        self._total = self._taken
        if not self._check:
            if self._rotating:
                self._rotate()
            self._flush()
        for tag in self._held:
            link.give_back(tag)
        self._parted += len(self._held)
        self._held.clear()
        link.commit()
        if self._ledger is not None:
            self._ledger.note(sure=self._number)
            self._ledger.note(settled=self._number)
            self._ledger.note(closed=self._number)
            self._ledger.sync()
        self._ended = True
