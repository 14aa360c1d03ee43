# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The process is killed at each file-system call in turn: afterwards the files are the old or the new ones, whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._config.history import Snapshot

from tests.unit.config.conftest import Place
from tests.unit.config.crash import killed_at
from tests.unit.conftest import wait_for


def build(place: Place) -> Snapshot:
    """Two states that differ in every way, with the second one live; returns the snapshot of the first."""
    place.write("a.conf", "one\n", 0o640)
    place.write("folder/inner", "inner\n")
    place.write("becomes-folder", "file\n")
    (place.etc / "link").symlink_to("a.conf")
    os.link(place.write("shared", "shared\n"), place.etc / "folder/also-shared")
    os.setxattr(place.etc / "a.conf", "user.origin", b"first")
    os.setxattr(place.etc, "user.origin", b"first")
    place.write("secret.key", "one\n", 0o644)
    place.sensitive = ["secret*"]
    history = place.history()
    first = history.snapshot("first")[0]
    place.write("secret.key", "two\n", 0o644)
    os.setxattr(place.etc / "a.conf", "user.origin", b"second")
    os.removexattr(place.etc, "user.origin")
    (place.etc / "folder/also-shared").unlink()
    place.write("a.conf", "two\n", 0o600)
    (place.etc / "folder/inner").unlink()
    (place.etc / "folder").rmdir()
    (place.etc / "becomes-folder").unlink()
    place.write("becomes-folder/x", "x\n")
    (place.etc / "link").unlink()
    place.write("new", "new\n", 0o400)
    os.link(place.etc / "new", place.etc / "new-too")
    history.snapshot("second")
    return first


def test_killed_at_every_call_of_an_apply(fast_path: Path, place_at: Callable[[Path], Place]) -> None:
    """And again at some call of the recovery, a different one each time."""
    (fast_path / "host").mkdir()
    place = place_at(fast_path / "host")
    first = build(place)
    old = place.picture()
    subprocess.run(["cp", "-a", place.root, fast_path / "saved"], check=True)
    place.history().apply(first)
    new = place.picture()
    assert old != new
    points = {"old": 0, "new": 0}
    number = 0
    alive = False
    while not alive:
        number += 1
        shutil.rmtree(place.root)
        subprocess.run(["cp", "-a", fast_path / "saved", place.root], check=True)
        alive = not killed_at(number, lambda: place.history().apply(first))
        killed_at(1 + number % 37, lambda: place.history().recover())
        history = place.history()
        history.recover()
        found = place.picture()
        assert found in (old, new), f"a mixture after a kill at call {number}"
        points["old" if found == old else "new"] += 1
        assert history.pending() is None
        if number % 15 == 0 or alive:
            assert place.git("fsck", "--strict", "--no-dangling") == ""
            history.apply(first)
            assert place.picture() == new
            assert history.snapshot() == (history.resolve("first"), False)
    print(f"killed at {number - 1} calls: {points}")
    assert points["old"] > 20
    assert points["new"] > 20


def test_killed_at_every_call_of_a_snapshot(fast_path: Path, place_at: Callable[[Path], Place]) -> None:
    """Each time the history is whole: without the snapshot or with it; and the next snapshot works."""
    place = place_at(fast_path)
    place.write("a.conf", "one\n")
    (place.etc / "link").symlink_to("a.conf")
    before = place.picture(ctime=True)
    number = 0
    alive = False
    while not alive:
        number += 1
        alive = not killed_at(number, lambda: place.history().snapshot("first", 0))
        history = place.history()
        assert [one.label for one in history.list()] in ([], ["first"])
        snapshot = history.snapshot("first", 0)[0]
        assert place.picture(ctime=True) == before
        assert [one.id for one in history.list()] == [snapshot.id]
        assert history.resolve("first").id == snapshot.id
        assert number % 10 or history.snapshot("first", 0) == (snapshot, False)
        assert sorted(os.listdir(Path(place.repo, "queueops"))) == ["complete", "lock", "moments", "paths", "stat-cache"]
        assert not alive or place.git("fsck", "--strict", "--no-dangling") == ""
        shutil.rmtree(place.state)
    print(f"killed at {number - 1} calls")
    assert number > 30


def interrupted(place: Place, first: Snapshot) -> None:
    """Kill an apply before its second rename of a watched file, so that the files are a mixture."""

    def is_watched_rename(event: str, args: tuple[Any, ...]) -> bool:
        return event == "os.rename" and os.fsencode(args[1]).startswith(os.fsencode(place.etc))

    assert killed_at(2, lambda: place.history().apply(first), is_watched_rename)
    pending = place.history().pending()
    assert pending is not None
    assert pending["phase"] == "renaming"


def test_the_next_snapshot_finishes_first(fast_path: Path, place_at: Callable[[Path], Place]) -> None:
    place = place_at(fast_path)
    first = build(place)
    interrupted(place, first)
    history = place.history()
    assert history.snapshot(dry_run=True) == (first, False), "check mode foresees the recovery"
    assert history.snapshot() == (first, False)
    assert history.recovered
    assert history.pending() is None
    assert place.history().apply(first) == []


def test_the_same_revert_again_ends_where_it_was_going(fast_path: Path, place_at: Callable[[Path], Place]) -> None:
    place = place_at(fast_path)
    first = build(place)
    interrupted(place, first)
    history = place.history()
    assert list(place.etc.glob(".*.queueops-*"))
    target = history.resolve("previous")
    assert target.id == first.id
    foreseen = history.apply(target, dry_run=True)
    assert foreseen
    assert history.apply(target) == foreseen
    assert history.live() == first
    assert len(history.list()) == 2, "the mixture is not recorded"
    assert not list(place.etc.glob(".*.queueops-*"))


def test_a_git_that_outlives_its_parent_keeps_the_lock(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next run would take the lock files of a git that is still at work for stale."""
    place.write("a.conf", "one\n")
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    # The real git, held up at one command until the file "go" appears.
    wait = f'touch "{tmp_path}/waiting"; until [ -e "{tmp_path}/go" ]; do sleep 0.02; done'
    wrapper.write_text(f'#!/bin/sh\ncase "$*" in *rev-parse*) {wait};; esac\nexec "{shutil.which("git")}" "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    pid = os.fork()
    if pid == 0:
        try:
            place.history().snapshot()
        finally:
            os._exit(0)
    wait_for((tmp_path / "waiting").exists, what="git at rev-parse")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

    def is_free() -> bool:
        with open(Path(place.repo, "queueops", "lock"), "rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    assert not is_free()
    (tmp_path / "go").touch()
    wait_for(is_free, what="the lock to be free")
    assert place.history().snapshot()[1]
