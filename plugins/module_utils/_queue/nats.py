# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NATS JetStream: a queue is a durable consumer of a stream.

Its name is ``<stream>/<consumer>``, or the consumer's alone with the setting ``stream``. Its failed tasks are the messages of a
dead-letter stream (setting ``dead_letter``: ``<stream>`` or ``<stream>:<subjects>``, in which ``{stream}`` and ``{queue}`` stand for
the names of stream and consumer; default ``{stream}_{queue}_DLQ``). NATS does not fill one by itself. Both usual ways are understood:

- the application publishes the task there, with its headers, and acknowledges it. It may add the headers ``x-queueops-origin``
  (the subject it came on), ``x-queueops-error`` (class and message) and ``x-queueops-worker`` (``app@version:host:...``). Without
  the first, the origin is what follows the fixed part of the dead-letter subject (``dlq.orders.new``), or the consumer's one subject;
- the dead-letter stream listens to the server's advisories (``$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.<stream>.<consumer>``);
  the task itself is then still in its own stream.

The tasks of a work-queue stream that exhausted ``max_deliver`` and of which nobody took note are the source ``abandoned``: they stay in
the stream for ever, and no consumer is given them again. Parked tasks are in the stream ``QUEUEOPS_PARKED``, made on first use.
"""

from __future__ import annotations

import json
import time
from typing import Any, Mapping

from .._errors import Conflict, NotFound, Refused
from .api import (
    Capabilities,
    Look,
    PauseReport,
    PauseRequest,
    QueueBackend,
    QueueState,
    RedriveRequest,
    TaskStore,
    Unknowns,
)
from .nats_connection import NO_CONSUMER, NO_STREAM, ApiError, NatsConnection, NatsSession
from .nats_message import filters_of, rfc3339, seconds, valid_name
from .nats_places import PARKED, Letters, count_messages, message_of, stuck_of

_PAUSE = "queueops.pause"
#: A pause without an expiry ends after this many years; JetStream knows none without an end.
_YEARS = 100
_YEAR_S = 365.25 * 86400
#: How often the tasks that exhausted their deliveries are counted anew, if others moved tasks meanwhile.
_TRIES = 3

CAPABILITIES = Capabilities(
    system="nats",
    can=frozenset(("list_queues", "oldest_age", "pause", "redrive", "redrive_run", "redrive_count", "identify", "check", "breaker")),
    sources={
        "failed": "the messages of the dead-letter stream, and those that the server's advisories in it name",
        "abandoned": "messages of a work-queue stream that exhausted max_deliver and stay in it; told apart while nothing is executing",
        "parked": "messages of the stream QUEUEOPS_PARKED",
        "queued": "messages of a work-queue stream that its consumer has not been given yet; while the queue is paused",
        "other": "the messages of another stream, <stream> or <stream>:<subjects>",
    },
    actions={
        "requeue": "published to the subject it came on, or to the destination (a queue or a subject), and then deleted from the source",
        "compensate": "published to the destination, and then deleted from the source",
        "fail": "published to the dead-letter stream, and then deleted from the source; left there if it is failed already",
        "park": "published to the stream QUEUEOPS_PARKED, and then deleted from the source",
        "discard": "deleted from the source",
    },
    match=("ids", "task", "version", "error", "older_than", "newer_than", "header", "field"),
    instead={
        "in_flight": "Use action=finish; JetStream gives what a killed worker had in hand to another one after the consumer's ack_wait",
        "rate": "Use what the workers report to your monitoring",
        "counters": "Judge the release by queue lengths and failed tasks; NATS does not count per worker",
        "source:dead_lettered": "Use source=failed, which is the dead-letter stream",
        "source:executing": "Stop the workers; JetStream gives their tasks to others by itself after the consumer's ack_wait",
        "action:dead_letter": "Use action=fail, which publishes to the dead-letter stream",
    },
    guarantee={
        "pause": "the consumer is paused on the server (2.11 and newer): none of its tasks is given out until the pause is lifted or"
        " expires; owner and reason stand in the consumer's metadata",
        "redrive": "a task is published, its storage confirmed, noted in the ledger on disk, and then deleted from the source; a second"
        " copy is dropped by the destination within its duplicate window (2 minutes unless set), and after it prevented by the ledger;"
        " two redrives at once that send a task to the same stream are kept apart by that window alone",
        "redrive_run": "in the header x-queueops-run, and in the ledger",
        "redrive_count": "in the header x-queueops-redrives",
        "breaker": "failed again is what returns to the dead-letter stream with its headers, or what an advisory there names",
        "identify": "by Nats-Msg-Id, else the field named in id_field, else <stream>:<sequence>",
    },
)

_NO_WORKERS = "NATS does not tell which clients take tasks from a consumer"
_NO_SCHEDULE = "NATS has none; a task that was put off (nak with delay) counts as executing"
_NO_DEAD = "NATS has one place for both; see failed"
_NO_RATE = "NATS does not count what its workers finish"
_NO_STUCK = "only in a work-queue stream do those that exhausted max_deliver stand out; see the advisories of the server"
_NAMED = "the advisories in the dead-letter stream name them; see failed"
_MOVING = "tasks were published or taken while it was counted"
_NOT_EMPTY = "no task is queued"


class NatsBackend(QueueBackend):
    """Consumers of JetStream. Settings ``stream``, ``dead_letter``, ``id_field``, ``credentials`` (a file)."""

    capabilities = CAPABILITIES

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._connection = NatsConnection(settings)
        self._stream = str(settings["stream"]) if settings.get("stream") else None
        self._dead_letter = str(settings.get("dead_letter") or "{stream}_{queue}_DLQ")
        self._id_field = settings.get("id_field")
        if self._stream is not None and not valid_name(self._stream):
            raise Refused("No stream of NATS can be named %s" % self._stream, option="stream", next_step="Give the stream's name")

    # Names

    def names(self, queue: str) -> tuple[str, str] | None:
        """Stream and consumer of a queue; None for a name that no queue can have."""
        stream, slash, consumer = queue.partition("/")
        if not slash and self._stream is not None:
            stream, consumer = self._stream, queue
        return (stream, consumer) if valid_name(stream) and valid_name(consumer) else None

    def _queue_name(self, stream: str, consumer: str) -> str:
        return consumer if self._stream == stream else "%s/%s" % (stream, consumer)

    def _missing(self, queue: str, option: str) -> NotFound:
        names = self.names(queue)
        if names is None:
            what = "There is no queue %s at %s: a queue is a durable consumer of a stream" % (queue, self._connection.where)
            return NotFound(what, option=option, next_step="Write <stream>/<consumer>, or name the stream in the option stream")
        return NotFound(
            "There is no queue %s at %s: the stream %s with the consumer %s does not exist" % (queue, self._connection.where, *names),
            option=option,
            next_step="Create the consumer, or correct the name (`nats consumer ls %s`)" % names[0],
        )

    def _all_names(self, session: NatsSession) -> list[str]:
        streams = [self._stream] if self._stream is not None else _listed(session, "STREAM.NAMES", "streams")
        found = []
        for stream in streams:
            if stream == PARKED:
                continue
            try:
                consumers = _listed(session, "CONSUMER.LIST." + stream, "consumers")
            except ApiError as problem:
                if problem.code != NO_STREAM:
                    raise
                continue
            found += [self._queue_name(stream, entry["name"]) for entry in consumers if entry["config"].get("durable_name")]
        return sorted(found)

    # Looking

    def look(self, queues: list[str] | None = None, missing_ok: bool = False) -> Look:
        """Four rounds of questions, whatever the number of queues. Reading a message by its sequence is no delivery."""
        unknowns = Unknowns()
        with self._connection.session("look at the queues") as session:
            names = self._all_names(session) if queues is None else list(dict.fromkeys(queues))
            known = {name: self.names(name) for name in names}
            wanted = [(name, found) for name, found in known.items() if found is not None]
            infos = dict(zip([name for name, _found in wanted], self._consumers(session, [found for _name, found in wanted])))
            gone = [name for name in names if infos.get(name) is None]
            if gone and not missing_ok and queues is not None:
                raise self._missing(gone[0], "queues")
            there = {name: info for name, info in infos.items() if info is not None}
            oldest = self._oldest(session, there)
            stuck = self._stuck(session, there)
            failed = {name: self._failed(session, info, stuck, name) for name, info in there.items()}
        now = max([seconds(info["ts"]) for info in there.values() if info.get("ts")], default=time.time())
        states = []
        for name in names:
            info = infos.get(name)
            if info is None:
                states.append(QueueState(name=name, exists=False))
                for field in ("queued", "executing", "failed", "oldest_task_age_s", "paused", "abandoned"):
                    unknowns.note("queues." + field, "the queue does not exist", name)
                continue
            paused_by = _paused_by(info, now)
            state = QueueState(
                name=name,
                queued=int(info["num_pending"]),
                executing=int(info["num_ack_pending"]),
                paused=paused_by is not None,
                paused_by=paused_by,
            )
            state.failed, reason = failed[name]
            if reason:
                unknowns.note("queues.failed", reason, name)
            state.abandoned, reason = stuck[name]
            if reason:
                unknowns.note("queues.abandoned", reason, name)
            if name in oldest:
                state.oldest_task_age_s = round(max(0.0, now - oldest[name]), 3)
            else:
                unknowns.note("queues.oldest_task_age_s", _NOT_EMPTY, name)
            states.append(state)
        if states:
            unknowns.note("queues.scheduled", _NO_SCHEDULE)
            unknowns.note("queues.dead_lettered", _NO_DEAD)
            unknowns.note("queues.rate_per_s", _NO_RATE)
        unknowns.note("workers", _NO_WORKERS)
        return Look(now, states, [], unknowns.as_dict())

    def _consumers(self, session: NatsSession, names: list[tuple[str, str]]) -> list[dict[str, Any] | None]:
        answers = session.api_many([("CONSUMER.INFO.%s.%s" % pair, None) for pair in names])
        found: list[dict[str, Any] | None] = []
        for answer in answers:
            if isinstance(answer, ApiError):
                if answer.code not in (NO_STREAM, NO_CONSUMER):
                    raise answer
                found.append(None)
            else:
                found.append(answer)
        return found

    def _oldest(self, session: NatsSession, infos: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """When the next task of each queue was published, as far as it has one."""
        asked, owners = [], []
        for name, info in infos.items():
            if info["num_pending"]:
                for subject in filters_of(info["config"]):
                    after = int(info["delivered"]["stream_seq"]) + 1
                    asked.append(("STREAM.MSG.GET." + info["stream_name"], {"seq": after, "next_by_subj": subject}))
                    owners.append(name)
        found: dict[str, float] = {}
        for name, answer in zip(owners, session.api_many(asked)):
            if not isinstance(answer, ApiError):
                at = message_of(answer, infos[name]["stream_name"]).enqueued_at()
                found[name] = min(at, found.get(name, at))
        return found

    def _letters(self, session: NatsSession, stream: str, consumer: str) -> tuple[Letters, dict[str, Any] | None]:
        """Where the failed tasks of a queue are, and what their stream says of itself; None: it does not exist."""
        named = Letters.named(self._dead_letter.replace("{stream}", stream).replace("{queue}", consumer), "dead_letter")
        info = session.api_or_none("STREAM.INFO." + named.stream)
        return named.of_queue(info, stream, consumer), info

    def _stuck(self, session: NatsSession, infos: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int | None, str]]:
        """How many tasks exhausted their deliveries, where that can be told."""
        found: dict[str, tuple[int | None, str]] = {}
        for name, info in infos.items():
            for _try in range(_TRIES):
                count, moving = stuck_of(session, info)
                if count is not None or not moving:
                    break
            found[name] = (count, "" if count is not None else _MOVING if moving else _NO_STUCK)
        return found

    def _failed(
        self, session: NatsSession, info: Mapping[str, Any], stuck: dict[str, tuple[int | None, str]], name: str
    ) -> tuple[int | None, str]:
        letters, there = self._letters(session, info["stream_name"], info["name"])
        count = count_messages(session, letters.stream, letters.subjects, there) if there is not None else None
        if count is None:
            return None, "there is no stream %s; name the dead-letter stream in the option dead_letter" % letters.stream
        if letters.are_events and stuck[name][0]:
            stuck[name] = (None, _NAMED)
        return count, ""

    # Pausing

    def pause(self, queues: list[str], request: PauseRequest, check: bool = False) -> PauseReport:
        """Pause each consumer on the server. A pause of the same owner is left alone, unless less than half of ``expires`` is left."""
        if request.expires is not None and request.expires < 1:
            raise Refused("A pause cannot expire after %s s" % request.expires, option="expires", next_step="Give at least 1 second")
        warnings: list[str] = []
        with self._connection.session("pause") as session:
            infos, now = self._to_pause(session, queues)
            before = _together([_paused_by(info, now) for info in infos])
            until = now + (request.expires if request.expires is not None else _YEARS * _YEAR_S)
            noted = {"owner": request.owner, "reason": request.reason, "since": now, "until": rfc3339(until)}
            changed = False
            after: list[dict[str, Any] | None] = []
            for info in infos:
                holder = _paused_by(info, now)
                if holder is not None:
                    left = holder["expires_in_s"]
                    lasts = left is None or (request.expires is not None and left * 2 > request.expires)
                    if holder["owner"] != request.owner:
                        by = holder["owner"] or "somebody who is not recorded"
                        warnings.append("%s was paused before, by %s; that pause is left as it is" % (info["name"], by))
                    if holder["owner"] != request.owner or lasts:
                        after.append(holder)
                        continue
                changed = True
                after.append(_told(noted, now))
                if not check:
                    self._note(session, info, json.dumps(noted), warnings)
                    answer = session.api("CONSUMER.PAUSE.%s.%s" % (info["stream_name"], info["name"]), {"pause_until": noted["until"]})
                    if not answer.get("paused"):
                        raise Refused("The broker took the pause of %s, and did not pause it" % info["name"], option="expires")
        if changed and request.expires is None:
            warnings.append("This pause does not expire by itself; lift it with state=active")
        return PauseReport(changed, before, _together(after), warnings)

    def resume(self, queues: list[str], owner: str, check: bool = False) -> PauseReport:
        """Lift the pauses, unless a record says that somebody else holds one."""
        with self._connection.session("lift the pause") as session:
            infos, now = self._to_pause(session, queues)
            holders = [_paused_by(info, now) for info in infos]
            before = _together(holders)
            for info, holder in zip(infos, holders):
                if holder is not None and holder["owner"] not in (None, owner):
                    raise Conflict(
                        "The queue %s at %s is paused by %s (%s), not by %s"
                        % (info["name"], self._connection.where, holder["owner"], holder["reason"] or "no reason given", owner),
                        option="owner",
                        still_true="It stays paused and nothing was changed",
                        next_step="Ask %s, or give owner=%s to lift it in that name" % (holder["owner"], holder["owner"]),
                    )
            held = [info for info, holder in zip(infos, holders) if holder is not None]
            if not held:
                return PauseReport(False, before, before)
            warnings: list[str] = []
            if not check:
                for info in held:
                    session.api("CONSUMER.PAUSE.%s.%s" % (info["stream_name"], info["name"]), {})
                    self._note(session, info, None, warnings)
        return PauseReport(True, before, {"paused": False, "paused_by": None}, warnings)

    def _to_pause(self, session: NatsSession, queues: list[str]) -> tuple[list[dict[str, Any]], float]:
        names = {queue: self.names(queue) for queue in queues}
        infos = []
        for queue, found in names.items():
            info = self._consumers(session, [found])[0] if found is not None else None
            if info is None:
                raise self._missing(queue, "queues")
            infos.append(info)
        if session.version < (2, 11):
            raise Refused(
                "NATS %s at %s cannot pause a consumer, which 2.11 is the first to do"
                % (".".join(str(part) for part in session.version), self._connection.where),
                option="state",
                next_step="Quiet the workers through their service manager (role queue_drain, or worker_version with state=stopped)",
            )
        return infos, max([seconds(info["ts"]) for info in infos if info.get("ts")], default=time.time())

    def _note(self, session: NatsSession, info: Mapping[str, Any], record: str | None, warnings: list[str]) -> None:
        """Write who pauses into the consumer's metadata, or take it out."""
        config = dict(info["config"])
        config.pop("pause_until", None)
        metadata = {name: value for name, value in (config.get("metadata") or {}).items() if name != _PAUSE}
        if record is not None:
            metadata[_PAUSE] = record
        config["metadata"] = metadata
        asked = {"stream_name": info["stream_name"], "config": config, "action": "update"}
        try:
            session.api("CONSUMER.CREATE.%s.%s" % (info["stream_name"], info["name"]), asked)
        except ApiError as problem:
            warnings.append("Who pauses %s, and why, could not be recorded: %s" % (info["name"], problem))

    # Redriving

    def open_store(self, request: RedriveRequest, check: bool) -> TaskStore:
        from .nats_store import NatsStore

        names = self.names(request.queue)
        if names is None:
            raise self._missing(request.queue, "queue")
        session = self._connection.open("redrive")
        try:
            with self._connection.asking("redrive"):
                (info,) = self._consumers(session, [names])
                if info is None:
                    raise self._missing(request.queue, "queue")
                return NatsStore(self, self._connection, session, request, check, info, self._letters(session, *names)[0], self._id_field)
        except BaseException:
            session.close()
            raise

    def destination(self, session: NatsSession, name: str, stream: str) -> dict[str, Any] | None:
        """The consumer that ``name`` means as a destination, seen from a queue of ``stream``; None when it names no queue."""
        found = self.names(name)
        if found is None and valid_name(name):
            found = (stream, name)
        return self._consumers(session, [found])[0] if found is not None else None


