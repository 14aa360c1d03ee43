# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the rules of a fleet specification refuse, which redrives they become, and what the plan says of them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.filter.foreseen import drain_estimate, foreseen_tasks
from ansible_collections.queueops.fleet.plugins.filter.operation import redrive_events
from ansible_collections.queueops.fleet.plugins.filter.rules import redrive_failures, redrive_places, rules_refusal

RQ = {"backend": "rq", "url": "redis://broker", "names": ["mail"]}
LETTERS = {"name": "letters", "match": {"task": "mailer.letter"}, "unreadable_by": ["1.*"]}
TYPES = {"name": "types", "match": {"error": "^TypeError", "task": None}, "action": "discard"}
CHARGES = {"name": "charges", "match": {"task": "mailer.charge", "version": "*"}, "action": "compensate", "destination": "refunds"}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"match": {"task": "x"}}, "it has no action"),
        ({"action": "compensate"}, "does not say which queue undoes"),
        ({"action": "park", "destination": "other"}, "does not use a destination"),
        ({"action": "requeue", "of": "queued"}, "requeues queued tasks to where they are"),
        ({"action": "discard", "of": "queued", "match": {"error": "x", "older_than": 3}}, "records no match.error, no match.older_than"),
        ({"action": "requeue", "match": {"error": "("}}, "match.error is not a valid regular expression"),
        ({"unreadable_by": ["1.*"]}, "would park every task"),
        ({"unreadable_by": ["1.*"], "match": {"task": "x"}, "of": "queued"}, "Leave action and of out"),
        ({"unreadable_by": ["1.*"], "match": {"task": "x"}, "action": "discard"}, "Leave action and of out"),
        ({"unreadable_by": ["1.*"], "match": {"version": "1.0.0"}}, "records no match.version"),
        ({"action": "finish"}, "it has action finish, which is for tasks in flight. Say of: in_flight"),
        (
            {"action": "fail", "of": "in_flight", "match": {"version": "2", "older_than": 3}},
            "records no match.version, no match.older_than",
        ),
        ({"action": "dead_letter", "of": "in_flight"}, "The queue system rq is not able to dead-letter a task"),
        ({"action": "finish", "of": "in_flight", "unreadable_by": ["1.*"], "match": {"task": "x"}}, "Leave action and of out"),
        ({"action": "dead_letter"}, "The queue system rq is not able to dead-letter a task. Use action=fail or park"),
        ({"action": "requeue", "match": {"field": {"a": "1"}}}, "cannot select tasks by match.field"),
    ],
)
def test_a_rule_that_cannot_be_what_it_says_is_refused_by_name(rule: dict[str, Any], words: str) -> None:
    refusal = rules_refusal([TYPES, {"name": "wrong", **rule}], RQ)
    assert refusal.startswith("Rule wrong: ") and words in refusal


def test_rules_that_say_what_can_be_done_are_not_refused() -> None:
    assert rules_refusal([LETTERS, TYPES, CHARGES, {"name": "old", "of": "queued", "action": "fail", "match": {"task": "a*"}}], RQ) == ""
    assert rules_refusal([], RQ) == ""
    assert "Two rules have the name types" in rules_refusal([TYPES, TYPES], RQ)


def test_what_a_queue_system_cannot_tell_is_refused_by_name() -> None:
    sidekiq = {"backend": "sidekiq", "url": "redis://broker", "names": ["mail"]}
    refusal = rules_refusal([{"name": "all", "action": "requeue"}], sidekiq)
    assert "a sidekiq queue does not record which version that was" in refusal
    assert rules_refusal([{"name": "all", "action": "requeue", "match": {"version": "*"}}], sidekiq) == ""
    queued = rules_refusal([LETTERS], {"backend": "rabbitmq", "url": "amqp://broker", "names": ["mail"]})
    assert queued.startswith("Rule letters: The queue system rabbitmq has no source queued")


def test_a_system_that_cannot_tell_what_a_killed_worker_had_in_hand_lets_it_finish() -> None:
    rabbit = {"backend": "rabbitmq", "url": "amqp://broker", "names": ["mail"]}
    refusal = rules_refusal([{"name": "all", "of": "in_flight", "action": "requeue"}], rabbit)
    assert refusal.startswith("Rule all: The queue system rabbitmq is not able to tell which tasks a worker that is killed has in hand. ")
    assert "RabbitMQ puts back what a worker had in hand" in refusal
    assert rules_refusal([{"name": "all", "of": "in_flight", "action": "finish"}], rabbit) == ""


