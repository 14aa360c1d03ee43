# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""For random trees and random edits: snapshot, edits, back again gives the same tree, by find(1), sha256 and the attributes."""

from __future__ import annotations

import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._config.history import LIVE
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# An ordinary user has to be able to write in the folders; root need not care.
MODES = st.integers(0, 0o7777) if os.geteuid() == 0 else st.integers(0, 0o777).map(lambda mode: mode | 0o700)
AWKWARD = [
    b"a",
    b"a b",
    b"a\nb",
    b'"',
    b"\\",
    b"\xff",
    b".git",
    b"%2Egit",
    b"git~1",
    b"\xc3\xa4",
    b"-",
    b"a.conf",
    b".x",
    b"\r",
    b"*",
    b"n" * 255,
]
RANDOM = st.binary(min_size=1, max_size=12).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"0"))
NAMES = st.sampled_from(AWKWARD) | RANDOM.filter(lambda name: name not in (b".", b".."))
CONTENTS = st.binary(max_size=40) | st.text(max_size=20).map(str.encode) | st.sampled_from([b"", b"\0" * 700, b"a\r\n", b"no newline"])
FILES = st.tuples(st.just("file"), CONTENTS, MODES)
LINKS = st.tuples(st.just("link"), st.sampled_from([b"a", b"/etc/passwd", b"..", b"\xff\n", b"nowhere"]), st.just(0))
NODES = st.recursive(
    FILES | LINKS, lambda inner: st.tuples(st.just("folder"), st.dictionaries(NAMES, inner, max_size=4), MODES), max_leaves=8
)
TREES = st.dictionaries(NAMES, NODES, max_size=5)
WHAT = st.sampled_from(["remove", "write", "mode", "owner", "move", "put", "link", "attribute", "acl"])
EDITS = st.lists(st.tuples(WHAT, st.integers(0, 10**6), NODES, NAMES, MODES), max_size=12)

from tests.unit.config.conftest import Place


def put(path: bytes, node: tuple[str, Any, int]) -> None:
    kind, what, mode = node
    if kind == "link":
        os.symlink(what, path)
        return
    if kind == "file":
        with open(path, "wb") as stream:
            stream.write(what)
    else:
        os.mkdir(path)
        for name, inner in what.items():
            put(path + b"/" + name, inner)
    os.chmod(path, mode)


def remove(path: bytes) -> None:
    shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)


ATTRIBUTES = ("user.a", "user.b", "trusted.c") if os.geteuid() == 0 else ("user.a", "user.b")


def dress(path: bytes, what: str, pick: int, value: bytes, mode: int) -> None:
    """Change what a path has beside its content: mode, owner, an attribute, or an ACL for some user."""
    if what == "owner" and os.geteuid() == 0:
        os.lchown(path, pick % 3, pick % 5)
    if os.path.islink(path):
        return
    if what == "mode":
        os.chmod(path, mode)
    elif what == "attribute":
        os.setxattr(path, ATTRIBUTES[pick % len(ATTRIBUTES)], value)
    elif what == "acl":
        rights = [mode >> 6 & 7, pick % 8, mode >> 3 & 7, pick % 7, mode & 7]
        rows = zip((0x01, 0x02, 0x04, 0x10, 0x20), rights, (-1, pick % 5, -1, -1, -1), strict=True)
        name = "system.posix_acl_default" if os.path.isdir(path) and pick % 2 else "system.posix_acl_access"
        os.setxattr(path, name, struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *row) for row in rows))


def edit(root: bytes, todo: tuple[str, int, tuple[str, Any, int], bytes, int]) -> None:
    what, pick, node, name, mode = todo
    found = sorted(os.path.join(folder, each) for folder, folders, files in os.walk(root) for each in [*folders, *files])
    folders = [root] + [path for path in found if os.path.isdir(path) and not os.path.islink(path)]
    if what == "put":
        target = folders[pick % len(folders)] + b"/" + name
        if not os.path.lexists(target):
            put(target, node)
        return
    if not found:
        return
    path = found[pick % len(found)]
    if what == "remove":
        remove(path)
    elif what == "write":
        remove(path)
        put(path, node)
    elif what in ("mode", "owner", "attribute", "acl"):
        dress(path, what, pick, name, mode)
    elif what in ("link", "move"):
        target = folders[pick % len(folders)] + b"/" + name
        if what == "link" and os.path.isfile(path) and not os.path.islink(path) and not os.path.lexists(target):
            os.link(path, target)
        elif what == "move" and not os.path.lexists(target) and not (target + b"/").startswith(path + b"/"):
            os.rename(path, target)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(tree=TREES, edits=EDITS, more=EDITS)
def test_there_and_back_again(fast_path: Path, place_at: Callable[[Path], Place], tree: Any, edits: Any, more: Any) -> None:
    root = Path(tempfile.mkdtemp(dir=fast_path))
    place = place_at(root)
    etc = os.fsencode(place.etc)
    for name, node in tree.items():
        put(etc + b"/" + name, node)
    history = place.history()
    pictures, snapshots = [place.picture()], [history.snapshot()[0]]
    for batch in (edits, more):
        for todo in batch:
            edit(etc, todo)
        snapshot, recorded = place.history().snapshot()
        assert recorded is (place.picture() != pictures[-1])
        pictures.append(place.picture())
        snapshots.append(snapshot)
    for target in (0, 2, 1, 0):
        foreseen = place.history().diff(LIVE, snapshots[target])
        assert bool(foreseen) is (place.picture() != pictures[target])
        done = place.history().apply(snapshots[target])
        assert done == foreseen
        assert place.picture() == pictures[target]
        assert place.history().apply(snapshots[target]) == []
    assert place.git("fsck", "--strict", "--no-dangling") == ""
    shutil.rmtree(root)
