# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A journal made anew from what the hosts can tell. Known good is only what they wrote down as confirmed."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Mapping, Sequence

from .._errors import Conflict, Refused
from .events import Event, now
from .fold import AS_FOUND, FleetState, fold, release_number
from .journal import Damaged, Journal

#: Operations that reached no host left no trace of their epoch there. So many of them have room.
ROOM = 100

_SETTLED_ON = ("host_confirmed", "host_reverted")

Testimony = Mapping[str, Any]


@dataclass
class Account:
    """What the hosts' own events say of one release.

    :ivar confirmed: host -> when it was last confirmed there.
    :ivar left: host -> when it was last rolled back from there.
    """

    number: int
    version: str | None
    checksum: str | None
    digests: dict[str, str] = field(default_factory=dict)
    activated: set[str] = field(default_factory=set)
    confirmed: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    @property
    def ever_confirmed(self) -> bool:
        """Whether each host on which it was live has confirmed it."""
        return bool(self.confirmed) and self.activated <= set(self.confirmed)

    @property
    def withdrawn(self) -> bool:
        return any(at > self.confirmed.get(host, "") for host, at in self.left.items())

    @property
    def known_good(self) -> bool:
        return self.ever_confirmed and not self.withdrawn


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild wrote, or would write in check mode."""

    changed: bool
    events: list[Event]
    state: FleetState
    moved_to: str | None

    def sentence(self, fleet: str) -> str:
        """What is known again, and what to do next."""
        told = self.events[-1].data
        good = self.state.known_good_releases()
        known = "known good, the newest first: release %s" % ", ".join(map(str, good)) if good else "no release is known good"
        if told["touched"]:
            advice = "%s not on it and confirmed. Run queueops.fleet.rollback" % _are(told["touched"])
        else:
            advice = "Look with queueops.fleet.status"
        silent = " Nothing was ever deployed to %s." % ", ".join(told["silent"]) if told["silent"] else ""
        return "The journal of fleet %s is made anew from its hosts: %s. %s.%s" % (fleet, known, advice, silent)


def _are(hosts: Sequence[str]) -> str:
    return "%s %s" % (", ".join(hosts), "is" if len(hosts) == 1 else "are")


def rebuild(journal: Journal, hosts: Mapping[str, Testimony], actor: str | None, reason: str | None, dry: bool = False) -> Rebuilt:
    """Write the journal of a fleet anew.

    :param hosts: inventory host -> what ``testify`` found there, for each host of the fleet.
    :raises Conflict: there is a journal, and it is sound.
    :raises Refused: no host knows of a release, or two do not mean the same by one number.
    """
    damaged = _refuse_sound(journal)
    events = events_from(hosts, actor, reason)
    if dry:
        sealed = [event.sealed(place, "") for place, event in enumerate(events, 1)]
        return Rebuilt(True, sealed, fold(sealed), None)
    moved_to = None
    if damaged:
        moved_to = "%s.damaged-%s" % (journal.path, now().replace(":", ""))
        os.rename(journal.path, moved_to)
    written = journal.append(events)
    return Rebuilt(True, written, fold(journal.read()), moved_to)


def events_from(hosts: Mapping[str, Testimony], actor: str | None, reason: str | None) -> list[Event]:
    """The hosts' own events in the order of their times, then what they come to."""
    told = sorted((event for found in hosts.values() for event in found["events"]), key=lambda event: (str(event["at"]), event["seq"]))
    history = [
        Event(event["kind"], event["operation"], event["epoch"], event["host"], event["actor"], event["reason"], event["data"], event["at"])
        for event in told
    ]
    accounts = _accounts(hosts)
    epoch = max([0, *(int(found["epoch"] or 0) for found in hosts.values())]) + ROOM
    operation = "op-%04d-rebuild" % epoch
    by = {"actor": actor or "", "reason": reason or "the journal was lost"}
    good = sorted((one for one in accounts if one.known_good), key=lambda one: max(one.confirmed.values()))
    events = [*history, *(_release_event(one, by) for one in accounts if not one.known_good), *(_release_event(one, by) for one in good)]
    events += [
        _by(by, "host_reported", {"release": found["release"] or AS_FOUND, "phase": found["phase"], "ok": True}, host=host)
        for host, found in hosts.items()
        if found["release"] is not None
    ]
    current = good[-1].number if good else AS_FOUND
    before = good[-2].number if len(good) > 1 else AS_FOUND
    astray = {host: found["release"] for host, found in hosts.items() if found["release"] is not None and not _on(found, current)}
    suspect = max([release for release in astray.values() if release != current], default=None)
    data: dict[str, Any] = {
        "operation": operation,
        "current": current,
        "target": suspect if suspect is not None else current,
        "from": before if suspect is None else current,
        "outcome": "failed" if astray else "confirmed",
        "touched": sorted(astray),
        "silent": sorted(host for host, found in hosts.items() if found["release"] is None),
    }
    return [*events, _by(by, "journal_rebuilt", data, epoch=epoch)]


