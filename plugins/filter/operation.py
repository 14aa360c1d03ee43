# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that turn what the hosts answered into what the journal is told and what the run decides."""

from __future__ import annotations

import difflib
import json
from datetime import UTC, datetime
from typing import Any

from ansible_collections.queueops.fleet.plugins.filter.rules import WITHOUT_RULE

#: What an event may hold of a gate's samples, and of the config's differences: a line of the journal has at most 65,536 bytes.
SAMPLES = 60
DIFF_BYTES = 20000
DIFF_FILES = 50

Results = dict[str, dict[str, Any]]


def last_results(hosts: list[str], hostvars: Any, names: list[str]) -> Results:
    """What each host answered last.

    :param hosts: the fleet's hosts.
    :param names: registered variables, the newest phase first; the first one that was not skipped counts.
    """
    return {host: _first_answer(hostvars[host], names) for host in hosts}


def _first_answer(variables: Any, names: list[str]) -> dict[str, Any]:
    for name in names:
        answer = variables.get(name)
        if answer and not answer.get("skipped"):
            return dict(answer)
    return {}


def failed_hosts(results: Results) -> list[str]:
    """The hosts whose last phase failed, or that could not be reached."""
    return [host for host, result in results.items() if result.get("failed") or result.get("unreachable")]


def stopped_sentence(results: Results) -> str:
    """Where no worker runs any more, in words; empty where none was stopped.

    :param results: host to what M(queueops.fleet.worker_version) returned when it stopped the workers; empty where it was not asked.
    """
    stopped = [host for host, result in results.items() if result and host not in failed_hosts(results)]
    return "No worker runs any more on %s, so that the bad version takes no task there." % ", ".join(stopped) if stopped else ""


def host_events(results: Results, kind: str) -> list[dict[str, Any]]:
    """One event for each host that was asked to change.

    :param results: host to what M(queueops.fleet.worker_release) returned; an empty result is a host that was not asked.
    :param kind: the event of a success, for example ``host_switched``.
    """
    events = []
    for host, result in results.items():
        if not result or result.get("skipped"):
            continue
        event: dict[str, Any] = {"kind": kind, "host": host, "data": {"timings": result.get("timings") or {}}}
        if result.get("ended"):
            event["at"] = iso(result["ended"])
        if result.get("unreachable"):
            event.update(kind="host_unreachable", reason=_first_line(result.get("msg")))
        elif result.get("failed"):
            event.update(kind="host_failed", reason=_first_line(result.get("msg")))
        else:
            event["data"]["release"] = (result.get("release") or {}).get("number")
        events.append(event)
    return events


def gate_events(gate: dict[str, Any], wave: list[str], name: str = "") -> list[dict[str, Any]]:
    """The verdict of the gate ``name`` with the figures that it was decided by."""
    if not gate or gate.get("skipped"):
        return []
    samples = gate.get("samples") or []
    data = {
        "gate": name or gate.get("metric", "failed_ratio"),
        "verdict": gate.get("verdict", "inconclusive"),
        "metric": gate.get("metric", "failed_ratio"),
        "limit": gate.get("limit"),
        "wave": wave,
        "last_sample": samples[-1] if samples else None,
        "samples": _thin(samples),
        "looks": gate.get("looks"),
    }
    if gate.get("would_be"):
        data["would_be"] = gate["would_be"]
    event: dict[str, Any] = {"kind": "gate_verdict", "reason": _first_line(gate.get("reason") or gate.get("msg")), "data": data}
    if gate.get("decided_at"):
        event["at"] = iso(gate["decided_at"])
    return [event]


