# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of the watched paths, as data: what each path is, how two states compare, and the manifest that keeps one."""

from __future__ import annotations

import grp
import json
import pwd
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Iterator, Mapping, NamedTuple

from .._errors import Refused
from . import xattrs
from .watch import Watch, parts

FILE, DIRECTORY, SYMLINK = "file", "directory", "symlink"

#: The manifest's format; a reader refuses what is newer than it knows. Format 1 had neither attributes nor hard links.
FORMAT = 2


class Entry(NamedTuple):
    """One file, directory or symbolic link.

    :ivar kind: ``file``, ``directory`` or ``symlink``.
    :ivar mode: permission bits; 0 for a symbolic link.
    :ivar owner: name of the owner, empty if the host has no name for ``uid``. The same for ``group``.
    :ivar blob: git's id of a file's content, else empty.
    :ivar size: bytes of a file's content, else 0.
    :ivar target: where a symbolic link leads, else empty.
    :ivar xattrs: extended attributes and ACLs, see :mod:`xattrs`; None if they were not recorded (format 1).
    :ivar link: the first path of those that are one and the same file (hard links); empty: no other watched path is this file;
        None if that was not recorded.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    owner: str = ""
    group: str = ""
    blob: str = ""
    size: int = 0
    target: str = ""
    xattrs: xattrs.Attributes | None = ()
    link: str | None = ""

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"type": self.kind, "uid": self.uid, "gid": self.gid, "owner": self.owner, "group": self.group}
        if self.kind == SYMLINK:
            data["target"] = self.target
        else:
            data["mode"] = f"{self.mode:04o}"
        if self.kind == FILE:
            data.update(blob=self.blob, size=self.size)
        if self.xattrs is None or self.link is None:
            data["incomplete"] = True
        if self.xattrs:
            data["xattrs"] = dict(self.xattrs)
        if self.link:
            data["link"] = self.link
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        kind, attributes = data["type"], data.get("xattrs")
        link: str | None = data.get("link", "")
        recorded: xattrs.Attributes | None = tuple(sorted(attributes.items())) if attributes else ()
        if "incomplete" in data:
            recorded = link = None
        dress = (data["uid"], data["gid"], data["owner"], data["group"])
        if kind == FILE:
            return cls(FILE, int(data["mode"], 8), *dress, data["blob"], data["size"], "", recorded, link)
        if kind == DIRECTORY:
            return cls(DIRECTORY, int(data["mode"], 8), *dress, "", 0, "", recorded, link)
        return cls(SYMLINK, 0, *dress, "", 0, data["target"], recorded, link)


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
        """Whether two entries are the same on this host: kind, content, mode, owner, group and attributes."""
        return one == other or (self.same_content(one, other) and (one is None or other is None or self.same_dress(one, other)))

    def same_dress(self, one: Entry, other: Entry) -> bool:
        """Whether mode, owner, group and attributes are the same."""
        return (
            one.mode == other.mode
            and self.uid(one) == self.uid(other)
            and self.gid(one) == self.gid(other)
            and xattrs.same(one.xattrs, other.xattrs)
        )

    @staticmethod
    def same_content(one: Entry | None, other: Entry | None) -> bool:
        """Whether kind and content are the same, whatever mode and owner."""
        if one is None or other is None:
            return one is other
        return (one.kind, one.blob, one.target) == (other.kind, other.blob, other.target)


@dataclass
class State:
    """What is at the watched paths: live, in a snapshot, or as wanted.

    :ivar entries: by absolute path; what is watched and not in here is absent.
    :ivar holding: directories with something in them, at any depth, that is not watched; only known of a live state.
    :ivar content: gives a file's content.
    """

    watch: Watch
    entries: Mapping[str, Entry]
    content: Callable[[str, Entry], bytes]
    holding: set[str] = field(default_factory=set)
    _written: bytes = b""

    def manifest(self) -> bytes:
        """The manifest as it is kept in a snapshot: JSON with one path a line, the same bytes for the same state."""
        self._written = self._written or self._write()
        return self._written

    def _write(self) -> bytes:
        dumps = json.JSONEncoder().encode
        rows = [f"{dumps(path)}: {dumps(self.entries[path].to_json())}" for path in sorted(self.entries, key=parts)]
        head = f'{{"format": {FORMAT},\n"watch": {dumps(self.watch.to_json())},\n"entries": {{\n'
        return (head + ",\n".join(rows) + "\n}}\n").encode("ascii")

    def files(self) -> int:
        """The number of files and symbolic links."""
        return sum(1 for entry in self.entries.values() if entry.kind != DIRECTORY)


class Change(NamedTuple):
    """One path that is not the same in two states; None stands for absent."""

    path: str
    before: Entry | None
    after: Entry | None


class Recorded(Mapping[str, Entry]):
    """The entries of a manifest, each parsed when it is asked for: two manifests are compared line by line.

    :param lines: each path's line.
    :ivar linked: whether any hard link is recorded.
    """

    def __init__(self, lines: dict[str, str], linked: bool) -> None:
        self.linked = linked
        self._lines = lines
        self._parsed: dict[str, Entry] = {}

    def __getitem__(self, path: str) -> Entry:
        if path not in self._parsed:
            self._parsed[path] = Entry.from_json(json.loads(f"{{{self._lines[path]}}}")[path])
        return self._parsed[path]

    def __contains__(self, path: object) -> bool:
        return path in self._lines

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def differing(self, other: Recorded) -> set[str]:
        """The paths that have another line there, or none."""
        theirs = other._lines
        return {path for path, line in self._lines.items() if theirs.get(path) != line}


#: A line of the entries, and its path as JSON has it between quotes.
_ROW = re.compile(r'^("([^"\\]*(?:\\.[^"\\]*)*)": .*\}),?$', re.MULTILINE)


def parse_manifest(data: bytes, where: str) -> tuple[Watch, Mapping[str, Entry]]:
    """The inverse of :meth:`State.manifest`.

    :param where: names the snapshot in the error.
    :raises Refused: a newer queueops.fleet wrote it.
    """
    text = data.decode("ascii")
    first, _newline, rest = text.partition("\n")
    if first != f'{{"format": {FORMAT},':
        return _parse_other(json.loads(text), where)
    watch, _entries, rows = rest.split("\n", 2)
    lines = {path: line for line, path in _ROW.findall(rows)}
    if "\\" in rows:
        lines = {str(json.loads(f'"{path}"')): line for path, line in lines.items()}
    return Watch.from_json(json.loads(f"{{{watch.rstrip(',')}}}")["watch"]), Recorded(lines, '"link": ' in rows)


def _parse_other(parsed: Mapping[str, Any], where: str) -> tuple[Watch, Mapping[str, Entry]]:
    if parsed["format"] > FORMAT:
        raise Refused(
            f"{where} has format {parsed['format']}, this release of queueops.fleet knows up to {FORMAT}",
            next_step="Use the release of queueops.fleet that recorded it",
        )
    entries = {path: Entry.from_json(entry)._replace(xattrs=None, link=None) for path, entry in parsed["entries"].items()}
    return Watch.from_json(parsed["watch"]), entries


def changes(before: State, after: State, names: Names, watch: Watch) -> list[Change]:
    """What differs at the paths that ``watch`` and both states cover; the rest is nobody's to touch or to judge.

    A directory that is to be absent but holds something not watched stays, and is not listed.
    """
    ours, theirs = before.entries, after.entries
    suspects: Iterable[str] = ours.differing(theirs) if isinstance(ours, Recorded) and isinstance(theirs, Recorded) else ours
    differing = {path for path in suspects if not names.same(ours[path], theirs.get(path))}
    differing.update(path for path in theirs if path not in ours)
    differing.update(_relinked(before, after, watch))
    covered = sorted((path for path in differing if _all_cover(path, before, after, watch)), key=parts)
    staying = _staying(before, after, watch) if any(path in ours and path not in theirs for path in covered) else set()
    return [Change(path, ours.get(path), theirs.get(path)) for path in covered if path in theirs or path not in staying]


def _all_cover(path: str, before: State, after: State, watch: Watch) -> bool:
    return all(each.covers(path) for each in {id(one): one for one in (watch, before.watch, after.watch)}.values())


def _staying(before: State, after: State, watch: Watch) -> set[str]:
    """Directories that hold something which is not watched."""
    staying = set(before.holding)
    for path in before.entries:
        if not _all_cover(path, before, after, watch):
            staying.update(parents(path))
    return staying


def _relinked(before: State, after: State, watch: Watch) -> set[str]:
    """Files on both sides that are one with other such files than before, where both sides recorded that."""
    if not _any_link(before.entries) and not _any_link(after.entries):
        return set()
    both = {
        path
        for path, one in before.entries.items()
        if one.kind == FILE and one.link is not None and path in after.entries and after.entries[path].kind == FILE
    }
    both = {path for path in both if after.entries[path].link is not None and _all_cover(path, before, after, watch)}
    groups = [_groups({path: state.entries[path] for path in both}) for state in (before, after)]
    return {path for path in both if groups[0].get(path) != groups[1].get(path)}


def _any_link(entries: Mapping[str, Entry]) -> bool:
    return entries.linked if isinstance(entries, Recorded) else any(entry.link for entry in entries.values())


def _groups(entries: Mapping[str, Entry]) -> dict[str, tuple[str, ...]]:
    """For each path that is one file with others: all of these paths."""
    by_link: dict[str, list[str]] = {}
    for path in sorted((path for path, entry in entries.items() if entry.link), key=parts):
        by_link.setdefault(str(entries[path].link), []).append(path)
    return {path: tuple(group) for group in by_link.values() if len(group) > 1 for path in group}


def companions(found: Iterable[Change], before: State, after: State, watch: Watch) -> list[Change]:
    """``found``, and the unchanged paths that are one file with a changed one, before or after: an undo has to know them."""
    listed = {change.path: change for change in found}
    for state in (before, after):
        groups = _groups(state.entries) if _any_link(state.entries) else {}
        for path in list(listed):
            for other in groups.get(path, ()):
                if other not in listed and _all_cover(other, before, after, watch):
                    listed[other] = Change(other, before.entries.get(other), after.entries.get(other))
    return [listed[path] for path in sorted(listed, key=parts)]


def regrouped(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries with each hard link named by the first path of those that are left of its group."""
    groups = _groups(entries)
    named = {}
    for path, entry in entries.items():
        link = entry.link and (groups[path][0] if path in groups else "")
        named[path] = entry if link == entry.link else entry._replace(link=link)
    return named


def parents(path: str) -> Iterable[str]:
    while path:
        path = path.rpartition("/")[0]
        if path:
            yield path


def with_parents(entries: dict[str, Entry], path: str, watch: Watch, like: Entry) -> None:
    """Add the directories that ``path`` needs and that are watched but absent, with the owner of ``like`` and mode 0755."""
    for folder in reversed(list(parents(path))):
        if watch.covers(folder) and folder not in entries:
            above = entries.get(folder.rpartition("/")[0])
            attributes = xattrs.inherited(above.xattrs, 0o755, is_folder=True) if above is not None else ()
            entries[folder] = like._replace(kind=DIRECTORY, mode=0o755, blob="", size=0, target="", xattrs=attributes)
