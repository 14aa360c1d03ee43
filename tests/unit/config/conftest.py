# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A watched folder, its history, and ways to look at folders that share nothing with the code under test."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._config.history import ConfigHistory
from ansible_collections.queueops.fleet.plugins.module_utils._config.watch import Watch
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError

Picture = dict[bytes, tuple[bytes, ...]]


def take_picture(root: Path, ctime: bool = False) -> Picture:
    """Every path under ``root`` by find(1): type, mode, owner, group, link target, inode and change time if wanted, and a checksum.

    Further the attributes, and the names of all that are the same file.
    """
    form = "%p\\0%y\\0%m\\0%U\\0%G\\0%l\\0%D %i\\0" + ("%i %C@" if ctime else "") + "\\0"
    listed = subprocess.run(["find", os.fspath(root), "-printf", form], capture_output=True, check=True).stdout.split(b"\0")
    found: Picture = {}
    rows = [listed[at : at + 8] for at in range(0, len(listed) - 1, 8)]
    inodes: dict[bytes, list[bytes]] = {}
    for path, *_rest, inode, _times in rows:
        inodes.setdefault(inode, []).append(path)
    for path, kind, *rest, inode, times in rows:
        links = b"\0".join(sorted(inodes[inode])) if kind == b"f" else b""
        content = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest().encode() if kind == b"f" else b""
        # The mode of a symbolic link means nothing.
        found[path] = (kind, *([b""] if kind == b"l" else rest[:1]), *rest[1:], times, attributes_of(path), links, content)
    return found


def attributes_of(path: bytes) -> bytes:
    """All attributes of a path itself, ACLs with them, as the kernel gives them."""
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return repr([(name, os.getxattr(path, name, follow_symlinks=False)) for name in names]).encode()


#: Only root can become another user; anybody else is an ordinary one already.
AS_ROOT = os.geteuid() == 0
NOBODY = (65534, 65534) if AS_ROOT else (os.geteuid(), os.getegid())


def in_child(work: Callable[[], None]) -> str:
    """Run ``work`` in a forked process; return the error that it ended with."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Whatever happens, the child must not go on as a second pytest.
        said = "something else than a FleetError"
        try:
            work()
            said = ""
        except FleetError as error:
            said = f"{type(error).__name__}: {error.message}"
        finally:
            os.write(writer, said.encode())
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    os.waitpid(pid, 0)
    return said


def as_nobody(work: Callable[[], None]) -> str:
    def drop() -> None:
        if AS_ROOT:
            os.setgroups([])
            os.setgid(NOBODY[1])
            os.setuid(NOBODY[0])
        work()

    return in_child(drop)


class Mounts:
    """File systems that a test mounts, gone after it."""

    def __init__(self) -> None:
        self._mounted: list[Path] = []

    def add(self, where: Path, kind: str, options: str) -> None:
        subprocess.run(["mount", "-t", kind, "-o", options, kind, where], check=True)
        self._mounted.append(where)

    def bind(self, where: Path, options: str) -> None:
        """Mount a folder over itself."""
        subprocess.run(["mount", "--bind", where, where], check=True)
        self._mounted.append(where)
        subprocess.run(["mount", "-o", f"remount,bind,{options}", where], check=True)

    def remove_all(self) -> None:
        for where in reversed(self._mounted):
            subprocess.run(["umount", "--lazy", where], check=True)


class Place:
    """A folder to watch, the state directory beside it, and a history over both."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.etc = root / "etc"
        self.etc.mkdir(mode=0o755)
        self.state = root / "state"
        self.repo = str(self.state / "mailer" / "config.git")
        self.sensitive: list[str] = []

    def history(self, *paths: str, exclude: list[str] | None = None, sensitive: list[str] | None = None) -> ConfigHistory:
        return ConfigHistory(self.repo, Watch(list(paths) or [str(self.etc)], exclude or [], sensitive or self.sensitive))

    def write(self, name: str, content: str | bytes, mode: int = 0o644) -> Path:
        path = self.etc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def picture(self, ctime: bool = False) -> Picture:
        return take_picture(self.etc, ctime)

    def git(self, *args: str) -> str:
        done = subprocess.run(["git", "--git-dir", self.repo, *args], capture_output=True, check=True, env={"PATH": os.environ["PATH"]})
        return done.stdout.decode("utf-8", "surrogateescape")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def picture_of() -> Callable[..., Picture]:
    return take_picture


@pytest.fixture
def place_at() -> Callable[[Path], Place]:
    """For tests that need many places."""
    return Place


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """A folder in memory where there is one: for tests with thousands of fsyncs."""
    folder = Path(tempfile.mkdtemp(prefix="qo-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    mounted = Mounts()
    yield mounted
    mounted.remove_all()
