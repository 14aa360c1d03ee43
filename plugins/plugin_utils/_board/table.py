# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the screen that is hosts by phases. Pure, as :mod:`.picture`, which it is a part of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .fleet import PHASES, HostNow
from .text import Row, lasting, one_line, padded, width

#: Below so many columns one column says which phase a host is in, instead of one for each.
WIDE = 72

_CELL = 9
_WIDEST_HOST = 24
_WIDEST_RELEASE = 22

_TONES = {"done": "good", "would be": "plain", "FAILED": "bad", "LOST": "lost"}


def table(hosts: dict[str, HostNow], columns: int, rows: int, now: float) -> list[Row]:
    """A head, a row a host, and one that counts those for which there is no row."""
    headed = rows > 2 or len(hosts) < rows
    shown, left = _chosen(list(hosts.items()), rows - headed)
    heads = _phases(list(hosts.values())) if columns >= WIDE else ["phase"]
    cells = [[_cell(host, phase, now) for phase in heads] if columns >= WIDE else [_only_cell(host, now)] for _name, host in shown]
    names = min(max([len("host"), *(width(one_line(name)) for name, _host in shown)]), _WIDEST_HOST, columns // 3)
    cell = _CELL if columns >= WIDE else max([len("phase"), *(width(text) for row in cells for text, _tone in row)])
    releases = min(max([0, *(width(one_line(host.stands)) for _name, host in shown)]), _WIDEST_RELEASE)

    found: list[Row] = []
    if headed:
        found.append([("".join([padded("host", names) + "  ", *(padded(head, cell) + "  " for head in heads), "live release"]), "dim")])
    for (name, host), row in zip(shown, cells, strict=True):
        begin: Row = [(padded(one_line(name), names) + "  ", "plain"), *((padded(text, cell) + "  ", tone) for text, tone in row)]
        trouble = (one_line(host.trouble), "lost" if "LOST" in host.phases.values() else "bad")
        found.append([*begin, (padded(one_line(host.stands), releases) + "  ", "plain"), trouble])
    if left:
        found.append([(_counted(left, "... and %d more" if shown else "%d hosts"), "dim")])
    return found


def _chosen(hosts: list[tuple[str, HostNow]], room: int) -> tuple[list[tuple[str, HostNow]], list[HostNow]]:
    """The hosts that have a row, and the others: what failed and what is under way comes first, where not all have one."""
    if len(hosts) <= room:
        return hosts, []
    urgent = sorted(hosts, key=lambda entry: (not entry[1].ill, not entry[1].under_way))
    fitting = max(room - 1, 0)
    return urgent[:fitting], [host for _name, host in urgent[fitting:]]


def _phases(hosts: Sequence[HostNow]) -> list[str]:
    """The columns. One that no host has come to is worth less than the room for the reason of a failure."""
    come_to = {phase for host in hosts for phase in (*host.phases, host.under_way)}
    expected = {"prepared"} if "reverted" in come_to else {"prepared", "active", "confirmed"}
    return [phase for phase in PHASES if phase in come_to | expected]


def _cell(host: HostNow, phase: str, now: float) -> tuple[str, str]:
    if host.running and host.under_way == phase:
        return f"now {lasting(now - host.running.since)}", "change"
    how = host.phases.get(phase, "-")
    return how, _TONES.get(how, "dim")


def _only_cell(host: HostNow, now: float) -> tuple[str, str]:
    if host.running and host.under_way:
        return f"{host.newest} {lasting(now - host.running.since)}", "change"
    return host.newest, _TONES.get(list(host.phases.values())[-1], "plain") if host.phases else "dim"


def _counted(hosts: Sequence[HostNow], lead: str) -> str:
    """``... and 17 more, all confirmed``"""
    counts = Counter(host.newest for host in hosts)
    lead = lead % len(hosts)
    if len(counts) == 1:
        return f"{lead}, {'all ' if len(hosts) > 1 else ''}{next(iter(counts))}"
    return f"{lead}: " + ", ".join(f"{count} {newest}" for newest, count in counts.most_common())
