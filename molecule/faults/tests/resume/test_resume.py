# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller is killed in a deploy with a rollback in it; a resume ends where the uninterrupted run does, with the same tasks done.

`tests/unit/playbooks/test_resume.py` does it at every event, over folders.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from lab import LIMIT, WORKERS, Lab, When, wait_until

BAD = "2.0.0"

#: When the controller dies: on which host what is seen, and whether the rollback was ordered by then.
DEATHS: dict[str, tuple[str, Callable[[Lab], str], bool]] = {
    "opened": ("home", lambda lab: lab.written("operation_opened"), False),
    "in_the_switch": ("worker1", lambda lab: lab.switching(), False),
    "in_the_gate": ("worker1", lambda lab: lab.active(), False),
    "ordered": ("home", lambda lab: lab.written("rollback_ordered"), True),
    "in_the_way_back": ("worker1", lambda lab: lab.going_back(), True),
}


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


@pytest.mark.parametrize("death", DEATHS)
def test_resume_ends_where_the_uninterrupted_run_does(mailer: Lab, death: str) -> None:
    host, condition, ordered = DEATHS[death]
    mailer.publish()
    # In front of the start, so that what is seen is of this run.
    seen = condition(mailer)
    process = mailer.start("deploy", version=BAD, min_tasks=12)
    happens = When(host, seen, lambda: os.killpg(process.pid, signal.SIGKILL))
    try:
        assert process.wait(timeout=LIMIT) == -signal.SIGKILL
    finally:
        happens.end()
    resumed = mailer.run("resume", takeover="true", min_tasks=12)
    # To finish a rollback that was ordered is a success, to be rolled back is none.
    assert (resumed.code == 0) is ordered
    assert mailer.is_one_release()
    assert end_of(mailer) == UNINTERRUPTED
    mailer.must("status")
