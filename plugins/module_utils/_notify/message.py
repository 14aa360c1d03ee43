# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of an event. Texts come from tasks and hosts: they are made plain and short here, once, before any channel has them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Mapping, Sequence

#: What people can be told of.
EVENTS = ("opened", "gate", "rolling_back", "ended")

#: What a webhook's body can name. Each is there for every event; null where the event does not have it.
VARIABLES = (
    "event",
    "title",
    "text",
    "trouble",
    "fleet",
    "operation",
    "kind",
    "release",
    "version",
    "from_release",
    "actor",
    "taken_over",
    "reason",
    "gate",
    "verdict",
    "wave",
    "outcome",
    "hosts",
    "hosts_left_out",
    "opened_at",
    "closed_at",
    "took_s",
)

#: The most that is told: characters of one text, hosts of a fleet, hosts of a wave.
LONGEST = 1000
MOST_HOSTS = 20
MOST_OF_WAVE = 10

_GATES = {"pass": "passes", "fail": "FAILS", "inconclusive": "is INCONCLUSIVE"}
_PAUSED = (
    "The deploy is paused; switched hosts take themselves back when their confirm timer ends. Go on with the playbook "
    "queueops.fleet.resume, with -e approve=<gate> if a person has decided, or with -e do=undo."
)
_ENDS = {"confirmed": "confirmed", "rolled_back": "rolled back", "nothing_to_do": "nothing to do", "failed": "FAILED"}


@dataclass(frozen=True)
class Message:
    """An event, told.

    :ivar events: what it tells of. Some events come together and are told once, to whoever asked for any of them.
    :ivar trouble: whether somebody may have to look.
    :ivar title: one line. ``lines``: what else there is to know.
    :ivar variables: the facts by name, see ``VARIABLES``; JSON values only.
    """

    events: frozenset[str]
    trouble: bool
    title: str
    lines: Sequence[str]
    variables: Mapping[str, Any]

    @property
    def text(self) -> str:
        return "\n".join([self.title, *self.lines])


def message_of(options: Mapping[str, Any]) -> Message:
    """What is told of ``event``, by the options of fleet_notify."""
    event, gate, verdict = options["event"], options["gate"], options["verdict"]
    facts: dict[str, Any] = dict.fromkeys(VARIABLES)
    facts.update(_of_operation(options["operation"]))
    facts.update(event=event, fleet=plain(options["fleet"]), reason=plain(options["reason"]) or None, wave=_wave(options["wave"]))
    facts.update(actor=plain(options["actor"]) or None, hosts=[], hosts_left_out=0)
    if event == "gate":
        facts.update(
            gate=plain(gate.get("name")) or None, verdict=_gate_verdict(gate), reason=plain(gate.get("reason") or gate.get("msg")) or None
        )
    if event == "rolling_back" and gate and not gate.get("skipped") and _gate_verdict(gate) != "pass":
        # A gate that did not pass is what it rolls back for.
        facts.update(verdict=_gate_verdict(gate))
    if event == "ended":
        facts.update(_end(verdict, facts))
    tellers = {"opened": _opened, "gate": _gate, "rolling_back": _rolling_back, "ended": _ended}
    what, lines = tellers[event](facts)
    title = "%s: %s" % (facts["fleet"], what)
    facts.update(title=title, trouble=_trouble(facts), text="\n".join([title, *lines]))
    return Message(_events(facts), facts["trouble"], title, lines, facts)


def plain(value: Any) -> str:
    """``value`` on one line, control and direction characters shown by their number; what is beyond ``LONGEST`` is cut, and counted."""
    joined = " ".join(("" if value is None else str(value)).split())
    shown = "".join(character if character.isprintable() else "\\u%04x" % ord(character) for character in joined[:LONGEST])
    left = len(joined) - LONGEST
    return shown if left <= 0 else "%s… (%d more characters)" % (shown, left)


def _of_operation(operation: Mapping[str, Any]) -> dict[str, Any]:
    """The facts in what fleet_operation returned."""
    opened, closed = operation.get("opened_at"), operation.get("closed_at")
    return {
        "operation": plain(operation.get("operation")) or None,
        "kind": plain(operation.get("kind")) or None,
        "release": operation.get("target"),
        "version": plain(operation.get("version")) or None,
        "from_release": operation.get("from_release"),
        # That this same operation goes on; another one that was ended for it has another id.
        "taken_over": (operation.get("taken_over") or {}).get("id") == operation.get("operation"),
        "outcome": plain(operation.get("outcome")) or None,
        "opened_at": plain(opened) or None,
        "closed_at": plain(closed) or None,
        "took_s": _seconds_between(opened, closed),
    }


def _gate_verdict(gate: Mapping[str, Any]) -> str:
    return str(gate["verdict"]) if gate.get("verdict") in _GATES else "inconclusive"


