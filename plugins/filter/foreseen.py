# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operation would do with tasks, for the plan: what each rule would take, what cannot be read, how long the drain may take."""

from __future__ import annotations

from typing import Any

#: What a rule's action is called for tasks that were parked before.
RELEASED = "release"


def foreseen_tasks(looked: dict[str, Any], counted: dict[str, Any], version: str, measured: float) -> dict[str, Any]:
    """What the plan says of tasks.

    :param looked: what M(queueops.fleet.queue_info) returned.
    :param counted: the registered result of a loop in check mode of M(queueops.fleet.queue_redrive), over what the filter
        P(queueops.fleet.redrive_places#filter) makes.
    :param version: the version that the hosts go to.
    :param measured: seconds over which ``looked`` measured the rate.
    :returns: ``rows``, with ``rule``, ``queue``, ``source``, ``action``, ``unreadable``, ``tasks`` (None: not
        known) and ``reason``; and ``notes``, sentences.
    """
    rows = [row for result in counted.get("results") or [] for row in _rows(result)]
    notes = [_readable(queue, rows, version) for queue in looked.get("queues") or []]
    notes += ["%s: %s" % (row["queue"], row["reason"]) for row in rows if row["reason"]]
    return {"rows": rows, "notes": [note for note in notes if note] + [drain_estimate(looked, measured)]}


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each rule of one redrive, in their order."""
    place = result.get(result.get("ansible_loop_var") or "") or {}
    failed = result.get("failed") or result.get("unreachable")
    rows: dict[str, dict[str, Any]] = {}
    for rule in place.get("rules") or []:
        action = RELEASED if place["source"] == "parked" else rule["action"]
        row = {"rule": rule["name"], "queue": place["queue"], "source": place["source"], "action": action}
        row["unreadable"] = rule["name"] in place["unreadable"] and place["source"] != "parked"
        rows.setdefault(rule["name"], {**row, "tasks": None if failed else 0, "reason": ""})
    for rule in [] if failed else result.get("rules") or []:
        rows[rule["name"]]["tasks"] += rule["matched"] if rule["action"] == "finish" else rule["moved"]
    found = list(rows.values())
    if found and failed:
        found[0]["reason"] = "the %s tasks cannot be counted beforehand: %s" % (place["source"], result.get("msg") or "no reason was given")
    elif found and result.get("undetermined"):
        text = "%d %s tasks do not record what the rules ask for, and would be left where they are"
        found[0]["reason"] = text % (result["undetermined"], place["source"])
    return found


def _readable(queue: dict[str, Any], rows: list[dict[str, Any]], version: str) -> str:
    """Whether the version can read what is queued, as far as rules say."""
    queued = queue.get("queued")
    total = "its" if queued is None else "its %d" % queued
    parking = [row for row in rows if row["unreadable"] and (row["queue"], row["source"]) == (queue["name"], "queued")]
    if not parking:
        if queued == 0:
            return ""
        return "%s: no rule says that version %s cannot read some of %s queued tasks" % (
            queue["name"],
            version or "that is not known",
            total,
        )
    known = [row["tasks"] for row in parking if row["tasks"] is not None]
    many = str(sum(known)) if len(known) == len(parking) else "a number, which is not known,"
    by = " and ".join("rule %s" % row["rule"] for row in parking)
    return "%s: %s of %s queued tasks cannot be read by version %s: parked by %s" % (queue["name"], many, total, version, by)


def drain_estimate(looked: dict[str, Any], measured: float) -> str:
    """How long the drain is likely to take, and where that is from. An estimate: nobody knows how long a task takes.

    So many tasks are in hand at a time and so many end in a second: by Little's law, one takes the quotient.
    """
    queues = looked.get("queues") or []
    executing = [queue.get("executing") for queue in queues]
    if None in executing or not queues:
        why = (looked.get("unknown") or {}).get("queues.executing") or "the queue system does not tell what is executing"
        return "drain: how long it may take is not known: %s" % why
    in_hand = sum(executing)
    if not in_hand:
        return "drain: nothing is executing"
    rates = [queue.get("rate_per_s") for queue in queues if queue["executing"]]
    if None not in rates and sum(rates) > 0:
        seconds = in_hand / sum(rates)
        over = "over %g s" % measured if measured else "by the queue system"
        text = "drain: about %.1f s (an estimate: %d executing, %g a second finished, measured %s)"
        return text % (seconds, in_hand, sum(rates), over)
    since = [worker["task_since"] for worker in looked.get("workers") or [] if worker.get("task_since")]
    if since:
        oldest = max(0.0, float(looked["at"]) - min(since))
        return "drain: how long it may take is not known; of %d executing tasks the oldest has run for %.0f s" % (in_hand, oldest)
    return "drain: how long it may take is not known; %d tasks are executing, and since when is not told" % in_hand


class FilterModule:
    """The collection's filters for the plan."""

    def filters(self) -> dict[str, Any]:
        return {"foreseen_tasks": foreseen_tasks}
