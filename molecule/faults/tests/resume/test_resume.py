# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller is killed in a deploy with a rollback in it, right after each event and between them; a resume ends where the
uninterrupted run does, with the same tasks done.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from conftest import standing
from lab import LIMIT, WORKERS, Lab, When, wait_until

BAD = "2.0.0"

#: Between events: on worker1, what is seen there when the controller dies.
BETWEEN: dict[str, Callable[[Lab], str]] = {"in_the_switch": Lab.switching, "in_the_gate": Lab.active, "in_the_way_back": Lab.going_back}


def end_of(lab: Lab) -> dict[str, Any]:
    """Where the fleet stands, and what became of the tasks."""
    closed = [event for event in lab.events() if event["kind"] == "operation_closed"][-1]
    lab.stop_publishing()
    wait_until(lambda: not any(lab.waiting()[state] for state in ("queued", "taken", "executing")), "the end of all tasks")
    counts = lab.check_tasks()
    return {
        "versions": {(lab.truth(host) or {}).get("version") for host in WORKERS},
        "outcome": closed["data"]["outcome"],
        "not completed": counts["published"] - counts["completed"],
        "twice": counts["twice"],
        "failed": counts["failed"],
    }


UNINTERRUPTED = {"versions": {"1.0.0"}, "outcome": "rolled_back", "not completed": 0, "twice": 0, "failed": 0}


def test_the_uninterrupted_run(mailer: Lab) -> None:
    mailer.publish()
    done = mailer.run("deploy", version=BAD, min_tasks=12)
    assert done.code != 0
    assert mailer.is_one_release()
    assert end_of(mailer) == UNINTERRUPTED


def dies(lab: Lab, host: str, seen: str) -> None:
    """Start the deploy, and kill its controller as soon as that is seen on the host; or let it end, where that never is."""
    process = lab.start("deploy", version=BAD, min_tasks=12)
    happens = When(host, seen, lambda: os.killpg(process.pid, signal.SIGKILL))
    try:
        process.wait(timeout=LIMIT)
    finally:
        happens.end()


def resumed(lab: Lab) -> None:
    """Resume what the dead controller left; it has to end as the uninterrupted run does."""
    ordered = any(event["kind"] == "rollback_ordered" for event in lab.events())
    done = lab.run("resume", takeover="true", min_tasks=12)
    # To finish a rollback that was ordered is a success, to be rolled back is none.
    assert (done.code == 0) is ordered
    assert lab.is_one_release()
    assert end_of(lab) == UNINTERRUPTED
    lab.must("status")


def test_resume_after_every_event_ends_where_the_uninterrupted_run_does() -> None:
    # What is written at once is on the disk as a whole or not at all, so that nobody dies in the middle of it.
    deaths: list[list[str]] = []
    while True:
        lab = standing("mailer")
        lab.publish()
        before = sum(len(written) for written in deaths)
        # In front of the start, so that what is counted is of this run.
        dies(lab, "home", lab.written("[a-z_]+", before + 1))
        kinds = [event["kind"] for event in lab.events()]
        if kinds[-1:] == ["operation_closed"]:
            break
        deaths.append(kinds[before:])
        resumed(lab)
    print("=== died right after: " + "; ".join(", ".join(written) for written in deaths))
    seen = {kind for written in deaths for kind in written}
    assert {"operation_opened", "wave_started", "host_switched", "gate_verdict", "rollback_ordered", "host_reverted"} <= seen


@pytest.mark.parametrize("between", BETWEEN)
def test_resume_between_events_ends_where_the_uninterrupted_run_does(mailer: Lab, between: str) -> None:
    mailer.publish()
    dies(mailer, "worker1", BETWEEN[between](mailer))
    assert mailer.is_held(), "the run ended before it could be killed"
    resumed(mailer)
