# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The version store: what is fetched, refused, unpacked, switched to, and what a killed run leaves."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, NotFound, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._worker import artifact_fetch as artifacts
from ansible_collections.queueops.fleet.plugins.module_utils._worker import guard
from ansible_collections.queueops.fleet.plugins.module_utils._worker.artifact import MARKER
from ansible_collections.queueops.fleet.plugins.module_utils._worker.versions import VersionStore

from tests.unit.conftest import wait_for

ROOM = "ansible_collections.queueops.fleet.plugins.module_utils._worker"


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = kind, target, mode
    return member


def build(path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], kind: str = "gz") -> tuple[str, str]:
    """Write a tar archive; returns its path and its checksum."""
    how: Any = f"w:{kind}"
    with tarfile.open(path, how) as archive:
        for member, content in entries:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path), sum_of(path)


def sum_of(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, Any]:
    """Everything below `folder`: kind, mode and content of each name."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (state.st_mode, state.st_mtime_ns, content)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "opt" / "mailer"


@pytest.fixture
def store(root: Path) -> VersionStore:
    return VersionStore(str(root))


@pytest.fixture
def mailer(tmp_path: Path) -> tuple[str, str]:
    return build(tmp_path / "mailer.tar.gz", [(entry("bin", tarfile.DIRTYPE, mode=0o755), b""), (entry("bin/run", mode=0o755), b"one")])


@pytest.fixture
def other(tmp_path: Path) -> tuple[str, str]:
    return build(tmp_path / "other.tar.gz", [(entry("bin/run", mode=0o755), b"two")])


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", ""])
def test_prepare_unpacks_beside_keeping_the_layout(store: VersionStore, root: Path, tmp_path: Path, kind: str) -> None:
    entries = [
        (entry("mailer-1", tarfile.DIRTYPE, mode=0o777), b""),
        (entry("mailer-1/run", mode=0o4777), b"#!/bin/sh\n"),
        (entry("./mailer-1/deep/er/data", mode=0o600), b"\0\1"),
        (entry("mailer-1/link", tarfile.SYMTYPE, "deep/../run"), b""),
        (entry("mailer-1/hard", tarfile.LNKTYPE, "mailer-1/run"), b""),
    ]
    path, checksum = build(tmp_path / "artifact", entries, kind)
    assert store.prepare("1.0", path, checksum) is True
    folder = root / "versions" / "1.0"
    top = folder / "mailer-1"
    assert (top / "run").read_bytes() == b"#!/bin/sh\n"
    assert (top / "deep/er/data").read_bytes() == b"\0\1"
    assert os.readlink(top / "link") == "deep/../run"
    assert (top / "hard").stat().st_ino == (top / "run").stat().st_ino
    # Setuid and the write permission of others are gone; the worker's user gets in.
    assert (top / "run").stat().st_mode & 0o7777 == 0o755
    assert top.stat().st_mode & 0o7777 == 0o755
    assert (top / "deep/er/data").stat().st_mode & 0o7777 == 0o600
    for opened in (root, root / "versions", folder, top / "deep"):
        assert opened.stat().st_mode & 0o7777 == 0o755
    assert os.listdir(root / "versions") == ["1.0"]


def test_second_prepare_changes_nothing(store: VersionStore, root: Path, mailer: tuple[str, str]) -> None:
    assert store.prepare("1.0", *mailer) is True
    before = tree(root)
    assert store.check("1.0", *mailer) is False
    assert store.prepare("1.0", *mailer) is False
    # The artifact is not needed any more.
    os.unlink(mailer[0])
    assert store.prepare("1.0", *mailer) is False
    assert store.prepare("1.0", None, None) is False
    assert tree(root) == before


def test_same_version_from_another_artifact_is_refused(
    store: VersionStore, root: Path, mailer: tuple[str, str], other: tuple[str, str]
) -> None:
    store.prepare("1.0", *mailer)
    before = tree(root)
    for act in (store.prepare, store.check):
        with pytest.raises(Refused) as refused:
            act("1.0", *other)
        assert refused.value.option == "checksum"
        assert mailer[1] in refused.value.message
        assert other[1] in refused.value.message
    assert tree(root) == before


def test_wrong_checksum_leaves_nothing(store: VersionStore, root: Path, mailer: tuple[str, str], other: tuple[str, str]) -> None:
    store.prepare("0.9", *mailer)
    before = tree(root)
    for act in (store.check, store.prepare):
        with pytest.raises(Refused) as refused:
            act("1.0", mailer[0], other[1])
        assert refused.value.option == "checksum"
        assert mailer[1] in refused.value.message
        assert other[1] in refused.value.message
        assert "Nothing was unpacked" in refused.value.sentence()
    assert {name: what for name, what in tree(root).items() if name != "versions"} == {
        name: what for name, what in before.items() if name != "versions"
    }


@pytest.mark.parametrize("checksum", [None, "", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:abc", "0" * 64])
def test_checksum_is_required(store: VersionStore, root: Path, mailer: tuple[str, str], checksum: str | None) -> None:
    with pytest.raises(Refused) as refused:
        store.prepare("1.0", mailer[0], checksum)
    assert refused.value.option == "checksum"
    assert not root.exists()


@pytest.mark.parametrize("version", ["", "..", ".hidden", "a/b", "a b", "-rf", "1.0\n", "x" * 129])
def test_names_that_are_no_versions_are_refused(store: VersionStore, root: Path, mailer: tuple[str, str], version: str) -> None:
    for act in (partial(store.prepare, artifact=mailer[0], checksum=mailer[1]), store.require, store.activate):
        with pytest.raises(Refused) as refused:
            act(version)
        assert refused.value.option == "version"
    assert not root.exists()


UNSAFE: dict[str, list[tarfile.TarInfo]] = {
    "absolute name": [entry("/etc/x")],
    "leads out by dots": [entry("a/../../x")],
    "absolute link": [entry("l", tarfile.SYMTYPE, "/etc/passwd")],
    "link leads outside": [entry("a/l", tarfile.SYMTYPE, "../../x")],
    "link leads outside through a link": [
        entry("a/b/up", tarfile.SYMTYPE, "../.."),
        entry("l", tarfile.SYMTYPE, "a/b/up/../x"),
    ],
    "links in a circle": [entry("a", tarfile.SYMTYPE, "b"), entry("b", tarfile.SYMTYPE, "a")],
    "hard link outside": [entry("l", tarfile.LNKTYPE, "/etc/passwd")],
    "hard link by dots": [entry("l", tarfile.LNKTYPE, "../x")],
    "hard link to a link": [entry("s", tarfile.SYMTYPE, "f"), entry("l", tarfile.LNKTYPE, "s")],
    "character device": [entry("d", tarfile.CHRTYPE)],
    "block device": [entry("d", tarfile.BLKTYPE)],
    "pipe": [entry("p", tarfile.FIFOTYPE)],
    "file below a link": [entry("d", tarfile.DIRTYPE), entry("l", tarfile.SYMTYPE, "d"), entry("l/x")],
    "file below a later link": [entry("l/x"), entry("l", tarfile.SYMTYPE, "d")],
    "link replaced by a file": [entry("l", tarfile.SYMTYPE, "d"), entry("l")],
    "our marker": [entry(MARKER)],
}


@pytest.mark.parametrize("unsafe", list(UNSAFE), ids=[name.replace(" ", "-") for name in UNSAFE])
def test_unsafe_archive_is_refused_and_nothing_is_left(store: VersionStore, root: Path, tmp_path: Path, unsafe: str) -> None:
    # The harmless entry comes first: it must not be written either.
    path, checksum = build(tmp_path / "bad.tar.gz", [(entry("fine"), b"fine"), *((member, b"") for member in UNSAFE[unsafe])])
    outside = sorted(tmp_path.rglob("*"))
    with pytest.raises(Refused) as foreseen:
        store.check("1.0", path, checksum)
    assert sorted(tmp_path.rglob("*")) == outside
    with pytest.raises(Refused) as refused:
        store.prepare("1.0", path, checksum)
    assert refused.value.option == "artifact"
    assert refused.value.message == foreseen.value.message
    assert os.listdir(root / "versions") == []
    assert sorted(path for path in tmp_path.rglob("*") if root.parent not in (path, *path.parents)) == outside


@pytest.mark.parametrize("damage", ["not tar", "cut short", "empty"])
def test_damaged_archive_is_refused(store: VersionStore, root: Path, tmp_path: Path, mailer: tuple[str, str], damage: str) -> None:
    whole = Path(mailer[0]).read_bytes()
    bad = tmp_path / "bad"
    bad.write_bytes({"not tar": b"hello" * 1000, "cut short": whole[: len(whole) // 2], "empty": b""}[damage])
    for act in (store.check, store.prepare):
        with pytest.raises(Refused) as refused:
            act("1.0", str(bad), sum_of(bad))
        assert refused.value.option == "artifact"
    assert os.listdir(root / "versions") == []


def test_missing_or_odd_artifact_is_refused(store: VersionStore, root: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    checksum = "sha256:" + "0" * 64
    for artifact in (str(tmp_path / "none"), str(tmp_path / "pipe"), "relative.tar", "ftp://host/x", "file://host/x"):
        for act in (store.check, store.prepare):
            with pytest.raises(Refused) as refused:
                act("1.0", artifact, checksum)
            assert refused.value.option == "artifact"
    assert [entry["version"] for entry in store.list()] == []


def test_check_writes_nothing(store: VersionStore, root: Path, mailer: tuple[str, str]) -> None:
    assert store.check("1.0", *mailer) is True
    assert not root.parent.exists()


def test_version_is_filled_into_the_artifact(store: VersionStore, tmp_path: Path) -> None:
    _path, checksum = build(tmp_path / "mailer-1.0.tar", [(entry("x"), b"")], "")
    assert store.prepare("1.0", str(tmp_path / "mailer-{version}.tar"), checksum) is True


def test_memory_stays_bounded(store: VersionStore, tmp_path: Path) -> None:
    size = 48 * 1024 * 1024
    path, checksum = build(tmp_path / "big.tar", [(entry("big"), os.urandom(1024) * (size // 1024))], "")
    tracemalloc.start()
    store.prepare("1.0", path, checksum)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (Path(store.root) / "versions/1.0/big").stat().st_size == size
    assert peak < 4 * 1024 * 1024


# -- the link ------------------------------------------------------------------------------------------------------


def test_activate_switches_the_link(store: VersionStore, root: Path, mailer: tuple[str, str], other: tuple[str, str]) -> None:
    store.prepare("1.0", *mailer)
    store.prepare("1.1", *other)
    assert store.current() is None
    assert store.activate("1.0") is True
    assert os.readlink(root / "current") == "versions/1.0"
    assert (root / "current/bin/run").read_bytes() == b"one"
    assert store.activate("1.0") is False
    # What a killed switch left beside the link does not hinder the next one.
    os.symlink("nowhere", root / ".current.new")
    assert store.activate("1.1") is True
    assert store.current() == "1.1"
    assert [(one["version"], one["live"], one["unfinished"]) for one in store.list()] == [("1.0", False, False), ("1.1", True, False)]
    assert store.activate(None) is True
    assert store.activate(None) is False
    assert not os.path.lexists(root / "current")


def test_a_reader_never_finds_the_link_missing(store: VersionStore, root: Path, mailer: tuple[str, str], other: tuple[str, str]) -> None:
    store.prepare("1.0", *mailer)
    store.prepare("1.1", *other)
    store.activate("1.0")
    seen: set[bytes] = set()
    missing: list[str] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                seen.add((root / "current/bin/run").read_bytes())
            except OSError as error:
                missing.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(100):
        store.activate(("1.1", "1.0")[number % 2])
    over.set()
    reader.join()
    assert missing == []
    assert seen == {b"one", b"two"}


def test_unknown_version_is_refused_naming_those_there(store: VersionStore, root: Path, mailer: tuple[str, str]) -> None:
    store.prepare("1.0", *mailer)
    store.activate("1.0")
    for act in (store.require, store.activate):
        with pytest.raises(NotFound) as missing:
            act("2.0")
        assert "there are: 1.0" in missing.value.message
        assert missing.value.option == "version"
    assert store.current() == "1.0"


def test_foreign_things_are_refused_and_left(store: VersionStore, root: Path, tmp_path: Path, mailer: tuple[str, str]) -> None:
    store.prepare("1.0", *mailer)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.symlink(elsewhere, root / "current")
    for act in (store.current, lambda: store.activate("1.0"), lambda: store.activate(None)):
        with pytest.raises(Refused) as refused:
            act()
        assert refused.value.option == "worker.root"
    assert os.readlink(root / "current") == str(elsewhere)
    os.unlink(root / "current")
    (root / "current").mkdir()
    with pytest.raises(Refused):
        store.activate("1.0")
    (root / "versions/2.0").mkdir()
    with pytest.raises(Refused, match="not unpacked by queueops"):
        store.prepare("2.0", *mailer)
    with pytest.raises(NotFound, match="unfinished"):
        store.require("2.0")


def test_unknown_owner_is_refused_before_anything(root: Path, mailer: tuple[str, str]) -> None:
    for who in ({"owner": "no-such-user"}, {"group": "no-such-group"}):
        for act in ("check", "prepare"):
            with pytest.raises(NotFound) as refused:
                getattr(VersionStore(str(root), who.get("owner"), who.get("group")), act)("1.0", *mailer)
            assert refused.value.option == "worker." + next(iter(who))
    assert not root.exists()


def test_unpacked_files_belong_to_the_owner(root: Path, mailer: tuple[str, str]) -> None:
    # Only root can give files away.
    owner = 65534 if os.geteuid() == 0 else os.geteuid()
    VersionStore(str(root), str(owner)).prepare("1.0", *mailer)
    folder = root / "versions/1.0"
    for path in (folder, folder / "bin", folder / "bin/run"):
        assert path.stat().st_uid == owner
    # The marker is ours: the worker cannot claim to be another version.
    assert (folder / MARKER).stat().st_uid == os.geteuid()


# -- killed in the middle --------------------------------------------------------------------------------------------

DIE_AFTER = """
import os, signal, sys
from {room} import artifact_fetch, artifact_tar, versions
owner, name = {where}, {name!r}
real = getattr(owner, name)
def dying(*arguments, **options):
    real(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, dying)
