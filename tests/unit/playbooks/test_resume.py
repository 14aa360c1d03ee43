# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A controller that dies, at every event of an operation: resume brings the fleet to where it would have been."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.playbooks.conftest import Fleet, must


def events(fleet: Fleet) -> list[dict[str, Any]]:
    """The journal's events, read without the collection."""
    journal = fleet.hosts["worker1"].folder / "state" / "mailer" / "journal.jsonl"
    return [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]


def killed(fleet: Fleet, playbook: str, when: Callable[[list[str]], bool], **variables: Any) -> None:
    """Run a playbook, and kill its controller with all that it started as soon as ``when`` holds of the kinds of event that it wrote."""
    begun = len(events(fleet))
    process = fleet.start(playbook, **variables)
    end = time.monotonic() + 120
    while not when([event["kind"] for event in events(fleet)[begun:]]):
        assert process.poll() is None, "the playbook ended before it could be killed"
        assert time.monotonic() < end, "what was waited for did not happen in 120 s"
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def after(step: int) -> Callable[[list[str]], bool]:
    return lambda kinds: len(kinds) >= step


def kinds_of_the_last(fleet: Fleet) -> list[str]:
    last = [event["operation"] for event in events(fleet) if event["operation"]][-1]
    return [event["kind"] for event in events(fleet) if event["operation"] == last]


def config_of(fleet: Fleet) -> set[str]:
    return {(host.config / "worker.conf").read_text() for host in fleet.hosts.values()}


def state_of(fleet: Fleet) -> tuple[Any, ...]:
    """Where the fleet stands: what is live, what runs, what the config is, and what the journal says came of it."""
    last = [event for event in events(fleet) if event["kind"] == "operation_closed"][-1]
    withdrawn = [event["data"]["release"] for event in events(fleet) if event["kind"] == "release_withdrawn"][-1:]
    return (fleet.releases(), fleet.versions(), config_of(fleet), last["data"]["outcome"], last["data"]["to_release"], withdrawn)


@pytest.mark.sampled
def test_a_deploy_with_a_rollback_in_it_dies_after_an_event_and_ends_as_if_it_had_not(deployed: Fleet) -> None:
    deployed.break_version("2.0.0", "worker2")
    assert deployed.run("deploy", version="2.0.0").returncode != 0
    wanted = state_of(deployed)
    assert wanted[:2] == ([1, 1], {"1.0.0"})
    written = kinds_of_the_last(deployed)
    assert {"operation_opened", "host_switched", "host_failed", "rollback_ordered", "host_reverted", "operation_closed"} <= set(written)
    # After every ninth event, or with ``make faults`` after each.
    for step in range(1, len(written), 1 if os.environ.get("QUEUEOPS_EXHAUSTIVE") else 9):
        killed(deployed, "deploy", after(step), version="2.0.0")
        if events(deployed)[-1]["kind"] == "operation_closed":
            # The last events are written at once: nothing is left to resume.
            must(deployed.run("resume"))
            assert state_of(deployed)[:5] == wanted[:5]
            break
        ordered = "rollback_ordered" in kinds_of_the_last(deployed)
        held = deployed.run("resume")
        assert held.returncode != 0 and "takeover=true" in held.stdout and "holds fleet mailer" in " ".join(held.stdout.split())
        done = deployed.run("resume", takeover="true")
        assert state_of(deployed)[:5] == wanted[:5], done.stdout
        # It ends as the deploy would have. To finish a rollback that was ordered is a success, to be rolled back is none.
        assert (done.returncode == 0) is ordered, done.stdout
        must(deployed.run("status"))


@pytest.mark.parametrize(("do", "release", "version"), [("finish", 2, "2.0.0"), ("undo", 1, "1.0.0")])
def test_a_good_deploy_is_finished_or_undone_as_the_operator_says(deployed: Fleet, do: str, release: int, version: str) -> None:
    killed(deployed, "deploy", lambda kinds: "host_switched" in kinds, version="2.0.0")
    assert must(deployed.run("resume", "--check", takeover="true", do=do))
    done = must(deployed.run("resume", takeover="true", do=do, reason="the controller lost its power"))
    assert (deployed.releases(), deployed.versions()) == ([release, release], {version}), done
    assert config_of(deployed) == {f"setting={version}\nsecret=hunter2\n"}
    taken = [event for event in events(deployed) if event["kind"] == "operation_taken_over"][-1]
    assert taken["reason"] == "the controller lost its power" and taken["epoch"] == 3
    must(deployed.run("status"))
    before = deployed.everything()
    assert "Nothing to resume: no operation of fleet mailer is open" in must(deployed.run("resume"))
    assert deployed.everything() == before


@pytest.mark.parametrize("moment", ["operation_opened", "host_reverted"])
def test_a_rollback_is_finished(deployed: Fleet, moment: str) -> None:
    must(deployed.run("deploy", version="2.0.0"))
    killed(deployed, "rollback", lambda kinds: moment in kinds)
    # What it had done is in the journal before the operation ends.
    assert kinds_of_the_last(deployed)[-1] != "operation_closed"
    must(deployed.run("resume", takeover="true", do="undo"))
    assert (deployed.releases(), deployed.versions()) == ([1, 1], {"1.0.0"})
    assert kinds_of_the_last(deployed)[-1] == "operation_closed"
    must(deployed.run("status"))


def test_a_rollback_that_is_not_disturbed_writes_each_event_once(deployed: Fleet) -> None:
    must(deployed.run("deploy", version="2.0.0"))
    must(deployed.run("rollback"))
    written = kinds_of_the_last(deployed)
    # The paths of the config differ from host to host here, else one event would tell of both.
    assert written.count("host_reverted") == written.count("config_compared") == len(deployed.hosts)
    assert written.index("host_reverted") < written.index("tasks_redriven") < written.index("operation_closed")


def test_a_deploy_is_finished_with_the_config_that_it_was_opened_with(deployed: Fleet) -> None:
    killed(deployed, "deploy", lambda kinds: "host_switched" in kinds, version="2.0.0")
    (deployed.project / "templates" / "worker.conf.j2").write_text("setting=edited\n")
    must(deployed.run("resume", takeover="true"))
    assert (deployed.releases(), config_of(deployed)) == ([2, 2], {"setting=2.0.0\nsecret=hunter2\n"})


def test_a_rollback_that_failed_because_a_host_was_away_is_finished_by_resume(deployed: Fleet) -> None:
    must(deployed.run("deploy", version="2.0.0"))
    ssh = deployed.folder / "ssh"
    ssh.write_text("#!/bin/sh\necho no route to host >&2\nexit 255\n")
    ssh.chmod(0o755)
    deployed.more["worker2"] = {"ansible_connection": "ssh", "ansible_ssh_executable": str(ssh)}
    failed = deployed.run("rollback")
    assert failed.returncode != 0
    assert deployed.releases() == [1, 2], failed.stdout
    deployed.more = {}
    assert deployed.run("status").returncode != 0
    must(deployed.run("resume"))
    assert (deployed.releases(), deployed.versions()) == ([1, 1], {"1.0.0"})
