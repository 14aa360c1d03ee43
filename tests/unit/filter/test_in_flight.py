# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of workers that are not done in time, which hosts are spared, and what becomes of what the killed ones had in hand."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.filter.foreseen import foreseen_tasks
from ansible_collections.queueops.fleet.plugins.filter.in_flight import (
    gives_up,
    in_flight_left,
    in_flight_places,
    in_flight_spared,
    killed_places,
)
from ansible_collections.queueops.fleet.plugins.filter.rules import redrive_places

QUEUE = {"backend": "rq", "url": "redis://broker", "names": ["mail", "bulk"]}
CHARGES = {"name": "charges", "of": "in_flight", "match": {"task": "mailer.charge"}, "action": "finish"}
MAILS = {"name": "mails", "of": "in_flight", "match": {"task": "mailer.send"}, "action": "requeue"}
LETTERS = {"name": "letters", "match": {"task": "mailer.letter"}, "unreadable_by": ["1.*"]}
TYPES = {"name": "types", "match": {"error": "^TypeError"}, "action": "discard"}
RULES = [TYPES, CHARGES, LETTERS, MAILS]
REST = {"name": "(no rule)", "match": {}, "action": "finish"}
WORKER = {"name": "mailer@1.service", "hostname": "host1", "pids": [7, 8], "state": "stopping"}
HOLDER = {"hostname": "host1", "pids": [7, 8]}
DRAINED: dict[str, dict[str, Any]] = {
    "worker1": {"in_hand": [WORKER], "killed": []},
    "worker2": {"in_hand": [], "killed": [dict(WORKER, pids=[9])]},
    "worker3": {"failed": True},
    "worker4": {},
}


def test_only_rules_for_tasks_in_flight_with_another_action_than_finish_give_them_up() -> None:
    assert gives_up(RULES)
    assert not gives_up([TYPES, CHARGES, LETTERS]) and not gives_up([])
    places = in_flight_places(QUEUE, RULES, DRAINED)
    assert [(place["host"], place["queue"], place["source"], place["held_by"]) for place in places] == [
        ("worker1", "mail", "executing", [HOLDER]),
        ("worker1", "bulk", "executing", [HOLDER]),
    ]
    assert [(rule["name"], rule["action"]) for rule in places[0]["rules"]] == [
        ("charges", "finish"),
        ("mails", "requeue"),
        ("(no rule)", "finish"),
    ]
    assert places[0]["rules"][-1] == REST


CELERY = {"backend": "celery", "url": "redis://broker", "names": ["mail"]}


def looked(*answers: dict[str, Any]) -> dict[str, Any]:
    """As a loop over the queues of worker1 is registered."""
    places = in_flight_places(QUEUE, RULES, DRAINED)
    return {"results": [{"ansible_loop_var": "place", "place": place, **answer} for place, answer in zip(places, answers, strict=False)]}


def took(moved: int = 0, held: int | None = 1, **kept: list[str]) -> dict[str, Any]:
    rules = [
        {
            "name": name.replace("no_rule", "(no rule)"),
            "action": "finish",
            "matched": len(ids),
            "sample": [{"id": one, "task": "m"} for one in ids[:5]],
        }
        for name, ids in kept.items()
    ]
    rules.append({"name": "mails", "action": "requeue", "matched": moved, "sample": []})
    return {"moved": moved, "held": held, "rules": rules}


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ((took(1), took(0)), ""),
        ((took(1, 2), took(1, 2)), ""),
        ((took(0, 0), took(0, 0)), ""),
        ((took(1, 2), took(0, 2, charges=["t1"])), "its workers have to finish task t1 (m), by rule charges"),
        ((took(0, 1, no_rule=["t1"]), took()), "its workers have to finish task t1 (m), for no rule takes it"),
        (
            (took(0, 7, charges=["a", "b", "c", "d", "e", "f", "g"]), took()),
            "its workers have to finish " + ", ".join("task %s (m), by rule charges" % name for name in "abcde") + " and 2 more",
        ),
        ((took(1, 2), took(0, 2)), "its workers have 2 tasks in hand, and only of 1 of them the rules say what is to become of them"),
        ((took(1, None), took(0, None)), "its workers have a number, which is not known, of tasks in hand"),
        ((took(1), {"failed": True, "msg": "no route."}), "what its workers have in hand cannot be told: no route"),
        ((took(1), {"unreachable": True, "msg": "gone"}), "what its workers have in hand cannot be told: gone"),
        ((), "what its workers have in hand cannot be told: the broker was not asked"),
    ],
)
def test_a_host_is_spared_unless_all_that_it_has_in_hand_is_given_up(answers: tuple[dict[str, Any], ...], why: str) -> None:
    spared = in_flight_spared(looked(*answers), QUEUE, DRAINED, {"lost": ""})
    assert set(spared) == ({"worker1"} if why else set())
    assert spared.get("worker1", "").startswith(why)


