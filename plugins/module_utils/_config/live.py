# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads what is on the host now."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Iterable

from .._errors import Refused, Unavailable
from . import xattrs
from .entries import DIRECTORY, FILE, SYMLINK, Entry, Names, State
from .git import object_sum
from .statcache import CLOCK_TICK, Content, Seen, StatCache
from .watch import STAGED_MARK, Watch, parts, printable, to_bytes, to_text

#: How often a file that changes while it is read is read again.
ATTEMPTS = 5

_WATCHED_FORMATS = (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)

_BLOCK = 1 << 20


@dataclass
class Looked:
    """What a walk over the watched paths found, without reading any content.

    :ivar seen: each path's stamp; a directory's has its attributes instead of times, for these change with what is not watched.
    :ivar holding: directories with something in them, at any depth, that is not watched.
    :ivar newest: the newest change time of a file or symbolic link, in ns since 1970.
    :ivar when: when the walk began, in seconds since 1970.
    """

    seen: dict[str, Any] = field(default_factory=dict)
    holding: set[str] = field(default_factory=set)
    newest: int = 0
    when: float = 0.0


def look(watch: Watch) -> Looked:
    """Walk over the watched paths.

    :raises Refused: a directory cannot be read with the permissions of this process.
    """
    looked = _walk(watch)
    for _attempt in range(ATTEMPTS):
        if not _wait_for_clock(looked):
            break
        looked = _walk(watch)
    return looked


def read_live(watch: Watch, names: Names, cache: StatCache, looked: Looked | None = None) -> tuple[State, Looked]:
    """The state of the watched paths, and the walk that it was seen on.

    :param cache: what is in here by its stamp is not read again, and what is read is added.
    :param looked: a walk made just now.
    :raises Unavailable: a file kept changing while it was read; nothing torn is ever returned.
    :raises Refused: a file cannot be read with the permissions of this process.
    """
    looked = looked or look(watch)
    restless: list[str] = []
    for _attempt in range(ATTEMPTS):
        seen, unread, failed = looked.seen, [], {}
        for path, one in seen.items():
            if len(one) > 4 and cache.known(path, one) is None:
                unread.append(path)
        for path in unread:
            try:
                cache.learn(path, seen[path], _read(path, seen[path]))
            except OSError as error:
                failed[path] = error
        again = look(watch) if unread else looked
        restless = sorted(path for path in set(seen) | set(again.seen) if seen.get(path) != again.seen.get(path))
        young = [path for path in unread if 0 <= looked.when - seen[path][7] / 1e9 < CLOCK_TICK]
        for path in young:
            cache.forget(path)
        restless += young
        if not restless and failed:
            raise _unreadable(*next(iter(failed.items())))
        if not restless:
            return State(watch, _entries(looked, names, cache), live_content, looked.holding), looked
        looked = again
    shown = ", ".join(printable(path) for path in restless[:5])
    raise Unavailable(
        f"The watched files changed each of the {ATTEMPTS} times they were read: {shown or 'unknown'}",
        next_step="Exclude what is written all the time (option `exclude`), or run again",
    )


def read_some(paths: Iterable[str], names: Names) -> dict[str, Entry | None]:
    """The live entry of each path, for paths that are not being changed by others."""
    looked, cache = Looked(), StatCache(os.devnull)
    nothing: set[str] = set()
    ordered = sorted(paths, key=parts)
    for path in ordered:
        # Below a former directory there is nothing, wherever a link in its place may lead.
        parent = path.rpartition("/")[0]
        seen = None if parent in nothing else _look_at(path)
        if seen is None or not stat.S_ISDIR(seen[0]):
            nothing.add(path)
        if seen is not None and stat.S_IFMT(seen[0]) in _WATCHED_FORMATS:
            looked.seen[path] = seen
            if not stat.S_ISDIR(seen[0]):
                cache.learn(path, seen, _read(path, seen))
    found = _entries(looked, names, cache)
    return {path: found.get(path) for path in ordered}


def live_content(path: str, _entry_of_path: Entry) -> bytes:
    """The content of a live file."""
    with open(to_bytes(path), "rb") as stream:
        return stream.read()


def _walk(watch: Watch) -> Looked:
    looked = Looked(when=time.time())
    for root in watch.paths:
        seen = _look_at(root)
        if seen is not None and stat.S_IFMT(seen[0]) in _WATCHED_FORMATS:
            looked.seen[root] = seen
            if stat.S_ISDIR(seen[0]):
                _visit(root, watch, looked)
            else:
                looked.newest = max(looked.newest, seen[7])
    return looked


