# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the board knows of the fleet at this moment, folded from results and from what waiting actions tell. Plain Python, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .seen import Seen, entries, part
from .words import known, sentence, unreachable

#: The phases of the host transaction, in the order of their columns.
PHASES = ("prepared", "active", "confirmed", "reverted")

#: So many of a gate's samples are kept.
_SAMPLES = 5

_QUEUE_FIGURES = ("queued", "executing", "scheduled", "failed", "dead_lettered")


@dataclass
class Running:
    """A task that a host has in hand. ``since``: seconds since 1970. ``phase``: what ``worker_release`` is to reach, else empty."""

    name: str
    since: float
    once: bool = False
    phase: str = ""


@dataclass
class HostNow:
    """One host.

    :ivar phases: phase -> ``done``, ``would be``, ``FAILED`` or ``LOST``; the newest is the last.
    :ivar stands: the release that it is on, ``2 (3.0.0)``.
    :ivar trouble: why its last step did not end well.
    """

    phases: dict[str, str] = field(default_factory=dict)
    stands: str = ""
    trouble: str = ""
    running: Running | None = None

    @property
    def ill(self) -> bool:
        return any(how in ("FAILED", "LOST") for how in self.phases.values()) or bool(self.trouble)

    @property
    def under_way(self) -> str:
        """The phase that it is on its way to, else empty."""
        return self.running.phase if self.running else ""

    @property
    def newest(self) -> str:
        """``active``, ``active FAILED``, ``active now``; ``nothing yet``."""
        if self.under_way:
            return f"{self.under_way} now"
        if not self.phases:
            return "nothing yet"
        phase, how = list(self.phases.items())[-1]
        return phase if how == "done" else f"{how} {phase}" if how == "would be" else f"{phase} {how}"


@dataclass
class GateNow:
    """A gate while it watches, and its verdict (empty until there is one). ``bake_left``: seconds, as of ``at``; None: not yet baking."""

    title: str
    samples: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    bake_left: float | None = None
    at: float = 0.0
    verdict: str = ""
    reason: str = ""


@dataclass
class DrainNow:
    """A drain while it waits. ``left`` of ``most`` tasks; ``seconds_left``: an estimate as of ``at``, None without one."""

    title: str
    text: str
    left: int | None = None
    most: int | None = None
    seconds_left: float | None = None
    at: float = 0.0


@dataclass
class QueueNow:
    """One queue's figures, as of ``at``."""

    figures: dict[str, int]
    paused: bool
    at: float


