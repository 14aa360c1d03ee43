# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every queue system can be asked, whatever it is. A backend declares what it is able to do; the rest is refused by name.

Times are seconds since 1970 (UTC) by the broker's clock where it has one; durations and ages are seconds. A value that the
system cannot tell is ``None``, with a reason in :attr:`Look.unknown`; it is never 0.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any, Iterator, Mapping, Sequence

from .._errors import Refused

#: Everything a backend may be able to do, in the words of the messages.
ABILITIES: dict[str, str] = {
    "list_queues": "tell which queues exist",
    "counters": "tell how many tasks each worker completed and failed",
    "oldest_age": "tell how long the oldest task has waited",
    "rate": "tell by itself how fast tasks of a queue are finished",
    "pause": "pause a queue",
    "redrive": "redrive tasks",
    "redrive_run": "remember which tasks a redrive run has moved",
    "redrive_count": "count how often a task was redriven",
    "identify": "tell tasks apart without taking them",
    "check": "show which tasks a redrive would take without taking them",
    "breaker": "tell which redriven tasks failed again",
    "in_flight": "tell which tasks a worker that is killed has in hand",
}

#: Where a redrive may take tasks from. Any other word is the name of a queue, where the system has such a source ("other").
SOURCES: dict[str, str] = {
    "failed": "tasks that failed for good",
    "dead_lettered": "tasks that were dead-lettered",
    "parked": "tasks that an earlier redrive parked",
    "queued": "tasks that are queued",
    "executing": "tasks that workers have in hand; one whose worker lives on is run twice",
    "abandoned": "tasks that were taken by workers that are gone",
    "other": "the tasks of another queue, by its name",
}

#: What a rule may make of a task.
ACTIONS: dict[str, str] = {
    "requeue": "put it back to be worked on",
    "fail": "make it a failed task for good",
    "dead_letter": "put it among the dead-lettered tasks",
    "park": "set it aside, until it is redriven from the source parked",
    "discard": "delete it",
    "compensate": "give it to the queue whose workers undo its effect",
}
#: What a rule may say of a task in a worker's hands besides: it stays there, and no later rule takes it.
FINISH = "finish"


@dataclass(frozen=True)
class Capabilities:
    """What one queue system is able to do.

    :ivar system: its name, as in the option ``backend``.
    :ivar can: the abilities (keys of :data:`ABILITIES`) that it has.
    :ivar instead: for an ability that is missing, what to use instead (an imperative sentence).
    :ivar guarantee: for an ability that it has, what it does and what it does not promise.
    :ivar sources: where a redrive may take tasks from (keys of :data:`SOURCES`), and what that is in this system.
    :ivar actions: what a rule may make of a task (keys of :data:`ACTIONS`), and how this system does it.
    :ivar match: the ``match`` options that a redrive understands.
    :ivar in_flight_apart: with ``in_flight``: whether it tells apart what each of the workers has in hand; else it tells of all that stop.

    ``instead`` may also be keyed by ``source:<source>``, ``action:<action>`` and ``match:<option>``.
    """

    system: str
    can: frozenset[str]
    sources: Mapping[str, str] = field(default_factory=dict)
    actions: Mapping[str, str] = field(default_factory=dict)
    match: tuple[str, ...] = ()
    instead: Mapping[str, str] = field(default_factory=dict)
    guarantee: Mapping[str, str] = field(default_factory=dict)
    in_flight_apart: bool = False

    def require(self, ability: str, option: str | None = None) -> None:
        """Refuse, before anything is changed, what this system is not able to do.

        :raises Refused: names the system, the ability and what to use instead.
        """
        if ability not in self.can:
            raise Refused(
                "The queue system %s is not able to %s" % (self.system, ABILITIES[ability]),
                option=option or "backend",
                next_step=self.instead.get(ability),
            )

    def require_match(self, named: list[str]) -> None:
        """Refuse ``match`` options that this system cannot filter by."""
        unable = sorted(set(named) - set(self.match))
        if unable:
            raise Refused(
                "The queue system %s cannot select tasks by match.%s" % (self.system, ", match.".join(unable)),
                option="match",
                next_step=self.instead.get("match:" + unable[0])
                or "Use only %s" % (", ".join("match.%s" % name for name in self.match) or "rules without match"),
            )

    def require_source(self, source: str, option: str = "source") -> None:
        """Refuse a source that this system does not have."""
        if source not in self.sources and (source in SOURCES or "other" not in self.sources):
            raise Refused(
                "The queue system %s has no source %s" % (self.system, source),
                option=option,
                next_step=self.instead.get("source:" + source) or "Use one of %s" % ", ".join(sorted(self.sources)),
            )

    def require_action(self, action: str, option: str = "rules") -> None:
        """Refuse an action that this system is not able to do."""
        if action not in self.actions:
            raise Refused(
                "The queue system %s is not able to %s a task" % (self.system, action.replace("_", "-")),
                option=option,
                next_step=self.instead.get("action:" + action) or "Use one of %s" % ", ".join(sorted(self.actions)),
            )


