# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether every host of a fleet is proven to be on one release. What is not known is not proven."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Mapping, Sequence

from .fold import AS_FOUND, release_number

COLUMNS = ("host", "wanted", "found", "phase", "reason")
_TITLES = {"host": "host", "wanted": "release wanted", "found": "release found", "phase": "phase", "reason": "reason"}

#: The outcome of a deploy that waits for somebody to decide.
PAUSED = "paused"
_GO_ON = (
    "Hosts on the new release take themselves back when their confirm timer ends. Before that, go on with queueops.fleet.resume, which "
    "measures again; or with -e approve=<gate>, which passes that gate; or undo it with -e do=undo."
)

_NOT_FENCED = (
    "Until a run reaches %s, or a confirm timer acts there, workers there may consume with the version they had, as soon as they reach the "
    "broker: where that must not be, keep %s off the network."
)

#: The phase of a host that is settled; an active one is taken back by its confirm timer.
SETTLED = ("confirmed",)


@dataclass(frozen=True)
class Row:
    """One host.

    :ivar found: the release that is live there, None where it is not known.
    :ivar reason: why the host does not agree; empty when it does.
    """

    host: str
    wanted: int
    found: int | None
    phase: str | None
    ok: bool
    reason: str


@dataclass(frozen=True)
class Agreement:
    """The fleet against one release.

    :ivar agree: whether each host is proven to be on it, and the operation ended as it should.
    :ivar differing: the hosts that are not proven to be on it.
    :ivar unknown: those of them of which nothing is known.
    :ivar unsettled: what else the operation should have done and did not, in sentences.
    """

    rows: list[Row]
    agree: bool
    differing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    outcome_wrong: str | None = None
    unsettled: list[str] = field(default_factory=list)

    def table(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]

    def text(self) -> str:
        """The table in aligned plain text, without a newline at its end."""
        lines = aligned([[_TITLES[column] for column in COLUMNS], *([_cell(row, column) for column in COLUMNS] for row in self.rows)])
        return "\n".join([lines, *("NOT DONE: %s" % " ".join(what.split()) for what in self.unsettled)])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A table in plain text, without a newline at its end."""
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def compare(
    wanted: int,
    version: str | None,
    hosts: Sequence[str],
    results: Mapping[str, Mapping[str, Any]],
    outcome: str | None = None,
    outcome_expected: Sequence[str] = (),
    unsettled: Sequence[str] = (),
) -> Agreement:
    """Put every host of the fleet against release ``wanted``.

    :param version: what the release's workers run; None when it is not known. Not looked at for release 0, which is as found.
    :param hosts: every host of the fleet by the inventory.
    :param results: host -> what ``worker_release`` returned last, empty where it returned nothing.
    :param outcome: how the operation ended, and ``outcome_expected``: how it should have.
    :param unsettled: what else it should have done and did not.
    """
    if wanted == AS_FOUND:
        version = None
    rows = [_row(host, wanted, version, results.get(host) or {}) for host in dict.fromkeys(hosts)]
    differing = [row.host for row in rows if not row.ok]
    unknown = [row.host for row in rows if not row.ok and row.found is None]
    wrong = outcome if outcome_expected and outcome not in outcome_expected else None
    if outcome_expected and outcome is None:
        wrong = "not known"
    agree = bool(rows) and not differing and wrong is None and not unsettled
    return Agreement(rows, agree, differing, unknown, wrong, list(unsettled))


def sentence(
    found: Agreement, wanted: int, fleet: str | None, expected: Sequence[str] = (), why: str | None = None, fenced: str | None = None
) -> str:
    """What the on-call reads: who differs, what was not done, and what to do.

    :param fenced: that the version of those which were not reached is shut out at the broker, in a sentence; empty where it is not.
    """
    name = "fleet %s" % fleet if fleet else "the fleet"
    if not found.rows:
        return "No host was named for %s, so that nothing is proven. Give expected_hosts all hosts of the fleet." % name
    told = [_hosts(found, wanted, name, expected, why, fenced)]
    if found.unsettled:
        told.append("Not all was done: %s." % "; ".join(what.rstrip(".") for what in found.unsettled))
        told.append("Mend the cause; tasks that were left are treated with the playbook queueops.fleet.redrive.")
    return " ".join(told)


def _hosts(found: Agreement, wanted: int, name: str, expected: Sequence[str], why: str | None, fenced: str | None) -> str:
    total = len(found.rows)
    because = " (%s)" % why if why else ""
    if not found.differing:
        all_are = "All %d hosts of %s are on release %d" % (total, name, wanted)
        if found.outcome_wrong is None:
            return all_are + "."
        ended = (found.outcome_wrong, " or ".join(expected), because)
        return all_are + ", but the operation ended as %s, not as %s%s. Mend the cause, then run again." % ended
    reasons = "; ".join("%s: %s" % (row.host, row.reason) for row in found.rows if not row.ok)
    steps = []
    if found.unknown:
        steps.append((fenced.rstrip(".") + "." if fenced else _NOT_FENCED % _them(found.unknown)) + " Bring back what is away.")
    if found.outcome_wrong == PAUSED:
        return "Paused: %s%s. %s. %s" % (name, because, reasons, _GO_ON)
    steps.append("Then run the same playbook again; it finishes what is missing.")
    return "%d of %d hosts of %s are not proven to be on release %d%s. %s. %s" % (
        len(found.differing),
        total,
        name,
        wanted,
        because,
        reasons,
        " ".join(steps),
    )


def _them(hosts: Sequence[str]) -> tuple[str, str]:
    return ", ".join(hosts), "it" if len(hosts) == 1 else "them"


def _row(host: str, wanted: int, version: str | None, result: Mapping[str, Any]) -> Row:
    if result.get("unreachable"):
        return Row(host, wanted, None, None, False, _joined("unreachable: not known", result.get("msg")))
    live = result.get("live")
    if not isinstance(live, Mapping):
        if result.get("failed"):
            return Row(host, wanted, None, None, False, _joined("failed", result.get("msg")))
        return Row(host, wanted, None, None, False, "did not answer: not known")
    found = release_number(live.get("release"))
    if found is None and live.get("release") is None:
        # A host that answered and has no record was never deployed to: it is as it was found.
        found = AS_FOUND
    phase = live.get("phase")
    reasons = _differences(wanted, version, found, phase, live)
    if not reasons and _drifted(wanted, result):
        reasons.append("its files differ from release %d; the diff shows how" % wanted)
    if result.get("failed"):
        reasons.append(_joined("failed", result.get("msg")))
    return Row(host, wanted, found, phase, not reasons, "; ".join(reasons))


def _differences(wanted: int, version: str | None, found: int | None, phase: Any, live: Mapping[str, Any]) -> list[str]:
    if found != wanted:
        return ["on another release"]
    reasons = []
    if phase == "active":
        reasons.append("not confirmed: its confirm timer takes it back")
    elif phase not in SETTLED:
        reasons.append("its phase is %s" % (phase or "not known"))
    if version and live.get("version") != version:
        reasons.append("release %d is version %s there, not %s" % (wanted, live.get("version"), version))
    return reasons + _workers(wanted, version or live.get("version"), live.get("workers"))


def _drifted(wanted: int, result: Mapping[str, Any]) -> bool:
    """Whether the host was compared with this very release, and found to need a switch in order to be on it."""
    asked_about = result.get("release")
    return bool(result.get("pending")) and isinstance(asked_about, Mapping) and release_number(asked_about.get("number")) == wanted


def _workers(wanted: int, version: str | None, workers: Any) -> list[str]:
    """What the worker processes themselves have to say; a link or a record proves nothing."""
    if wanted == AS_FOUND:
        # Whatever was found is right, and that may be no worker at all.
        return []
    if not workers:
        return ["no worker is running"]
    reasons = []
    for worker in workers:
        state, running = str(worker.get("state")).lower(), worker.get("version")
        if state != "running":
            reasons.append("worker %s is %s" % (worker.get("name"), state))
        elif running is None or running != version:
            reasons.append("worker %s runs version %s" % (worker.get("name"), running or "that is not known"))
    return reasons


def _joined(what: str, message: Any) -> str:
    """``what`` and the first line of the message, kept short for a table."""
    lines = str(message or "").strip().splitlines()
    if not lines:
        return what
    return "%s (%s)" % (what, lines[0] if len(lines[0]) <= 200 else lines[0][:199] + "…")


def _cell(row: Row, column: str) -> str:
    value = getattr(row, column)
    if column == "found" and value is None:
        return "not known"
    return "-" if value in (None, "") else str(value)
