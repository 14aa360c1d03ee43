# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The home is lost: the journal is made anew from what the hosts wrote down themselves."""

from __future__ import annotations

import shutil

import pytest

from tests.unit.playbooks.conftest import Fleet, must
from tests.unit.playbooks.test_resume import events


def lose_the_journal(fleet: Fleet) -> None:
    (fleet.hosts["worker1"].folder / "state" / "mailer" / "journal.jsonl").unlink()


def test_known_good_and_the_way_back_are_known_again(deployed: Fleet) -> None:
    must(deployed.run("deploy", version="1.1.0"))
    lose_the_journal(deployed)
    assert deployed.run("rollback").returncode == 2
    would = must(deployed.run("rebuild", "--check"))
    assert "known good, the newest first: release 2, 1" in " ".join(would.split())
    made = must(deployed.run("rebuild", reason="the disk was lost"))
    assert "known good, the newest first: release 2, 1" in " ".join(made.split())
    must(deployed.run("status"))
    told = [event for event in events(deployed) if event["kind"] == "host_confirmed"]
    assert {(event["host"], event["data"]["release"]) for event in told} == {(host, n) for host in deployed.hosts for n in (1, 2)}
    again = deployed.run("rebuild")
    assert again.returncode == 2 and "it is sound" in " ".join(again.stdout.split())
    must(deployed.run("rollback"))
    assert (deployed.releases(), deployed.versions()) == ([1, 1], {"1.0.0"})
    must(deployed.run("deploy", version="2.0.0"))
    assert deployed.releases() == [3, 3]


def test_what_was_rolled_back_from_is_not_known_good_again(deployed: Fleet) -> None:
    must(deployed.run("deploy", version="1.1.0"))
    must(deployed.run("rollback"))
    lose_the_journal(deployed)
    made = must(deployed.run("rebuild"))
    assert "known good, the newest first: release 1. Look with" in " ".join(made.split())
    must(deployed.run("status"))
    assert deployed.run("rollback", release=2).returncode == 0, "a release that was confirmed once may be named"


def test_a_deploy_that_was_cut_off_is_not_known_good_and_a_rollback_ends_it(deployed: Fleet) -> None:
    deployed.specification["gates"] = [{"name": "nobody", "metric": "approval", "waves": "first"}]
    del deployed.specification["gate"]
    assert deployed.run("deploy", version="2.0.0").returncode == 2
    assert deployed.releases() == [2, 1]
    lose_the_journal(deployed)
    made = " ".join(must(deployed.run("rebuild")).split())
    assert "release 1. worker1 is not on it and confirmed. Run queueops.fleet.rollback" in made
    assert deployed.run("status").returncode == 2
    must(deployed.run("rollback"))
    assert (deployed.releases(), deployed.versions()) == ([1, 1], {"1.0.0"})


def test_an_older_controller_is_still_refused(deployed: Fleet) -> None:
    before = max(event["epoch"] or 0 for event in events(deployed))
    lose_the_journal(deployed)
    must(deployed.run("rebuild"))
    must(deployed.run("deploy", version="1.1.0"))
    assert max(event["epoch"] or 0 for event in events(deployed)) > before + 50


def test_a_damaged_journal_is_kept_and_made_anew(deployed: Fleet) -> None:
    journal = deployed.hosts["worker1"].folder / "state" / "mailer" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"confirmed", b"confirmeD", 1))
    assert "is damaged in line" in " ".join(deployed.run("status").stdout.split())
    must(deployed.run("rebuild"))
    assert len(list(journal.parent.glob("journal.jsonl.damaged-*"))) == 1
    must(deployed.run("status"))


@pytest.mark.parametrize("leave_out", [False, True])
def test_a_host_that_is_gone_is_named_and_may_be_left_out(deployed: Fleet, leave_out: bool) -> None:
    ssh = deployed.folder / "ssh"
    ssh.write_text("#!/bin/sh\necho no route to host >&2\nexit 255\n")
    ssh.chmod(0o755)
    deployed.more["worker2"] = {"ansible_connection": "ssh", "ansible_ssh_executable": str(ssh)}
    lose_the_journal(deployed)
    done = deployed.run("rebuild", **({"without": ["worker2"]} if leave_out else {}))
    assert (done.returncode == 0) is leave_out, done.stdout
    assert leave_out or "worker2 did not answer" in " ".join(done.stdout.split())


def test_where_no_host_knows_anything_nothing_is_made_up(deployed: Fleet) -> None:
    for host in deployed.hosts.values():
        shutil.rmtree(host.folder / "state" / "mailer")
    done = deployed.run("rebuild")
    assert done.returncode == 2 and "No host knows of a release" in " ".join(done.stdout.split())
