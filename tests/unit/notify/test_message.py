# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told of an event, and how it is written for each channel."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._notify import slack, webhook
from ansible_collections.queueops.fleet.plugins.module_utils._notify.message import (
    LONGEST,
    MOST_HOSTS,
    VARIABLES,
    Message,
    message_of,
    plain,
)

DEPLOY = {
    "operation": "op-0002-deploy",
    "kind": "deploy",
    "target": 2,
    "version": "2.0.0",
    "from_release": 1,
    "opened_at": "2026-03-01T07:41:22.123Z",
    "closed_at": None,
    "outcome": None,
    "taken_over": None,
}
ROLLBACK = {**DEPLOY, "operation": "op-0003-rollback", "kind": "rollback", "target": 1, "version": "1.0.0", "from_release": 2}
FAILED_GATE = {"verdict": "fail", "reason": "31 of 90 failed"}


def message(event: str, **options: Any) -> Message:
    given = {"event": event, "fleet": "mailer", "operation": DEPLOY, "actor": "alice", "reason": "", "gate": {}, "wave": [], "verdict": {}}
    return message_of({**given, **options})


def closed(outcome: str, **more: Any) -> dict[str, Any]:
    return {**DEPLOY, "outcome": outcome, "closed_at": "2026-03-01T07:43:02.555Z", **more}


def row(host: str, ok: bool = True, found: int | None = 2) -> dict[str, Any]:
    return {"host": host, "found": found, "phase": "confirmed" if ok else None, "ok": ok, "reason": "" if ok else "unreachable: not known"}


def test_every_event_reads_as_a_sentence_of_an_operator() -> None:
    opened = message("opened", reason="Faster templates")
    assert opened.text.splitlines() == [
        "mailer: deploy of release 2 (2.0.0) opened",
        "op-0002-deploy, from release 1, by alice",
        "Faster templates",
    ]
    assert opened.events == {"opened"} and not opened.trouble
    assert message("opened", operation={"operation": "op-1", "target": 0, "from_release": 0}, actor=None).lines == ["op-1, from release 0"]

    passed = message("gate", gate={"verdict": "pass", "reason": "0 of 21 failed"}, wave=["worker1"])
    assert passed.text.splitlines() == [
        "mailer: gate passes after worker1",
        "0 of 21 failed",
        "op-0002-deploy, deploy of release 2 (2.0.0)",
    ]
    assert not passed.trouble

    paused = message("gate", gate={"name": "latency", "verdict": "inconclusive", "reason": "no sample"}, wave=["worker1"])
    assert (paused.lines[0], paused.title, paused.trouble) == ("no sample", "mailer: gate latency is INCONCLUSIVE after worker1", True)
    assert paused.lines[1].startswith("The deploy is paused; switched hosts take themselves back")

    back = message("rolling_back", reason="the switch failed on worker2")
    assert back.text.splitlines() == [
        "mailer: ROLLING BACK the deploy of release 2 (2.0.0)",
        "the switch failed on worker2",
        "op-0002-deploy, from release 1, by alice",
    ]
    assert back.events == {"rolling_back"} and back.trouble

    table = [row("worker1"), row("worker2", ok=False, found=None)]
    ended = message("ended", operation=closed("failed"), verdict={"agree": False, "msg": "1 of 2 hosts differ.", "table": table})
    assert ended.text.splitlines() == [
        "mailer: deploy of release 2 (2.0.0): FAILED",
        "1 of 2 hosts differ.",
        "worker2: release not known, unreachable: not known",
        "worker1: release 2, confirmed",
        "opened 2026-03-01T07:41:22.123Z, ended 2026-03-01T07:43:02.555Z, took 100 s",
        "op-0002-deploy, from release 1, by alice",
    ]
    assert ended.trouble


def test_what_comes_together_is_told_once_to_whoever_asked_for_either() -> None:
    assert message("opened", operation=ROLLBACK).events == {"opened", "rolling_back"}
    halting: list[dict[str, Any]] = [FAILED_GATE, {"failed": True, "msg": "no answer"}, {"unreachable": True, "msg": "down"}]
    for gate in halting:
        assert message("rolling_back", gate=gate).events == {"rolling_back", "gate"}
    # The gate of an earlier wave, which passed, or one that was never watched, is not what it goes back for.
    others: list[dict[str, Any]] = [{"verdict": "pass"}, {"skipped": True}, {}]
    for gate in others:
        back = message("rolling_back", gate=gate)
        assert back.events == {"rolling_back"} and back.variables["verdict"] is None