@dataclass
class QueueState:
    """One queue at one moment. Counts are tasks."""

    name: str
    exists: bool = True
    queued: int | None = None
    executing: int | None = None
    scheduled: int | None = None
    failed: int | None = None
    dead_lettered: int | None = None
    #: Taken by a worker that is gone: neither queued, executing nor failed until the system cleans up.
    abandoned: int | None = None
    oldest_task_age_s: float | None = None
    #: Tasks a second that workers finished lately.
    rate_per_s: float | None = None
    paused: bool | None = None
    paused_by: dict[str, Any] | None = None


@dataclass
class WorkerState:
    """One worker at one moment. ``state`` is busy, idle, suspended, started or gone (its heartbeat has expired)."""

    name: str
    host: str | None = None
    pid: int | None = None
    version: str | None = None
    queues: list[str] | None = None
    state: str | None = None
    task: str | None = None
    task_queue: str | None = None
    task_since: float | None = None
    completed: int | None = None
    failed: int | None = None
    started: float | None = None
    last_seen: float | None = None


class Unknowns:
    """Collects why values are not known, one sentence per field, naming the first few it holds for."""

    def __init__(self) -> None:
        self._notes: dict[str, dict[str, list[str]]] = {}

    def note(self, where: str, reason: str, subject: str | None = None) -> None:
        """Note that ``where`` (``queues.<field>`` or ``workers.<field>``) is null for ``subject`` (None: for all) because of ``reason``."""
        subjects = self._notes.setdefault(where, {}).setdefault(reason, [])
        if subject is not None:
            subjects.append(subject)

    def as_dict(self) -> dict[str, str]:
        found = {}
        for where, reasons in self._notes.items():
            sentences = []
            for reason, subjects in reasons.items():
                named = ", ".join(subjects[:3]) + (" and %d more" % (len(subjects) - 3) if len(subjects) > 3 else "")
                sentences.append("%s: %s" % (named, reason) if named else reason)
            found[where] = "; ".join(sentences)
        return found


@dataclass
class Look:
    """What one read-only look at the broker showed; ``at`` is the moment by the broker's clock."""

    at: float
    queues: list[QueueState]
    workers: list[WorkerState]
    unknown: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """The return values of the module ``queue_info``."""
        return asdict(self)


@dataclass(frozen=True)
class PauseRequest:
    """Who pauses and why. ``expires`` (s) lifts the pause by itself; None: it stays until somebody lifts it."""

    owner: str
    reason: str = ""
    expires: int | None = None


@dataclass(frozen=True)
class PauseReport:
    """The pause before and after: ``{"paused": bool, "paused_by": {...} | None}`` each. Equal when nothing had to be done."""

    changed: bool
    before: dict[str, Any]
    after: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Match:
    """Which tasks are meant: all conditions must hold; None means any. Ages are seconds since the task ended.

    ``header`` and ``field`` map a name to the text its value has to have; ``field`` names a place in a JSON payload with dots.
    """

    ids: tuple[str, ...] | None = None
    task: str | None = None
    version: str | None = None
    error: str | None = None
    older_than: float | None = None
    newer_than: float | None = None
    header: Mapping[str, str] | None = None
    field: Mapping[str, str] | None = None

    def named(self) -> list[str]:
        """The conditions that are given, by their option names."""
        return [name for name, value in asdict(self).items() if value is not None]

    def error_pattern(self) -> re.Pattern[str] | None:
        """The compiled ``error`` condition.

        :raises Refused: it is no regular expression.
        """
        if self.error is None:
            return None
        try:
            return re.compile(self.error)
        except re.error as problem:
            raise Refused(
                "match.error is not a valid regular expression: %s" % problem,
                option="match.error",
                next_step="Escape special characters with a backslash",
            ) from problem