def rules_of(source: str, to: str, away: str = "", *rules: dict[str, Any], backend: str = "rq") -> list[dict[str, Any]]:
    places = redrive_places(dict(RQ, backend=backend), list(rules), [source], to, away)
    return [rule for place in places for rule in place["rules"]]


def test_without_a_rule_a_rollback_puts_back_what_the_bad_version_failed() -> None:
    asked = [{"name": "(no rule)", "match": {"version": "2.0.0"}, "action": "requeue"}]
    assert rules_of("failed", "1.0.0", "2.0.0") == asked
    # Rules for what else there is do not change that.
    assert rules_of("failed", "2.0.1", "2.0.0", LETTERS) == asked
    # Where the system does not record the version, and where the bad one is not known, there is nothing to choose by.
    assert rules_of("failed", "1.0.0", "2.0.0", backend="sidekiq") == []
    assert rules_of("failed", "1.0.0") == rules_of("queued", "1.0.0", "2.0.0") == []


def test_a_rule_means_what_the_bad_version_failed_unless_it_says_otherwise() -> None:
    assert rules_of("failed", "1.0.0", "2.0.0", TYPES, CHARGES) == [
        {"name": "types", "match": {"error": "^TypeError", "version": "2.0.0"}, "action": "discard"},
        {"name": "charges", "match": {"task": "mailer.charge"}, "action": "compensate", "destination": "refunds"},
    ]
    # A deploy takes no version away.
    assert rules_of("failed", "3.0.0", "", TYPES, CHARGES) == []


def test_what_a_version_cannot_read_is_parked_wherever_it_is_before_anything_else() -> None:
    parked = {"name": "letters", "match": {"task": "mailer.letter"}, "action": "park"}
    old = {"name": "old", "of": "queued", "match": {"task": "a"}, "action": "discard"}
    assert [rule["name"] for rule in rules_of("queued", "1.0.0", "2.0.0", old, LETTERS)] == ["letters", "old"]
    assert rules_of("queued", "1.0.0", "", old, LETTERS) == rules_of("abandoned", "1.0.0", "2.0.0", old, LETTERS) == [parked]
    # Of the failed tasks, those that failed in this operation's versions; others failed for another reason.
    versions = [rule["match"].get("version") for rule in rules_of("failed", "1.0.0", "2.0.0", TYPES, LETTERS)]
    assert versions == ["1.0.0", "2.0.0", "2.0.0"]
    assert rules_of("failed", "1.0.1", "", TYPES, LETTERS)[0]["match"] == {"task": "mailer.letter", "version": "1.0.1"}
    assert rules_of("queued", "2.0.1", "2.0.0", LETTERS) == []


def test_what_can_be_read_again_is_released() -> None:
    assert rules_of("parked", "2.0.0", "", TYPES, LETTERS) == [{"name": "letters", "match": {"task": "mailer.letter"}, "action": "requeue"}]
    assert rules_of("parked", "1.0.1", "", TYPES, LETTERS) == []


def test_every_queue_is_treated_in_the_order_of_the_sources() -> None:
    places = redrive_places(dict(RQ, names=["mail", "bulk"]), [LETTERS], ["abandoned", "queued", "dead_lettered"], "1.0.0", "2.0.0")
    found = [("mail", "abandoned"), ("mail", "queued"), ("bulk", "abandoned"), ("bulk", "queued")]
    assert [(place["queue"], place["source"]) for place in places] == found
    assert places[0]["unreadable"] == ["letters"]


PLACE = {"queue": "mail", "source": "queued", "unreadable": ["letters"], "rules": rules_of("queued", "1.0.0", "2.0.0", LETTERS)}
TOOK = {"name": "letters", "action": "park", "destination": None, "matched": 500, "moved": 500}
LOOKED: dict[str, Any] = {"at": 100.0, "queues": [{"name": "mail", "queued": 5000, "executing": 8, "rate_per_s": 2.0}], "workers": []}


def looped(**result: Any) -> dict[str, Any]:
    place = result.pop("place", PLACE)
    return {"results": [{"ansible_loop_var": "one", "one": place, **result}]}


