# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input and bad hosts: each refused, with the host the same afterwards."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._config.history import LIVE
from ansible_collections.queueops.fleet.plugins.module_utils._config.watch import Watch
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, MissingLibrary, NotFound, Refused

from tests.unit.config.conftest import Mounts, Place, take_picture


@contextmanager
def unchanged(place: Place) -> Iterator[None]:
    """Whatever is tried in here, state directory and watched paths stay the same."""
    before = take_picture(place.root, ctime=True)
    yield
    after = take_picture(place.root, ctime=True)
    # Staging something and taking it away again leaves its mark on a directory's own times.
    for picture in (before, after):
        for path in [path for path in picture if picture[path][0] == b"d"]:
            picture[path] = ()
    assert after == before


def two_states(place: Place) -> tuple[str, Path]:
    """The id of the first of two states, and a file that differs."""
    path = place.write("sub/a.conf", "one\n" * 100)
    place.write("sub/b.conf", "one\n")
    first = place.history().snapshot("first")[0]
    path.write_text("two\n")
    (place.etc / "sub/b.conf").unlink()
    place.history().snapshot("second")
    return first.id, path


@pytest.mark.parametrize("kind", ["socket", "pipe", "device"])
def test_special_files(place: Place, kind: str) -> None:
    two_states(place)
    path = place.root / "special"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        os.mknod(path, 0o20600, os.makedev(1, 3))
    with unchanged(place):
        history = place.history(str(path))
        for work in (history.check, history.snapshot, lambda: history.snapshot(dry_run=True), lambda: history.apply("first")):
            with pytest.raises(Refused, match="pipe" if kind == "pipe" else kind) as caught:
                work()
            assert caught.value.option == "paths"


@pytest.mark.parametrize("theirs", ["etc", "etc/sub", "etc/sub/a.conf", "alias/sub", "."])
def test_paths_of_two_fleets_may_not_overlap(place: Place, theirs: str) -> None:
    two_states(place)
    (place.root / "alias").symlink_to("etc")
    other = type(place.history())(str(place.state / "billing" / "config.git"), Watch([os.path.normpath(place.root / theirs)]))
    with unchanged(place):
        if theirs == ".":
            other.watch = Watch([str(place.root / "etc"), str(place.root / "other")])
        for work in (other.check, other.snapshot, lambda: other.snapshot(dry_run=True)):
            with pytest.raises(Refused, match="of the fleet mailer") as caught:
                work()
            assert "billing" not in os.listdir(place.state)
            assert str(place.repo) in (caught.value.next_step or "")


def test_neighbours_of_another_fleet_are_fine(place: Place) -> None:
    two_states(place)
    (place.root / "etc2").mkdir()
    other = type(place.history())(str(place.state / "billing" / "config.git"), Watch([str(place.root / "etc2")]))
    assert other.snapshot()[1]
    # What the first fleet does not watch any more is free for the other.
    place.history(str(place.root / "elsewhere")).snapshot()
    other.watch = Watch([str(place.etc)])
    assert other.snapshot()[1]


def fill(folder: Path) -> None:
    """Leave no space at all where ``folder`` is."""
    with open(folder / "ballast", "wb", buffering=0) as stream:
        block = 1 << 16
        while block:
            try:
                stream.write(b"x" * block)
            except OSError:
                block //= 2


def test_no_space_beside_the_files(place: Place, mounts: Mounts) -> None:
    mounts.add(place.etc, "tmpfs", "size=256k,mode=755")
    two_states(place)
    place.write("sub/big.conf", os.urandom(60_000))
    place.history(exclude=["ballast"]).snapshot("big")
    (place.etc / "sub/big.conf").unlink()
    fill(place.etc)
    history = place.history(exclude=["ballast"])
    history.snapshot("third")
    with unchanged(place):
        with pytest.raises(Refused, match="cannot be staged: No space left"):
            history.apply("big")
        assert not history.pending()
        assert history.diff(LIVE, history.resolve("third")) == []


def test_no_space_for_the_history(place: Place, mounts: Mounts) -> None:
    place.state.mkdir()
    mounts.add(place.state, "tmpfs", "size=512k,mode=700")
    first, _path = two_states(place)
    place.write("sub/big.conf", os.urandom(60_000))
    fill(place.state)
    known = place.history().list()
    before = place.picture(ctime=True)
    with unchanged(place):
        for work in (lambda: place.history().snapshot("more"), lambda: place.history().apply(first)):
            with pytest.raises(FleetError) as caught:
                work()
            assert re.search("No space left|Out of diskspace", caught.value.sentence())
            assert caught.value.still_true == "Nothing was changed"
            assert place.picture(ctime=True) == before
            assert place.history().list() == known
    (place.state / "ballast").unlink()
    assert place.history().snapshot("more")[1]
    assert place.git("fsck", "--strict", "--no-dangling") == ""


