# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of the watched paths: what is there, as read from the live files or from a snapshot's manifest."""

from __future__ import annotations

import grp
import json
import os
import pwd
import stat
import time
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, Iterable, Mapping, Tuple

from .._errors import FleetError, Refused, Unavailable
from .git import Git
from .watch import Watch, parts, printable, to_bytes, to_text

FILE, DIRECTORY, SYMLINK = "file", "directory", "symlink"

#: The manifest's format; a reader refuses what is newer than it knows.
FORMAT = 1

#: How often a file that changes while it is read is read again.
ATTEMPTS = 5

#: Two writes within one tick of the kernel's clock leave the same time stamp: a file is read once its stamp is older.
CLOCK_TICK = 0.02


@dataclass(frozen=True)
class Entry:
    """One file, directory or symbolic link.

    :ivar kind: ``file``, ``directory`` or ``symlink``.
    :ivar mode: permission bits; 0 for a symbolic link.
    :ivar owner: name of the owner, empty if the host has no name for ``uid``. The same for ``group``.
    :ivar blob: git's id of a file's content, else empty.
    :ivar size: bytes of a file's content, else 0.
    :ivar target: where a symbolic link leads, else empty.
    """

    # Issue 4 puts hard links, extended attributes and ACLs here, and into _to_json, _look, same and apply._dress.
    kind: str
    mode: int
    uid: int
    gid: int
    owner: str = ""
    group: str = ""
    blob: str = ""
    size: int = 0
    target: str = ""

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"type": self.kind, "uid": self.uid, "gid": self.gid, "owner": self.owner, "group": self.group}
        if self.kind == SYMLINK:
            data["target"] = self.target
        else:
            data["mode"] = f"{self.mode:04o}"
        if self.kind == FILE:
            data.update(blob=self.blob, size=self.size)
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        return cls(
            kind=data["type"],
            mode=int(data.get("mode", "0"), 8),
            uid=data["uid"],
            gid=data["gid"],
            owner=data["owner"],
            group=data["group"],
            blob=data.get("blob", ""),
            size=data.get("size", 0),
            target=data.get("target", ""),
        )


class Names:
    """Names and numbers of users and groups, each looked up once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, Any], Any] = {}

    def _ask(self, what: str, key: Any, look_up: Callable[[], Any], otherwise: Any) -> Any:
        if (what, key) not in self._known:
            try:
                self._known[what, key] = look_up()
            except KeyError:
                self._known[what, key] = otherwise
        return self._known[what, key]

    def owner(self, uid: int) -> str:
        return str(self._ask("owner", uid, lambda: pwd.getpwuid(uid).pw_name, ""))

    def group(self, gid: int) -> str:
        return str(self._ask("group", gid, lambda: grp.getgrgid(gid).gr_name, ""))

    def uid(self, entry: Entry) -> int:
        """The number that the entry's owner has on this host: by name if the name is known here, else as recorded."""
        return int(self._ask("uid", (entry.owner, entry.uid), lambda: pwd.getpwnam(entry.owner).pw_uid, entry.uid))

    def gid(self, entry: Entry) -> int:
        return int(self._ask("gid", (entry.group, entry.gid), lambda: grp.getgrnam(entry.group).gr_gid, entry.gid))

    def same(self, one: Entry | None, other: Entry | None) -> bool:
        """Whether two entries are the same on this host: kind, content, mode, owner and group."""
        return self.same_content(one, other) and (one is None or other is None or self.same_dress(one, other))

    def same_dress(self, one: Entry, other: Entry) -> bool:
        """Whether mode, owner and group are the same."""
        return one.mode == other.mode and self.uid(one) == self.uid(other) and self.gid(one) == self.gid(other)

    @staticmethod
    def same_content(one: Entry | None, other: Entry | None) -> bool:
        """Whether kind and content are the same, whatever mode and owner."""
        if one is None or other is None:
            return one is other
        return (one.kind, one.blob, one.target) == (other.kind, other.blob, other.target)


#: Blob ids by path and stamp (issue 4 keeps this on disk as the stat cache, so that unchanged files are not read).
Known = Dict[Tuple[str, Tuple[int, ...]], str]


