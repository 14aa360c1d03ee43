# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks over a small fleet: the way there and back, and every refusal with nothing changed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import ansible_runner
import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._worker import guard

from tests.unit.playbooks.conftest import Fleet, must


def changed_tasks(output: str) -> list[int]:
    """The ``changed=`` of each host in the recap."""
    return [int(count) for count in re.findall(r"^\S+ +: ok=.* changed=(\d+)", output, re.M)]


def test_there_and_back_and_again(deployed: Fleet) -> None:
    before = deployed.everything()
    # A rollback with nowhere to go says so.
    nowhere = deployed.run("rollback")
    assert nowhere.returncode != 0
    assert "release 1 is the only known good release" in " ".join(nowhere.stdout.split())
    assert set(changed_tasks(must(deployed.run("deploy", version="1.0.0")))) == {0}
    assert deployed.everything() == before

    plan = must(deployed.run("deploy", "--check", "--diff", version="2.0.0"))
    assert deployed.everything() == before
    assert "+setting=2.0.0" in plan

    must(deployed.run("deploy", version="2.0.0"))
    assert (deployed.releases(), deployed.versions()) == ([2, 2], {"2.0.0"})

    must(deployed.run("rollback"))
    assert (deployed.releases(), deployed.versions()) == ([1, 1], {"1.0.0"})
    for host in deployed.hosts.values():
        assert (host.config / "worker.conf").read_text() == "setting=1.0.0\nsecret=hunter2\n"

    assert set(changed_tasks(must(deployed.run("rollback")))) == {0}
    assert set(changed_tasks(must(deployed.run("status")))) == {0}


@pytest.mark.sampled
def test_a_host_that_fails_rolls_every_touched_host_back_and_the_run_fails(deployed: Fleet) -> None:
    # The canary takes version 2; the second host's archive of it cannot start.
    deployed.break_version("2.0.0", "worker2")
    done = deployed.run("deploy", version="2.0.0")
    assert done.returncode != 0, done.stdout
    assert (deployed.releases(), deployed.versions()) == ([1, 1], {"1.0.0"})
    assert "worker2" in done.stdout
    must(deployed.run("status"))


def sick_under_version_2(fleet: Fleet, name: str) -> Path:
    """While the file returned is there, version 2 does not become healthy on the host."""
    config = "{{ root }}/etc/worker.conf"
    command = ["sh", "-c", "! { test -e {{ root }}/sick && grep -q 2.0.0 " + config + "; }"]
    fleet.specification["worker"]["health"] = {"hold": 0.2, "command": command}
    mark = fleet.hosts[name].folder / "sick"
    mark.touch()
    return mark


def test_as_many_hosts_as_may_fail_do_not_take_the_others_back_but_the_run_fails(deployed: Fleet) -> None:
    deployed.specification["max_failing"] = 1
    sick = sick_under_version_2(deployed, "worker2")
    done = deployed.run("deploy", version="2.0.0")
    assert done.returncode != 0
    assert deployed.releases() == [2, 1], done.stdout
    assert "1 of 2 hosts of fleet mailer are not proven to be on release 2" in " ".join(done.stdout.split())
    assert deployed.run("status").returncode != 0
    sick.unlink()
    must(deployed.run("deploy", version="2.0.0"))
    assert (len(set(deployed.releases())), deployed.versions()) == (1, {"2.0.0"})
    must(deployed.run("status"))


def test_a_canary_that_fails_takes_the_fleet_back_however_many_may_fail(deployed: Fleet) -> None:
    deployed.specification["max_failing"] = 2
    sick_under_version_2(deployed, "worker1")
    assert deployed.run("deploy", version="2.0.0").returncode != 0
    assert (deployed.releases(), deployed.versions()) == ([1, 1], {"1.0.0"})


