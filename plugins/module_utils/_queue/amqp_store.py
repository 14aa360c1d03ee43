# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The redrive over AMQP, for every application on RabbitMQ: take, decide, publish, confirm, ledger, acknowledge.

A system on RabbitMQ (plain, Celery, Dramatiq) brings a :class:`Dialect`, which says what its messages mean, and :class:`Places`,
which says which queues are meant; then ``open_store`` returns ``AmqpStore(connection, management, request, check, places, dialect)``.

Its parts: ``amqp_source.py`` takes, ``amqp_destinations.py`` knows where to, ``amqp_batches.py`` moves, ``amqp_resume.py`` takes up a
run that died, ``amqp_link.py`` is the channel.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from typing import Iterator

from .._errors import Refused
from .amqp_arrivals import Arrivals
from .amqp_batches import Batches, Going
from .amqp_connection import AmqpConnection
from .amqp_destinations import FULL, NO_QUEUE, Destinations
from .amqp_dialect import Change, Dialect, Places
from .amqp_link import Link
from .amqp_message import AmqpMessage
from .amqp_resume import Resumed, Witness, resume
from .amqp_source import Source
from .api import Census, Decision, RedriveRequest, Sweep, Task, TaskStore
from .ledger import Ledger
from .rabbitmq_management import LAG_S, Management

__all__ = ["CAME_BACK", "AmqpStore", "Change", "Dialect", "Places"]

#: Tasks named of one sweep.
NAMED = 20