def _thin(samples: list[Any]) -> list[Any]:
    """As many samples as a plot can show, the newest always kept."""
    step = -(-len(samples) // SAMPLES) or 1
    return samples[:-1][::step] + samples[-1:]


def queue_events(looked: dict[str, Any]) -> list[dict[str, Any]]:
    """How many tasks each queue had, as something that looked anyway has seen it.

    :param looked: what M(queueops.fleet.queue_info) returned, or the registered result of a loop over M(queueops.fleet.queue_redrive).
    """
    if looked.get("failed") or looked.get("unreachable") or looked.get("skipped"):
        return []
    found = [(looked.get("at"), queue.get("name"), queue) for queue in looked.get("queues") or []]
    for result in looked.get("results") or []:
        counts = (result.get("conservation") or {}).get("after") or {}
        found.append((result.get("ended"), result.get(result.get("ansible_loop_var")), counts))
    events = []
    for at, queue, counts in found:
        figures = {name: counts.get(name) for name in ("queued", "executing", "scheduled", "failed") if counts.get(name) is not None}
        if at and queue and figures:
            events.append({"kind": "queue_looked", "at": iso(at), "data": {"queue": queue, **figures}})
    return events


def config_events(results: Results) -> list[dict[str, Any]]:
    """How the config differs from what is live, one event for all hosts on which it differs alike. Sensitive content is masked already.

    :param results: host to what M(queueops.fleet.worker_release) returned when it examined the release.
    """
    alike: dict[str, dict[str, Any]] = {}
    for host, result in results.items():
        files = _bounded([file for file in map(_file_diff, result.get("diff") or []) if file])
        if not files:
            continue
        release = (result.get("release") or {}).get("number")
        event = {"kind": "config_compared", "data": {"release": release, "hosts": [], "files": files}}
        alike.setdefault(json.dumps([release, files]), event)["data"]["hosts"].append(host)
    return list(alike.values())


def _file_diff(entry: dict[str, Any]) -> dict[str, str] | None:
    """One file of a module's ``diff`` as a unified diff; None for what is no file, as the version."""
    path = str(entry.get("before_header")).removesuffix(" (absent)")
    if not path.startswith("/"):
        return None
    lines = difflib.unified_diff(str(entry.get("before")).splitlines(), str(entry.get("after")).splitlines(), lineterm="")
    return {"path": path, "diff": "\n".join(list(lines)[2:])}


def _bounded(files: list[dict[str, str]]) -> list[dict[str, str]]:
    """Journal lines are short: what is beyond is named, and not shown."""
    room = DIFF_BYTES
    for file in files:
        size = len(json.dumps(file))
        if size > room:
            file["diff"] = "(too long for the journal)"
        else:
            room -= size
    return files[:DIFF_FILES]


def redrive_events(redriven: dict[str, Any], kind: str = "tasks_redriven") -> list[dict[str, Any]]:
    """One event for each queue and source whose tasks were treated.

    :param redriven: the registered result of a loop over M(queueops.fleet.queue_redrive), of the items of
        P(queueops.fleet.redrive_places#filter).
    :param kind: the event of a success. But of V(tasks_redriven), where no task matched that is no event.
    """
    events = []
    for result in redriven.get("results") or []:
        if result.get("skipped"):
            continue
        failed = result.get("failed") or result.get("unreachable")
        figures = {name: result.get(name) for name in ("matched", "moved", "skipped_count", "skipped_because", "remaining", "conservation")}
        if not (failed or result.get("matched") or kind == "tasks_redriven"):
            continue
        place = result.get(result.get("ansible_loop_var") or "") or {}
        figures.update(queue=place.get("queue"), source=place.get("source"), rules=_by_rule(result) or None)
        event = {
            "kind": "redrive_failed" if failed else kind,
            "reason": _first_line(result.get("msg")) if failed else None,
            "data": {name: value for name, value in figures.items() if value is not None},
        }
        if result.get("ended"):
            event["at"] = iso(result["ended"])
        events.append(event)
    return events


def _by_rule(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What each rule of the specification took, without those that took nothing."""
    return [
        {name: rule.get(name) for name in ("name", "action", "destination", "matched", "moved") if rule.get(name) is not None}
        for rule in result.get("rules") or []
        if rule.get("matched") and rule.get("name") not in (None, WITHOUT_RULE)
    ]


def release_outcome(results: Results, kind: str, target: int, origin: int, halted: str) -> dict[str, Any]:
    """How an operation ended.

    :param results: host to its last result; hosts that were never asked have an empty one.
    :param kind: ``deploy`` or ``rollback``.
    :param target: the release the operation was for.
    :param origin: the release the fleet was on before.
    :param halted: why a deploy was halted; empty if it was not.
    :returns: ``outcome`` (``confirmed``, ``rolled_back`` or ``failed``), ``wanted`` (the release that every host must be on now)
        and ``hosts`` (host to ``release``, ``phase``, ``ok``, ``reason``).
    """
    wanted = origin if kind == "deploy" and halted else target
    good = "confirmed" if kind == "deploy" and not halted else "rolled_back"
    hosts = {}
    for host, result in results.items():
        live = result.get("live") or {}
        asked = bool(result)
        hosts[host] = {
            "release": live.get("release") if asked else None,
            "phase": live.get("phase") if asked else None,
            "ok": asked and not result.get("failed") and not result.get("unreachable") and live.get("release") == wanted,
            "reason": _first_line(result.get("msg")) if result.get("failed") or result.get("unreachable") else "",
        }
    return {"outcome": good if all(entry["ok"] for entry in hosts.values()) else "failed", "wanted": wanted, "hosts": hosts}


def plan_refusal(hosts: list[str], hostvars: Any) -> str:
    """Why what the playbook ``plan`` planned for these hosts cannot be done; empty: it can."""
    made: dict[str, Any] = next((hostvars[host]["plan_made"] for host in hosts if "plan_made" in hostvars[host]), {})
    refused = list(dict.fromkeys(str(hostvars[host].get("plan_refused") or "") for host in hosts))
    reasons = ["%s: %s" % (entry["host"], entry["cannot"]) for entry in made.get("table") or [] if entry["cannot"]]
    if not made and not reasons:
        reasons = [reason for reason in refused if reason] or ["No host answered; see above"]
    return "; ".join(reasons)


def _first_line(text: Any) -> str:
    lines = str(text or "").strip().splitlines()
    return lines[0][:500] if lines else ""


def iso(unix: float) -> str:
    return datetime.fromtimestamp(float(unix), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Any]:
        return {
            "config_events": config_events,
            "failed_hosts": failed_hosts,
            "gate_events": gate_events,
            "host_events": host_events,
            "last_results": last_results,
            "plan_refusal": plan_refusal,
            "queue_events": queue_events,
            "redrive_events": redrive_events,
            "release_outcome": release_outcome,
            "stopped_sentence": stopped_sentence,
        }