def test_where_a_rollback_fails_too_no_worker_of_the_bad_version_runs_any_more(deployed: Fleet) -> None:
    must(deployed.run("deploy", version="2.0.0"))
    sick = deployed.hosts["worker2"].folder / "sick"
    command = ["sh", "-c", "! { test -e {{ root }}/sick && grep -q 1.0.0 {{ root }}/etc/worker.conf; }"]
    deployed.specification["worker"]["health"] = {"hold": 0.2, "command": command}
    sick.touch()
    done = deployed.run("rollback")
    assert done.returncode == 2 and deployed.releases() == [1, 2], done.stdout
    said = " ".join(done.stdout.split())
    assert "No worker runs any more on worker2, so that the bad version takes no task there" in said
    states = {worker["state"] for worker in deployed.hosts["worker2"].transaction().status()["workers"]}
    assert "running" not in states, states
    sick.unlink()
    must(deployed.run("resume"))
    assert (deployed.releases(), deployed.versions()) == ([1, 1], {"1.0.0"})
    must(deployed.run("status"))


def test_a_quarantined_version_is_refused_before_an_operation_is_opened(deployed: Fleet) -> None:
    guard.add(str(deployed.hosts["worker2"].root), guard.Entry("2.0.0", "sends each mail twice", 1.0))
    journal = deployed.hosts["worker1"].folder / "state" / "mailer" / "journal.jsonl"
    before = journal.read_bytes()
    done = deployed.run("deploy", version="2.0.0")
    assert done.returncode != 0 and "sends each mail twice" in done.stdout, done.stdout
    assert journal.read_bytes() == before and deployed.releases() == [1, 1]


@pytest.mark.sampled
def test_status_fails_on_a_mixed_fleet_and_names_the_host(deployed: Fleet) -> None:
    (deployed.hosts["worker2"].config / "worker.conf").write_text("edited by hand\n")
    done = deployed.run("status")
    assert done.returncode != 0
    assert "worker2: its files differ from release 1" in done.stdout, done.stdout


def test_a_fleet_that_the_inventory_does_not_have_is_refused_by_every_playbook(standing: Fleet) -> None:
    before = standing.everything()
    for playbook in ("plan", "deploy", "rollback", "resume", "status", "drain", "redrive", "rebuild", "postmortem"):
        done = standing.run(playbook, fleet="nosuch", version="2.0.0")
        assert done.returncode != 0 and "no hosts in a group nosuch" in done.stdout, done.stdout
    assert standing.everything() == before


def _wrong_backend(fleet: Fleet) -> dict[str, Any]:
    fleet.specification["queue"]["backend"] = "rqq"
    return {"version": "2.0.0"}


def _broker_down(fleet: Fleet) -> dict[str, Any]:
    fleet.specification["queue"]["url"] = "redis://127.0.0.1:1/0"
    return {"version": "2.0.0"}


def _no_library(fleet: Fleet) -> dict[str, Any]:
    bare = fleet.folder / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    fleet.more["worker1"] = {"ansible_python_interpreter": str(bare / "bin" / "python")}
    return {"version": "2.0.0"}


def _wrong_checksum(fleet: Fleet) -> dict[str, Any]:
    return {"version": "2.0.0", "checksum": "sha256:" + "0" * 64}


def _unknown_version(dummy: Fleet) -> dict[str, Any]:
    return {"version": "9.9.9"}


def _bake_longer_than_the_gate(fleet: Fleet) -> dict[str, Any]:
    fleet.specification["gate"] = {"min_tasks": 5, "bake": [1, 90], "timeout": 60}
    return {"version": "2.0.0"}


def _waves_that_end_early(fleet: Fleet) -> dict[str, Any]:
    fleet.specification["waves"] = [1]
    return {"version": "2.0.0"}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_unknown_version, ["9.9.9", "option version", "checksums"]),
        (_wrong_checksum, ["checksum", "worker1"]),
        (_wrong_backend, ["backend", "rqq", "rq"]),
        (_broker_down, ["127.0.0.1:1", "url"]),
        (_no_library, ["worker1", "redis", "python3-redis"]),
        (_waves_that_end_early, ["waves", "100%"]),
        (_bake_longer_than_the_gate, ["gate.timeout is 60 s", "90 s"]),
    ],
)
def test_a_deploy_that_cannot_be_done_is_refused_before_anything_changes(standing: Fleet, spoil: Any, words: list[str]) -> None:
    variables = spoil(standing)
    before = standing.everything()
    done = standing.run("deploy", **variables)
    after = standing.everything()
    assert done.returncode != 0, done.stdout
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == set()
    missing = [word for word in words if word not in done.stdout]
    assert not missing, f"{missing} not in:\n{done.stdout}"
    assert re.search("Nothing was (changed|unpacked)", done.stdout) or spoil is _wrong_backend, done.stdout