@pytest.mark.parametrize(
    ("operation", "ok", "trouble"),
    [
        (closed("confirmed"), True, False),
        (closed("confirmed"), False, True),
        (closed("rolled_back"), True, True),
        (closed("failed"), True, True),
        (closed("rolled_back", kind="rollback"), True, False),
        (closed("failed", kind="rollback"), False, True),
        (DEPLOY, True, True),
    ],
)
def test_an_end_is_trouble_unless_it_is_what_was_asked_for(operation: dict[str, Any], ok: bool, trouble: bool) -> None:
    assert message("ended", operation=operation, verdict={"table": [row("worker1", ok)]}).trouble is trouble


def test_an_operation_that_could_not_be_closed_says_so() -> None:
    ended = message("ended", verdict={"msg": "All agree.", "table": [row("worker1")]})
    assert (ended.variables["outcome"], ended.variables["took_s"]) == ("failed", None)
    assert "The operation could not be closed. Finish it with the playbook queueops.fleet.resume." in ended.lines


def test_one_that_goes_on_is_told_from_one_that_another_was_ended_for() -> None:
    assert "taken over" in message("opened", operation={**DEPLOY, "taken_over": {"id": "op-0002-deploy"}}).title
    assert "opened" in message("opened", operation={**DEPLOY, "taken_over": {"id": "op-0001-deploy"}}).title


def test_texts_of_tasks_and_hosts_are_made_plain_and_short() -> None:
    assert plain("a\r\nBcc: all@example.com\x00\u202eb") == "a Bcc: all@example.com\\u0000\\u202eb"
    assert plain("x" * LONGEST) == "x" * LONGEST
    assert plain("x" * (LONGEST + 7)) == "x" * LONGEST + "… (7 more characters)"
    assert plain(None) == ""
    hosts = [row("worker%d" % number, ok=number != 40) for number in range(41)]
    ended = message("ended", operation=closed("failed"), verdict={"table": hosts}, wave=["w%d" % number for number in range(12)])
    assert ended.lines[0].startswith("worker40: ")  # The one that differs is never among those left out.
    assert "… and 21 more hosts" in ended.lines
    assert (len(ended.variables["hosts"]), ended.variables["hosts_left_out"]) == (MOST_HOSTS, 21)
    assert str(ended.variables["wave"]).endswith("w9 and 2 more hosts")


def test_a_body_names_facts_alone_as_they_are_and_within_a_text_as_text() -> None:
    ended = message("ended", operation=closed("failed"), verdict={"msg": 'a "quoted" {title}', "table": [row("worker1")]})
    texts = ["{kind} {release}: {reason}", {"none": "{verdict}{closed_at}"}]
    template = {"n": "{release}", "hosts": "{hosts}", "t": texts, "x": 7, "{kind}": "{}"}
    assert webhook.filled(template, ended.variables) == {
        "n": 2,
        "hosts": [{"host": "worker1", "release": 2, "phase": "confirmed", "ok": True, "reason": ""}],
        # What a fact says is never read as a template.
        "t": ['deploy 2: a "quoted" {title}', {"none": "2026-03-01T07:43:02.555Z"}],
        "x": 7,
        "{kind}": "{}",
    }


@pytest.mark.parametrize("event", ["opened", "gate", "rolling_back", "ended"])
def test_every_fact_is_there_for_every_event(event: str) -> None:
    variables = message(event, gate=FAILED_GATE).variables
    assert set(variables) == set(VARIABLES)
    json.dumps(variables)


def test_slack_gets_nothing_that_is_a_link_a_format_or_a_mention() -> None:
    told = slack.text(message("opened", reason="<!channel> & <https://bad|good> ``` @all", fleet="mailer"))
    assert told.splitlines()[:2] == ["*mailer: deploy of release 2 (2.0.0) opened*", "```"]
    assert "&lt;!channel&gt; &amp; &lt;https://bad|good&gt; ''' @all\n```" in told
    assert told.count("```") == 2
    assert slack.text(message("opened", operation={**DEPLOY, "version": "*@all*<x>"})).startswith(
        "*mailer: deploy of release 2 ((at)all&lt;x&gt;) opened*\n"
    )
