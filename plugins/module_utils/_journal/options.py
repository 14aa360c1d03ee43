# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that the journal's modules share, and how their values become what the room works with."""

from __future__ import annotations

import json
import re
from typing import Any

from .._errors import Refused
from .events import Event
from .fold import FleetState
from .journal import Journal, journal_path

_FLEET = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")

JOURNAL_OPTIONS: dict[str, Any] = {
    "fleet": {"type": "str", "required": True},
    "state_dir": {"type": "path", "default": "/var/lib/queueops"},
}

EVENT_OPTIONS: dict[str, Any] = {
    "kind": {"type": "str", "required": True},
    "host": {"type": "str"},
    "reason": {"type": "str"},
    "data": {"type": "dict", "default": {}},
    "at": {"type": "str"},
}

#: Of fleet_verdict: for the action that runs, and for the module that documents it.
VERDICT_OPTIONS: dict[str, Any] = {
    "wanted": {"type": "int", "required": True},
    "version": {"type": "str"},
    "expected_hosts": {"type": "list", "elements": "str", "required": True},
    "results": {"type": "dict", "required": True},
    "outcome": {"type": "str"},
    "outcome_expected": {"type": "list", "elements": "str", "default": []},
    "fleet": {"type": "str"},
    "reason": {"type": "str"},
    "unsettled": {"type": "list", "elements": "str", "default": []},
    "fenced": {"type": "str"},
}

#: Of fleet_plan, in the same way.
PLAN_OPTIONS: dict[str, Any] = {
    "fleet": {"type": "str", "required": True},
    "kind": {"type": "str", "choices": ["deploy", "rollback"], "required": True},
    "head": {"type": "str", "required": True},
    "target": {"type": "int", "required": True},
    "version": {"type": "str"},
    "from_release": {"type": "int"},
    "expected_hosts": {"type": "list", "elements": "str", "required": True},
    "results": {"type": "dict", "required": True},
    "rules": {"type": "list", "elements": "dict", "default": []},
    "tasks": {"type": "dict", "default": {}},
    "notes": {"type": "list", "elements": "str", "default": []},
    "besides": {"type": "list", "elements": "str", "default": []},
    "plan": {"type": "str"},
}


def journal_of(params: dict[str, Any]) -> Journal:
    """The journal that the options ``fleet`` and ``state_dir`` name."""
    fleet = params["fleet"]
    if not _FLEET.match(fleet):
        raise Refused(
            "%r is not a name for a fleet: lower case letters, digits and hyphens, at most 63" % fleet,
            option="fleet",
            next_step="Give the fleet's name as in the inventory's queueops_fleet",
        )
    if not params["state_dir"].startswith("/"):
        raise Refused(
            "The state folder %r is not an absolute path" % params["state_dir"],
            option="state_dir",
            next_step="Give a path that starts with a slash",
        )
    return Journal(journal_path(params["state_dir"], fleet))


def events_of(given: list[dict[str, Any]] | None) -> list[Event]:
    """The option ``events`` as events."""
    return [
        Event(kind=item["kind"], host=item.get("host"), reason=item.get("reason"), data=item.get("data") or {}, at=item.get("at"))
        for item in given or []
    ]


def diff_of(before: FleetState, after: FleetState, path: str) -> dict[str, str]:
    """What changes about the fleet, without times, so that check mode's diff is the one that is then applied."""
    return {"before": _told(before), "after": _told(after), "before_header": path, "after_header": path}


def _told(state: FleetState) -> str:
    held = state.open_operation
    lines = [
        "open operation: %s" % ("%s to release %d" % (held.id, held.target) if held else "none"),
        "epoch: %d" % state.epoch,
        "current release: %d" % state.current,
        "known good: %s" % ("none" if state.known_good is None else state.known_good),
    ]
    lines += ["release %d (%s): %s" % (n, state.releases[n].version, state.releases[n].state) for n in sorted(state.releases)]
    lines += ["%s: release %s" % (host, "not known" if n is None else n) for host, n in sorted(state.hosts.items())]
    return "\n".join(lines) + "\n"


def events_diff(events: list[Event], path: str) -> dict[str, str]:
    """What is added to the journal, without times."""
    lines = [" ".join(part for part in (event.kind, event.host, _json(event.data), event.reason) if part) for event in events]
    return {"before": "", "after": "".join(line + "\n" for line in lines), "before_header": path, "after_header": path}


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, sort_keys=True) if data else ""
