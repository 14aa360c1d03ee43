# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What rules make of tasks in a deploy and a rollback. No worker takes a task here, so that each is where it was put."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import RedisServer
from tests.unit.playbooks.conftest import Fleet, must, new_fleet
from tests.unit.playbooks.test_faults import Network
from tests.unit.playbooks.test_plan import plan_id
from tests.unit.playbooks.test_playbooks import changed_tasks, sick_under_version_2
from tests.unit.queue.conftest import Broker

LETTERS = {"name": "letters", "match": {"task": "tasks.fail"}, "unreadable_by": ["1.*"]}
CHARGES = {"name": "charges", "match": {"task": "tasks.fail_otherwise"}, "action": "compensate", "destination": "refunds"}
NOTES = {"name": "notes", "match": {"task": "tasks.note", "error": "^ValueError"}, "action": "requeue"}
UNDER_2 = "mailer@2.0.0:worker1:1"
UNDER_1 = "mailer@1.0.0:worker1:1"


@pytest.fixture
def broker(redis_server: RedisServer, tmp_path: Path) -> Broker:
    return Broker(redis_server, tmp_path)


def members(broker: Broker, key: str) -> set[str]:
    found: list[Any] = list(broker.client.zrange(key, 0, -1))
    return {member.decode() for member in found}


def parked(broker: Broker) -> set[str]:
    return members(broker, "queueops:parked:rq:mail")


def failed(broker: Broker) -> set[str]:
    return members(broker, "rq:failed:mail")


def words(output: str) -> str:
    return " ".join(output.split())


def events(fleet: Fleet, kind: str, home: str = "worker1") -> list[dict[str, Any]]:
    journal = fleet.hosts[home].folder / "state" / "mailer" / "journal.jsonl"
    return [event["data"] for event in map(json.loads, journal.read_text().splitlines()) if event["kind"] == kind]


def test_each_task_is_treated_by_its_rule_and_the_plan_says_so_before(deployed: Fleet, broker: Broker) -> None:
    must(deployed.run("deploy", version="2.0.0"))
    deployed.specification["rules"] = [CHARGES, LETTERS, NOTES]
    failed_letters = set(broker.fail(2, "fail", worker=UNDER_2))
    unread = set(broker.fail(1, "fail", worker=UNDER_1))
    notes = set(broker.fail(4, "note", worker=UNDER_2))
    charges = set(broker.fail(2, "fail_otherwise", worker=UNDER_2))
    old = set(broker.fail(1, "fail_otherwise", worker="mailer@1.1.0:worker1:1"))
    other = set(broker.fail(1, "hold", worker=UNDER_2))
    letters = set(broker.publish(3, "fail"))
    before, live = broker.snapshot(), deployed.everything()

    nowhere = deployed.run("rollback")
    assert nowhere.returncode != 0 and "There is no queue refunds at the broker" in words(nowhere.stdout), nowhere.stdout
    assert (broker.snapshot(), deployed.everything()) == (before, live)

    broker.publish(1, "note", "refunds")
    before = broker.snapshot()
    plan = deployed.run("plan")
    assert plan.returncode == 2, plan.stdout
    told = words(plan.stdout)
    for row in (
        "letters mail queued park 3",
        "letters mail failed park 3",
        "charges mail failed compensate 2",
        "notes mail failed requeue 4",
        "mail: 3 of its 3 queued tasks cannot be read by version 1.0.0: parked by rule letters",
        "drain: nothing is executing",
    ):
        assert row in told, plan.stdout
    assert "letters mail queued park 3" in words(must(deployed.run("rollback", "--check")))
    assert (broker.snapshot(), deployed.everything()) == (before, live)

    # The plan's id is of the rules, not of how many tasks there are.
    more = set(broker.publish(1, "fail"))
    assert plan_id(deployed.run("plan")) == plan_id(plan)
    deployed.specification["rules"] = [CHARGES, LETTERS]
    assert plan_id(deployed.run("plan")) != plan_id(plan)
    deployed.specification["rules"] = [CHARGES, LETTERS, NOTES]

    must(deployed.run("rollback", plan=plan_id(plan)))
    assert deployed.releases() == [1, 1]
    assert parked(broker) == letters | more | failed_letters | unread
    assert set(broker.queue().job_ids) == notes
    assert charges < set(broker.queue("refunds").job_ids)
    assert failed(broker) == old | other
    assert events(deployed, "tasks_treated")[0]["rules"] == [{"name": "letters", "action": "park", "matched": 4, "moved": 4}]
    assert {rule["name"]: rule["moved"] for rule in events(deployed, "tasks_redriven")[0]["rules"]}.items() >= {
        "charges": 2,
        "notes": 4,
    }.items()

    forth = deployed.run("plan", version="2.0.0")
    assert "letters mail parked release 7" in words(forth.stdout), forth.stdout
    must(deployed.run("deploy", version="2.0.0"))
    assert parked(broker) == set()
    assert sorted(broker.queue().job_ids) == sorted(notes | letters | more | failed_letters | unread)
    assert [(event["source"], event["moved"]) for event in events(deployed, "tasks_released")] == [("parked", 7)]
    before = broker.snapshot()
    assert set(changed_tasks(must(deployed.run("deploy", version="2.0.0")))) == {0}
    assert broker.snapshot() == before