def _by(by: Mapping[str, str], kind: str, data: dict[str, Any], host: str | None = None, epoch: int | None = None) -> Event:
    return Event(kind, epoch=epoch, host=host, actor=by["actor"] or None, reason=by["reason"], data=data)


def _on(found: Testimony, release: int) -> bool:
    return bool(found["release"] == release and found["phase"] == "confirmed")


def _accounts(hosts: Mapping[str, Testimony]) -> list[Account]:
    accounts: dict[int, Account] = {}
    for host, found in hosts.items():
        for release in found["releases"]:
            one = accounts.setdefault(release["number"], Account(release["number"], release["version"], release["checksum"]))
            if (one.version, one.checksum) != (release["version"], release["checksum"]):
                raise Refused(
                    "Release %d is version %s (%s) on %s, and version %s (%s) elsewhere"
                    % (one.number, release["version"], release["checksum"], host, one.version, one.checksum),
                    option="hosts",
                    next_step="Look at the hosts: are they of one fleet? Leave out the one that is not",
                )
            one.digests[host] = release["digest"]
            if release["activated"]:
                one.activated.add(host)
        _read_events(host, found["events"], accounts)
    if not accounts:
        raise Refused("No host knows of a release of this fleet", option="hosts", next_step="Deploy a version; there is nothing to rebuild")
    return [accounts[number] for number in sorted(accounts)]


def _read_events(host: str, events: Sequence[Mapping[str, Any]], accounts: Mapping[int, Account]) -> None:
    live: int | None = None
    for event in events:
        release = release_number((event.get("data") or {}).get("release"))
        if release is None:
            continue
        if event["kind"] == "host_reverted" and live is not None and live in accounts and live != release:
            accounts[live].left[host] = event["at"]
        if event["kind"] in _SETTLED_ON and release in accounts:
            accounts[release].confirmed[host] = event["at"]
        live = release


def _release_event(one: Account, by: Mapping[str, str]) -> Event:
    state = "confirmed" if one.known_good else "withdrawn" if one.withdrawn else "active" if one.activated else "prepared"
    data = {
        "release": one.number,
        "version": one.version,
        "checksum": one.checksum,
        "digests": one.digests,
        "state": state,
        "ever_confirmed": one.ever_confirmed,
        "confirmed_at": max(one.confirmed.values()) if one.ever_confirmed else None,
        "withdrawn_at": max(one.left.values()) if one.withdrawn else None,
    }
    return _by(by, "release_rebuilt", data)


def _refuse_sound(journal: Journal) -> bool:
    """Whether a damaged journal stands in the way; a sound one is not lost."""
    try:
        events = journal.read()
    except Damaged:
        return True
    if events:
        raise Conflict(
            "The fleet has a journal, %s, with %d events, and it is sound" % (journal.path, len(events)),
            option="state_dir",
            still_true="Nothing was changed",
            next_step="Use it. If the fleet's home has changed, copy the journal from the old home instead",
        )
    return False