@dataclass(frozen=True)
class Rule:
    """What becomes of the tasks that ``match``. ``destination`` is a queue; None: where each task came from. ``name``: for the report."""

    match: Match = field(default_factory=Match)
    action: str = "requeue"
    destination: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Breaker:
    """Stops a redrive whose tasks fail again: when, of at least ``min_tasks`` whose fate is known, more than ``limit`` (0 to 1) did."""

    limit: float
    min_tasks: int = 20
    #: Seconds to wait for the fate of tasks that were redriven, before the redrive gives up.
    patience: float = 300.0


@dataclass(frozen=True)
class Holder:
    """A worker as its host knows it: the host's name, and the pids of all its processes, one of which the broker has seen."""

    hostname: str
    pids: tuple[int, ...]


@dataclass(frozen=True)
class RedriveRequest:
    """One redrive: tasks of ``queue`` from ``source``, each by the first of ``rules`` that it matches.

    :ivar run: a name under which the broker or the ledger remembers what was moved; None: not remembered.
    :ivar limit: act on at most this many tasks, the oldest first.
    :ivar rate: tasks a second, reached after ``ramp`` seconds of linear growth; None: as fast as it goes.
    :ivar max_redrives: a task that was redriven this often is parked rather than requeued; None: never.
    :ivar state_dir: the folder on this host in which a ledger file is kept, where the system needs one.
    :ivar completions: a file on this host in which each line is the id of a completed task; proves what workers consumed meanwhile.
    :ivar held_by: of ``executing``, only what these workers have in hand; None: what all have.
    """

    queue: str
    run: str | None = None
    source: str = "failed"
    rules: tuple[Rule, ...] = (Rule(),)
    limit: int | None = None
    rate: float | None = None
    ramp: float = 0.0
    breaker: Breaker | None = None
    max_redrives: int | None = None
    state_dir: str = "/var/lib/queueops"
    completions: str | None = None
    held_by: tuple[Holder, ...] | None = None


class Task:
    """What is known of one task of the source. ``None`` where it is not recorded or was not asked for.

    :ivar handle: the store's own.
    :ivar error: class and message of the exception, without the traceback.
    :ivar fields: the payload, if it is JSON. Only ever held here, never shown.
    :ivar obstacle: why it cannot be acted on ("its record has expired on the broker"), or None.
    """

    __slots__ = ("ended_at", "error", "fields", "handle", "headers", "id", "name", "obstacle", "redrives", "version")

    def __init__(
        self,
        task_id: str,
        name: str | None = None,
        version: str | None = None,
        ended_at: float | None = None,
        redrives: int = 0,
        obstacle: str | None = None,
        handle: Any = None,
    ) -> None:
        self.id = task_id
        self.name = name
        self.version = version
        self.ended_at = ended_at
        self.redrives = redrives
        self.obstacle = obstacle
        self.handle = handle
        self.error: str | None = None
        self.headers: Mapping[str, str] | None = None
        self.fields: Any = None


@dataclass(frozen=True)
class Decision:
    """What is to become of one task. ``destination`` None: where it came from."""

    task: Task
    action: str
    destination: str | None = None


@dataclass
class Census:
    """What is counted before and after a redrive: tasks by place, and what workers finished in between if the system tells."""

    counts: dict[str, int]
    #: Grows with every task that a worker takes or finishes; None: the system does not tell.
    activity: int | None = None


