# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role config_history, run by ansible itself: before and after a change, and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BUILD = Path(__file__).parents[3] / "build"

from tests.unit.config.conftest import Place


def play(place: Place, *flags: str) -> str:
    """A play that changes a file between the role's two halves; returns what ansible printed."""
    include = {"name": "queueops.fleet.config_history"}
    edit = {"dest": str(place.etc / "a.conf"), "content": "two\n", "mode": "0644"}
    config = {
        "files": [{"src": "a.j2", "dest": str(place.etc / "a.conf")}],
        "feature_gates": [{"dest": str(place.etc / "gates.json"), "gates": []}],
    }
    fleet = {"name": "mailer", "state_dir": str(place.state), "config": config}
    tasks: list[dict[str, Any]] = [
        {"name": "Before", "ansible.builtin.include_role": {**include, "tasks_from": "before"}},
        {"name": "Work", "ansible.builtin.copy": edit},
        {"name": "After", "ansible.builtin.include_role": {**include, "tasks_from": "after"}},
    ]
    book = place.root / "play.yml"
    own = {"queueops_fleet": fleet, "config_history_change": "tuning", "config_history_keep": 5}
    book.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "vars": own, "tasks": tasks}]))
    env = dict(
        os.environ,
        ANSIBLE_COLLECTIONS_PATH=os.fspath(BUILD),
        ANSIBLE_NOCOLOR="1",
        ANSIBLE_LOCAL_TEMP=str(place.root / "ansible"),
        ANSIBLE_PYTHON_INTERPRETER=sys.executable,
    )
    command = [sys.executable, "-m", "ansible", "playbook", "-i", "localhost,", "-c", "local", str(book), *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_before_and_after(place: Place) -> None:
    path = place.write("a.conf", "one\n")
    place.write("gates.json", "{}\n")
    before = place.picture()
    said = play(place, "--check")
    assert "changed=3" in said
    assert place.picture() == before
    assert not place.state.exists()
    said = play(place, "--diff")
    assert "+two" in said
    history = place.history(str(path))
    assert [(one.label, one.files) for one in history.list()] == [("before-tuning", 2), ("after-tuning", 2)]
    assert history.apply("before-tuning")
    assert path.read_text() == "one\n"
