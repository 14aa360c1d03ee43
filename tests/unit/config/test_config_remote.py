# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pushing the history: to a real repository, to one that is not there, and catching up."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._config import remote as room
from ansible_collections.queueops.fleet.plugins.module_utils._config.options import record
from ansible_collections.queueops.fleet.plugins.module_utils._config.remote import remote_of
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused

from tests.unit.config.conftest import Picture, Place, take_picture


def options(place: Place, **others: object) -> dict[str, object]:
    watched = {"paths": [str(place.etc)], "exclude": [], "sensitive": []}
    none = {"label": None, "release": None, "keep": None, "remote": None, "remote_branch": None}
    return {"fleet": "mailer", "state_dir": str(place.state), **watched, **none, **others}


def run(place: Place, dry_run: bool = False, **others: object) -> tuple[dict[str, Any], bool, list[str]]:
    result, changed, _diffs, warnings = record(options(place, **others), dry_run)
    return result, changed, warnings


def commits(repo: Path, branch: str) -> list[str]:
    done = subprocess.run(["git", "--git-dir", repo, "log", "--format=%s", branch], capture_output=True, text=True, check=True)
    return done.stdout.split()


def bare(repo: Path) -> str:
    subprocess.run(["git", "init", "--quiet", "--bare", repo], check=True)
    return f"file://{repo}"


def test_pushed_beside_the_code_and_once(place: Place, tmp_path: Path) -> None:
    url = bare(tmp_path / "remote.git")
    place.write("a.conf", "one\n")
    before: Picture = take_picture(tmp_path / "remote.git", ctime=True)
    result, changed, _warnings = run(place, dry_run=True, remote=url, remote_branch="config/worker-1")
    assert result["remote"] == {"done": False, "behind": 1, "error": None, "branch": "config/worker-1"}
    assert take_picture(tmp_path / "remote.git", ctime=True) == before
    result, changed, warnings = run(place, remote=url, remote_branch="config/worker-1", label="first")
    assert (changed, warnings) == (True, [])
    assert result["remote"] == {"done": True, "behind": 0, "error": None, "branch": "config/worker-1"}
    assert commits(tmp_path / "remote.git", "config/worker-1") == ["first"]
    result, changed, warnings = run(place, remote=url, remote_branch="config/worker-1")
    assert (changed, warnings) == (False, [])
    assert result["remote"] == {"done": False, "behind": 0, "error": None, "branch": "config/worker-1"}
    result, _changed, _warnings = run(place, remote=url)
    assert str(result["remote"]["branch"]).startswith("queueops/mailer/")


def test_a_remote_that_is_down_is_told_of_and_caught_up_with(place: Place, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/later.git"
    place.write("a.conf", "one\n")
    result, changed, warnings = run(place, remote=url, remote_branch="b", label="first")
    assert changed
    assert len(warnings) == 1
    assert "lacks 1 snapshot(s); the next run tries again" in warnings[0]
    for label in ("second", "third"):
        place.write("a.conf", label)
        _result, changed, warnings = run(place, remote=url, remote_branch="b", label=label, keep=1)
    assert "lacks 3 snapshot(s)" in warnings[0]
    assert [one.label for one in place.history().list()] == ["first", "second", "third"], "not dropped before it is pushed"
    bare(tmp_path / "later.git")
    result, changed, warnings = run(place, remote=url, remote_branch="b")
    assert (changed, warnings) == (False, [])
    assert commits(tmp_path / "later.git", "b") == ["third", "second", "first"]
    # What is there may go here, and the next push still fits.
    for label in ("fourth", "fifth"):
        place.write("a.conf", label)
        wanted: dict[str, Any] = {"remote": url, "remote_branch": "b", "label": label, "keep": 1}
        foreseen = run(place, dry_run=True, **wanted)[0]["dropped"]
        result, _changed, warnings = run(place, **wanted)
        assert warnings == []
        assert result["dropped"] == foreseen
    assert result["dropped"]
    assert [one.label for one in place.history().list()] == ["fourth", "fifth"]
    assert commits(tmp_path / "later.git", "b") == ["fifth", "fourth", "third", "second", "first"]
    assert place.git("fsck", "--strict", "--no-dangling") == ""


def test_a_remote_that_comes_after_snapshots_were_forgotten(place: Place, tmp_path: Path) -> None:
    url = bare(tmp_path / "remote.git")
    for label in ("first", "second", "third"):
        place.write("a.conf", label)
        run(place, label=label, keep=1)
    result, _changed, warnings = run(place, remote=url, remote_branch="b")
    assert result["remote"]["done"] is False
    assert "set receive.shallowUpdate to true in the remote repository" in warnings[0]
    subprocess.run(["git", "--git-dir", tmp_path / "remote.git", "config", "receive.shallowUpdate", "true"], check=True)
    assert run(place, remote=url, remote_branch="b")[0]["remote"]["done"] is True
    assert commits(tmp_path / "remote.git", "b") == ["third", "second"]


def test_a_remote_that_never_answers_takes_limited_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("a.conf", "one\n")
    monkeypatch.setattr(room, "PUSH_SECONDS", 0.3)
    monkeypatch.setenv("GIT_ALLOW_PROTOCOL", "ext")
    config = place.root / "gitconfig"
    config.write_text('[protocol "ext"]\n\tallow = always\n')
    monkeypatch.setenv("HOME", str(place.root))
    config.rename(place.root / ".gitconfig")
    _result, changed, warnings = run(place, remote=f"ext::{sys.executable} -c input()", remote_branch="b")
    assert changed
    assert "did not end within" in warnings[0]


def test_another_history_on_the_branch_is_not_overwritten(place: Place, tmp_path: Path) -> None:
    url = bare(tmp_path / "remote.git")
    place.write("a.conf", "one\n")
    run(place, remote=url, remote_branch="b", label="first")
    (tmp_path / "state").rename(tmp_path / "lost")
    place.write("a.conf", "two\n")
    _result, _changed, warnings = run(place, remote=url, remote_branch="b", label="other")
    assert "rejected" in warnings[0]
    assert commits(tmp_path / "remote.git", "b") == ["first"]


@pytest.mark.parametrize(
    ("url", "branch", "option"),
    [
        ("https://deploy:hunter2@git.example.com/x.git", None, "remote"),
        ("https://hunter2@git.example.com/x.git", None, "remote"),
        ("ssh://git:hunter2@git.example.com/x.git", None, "remote"),
        ("--upload-pack=hunter2", None, "remote"),
        (" ", None, "remote"),
        ("file:///x.git", "a..b", "remote_branch"),
        ("file:///x.git", "-x", "remote_branch"),
    ],
)
def test_secrets_and_nonsense_are_refused(place: Place, url: str, branch: str | None, option: str) -> None:
    place.write("a.conf", "one\n")
    with pytest.raises(Refused) as caught:
        run(place, remote=url, remote_branch=branch)
    assert caught.value.option == option
    assert "hunter2" not in caught.value.sentence()
    assert not os.path.exists(place.state)


def test_ordinary_remotes_are_fine() -> None:
    for url in ("ssh://git@git.example.com/x.git", "git@git.example.com:x.git", "/srv/x.git", "https://git.example.com/x.git"):
        assert remote_of(url, None, "mailer").url == url
