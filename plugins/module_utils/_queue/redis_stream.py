# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Redis stream as a queue: read by consumer groups, with a second stream for tasks that failed for good.

A task is an entry. It is queued until a group has been given it, executing while it is pending in a group, and done when it is
acknowledged, whether or not it is deleted then. A worker is a consumer of a group. Failed tasks are added, with all of their
fields, to the stream ``<queue>:failed`` (option ``dead_letter``) and acknowledged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping

from .._errors import NotFound, Refused
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
from .redis_connection import RedisConnection
from .redis_scripts import text
from .redis_stream_store import BATCH, Source, Streams, StreamStore, time_of

#: A consumer that has not asked for this long (s), and has no connection of its name, is gone.
GONE_AFTER_S = 600.0
#: Where Redis keeps no count of what a group has yet to read, as many are counted; beyond it is not known.
COUNTED = 10000
#: At most this many consumers are asked for the task that they have in hand.
NAMED = 200

_NOT_COUNTED = (
    "this Redis keeps no count of what the group has yet to read (before 7.0, or an entry was deleted), and it is more than %d" % COUNTED
)
_NO_GROUP = "no consumer group reads the stream, so nothing tells what is queued"
_NOT_RECORDED = "Redis does not record it"
_NOT_TOLD = {
    "scheduled": _NOT_RECORDED,
    "rate_per_s": _NOT_RECORDED,
    "dead_lettered": "a stream has none of its own; tasks that failed for good are counted in failed",
    "paused": "a stream cannot be paused",
}

CAPABILITIES = Capabilities(
    system="redis_stream",
    can=frozenset(("oldest_age", "redrive", "redrive_run", "redrive_count", "identify", "check", "breaker")),
    sources={
        "failed": "the stream of failed tasks (option dead_letter)",
        "parked": "the stream queueops:parked:stream:<queue>",
        "queued": "entries that the consumer group has not been given yet; only where it is the stream's only group",
        "executing": "entries that are pending in the consumer group; only where it is the stream's only group",
        "abandoned": "pending entries of consumers that have no connection of their name and have not asked for abandoned_after"
        " seconds (%d unless said)" % GONE_AFTER_S,
        "other": "any stream, by its key",
    },
    actions={
        "requeue": "added to the end of the queue's stream or of another, and deleted where it was (acknowledged if it was pending)",
        "fail": "moved to the stream of failed tasks",
        "park": "moved to the stream queueops:parked:stream:<queue>, which no group reads",
        "discard": "deleted, and acknowledged if it was pending",
        "compensate": "moved to the stream that the workers which undo it read",
    },
    match=("ids", "header", "field", "older_than", "newer_than"),
    instead={
        "in_flight": "Use action=finish; what a killed worker had in hand stays pending, and is redriven by hand from source=abandoned",
        "rate": "Use what the workers report to your monitoring",
        "list_queues": "Name the streams in queues; Redis does not record which streams are queues",
        "counters": "Use a backend that counts per worker (rq), or judge the release by another sign",
        "pause": "Quiet the workers through their service manager (role drain, or worker_version with state=stopped)",
        "source:dead_lettered": "Give source=failed, and name the stream in dead_letter",
        "action:dead_letter": "Use action=fail; it moves to the stream named in dead_letter",
        "match:task": "Use match.header with the name of the entry's field",
        "match:version": "Use match.header with the name of the entry's field",
        "match:error": "Use match.header with the name of the entry's field",
    },
    guarantee={
        "redrive": "a task is added, deleted where it was and marked in one step on the server, up to %d tasks a step, and gets a new"
        " entry id; its first one is kept in the field queueops_id. Every group of the stream is given it. Nothing is trimmed here, but a"
        " producer that trims by MAXLEN may drop what nobody has read" % BATCH,
        "redrive_count": "kept in the entry's field queueops_redrives, where the application copies it to the failed task",
        "identify": "by id_field, else by the field queueops_id, else by the entry's id",
        "breaker": "a task is settled once every group has acknowledged it",
    },
)


@dataclass
class _Group:
    """One consumer group, as Redis answers."""

    name: str
    pending: int
    delivered: str
    lag: int | None
    consumers: list[dict[str, Any]]
    #: The entry that is to be given next, or None.
    next_id: str | None = None


