# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""People are told what a playbook does, by real servers; and where nobody can be told, it does the same."""

from __future__ import annotations

import json
import operator
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Queue

from tests.unit.http_server import Server
from tests.unit.notify.conftest import SECRET, MailServer, free_port
from tests.unit.playbooks.conftest import Fleet, must
from tests.unit.playbooks.test_resume import after, killed


@contextmanager
def servers() -> Iterator[tuple[Server, MailServer]]:
    web, mail = Server(), MailServer()
    try:
        yield web, mail
    finally:
        web.close()
        mail.close()


@contextmanager
def worker_that_works(fleet: Fleet, version: str) -> Iterator[None]:
    """A real RQ worker of a version, and a producer, so that a gate has something to judge."""
    url = fleet.specification["queue"]["url"]
    command = [str(Path(sys.executable).parent / "rq"), "worker", "--url", url, "--name", f"mailer@{version}:worker1:1", "mail"]
    stop, queue = threading.Event(), Queue("mail", connection=redis.Redis.from_url(url))

    def produce() -> None:
        while not stop.wait(0.05):
            queue.enqueue(operator.add, 1, 2)

    producer = threading.Thread(target=produce)
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))
    producer.start()
    try:
        yield
    finally:
        stop.set()
        producer.join()
        worker.terminate()
        worker.wait(30)


def named(web: Server, mail: MailServer) -> list[dict[str, Any]]:
    """One channel of each kind, each with a secret."""
    body = {"key": SECRET, "event": "{event}", "release": "{release}", "hosts": "{hosts}", "reason": "{reason}", "outcome": "{outcome}"}
    return [
        {"webhook": {"url": f"{web.url}/hook?key={SECRET}", "headers": {"X-Key": SECRET}, "body": body}},
        {"slack": {"url": f"{web.url}/services/{SECRET}"}, "only_trouble": True},
        {"mail": {"server": "127.0.0.1", "port": mail.port, "tls": "none", "from": "fleet@example.com", "to": ["oncall@example.com"]}},
    ]


def dead() -> list[dict[str, Any]]:
    """One of each kind whose server is not there."""
    port = free_port()
    return [
        {"webhook": {"url": f"http://127.0.0.1:{port}/{SECRET}", "headers": {"X-Key": SECRET}}},
        {"slack": {"url": f"https://127.0.0.1:{port}/services/{SECRET}"}},
        {
            "mail": {
                "server": "127.0.0.1",
                "port": port,
                "username": "fleet",
                "password": SECRET,
                "from": "fleet@example.com",
                "to": ["oncall@example.com"],
            }
        },
    ]


def failures(fleet: Fleet) -> list[tuple[str, str, str]]:
    """Of each event in the journal that nobody could be told of: the operation, the channel's kind, the event."""
    lines = (fleet.hosts["worker1"].state_dir / "mailer" / "journal.jsonl").read_text()
    assert SECRET not in lines
    events = [json.loads(line) for line in lines.splitlines()]
    return [
        (event["operation"], event["data"]["channel"].split()[0], event["data"]["event"])
        for event in events
        if event["kind"] == "notification_failed"
    ]


def subjects(mails: list[Message]) -> list[str]:
    return [str(mail["Subject"]) for mail in mails]


@pytest.mark.sampled
def test_a_deploy_that_goes_back_is_told_four_times_on_every_channel_and_no_secret_is_shown(deployed: Fleet) -> None:
    # The canary takes version 2 and its gate passes; the second host's archive of it cannot start.
    deployed.break_version("2.0.0", "worker2")
    deployed.specification["gate"] = {"min_tasks": 1, "bake": 0, "timeout": 30}
    with servers() as (web, mail):
        deployed.specification["notify"] = named(web, mail)
        with worker_that_works(deployed, "2.0.0"):
            done = deployed.run("deploy", "-vvv", "--diff", version="2.0.0", reason="Faster")
        assert done.returncode != 0, done.stdout
        assert (deployed.releases(), SECRET in done.stdout) == ([1, 1], False), done.stdout
        assert failures(deployed) == []

        hook = [
            json.loads(body) for _method, path, headers, body in web.seen if path == f"/hook?key={SECRET}" and headers["x-key"] == SECRET
        ]
        assert [told["event"] for told in hook] == ["opened", "gate", "rolling_back", "ended"]
        assert {(told["key"], told["release"]) for told in hook} == {(SECRET, 2)}
        assert hook[0]["reason"] == "Faster"
        assert hook[1]["reason"].startswith("0 of ")
        assert hook[2]["reason"] == "the switch failed on worker2"
        assert (hook[3]["outcome"], hook[0]["outcome"]) == ("rolled_back", None)
        assert [(host["host"], host["release"], host["phase"]) for host in hook[3]["hosts"]] == [
            ("worker1", 1, "confirmed"),
            ("worker2", 1, "confirmed"),
        ]
        slack = [json.loads(body)["text"].splitlines()[0] for _method, path, _headers, body in web.seen if path == f"/services/{SECRET}"]
        assert slack == [
            "*mailer: ROLLING BACK the deploy of release 2 (2.0.0)*",
            "*mailer: deploy of release 2 (2.0.0): rolled back*",
        ]
        assert subjects(mail.mails) == [
            "mailer: deploy of release 2 (2.0.0) opened",
            "mailer: gate failures passes after worker1",
            "mailer: ROLLING BACK the deploy of release 2 (2.0.0)",
            "mailer: deploy of release 2 (2.0.0): rolled back",
        ]
        assert re.search(r"opened .*, ended .*, took \d+ s", str(mail.mails[-1].get_payload()))


