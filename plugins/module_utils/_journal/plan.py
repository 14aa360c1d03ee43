# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operation would do to each host, as a table and as an id that only the same plan has."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Mapping, Sequence

from .._errors import Conflict
from .agreement import aligned

#: Digits of a plan's id.
DIGITS = 12

COLUMNS = ("host", "is on", "goes to", "what changes")
_UNREACHABLE = "unreachable"
_WITHOUT = " %s cannot be reached: the others go back all the same, and the run fails."
RULE_COLUMNS = ("rule", "queue", "takes of", "and does", "tasks")


@dataclass(frozen=True)
class Step:
    """One host.

    :ivar found: release and version that are live there, in words.
    :ivar changes: what changes there, in words; empty when nothing does.
    :ivar cannot: why the host cannot go there, or is not known; empty when it can.
    """

    host: str
    found: str
    changes: str
    cannot: str


@dataclass(frozen=True)
class Plan:
    """What an operation would do.

    :ivar id: the same for the same plan: the journal's head, the release, and for each host what is live and what changes.
    :ivar pending: the hosts that have to be switched.
    :ivar cannot: the hosts that cannot be, or of which nothing is known.
    :ivar notes: what else there is to know beforehand, one sentence each: its gates, and what becomes of it if its controller dies.
    :ivar tasks: what would become of tasks, counted: ``rows`` and ``notes`` as the filter ``foreseen_tasks`` makes them. Not part of the
        id, for it changes by the second; the rules themselves are.
    :ivar besides: what changes elsewhere than on the hosts, one sentence each.
    """

    id: str
    kind: str
    target: int
    version: str | None
    from_release: int | None
    steps: list[Step]
    pending: list[str]
    cannot: list[str]
    tasks: Mapping[str, Any]
    notes: Sequence[str] = ()
    besides: Sequence[str] = ()

    @property
    def changes(self) -> bool:
        """Whether anything would be done."""
        return bool(self.pending or self.besides) or self.from_release != self.target

    def table(self) -> list[dict[str, Any]]:
        return [asdict(step) for step in self.steps]

    def text(self) -> str:
        """The table in aligned plain text; where anything is done, what becomes of tasks, and the notes. Without a newline at its end."""
        goes = _named(self.target, self.version)
        rows = [
            [step.host, step.found, goes, "CANNOT: %s" % step.cannot if step.cannot else step.changes or "nothing"] for step in self.steps
        ]
        return "\n".join([aligned([list(COLUMNS), *rows]), *([*self.besides, *self._tasks(), *self.notes] if self.changes else [])])

    def _tasks(self) -> list[str]:
        rows = [
            [row["rule"], row["queue"], row["source"], row["action"], "not known" if row["tasks"] is None else str(row["tasks"])]
            for row in self.tasks.get("rows") or []
        ]
        return [*(aligned([list(RULE_COLUMNS), *rows]).splitlines() if rows else []), *(self.tasks.get("notes") or [])]

    def sentence(self, fleet: str) -> str:
        """What the on-call reads."""
        away = [step.host for step in self.steps if step.cannot.startswith(_UNREACHABLE)]
        # A rollback goes on without them; a deploy does not.
        if self.cannot and (self.kind == "deploy" or self.cannot != away):
            return "Fleet %s cannot go to %s: see %s. Nothing was changed." % (
                fleet,
                _named(self.target, self.version),
                ", ".join(self.cannot),
            )
        goes = "fleet %s" % fleet, _named(self.target, self.version)
        hosts = "%d of %d hosts" % (len(self.pending), len(self.steps))
        told = "Plan %s: %s of %s to %s, which changes %s." % (self.id, self.kind, *goes, hosts)
        if self.besides:
            told += " Besides: %s." % "; ".join(self.besides)
        if not self.changes:
            told = "Nothing to do: %s is on %s." % goes
        return told + (_WITHOUT % ", ".join(away) if away else "")


def plan(
    kind: str,
    head: str,
    target: int,
    version: str | None,
    from_release: int | None,
    hosts: Sequence[str],
    results: Mapping[str, Mapping[str, Any]],
    rules: Sequence[Mapping[str, Any]] = (),
    tasks: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    besides: Sequence[str] = (),
) -> Plan:
    """The plan of a deploy or a rollback.

    :param head: the journal's.
    :param hosts: every host of the fleet by the inventory.
    :param results: host -> what ``worker_release`` with the phase ``prepared`` returned, in check mode or not; empty: did not answer.
    :param rules: what the fleet specification says of tasks.
    :param tasks: what they would take now, see :class:`Plan`.
    :param notes: see :class:`Plan`; other ones make another plan. The same for ``besides``.
    """
    steps = [_step(host, results.get(host) or {}) for host in dict.fromkeys(hosts)]
    facts = [
        kind,
        head,
        target,
        version,
        {step.host: _facts(results.get(step.host) or {}) for step in steps},
        list(rules),
        list(notes),
        list(besides),
    ]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode("utf-8", "surrogatepass")).hexdigest()
    return Plan(
        digest[:DIGITS],
        kind,
        target,
        version,
        from_release,
        steps,
        [step.host for step in steps if step.changes and not step.cannot],
        [step.host for step in steps if step.cannot],
        tasks or {},
        list(notes),
        list(besides),
    )


def hold(made: Plan, wanted: str) -> None:
    """Refuse to do another plan than the one that a person has read.

    :raises Conflict: the world has changed since.
    """
    if made.id != wanted:
        raise Conflict(
            "The plan is no longer %s but %s: a host, its config, the specification or the journal has changed since" % (wanted, made.id),
            option="plan",
            still_true="Nothing live was changed",
            next_step="Make the plan again with queueops.fleet.plan, read it, and name its id",
        )


def _step(host: str, result: Mapping[str, Any]) -> Step:
    live = result.get("live")
    if result.get("unreachable"):
        return Step(host, "not known", "", "%s: %s" % (_UNREACHABLE, _first_line(result.get("msg"))))
    if result.get("failed") or not isinstance(live, Mapping):
        return Step(host, "not known", "", _first_line(result.get("msg")) or "did not answer")
    found = _named(live.get("release") or 0, live.get("version"))
    return Step(host, found, _changes(result) if result.get("pending") else "", "")


def _changes(result: Mapping[str, Any]) -> str:
    parts = []
    files = []
    for entry in _diffs(result):
        if entry.get("before_header") == entry.get("after_header") == "version":
            parts.append("version %s to %s" % (str(entry.get("before")).strip(), str(entry.get("after")).strip()))
        else:
            files.append(str(entry.get("after_header") or entry.get("before_header")).replace(" (absent)", ""))
    if files:
        parts.append(
            "%d file%s: %s" % (len(files), "" if len(files) == 1 else "s", ", ".join(files[:3]) + (", ..." if len(files) > 3 else ""))
        )
    return "; ".join(parts) or "its workers are started anew"


def _facts(result: Mapping[str, Any]) -> list[Any]:
    """What makes the plan of a host another one. Not its processes, which come and go."""
    live = result.get("live")
    live = live if isinstance(live, Mapping) else {}
    return [live.get("release"), live.get("version"), live.get("phase"), bool(result.get("pending")), _diffs(result)]


def _diffs(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = result.get("diff")
    return [entry for entry in (found if isinstance(found, list) else [found]) if isinstance(entry, Mapping)]


def _named(release: Any, version: Any) -> str:
    return "release %s (%s)" % (release, version) if version else "release %s" % release


def _first_line(text: Any) -> str:
    lines = str(text or "").strip().splitlines()
    return lines[0][:200] if lines else ""
