# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting snapshots in place: what is touched, what is refused, and what happens when it fails half-way."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._config.history import LIVE, DesiredFile
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, Refused

from tests.unit.config.conftest import AS_ROOT, NOBODY, Picture, Place, as_nobody, in_child
from tests.unit.conftest import stamp


def test_everything_comes_back(place: Place) -> None:
    place.write("a.conf", "one\n", 0o640)
    place.write("tool", b"\x7fELF\0", 0o4755)
    place.write("sub/deep/b.conf", "b\n")
    os.chown(place.etc / "sub", 12, 34)
    (place.etc / "sub").chmod(0o2750)
    (place.etc / "link").symlink_to("nowhere at all")
    os.lchown(place.etc / "link", 5, 6)
    (place.etc / "empty").mkdir(mode=0o711)
    history = place.history()
    snapshot = history.snapshot()[0]
    before = place.picture()
    place.write("a.conf", "two\n", 0o666)
    (place.etc / "tool").unlink()
    (place.etc / "tool").mkdir()
    place.write("tool/inner/x", "x")
    os.rename(place.etc / "sub", place.etc / "moved")
    (place.etc / "sub").symlink_to("moved")
    (place.etc / "link").unlink()
    place.write("link", "a file now")
    (place.etc / "empty").rmdir()
    os.chown(place.etc, 1, 1)
    foreseen = history.diff(LIVE, snapshot)
    assert history.apply(snapshot) == foreseen
    assert place.picture() == before
    assert history.apply(snapshot) == []
    assert history.diff(LIVE, snapshot) == []
    assert not history.pending()


def test_what_is_the_same_is_not_touched(place: Place) -> None:
    same, other = place.write("same.conf", "same\n"), place.write("other.conf", "one\n")
    mode = place.write("mode.conf", "mode\n")
    history = place.history()
    snapshot = history.snapshot()[0]
    other.write_text("two\n")
    mode.chmod(0o600)
    before, inode = stamp(same), mode.stat().st_ino
    history.apply(snapshot)
    assert stamp(same) == before
    assert mode.stat().st_ino == inode
    assert stat.S_IMODE(mode.stat().st_mode) == 0o644
    assert other.read_text() == "one\n"
    assert sorted(os.listdir(place.etc)) == ["mode.conf", "other.conf", "same.conf"]


@pytest.mark.parametrize("sensitive", [False, True])
def test_what_comes_back_is_later_than_what_it_replaces_whatever_the_clock_says(place: Place, sensitive: bool) -> None:
    # Who polls a file goes by that: the SDKs' readers of feature gates do, and by nothing else.
    path = place.write("a.conf", "one\n")
    place.sensitive = ["a.conf"] if sensitive else []
    history = place.history()
    first = history.snapshot()[0]
    path.write_text("two\n")
    second = history.snapshot()[0]
    ahead = path.stat().st_mtime_ns + 3600 * 10**9
    os.utime(path, ns=(ahead, ahead))
    for snapshot in (first, second, first):
        before = path.stat().st_mtime_ns
        assert history.apply(snapshot)
        assert path.stat().st_mtime_ns > before


def test_what_was_never_recorded_is_recorded_first(place: Place) -> None:
    path = place.write("a.conf", "one\n")
    history = place.history()
    first = history.snapshot()[0]
    path.write_text("edited at night\n")
    history.apply(first)
    saved = history.list()[-1]
    assert history.saved is not None
    assert history.saved.id == saved.id
    assert path.read_text() == "one\n"
    history.apply(saved)
    assert path.read_text() == "edited at night\n"
    history.apply(first)
    assert len(history.list()) == 2


def test_a_folder_that_holds_something_not_watched_stays(place: Place) -> None:
    history = place.history(exclude=["*.pid"])
    snapshot = history.snapshot()[0]
    place.write("new/x.pid", "1\n")
    place.write("new/a.conf", "a\n")
    place.write("gone/a.conf", "a\n")
    assert [diff.path for diff in history.apply(snapshot)] == [str(place.etc / name) for name in ("gone", "gone/a.conf", "new/a.conf")]
    assert [path.name for path in place.etc.rglob("*")] == ["new", "x.pid"]
    assert history.apply(snapshot) == []
    assert history.live() == snapshot


def test_only_what_both_watched_is_touched(place: Place) -> None:
    place.write("a.conf", "one\n")
    place.write("b.conf", "one\n")
    snapshot = place.history().snapshot()[0]
    place.write("a.conf", "two\n")
    place.write("b.conf", "two\n")
    place.write("c.conf", "new\n")
    place.history(str(place.etc / "a.conf")).apply(snapshot)
    assert [(place.etc / name).read_text() for name in ("a.conf", "b.conf", "c.conf")] == ["one\n", "two\n", "new\n"]


