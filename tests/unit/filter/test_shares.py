# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a route in a fleet specification means: which share after which wave, what is refused, and where tasks go that are put back."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.filter.in_flight import killed_places
from ansible_collections.queueops.fleet.plugins.filter.rules import redrive_places
from ansible_collections.queueops.fleet.plugins.filter.shares import (
    queues_left,
    share_given,
    share_of,
    share_weights,
    shares_now,
    shares_of_waves,
    shares_refusal,
    shares_told,
    stranded,
)

RQ = {"backend": "rq", "url": "redis://broker", "names": ["mail-{version}", "urgent"]}
ROUTE = {"name": "mail"}
WAVES = [["w1"], ["w2", "w3"], ["w4", "w5", "w6", "w7", "w8"]]
MOVED = {"name": "(no rule)", "match": {}, "action": "requeue", "destination": "mail-1"}


def versions(**weights: int) -> list[dict[str, Any]]:
    return [{"version": name[1:], "weight": weight} for name, weight in weights.items()]


def test_without_shares_a_version_gets_that_of_its_hosts_and_everything_before_the_last_wave() -> None:
    assert shares_of_waves(ROUTE, WAVES) == [12, 37, 100]
    assert shares_of_waves({**ROUTE, "shares": [5]}, WAVES) == [5, 5, 100]
    assert shares_of_waves({**ROUTE, "shares": [5, 50]}, WAVES) == [5, 50, 100]
    assert shares_of_waves(ROUTE, [["w1"], [f"w{number}" for number in range(2, 300)]]) == [1, 100]


@pytest.mark.parametrize(
    ("queue", "route", "waves", "words"),
    [
        ({**RQ, "names": ["mail-{version}"]}, {}, WAVES, "nothing divides the tasks among them"),
        ({**RQ, "names": ["mail"]}, ROUTE, WAVES, "no queue for each of them. Put {version} into the name of one queue"),
        ({**RQ, "names": ["a-{version}", "b-{version}"]}, ROUTE, WAVES, "the queues a-{version}, b-{version}"),
        (RQ, ROUTE, [["w1", "w2"]], "switches all 2 hosts at once"),
        (RQ, {**ROUTE, "shares": []}, WAVES, "percent from 1 to 99"),
        (RQ, {**ROUTE, "shares": [0]}, WAVES, "percent from 1 to 99"),
        (RQ, {**ROUTE, "shares": [100]}, WAVES, "percent from 1 to 99"),
        (RQ, {**ROUTE, "shares": [20, 10]}, WAVES, "do not become less"),
        (RQ, {**ROUTE, "shares": [1, 2, 3]}, WAVES, "3 shares for 3 waves; before the last wave the version gets everything. Leave 1 out"),
    ],
)
def test_what_cannot_be_divided_is_refused_by_name(
    queue: dict[str, Any], route: dict[str, Any], waves: list[list[str]], words: str
) -> None:
    assert words in shares_refusal(queue, route, waves)


def test_what_can_be_divided_is_not_refused() -> None:
    assert shares_refusal(RQ, {**ROUTE, "shares": [1, 99]}, WAVES) == ""
    assert shares_refusal({**RQ, "names": ["mail"]}, {}, [["w1"]]) == ""


def test_weights_take_everything_from_whoever_else_has_some() -> None:
    assert share_weights(versions(v1=100, v0=0), "2", 25, "1") == {"1": 75, "2": 25}
    assert share_weights(versions(v1=60, v2=40), "1", 100, "1") == {"1": 100, "2": 0}
    assert share_weights([], "1", 100, "1") == {"1": 100}
    assert (share_of(versions(v1=60, v2=40), "2"), share_of([], "2")) == (40, 0)


def test_the_plan_says_when_a_version_gets_what() -> None:
    assert shares_told([5, 25, 100], "1", 300).startswith(
        "share of the tasks: 5 % after wave 1, 25 % after wave 2; all before wave 3, which waits"
    )
    assert shares_told([5, 100], "", 300) == "the version gets all tasks after wave 1, for no other version has a queue in the route"


def test_the_plan_says_how_the_tasks_are_divided_now() -> None:
    assert shares_now(versions(v1=75, v2=25, v3=0), "mail") == ["tasks of route mail now: 1 75 %, 2 25 %"]
    assert shares_now(versions(v1=0), "mail") == shares_now([], "mail") == []