def test_what_a_deploy_parked_before_it_was_paused_is_in_the_journal_and_there_once(deployed: Fleet, broker: Broker) -> None:
    must(deployed.run("deploy", version="2.0.0"))
    deployed.specification["rules"] = [{**LETTERS, "unreadable_by": ["1.1.*"]}]
    deployed.specification["gate"] = {"min_tasks": 5, "bake": 0, "timeout": 2}
    broker.publish(3, "fail")
    assert deployed.run("deploy", version="1.1.0").returncode == 2
    assert events(deployed, "operation_paused"), "nothing completes a task, so that the gate cannot decide"
    assert [event["moved"] for event in events(deployed, "tasks_treated")] == [3]
    must(deployed.run("resume", do="undo"))
    assert deployed.versions() == {"2.0.0"}
    assert [event["moved"] for event in events(deployed, "tasks_treated")] == [3]
    assert [event["moved"] for event in events(deployed, "tasks_released")] == [3]


def test_a_deploy_that_parked_and_goes_back_releases_what_it_parked(deployed: Fleet, broker: Broker) -> None:
    must(deployed.run("deploy", version="2.0.0"))
    deployed.specification["rules"] = [{**LETTERS, "unreadable_by": ["1.1.*"]}]
    letters = broker.publish(3, "fail")
    # A host that is not healthy under 1.1.0: the canary has it already.
    sick = sick_under_version_2(deployed, "worker2")
    command = deployed.specification["worker"]["health"]["command"]
    command[2] = command[2].replace("2.0.0", "1.1.0")
    done = deployed.run("deploy", version="1.1.0")
    assert done.returncode != 0, done.stdout
    assert (deployed.releases(), deployed.versions()) == ([2, 2], {"2.0.0"}), done.stdout
    assert [event["moved"] for event in events(deployed, "tasks_treated")] == [3]
    assert [event["moved"] for event in events(deployed, "tasks_released")] == [3]
    assert (parked(broker), sorted(broker.queue().job_ids)) == (set(), sorted(letters))

    sick.unlink()
    must(deployed.run("deploy", version="1.1.0"))
    assert (parked(broker), broker.queue().job_ids) == (set(letters), [])


@pytest.fixture
def apart(redis_server: RedisServer) -> Iterator[Fleet]:
    """A fleet on release 2, whose broker is asked from a host of its own."""
    with new_fleet(redis_server) as made:
        made.specification["queue"]["via"] = "broker1"
        made.others = {"broker1": {}}
        must(made.run("deploy", version="1.0.0"))
        must(made.run("deploy", version="2.0.0"))
        yield made


def test_a_rollback_whose_tasks_cannot_be_treated_takes_the_bad_version_off_and_is_not_green(apart: Fleet, broker: Broker) -> None:
    apart.specification["rules"] = [LETTERS]
    broker.publish(3, "fail")
    network = Network(apart)
    network.cut_at("broker1", "before", "source", "queued")
    done = apart.run("rollback")
    assert done.returncode != 0
    assert (apart.releases(), apart.versions()) == ([1, 1], {"1.0.0"})
    told = words(done.stdout)
    left = "queued tasks of mail should have been taken out of the queues before the hosts go back: "
    assert "All 2 hosts of fleet mailer are on release 1. Not all was done: " + left in told, done.stdout
    assert "failed tasks of mail should have been treated" in told and "NOT DONE: " + left in told
    assert "queueops.fleet.redrive" in told
    assert {event["source"] for event in events(apart, "redrive_failed")} == {"queued", "abandoned", "failed"}
    network.mend()
    must(apart.run("status"))


def test_without_rules_nothing_is_asked_of_them_and_each_operation_of_a_run_tells_of_its_own_tasks(deployed: Fleet, broker: Broker) -> None:
    must(deployed.run("deploy", version="2.0.0"))
    broker.fail(2, "fail", worker=UNDER_2)
    there_and_back = [{"import_playbook": "queueops.fleet.rollback", "vars": {"release": release}} for release in (1, 2)]
    (deployed.project / "twice.yml").write_text(json.dumps(there_and_back))
    command = [*deployed.command("rollback")[:-1], str(deployed.project / "twice.yml")]
    done = subprocess.run(command, env=deployed.environment(), cwd=deployed.project, capture_output=True, text=True, check=False)
    assert "queueops.fleet.rules : Validating" not in must(done)
    assert deployed.releases() == [2, 2]
    # What the first one put back is not told of by the second one again.
    assert [event["moved"] for event in events(deployed, "tasks_redriven")] == [2, 0]


def test_a_rule_that_the_queue_system_cannot_do_is_refused_with_nothing_changed(deployed: Fleet) -> None:
    before = deployed.everything()
    deployed.specification["rules"] = [LETTERS, {"name": "wrong", "match": {"field": {"a": "1"}}, "action": "requeue"}]
    done = deployed.run("deploy", version="2.0.0")
    assert done.returncode != 0
    assert "Rule wrong: The queue system rq cannot select tasks by match.field" in words(done.stdout), done.stdout
    deployed.specification["rules"] = [{"name": "odd", "action": "finish_it"}]
    odd = deployed.run("deploy", version="2.0.0")
    assert odd.returncode != 0 and re.search("value of action must be one of", odd.stdout), odd.stdout
    assert deployed.everything() == before
