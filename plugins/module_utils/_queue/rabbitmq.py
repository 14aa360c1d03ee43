# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RabbitMQ, whatever the application: classic and quorum queues, their consumers and their dead-letter queues."""

from __future__ import annotations

import time
from typing import Any, Mapping

from .._errors import Refused
from .amqp_connection import AmqpConnection, Depth
from .amqp_store import AmqpStore, Dialect, Places
from .api import (
    NO_VERSION,
    Capabilities,
    Look,
    QueueBackend,
    QueueState,
    RedriveRequest,
    TaskStore,
    Unknowns,
    WorkerState,
    version_and_host,
)
from .rabbitmq_management import LAG_S, Management, dead_letter_queues, effective, is_down

#: Queues of our own: the marks of redrives.
OWN = "queueops.redrive."

_IN_MANAGEMENT = "only the management API tells it: %s"
_NO_DEAD_LETTERS = "the queue has no dead-letter exchange; name its dead-letter queue in the option dead_letter"
_UNCLEAR = "its dead letters go to more or less than one queue; name the dead-letter queue in the option dead_letter"
_NO_TIMESTAMP = "the publisher sets no timestamp on its messages"
_EMPTY = "the queue is empty"
_NOT_TOLD = "RabbitMQ does not tell it"

CAPABILITIES = Capabilities(
    system="rabbitmq",
    can=frozenset(("list_queues", "oldest_age", "rate", "redrive", "redrive_run", "redrive_count", "check", "breaker")),
    sources={
        "failed": "the queue's dead-letter queue: the option dead_letter, else the one its dead-letter exchange leads to",
        "dead_lettered": "the same",
        "parked": "the queue <queue>.parked",
        "other": "any queue, by its name",
    },
    actions={
        "requeue": "published to the queue in which it first died, or to the destination, through the default exchange",
        "dead_letter": "published to the tail of the dead-letter queue",
        "park": "published to the durable queue <queue>.parked, which is made if it is missing",
        "discard": "acknowledged",
        "compensate": "published to the destination",
    },
    match=("ids", "task", "version", "error", "older_than", "newer_than", "header", "field"),
    instead={
        "in_flight": "Use action=finish; RabbitMQ puts back what a worker had in hand by itself as soon as its connection ends",
        "pause": "Quiet the workers through their service manager (role drain, or worker_version with state=stopped)",
        "counters": "Judge the release by the depth of its dead-letter queue, or by another sign",
        "identify": "Give the ids of completed tasks in completions, or look at the counts",
        "source:queued": "Name the queue itself as source",
        "source:executing": "Stop the workers; the broker then puts their tasks back by itself",
        "source:abandoned": "Nothing is needed: the broker puts back the tasks of a worker that is gone",
        "action:fail": "Use action=dead_letter",
    },
    guarantee={
        "oldest_age": "by the management API, where the publisher sets a timestamp",
        "rate": "by the management API, of all versions together; nothing is told while no task is finished",
        "list_queues": "by the management API",
        "redrive": "published with confirmation, noted in a ledger on this host's disk, then acknowledged; what is not taken stays at its"
        " place in classic queues and goes to the tail of quorum queues, where putting it back would count towards its delivery limit",
        "redrive_run": "by a ledger under state_dir on the host that runs it; a run that died is finished there without sending a task"
        " twice, unless workers took tasks while the broker itself restarted, or while a quorum queue was sent a batch that the death cut"
        " off (without management_url: whatever the queue): those few are listed",
        "redrive_count": "in the header x-queueops-redrives",
        "check": "of classic queues the tasks are taken and put back at their place, marked as redelivered; of quorum queues only their"
        " number is told, and match is refused",
        "breaker": "by the lengths of the queues; other tasks that fail meanwhile count as well",
    },
)


class _Seen:
    """What the management API tells of consumers, connections and channels, at the moment of one look."""

    def __init__(self, management: Management) -> None:
        consumers = management.consumers()
        self.connections = management.connections()
        self.held = management.in_hand()
        self.reason = management.reason
        self.consumers: dict[str, list[dict[str, Any]]] | None = None
        if consumers is not None:
            self.consumers = {}
            for consumer in consumers:
                self.consumers.setdefault(str((consumer.get("queue") or {}).get("name")), []).append(consumer)

    def lacks_consumers(self, queue: str, depth: Depth) -> bool:
        """Whether a queue has more consumers than the statistics, which are older, list."""
        return self.consumers is not None and len(self.consumers.get(queue, ())) < depth.consumers

    def in_hand_of(self, queue: str, depth: Depth, told: Mapping[str, Any]) -> int | None:
        """How many tasks of a queue workers have in hand: what the statistics say, and what has left the queue since they were gathered.

        Rather too many than too few, for a moment: what has left may be done already.
        """
        unacked, ready = told.get("messages_unacknowledged"), told.get("messages_ready")
        if is_down(told):
            return None
        if not depth.consumers and self.reason is None and not any(self.held.values()):
            return 0
        if unacked is None or ready is None:
            return None
        most = int(unacked) + max(0, int(ready) - depth.ready)
        prefetch = [consumer.get("prefetch_count") or 0 for consumer in (self.consumers or {}).get(queue, ())]
        if prefetch and all(prefetch) and len(prefetch) == depth.consumers:
            return max(int(unacked), min(most, sum(prefetch)))
        return most


