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
from typing import Any, Mapping

from .._errors import Refused

#: Everything a backend may be able to do, in the words of the messages.
ABILITIES: dict[str, str] = {
    "list_queues": "tell which queues exist",
    "counters": "tell how many tasks each worker completed and failed",
    "pause": "pause a queue",
    "redrive": "redrive failed tasks",
    "redrive_source": "redrive from a source other than its failed tasks",
    "redrive_run": "remember which tasks a redrive run has moved",
}


@dataclass(frozen=True)
class Capabilities:
    """What one queue system is able to do.

    :ivar system: its name, as in the option ``backend``.
    :ivar can: the abilities (keys of :data:`ABILITIES`) that it has.
    :ivar instead: for an ability that is missing, what to use instead (an imperative sentence).
    :ivar guarantee: for an ability that it has, what it does and what it does not promise.
    :ivar match: the ``match`` options that a redrive understands.
    """

    system: str
    can: frozenset[str]
    instead: Mapping[str, str] = field(default_factory=dict)
    guarantee: Mapping[str, str] = field(default_factory=dict)
    match: tuple[str, ...] = ()

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
                next_step="Use only %s" % ", ".join("match.%s" % name for name in self.match),
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
    """Which tasks to redrive: all conditions must hold; None means any. Ages are seconds since the task ended."""

    ids: tuple[str, ...] | None = None
    task: str | None = None
    version: str | None = None
    error: str | None = None
    older_than: float | None = None
    newer_than: float | None = None
    limit: int | None = None

    def named(self) -> list[str]:
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
class RedriveRequest:
    """One redrive: from ``source`` ("failed", or for lists a key) of ``queue`` to ``destination`` (None: where each task came from)."""

    queue: str
    run: str | None
    source: str = "failed"
    destination: str | None = None
    match: Match = field(default_factory=Match)


@dataclass
class RedriveReport:
    """What a redrive did, or in check mode would do. ``matched = moved + skipped + remaining``, counted by task identity."""

    run: str | None = None
    matched: int = 0
    moved: int = 0
    skipped: int = 0
    skipped_because: dict[str, int] = field(default_factory=dict)
    #: Matched and left where they are, because of ``match.limit``.
    remaining: int = 0
    #: Could not be compared with the match, because what it asks for is not recorded; left where they are.
    undetermined: int = 0
    by_version: dict[str, int] = field(default_factory=dict)
    by_task: dict[str, int] = field(default_factory=dict)
    sample: list[dict[str, Any]] = field(default_factory=list)
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

    def redrive(self, request: RedriveRequest, check: bool = False) -> RedriveReport:
        """Move failed tasks back to be worked on, each in one atomic step. With ``check`` only count."""
        self.capabilities.require("redrive", "backend")
        raise NotImplementedError  # a backend that declares the ability has to override this


_NAME = re.compile(r"^[^@:\s]+@(?P<version>[^:\s]+):(?P<host>[^:\s]+)(?::.*)?$")


def version_and_host(worker_name: str) -> tuple[str | None, str | None]:
    """Version and host from a worker's name by the convention ``<app>@<version>:<host>:<anything>``; (None, None) without it."""
    found = _NAME.match(worker_name)
    return (found.group("version"), found.group("host")) if found else (None, None)


#: The reason given where a worker's version is not known.
NO_VERSION = "its name does not carry the version; name workers <app>@<version>:<host>:<anything>"