#: Why a task is skipped.
CAME_BACK = "this run has redriven it before, and it came back"
NO_ORIGIN = "the message does not tell which queue it came from; name a destination in the rule"
NOT_OURS = "it came from another queue than %s"
UNROUTABLE = "the broker could route it nowhere"


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
        self._destinations = Destinations(connection, management)
        self._base: dict[str, int] = {}
        self._link: Link | None = None
        self._ledger: Ledger | None = None
        self._witness: Witness | None = None
        self._batches: Batches | None = None
        self._resumed = Resumed()
        self._rotating: list[AmqpMessage] = []
        self._ended = False
        self.warnings: list[str] = []
        try:
            self._chooses = check or any(rule.match.named() for rule in request.rules)
            self._source = Source(connection, management, places.source, request, self._chooses)
            self.batch = max(1, min(self.batch, self._source.most // 3))
            self._prepare()
            if not check:
                self._begin()
        except BaseException:
            self.close()
            raise

    # Opening

    def _prepare(self) -> None:
        source, rules = self._source, self._request.rules
        if self._check and not source.keeps and any(rule.match.named() for rule in rules):
            raise Refused(
                "Queue %s at %s is %s: to look at its messages is to take them, and each look counts towards their delivery limit"
                % (source.name, self._amqp.where, "a quorum queue" if source.kind == "quorum" else "of a type that is not known"),
                option="match",
                next_step="Leave match out in check mode, or redrive a few with limit"
                if source.kind
                else "Set management_url, or leave match out in check mode",
            )
        named = {rule.destination for rule in rules if rule.destination}
        if self._places.home and any(rule.action == "requeue" and not rule.destination for rule in rules):
            named.add(self._places.home)
        for queue in sorted(named):
            self._base[queue] = self._destinations.require(queue, "rules")
            self._destinations.refuse_dropping(queue, min(source.total, self._request.limit or source.total), source.size)
        actions = {rule.action for rule in rules}
        for action in sorted(actions & set(self._places.actions) - {"park"}):
            self._destinations.require(self._places.actions[action], "rules")
        park = self._places.actions.get("park")
        if park and not self._check and ("park" in actions or self._request.max_redrives is not None):
            self._destinations.make(park, source.kind == "quorum")
        self.warnings.extend(self._destinations.warnings)

    def _begin(self) -> None:
        """Take up the run: its ledger, its mark, and what it left if it died."""
        source = self._source
        of = "%s %s %s" % (self._amqp.cluster(), self._amqp.vhost, source.name)
        self._ledger = ledger = Ledger(self._request.state_dir, self._run, of)
        self._witness = witness = Witness(self._amqp, ledger)
        self._link = link = witness.open("redrive queue %s" % source.name)
        arrivals = Arrivals(self._amqp, self._management, self._dialect)
        self._resumed = resume(self._amqp, ledger, witness, source.name, arrivals)
        self.warnings.extend(self._resumed.remarks)
        if witness.reason is not None:
            self.warnings.append(
                "%s: if this run is killed, up to %d tasks may be sent twice, and are then listed" % (witness.reason, self.batch)
            )
        source.recount(steady=bool(ledger.plans))
        source.open(link)
        self._batches = Batches(self._amqp, link, ledger, witness, self._resumed, source, self._destinations, self._dialect, self._run)
        self._batches.begin()

    # What the engine asks

    def now(self) -> float:
        return time.time()

    def census(self) -> Census:
        self._settle()
        source = self._source
        counts = {self._places.label: self._amqp.depth(source.name).ready + source.taken - source.parted}
        consumers = 0
        for queue in self._destinations.names():
            found = self._amqp.depths([queue])[queue] if queue != source.name else None
            if found is not None:
                counts[queue] = found.ready
                consumers += found.consumers
        # How many tasks workers took is only known where there are none.
        return Census(counts, activity=None if consumers else 0)

    def windows(self) -> Iterator[list[Task]]:
        source = self._source
        if self._check and not source.keeps:
            # Not taken, so nothing is known but how many there are.
            for start in range(0, source.total, self.batch):
                yield [Task("") for _index in range(min(self.batch, source.total - start))]
            return
        if self._link is None:
            self._link = Link(self._amqp, "look at queue %s" % source.name)
            source.open(self._link)
        while True:
            messages = self._take(self.batch)
            if not messages:
                return
            if self._check:
                source.held.extend(message.tag for message in messages)
            yield [self._task(message) for message in messages]

    def _take(self, most: int) -> list[AmqpMessage]:
        """The next messages; none: the source has ended."""
        while True:
            messages = self._source.take(most, self.batch, self._flush)
            if self._resumed and messages:
                fresh = [message for message in messages if not self._is_published(message)]
                if not fresh:
                    continue
                return fresh
            return messages

    def _is_published(self, message: AmqpMessage) -> bool:
        """Whether the run that died has published this one already; it is then acknowledged with the next batch."""
        dialect, batches = self._dialect, self._batches
        if batches is None or not self._resumed.takes(dialect.identity(message), dialect.run_of(message), self._run):
            return False
        batches.done(message)
        return True

    def _task(self, message: AmqpMessage) -> Task:
        dialect = self._dialect
        task = Task(dialect.identity(message), redrives=dialect.redrives(message), handle=message)
        dialect.describe(message, task)
        task.obstacle = self._obstacle(message)
        return task

    def _obstacle(self, message: AmqpMessage) -> str | None:
        if self._dialect.run_of(message) == self._run:
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
            return Sweep(matched=max(0, self._source.total - self._source.taken))
        if self._batches is not None:
            self._batches.meanwhile = lambda: self._foresee(action, destination)
        messages = self._take(most)
        swept = Sweep(matched=len(messages))
        chosen, dialect = [], self._dialect
        for message in messages:
            # What was prepared had none.
            obstacle = self._obstacle(message) if message.copy is None else None
            if obstacle is None:
                identity = dialect.identity(message) if message.told is None else message.told[0]
                chosen.append((message, action, destination, identity))
            else:
                swept.skipped_because[obstacle] = swept.skipped_because.get(obstacle, 0) + 1
                self._leave([message])
        labels: Counter[tuple[str | None, str | None]] = Counter()
        for entry, outcome in zip(chosen, self._act(chosen)):
            if outcome:
                swept.skipped_because[outcome] = swept.skipped_because.get(outcome, 0) + 1
                continue
            message = entry[0]
            labels[dialect.label(message) if message.told is None else message.told[1]] += 1
            if len(swept.sample) < NAMED:
                swept.sample.append(self._task(message))
        for (name, version), count in labels.items():
            swept.moved += count
            swept.by_task[name or "unknown"] = swept.by_task.get(name or "unknown", 0) + count
            swept.by_version[version or "unknown"] = swept.by_version.get(version or "unknown", 0) + count
        return swept

    def _foresee(self, action: str, destination: str | None) -> None:
        """While the broker is busy with a batch: prepare the next one, without asking anything."""
        link, batches = self._link, self._batches
        if link is None or batches is None:
            return
        for message in link.ahead(self.batch):
            queue = self._queue_for(message, action, destination) if message.copy is None else None
            if queue is None or not self._destinations.is_known(queue):
                continue
            if self._obstacle(message) is None and not self._unfit(message, action, queue):
                batches.prepare(message, action, queue)
                message.told = self._dialect.identity(message), self._dialect.label(message)

    def fates(self, moved: int) -> tuple[int, int]:
        """By counts: what the source has more than it should has failed again; what is in no queue and in no worker's hand is settled.

        Other tasks that fail meanwhile count as well, so the breaker errs to the safe side.
        """
        source, sent_at = self._source, self._batches.sent_at if self._batches is not None else 0.0
        failed = max(0, self._amqp.depth(source.name).ready + source.handed_out - source.total - source.returned)
        settled = failed
        waiting = 0
        for queue, before in self._base.items():
            unacked = (self._management.queue(queue) or {}).get("messages_unacknowledged")
            if unacked is None:
                break
            waiting += max(0, self._amqp.depth(queue).ready - before) + int(unacked)
        else:
            # What workers have in hand is told late.
            if time.monotonic() - sent_at > LAG_S:
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
                self._witness.close(self._ended or not (self._source.taken or self._ledger.plans))
            self._ledger.close()
        self._amqp.close()

    # Moving

    def _act(self, chosen: list[tuple[AmqpMessage, str, str | None, str]]) -> list[str]:
        """Act on these; one text each, "" when done, else why it was skipped and left."""
        outcomes = [""] * len(chosen)
        going, left = [], []
        rooms: dict[str, int | None] = {}
        for place, (message, action, destination, identity) in enumerate(chosen):
            queue, problem = self._target(message, action, destination)
            if queue is not None and not problem:
                problem = self._problem(queue, message, rooms)
            if problem:
                outcomes[place] = problem
                left.append(message)
            else:
                going.append(Going(place, message, action, queue, identity))
        if going:
            for entry in self._move(going):
                outcomes[entry.place] = UNROUTABLE
                left.append(entry.message)
        if left:
            self._leave(left)
        return outcomes

    def _problem(self, queue: str, message: AmqpMessage, rooms: dict[str, int | None]) -> str:
        """Why a queue cannot hold this one more; ``rooms`` is what this batch leaves in each."""
        if queue not in rooms:
            rooms[queue] = self._destinations.room(queue)
        room = rooms[queue]
        if room is not None:
            if not room:
                return FULL % queue
            rooms[queue] = room - 1
        return "" if self._destinations.spend(queue, message.size) else FULL % queue

    def _queue_for(self, message: AmqpMessage, action: str, destination: str | None) -> str | None:
        """Where to; None: nowhere, or the message does not tell."""
        if action == "discard":
            return None
        queue = destination if action == "requeue" else destination or self._places.actions.get(action)
        return queue or self._dialect.origin(message) or self._places.home

    def _target(self, message: AmqpMessage, action: str, destination: str | None) -> tuple[str | None, str]:
        """Where to, and why not."""
        if message.copy is not None and message.copy[0] == action and self._destinations.is_known(message.copy[1]):
            return message.copy[1], ""
        queue = self._queue_for(message, action, destination)
        if queue is None:
            return None, "" if action == "discard" else NO_ORIGIN
        if not self._destinations.exists(queue):
            return queue, NO_QUEUE % queue
        return queue, self._unfit(message, action, queue)

    def _unfit(self, message: AmqpMessage, action: str, queue: str) -> str:
        """Why a message cannot become one of ``queue``; empty: it can."""
        return ""

    def _move(self, going: list[Going]) -> list[Going]:
        if self._batches is None:
            raise Refused("This redrive only looks")
        return self._batches.move(going)

    def _leave(self, messages: list[AmqpMessage]) -> None:
        if self._source.keeps:
            self._source.held.extend(message.tag for message in messages)
            return
        self._rotating.extend(messages)
        if len(self._rotating) >= self.batch:
            self._rotate()

    def _rotate(self) -> None:
        """Publish what nobody wants to the tail of the source, as it is."""
        messages, self._rotating = self._rotating, []
        for start in range(0, len(messages), self.batch):
            portion = messages[start : start + self.batch]
            self._move([Going(place, one, "leave", self._source.name, self._dialect.identity(one)) for place, one in enumerate(portion)])

    def _flush(self) -> None:
        if self._batches is not None:
            self._batches.flush()

    def _settle(self) -> None:
        """Come to an end: nothing of the source is in our hands any more, and the ledger says so."""
        link, source = self._link, self._source
        if link is None or self._ended or not source.touched:
            return
        whole = source.ended
        undecided = source.rest()
        if self._check:
            source.held.extend(message.tag for message in undecided)
        else:
            self._leave([message for message in undecided if not (self._resumed and self._is_published(message))])
            self._rotate()
            self._flush()
        source.give_back(link)
        link.commit()
        # What the run that died has published, and this one has not come to, is told to the next.
        unseen = self._resumed.published or self._resumed.spare
        if self._batches is not None and unseen and not whole:
            return
        if self._batches is not None:
            self._batches.end()
        self._ended = True
