# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a disk may hold after the power was cut: a model of what a file system owes to whom did and who did not fsync.

The model, in plain words. A run is a list of operations. When the power goes after any of them, the disk holds:

- of each file, the content of its last fsync, or any later content, or a torn one: the first half of it, or as many zeros;
- of each directory, all entries of its last fsync; of the creations, renames, links and removals since then any part, in any
  order: one may be there though an earlier one is not. A rename is there or not, as one: never neither name, and never a name
  that leads to nothing. What was put under a name that is not there is not there either, even if it was fsynced itself;
- of modes, owners and attributes those of the last fsync of the file or of the directory that holds it, or later ones;
- everything, after a sync of the whole file system (syncfs).

For each length of the run these parts of what is not yet durable are tried: none of it; all of it, but data torn; all but one, and one
alone, for the newest and for three drawn by chance; and a part drawn by chance. The draws come from a fixed seed. The same disk is
judged once.

This is less than ext4 and XFS keep: their journals keep the order of metadata, and an fsync of a file makes the names that lead
to it durable. What passes here passes there.

Not covered: disks that lie about what they have written; a sector that is damaged where nothing was written; writes by anyone else at
the same time; file systems without atomic renames; that a removed file's blocks show up in another; the state of the services,
but for what a start of the machine does to them; operations outside of the host's folder, such as temporary files in /tmp.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.trace import Operation

#: Kinds of operations that change what names there are.
NAMING = ("create", "rename", "link", "symlink", "unlink", "mkdir", "rmdir")

#: What an operation makes.
_MAKES = {"create": "file", "mkdir": "directory", "symlink": "link"}


@dataclass
class Node:
    """A file, directory or symbolic link; hard links share one."""

    kind: str
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    content: bytes = b""
    target: str = ""
    names: dict[str, Node] = field(default_factory=dict)


class Disk:
    """A directory tree in memory."""

    def __init__(self, root: str, top: Node) -> None:
        self._root = root
        self._top = top

    @classmethod
    def read(cls, root: Path) -> Disk:
        """What is on the disk now; hard links there count as files of their own."""
        return cls(str(root), _read(root))

    def copy(self) -> Disk:
        """A disk that can be changed apart."""
        return Disk(self._root, _copied(self._top, {}))

    def apply(self, operation: Operation) -> bool:
        """Carry out one operation; False if what it needs is not there, so that it cannot have reached the disk."""
        folder, name = self._folder(operation.path)
        if folder is None:
            return False
        there = folder.names.get(name)
        if operation.kind in ("rename", "link"):
            source, old_name = self._folder(operation.source)
            node = None if source is None else source.names.get(old_name)
            if node is None or source is None:
                return False
            folder.names[name] = node
            if operation.kind == "rename":
                del source.names[old_name]
        elif operation.kind in _MAKES:
            kind = _MAKES[operation.kind]
            if kind != "directory" or there is None or there.kind != kind:
                folder.names[name] = Node(kind, operation.mode, target=operation.source)
        elif there is None or (operation.kind == "rmdir" and there.names):
            return False
        else:
            _alter(folder, name, there, operation)
        return True

    def write(self) -> None:
        """Make the real folder hold this, and nothing else."""
        shutil.rmtree(self._root)
        _write(Path(self._root), self._top, {})

    def key(self) -> int:
        """Equal for disks that hold the same."""
        return hash(_key(self._top))

    def _folder(self, path: str) -> tuple[Node | None, str]:
        inside = os.path.relpath(path, self._root)
        *parents, name = inside.split("/")
        node: Node | None = self._top
        for part in parents:
            node = None if node is None else node.names.get(part)
        return (None if node is None or node.kind != "directory" else node), name


def _alter(folder: Node, name: str, there: Node, operation: Operation) -> None:
    if operation.kind == "data":
        there.content = operation.content
    elif operation.kind == "mode":
        there.mode = operation.mode
    elif operation.kind in ("unlink", "rmdir"):
        del folder.names[name]


