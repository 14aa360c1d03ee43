# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files as they are to be, laid over a state."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Iterable, Iterator

from .._errors import Refused
from . import xattrs
from .entries import DIRECTORY, FILE, Entry, Names, State, regrouped, with_parents
from .git import blob_id
from .watch import Watch, printable, to_bytes


@dataclass(frozen=True)
class DesiredFile:
    """A file as it is to be.

    :ivar dest: absolute path, within the watched paths.
    :ivar content: the whole content.
    :ivar mode: permission bits; None: as the live file has them, else 0644.
    :ivar owner: name or number; None: as the live file has it, else the user of this process. ``group`` the same.
    """

    dest: str
    content: bytes
    mode: int | None = None
    owner: str | None = None
    group: str | None = None


def overlaid(base: State, overlay: Iterable[DesiredFile]) -> State:
    """What ``base`` would be with these files in place; nothing is recorded or touched.

    :raises Refused: a file cannot be where it is wanted, or its owner is not known on this host.
    """
    names, watch = Names(), base.watch
    entries = dict(base.entries)
    contents: dict[str, bytes] = {}
    for wanted in overlay:
        dest = os.path.normpath(wanted.dest)
        if not wanted.dest.startswith("/") or not watch.covers(dest):
            raise Refused(
                f"{printable(wanted.dest)} is not within the watched paths, so it could not be put back",
                option="files",
                next_step="Add it, or the folder that it is in, to the watched paths",
            )
        if dest in contents:
            raise Refused(f"{printable(dest)} is given twice", option="files")
        old = entries.get(dest)
        if old is not None and old.kind == DIRECTORY:
            raise Refused(f"{printable(dest)} is a directory on the host and cannot become a file", option="files")
        blob = blob_id(wanted.content)
        entry = desired_entry(wanted, old, names)._replace(blob=blob, size=len(wanted.content))
        for parent in _covered_parents(dest, watch):
            if parent in entries and entries[parent].kind != DIRECTORY:
                raise Refused(f"{printable(dest)} cannot be written: {printable(parent)} is a {entries[parent].kind}", option="files")
        like = Entry(DIRECTORY, 0o755, os.geteuid(), os.getegid(), names.owner(os.geteuid()), names.group(os.getegid()))
        with_parents(entries, dest, watch, like)
        if old is None or old.kind != FILE:
            entry = entry._replace(xattrs=xattrs.inherited(_attributes_of_parent(dest, entries), entry.mode, is_folder=False))
        # A file that stays as it is stays one with the others that it is linked to.
        entries[dest] = old if old is not None and names.same(old, entry) else entry
        contents[dest] = wanted.content

    def content(path: str, entry: Entry) -> bytes:
        return contents[path] if path in contents else base.content(path, entry)

    return State(watch, regrouped(entries), content, base.holding)


def desired_entry(wanted: DesiredFile, old: Entry | None, names: Names) -> Entry:
    """The entry of a wanted file, what was left open taken from the old one."""
    uid = names.uid(old) if old is not None else os.geteuid()
    gid = names.gid(old) if old is not None else os.getegid()
    mode = old.mode if old is not None and old.kind == FILE else 0o644
    attributes = old.xattrs if old is not None and old.kind == FILE else ()
    mode = mode if wanted.mode is None else wanted.mode
    entry = Entry(FILE, mode, uid, gid, xattrs=None if attributes is None else xattrs.with_mode(attributes, mode))
    for what, given in (("owner", wanted.owner), ("group", wanted.group)):
        if given is None:
            continue
        named = entry._replace(owner=given, uid=-1, group=given, gid=-1)
        number = int(given) if given.isdigit() else names.uid(named) if what == "owner" else names.gid(named)
        if number < 0:
            raise Refused(
                f"There is no {'user' if what == 'owner' else 'group'} {given!r} on this host, for {printable(wanted.dest)}",
                option=what,
                next_step="Create it, or name another",
            )
        entry = entry._replace(uid=number) if what == "owner" else entry._replace(gid=number)
    return entry._replace(owner=names.owner(entry.uid), group=names.group(entry.gid))


def _attributes_of_parent(path: str, entries: dict[str, Entry]) -> xattrs.Attributes | None:
    """Of a parent that is not watched, the attributes that it has now."""
    parent = path.rpartition("/")[0] or "/"
    return entries[parent].xattrs if parent in entries else xattrs.read(to_bytes(parent)) if os.path.isdir(to_bytes(parent)) else ()


def _covered_parents(path: str, watch: Watch) -> Iterator[str]:
    parent = path.rpartition("/")[0]
    while parent and watch.covers(parent):
        yield parent
        parent = parent.rpartition("/")[0]