def test_a_broker_that_is_out_of_reach_spares_all() -> None:
    assert in_flight_spared({"unreachable": True, "msg": "no route"}, QUEUE, DRAINED, {"lost": ""})["worker1"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"lost": "it acknowledges early"}, "it acknowledges early"),
        ({"failed": True, "msg": "no broker."}, "whether what its workers have in hand is kept without them is not known: no broker"),
        ({}, "whether what its workers have in hand is kept without them is not known: no reason was given"),
    ],
)
def test_a_host_is_spared_if_its_tasks_would_be_lost_or_that_is_not_known(asked: dict[str, Any], why: str) -> None:
    assert in_flight_spared(looked(took(1), took()), QUEUE, DRAINED, asked) == {"worker1": why}


def test_where_living_workers_cannot_be_told_from_killed_ones_all_are_dead_or_nothing_is_treated() -> None:
    drained: dict[str, dict[str, Any]] = {name: {"in_hand": [WORKER], "killed": []} for name in ("worker1", "worker2")}
    killed: dict[str, dict[str, Any]] = {"worker1": {"killed": [WORKER]}, "worker2": {"failed": True, "msg": "no route"}}
    assert killed_places(CELERY, RULES, "1.0.0", drained, killed) == []
    (left,) = in_flight_left(CELERY, drained, killed)
    assert "(on worker1)" in left and "from those of worker2, whose workers may still execute" in left
    assert in_flight_left(QUEUE, drained, killed) == [] and len(killed_places(QUEUE, RULES, "1.0.0", drained, killed)) == 2
    killed["worker2"] = {"killed": [WORKER]}
    assert in_flight_left(CELERY, drained, killed) == [] and len(killed_places(CELERY, RULES, "1.0.0", drained, killed)) == 1
    # Nobody was killed: then there is nothing that was left.
    assert in_flight_left(CELERY, drained, {}) == []
    assert in_flight_left(CELERY, {**drained, "worker3": {"in_hand": [], "killed": [WORKER]}}, {}) != []


def test_what_killed_workers_had_in_hand_is_treated_and_what_cannot_be_read_is_parked_first() -> None:
    killed: dict[str, dict[str, Any]] = {"worker1": {"killed": [WORKER]}, "worker2": {}, "worker3": {}}
    places = killed_places(QUEUE, RULES, "1.0.0", DRAINED, killed)
    assert [place["queue"] for place in places] == ["mail", "bulk"]
    # Those that an earlier run of the operation killed, too.
    assert places[0]["held_by"] == [{"hostname": "host1", "pids": [9]}, HOLDER]
    assert [(rule["name"], rule["action"]) for rule in places[0]["rules"]] == [("letters", "park"), ("mails", "requeue")]
    assert places[0]["unreadable"] == ["letters"]
    assert killed_places(QUEUE, RULES, "1.0.0", {"worker1": {"in_hand": [WORKER], "killed": []}}, {"worker1": {"failed": True}}) == []


def test_the_plan_counts_what_is_in_flight_in_a_rollback() -> None:
    (place, _bulk) = redrive_places(QUEUE, RULES, ["executing"], "1.0.0", "2.0.0")
    assert [rule["name"] for rule in place["rules"]] == ["charges", "mails", "(no rule)"]
    assert redrive_places(QUEUE, RULES, ["executing"], "2.0.0") == []
    assert redrive_places(QUEUE, [TYPES, CHARGES], ["executing"], "1.0.0", "2.0.0") == []
    rules = [dict(rule, matched=3, moved=0 if rule["action"] == "finish" else 3) for rule in place["rules"]]
    counted = {"results": [{"ansible_loop_var": "place", "place": place, "rules": rules}]}
    found = foreseen_tasks({"queues": []}, counted, "1.0.0", 2)
    assert [(row["rule"], row["source"], row["action"], row["tasks"]) for row in found["rows"]] == [
        ("charges", "executing", "finish", 3),
        ("mails", "executing", "requeue", 3),
        ("(no rule)", "executing", "finish", 3),
    ]


def test_where_they_cannot_be_told_apart_all_hosts_are_spared_or_none() -> None:
    drained: dict[str, dict[str, Any]] = {name: {"in_hand": [WORKER], "killed": []} for name in ("worker1", "worker2")}
    places = in_flight_places(CELERY, RULES, drained)
    answers = [{"ansible_loop_var": "place", "place": place, **took(1)} for place in places]
    assert in_flight_spared({"results": answers}, CELERY, drained, {"lost": ""}) == {}
    # Of one that could not be drained nobody knows whether its workers stop.
    troubled = in_flight_spared({"results": answers}, CELERY, {**drained, "worker3": {"unreachable": True}}, {"lost": ""})
    assert set(troubled) == {"worker1", "worker2"} and troubled["worker1"].endswith("cannot be told from what those of worker3 may have")
    assert in_flight_spared({"results": answers}, QUEUE, {**drained, "worker3": {"unreachable": True}}, {"lost": ""}) == {}
    answers[1].update(took(0, 1, charges=["t1"]))
    spared = in_flight_spared({"results": answers}, CELERY, drained, {"lost": ""})
    assert spared == dict.fromkeys(("worker1", "worker2"), "its workers have to finish task t1 (m), by rule charges")
