# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The board's screen as rows of text, from what is known of the fleet. Pure: it has no clock and knows no terminal."""

from __future__ import annotations

from .fleet import DrainNow, FleetNow, GateNow, Running
from .table import WIDE, table
from .text import Row, clock, cut, elapsed, lasting, one_line, padded, width

_LABEL = 9

#: So many hosts of a task are named in a line.
_NAMED = 6


def picture(fleet: FleetNow, columns: int, rows: int, now: float) -> list[Row]:
    """The screen at ``now`` (seconds since 1970), at most ``rows`` rows of less than ``columns`` columns."""
    top = [_rule(columns), _header(fleet, columns, now), _under_way(fleet, now)]
    below: list[Row] = []
    # What there is room for: rather fewer samples and queues than no hosts.
    for samples, queues in ((5, 4), (3, 2), (1, 1), (1, 0)):
        below = [*_queues(fleet, queues), *_drain(fleet.drain, now), *_gate(fleet.gate, samples, now)]
        if len(top) + len(below) + min(len(fleet.hosts) + 1, 5) <= rows:
            break
    hosts = table(fleet.hosts, columns, rows - len(top) - len(below), now) if fleet.hosts else []
    return [_fit(row, columns - 1) for row in [*top, *hosts, *below][:rows]]


def waiting(running: dict[str, Running], now: float) -> str:
    """What is waited for, on which hosts, since when. Empty where nothing is under way."""
    told = []
    for name, since, hosts in _by_task(running):
        where = ", ".join(hosts[:_NAMED]) + (f" and {len(hosts) - _NAMED} more" if len(hosts) > _NAMED else "")
        told.append(f"{name}, for {lasting(now - since)} since {clock(since)}: {where or 'once for the fleet'}")
    return "; ".join(told)


def _by_task(running: dict[str, Running]) -> list[tuple[str, float, list[str]]]:
    """Each task that is under way, since when, and its hosts: none where it runs once for the fleet, in the name of just any host."""
    told = []
    for name in dict.fromkeys(task.name for task in running.values()):
        tasks = {host: task for host, task in running.items() if task.name == name}
        hosts = [one_line(host) for host, task in tasks.items() if not task.once]
        told.append((one_line(name), min(task.since for task in tasks.values()), hosts))
    return told


def _rule(columns: int) -> Row:
    return [("-" * (columns - 1), "dim")]


def _header(fleet: FleetNow, columns: int, now: float) -> Row:
    operation = fleet.operation
    since = elapsed(now - (fleet.began or now))
    if not operation:
        what = one_line(fleet.play) + ("  (check mode: nothing is changed)" if fleet.checking else "")
        return [(f"{one_line(fleet.fleet) or 'fleet'}  {since}  {what}", "head")]
    version = f" ({one_line(str(operation['version']))})" if operation.get("version") else ""
    what = f"{one_line(str(operation.get('operation')))}: release {operation.get('from_release')} to {operation.get('target')}{version}"
    if columns < WIDE:
        what = what.replace(": release ", ": ", 1)
    row: Row = [(f"{one_line(fleet.fleet)}  {since}  {what}, epoch {operation.get('epoch')}", "head")]
    if fleet.outcome:
        wanted = "rolled back" if operation.get("kind") == "rollback" else "confirmed"
        tone = "good" if fleet.outcome in (wanted, "nothing to do") else "bad" if fleet.outcome == "failed" else "warn"
        row.append((f"  {fleet.outcome.upper() if fleet.outcome == 'failed' else fleet.outcome}", tone))
    return row


def _under_way(fleet: FleetNow, now: float) -> Row:
    # The time comes first, so that it is never what is cut off.
    tasks = [
        f"{lasting(now - since)}  {name}" + (f" ({len(hosts)}): {', '.join(hosts)}" if hosts else "")
        for name, since, hosts in _by_task(fleet.running)
    ]
    idle = now - (fleet.idle_since or now)
    told = "; ".join(tasks) or (f"{lasting(idle)}  " if idle >= 1 else "") + "between two tasks"
    if fleet.over:
        told = fleet.over + (f" {tasks[0]}" if tasks else "")
    return [(padded("now", _LABEL), "dim"), (told, "plain")]


def _queues(fleet: FleetNow, most: int) -> list[Row]:
    found: list[Row] = []
    names = list(fleet.queues)
    for name in names[:most]:
        queue = fleet.queues[name]
        figures = ", ".join(f"{count} {word.replace('_', '-')}" for word, count in queue.figures.items()) or "no figures"
        paused = ", PAUSED" if queue.paused else ""
        text = f"{one_line(name)}: {figures}{paused}, at {clock(queue.at)}"
        found.append([(padded("queue", _LABEL), "dim"), (text, "warn" if queue.paused else "plain")])
    if found and len(names) > most:
        found[-1].append((f"; and {len(names) - most} more queues", "dim"))
    return found


def _drain(drain: DrainNow | None, now: float) -> list[Row]:
    if drain is None:
        return []
    text = drain.text
    if drain.left is not None:
        left = f"{drain.left} of {drain.most} left"
        if drain.seconds_left is not None:
            left += f", about {lasting(max(drain.seconds_left - (now - drain.at), 0))}"
        text = f"{left}; {text}"
    return [[(padded("drain", _LABEL), "dim"), (f"{one_line(drain.title)}: {one_line(text)}", "plain")]]


def _gate(gate: GateNow | None, most: int, now: float) -> list[Row]:
    if gate is None:
        return []
    title = one_line(gate.title).removeprefix("gate ")
    if gate.verdict:
        tone = {"PASS": "good", "FAIL": "bad"}.get(gate.verdict, "warn")
        return [[(padded("gate", _LABEL), "dim"), (f"{gate.verdict}: {one_line(gate.reason)}", tone), (f"; {title}", "dim")]]
    left = None if gate.bake_left is None else max(gate.bake_left - (now - gate.at), 0)
    bake = "the bake time has not begun" if left is None else f"bake time {lasting(left)} more" if left else "bake time is over"
    samples: list[Row] = [[(padded("", _LABEL) + f"{clock(at)}  {one_line(text)}", "plain")] for at, text in list(gate.samples)[-most:]]
    return [[(padded("gate", _LABEL), "dim"), (f"{title}, {bake}", "change")], *samples]


def _fit(row: Row, columns: int) -> Row:
    """``row``, cut where the screen ends."""
    fitted: Row = []
    for text, tone in row:
        kept = cut(text, columns)
        fitted.append((kept, tone))
        columns -= width(kept)
        if kept != text:
            break
    return fitted