def _visit(folder: str, watch: Watch, looked: Looked) -> bool:
    """Add what is in a directory; return whether something in it is not watched."""
    holds = False
    below = []
    # Written out, for it is done for each file each time: names for calls, and calls for what is rare only.
    prefix, seen, newest, leaves_out = folder + "/", looked.seen, looked.newest, watch.leaves_out
    picky = bool(watch.exclude)
    try:
        with os.scandir(to_bytes(folder)) as listed:
            for each in listed:
                path = prefix + each.name.decode("utf-8", "surrogateescape")
                try:
                    found = each.stat(follow_symlinks=False)
                    kind = found.st_mode & 0o170000
                    one = _stamp_of_file(found) if kind != stat.S_IFDIR else _stamp(found, each.path)
                except FileNotFoundError:
                    continue  # gone since it was listed
                if kind not in _WATCHED_FORMATS or ((picky or STAGED_MARK in path) and leaves_out(path)):
                    holds = True  # sockets, pipes and devices are nothing that can be put back
                    continue
                seen[path] = one
                if kind == stat.S_IFDIR:
                    below.append(path)
                elif one[7] > newest:
                    newest = one[7]
    except FileNotFoundError:
        return False  # gone since it was looked at: the second walk will differ
    except PermissionError as error:
        raise _unreadable(folder, error) from error
    looked.newest = newest
    for path in below:
        holds = _visit(path, watch, looked) or holds
    if holds:
        looked.holding.add(folder)
    return holds


#: The stamp of all but a directory.
_stamp_of_file = attrgetter("st_mode", "st_uid", "st_gid", "st_size", "st_ino", "st_dev", "st_mtime_ns", "st_ctime_ns", "st_nlink")


def _stamp(found: os.stat_result, path: bytes) -> Any:
    if stat.S_ISDIR(found.st_mode):
        return (found.st_mode, found.st_uid, found.st_gid, xattrs.read(path))
    return _stamp_of_file(found)


def _look_at(path: str) -> Any:
    raw = to_bytes(path)
    try:
        return _stamp(os.lstat(raw), raw)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise _unreadable(path, error) from error
    except OSError as error:
        raise Unavailable(f"{printable(path)} cannot be looked at: {error.strerror}") from error


def _read(path: str, seen: Seen) -> Content:
    """What the stamp does not tell of a file or symbolic link."""
    raw = to_bytes(path)
    if stat.S_ISLNK(seen[0]):
        return ("", to_text(os.readlink(raw)), xattrs.read(raw))
    summed = object_sum("blob", seen[3])
    descriptor = os.open(raw, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        block = os.read(descriptor, _BLOCK)
        while block:
            summed.update(block)
            block = os.read(descriptor, _BLOCK)
    finally:
        os.close(descriptor)
    return (summed.hexdigest(), "", xattrs.read(raw))


def _entries(looked: Looked, names: Names, cache: StatCache) -> dict[str, Entry]:
    links = _links(looked.seen)
    dressed: dict[tuple[int, int, int], tuple[int, int, int, str, str]] = {}
    entries = {}
    for path, seen in looked.seen.items():
        mode, uid, gid = whose = seen[:3]
        dress = dressed.get(whose)
        if dress is None:
            bits = 0 if stat.S_ISLNK(mode) else stat.S_IMODE(mode)
            dress = dressed[whose] = (bits, uid, gid, names.owner(uid), names.group(gid))
        if len(seen) == 4:
            entries[path] = Entry(DIRECTORY, *dress, "", 0, "", seen[3], "")
            continue
        blob, target, attributes = cache.known(path, seen) or ("", "", ())
        if blob:
            entries[path] = Entry(FILE, *dress, blob, seen[3], "", attributes, links.get(path, ""))
        else:
            entries[path] = Entry(SYMLINK, *dress, "", 0, target, attributes, "")
    return entries


def _links(seen: dict[str, Any]) -> dict[str, str]:
    """For each file that has more than one watched path: the first of these."""
    by_inode: dict[tuple[int, int], list[str]] = {}
    for path, one in seen.items():
        if len(one) > 4 and one[8] > 1 and stat.S_ISREG(one[0]):
            by_inode.setdefault((one[4], one[5]), []).append(path)
    return {path: min(group, key=parts) for group in by_inode.values() if len(group) > 1 for path in group}


def _wait_for_clock(looked: Looked) -> bool:
    """Wait until a further write would leave another stamp; return whether that took any time."""
    age = time.time() - looked.newest / 1e9
    if not 0 <= age < CLOCK_TICK:
        return False
    time.sleep(CLOCK_TICK - age)
    return True


def _unreadable(path: str, error: OSError) -> Refused:
    return Refused(
        f"{printable(path)} cannot be read: {error.strerror}",
        option="paths",
        next_step="Run as a user that may read it (`become: true`), or exclude it (option `exclude`)",
    )