def _listed(session: NatsSession, subject: str, key: str) -> list[Any]:
    """All pages of a list."""
    found: list[Any] = []
    while True:
        answer = session.api(subject, {"offset": len(found)})
        page = answer.get(key) or []
        found += page
        if not page or len(found) >= int(answer.get("total") or 0):
            return found


def _paused_by(info: Mapping[str, Any], now: float) -> dict[str, Any] | None:
    """Who holds the pause: ``{"owner", "reason", "since", "expires_in_s"}``; None when it is not paused."""
    if not info.get("paused"):
        return None
    until = str(info["config"].get("pause_until") or "")
    try:
        noted = json.loads((info["config"].get("metadata") or {}).get(_PAUSE) or "{}")
    except ValueError:
        noted = {}
    # A record of an earlier pause says nothing about one that somebody made since.
    if not isinstance(noted, dict) or noted.get("until") != until:
        noted = {"until": until}
    return _told(noted, now)


def _told(noted: Mapping[str, Any], now: float) -> dict[str, Any]:
    left = seconds(str(noted["until"])) - now if noted.get("until") else None
    # What ends in another generation does not end by itself.
    left = None if left is None or left > _YEARS * _YEAR_S / 2 else round(left)
    return {"owner": noted.get("owner"), "reason": noted.get("reason", ""), "since": noted.get("since"), "expires_in_s": left}


def _together(holders: list[dict[str, Any] | None]) -> dict[str, Any]:
    """One answer for several queues: paused when all are, by whom the first is."""
    held = [holder for holder in holders if holder is not None]
    return {"paused": len(held) == len(holders) and bool(held), "paused_by": held[0] if held else None}
