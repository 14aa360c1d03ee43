# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook postmortem after real deploys, run as an operator runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.unit.playbooks.conftest import Fleet, must
from tests.unit.playbooks.test_playbooks import changed_tasks


def pages(fleet: Fleet) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((fleet.project / "postmortem").iterdir())}


@pytest.mark.sampled
def test_a_deploy_whose_gate_does_not_pass_is_told_from_the_journal(deployed: Fleet) -> None:
    # Nobody publishes tasks, so that no version is ever proven good.
    deployed.specification["gate"] = {"min_tasks": 5, "bake": 0, "timeout": 1, "on_inconclusive": "roll_back"}
    deployed.specification["config"]["sensitive"] = ["*/secret.conf"]
    (deployed.project / "templates" / "secret.conf.j2").write_text("token={{ queueops_version }}-hunter2\n")
    deployed.specification["config"]["files"].append(
        {"src": "templates/secret.conf.j2", "dest": "{{ root }}/etc/secret.conf", "mode": "0640"}
    )
    reason = json.dumps({"reason": "{% raw %}{{ 7 * 7 }}{% endraw %} <b>new</b>"})
    halted = deployed.run("deploy", "-e", reason, version="2.0.0")
    assert halted.returncode != 0, halted.stdout
    assert deployed.releases() == [1, 1]

    before = deployed.everything()
    checked = must(deployed.run("postmortem", "--check"))
    assert not (deployed.project / "postmortem").exists(), checked
    first = must(deployed.run("postmortem"))
    assert sum(changed_tasks(first)) == 2
    written = pages(deployed)
    assert list(written) == ["mailer-op-0002-deploy.html", "mailer-op-0002-deploy.md"]
    html, markdown = written.values()
    assert html.startswith("<!DOCTYPE html>")
    went = "Release 2 (2.0.0) went to 1 of 2 hosts, and every host is back on release 1 (1.0.0)"
    for told in (went, "gate failures is inconclusive on worker1"):
        assert told.lower() in html.lower()
        assert told.lower() in markdown.lower()
    # The journal has the queue's depth, the config's differences and none of its secrets.
    assert "Tasks waiting in mail" in html
    assert "+setting=2.0.0" in html and "+setting=2.0.0" in markdown
    assert "content not shown" in html
    assert "hunter2" not in re.sub("secret=hunter2", "", html + markdown)
    # What a text of the journal looks like is no template either.
    assert "{{ 7 * 7 }} &lt;b&gt;new&lt;/b&gt;" in html and "{{ 7 \\* 7 }}" in markdown

    assert set(changed_tasks(must(deployed.run("postmortem")))) == {0}
    assert (pages(deployed), deployed.everything()) == (written, before)

    # What a person wrote is kept beside the page that is made again.
    page = deployed.project / "postmortem" / "mailer-op-0002-deploy.md"
    page.write_text(markdown + "The cause was a typo.\n")
    (deployed.project / "ansible.cfg").write_text("[defaults]\nstdout_callback = queueops.fleet.board\n")
    shown = must(deployed.run("postmortem"))
    assert re.search(r"mailer +op-0002-deploy: release 2 .*; detect \d+\.\d s, decide \d+\.\d s, revert \d+\.\d s", shown)
    kept = [path for path in page.parent.iterdir() if "typo" in path.read_text()]
    assert page.read_text() == markdown and len(kept) == 1 and kept[0] != page


def test_a_rollback_by_hand_and_an_operation_by_its_name(deployed: Fleet, tmp_path: Path) -> None:
    must(deployed.run("deploy", version="1.1.0"))
    must(deployed.run("rollback", reason="'sends each mail twice'"))
    folder = tmp_path / "a" / "b"
    must(deployed.run("postmortem", postmortem_dir=folder))
    must(deployed.run("postmortem", postmortem_dir=folder, operation="op-0001-deploy"))
    assert sorted(path.name for path in folder.glob("*.html")) == ["mailer-op-0001-deploy.html", "mailer-op-0003-rollback.html"]
    told = (folder / "mailer-op-0003-rollback.md").read_text()
    assert "sends each mail twice" in told
    assert re.search(r"\| Revert \| \d+\.\d s \|", told)
    assert re.search(r"\| In service \| \d+\.\d s \|", told)
    assert re.search(r"\| Detect \| not known \|", told)
    assert "-setting=1.1.0" in told and "+setting=1.0.0" in told

    refused = deployed.run("postmortem", postmortem_dir=folder, operation="op-0009-deploy")
    assert refused.returncode != 0
    assert "The journal has no operation op-0009-deploy" in " ".join(refused.stdout.split())

    journal = deployed.hosts["worker1"].state_dir / "mailer" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"twice", b"thrice", 1))
    damaged = deployed.run("postmortem", postmortem_dir=folder)
    assert damaged.returncode != 0
    assert "is damaged in line" in " ".join(damaged.stdout.split())