@dataclass
class State:
    """What is at the watched paths: live, in a snapshot, or as wanted.

    :ivar entries: by absolute path; what is watched and not in here is absent.
    :ivar holding: directories with something in them, at any depth, that is not watched; only known of a live state.
    :ivar content: gives a file's content.
    """

    watch: Watch
    entries: dict[str, Entry]
    content: Callable[[str, Entry], bytes]
    holding: set[str] = field(default_factory=set)

    def manifest(self) -> bytes:
        """The manifest as it is kept in a snapshot: JSON, the same bytes for the same state."""
        entries = {path: self.entries[path].to_json() for path in sorted(self.entries, key=parts)}
        data = {"format": FORMAT, "watch": self.watch.to_json(), "entries": entries}
        return json.dumps(data, indent=1).encode("ascii") + b"\n"

    def files(self) -> int:
        """The number of files and symbolic links."""
        return sum(1 for entry in self.entries.values() if entry.kind != DIRECTORY)


@dataclass(frozen=True)
class Change:
    """One path that is not the same in two states; None stands for absent."""

    path: str
    before: Entry | None
    after: Entry | None


def parse_manifest(data: bytes, where: str) -> tuple[Watch, dict[str, Entry]]:
    """The inverse of :meth:`State.manifest`.

    :param where: names the snapshot in the error.
    :raises Refused: a newer queueops.fleet wrote it.
    """
    parsed = json.loads(data.decode("ascii"))
    if parsed["format"] > FORMAT:
        raise Refused(
            f"{where} has format {parsed['format']}, this release of queueops.fleet knows up to {FORMAT}",
            next_step="Use the release of queueops.fleet that recorded it",
        )
    return Watch.from_json(parsed["watch"]), {path: Entry.from_json(entry) for path, entry in parsed["entries"].items()}


def changes(before: State, after: State, names: Names, watch: Watch) -> list[Change]:
    """What differs at the paths that ``watch`` and both states cover; the rest is nobody's to touch or to judge.

    A directory that is to be absent but holds something not watched stays, and is not listed.
    """
    watches = [watch] + [state.watch for state in (before, after) if state.watch is not watch]
    covered = {path for path in set(before.entries) | set(after.entries) if all(each.covers(path) for each in watches)}
    staying = set(before.holding)
    for path in before.entries:
        if path not in covered:
            staying.update(_parents(path))
    found = []
    for path in sorted(covered, key=parts):
        one, other = before.entries.get(path), after.entries.get(path)
        if names.same(one, other) or (other is None and path in staying):
            continue
        found.append(Change(path, one, other))
    return found


def read_live(watch: Watch, git: Git, names: Names, write: bool, known: Known) -> State:
    """Read the watched paths.

    :param write: also put each file's content into the repository.
    :param known: content by path and stamp: what is in here is not read again, and what is read is added.
    :raises Unavailable: a file kept changing while it was read; nothing torn is ever returned.
    :raises Refused: a file cannot be read with the permissions of this process.
    """
    found = _walk(watch)
    if _wait_for_clock(found):
        found = _walk(watch)
    restless: list[str] = []
    for _attempt in range(ATTEMPTS):
        unread = [path for path, node in found.nodes.items() if node.is_file and (path, node.stamp) not in known]
        failure: FleetError | None = None
        try:
            blobs = git.hash_files([to_bytes(path) for path in unread], write)
            known.update({(path, found.nodes[path].stamp): blob for path, blob in zip(unread, blobs)})
        except FleetError as error:
            failure = error  # git, too, fails on a file that changes or goes while it is read
        again = _walk(watch)
        restless = sorted(path for path in set(found.nodes) | set(again.nodes) if found.nodes.get(path) != again.nodes.get(path))
        if not restless and failure is not None:
            _explain_unreadable(unread)
            raise failure
        if not restless:
            entries = {path: _entry(node, known.get((path, node.stamp), ""), names) for path, node in found.nodes.items()}
            return State(watch, entries, live_content, found.holding)
        found = _walk(watch) if _wait_for_clock(again) else again
    shown = ", ".join(printable(path) for path in restless[:5])
    raise Unavailable(
        f"The watched files changed each of the {ATTEMPTS} times they were read: {shown or 'unknown'}",
        next_step="Exclude what is written all the time (option `exclude`), or run again",
    )


def read_some(paths: Iterable[str], git: Git, names: Names) -> dict[str, Entry | None]:
    """The live entry of each path, for paths that are not being changed by others; content is only hashed."""
    nodes: dict[str, _Node | None] = {}
    for path in sorted(paths, key=parts):
        # Below a former directory there is nothing, wherever a link in its place may lead.
        parent = nodes.get(path.rpartition("/")[0], _ANY)
        nodes[path] = _look(path) if parent is _ANY or (parent is not None and parent.is_directory) else None
    files = [path for path, node in nodes.items() if node is not None and node.is_file]
    blobs = dict(zip(files, git.hash_files([to_bytes(path) for path in files], write=False)))
    return {path: None if node is None else _entry(node, blobs.get(path, ""), names) for path, node in nodes.items()}