class RedisStreamBackend(QueueBackend):
    """Streams in one Redis database.

    Settings: ``group`` (consumer group; None: all of them), ``dead_letter`` (the stream of failed tasks, ``{queue}`` stands for the
    queue), ``id_field`` (the entry's field that identifies a task, or ``<field>.<name>`` for a place in one that holds JSON),
    ``abandoned_after`` (s).
    """

    capabilities = CAPABILITIES

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._group = str(settings.get("group") or "") or None
        self._failed = str(settings.get("dead_letter") or "{queue}:failed")
        self._id_field = str(settings.get("id_field") or "") or None
        after = settings.get("abandoned_after")
        self._gone_after = GONE_AFTER_S if after is None else float(after)
        self._redis = RedisConnection(settings)

    def _failed_of(self, queue: str) -> str:
        return self._failed.replace("{queue}", queue)

    # Looking

    def look(self, queues: list[str] | None = None, missing_ok: bool = False) -> Look:
        """Some round trips a queue, whatever its length; what a group has yet to read is counted where Redis does not, up to a bound."""
        if queues is None:
            self.capabilities.require("list_queues", "queues")
        names = list(dict.fromkeys(queues or []))
        unknowns = Unknowns()
        states: list[QueueState] = []
        workers: list[WorkerState] = []
        with self._redis.asking("look at the queues") as client:
            now, found = self._ask(client, names)
            connected = self._connected() if names else frozenset()
            for name, (exists, failed) in found.items():
                state = QueueState(name=name, exists=exists, failed=failed)
                states.append(state)
                if not exists:
                    for field in ("queued", "executing", "abandoned", "oldest_task_age_s"):
                        unknowns.note("queues." + field, "there is no such stream", name)
                    continue
                groups = self._groups(client, name, missing_ok)
                self._fill(state, groups, now, connected, unknowns)
                for group in groups:
                    workers += self._workers(client, name, group, now, connected, unknowns)
        missing = [state.name for state in states if not state.exists]
        if missing and not missing_ok:
            raise NotFound(
                "There is no stream %s at %s" % (" and no stream ".join(missing), self._redis.where),
                option="queues",
                next_step="Name the stream's key; it is there once an entry was added or a group was made with MKSTREAM",
            )
        for field, reason in _NOT_TOLD.items() if states else ():
            unknowns.note("queues." + field, reason)
        for field in ("pid", "completed", "failed", "started") if workers else ():
            unknowns.note("workers." + field, _NOT_RECORDED)
        return Look(now, states, workers, unknowns.as_dict())

    def _ask(self, client: Any, names: list[str]) -> tuple[float, dict[str, tuple[bool, int]]]:
        """The broker's time, and of each queue whether its stream exists and how many tasks failed."""
        pipe = client.pipeline(transaction=False)
        pipe.time()
        for name in names:
            pipe.type(name)
            pipe.xlen(self._failed_of(name))
        answers = iter(pipe.execute())
        seconds, micros = next(answers)
        found = {}
        for name in names:
            kind = text(next(answers))
            if kind not in ("none", "stream"):
                raise self._redis.redis.exceptions.ResponseError("WRONGTYPE %s is a %s" % (name, kind))
            found[name] = (kind == "stream", next(answers))
        return seconds + micros / 1e6, found

    def _connected(self) -> frozenset[str] | None:
        """The names of all connections; None where it may not be asked."""
        try:
            return frozenset(entry.get("name", "") for entry in self._redis.neighbours())
        except self._redis.redis.exceptions.ResponseError:
            return None

    def _groups(self, client: Any, name: str, missing_ok: bool) -> list[_Group]:
        """The groups of a stream, or the one that is set."""
        found: list[_Group] = []
        told = [entry for entry in client.xinfo_groups(name) if self._group in (None, text(entry["name"]))]
        if self._group is not None and not told and not missing_ok:
            raise NotFound(
                "The stream %s at %s has no consumer group %s" % (name, self._redis.where, self._group),
                option="group",
                next_step="Name one of its groups, or leave group out",
            )
        pipe = client.pipeline(transaction=False)
        for entry in told:
            pipe.xinfo_consumers(name, entry["name"])
            pipe.xrange(name, "(" + text(entry["last-delivered-id"]), "+", 1)
        answers = iter(pipe.execute() if told else [])
        for entry in told:
            group = _Group(text(entry["name"]), entry["pending"], text(entry["last-delivered-id"]), entry.get("lag"), next(answers))
            following = next(answers)
            group.next_id = text(following[0][0]) if following else None
            if group.next_id is None:
                group.lag = 0
            elif group.lag is None:
                group.lag = Streams(self._redis).count_after(name, group.delivered, COUNTED)
            found.append(group)
        return found

    def _fill(self, state: QueueState, groups: list[_Group], now: float, connected: frozenset[str] | None, unknowns: Unknowns) -> None:
        name = state.name
        state.abandoned = sum(consumer["pending"] for group in groups for consumer in group.consumers if self._gone(consumer, connected))
        state.executing = sum(group.pending for group in groups) - state.abandoned
        lags = [group.lag for group in groups]
        # What the slowest group has yet to be given holds what the others have.
        known = [lag for lag in lags if lag is not None]
        if not groups:
            unknowns.note("queues.queued", _NO_GROUP, name)
        elif len(known) < len(lags):
            unknowns.note("queues.queued", _NOT_COUNTED, name)
        else:
            state.queued = max(known)
        oldest = [time_of(group.next_id) for group in groups if group.next_id is not None]
        times = [moment for moment in oldest if moment is not None]
        if times:
            state.oldest_task_age_s = round(max(0.0, now - min(times)), 3)
        else:
            reason = _NO_GROUP if not groups else "its entry's id is not a time" if oldest else "no task is queued"
            unknowns.note("queues.oldest_task_age_s", reason, name)

    def _gone(self, consumer: Mapping[str, Any], connected: frozenset[str] | None) -> bool:
        named = connected is not None and text(consumer["name"]) in connected
        return not named and float(consumer["idle"]) / 1000 >= self._gone_after

    def _workers(
        self, client: Any, queue: str, group: _Group, now: float, connected: frozenset[str] | None, unknowns: Unknowns
    ) -> list[WorkerState]:
        holding = [consumer["name"] for consumer in group.consumers if consumer["pending"]][:NAMED]
        pipe = client.pipeline(transaction=False)
        for name in holding:
            pipe.xpending_range(queue, group.name, "-", "+", 1, consumername=name)
        first = dict(zip(holding, pipe.execute() if holding else []))
        found = []
        for consumer in group.consumers:
            name = text(consumer["name"])
            worker = WorkerState(name=name, queues=[queue], state="busy" if consumer["pending"] else "idle")
            worker.version, worker.host = version_and_host(name)
            worker.last_seen = now - float(consumer["idle"]) / 1000
            if worker.version is None:
                unknowns.note("workers.version", NO_VERSION, name)
                unknowns.note("workers.host", NO_VERSION, name)
            if self._gone(consumer, connected):
                worker.state = "gone"
            held = first.get(consumer["name"])
            if held:
                worker.task, worker.task_queue = text(held[0]["message_id"]), queue
                worker.task_since = now - float(held[0]["time_since_delivered"]) / 1000
            found.append(worker)
        return found

    # Redriving

    def open_store(self, request: RedriveRequest, check: bool) -> TaskStore:
        """From the oldest entry of the source on, up to the last one that was there when it began."""
        if not request.source:
            raise Refused("The source is empty", option="source", next_step="Use one of %s" % ", ".join(sorted(CAPABILITIES.sources)))
        warnings = [] if check else self._redis.require_writable("redrive")
        queue = request.queue
        parked = "queueops:parked:stream:" + queue
        held = request.source in ("queued", "executing", "abandoned")
        keys = {"failed": self._failed_of(queue), "parked": parked}
        source = Source(request.source, queue if held else keys.get(request.source, request.source))
        streams = Streams(self._redis, queue, parked, self._failed_of, self._id_field)
        self._require(request, streams, source)
        if held:
            source = self._held(source)
        store = StreamStore(streams, request, check, source)
        store.warnings = warnings
        return store

    def _require(self, request: RedriveRequest, streams: Streams, source: Source) -> None:
        """Refuse what is not there, and what leads back to where it came from."""
        needed = {source.key: "source"} if source.name not in ("failed", "parked") else {}
        if source.key == request.queue:
            needed[source.key] = "queue"
        for rule in request.rules:
            if rule.action not in ("requeue", "compensate"):
                continue
            destination = rule.destination or request.queue
            needed.setdefault(destination, "destination" if rule.destination else "queue")
            if destination == source.key and source.name not in ("executing", "abandoned"):
                raise Refused(
                    "Source and destination are the same stream, %s" % destination,
                    option="destination" if rule.destination else "source",
                    next_step="Name another stream in the rule's destination",
                )
        for key, option in needed.items():
            if not streams.exists(key):
                raise NotFound(
                    "There is no stream %s at %s" % (key, self._redis.where),
                    option=option,
                    next_step="Name a stream that is there; it is made by its first entry, or by XGROUP CREATE with MKSTREAM",
                )
            if request.breaker is not None and option != "source" and not streams.groups(key):
                raise Refused(
                    "No consumer group reads the stream %s, so nothing would tell whether redriven tasks fail again" % key,
                    option="breaker",
                    next_step="Leave the breaker out, or make the group first",
                )

    def _held(self, source: Source) -> Source:
        """The group's part of the stream. A second group would be given again what it has done, or would not be given what is removed."""
        queue = source.key
        with self._redis.asking("look for the consumer group") as client:
            told = {text(entry["name"]): text(entry["last-delivered-id"]) for entry in client.xinfo_groups(queue)}
            group = self._group or (next(iter(told)) if len(told) == 1 else None)
            if group is None or group not in told:
                raise NotFound(
                    "The stream %s at %s has no consumer group %s" % (queue, self._redis.where, group)
                    if group or not told
                    else "The stream %s has several consumer groups" % queue,
                    option="group",
                    next_step="Name one of: %s" % (", ".join(sorted(told)[:20]) or "none; make one first"),
                )
            if len(told) > 1:
                raise Refused(
                    "The stream %s has other consumer groups than %s, and what is added or deleted there is so for all of them"
                    % (queue, group),
                    option="source",
                    next_step="Let the group's own consumers claim their entries (XAUTOCLAIM)",
                )
            gone = None
            if source.name == "abandoned":
                connected = self._connected()
                consumers = client.xinfo_consumers(queue, group)
                gone = frozenset(text(consumer["name"]) for consumer in consumers if self._gone(consumer, connected))
        return Source(source.name, queue, group, told[group], gone, int(self._gone_after * 1000) if gone is not None else 0)