def _end(verdict: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """How it ended, by what fleet_verdict returned: the hosts that differ first."""
    rows = sorted(verdict.get("table") or [], key=lambda row: bool(row.get("ok")))
    hosts = [
        {
            "host": plain(row.get("host")),
            "release": row.get("found"),
            "phase": plain(row.get("phase")) or None,
            "ok": bool(row.get("ok")),
            "reason": plain(row.get("reason")),
        }
        for row in rows
    ]
    return {
        # An operation that could not be closed is still open, and did not end well.
        "outcome": facts["outcome"] or "failed",
        "reason": plain(verdict.get("msg")) or facts["reason"],
        "hosts": hosts[:MOST_HOSTS],
        "hosts_left_out": max(0, len(hosts) - MOST_HOSTS),
    }


def _opened(facts: Mapping[str, Any]) -> tuple[str, list[str]]:
    return "%s %s" % (_name(facts), "taken over" if facts["taken_over"] else "opened"), [_who(facts), *_because(facts)]


def _gate(facts: Mapping[str, Any]) -> tuple[str, list[str]]:
    wave = " after %s" % facts["wave"] if facts["wave"] else ""
    name = "gate %s " % facts["gate"] if facts["gate"] else "gate "
    # The only gate that is told of by itself and did not pass is one at which the deploy stays.
    paused = [] if facts["verdict"] == "pass" else [_PAUSED]
    return name + _GATES[facts["verdict"]] + wave, [*_because(facts), *paused, "%s, %s" % (facts["operation"], _name(facts))]


def _rolling_back(facts: Mapping[str, Any]) -> tuple[str, list[str]]:
    return "ROLLING BACK the %s" % _name(facts), [*_because(facts), _who(facts)]


def _ended(facts: Mapping[str, Any]) -> tuple[str, list[str]]:
    lines = [*_because(facts), *(_host(host) for host in facts["hosts"])]
    if facts["hosts_left_out"]:
        lines.append("… and %d more hosts" % facts["hosts_left_out"])
    if facts["closed_at"] is None:
        lines.append("The operation could not be closed. Finish it with the playbook queueops.fleet.resume.")
    else:
        took = "" if facts["took_s"] is None else ", took %d s" % facts["took_s"]
        lines.append("opened %s, ended %s%s" % (facts["opened_at"], facts["closed_at"], took))
    return "%s: %s" % (_name(facts), _ENDS.get(facts["outcome"], facts["outcome"])), [*lines, _who(facts)]


def _name(facts: Mapping[str, Any]) -> str:
    """``deploy of release 2 (2.0.0)``"""
    version = " (%s)" % facts["version"] if facts["version"] else ""
    return "%s %s release %s%s" % (facts["kind"], "to" if facts["kind"] == "rollback" else "of", facts["release"], version)


def _who(facts: Mapping[str, Any]) -> str:
    whence = "from release %s" % facts["from_release"] if facts["from_release"] is not None else ""
    by = "by %s" % facts["actor"] if facts["actor"] else ""
    return ", ".join(filter(None, (facts["operation"], whence, by)))


def _because(facts: Mapping[str, Any]) -> list[str]:
    return [facts["reason"]] if facts["reason"] else []


def _host(host: Mapping[str, Any]) -> str:
    found = "release not known" if host["release"] is None else "release %s" % host["release"]
    return ": ".join(part for part in (host["host"], ", ".join(filter(None, (found, host["phase"], host["reason"])))) if part)


def _wave(hosts: Sequence[str]) -> str | None:
    named = ", ".join(plain(host) for host in hosts[:MOST_OF_WAVE])
    left = len(hosts) - MOST_OF_WAVE
    return (named if left <= 0 else "%s and %d more hosts" % (named, left)) or None


def _trouble(facts: Mapping[str, Any]) -> bool:
    if facts["event"] == "ended":
        wanted = "rolled_back" if facts["kind"] == "rollback" else "confirmed"
        return bool(facts["outcome"] != wanted) or not all(host["ok"] for host in facts["hosts"])
    return bool(facts["event"] == "rolling_back" or (facts["event"] == "gate" and facts["verdict"] != "pass"))


def _events(facts: Mapping[str, Any]) -> frozenset[str]:
    told = {facts["event"]}
    if facts["event"] == "opened" and facts["kind"] == "rollback":
        told.add("rolling_back")
    if facts["event"] == "rolling_back" and facts["verdict"]:
        told.add("gate")
    return frozenset(told)


def _seconds_between(opened: Any, closed: Any) -> int | None:
    try:
        moments = [datetime.strptime(str(at), "%Y-%m-%dT%H:%M:%S.%fZ") for at in (opened, closed)]
    except ValueError:
        return None
    return round((moments[1] - moments[0]).total_seconds())