def _unknown_release(dummy: Fleet) -> dict[str, Any]:
    return {"release": 7}


def _missing_snapshot(fleet: Fleet) -> dict[str, Any]:
    shutil.move(str(fleet.hosts["worker2"].state_dir / "mailer" / "config.git"), str(fleet.folder / "away"))
    return {}


def _wrong_option_on_one_host(fleet: Fleet) -> dict[str, Any]:
    worker = {**fleet.specification["worker"], "drain_timout": 5}
    fleet.more["worker2"] = {"queueops_fleet": {**fleet.specification, "worker": worker}}
    return {}


def _missing_version(fleet: Fleet) -> dict[str, Any]:
    shutil.move(str(fleet.hosts["worker2"].root / "versions" / "1.0.0"), str(fleet.folder / "away"))
    return {}


def _put_back(fleet: Fleet) -> None:
    away = fleet.folder / "away"
    if away.exists():
        worker2 = fleet.hosts["worker2"]
        shutil.move(
            str(away), str(worker2.state_dir / "mailer" / "config.git" if (away / "HEAD").exists() else worker2.root / "versions" / "1.0.0")
        )


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_unknown_release, ["Release 7", "Known are", "release=<number>"]),
        (_missing_snapshot, ["worker2", "snapshot"]),
        (_missing_version, ["worker2", "1.0.0"]),
        (_wrong_option_on_one_host, ["worker2", "drain_timout", "Nothing was"]),
        (_broker_down, ["127.0.0.1:1", "url"]),
    ],
)
@pytest.mark.sampled
def test_a_rollback_that_cannot_be_done_is_refused_before_anything_changes(standing: Fleet, spoil: Any, words: list[str]) -> None:
    variables = spoil(standing)
    variables.pop("version", None)
    before = standing.everything()
    done = standing.run("rollback", **variables)
    after = standing.everything()
    _put_back(standing)
    assert done.returncode != 0, done.stdout
    assert after == before
    missing = [word for word in words if word not in done.stdout]
    assert not missing, f"{missing} not in:\n{done.stdout}"


def test_no_secret_of_a_config_file_reaches_the_output(deployed: Fleet) -> None:
    deployed.specification["config"]["sensitive"] = ["*/worker.conf"]
    done = deployed.run("deploy", "-vvv", "--diff", version="2.0.0")
    assert done.returncode == 0, done.stdout
    assert "hunter2" not in done.stdout
    # As the module's arguments carry it.
    assert "c2VjcmV0PWh1bnRlcjI" not in done.stdout


def test_ansible_runner_runs_them_without_a_terminal_in_an_ephemeral_project(deployed: Fleet, tmp_path: Path) -> None:
    deployed.write_inventory()
    for version, playbook, extra in (("2.0.0", "deploy", {"version": "2.0.0"}), ("1.0.0", "rollback", {}), ("1.0.0", "status", {})):
        private = tmp_path / playbook
        private.mkdir()
        run = ansible_runner.run(
            private_data_dir=str(private),
            project_dir=str(deployed.project),
            inventory=str(deployed.project / "inventory.yml"),
            playbook=f"queueops.fleet.{playbook}",
            extravars=extra,
            envvars=deployed.environment(),
            quiet=True,
        )
        output = run.stdout.read()
        assert (run.status, run.rc) == ("successful", 0), output
        assert deployed.versions() == {version}
        shutil.rmtree(private)