def test_where_nobody_can_be_told_the_operation_ends_as_it_would_and_says_so(deployed: Fleet) -> None:
    deployed.specification["notify"] = dead()
    (deployed.project / "ansible.cfg").write_text("[defaults]\nstdout_callback = queueops.fleet.board\n")
    told = " ".join(must(deployed.run("deploy", "-vvv", version="1.1.0")).split())
    assert (deployed.releases(), deployed.versions()) == ([2, 2], {"1.1.0"})
    assert SECRET not in told
    kinds = ("webhook", "slack", "mail")
    for number, kind in enumerate(kinds, 1):
        assert f"{kind} 127.0.0.1 (channel {number}) was not told of the event ended of fleet mailer: 127.0.0.1" in told
    assert "The operation goes on." in told
    assert failures(deployed) == [("op-0002-deploy", kind, event) for event in ("opened", "ended") for kind in kinds]

    # The journal is whole after it, and the post-mortem has it in its timeline.
    must(deployed.run("status"))
    must(deployed.run("postmortem", operation="op-0002-deploy"))
    page = (deployed.project / "postmortem" / "mailer-op-0002-deploy.md").read_text()
    assert "notification failed: 127.0.0.1" in page

    # A rollback is told once, as opened and as rolling back; nothing is told of one that has nothing to do.
    with servers() as (web, mail):
        deployed.specification["notify"] = [{**channel, "events": ["rolling_back"], "only_trouble": False} for channel in named(web, mail)]
        planned = deployed.run("plan")
        assert planned.returncode == 2, planned.stdout
        assert "would tell webhook 127.0.0.1 (channel 1), slack 127.0.0.1 (channel 2), mail 127.0.0.1" in planned.stdout
        assert not web.seen and not mail.mails
        board = must(deployed.run("rollback"))
        assert subjects(mail.mails) == ["mailer: rollback to release 1 (1.0.0) opened"]
        assert "told webhook 127.0.0.1 (channel 1), slack 127.0.0.1 (channel 2), mail 127.0.0.1 (channel 3)" in board
        assert deployed.releases() == [1, 1]
        must(deployed.run("rollback"))
        assert (len(web.seen), len(mail.mails)) == (2, 1)


@pytest.mark.parametrize(
    ("do", "told"),
    [
        ("finish", ["mailer: deploy of release 2 (1.1.0) taken over", "mailer: deploy of release 2 (1.1.0): confirmed"]),
        ("undo", ["mailer: ROLLING BACK the deploy of release 2 (1.1.0)", "mailer: deploy of release 2 (1.1.0): rolled back"]),
    ],
)
def test_people_are_told_of_what_a_dead_controller_left_open(deployed: Fleet, do: str, told: list[str]) -> None:
    killed(deployed, "deploy", after(2), version="1.1.0")
    with servers() as (web, mail):
        deployed.specification["notify"] = named(web, mail)
        done = deployed.run("resume", takeover="true", do=do)
        assert subjects(mail.mails) == told, done.stdout


def test_a_channel_that_cannot_work_is_refused_before_anything_changes(deployed: Fleet) -> None:
    before = deployed.everything()
    deployed.specification["notify"] = [{"slack": {"url": f"hooks.example.com/{SECRET}"}}]
    refused = deployed.run("deploy", "-vvv", version="1.1.0")
    assert refused.returncode != 0
    told = " ".join(refused.stdout.split())
    assert "channel 1 (slack): url is not an http or https address without blanks (option channels). Nothing was changed." in told
    assert SECRET not in told and deployed.everything() == before
    # One that is none at all is refused by the specification's own check.
    deployed.specification["notify"] = [{"webhook": SECRET, "mail": {"password": SECRET, "port": "none"}}]
    refused = deployed.run("deploy", "-vvv", version="1.1.0")
    assert refused.returncode != 0 and SECRET not in refused.stdout and deployed.everything() == before


def test_without_channels_nothing_runs(standing: Fleet) -> None:
    assert "queueops.fleet.notify" not in must(standing.run("rollback", "--check", release=1))