def test_the_plan_says_how_many_tasks_cannot_be_read() -> None:
    found = foreseen_tasks(LOOKED, looped(matched=500, rules=[TOOK]), "1.0.0", 2)
    row = {"rule": "letters", "queue": "mail", "source": "queued", "action": "park", "unreadable": True, "tasks": 500, "reason": ""}
    assert found["rows"] == [row]
    assert found["notes"] == [
        "mail: 500 of its 5000 queued tasks cannot be read by version 1.0.0: parked by rule letters",
        "drain: about 4.0 s (an estimate: 8 executing, 2 a second finished, measured over 2 s)",
    ]


def test_the_plan_says_where_no_rule_tells_and_what_cannot_be_counted() -> None:
    assert foreseen_tasks(LOOKED, {}, "1.0.0", 2)["notes"][0] == (
        "mail: no rule says that version 1.0.0 cannot read some of its 5000 queued tasks"
    )
    found = foreseen_tasks(LOOKED, looped(failed=True, msg="nats cannot tell without taking."), "1.0.0", 2)
    assert found["rows"][0]["tasks"] is None
    assert found["notes"][:2] == [
        "mail: a number, which is not known, of its 5000 queued tasks cannot be read by version 1.0.0: parked by rule letters",
        "mail: the queued tasks cannot be counted beforehand: nats cannot tell without taking.",
    ]
    unclear = foreseen_tasks(LOOKED, looped(matched=500, undetermined=3, rules=[TOOK]), "1.0.0", 2)
    assert "mail: 3 queued tasks do not record what the rules ask for" in unclear["notes"][1]


def test_the_plan_counts_the_two_versions_of_one_rule_together_and_names_a_release() -> None:
    rules = rules_of("failed", "1.0.0", "2.0.0", LETTERS)
    failed = looped(place={**PLACE, "source": "failed", "rules": rules}, rules=[TOOK, dict(TOOK, moved=7), dict(TOOK, name="(no rule)")])
    assert [(row["rule"], row["action"], row["tasks"]) for row in foreseen_tasks(LOOKED, failed, "1.0.0", 2)["rows"]] == [
        ("letters", "park", 507),
        ("(no rule)", "requeue", 500),
    ]
    parked = {**PLACE, "source": "parked", "rules": rules_of("parked", "2.0.0", "", LETTERS), "unreadable": []}
    (row,) = foreseen_tasks(LOOKED, looped(place=parked, rules=[dict(TOOK, action="requeue")]), "2.0.0", 2)["rows"]
    assert (row["action"], row["tasks"]) == ("release", 500)


@pytest.mark.parametrize(
    ("queue", "workers", "words"),
    [
        ({"executing": 0}, [], "drain: nothing is executing"),
        ({"executing": None}, [], "is not known: nobody answers"),
        (
            {"executing": 2, "rate_per_s": None},
            [{"task_since": 60.0}, {"task_since": 90.0}],
            "of 2 executing tasks the oldest has run for 40 s",
        ),
        ({"executing": 2, "rate_per_s": 0.0}, [{"task_since": None}], "2 tasks are executing, and since when is not told"),
    ],
)
def test_the_drain_is_estimated_from_what_there_is(queue: dict[str, Any], workers: list[Any], words: str) -> None:
    looked = {"at": 100.0, "queues": [queue], "workers": workers, "unknown": {"queues.executing": "nobody answers"}}
    assert words in drain_estimate(looked, 2)


def test_the_journal_and_the_verdict_say_what_each_rule_took_and_what_failed() -> None:
    (event,) = redrive_events(looped(matched=500, moved=500, rules=[TOOK, dict(TOOK, name="none", matched=0)]), "tasks_treated")
    took = {"name": "letters", "action": "park", "matched": 500, "moved": 500}
    assert (event["kind"], event["data"]) == (
        "tasks_treated",
        {"matched": 500, "moved": 500, "queue": "mail", "source": "queued", "rules": [took]},
    )
    assert redrive_events(looped(matched=0), "tasks_treated") == []
    down = looped(failed=True, msg="broker down.")
    (event,) = redrive_events(down, "tasks_treated")
    assert (event["kind"], event["data"]["source"], event["reason"]) == ("redrive_failed", "queued", "broker down.")
    assert redrive_failures(down, "parked") == ["queued tasks of mail should have been parked: broker down."]
    assert redrive_failures({"unreachable": True, "msg": "no route"}, "parked") == ["tasks should have been parked: no route"]
    assert redrive_failures(looped(matched=1), "parked") == []