def disks(start: Disk, operations: Sequence[Operation], seed: int = 4) -> Iterator[tuple[str, Disk]]:
    """Every disk that the model allows at any length of the run, each once: what was lost, and the disk."""
    chance = random.Random(seed)
    seen: set[int] = set()
    for length in range(len(operations) + 1):
        done = operations[:length]
        durable = list(_durable(done))
        open_ones = [at for at, kept in enumerate(durable) if not kept]
        for what, lost, torn in _losses(done, open_ones, chance):
            disk = start.copy()
            for at, operation in enumerate(done):
                if at not in lost:
                    disk.apply(_torn(operation) if torn and at in open_ones else operation)
            key = disk.key()
            if key not in seen:
                seen.add(key)
                yield f"power cut after operation {length} ({operations[length - 1] if length else 'none'}), {what}", disk


def _losses(done: Sequence[Operation], open_ones: list[int], chance: random.Random) -> Iterator[tuple[str, set[int], bool]]:
    """The parts of what is not durable that are lost, and whether the data of the rest is torn."""
    everything = set(open_ones)
    yield "all that was not fsynced is gone", everything, False
    if any(done[at].kind == "data" for at in open_ones):
        yield "what was not fsynced is torn", set(), True
    few = set(open_ones[-1:]) | set(chance.sample(open_ones, min(3, len(open_ones))))
    for at in sorted(few):
        yield f"operation {at + 1} is gone ({done[at].kind} {done[at].path})", {at}, False
        yield f"operation {at + 1} alone arrived ({done[at].kind} {done[at].path})", everything - {at}, False
    if len(open_ones) > 2:
        lost = {at for at in open_ones if chance.random() < 0.5}
        yield f"operations {sorted(at + 1 for at in lost)} are gone", lost, chance.random() < 0.5


def _durable(done: Sequence[Operation]) -> Iterable[bool]:
    """For each operation whether a later fsync made it durable."""
    kept = [False] * len(done)
    for at, operation in enumerate(done):
        if operation.kind == "sync":
            kept[:at] = [True] * at
        elif operation.kind == "fsync":
            _keep(kept, done, at)
        if operation.kind in ("fsync", "sync", "service"):
            kept[at] = True
    return kept


def _keep(kept: list[bool], done: Sequence[Operation], at: int) -> None:
    """Mark what the fsync at ``at`` makes durable: a file's data and mode under every name it had, or a directory's entries."""
    path = done[at].path
    names = {path}
    for before in range(at - 1, -1, -1):
        operation = done[before]
        if operation.kind == "rename" and operation.path in names:
            names.add(operation.source)
        if operation.kind in ("data", "mode") and operation.path in names:
            kept[before] = True
        if operation.kind == "mode" and os.path.dirname(operation.path) == path:
            kept[before] = True
        if operation.kind in NAMING and os.path.dirname(operation.path) == path:
            kept[before] = True
            if operation.kind == "rmdir":
                # With a directory goes what was in it.
                kept[:before] = [
                    one or inside.path.startswith(operation.path + "/") for one, inside in zip(kept, done[:before], strict=False)
                ]


def _torn(operation: Operation) -> Operation:
    if operation.kind != "data" or not operation.content:
        return operation
    content = operation.content[: len(operation.content) // 2] if len(operation.path) % 2 else b"\0" * len(operation.content)
    return Operation("data", operation.path, operation.source, content, operation.mode)


def _read(path: Path) -> Node:
    found = path.lstat()
    owner = (found.st_uid, found.st_gid)
    if path.is_symlink():
        return Node("link", owner=owner, target=os.readlink(path))
    if path.is_dir():
        return Node("directory", found.st_mode & 0o7777, owner, names={child.name: _read(child) for child in path.iterdir()})
    return Node("file", found.st_mode & 0o7777, owner, path.read_bytes())


def _write(path: Path, node: Node, written: dict[int, Path]) -> None:
    if id(node) in written and node.kind == "file":
        os.link(written[id(node)], path)
        return
    written[id(node)] = path
    if node.kind == "link":
        path.symlink_to(node.target)
        return
    if node.kind == "directory":
        path.mkdir()
        for name, child in node.names.items():
            _write(path / name, child, written)
    else:
        path.write_bytes(node.content)
    path.chmod(node.mode)


def _copied(node: Node, copies: dict[int, Node]) -> Node:
    copy = copies.get(id(node))
    if copy is None:
        copy = copies[id(node)] = Node(node.kind, node.mode, node.owner, node.content, node.target)
        copy.names = {name: _copied(child, copies) for name, child in node.names.items()}
    return copy


def _key(node: Node) -> tuple[object, ...]:
    return (node.kind, node.mode, node.content, node.target, tuple((name, _key(child)) for name, child in sorted(node.names.items())))