def test_read_only_file_system(place: Place, mounts: Mounts) -> None:
    first, _path = two_states(place)
    mounts.bind(place.etc / "sub", "ro")
    with unchanged(place):
        for dry_run in (True, False):
            with pytest.raises(Refused, match=r"(a|b)\.conf cannot be changed: the file system there is read-only"):
                place.history().apply(first, dry_run=dry_run)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_immutable(place: Place, what: str) -> None:
    first, path = two_states(place)
    marked = path if what == "file" else path.parent
    subprocess.run(["chattr", "+i", marked], check=True)
    try:
        with unchanged(place):
            for dry_run in (True, False):
                with pytest.raises(Refused, match="is immutable") as caught:
                    place.history().apply(first, dry_run=dry_run)
                assert f"chattr -i {marked}" in (caught.value.next_step or "")
    finally:
        subprocess.run(["chattr", "-i", marked], check=True)


def test_git_is_missing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _path = two_states(place)
    history = place.history()
    with unchanged(place), monkeypatch.context() as patch:
        patch.setenv("PATH", str(place.root / "nowhere"))
        for work in (history.snapshot, lambda: history.apply(first), lambda: history.resolve("first"), lambda: history.let_go(1)):
            with pytest.raises(MissingLibrary, match="git"):
                work()


def test_unknown_label(place: Place) -> None:
    two_states(place)
    with unchanged(place):
        for dry_run in (True, False):
            with pytest.raises(NotFound, match="'nightly'") as caught:
                place.history().apply("nightly", dry_run=dry_run)
            assert {one["label"] for one in caught.value.details["known"]} == {"first", "second"}


def test_a_damaged_manifest_is_named_and_the_other_snapshots_still_work(place: Place) -> None:
    first, path = two_states(place)
    place.write("third.conf", "three\n")
    place.history().snapshot("third")
    damaged = place.git("rev-parse", "labels/second:manifest.json").strip()
    stored = Path(place.repo, "objects", damaged[:2], damaged[2:])
    stored.chmod(0o600)
    stored.write_bytes(b"rubbish")
    before = place.picture()
    with pytest.raises(Refused, match="is missing or damaged"):
        place.history().apply("second")
    assert place.picture() == before
    (place.etc / "unrecorded.conf").write_text("x")
    history = place.history()
    assert history.live() is None
    assert history.apply(first)
    assert path.read_text() == "one\n" * 100
    assert history.apply("third")
    assert path.read_text() == "two\n"


def break_object(place: Place, ident: str, how: str) -> None:
    """Damage an object that lies by itself, or in the history's one pack."""
    if how == "packed":
        place.git("repack", "-a", "-d", "-q")
        [pack] = Path(place.repo, "objects/pack").glob("*.pack")
        rows = [line.split() for line in place.git("verify-pack", "-v", str(pack.with_suffix(".idx"))).splitlines()]
        offset = next(int(row[4]) for row in rows if row[0] == ident)
        content = bytearray(pack.read_bytes())
        content[offset + 10 : offset + 20] = bytes(10)
        pack.chmod(0o600)
        pack.write_bytes(content)
        return
    stored = Path(place.repo, "objects", ident[:2], ident[2:])
    stored.chmod(0o600)
    if how == "missing":
        stored.unlink()
    else:
        stored.write_bytes(stored.read_bytes()[:40] if how == "cut off" else b"rubbish")


@pytest.mark.parametrize("how", ["rubbish", "cut off", "missing", "packed"])
@pytest.mark.parametrize("which", ["first", "second", "third"])
def test_a_damaged_snapshot_is_named_and_the_others_still_work(place: Place, which: str, how: str) -> None:
    """Its commit cannot be read: git knows nothing of what came before it any more."""
    _first, path = two_states(place)
    place.write("third.conf", "three\n")
    place.history().snapshot("third")
    damaged = place.git("rev-parse", f"labels/{which}").strip()
    break_object(place, damaged, how)
    others = [label for label in ("first", "second", "third") if label != which]
    history = place.history()
    with unchanged(place):
        assert [one.label for one in history.list()] == others
        assert history.damaged == [damaged]
        for ref in (which, damaged, damaged[:9]):
            with pytest.raises(Refused, match=f"The snapshot {damaged} .* is damaged"):
                history.resolve(ref)
        assert history.let_go(1, dry_run=True) == []
    for label in others:
        place.history().apply(label)
        assert path.read_text() == ("one\n" * 100 if label == "first" else "two\n")
    # It goes on, and nothing that can be read is forgotten.
    place.write("fourth.conf", "four\n")
    assert place.history().snapshot("fourth")[1]
    # After the newest was damaged there is a new beginning, and what is damaged is out of the way.
    dropped = place.history().let_go(3)
    assert dropped == [] if which != "third" else [one.label for one in dropped] == ["first"]
    place.write("fifth.conf", "five\n")
    assert place.history().snapshot("fifth")[1]
    left = [label for label in (*others, "fourth") if label not in [one.label for one in dropped]]
    assert [one.label for one in place.history().list() if one.label] == [*left, "fifth"]
    for label in left:
        place.history().apply(label)
        assert place.history().live() == place.history().resolve(label)
