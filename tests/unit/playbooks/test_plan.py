# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: what would be done, by its exit code too; and a run that is held to it."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.unit.playbooks.conftest import Fleet, must


def plan_id(done: subprocess.CompletedProcess[str]) -> str:
    found = re.search(r"-e plan=([0-9a-f]{12})", " ".join(done.stdout.split()))
    assert found is not None, done.stdout
    return found.group(1)


@pytest.mark.sampled
def test_a_plan_is_read_and_then_done_as_it_was_read(deployed: Fleet) -> None:
    before = deployed.everything()
    deploy = deployed.run("plan", version="2.0.0")
    assert deploy.returncode == 2, deploy.stdout
    assert "version 1.0.0 to 2.0.0; 1 file: " in deploy.stdout
    assert plan_id(deploy) == plan_id(deployed.run("plan", version="2.0.0"))
    assert deployed.everything() == before

    # The world changes: what would be done is no longer what was read.
    conf = deployed.hosts["worker2"].config / "worker.conf"
    text = conf.read_text()
    conf.write_text("edited by hand\n")
    refused = deployed.run("deploy", version="2.0.0", plan=plan_id(deploy))
    assert refused.returncode != 0 and "The plan is no longer" in refused.stdout, refused.stdout
    assert deployed.releases() == [1, 1] and conf.read_text() == "edited by hand\n"

    conf.write_text(text)
    must(deployed.run("deploy", version="2.0.0", plan=plan_id(deploy)))
    assert deployed.releases() == [2, 2]

    before = deployed.everything()
    rollback = deployed.run("plan")
    assert rollback.returncode == 2 and "version 2.0.0 to 1.0.0" in rollback.stdout, rollback.stdout
    assert deployed.everything() == before
    must(deployed.run("rollback", plan=plan_id(rollback)))
    assert deployed.releases() == [1, 1]
    for nothing in (deployed.run("plan"), deployed.run("plan", version="1.0.0")):
        assert len(re.findall(r"worker[12]  release 1 \(1.0.0\)  release 1 \(1.0.0\)  nothing", must(nothing))) == 2, nothing.stdout


def test_what_cannot_be_done_has_an_exit_code_of_its_own(deployed: Fleet) -> None:
    before = deployed.everything()
    unknown = deployed.run("plan", version="9.9.9")
    assert unknown.returncode == 1 and "9.9.9" in unknown.stdout, unknown.stdout
    deployed.more["worker2"] = {"ansible_python_interpreter": "/nowhere/python"}
    away = deployed.run("plan", version="2.0.0")
    assert away.returncode == 1 and "worker2" in away.stdout, away.stdout
    deployed.more = {}
    deployed.specification["artifact"]["url"] = "{{ root }}/elsewhere/mailer-{version}.tar.gz"
    missing = deployed.run("plan", version="2.0.0")
    assert missing.returncode == 1 and "elsewhere" in missing.stdout, missing.stdout
    assert deployed.everything() == before