@dataclass
class Sweep:
    """What one :meth:`TaskStore.sweep` did. ``matched = moved + skipped``; 0 matched: the source has ended."""

    matched: int = 0
    moved: int = 0
    skipped_because: dict[str, int] = field(default_factory=dict)
    by_version: dict[str, int] = field(default_factory=dict)
    by_task: dict[str, int] = field(default_factory=dict)
    #: Some of those moved, to be named in the report; may be none.
    sample: list[Task] = field(default_factory=list)


class TaskStore(ABC):
    """The tasks of one source, opened for one redrive. The engine in ``redrive.py`` walks it; a backend fills it with life.

    Opening it has refused all that can be refused beforehand: a queue or destination that does not exist, a broker that takes
    no writes, a destination that would drop what it is sent.
    """

    #: Tasks that one act on the server takes at most.
    batch = 500
    #: What the operator should know of this broker beforehand; one sentence each, for the report.
    warnings: Sequence[str] = ()
    #: How many tasks of any queue the workers ``held_by`` have in hand; None: not asked.
    held: int | None = None

    @abstractmethod
    def now(self) -> float:
        """Seconds since 1970 by the broker's clock, for ages."""

    @abstractmethod
    def census(self) -> Census:
        """Count the places that this redrive touches. O(1) in the number of tasks."""

    @abstractmethod
    def windows(self) -> Iterator[list[Task]]:
        """The tasks, oldest first, some hundreds at a time, each once. Tasks removed by others meanwhile make it neither skip nor stop.

        Which ones (``match.ids`` alone may be looked up directly) and how far (it ends where the source ended when it began) is
        the store's; a task that comes back to the source meanwhile is not seen again.
        """

    def load(self, tasks: list[Task], what: frozenset[str]) -> None:
        """Fill in ``error``, ``headers`` or ``fields`` (as ``what`` says) of tasks. Default: all was there from the start."""
        return

    @abstractmethod
    def apply(self, decisions: list[Decision]) -> list[str]:
        """Act on at most :attr:`batch` tasks. One text each, in order: "" when done, else why it was skipped.

        Whatever this dies of, each task is afterwards where it was or where it was to go, once, or a second call finishes it.
        """

    def sweep(self, action: str, destination: str | None, most: int) -> Sweep | None:
        """Act on the next ``most`` tasks of the source, whatever they are, in one act on the server and without reading them here.

        Asked only where one rule takes everything. It ends where the source ended when the store was opened.

        :param most: 0 only counts what is left to be swept, in ``matched``.
        :returns: None when this store cannot; it is then walked in windows.
        """
        return None

    def leave(self, tasks: list[Task]) -> None:
        """No rule took these: put them back as they were. Default: they have not been taken."""
        return

    def identities(self) -> Iterator[list[str]] | Iterator[list[bytes]] | None:
        """The identity of every task in every place of the census, in pieces; None when they cannot be read without taking them.

        As text or, which is faster, as that text's bytes; the same way in every piece.
        """
        return None

    def fates(self, moved: int) -> tuple[int, int]:
        """Of the ``moved`` tasks requeued so far: of how many the fate is known, and how many of those failed again."""
        raise NotImplementedError  # called only where the capabilities have "breaker"

    def close(self) -> None:
        """Give back what was taken and not acted on, and let go of the connection. Also called after an error."""
        return

    def unfinished(self) -> str:
        """After an error: what is true of the tasks in hand, for the message."""
        return "a batch of up to %d tasks moves whole or not at all" % self.batch