@pytest.mark.parametrize("case", ["no parent", "in the way"])
def test_what_cannot_work_is_refused_beforehand(place: Place, case: str, picture_of: Callable[..., Picture]) -> None:
    inner = place.root / "opt" / "app.conf"
    inner.parent.mkdir()
    inner.write_text("app\n")
    place.write("thing", "a file\n")
    history = place.history(str(place.etc), str(inner), exclude=["*.pid"])
    snapshot = history.snapshot()[0]
    place.write("other", "x")
    if case == "no parent":
        inner.unlink()
        inner.parent.rmdir()
    else:
        (place.etc / "thing").unlink()
        place.write("thing/x.pid", "1\n")
    history.snapshot()
    before = picture_of(place.root)
    for dry_run in (True, False):
        with pytest.raises(Refused, match=r"/opt" if case == "no parent" else r"x\.pid") as caught:
            history.apply(snapshot, dry_run=dry_run)
        assert caught.value.next_step
        assert picture_of(place.root) == before


def test_validate_runs_on_staged_files_before_anything_changes(place: Place) -> None:
    path = place.write("a.conf", "good\n", 0o640)
    place.write("b.conf", "same\n")
    history = place.history()
    good = history.snapshot()[0]
    path.write_text("bad hunter2\n")
    bad = history.snapshot()[0]
    history.apply(good)
    before = place.picture(ctime=True)
    check = [sys.executable, "-c", "import sys, os; text = open(sys.argv[1]).read(); sys.exit(text) if 'bad' in text else None", "%s"]
    with pytest.raises(Refused, match=r"not valid.*exited 1: bad hunter2") as caught:
        history.apply(bad, validate=check)
    assert caught.value.option == "validate"
    with pytest.raises(Refused) as caught:
        place.history(sensitive=["a.conf"]).apply(bad, validate={"*/a.conf": check})
    assert "hunter2" not in caught.value.sentence()
    after = place.picture(ctime=True)
    # Staging beside the files changes the folder's own time, and nothing else.
    assert {path: seen for path, seen in after.items() if path != os.fsencode(place.etc)} == {
        path: seen for path, seen in before.items() if path != os.fsencode(place.etc)
    }
    for command, says in ((["/no/such/program", "%s"], "could not be started"), ([sys.executable], "no %s")):
        with pytest.raises(Refused, match=says):
            history.apply(bad, validate=command)
    assert not history.pending()
    mode_check = [sys.executable, "-c", "import os, sys; sys.exit(0 if os.stat(sys.argv[1]).st_mode & 0o777 == 0o640 else 'mode')", "%s"]
    assert len(history.apply(bad, validate={"*.conf": mode_check})) == 1
    assert path.read_text() == "bad hunter2\n"


def test_sensitive_files_are_closed_while_they_are_staged(place: Place) -> None:
    path = place.write("secret.key", "one\n", 0o644)
    os.chown(path, 12, 34)
    os.setxattr(path, "user.origin", b"vault")
    place.write("plain.conf", "one\n", 0o644)
    history = place.history(sensitive=["*/secret*"])
    first = history.snapshot()[0]
    before = place.picture()
    path.write_text("two\n")
    (place.etc / "plain.conf").write_text("two\n")
    seen = place.root / "seen"
    note = "import os, sys; seen = os.stat(sys.argv[1]); print(oct(seen.st_mode & 0o7777), seen.st_uid, file=open(sys.argv[2], 'a'))"
    # The next caller forgot the option: what was sensitive when it was recorded stays so.
    place.history().apply(first, validate={"*/secret*": [sys.executable, "-c", note, "%s", str(seen)]})
    assert seen.read_text() == "0o600 0\n"
    assert place.picture() == before


def test_an_edit_during_the_staging_is_not_lost(place: Place) -> None:
    path = place.write("a.conf", "one\n")
    history = place.history()
    first = history.snapshot()[0]
    path.write_text("two\n")
    meanwhile = [sys.executable, "-c", f"open({os.fspath(path)!r}, 'w').write('meanwhile')", "%s"]
    with pytest.raises(FleetError, match=r"a\.conf changed while"):
        history.apply(first, validate=meanwhile)
    assert path.read_text() == "meanwhile"
    assert os.listdir(place.etc) == ["a.conf"]


def test_staged_leftovers_are_never_recorded(place: Place) -> None:
    place.write("a.conf", "one\n")
    first = place.history().snapshot()[0]
    place.write(".a.conf.queueops-0123456789ab", "half")
    place.write(".sub.queueops-0123456789ab/inner", "half")
    assert place.history().snapshot() == (first, False)


