# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be done to come from one state to another, in which order; and the file-system calls for it."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Callable, Iterable, Mapping, NamedTuple, Sequence

from .._errors import Refused
from .._files import make_later
from . import xattrs
from .entries import DIRECTORY, FILE, SYMLINK, Entry, Names
from .git import blob_id
from .watch import Watch, parts, printable, to_bytes

#: How many files and folders are made durable at once: the disk does it for all of them in about the time of one.
SYNCERS = 16


class Staged(NamedTuple):
    """One thing to create under a staged name.

    :ivar like: path of the file that it is to be one with (hard link); empty: it gets content of its own.
    :ivar held: it stays closed (0600) until it is put in place.
    """

    staged: str
    path: str
    entry: Entry
    like: str
    held: bool


class Steps:
    """The order of work between what is there and what is wanted.

    ``staged``: what to create under staged names, parents first. ``replacing``: renames over nothing or over the
    same sort. ``removing``: children first. ``arriving``: renames to where something of another sort was removed.
    ``dressing``: what only gets another mode, owner, group or attributes, in place.

    :param beside: gives the staged name of a path.
    :param watch: tells which paths are sensitive.
    """

    def __init__(
        self,
        wanted: Mapping[str, Entry | None],
        current: Mapping[str, Entry | None],
        names: Names,
        watch: Watch,
        beside: Callable[[str], str],
    ) -> None:
        self.names = names
        self.wanted = wanted
        self.staged: list[Staged] = []
        self.replacing: list[tuple[str, str]] = []
        self.removing: list[tuple[str, Entry]] = []
        self.arriving: list[tuple[str, str]] = []
        self.dressing: list[tuple[str, Entry]] = []
        self._watch = watch
        #: The path that those which are one file with it are linked to, by the name of the hard link.
        self._origins: dict[str, str] = {}
        self._inside: dict[str, str] = {}
        kept = self._kept(current)
        for path in sorted(wanted, key=parts):
            now, then = current[path], wanted[path]
            parent, _slash, name = path.rpartition("/")
            if parent in self._inside and then is not None:
                self._put(f"{self._inside[parent]}/{name}", path, then)
                continue
            if path in kept and names.same(now, then):
                continue
            if path in kept and then is not None and _in_place(then, now, names):
                self.dressing.append((path, then))
                continue
            other_sort = now is not None and (then is None or (now.kind == DIRECTORY) != (then.kind == DIRECTORY))
            if now is not None and other_sort:
                self.removing.append((path, now))
            if then is not None:
                staged = beside(path)
                self._put(staged, path, then)
                (self.arriving if other_sort else self.replacing).append((staged, path))
        self.removing.reverse()
        self.dressing.reverse()

    def files(self) -> dict[str, str]:
        """The live path of each staged file or link, by its staged path."""
        return {one.staged: one.path for one in self.staged if one.entry.kind != DIRECTORY}

    def _kept(self, current: Mapping[str, Entry | None]) -> set[str]:
        """The paths whose inode may stay: it is shared with just those of the other paths that it is to be shared with."""
        shared: dict[str, list[str]] = {}
        wanted: dict[str, list[str]] = {}
        for path in sorted(self.wanted, key=parts):
            now, then = current[path], self.wanted[path]
            if now is not None and now.link:
                shared.setdefault(now.link, []).append(path)
            if then is not None and then.link:
                wanted.setdefault(then.link, []).append(path)
        kept = set(self.wanted)
        for group in shared.values():
            known = [path for path in group if self.wanted[path] is not None]
            links = {getattr(self.wanted[path], "link", "") for path in known}
            if None not in links and (len(links) > 1 or "" in links) and len(known) > 1:
                kept.difference_update(known)
        for link, group in wanted.items():
            right = [path for path in group if path in kept and self.names.same(current[path], self.wanted[path])]
            inodes: dict[str, list[str]] = {}
            for path in right:
                inodes.setdefault(getattr(current[path], "link", "") or path, []).append(path)
            # All others are linked to the inode that most of them have already.
            most = max(inodes.values(), key=len, default=[])
            alike = {getattr(current[path], "link", "") or path for path in group}
            if most:
                kept.difference_update(set(group) - set(most))
                self._origins[link] = most[0]
            elif len(alike) > 1:
                kept.difference_update(group)
        return kept

    def _put(self, staged: str, path: str, entry: Entry) -> None:
        like = self._origins.get(entry.link, "") if entry.link else ""
        if entry.link and not like:
            self._origins[entry.link] = staged
        held = entry.kind == FILE and self._watch.is_sensitive(path)
        self.staged.append(Staged(staged, path, entry, like, held))
        if entry.kind == DIRECTORY:
            self._inside[path] = staged


def _in_place(then: Entry, now: Entry | None, names: Names) -> bool:
    """Whether the path can become what it is to be without being made anew. New attributes of a file are tried on a copy."""
    if now is None or not names.same_content(now, then):
        return False
    return then.kind == DIRECTORY or xattrs.same(now.xattrs, then.xattrs)