versions.VersionStore(sys.argv[1]).prepare(sys.argv[2], sys.argv[3], sys.argv[4])
"""


@pytest.mark.parametrize(
    ("where", "name", "whole"),
    [
        ("os", "mkdir", False),
        ("artifact_tar", "fetch", False),
        ("artifact_tar", "_write_entry", False),
        ("artifact_tar", "unpack", False),
        ("versions", "_sync_file_system", False),
        ("versions.json", "dumps", False),
        ("os", "fsync", False),
        ("os", "rename", True),
    ],
)
def test_killed_unpacking_is_never_used_and_replaced(
    store: VersionStore, root: Path, mailer: tuple[str, str], where: str, name: str, whole: bool
) -> None:
    (root / "versions").mkdir(parents=True)
    guard.install(str(root))
    child = subprocess.run(
        [sys.executable, "-c", DIE_AFTER.format(room=ROOM, where=where, name=name), str(root), "1.0", *mailer],
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    if not whole:
        assert [(one["version"], one["unfinished"]) for one in store.list()] == [("1.0", True)]
        for act in (store.require, store.activate):
            with pytest.raises(NotFound, match="unfinished"):
                act("1.0")
        assert store.current() is None
    assert store.prepare("1.0", *mailer) is not whole
    assert os.listdir(root / "versions/1.0/bin") == ["run"]
    assert [(one["version"], one["unfinished"]) for one in store.list()] == [("1.0", False)]
    if not whole:
        assert os.listdir(root / "versions") == ["1.0"]


# -- over HTTP -------------------------------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: Any) -> None:
        pass


def serve(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    yield from serve(partial(Quiet, directory=str(tmp_path)))


class Odd(Quiet):
    """Leads to a local file, fails, or breaks off in the middle of its answer."""

    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        elif self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 1000)
        else:
            self.send_error(int(self.path[1:]))


@pytest.fixture
def odd() -> Iterator[str]:
    yield from serve(Odd)


def test_artifact_over_http(store: VersionStore, root: Path, web: str, mailer: tuple[str, str], other: tuple[str, str]) -> None:
    assert store.check("1.0", web + "/mailer.tar.gz", mailer[1]) is True
    assert not root.exists()
    with pytest.raises(Refused) as refused:
        store.prepare("1.0", web + "/mailer.tar.gz?token=hush", other[1])
    assert refused.value.option == "checksum"
    assert "hush" not in refused.value.sentence()
    assert os.listdir(root / "versions") == []
    assert store.prepare("1.0", web + "/mailer.tar.gz", mailer[1]) is True
    assert (root / "versions/1.0/bin/run").read_bytes() == b"one"
    assert store.prepare("1.1", "file://" + other[0], other[1]) is True


@pytest.mark.parametrize(
    ("path", "error"),
    [("/404", NotFound), ("/403", Refused), ("/500", Unavailable), ("/503", Unavailable), ("/moved", FleetError)],
)
def test_server_that_does_not_give_it(store: VersionStore, root: Path, odd: str, path: str, error: type[FleetError]) -> None:
    for act in (store.check, store.prepare):
        with pytest.raises(error) as refused:
            act("1.0", odd + path, "sha256:" + "0" * 64)
        assert refused.value.option == "artifact"
        assert odd + path in refused.value.message
    assert os.listdir(root / "versions") == []


def test_answer_that_breaks_off(store: VersionStore, root: Path, odd: str) -> None:
    with pytest.raises(FleetError):
        store.prepare("1.0", odd + "/cut", "sha256:" + "0" * 64)
    assert os.listdir(root / "versions") == []


def test_nobody_answers(store: VersionStore, root: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
        for act in (store.check, store.prepare):
            with pytest.raises(Unavailable) as refused:
                act("1.0", url, "sha256:" + "0" * 64)
            assert refused.value.option == "artifact"
    with pytest.raises(Refused) as secret:
        store.prepare("1.0", "https://me:hush@127.0.0.1/x", "sha256:" + "0" * 64)
    assert "hush" not in secret.value.sentence()


def test_two_runs_do_not_unpack_into_each_other(store: VersionStore, root: Path, mailer: tuple[str, str], tmp_path: Path) -> None:
    """A run whose server stalls keeps the lock; another is told, and after its death goes ahead."""
    with socket.create_server(("127.0.0.1", 0)) as stalled:
        url = f"http://127.0.0.1:{stalled.getsockname()[1]}/x"
        first = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; from {ROOM}.versions import VersionStore; VersionStore(sys.argv[1]).prepare('1.0', sys.argv[2], sys.argv[3])",
                str(root),
                url,
                mailer[1],
            ],
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
        )
        try:
            wait_for((root / "versions/.1.0.partial").exists, what="the first run's unpacking")
            with pytest.raises(FleetError, match="Another run"):
                store.prepare("1.0", *mailer)
        finally:
            first.kill()
            first.wait()
    assert store.prepare("1.0", *mailer) is True
    assert os.listdir(root / "versions") == ["1.0"]


def test_shown_hides_the_query() -> None:
    assert artifacts.shown("https://host:8/a/b.tgz?signature=hush#x") == "https://host:8/a/b.tgz"