def live_content(path: str, _entry_of_path: Entry) -> bytes:
    """The content of a live file."""
    with open(to_bytes(path), "rb") as stream:
        return stream.read()


@dataclass(frozen=True)
class _Node:
    """What lstat and readlink tell of one path; for a file, ``stamp`` changes with each write."""

    format: int
    mode: int
    uid: int
    gid: int
    size: int
    target: str
    stamp: tuple[int, ...]

    @property
    def is_file(self) -> bool:
        return self.format == stat.S_IFREG

    @property
    def is_directory(self) -> bool:
        return self.format == stat.S_IFDIR


_ANY = _Node(0, 0, 0, 0, 0, "", ())


@dataclass
class _Walked:
    nodes: dict[str, _Node] = field(default_factory=dict)
    holding: set[str] = field(default_factory=set)
    newest: int = 0


def _walk(watch: Watch) -> _Walked:
    walked = _Walked()
    for root in watch.paths:
        node = _look(root)
        if node is not None:
            _visit(root, node, watch, walked)
    return walked


def _visit(path: str, node: _Node, watch: Watch, walked: _Walked) -> bool:
    """Add the path and what is in it; return whether something in it is not watched."""
    walked.nodes[path] = node
    if node.is_file:
        walked.newest = max(walked.newest, node.stamp[2])
    if not node.is_directory:
        return False
    holds = False
    try:
        names = os.listdir(to_bytes(path))
    except FileNotFoundError:
        return False  # gone since it was looked at: the second walk will differ
    except PermissionError as error:
        raise _unreadable(path, error) from error
    for name in names:
        child = path + "/" + to_text(name)
        inner = _look(child)
        if inner is None:
            continue
        # Sockets, pipes and devices are nothing that can be put back: they count as not watched.
        unwatched = inner.format not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK) or watch.leaves_out(child)
        holds = unwatched or _visit(child, inner, watch, walked) or holds
    if holds:
        walked.holding.add(path)
    return holds


def _look(path: str) -> _Node | None:
    raw = to_bytes(path)
    target = ""
    try:
        seen = os.lstat(raw)
        if stat.S_ISLNK(seen.st_mode):
            target = to_text(os.readlink(raw))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise _unreadable(path, error) from error
    except OSError as error:
        raise Unavailable(f"{printable(path)} cannot be looked at: {error.strerror}") from error
    is_file = stat.S_ISREG(seen.st_mode)
    stamp = (seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_dev) if is_file else ()
    return _Node(
        format=stat.S_IFMT(seen.st_mode),
        mode=0 if stat.S_ISLNK(seen.st_mode) else stat.S_IMODE(seen.st_mode),
        uid=seen.st_uid,
        gid=seen.st_gid,
        size=seen.st_size if is_file else 0,
        target=target,
        stamp=stamp,
    )


def _entry(node: _Node, blob: str, names: Names) -> Entry:
    kind = FILE if node.is_file else DIRECTORY if node.is_directory else SYMLINK
    return Entry(
        kind=kind,
        mode=node.mode,
        uid=node.uid,
        gid=node.gid,
        owner=names.owner(node.uid),
        group=names.group(node.gid),
        blob=blob,
        size=node.size,
        target=node.target,
    )


def _wait_for_clock(walked: _Walked) -> bool:
    """Wait until a further write would leave another stamp; return whether that took any time."""
    age = time.time() - walked.newest / 1e9
    if not 0 <= age < CLOCK_TICK:
        return False
    time.sleep(CLOCK_TICK - age)
    return True


def _explain_unreadable(paths: list[str]) -> None:
    for path in paths:
        try:
            with open(to_bytes(path), "rb"):
                pass
        except OSError as error:
            raise _unreadable(path, error) from error


def _unreadable(path: str, error: OSError) -> Refused:
    return Refused(
        f"{printable(path)} cannot be read: {error.strerror}",
        option="paths",
        next_step="Run as a user that may read it (`become: true`), or exclude it (option `exclude`)",
    )


def _parents(path: str) -> Iterable[str]:
    while path:
        path = path.rpartition("/")[0]
        if path:
            yield path


def with_parents(entries: dict[str, Entry], path: str, watch: Watch, like: Entry) -> None:
    """Add the directories that ``path`` needs and that are watched but absent, with the owner of ``like`` and mode 0755."""
    for parent in _parents(path):
        if watch.covers(parent) and parent not in entries:
            entries[parent] = replace(like, kind=DIRECTORY, mode=0o755, blob="", size=0, target="")