class FleetNow:
    """Everything that the screen shows. Times are seconds since 1970, and given by the caller."""

    def __init__(self) -> None:
        self.began: float | None = None
        self.play = ""
        self.checking = False
        self.fleet = ""
        self.operation: Mapping[str, Any] = {}
        self.outcome = ""
        #: How the run came to its end, once it has.
        self.over = ""
        self.hosts: dict[str, HostNow] = {}
        #: host -> the task it has in hand; hosts that run no worker are here, too.
        self.running: dict[str, Running] = {}
        self.idle_since: float | None = None
        self.queues: dict[str, QueueNow] = {}
        self.gate: GateNow | None = None
        self.drain: DrainNow | None = None
        self._of_play: list[str] = []

    def play_began(self, name: str, checking: bool, hosts: Iterable[str], at: float) -> None:
        """:param hosts: every host of the play, those that are out of reach included."""
        if self.began is None:
            self.began = at
        self.play, self.checking, self._of_play = name, checking, list(hosts)
        self.running.clear()
        self.idle_since = at

    def task_began(self, host: str, running: Running) -> None:
        """``host`` was given a task."""
        self.running[host] = running
        if not running.phase:
            return
        if self.outcome and running.phase == "prepared":
            # The next operation of the same run.
            self.hosts.clear()
            self.operation, self.outcome, self.gate = {}, "", None
        for name in self._of_play:
            self.hosts.setdefault(name, HostNow())
        self.hosts.setdefault(host, HostNow()).running = running

    def task_ended(self, seen: Seen, how: str, at: float) -> None:
        """:param how: ``done``, ``skipped``, ``FAILED`` or ``LOST``."""
        self.running.pop(seen.host, None)
        if not self.running:
            self.idle_since = at
        if seen.host in self.hosts:
            self.hosts[seen.host].running = None
        if not seen.hidden and how != "skipped":
            self._learn(seen, how, at)

    def _learn(self, seen: Seen, how: str, at: float) -> None:
        if seen.name == "worker_release":
            self._host_stepped(seen, how)
        elif seen.name == "fleet_operation" and how == "done":
            self._operation_changed(seen)
        elif seen.name == "fleet_journal_info" and how == "done":
            self.fleet = str(seen.args.get("fleet") or self.fleet)
        elif seen.name == "fleet_verdict":
            self._judged(seen)
        elif seen.name == "fleet_gate":
            self._gate_ended(seen)
        elif seen.name in ("queue_info", "queue_drain"):
            if seen.name == "queue_drain":
                self.drain = None
            self._queues_seen(entries(seen.data, "queues"), at)

    def told(self, facts: Mapping[str, Any], at: float) -> None:
        """What a waiting action saw; see :class:`.._told.Told`."""
        title, text = str(facts.get("title")), str(facts.get("text"))
        if facts.get("kind") == "gate":
            if self.gate is None or self.gate.title != title or self.gate.verdict:
                self.gate = GateNow(title)
            self.gate.samples.append((at, text))
            self.gate.bake_left, self.gate.at = facts.get("bake_left"), at
        elif facts.get("kind") == "drain":
            self.drain = DrainNow(title, text, facts.get("left"), facts.get("most"), facts.get("seconds_left"), at)
            self._queues_seen(entries(facts, "queues"), at)

    def _host_stepped(self, seen: Seen, how: str) -> None:
        host = self.hosts.setdefault(seen.host, HostNow())
        phase = str(seen.args.get("phase") or part(seen.data, "live").get("phase") or "")
        if phase:
            host.phases.pop(phase, None)
            host.phases[phase] = "would be" if how == "done" and seen.checking and seen.data.get("changed") else how
        live = part(seen.data, "live")
        if live.get("release") is not None:
            host.stands = _release(live["release"], live.get("version"))
        if how == "LOST":
            host.trouble = unreachable(seen.data)
        elif how == "FAILED":
            host.trouble = sentence({"msg": "no reason was given", **seen.data})

    def _operation_changed(self, seen: Seen) -> None:
        self.fleet = str(seen.data.get("fleet") or seen.args.get("fleet") or self.fleet)
        if seen.data.get("outcome") is None:
            self.operation = seen.data
        else:
            self.outcome = str(seen.data["outcome"]).replace("_", " ")

    def _judged(self, seen: Seen) -> None:
        for row in entries(seen.data, "table"):
            host = self.hosts.setdefault(str(row.get("host")), HostNow())
            if row.get("ok"):
                host.stands = _release(row.get("found"), seen.args.get("version"))
            else:
                host.stands = known(row.get("found"))
                host.trouble = host.trouble or str(row.get("reason"))

    def _gate_ended(self, seen: Seen) -> None:
        if self.gate is None or self.gate.verdict:
            self.gate = GateNow("gate " + str(seen.args.get("name") or seen.args.get("metric") or ""))
        self.gate.verdict = str(seen.data.get("verdict") or "inconclusive").upper()
        self.gate.reason = str(seen.data.get("reason") or seen.data.get("msg") or "no reason was given")

    def _queues_seen(self, queues: Iterable[Mapping[str, Any]], at: float) -> None:
        for queue in queues:
            figures = {name: int(queue[name]) for name in _QUEUE_FIGURES if isinstance(queue.get(name), int)}
            self.queues[str(queue.get("name"))] = QueueNow(figures, bool(queue.get("paused")), at)


def _release(number: Any, version: Any) -> str:
    return f"{number} ({version})" if version else str(number)
