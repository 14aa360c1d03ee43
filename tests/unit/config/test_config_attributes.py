# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hard links, extended attributes and ACLs: recorded, put back, compared, and refused where a host cannot have them."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._config.entries import State
from ansible_collections.queueops.fleet.plugins.module_utils._config.history import LIVE, DesiredFile
from ansible_collections.queueops.fleet.plugins.module_utils._config.recording import store
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused

from tests.unit.config.conftest import NOBODY, Mounts, Picture, Place, as_nobody

ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def acl(number: int, rights: int) -> bytes:
    """An ACL: owner rw, the user ``number`` with ``rights``, group r, others nothing."""
    rows = [(0x01, 6, -1), (0x02, rights, number), (0x04, 4, -1), (0x10, 4 | rights, -1), (0x20, 0, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows)


def test_attributes_and_acls_come_back(place: Place) -> None:
    path = place.write("a.conf", "one\n")
    os.setxattr(path, "user.origin", b"vault\0\xff")
    os.setxattr(path, ACCESS, acl(12, 6))
    os.setxattr(place.etc, DEFAULT, acl(13, 7))
    os.setxattr(path, "trusted.note", b"kept")
    inherits = place.write("inherits.conf", "two\n")
    history = place.history()
    first = history.snapshot()[0]
    before = place.picture()
    os.removexattr(path, "user.origin")
    os.removexattr(path, ACCESS)
    os.setxattr(path, "user.new", b"")
    os.setxattr(path, "trusted.note", b"other")
    os.removexattr(place.etc, DEFAULT)
    inherits.unlink()
    assert {diff.path for diff in history.diff(first, LIVE)} == {str(each) for each in (place.etc, path, inherits)}
    foreseen = history.apply(first, dry_run=True)
    assert history.apply(first) == foreseen
    assert place.picture() == before
    assert history.apply(first) == []
    text = "".join(diff.after for diff in foreseen)
    assert "acl user::rw-,user:12:rw-,group::r--,mask::rw-,other::---\n" in text
    assert "default acl user::rw-,user:13:rwx," in text
    assert "attribute user.origin = vault\\x00\\xff\n" in text


def test_attributes_of_sensitive_files_are_in_no_diff(place: Place) -> None:
    path = place.write("secret.key", "hunter2\n")
    first = place.history(sensitive=["*/secret*"]).snapshot()[0]
    os.setxattr(path, "user.password", b"hunter3")
    text = json.dumps([diff.as_ansible() for diff in place.history().diff(first, LIVE)])
    assert "user.password" in text
    assert "hunter" not in text


def test_one_file_by_two_names_is_one_again(place: Place) -> None:
    for name in ("a", "sub/b", "c"):
        place.write(name, "one\n")
    (place.etc / "sub/b").unlink()
    os.link(place.etc / "a", place.etc / "sub/b")
    os.link(place.etc / "a", place.etc / "d")
    history = place.history()
    first = history.snapshot()[0]
    before = place.picture()
    kept = (place.etc / "d").stat().st_ino
    (place.etc / "a").unlink()
    place.write("a", "one\n")
    assert [diff.path for diff in history.diff(first, LIVE)] == [str(place.etc / name) for name in ("a", "d", "sub/b")]
    history.apply(first)
    assert place.picture() == before
    assert (place.etc / "d").stat().st_ino == kept, "those that are one already are not touched"
    (place.etc / "d").unlink()
    assert [diff.path for diff in history.apply(first)] == [str(place.etc / "d")]
    assert (place.etc / "a").stat().st_ino == kept
    (place.etc / "c").unlink()
    os.link(place.etc / "a", place.etc / "c")
    history.apply(first)
    assert place.picture() == before
    (place.etc / "a").write_text("two\n")
    history.apply(first)
    assert place.picture() == before
    assert history.apply(first) == []


def test_a_wanted_file_leaves_its_links_and_keeps_its_attributes(place: Place) -> None:
    for name in ("a", "b", "c"):
        place.write(name, "one\n")
    for name in ("b", "c"):
        (place.etc / name).unlink()
        os.link(place.etc / "a", place.etc / name)
    os.setxattr(place.etc / "a", ACCESS, acl(12, 6))
    history = place.history()
    first = history.snapshot()[0]
    files = [DesiredFile(str(place.etc / "a"), b"two\n")]
    planned = history.snapshot("planned", overlay=files)[0]
    before = place.picture()
    history.apply(planned)
    assert [(place.etc / name).read_text() for name in "abc"] == ["two\n", "one\n", "one\n"]
    assert os.getxattr(place.etc / "a", ACCESS) == acl(12, 6)
    assert (place.etc / "b").stat().st_ino == (place.etc / "c").stat().st_ino
    assert history.snapshot() == (planned, False), "what is there is what was planned"
    history.apply(first)
    assert place.picture() == before


def test_a_new_file_gets_what_its_folder_hands_down(place: Place) -> None:
    """A worker that reads its config by a default ACL reads a new file, too; and a given mode is what it says."""
    os.setxattr(place.etc, DEFAULT, acl(12, 7))
    old = place.write("old.conf", "one\n", 0o644)
    os.setxattr(old, ACCESS, acl(13, 6))
    history = place.history()
    files = [
        DesiredFile(str(place.etc / "new.conf"), b"new\n", 0o640),
        DesiredFile(str(place.etc / "deep/er/new.conf"), b"new\n"),
        DesiredFile(str(old), b"two\n", 0o600),
    ]
    planned = history.snapshot("planned", overlay=files)[0]
    history.apply(planned)
    assert history.snapshot() == (planned, False)
    assert history.apply(planned) == []
    made = place.etc / "made.conf"
    made.touch()
    made.chmod(0o640)
    assert os.getxattr(place.etc / "new.conf", ACCESS) == os.getxattr(made, ACCESS), "as the kernel does it"
    (place.etc / "made").mkdir()
    (place.etc / "made").chmod(0o755)
    for name in (ACCESS, DEFAULT):
        assert os.getxattr(place.etc / "deep/er", name) == os.getxattr(place.etc / "made", name)
    assert [(place.etc / name).stat().st_mode & 0o777 for name in ("new.conf", "deep/er/new.conf", "old.conf")] == [0o640, 0o644, 0o600]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_host_that_cannot_have_an_attribute_says_so_beforehand(
    place: Place, mounts: Mounts, what: str, picture_of: Callable[..., Picture]
) -> None:
    path = place.write("sub/a.conf", "one\n")
    marked = path if what == "file" else path.parent
    os.setxattr(marked, "user.origin", b"vault")
    other = place.write("0.conf", "one\n")
    history = place.history()
    first = history.snapshot()[0]
    other.write_text("two\n")
    mounts.add(path.parent, "ramfs", "mode=755")
    if what == "file":
        path.write_text("two\n")
    before = picture_of(place.etc, ctime=True)
    for dry_run in (True, False):
        with pytest.raises(Refused, match=rf"{marked}.*user\.origin"):
            history.apply(first, dry_run=dry_run)
        assert picture_of(place.etc, ctime=True) == before


def test_an_attribute_that_does_not_fit_is_refused_while_it_is_staged(place: Place, mounts: Mounts) -> None:
    """A file system may take some attributes and not this one: tried on the staged copy, or on a folder of our own."""
    mounts.add(place.etc, "tmpfs", "size=1m,mode=755,nr_inodes=20")
    place.write("a.conf", "one\n")
    (place.etc / "sub").mkdir()
    history = place.history()
    first = history.snapshot()[0]
    for name, path in (("a.conf", place.etc / "a.conf"), ("sub", place.etc / "sub")):
        entries = dict(history.entries(first))
        # The kernel knows no such attribute in this name space of its own.
        entries[str(path)] = entries[str(path)]._replace(xattrs=(("security.nothing/" + "x" * 300, "eA=="),))
        place.write("b.conf", "two\n")
        wanted = State(history.watch, entries, history.nothing().content)
        commit, _tree = store(history._repository.git, wanted, b"impossible\n\nFiles: 1\n", "1 +0000", None)
        before = {each: value for each, value in place.picture(ctime=True).items() if each != os.fsencode(place.etc)}
        with pytest.raises(Refused, match=rf"{path} cannot be staged: its attribute security\.nothing"):
            history.apply(history._repository.one(commit, history._repository.refs())[0])
        after = place.picture(ctime=True)
        assert {each: value for each, value in after.items() if each != os.fsencode(place.etc) and each != os.fsencode(path)} == {
            each: value for each, value in before.items() if each != os.fsencode(path)
        }, name
        assert history.pending() is None


class First(State):
    """A state as the first release wrote it."""

    def manifest(self) -> bytes:
        data = json.loads(super().manifest())
        data["format"] = 1
        for entry in data["entries"].values():
            entry.pop("xattrs", None)
            entry.pop("link", None)
        return json.dumps(data, indent=1).encode()


def test_snapshots_of_the_first_format_are_still_good(place: Place) -> None:
    path = place.write("a.conf", "one\n")
    os.setxattr(path, "user.origin", b"vault")
    os.link(path, place.etc / "b.conf")
    history = place.history()
    state = history._live()

    with history._repository.locked():
        refs = history._repository.refs()
        old = history._repository.record(First(state.watch, state.entries, state.content), refs, "old", None, False)
    assert b'"format": 1' in place.git("show", f"{old.id}:manifest.json").encode()
    assert place.history().live() == place.history().resolve("old"), "what was not recorded is not judged"
    assert place.history().apply(old) == []
    path.write_text("two\n")
    assert [diff.path for diff in place.history().apply(old)] == [str(place.etc / name) for name in ("a.conf", "b.conf")]
    assert path.read_text() == "one\n"


def test_without_root_only_what_it_may_set_counts(fast_path: Path, place_at: Callable[[Path], Place]) -> None:
    fast_path.chmod(0o755)
    place = place_at(fast_path)
    path = place.write("a.conf", "one\n")
    os.setxattr(path, "user.origin", b"vault")
    os.setxattr(path, "trusted.note", b"root's")
    os.setxattr(path, "security.note", b"root's")
    first = place.history().snapshot()[0]
    said = fast_path / "said"
    said.mkdir()
    for each in [fast_path, *fast_path.rglob("*")]:
        os.chown(each, *NOBODY)

    def work() -> None:
        names = [name for name, _value in place.history()._live().entries[str(path)].xattrs or ()]
        (said / "names").write_text(json.dumps([names, [diff.before for diff in place.history().diff(first, LIVE)]]))

    assert as_nobody(work) == ""
    names, diffs = json.loads((said / "names").read_text())
    assert names == ["user.origin"]
    assert all("owner" in diff and "one\n" not in diff for diff in diffs), "it is the owner alone that differs"