def create(steps: Steps, contents: Iterable[bytes], beside: Callable[[str], str]) -> None:
    """Create everything under its staged name, durably.

    :param contents: of each file that gets content of its own, in order.
    :raises Refused: the history gave other content than was recorded.
    """
    _try_attributes(steps, beside)
    content = iter(contents)
    written: list[int] = []
    try:
        for one in steps.staged:
            raw = to_bytes(one.staged)
            if one.entry.kind == DIRECTORY:
                os.mkdir(raw, 0o700)
            elif one.entry.kind == SYMLINK:
                os.symlink(to_bytes(one.entry.target), raw)
                _dress(raw, one.entry, steps.names)
            elif one.like:
                os.link(to_bytes(one.like), raw, follow_symlinks=False)
            else:
                written.append(_write(raw, one, next(content), steps.names))
                if len(written) == SYNCERS * 4:
                    _sync_and_close(written)
    finally:
        _sync_and_close(written)
    # Children first: a directory gets its mode when nothing more goes into it.
    folders = [one for one in reversed(steps.staged) if one.entry.kind == DIRECTORY]
    for one in folders:
        _dress(to_bytes(one.staged), one.entry, steps.names)
    sync_all([to_bytes(one.staged) for one in folders])


def put_in_place(steps: Steps) -> None:
    """Bring what is staged to where it belongs, and remove and dress the rest; durable when it returns."""
    for one in steps.staged:
        if one.held:
            _dress(to_bytes(one.staged), one.entry, steps.names)
    sync_all([to_bytes(one.staged) for one in steps.staged if one.held])
    for staged, path in steps.replacing:
        os.rename(to_bytes(staged), to_bytes(path))
    for path, entry in steps.removing:
        if entry.kind == DIRECTORY:
            os.rmdir(to_bytes(path))
        else:
            os.unlink(to_bytes(path))
    for staged, path in steps.arriving:
        os.rename(to_bytes(staged), to_bytes(path))
    for path, entry in steps.dressing:
        _dress(to_bytes(path), entry, steps.names)
    folders = sorted({path.rpartition("/")[0] or "/" for path in steps.wanted}, key=parts)
    sync_all([to_bytes(path) for path, _entry in steps.dressing] + [to_bytes(path) for path in folders if os.path.isdir(to_bytes(path))])


def sync_all(paths: Sequence[bytes]) -> None:
    """Make files and directories durable, many at once."""
    if len(paths) > 1:
        with ThreadPoolExecutor(SYNCERS) as pool:
            list(pool.map(sync, paths))
    for path in paths if len(paths) == 1 else ():
        sync(path)


def sync(path: bytes) -> None:
    """Make a file or directory durable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return  # a symbolic link, or a file whose owner may not read it: its directory is synced
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_attributes(steps: Steps, beside: Callable[[str], str]) -> None:
    """Try on a directory of our own what existing directories are to get, for those are dressed in place."""
    for path, entry in steps.dressing:
        if entry.kind == DIRECTORY and entry.xattrs:
            probe = to_bytes(beside(f"{path}/probe"))
            os.mkdir(probe, 0o700)
            try:
                xattrs.put(probe, entry.xattrs)
            except OSError as error:
                raise OSError(error.errno, error.strerror, to_bytes(path)) from error
            finally:
                os.rmdir(probe)


def _write(path: bytes, one: Staged, content: bytes, names: Names) -> int:
    """Write a staged file; return its open descriptor, not yet synced."""
    if blob_id(content) != one.entry.blob:
        raise Refused(
            f"The object {one.entry.blob} for {printable(one.path)} is damaged in the config history",
            next_step="Use another snapshot, and see what is damaged with `git fsck`",
        )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb", closefd=False) as stream:
        stream.write(content)
    with suppress(FileNotFoundError, NotADirectoryError):
        # Old content that comes back is news to who polls the file.
        make_later(descriptor, os.lstat(to_bytes(one.path)).st_mtime_ns)
    if one.held:
        xattrs.put(path, tuple(each for each in one.entry.xattrs or () if each[0] != xattrs.ACCESS_ACL))
        os.chmod(path, 0o600)
    else:
        _dress(path, one.entry, names)
    return descriptor


def _sync_and_close(descriptors: list[int]) -> None:
    try:
        if len(descriptors) > 1:
            with ThreadPoolExecutor(SYNCERS) as pool:
                list(pool.map(os.fsync, descriptors))
        elif descriptors:
            os.fsync(descriptors[0])
    finally:
        while descriptors:
            os.close(descriptors.pop())


def _dress(path: bytes, entry: Entry, names: Names) -> None:
    """Give a path its owner, group, attributes and mode; never more open in between than before or after."""
    uid, gid = names.uid(entry), names.gid(entry)
    now = os.lstat(path)
    if entry.kind != SYMLINK:
        narrow = stat.S_IMODE(now.st_mode) & entry.mode
        if narrow != stat.S_IMODE(now.st_mode):
            os.chmod(path, narrow)
    if (now.st_uid, now.st_gid) != (uid, gid):
        os.lchown(path, uid if uid != now.st_uid else -1, gid if gid != now.st_gid else -1)
    xattrs.put(path, entry.xattrs)
    if entry.kind != SYMLINK:
        os.chmod(path, entry.mode)
