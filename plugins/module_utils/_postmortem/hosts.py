# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happened to each host, and what is known of its config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Sequence

from .._journal.events import Event
from .._journal.fold import FleetState, Operation, release_number
from .text import NOT_KNOWN, clock, mappings, names, plain, plain_lines, unix
from .words import ARRIVED, WENT_BACK, Names, timings

#: Lines of a file's diff that are shown.
_DIFF_LINES = 200
_TROUBLE = {"host_failed": "failed", "host_unreachable": "unreachable", "redrive_failed": "redrive failed"}


@dataclass
class Step:
    """One change of a host.

    :ivar what: ``switched``, ``confirmed``, ``back``, or what went wrong.
    :ivar detail: how long its parts took, or why it went wrong.
    """

    seq: int
    at: str
    what: str
    detail: str
    bad: bool


@dataclass
class Host:
    """One host.

    :ivar release: what was found there at the end; None where it is not known.
    :ivar reported: whether the end of the operation says anything of this host.
    :ivar config: whether the operation's release has another config there than the one before: yes, no, or None for not known.
    """

    name: str
    steps: list[Step] = field(default_factory=list)
    release: int | None = None
    phase: str | None = None
    ok: bool = False
    reported: bool = False
    reason: str = ""
    config: bool | None = None


@dataclass
class FileDiff:
    """How one config file differs on some hosts.

    :ivar lines: of a unified diff; content that is sensitive never was in the journal.
    """

    seq: int
    hosts: list[str]
    path: str
    lines: list[str]


def hosts(own: Sequence[Event], operation: Operation, state: FleetState) -> list[Host]:
    """Each host that the operation's events name, by name.

    :param own: the operation's events.
    :param state: what the journal adds up to at the operation's last event.
    """
    digests: set[str] = set()
    for event in own:
        if event.kind == "operation_opened":
            digests |= {str(host) for host in event.data.get("digests") or {}}
    found = {name: Host(plain(name)) for name in sorted(digests | {event.host for event in own if event.host})}
    for event in own:
        if event.host:
            _note(found[event.host], event)
    for name, host in found.items():
        host.config = _config_changed(state, operation, name)
    return list(found.values())


def _note(host: Host, event: Event) -> None:
    if event.kind == "host_reported":
        host.reported, host.ok = True, event.data.get("ok") is True
        host.release = release_number(event.data.get("release"))
        host.phase = plain(event.data["phase"]) if event.data.get("phase") else None
        host.reason = plain(event.reason or "")
        return
    if event.kind in ("host_switched", "host_confirmed"):
        what = event.kind[len("host_") :]
    elif event.kind in WENT_BACK:
        what = "back"
    elif event.kind in _TROUBLE:
        what = _TROUBLE[event.kind]
    else:
        return
    bad = event.kind in _TROUBLE or event.kind in WENT_BACK[1:]
    host.steps.append(Step(event.seq, str(event.at), what, plain(event.reason) if event.reason else timings(event.data), bad))


def ending(host: Host, known: Names) -> str:
    """How the host was found at the operation's end, in words."""
    if not host.reported:
        return NOT_KNOWN
    release = NOT_KNOWN if host.release is None else known.release(host.release)
    found = release + (", %s" % host.phase if host.phase else "") + ("" if host.ok else ", not well")
    return found + (": %s" % host.reason if host.reason else "")


def told(step: Step) -> str:
    """``07:24:50 switched, drained in 1.8 s``"""
    return "%s %s%s" % (clock(step.at)[11:], step.what, ", " + step.detail if step.detail else "")


def _config_changed(state: FleetState, operation: Operation, host: str) -> bool | None:
    """A digest ends in the id of the config's tree."""
    trees = []
    for number_of in (operation.from_release, operation.target):
        release = state.releases.get(number_of)
        digest = release.digests.get(host) if release else None
        if not isinstance(digest, str) or digest.count("+") < 2:
            return None
        trees.append(digest.rsplit("+", 1)[1])
    return trees[0] != trees[1]


def config_diffs(own: Sequence[Event]) -> list[FileDiff]:
    """The config's differences, as far as the journal has them."""
    return [
        FileDiff(
            event.seq,
            names(event.data.get("hosts")),
            plain(entry.get("path") or NOT_KNOWN),
            plain_lines(entry.get("diff") or "", _DIFF_LINES),
        )
        for event in own
        if event.kind == "config_compared"
        for entry in mappings(event.data.get("files"))
    ]


@dataclass
class Lane:
    """The releases of one host in their order: (since, release), in seconds since 1970; None where it is not known."""

    host: str
    stretches: list[tuple[float, int | None]]


def lanes(own: Sequence[Event], before: FleetState) -> list[Lane]:
    """One lane for each host that moved, by name.

    :param before: what the journal added up to before the operation.
    """
    moves = sorted((event for event in own if event.host and event.kind in ARRIVED), key=lambda event: (unix(event.at), event.seq))
    began = unix(own[0].at)
    found: dict[str, Lane] = {}
    for event in moves:
        name = str(event.host)
        if name not in found:
            found[name] = Lane(plain(name), [(began, before.hosts.get(name))])
        found[name].stretches.append((unix(event.at), release_number(event.data.get("release"))))
    return [found[name] for name in sorted(found)]