def test_the_longest_names_fit(place: Place) -> None:
    for name in ("n" * 255, "ü" * 127):
        place.write(name, "one\n")
    history = place.history()
    snapshot = history.snapshot()[0]
    before = place.picture()
    for path in place.etc.iterdir():
        path.write_text("two\n")
    assert len(history.apply(snapshot)) == 2
    assert place.picture() == before


def fail_from(number: int, last: int) -> None:
    """From now on, the calls ``number`` to ``last`` that rename or remove a watched file fail with EIO."""
    count = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event in ("os.rename", "os.remove", "os.rmdir") and b"/etc/" in os.fsencode(args[0]):
            count += 1
            if number <= count <= last:
                raise OSError(errno.EIO, "Input/output error", args[0])

    sys.addaudithook(hook)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_failure_half_way_is_undone(place: Place, number: int) -> None:
    for name in ("a", "b", "c/d"):
        place.write(name, "one\n")
    history = place.history()
    first = history.snapshot()[0]
    place.write("a", "two\n")
    place.write("b", "two\n")
    (place.etc / "c" / "d").unlink()
    (place.etc / "c").rmdir()
    place.write("e", "two\n")
    history.snapshot()
    before = place.picture()

    def work() -> None:
        fail_from(number, number)
        history.apply(first)

    assert in_child(work).startswith("PutBack: ")
    assert place.picture() == before
    assert history.pending() is None
    history.apply(first)
    assert sorted(os.listdir(place.etc)) == ["a", "b", "c"]


def test_what_cannot_be_undone_is_said_and_finished_later(place: Place) -> None:
    for name in ("a", "b", "c"):
        place.write(name, "one\n")
    history = place.history()
    first = history.snapshot()[0]
    for name in ("a", "b", "c"):
        place.write(name, "two\n")
    before = place.picture()

    def work() -> None:
        fail_from(2, 10**9)
        history.apply(first)

    assert in_child(work).startswith("HalfDone: ")
    pending = history.pending()
    assert pending is not None
    assert (pending["phase"], pending["snapshot"]) == ("undoing", first.id)
    assert [diff.path for diff in history.recover()] == [str(place.etc / "a")]
    assert place.picture() == before
    assert history.recover() == []


def give_all(folder: Path) -> None:
    """Give everything below ``folder`` to the ordinary user."""
    for path in folder.rglob("*"):
        os.chown(path, *NOBODY)


def test_as_an_ordinary_user(fast_path: Path, place_at: Callable[[Path], Place]) -> None:
    fast_path.chmod(0o755)
    (fast_path / "home").mkdir()
    place = place_at(fast_path / "home")
    mine = place.write("mine.conf", "one\n", 0o600)
    (place.etc / "locked").mkdir()
    (place.etc / "locked" / "x").write_text("x")
    for path in (fast_path / "home", place.etc, mine, place.etc / "locked" / "x"):
        os.chown(path, *NOBODY)

    def record() -> None:
        place.history().snapshot("first")

    def edit_and_revert() -> None:
        mine.write_text("two\n")
        history = place.history()
        if len(history.apply(history.resolve("first"))) != 1 or mine.read_text() != "one\n":
            raise AssertionError("not reverted")

    assert as_nobody(record) == ""
    assert as_nobody(edit_and_revert) == ""
    # A file that belongs to somebody else cannot be put back by this user, and that is known before anything is touched.
    mine.write_text("two\n")
    if AS_ROOT:
        os.chown(mine, 0, 0)
    mine.chmod(0o644)
    place.history().snapshot("foreign")
    give_all(place.state)
    mine.unlink()
    before = place.picture()

    def revert(ref: str) -> Callable[[], None]:
        def work() -> None:
            history = place.history()
            history.apply(history.resolve(ref))

        return work

    if AS_ROOT:
        assert "only root can give a file away" in as_nobody(revert("foreign"))
    (place.etc / "locked" / "x").write_text("y")
    assert "locked is not writable" in as_nobody(revert("first"))
    (place.etc / "locked" / "x").write_text("x")
    assert place.picture() == before
    (place.etc / "unreadable").write_text("x")
    (place.etc / "unreadable").chmod(0)
    assert "unreadable cannot be read" in as_nobody(record)


def test_new_folders_of_an_overlay_go_again(place: Place) -> None:
    place.write("a.conf", "one\n")
    history = place.history()
    first = history.snapshot()[0]
    planned = history.snapshot(overlay=[DesiredFile(str(place.etc / "x/y/z.conf"), b"z")])[0]
    before = place.picture()
    history.apply(planned)
    assert (place.etc / "x/y/z.conf").read_text() == "z"
    history.apply(first)
    assert place.picture() == before
