# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Durable small files: written beside, fsynced, renamed. A reader sees the old content or the new one, never a part."""

from __future__ import annotations

import json
import os
from typing import Any

#: As much later as any clock shows.
_LATER_NS = 1_000_000


def make_private_dir(path: str) -> None:
    """Create ``path`` and its missing parents; the last one is for its owner alone (0700)."""
    parent = os.path.dirname(path)
    if parent and not os.path.isdir(parent):
        os.makedirs(parent, mode=0o755, exist_ok=True)
    if not os.path.isdir(path):
        os.mkdir(path, 0o700)
        fsync_dir(parent or ".")


def fsync_dir(path: str) -> None:
    """Make renames and removals inside ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_later(descriptor: int, before_ns: int) -> None:
    """See that an open file was modified later than what it is to replace, whatever the clock says: some readers go by that alone.

    :param before_ns: when what is replaced was modified, in ns since 1970.
    """
    written = os.fstat(descriptor)
    if written.st_mtime_ns < before_ns + _LATER_NS:
        os.utime(descriptor, ns=(written.st_atime_ns, before_ns + _LATER_NS))


def write_atomic(path: str, content: bytes, mode: int = 0o600) -> None:
    """Replace ``path`` by ``content`` as one durable step."""
    beside = "%s.new" % path
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as stream:
            stream.write(content)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(beside, path)
    fsync_dir(os.path.dirname(path))


def write_json(path: str, value: Any) -> None:
    """Replace ``path`` by ``value`` as JSON, for its owner alone."""
    write_atomic(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: str) -> Any:
    """The value in ``path``, or None when there is no such file."""
    try:
        with open(path, "rb") as stream:
            return json.loads(stream.read().decode())
    except FileNotFoundError:
        return None


def remove_durably(path: str) -> None:
    """Remove ``path`` if it is there, durably."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    fsync_dir(os.path.dirname(path))
