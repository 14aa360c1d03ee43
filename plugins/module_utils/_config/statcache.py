# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was read of the watched paths, by their stamps, so that what did not change is not read again.

Kept on disk beside the repository. It only ever saves reading: what is damaged, of another format, or could have changed
within the clock tick in which it was read ("racily clean", in git's words) is not used.
"""

from __future__ import annotations

import hashlib
import json
import marshal
import os
from contextlib import suppress
from typing import Any, Tuple

from .watch import Watch
from .xattrs import Attributes

FORMAT = 1

#: Two writes within one tick of the kernel's clock leave the same time stamp: a file is read once its stamp is older.
CLOCK_TICK = 0.02

#: Version of marshal's format: without references, so that equal values always give equal bytes.
_PLAIN = 2

#: What lstat tells of a path: mode with type, uid, gid, and of all but directories size, inode, device, mtime, ctime and links.
Seen = Tuple[int, ...]


#: What was read of a file or a symbolic link: blob, target and attributes. The same as long as the stamp is: any change moves ctime.
Content = Tuple[str, str, Attributes]


class StatCache:
    """The cache of one history.

    :param path: the file that it is kept in.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: dict[str, tuple[Seen, Content]] = {}
        self._head: dict[str, Any] | None = None
        self._is_loaded = self._has_rows = False

    def known(self, path: str, seen: Seen) -> Content | None:
        """What was read of the path when it had this stamp."""
        if not self._has_rows:
            self._load_rows()
        found = self._known.get(path)
        return found[1] if found is not None and found[0] == seen else None

    def learn(self, path: str, seen: Seen, content: Content) -> None:
        self._known[path] = (seen, content)

    def forget(self, path: str) -> None:
        """Take it that nothing is known of the path."""
        self._known.pop(path, None)

    def manifest_of(self, watch: Watch, seen: dict[str, Any]) -> str | None:
        """The id of the manifest that the host had when everything was as ``seen``, or None if that was not written down."""
        head = self._load()
        if head is None or head["watch"] != watch.to_json() or head["digest"] != _digest(seen):
            return None
        return str(head["manifest"])

    def save(self, watch: Watch, seen: dict[str, Any], manifest: str, now: float) -> None:
        """Write down that the host has this manifest while everything is as ``seen``.

        :param now: when the host was looked at, in seconds since 1970; stamps that are not older may be deceptive.
        """
        oldest_deceptive = int((now - CLOCK_TICK) * 1e9)
        stable = [path for path, one in seen.items() if len(one) > 4 and one[7] < oldest_deceptive and self.known(path, one) is not None]
        rows = json.dumps([(path, seen[path], *self._known[path][1]) for path in stable]).encode("ascii")
        certain = len(stable) == sum(1 for one in seen.values() if len(one) > 4)
        head = {
            "format": FORMAT,
            "watch": watch.to_json(),
            "digest": _digest(seen) if certain else "",
            "manifest": manifest,
            "rows": hashlib.sha256(rows).hexdigest(),
        }
        first = json.dumps(head).encode("ascii")
        beside = self._path + ".new"
        # Not synced, and no matter if there is no space for it: what is not there, or damaged, is read again.
        with suppress(OSError):
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(hashlib.sha256(first).hexdigest().encode("ascii") + b"\n" + first + b"\n" + rows)
            os.replace(beside, self._path)
        self._head = head

    def _load(self) -> dict[str, Any] | None:
        if not self._is_loaded:
            self._is_loaded = True
            try:
                with open(self._path, "rb") as stream:
                    summed, first = stream.readline().strip(), stream.readline().strip()
            except OSError:
                return None
            if hashlib.sha256(first).hexdigest().encode("ascii") == summed:
                head: dict[str, Any] = json.loads(first.decode("ascii"))
                self._head = head if head["format"] == FORMAT else None
        return self._head

    def _load_rows(self) -> None:
        self._has_rows = True
        head = self._load()
        if head is None:
            return
        try:
            with open(self._path, "rb") as stream:
                rows = stream.read().split(b"\n", 2)[-1]
        except OSError:
            return
        if hashlib.sha256(rows).hexdigest() == head["rows"]:
            known = {
                path: (tuple(seen), (blob, target, tuple((name, value) for name, value in attributes) if attributes else ()))
                for path, seen, blob, target, attributes in json.loads(rows.decode("ascii"))
            }
            self._known = {**known, **self._known}


def _digest(seen: dict[str, Any]) -> str:
    return hashlib.sha256(marshal.dumps(list(seen.items()), _PLAIN)).hexdigest()
