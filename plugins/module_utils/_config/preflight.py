# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuses what is known to fail before anything is touched."""

from __future__ import annotations

import fcntl
import os
import struct
from typing import Sequence

from .._errors import Refused
from . import xattrs
from .entries import DIRECTORY, FILE, Change, Entry, Names
from .watch import printable, to_bytes, to_text

#: FS_IOC_GETFLAGS of linux/fs.h, as most machines have it, and two of the flags; where it is another, nothing is learned.
_GET_FLAGS = 0x80006601 | struct.calcsize("l") << 16
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20

#: Stands for the entry of a path that no change takes away.
_STAYS = Entry(FILE, 0, 0, 0)


def preflight(found: Sequence[Change], names: Names) -> None:
    """Refuse what is known to fail before anything is touched.

    :raises Refused: a parent directory is missing, something not watched is in the way, or this user may not do it.
    """
    wanted: dict[str, Entry | None] = {change.path: change.after for change in found}
    for change in found:
        parent = change.path.rpartition("/")[0] or "/"
        after = change.after
        if after is not None:
            coming = wanted.get(parent)
            if not (coming is not None and coming.kind == DIRECTORY) and not os.path.isdir(to_bytes(parent)):
                raise Refused(
                    f"{printable(change.path)} cannot be put back: its directory {printable(parent)} is not there, and it is not watched",
                    next_step=f"Create {printable(parent)}, or watch it",
                )
        if change.before is not None and change.before.kind == DIRECTORY and (after is None or after.kind != DIRECTORY):
            for name in os.listdir(to_bytes(change.path)):
                child = f"{change.path}/{to_text(name)}"
                if wanted.get(child, _STAYS) is not None:
                    raise Refused(
                        f"The directory {printable(change.path)} has to go, but {printable(child)} in it is not watched",
                        next_step=f"Move {printable(child)} away",
                    )
        if after is not None:
            is_folder = change.before is not None and change.before.kind == after.kind == DIRECTORY
            xattrs.check(change.path, to_bytes(change.path if is_folder else parent), after.xattrs)
        _writable(change, parent)
        if os.geteuid() != 0:
            _permitted(change, parent, names)


def _permitted(change: Change, parent: str, names: Names) -> None:
    """Refuse beforehand what only root could do. Root needs no such look."""
    shown, after = printable(change.path), change.after
    step = "Run as root (`become: true`)"
    if after is not None:
        uid, gid = names.uid(after), names.gid(after)
        if uid != os.geteuid():
            raise Refused(f"{shown} belongs to user {after.owner or after.uid}, and only root can give a file away", next_step=step)
        if gid != os.getegid() and gid not in os.getgroups():
            raise Refused(f"{shown} belongs to group {after.group or after.gid}, which this user is not in", next_step=step)
        if change.before is not None and names.same_content(change.before, after) and names.uid(change.before) != os.geteuid():
            raise Refused(f"The mode of {shown} can only be changed by its owner", next_step=step)
    if os.path.isdir(to_bytes(parent)) and not os.access(to_bytes(parent), os.W_OK | os.X_OK):
        raise Refused(f"{shown} cannot be changed: {printable(parent)} is not writable for this user", next_step=step)


def _writable(change: Change, parent: str) -> None:
    """Refuse beforehand what not even root can do: a read-only file system, an immutable file or directory."""
    shown = printable(change.path)
    places = [parent] if change.before is None or change.before.kind != DIRECTORY else [parent, change.path]
    for place in places:
        raw = to_bytes(place)
        if os.path.isdir(raw) and os.statvfs(raw).f_flag & os.ST_RDONLY:
            raise Refused(f"{shown} cannot be changed: the file system there is read-only", next_step="Mount it writable, then run again")
    for place in [parent] if change.before is None else [parent, change.path]:
        flags = _flags(to_bytes(place))
        if flags & (_IMMUTABLE | _APPEND_ONLY):
            word, letter = ("immutable", "i") if flags & _IMMUTABLE else ("append-only", "a")
            raise Refused(
                f"{shown} cannot be changed: {printable(place)} is {word}",
                next_step=f"Run `chattr -{letter} {printable(place)}` if it is to change, or exclude it (option `exclude`)",
            )


def _flags(path: bytes) -> int:
    """The inode's flags, 0 if they cannot be known."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return 0
    try:
        return int(struct.unpack("i", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(struct.calcsize("l")))[:4])[0])
    except OSError:
        return 0
    finally:
        os.close(descriptor)
