# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a drill: settle, measure, judge, write."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from .._errors import NotFound, Refused
from . import report
from .lab import read_state
from .measure import Measurement
from .moments import tell


@dataclass
class Order:
    """What is to be measured, and against what; the options of the module ``drill_report``."""

    drill_dir: str
    trial: str
    events: list[dict[str, Any]]
    releases: dict[str, Any]
    target_release: int
    target_version: str
    config: dict[str, dict[str, str]]
    template: str
    queue: str
    parked_queues: list[str]
    instances: int
    tasks: int
    problems: list[str]
    timeout: float
    made_at: str


def conclude(order: Order, look_only: bool = False) -> dict[str, Any]:
    """Measure the drill and write its report.

    :param look_only: measure things as they stand; neither end the producer nor write anything.
    :returns: ``summary``, ``lines`` and, when written, ``report``.
    :raises NotFound: there is no lab that is up, or no template.
    :raises OutOfTime: the producer did not finish.
    :raises Unavailable: the lab's Redis does not answer.
    """
    lab = read_state(order.drill_dir)
    if not lab or lab.get("state") != "up":
        raise NotFound("No laboratory is up in %s" % order.drill_dir, option="drill_dir", next_step="Bring it up with drill_lab first")
    if not os.path.isfile(order.template):
        raise NotFound("The report's template %s is not there" % order.template, option="template")
    for event in order.events:
        if not isinstance(event.get("kind"), str) or not isinstance(event.get("at"), str):
            raise Refused(
                "An event has no kind or no time: %r" % sorted(event), option="events", next_step="Give the events of fleet_journal_info"
            )
    measurement = Measurement(lab, order.queue, order.parked_queues)
    if not look_only:
        measurement.settle(order.timeout)
    rows = measurement.rows()
    found = report.Findings(
        trial=order.trial,
        tasks=order.tasks,
        target_release=order.target_release,
        target_version=order.target_version,
        releases={host: None if release is None else int(release) for host, release in order.releases.items()},
        running=measurement.running(),
        instances=order.instances,
        files=report.compare_hosts(order.config),
        conservation=measurement.conservation(),
        story=tell(order.events, rows, order.target_release),
        samples=measurement.samples(),
        rows=rows,
        problems=order.problems,
    )
    why = report.reasons(found)
    result: dict[str, Any] = {"lines": report.lines(found, why, report.start_of(found.samples))}
    if look_only:
        result["summary"] = report.summarise(found, why)
    else:
        result["summary"] = report.write(found, why, order.drill_dir, order.template, order.made_at)
        result["report"] = os.path.join(order.drill_dir, "report.html")
    return result
