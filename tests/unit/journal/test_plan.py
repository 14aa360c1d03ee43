# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan is told by its id: the same for the same plan, another one when anything about it has changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict
from ansible_collections.queueops.fleet.plugins.module_utils._journal.plan import Plan, hold, plan

HOSTS = ["worker1", "worker2"]
DIFF = [
    {"before_header": "version", "after_header": "version", "before": "1.0.0\n", "after": "2.0.0\n"},
    {"before_header": "/etc/a", "after_header": "/etc/a", "before": "x\n", "after": "y\n"},
    {"before_header": "/etc/b (absent)", "after_header": "/etc/b", "before": "", "after": "z\n"},
]
WORKER = {"name": "mailer@1", "pid": 7, "state": "running", "version": "1.0.0"}
RESULT: dict[str, Any] = {
    "pending": True,
    "diff": DIFF,
    "live": {"release": 1, "version": "1.0.0", "phase": "confirmed", "workers": [WORKER]},
}


def made(results: dict[str, Any], head: str = "h1", target: int = 2, version: str = "2.0.0") -> Plan:
    return plan("deploy", head, target, version, 1, HOSTS, results)


def both() -> dict[str, Any]:
    return {host: copy.deepcopy(RESULT) for host in HOSTS}


def test_the_table_says_what_changes_on_each_host() -> None:
    settled = {"pending": False, "diff": [], "live": {"release": 2, "version": "2.0.0", "phase": "confirmed"}}
    found = made({"worker1": RESULT, "worker2": settled})
    assert found.text().splitlines() == [
        "host     is on              goes to            what changes",
        "worker1  release 1 (1.0.0)  release 2 (2.0.0)  version 1.0.0 to 2.0.0; 2 files: /etc/a, /etc/b",
        "worker2  release 2 (2.0.0)  release 2 (2.0.0)  nothing",
    ]
    assert (found.changes, found.pending, found.cannot) == (True, ["worker1"], [])
    assert found.sentence("mailer") == "Plan %s: deploy of fleet mailer to release 2 (2.0.0), which changes 1 of 2 hosts." % found.id


def test_nothing_to_do_is_told_as_such() -> None:
    settled = {"pending": False, "diff": [], "live": {"release": 2, "version": "2.0.0", "phase": "confirmed"}}
    tasks = {"notes": ["drain: nothing is executing"]}
    found = plan("rollback", "h1", 2, "2.0.0", 2, HOSTS, dict.fromkeys(HOSTS, settled), tasks=tasks)
    assert "drain" not in found.text()
    assert not found.changes and found.sentence("mailer") == "Nothing to do: fleet mailer is on release 2 (2.0.0)."


def test_what_changes_elsewhere_than_on_the_hosts_is_a_change_too() -> None:
    settled = {"pending": False, "diff": [], "live": {"release": 2, "version": "2.0.0", "phase": "confirmed"}}
    results = dict.fromkeys(HOSTS, settled)
    found = plan("deploy", "h1", 2, "2.0.0", 2, HOSTS, results, besides=["a key in Redis", "another one"])
    assert found.changes and found.pending == []
    told = "deploy of fleet mailer to release 2 (2.0.0), which changes 0 of 2 hosts. Besides: a key in Redis; another one."
    assert found.sentence("mailer") == f"Plan {found.id}: {told}"
    assert found.text().splitlines()[-2:] == ["a key in Redis", "another one"]
    assert found.id != plan("deploy", "h1", 2, "2.0.0", 2, HOSTS, results, besides=["a key in Redis"]).id


def test_a_rollback_goes_on_without_a_host_that_cannot_be_reached_and_a_deploy_does_not() -> None:
    down = {"worker1": RESULT, "worker2": {"unreachable": True, "msg": "No route to host"}}
    deploy, rollback = made(down), plan("rollback", "h1", 2, "2.0.0", 1, HOSTS, down)
    assert deploy.sentence("mailer") == "Fleet mailer cannot go to release 2 (2.0.0): see worker2. Nothing was changed."
    told = "rollback of fleet mailer to release 2 (2.0.0), which changes 1 of 2 hosts. worker2 cannot be reached: the others go back"
    assert told in rollback.sentence("mailer")
    unfit = plan("rollback", "h1", 2, "2.0.0", 1, HOSTS, {**down, "worker1": {"failed": True, "msg": "no snapshot"}})
    assert "cannot go" in unfit.sentence("mailer")


def test_a_host_that_did_not_answer_is_not_left_out() -> None:
    found = made({"worker1": RESULT, "worker2": {"unreachable": True, "msg": "No route to host"}})
    assert found.cannot == ["worker2"] and "CANNOT: unreachable: No route to host" in found.text()
    assert made({"worker1": RESULT}).cannot == ["worker2"]
    assert "see worker2" in found.sentence("mailer")


def test_the_same_plan_has_the_same_id_whatever_its_processes_do() -> None:
    later = both()
    later["worker1"]["live"]["workers"] = [dict(WORKER, pid=8)]
    later["worker1"].update(began=5.0, ended=6.0, changed=True)
    assert made(both()).id == made(later).id
    hold(made(later), made(both()).id)


def _other_file(results: dict[str, Any]) -> None:
    results["worker2"]["diff"][1]["after"] = "w\n"


def _other_release(results: dict[str, Any]) -> None:
    results["worker2"]["live"]["release"] = 0


def _settled(results: dict[str, Any]) -> None:
    results["worker1"].update(pending=False, diff=[])


def _gone(results: dict[str, Any]) -> None:
    del results["worker1"]


@pytest.mark.parametrize("change", [_other_file, _other_release, _settled, _gone])
def test_another_host_is_another_plan(change: Callable[[dict[str, Any]], None]) -> None:
    later = both()
    change(later)
    with pytest.raises(Conflict, match="no longer"):
        hold(made(later), made(both()).id)


def test_another_head_or_release_is_another_plan() -> None:
    ids = {made(both()).id, made(both(), head="h2").id, made(both(), target=3).id, made(both(), version="2.0.1").id}
    assert len(ids) == 4


def test_the_rules_are_part_of_the_plan_and_what_they_would_take_now_is_only_shown() -> None:
    rules = [{"name": "letters", "action": "park"}]
    row = {"rule": "letters", "queue": "mail", "source": "queued", "action": "park", "tasks": 500}
    tasks = {"rows": [row, dict(row, source="failed", tasks=None)], "notes": ["drain: nothing is executing"]}
    found = plan("deploy", "h1", 2, "2.0.0", 1, HOSTS, both(), rules, tasks)
    assert found.text().splitlines()[3:] == [
        "rule     queue  takes of  and does  tasks",
        "letters  mail   queued    park      500",
        "letters  mail   failed    park      not known",
        "drain: nothing is executing",
    ]
    assert found.id == plan("deploy", "h1", 2, "2.0.0", 1, HOSTS, both(), rules).id != made(both()).id