def test_what_a_rolled_back_version_has_goes_to_the_queue_of_the_other() -> None:
    places = redrive_places(RQ, [], ["abandoned", "queued", "failed"], "1", "2")
    assert [(place["queue"], place["source"]) for place in places] == [
        ("mail-1", "failed"),
        ("mail-2", "abandoned"),
        ("mail-2", "queued"),
        ("mail-2", "failed"),
        ("urgent", "failed"),
    ]
    assert places[1]["rules"] == places[2]["rules"] == [MOVED]
    assert places[3]["rules"] == [{**MOVED, "match": {"version": "2"}}]
    assert "destination" not in places[4]["rules"][0]


def test_rules_come_first_and_their_own_destination_counts() -> None:
    rules = [
        {"name": "odd", "match": {"task": "x"}, "unreadable_by": ["1"]},
        {"name": "other", "of": "queued", "match": {"task": "y"}, "action": "requeue", "destination": "aside"},
    ]
    place = next(place for place in redrive_places(RQ, rules, ["queued"], "1", "2") if place["queue"] == "mail-2")
    assert [(rule["name"], rule["action"], rule.get("destination")) for rule in place["rules"]] == [
        ("odd", "park", None),
        ("other", "requeue", "aside"),
        ("(no rule)", "requeue", "mail-1"),
    ]


def test_what_any_version_parked_is_released_to_the_one_that_can_read_it() -> None:
    rules = [{"name": "odd", "match": {"task": "x"}, "unreadable_by": ["1"]}]
    places = redrive_places(RQ, rules, ["parked"], "3", "", ["1", "2", "3"])
    assert [(place["queue"], place["rules"][0].get("destination")) for place in places] == [
        ("mail-3", None),
        ("mail-1", "mail-3"),
        ("mail-2", "mail-3"),
        ("urgent", None),
    ]


def test_a_deploy_and_a_return_to_what_was_found_move_nothing() -> None:
    assert redrive_places(RQ, [], ["queued", "failed"], "2") == []
    assert all("destination" not in place["rules"][0] for place in redrive_places(RQ, [], ["queued", "failed"], "", "2"))
    assert queues_left(RQ, "2", "2") == [] and queues_left(RQ, "2", "1") == [{"queue": "mail-1", "into": "mail-2"}]


def test_what_killed_workers_had_in_hand_goes_to_the_other_versions_queue() -> None:
    rules = [{"name": "all", "of": "in_flight", "action": "requeue"}]
    killed = {"w1": {"killed": [{"hostname": "w1", "pids": [7]}]}}
    drained = {"w1": {"in_hand": [{"hostname": "w1", "pids": [7]}]}}
    places = killed_places(RQ, rules, "1", drained, killed, "2")
    assert [(place["queue"], place["rules"][0].get("destination")) for place in places] == [
        ("mail-1", None),
        ("mail-2", "mail-1"),
        ("urgent", None),
    ]


def test_what_nobody_listens_to_any_more_is_named() -> None:
    looked = {"queues": [{"name": "mail-2", "queued": 0, "executing": None, "scheduled": 3}, {"name": "x", "queued": 0}]}
    assert stranded(looked, "2") == [
        "nobody listens to queue mail-2 of version 2 any more, which has 3 scheduled: move them (queue_redrive), or start a worker of "
        "that version"
    ]
    assert stranded({"skipped": True}, "2") == []


def test_a_division_that_failed_on_a_host_is_named() -> None:
    results = {
        "results": [
            {"changed": True, "weights": {"1": 75, "2": 25}, "moved": 25, "ended": 0.5, "shares_host": "p1"},
            {"unreachable": True, "shares_host": "p2"},
        ]
    }
    told = share_given(results, "version 2 should have got 25 % of the tasks")
    assert told["events"] == [
        {"kind": "tasks_divided", "at": "1970-01-01T00:00:00.500Z", "data": {"weights": {"1": 75, "2": 25}, "moved": 25}},
        {"kind": "divide_failed", "reason": "version 2 should have got 25 % of the tasks: p2 was not reached"},
    ]
    assert told["failures"] == ["version 2 should have got 25 % of the tasks: p2 was not reached"]
    assert share_given({"skipped": True}, "x") == {"events": [], "failures": []}