@dataclass
class RuleReport:
    """What one rule took. ``matched = moved + skipped + remaining``."""

    action: str
    destination: str | None = None
    name: str | None = None
    matched: int = 0
    moved: int = 0
    skipped: int = 0
    remaining: int = 0
    sample: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class RedriveReport:
    """What a redrive did, or in check mode would do. ``matched = moved + skipped + remaining``, counted by task identity."""

    run: str | None = None
    matched: int = 0
    #: Tasks acted on, by whatever action.
    moved: int = 0
    skipped: int = 0
    skipped_because: dict[str, int] = field(default_factory=dict)
    #: Matched and left where they are, because of the limit, or the breaker stopped the redrive, or their rule says ``finish``.
    remaining: int = 0
    #: As :attr:`TaskStore.held`.
    held: int | None = None
    #: Could not be compared with the match, because what it asks for is not recorded; left where they are.
    undetermined: int = 0
    by_action: dict[str, int] = field(default_factory=dict)
    by_version: dict[str, int] = field(default_factory=dict)
    by_task: dict[str, int] = field(default_factory=dict)
    rules: list[dict[str, Any]] = field(default_factory=list)
    sample: list[dict[str, Any]] = field(default_factory=list)
    #: Why it ended before the source did: ``{"by": "limit" | "breaker", "reason": ...}``; None when it did not.
    stopped: dict[str, str] | None = None
    #: Tasks redriven whose fate is known, and how many of those failed again; None without a breaker.
    settled: int | None = None
    failed_again: int | None = None
    #: How long the moving took, without the taking stock before and after.
    seconds: float = 0.0
    conservation: dict[str, Any] = field(default_factory=dict)
    diff: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def skip(self, reason: str, count: int = 1) -> None:
        self.skipped += count
        self.skipped_because[reason] = self.skipped_because.get(reason, 0) + count

    def as_dict(self) -> dict[str, Any]:
        """The return values of the module ``queue_redrive``."""
        found = asdict(self)
        del found["diff"], found["warnings"]
        # Ansible takes a result with "skipped" for a task that was not run.
        found["skipped_count"] = found.pop("skipped")
        return found


class QueueBackend(ABC):
    """One queue system behind one face.

    A new system is one new file with a subclass, a line in ``registry.py``, and the contract tests run over it. Constructing
    one opens no connection; every method that talks to the broker raises ``Unavailable`` when that does not answer and
    ``Refused`` when it answers no (password, permission, read-only replica).
    """

    capabilities: Capabilities
    #: How old (s) what the last look told of executing tasks may be; a drain's two looks are at least this far apart.
    lag_s: float = 0.0

    @classmethod
    def capabilities_for(cls, url: str) -> Capabilities:
        """What the system is able to do on the broker of ``url``; only its scheme matters. Connects to nothing."""
        return cls.capabilities

    @abstractmethod
    def look(self, queues: list[str] | None = None, missing_ok: bool = False) -> Look:
        """Look at ``queues`` (None: all that are known) and their workers. Changes nothing at all on the broker.

        :raises NotFound: a named queue does not exist and ``missing_ok`` is false.
        """

    def pause(self, queues: list[str], request: PauseRequest, check: bool = False) -> PauseReport:
        """Stop workers from taking tasks of ``queues``; see ``capabilities.guarantee["pause"]``. With ``check`` only tell."""
        self.capabilities.require("pause", "state")
        raise NotImplementedError  # a backend that declares the ability has to override this

    def resume(self, queues: list[str], owner: str, check: bool = False) -> PauseReport:
        """Lift the pause of ``queues`` if ``owner`` holds it.

        :raises Conflict: somebody else holds the pause.
        """
        self.capabilities.require("pause", "state")
        raise NotImplementedError  # a backend that declares the ability has to override this

    def lost_with(self, version: str) -> str:
        """Why tasks would be lost if workers of ``version`` were killed with tasks in hand; empty: none would. Ask it while they listen.

        Only asked where the system has the ability ``in_flight``.
        """
        return ""

    def open_store(self, request: RedriveRequest, check: bool) -> TaskStore:
        """The tasks that ``request`` means. What can be refused is refused here; see :class:`TaskStore`."""
        self.capabilities.require("redrive", "backend")
        raise NotImplementedError  # a backend that declares the ability has to override this


_NAME = re.compile(r"^[^@:\s]+@(?P<version>[^:\s]+):(?P<host>[^:\s]+)(?::.*)?$")


def version_and_host(worker_name: str) -> tuple[str | None, str | None]:
    """Version and host from a worker's name by the convention ``<app>@<version>:<host>:<anything>``; (None, None) without it."""
    found = _NAME.match(worker_name)
    return (found.group("version"), found.group("host")) if found else (None, None)


#: The reason given where a worker's version is not known.
NO_VERSION = "its name does not carry the version; name workers <app>@<version>:<host>:<anything>"