class RabbitmqBackend(QueueBackend):
    """Queues in one vhost. Settings ``management_url`` and ``dead_letter`` (the name of the dead-letter queue, with ``{queue}``)."""

    capabilities = CAPABILITIES
    #: What workers have in hand is told by statistics that the broker gathers at intervals.
    lag_s = LAG_S

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._amqp = AmqpConnection(settings)
        self._dead_letter = str(settings.get("dead_letter") or "")

    # Looking

    def look(self, queues: list[str] | None = None, missing_ok: bool = False) -> Look:
        """Depths and numbers of consumers from the queues themselves (passive declaration), all else from the management API.

        No message is ever taken to be looked at.
        """
        management = Management(self._settings)
        amqp = self._amqp
        try:
            with amqp.asking("look at the queues"):
                pass
            known = management.queues()
            if queues is None:
                if known is None:
                    raise Refused(
                        "Which queues there are is not known: %s" % management.reason,
                        option="queues",
                        next_step="Name the queues, or set management_url",
                    )
                queues = sorted(name for name in known if not name.startswith(OWN))
            names = list(dict.fromkeys(queues))
            dead = {name: self._dead_letters(management, name, (known or {}).get(name)) for name in names}
            depths = amqp.depths(list(dict.fromkeys([*names, *(found[0] for found in dead.values() if found[0])])), "look at the queues")
        finally:
            amqp.close()
        missing = [name for name in names if depths[name] is None]
        if missing and not missing_ok:
            raise amqp.no_queues(missing)
        now = time.time()
        unknowns = Unknowns()
        seen = _Seen(management)
        states = [self._state(name, depths, dead[name], (known or {}).get(name), seen, now, unknowns) for name in names]
        workers = self._workers(seen, {state.name: state.executing for state in states}, unknowns)
        for name, depth in depths.items():
            if name in names and depth is not None and seen.lacks_consumers(name, depth):
                unknowns.note("workers", "the broker's statistics do not list all that consume from it yet", name)
        return Look(now, states, workers, unknowns.as_dict())

    def _dead_letters(self, management: Management, name: str, told: Mapping[str, Any] | None) -> tuple[str | None, str]:
        """The dead-letter queue of a queue, or why it is not known."""
        if self._dead_letter:
            return self._dead_letter.replace("{queue}", name), ""
        if told is None:
            return None, _IN_MANAGEMENT % management.reason if management.reason else _NOT_TOLD
        found = dead_letter_queues(management, name, told)
        if len(found) == 1:
            return found[0], ""
        return None, _UNCLEAR if "x-dead-letter-exchange" in effective(told) else _NO_DEAD_LETTERS

    def _state(
        self,
        name: str,
        depths: Mapping[str, Depth | None],
        dead: tuple[str | None, str],
        told: Mapping[str, Any] | None,
        seen: _Seen,
        now: float,
        unknowns: Unknowns,
    ) -> QueueState:
        depth = depths[name]
        state = QueueState(name=name, exists=depth is not None, paused=False)
        unknowns.note("queues.scheduled", _NOT_TOLD)
        unknowns.note("queues.failed", "RabbitMQ tells dead-lettered tasks alone; see dead_lettered")
        if depth is None:
            for field in ("queued", "executing", "dead_lettered", "abandoned", "oldest_task_age_s", "rate_per_s"):
                unknowns.note("queues." + field, "there is no such queue", name)
            return state
        if told is not None and is_down(told):
            unknowns.note("queues.queued", "the queue is %s" % told["state"], name)
        else:
            state.queued = depth.ready
        # The broker puts back what a worker that is gone had in hand.
        state.abandoned = 0
        dead_depth = depths.get(dead[0]) if dead[0] else None
        if dead_depth is not None:
            state.dead_lettered = dead_depth.ready
        else:
            unknowns.note("queues.dead_lettered", dead[1] or "its dead-letter queue %s does not exist" % dead[0], name)
        if told is None:
            reason = _IN_MANAGEMENT % (seen.reason or _NOT_TOLD)
            for field in ("executing", "oldest_task_age_s", "rate_per_s"):
                unknowns.note("queues." + field, reason, name)
        else:
            state.executing = seen.in_hand_of(name, depth, told)
            self._statistics(state, told, now, unknowns)
        return state

    def _statistics(self, state: QueueState, told: Mapping[str, Any], now: float, unknowns: Unknowns) -> None:
        """What the broker gathers at intervals."""
        if state.executing is None:
            unknowns.note("queues.executing", "the queue is new, or its node does not answer", state.name)
        state.rate_per_s = ((told.get("message_stats") or {}).get("ack_details") or {}).get("rate")
        if state.rate_per_s is None:
            unknowns.note("queues.rate_per_s", "no worker has acknowledged a task lately", state.name)
        stamp = told.get("head_message_timestamp")
        if state.queued and stamp:
            state.oldest_task_age_s = max(0.0, now - float(stamp))
        else:
            unknowns.note("queues.oldest_task_age_s", _NO_TIMESTAMP if state.queued else _EMPTY, state.name)

    def _workers(self, seen: _Seen, executing: Mapping[str, int | None], unknowns: Unknowns) -> list[WorkerState]:
        """One for each connection that consumes from these queues, of which so many tasks are executing."""
        connections = seen.connections
        if seen.consumers is None or connections is None:
            unknowns.note("workers", _IN_MANAGEMENT % (seen.reason or _NOT_TOLD))
            return []
        held = seen.held
        by_connection: dict[str, list[dict[str, Any]]] = {}
        # Queues of which more is in hand than the workers' own statistics, which may be older, tell.
        behind = set()
        for queue, count in executing.items():
            holders = set()
            for consumer in seen.consumers.get(queue, ()):
                connection = (consumer.get("channel_details") or {}).get("connection_name") or ""
                holders.add(connection)
                by_connection.setdefault(connection, []).append(consumer)
            if count is None or count > sum(held.get(name, 0) for name in holders):
                behind.add(queue)
        workers = []
        for name, found in sorted(by_connection.items()):
            worker = self._worker(name, connections.get(name) or {}, found, unknowns)
            if held.get(name):
                worker.state = "busy"
            elif name in held and not behind.intersection(worker.queues or ()):
                worker.state = "idle"
            else:
                unknowns.note("workers.state", "the broker does not tell yet what it has in hand", worker.name)
            workers.append(worker)
        for field in ("completed", "failed", "last_seen", "task", "task_queue", "task_since") if workers else ():
            unknowns.note("workers." + field, _NOT_TOLD)
        return workers

    def _worker(
        self, connection_name: str, connection: Mapping[str, Any], consumers: list[dict[str, Any]], unknowns: Unknowns
    ) -> WorkerState:
        properties = connection.get("client_properties") or {}
        given = [connection.get("user_provided_name"), properties.get("connection_name")]
        given += [consumer.get("consumer_tag") for consumer in consumers]
        named = [str(name) for name in given if name]
        # The first name that follows the convention says the most.
        name = next((one for one in named if version_and_host(one)[0]), named[0] if named else connection_name)
        version, host = version_and_host(name)
        if version is None:
            unknowns.note("workers.version", NO_VERSION.replace("its name", "its connection's name or consumer tag"), name)
        pid = properties.get("pid")
        if not isinstance(pid, int):
            pid = None
            unknowns.note("workers.pid", "the worker does not tell it in its client properties", name)
        connected = connection.get("connected_at")
        if connected is None:
            unknowns.note("workers.started", _NOT_TOLD, name)
        return WorkerState(
            name=name,
            host=host or connection.get("peer_host"),
            pid=pid,
            version=version,
            queues=sorted({str((consumer.get("queue") or {}).get("name")) for consumer in consumers}),
            started=None if connected is None else connected / 1000.0,
        )

    # Redriving

    def open_store(self, request: RedriveRequest, check: bool) -> TaskStore:
        management = Management(self._settings)
        queue = request.queue
        self._amqp.depth(queue, "redrive", "queue")
        dead, reason = self._dead_letters(management, queue, management.queue(queue))
        actions = {"park": queue + ".parked"}
        if dead is not None:
            actions["dead_letter"] = dead
        elif request.source in ("failed", "dead_lettered") or any(rule.action == "dead_letter" for rule in request.rules):
            raise Refused(
                "The dead-letter queue of %s at %s is not known: %s" % (queue, self._amqp.where, reason),
                option="dead_letter",
                next_step="Set dead_letter to the name of the queue that holds the tasks of %s that failed" % queue,
            )
        only: str | None = queue
        if request.source in ("failed", "dead_lettered"):
            source = dead or ""
        elif request.source == "parked":
            source = queue + ".parked"
        else:
            source, only = request.source, None
        if source == queue and any(rule.action == "requeue" and rule.destination in (None, queue) for rule in request.rules):
            raise Refused(
                "Source and destination are the same queue, %s" % queue, option="source", next_step="Name another source, or a destination"
            )
        places = Places(source=source, home=queue, actions=actions, only=only, label=request.source)
        return AmqpStore(self._amqp, management, request, check, places, Dialect())
