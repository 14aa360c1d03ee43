# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which paths of a host belong to a fleet's config, which of them are left out, and which are secret."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from typing import Any, Iterable, Pattern

from .._errors import Refused

#: Staged copies that :mod:`apply` puts beside their targets: never part of a snapshot, whatever is watched.
STAGED_NAME = re.compile(r"\A\..*\.queueops-[0-9a-f]{12}\Z", re.DOTALL)
#: In each of their names.
STAGED_MARK = ".queueops-"


def to_bytes(path: str) -> bytes:
    """The bytes of a path as the kernel has them; the room's paths are text with surrogate escapes, whatever the locale."""
    return path.encode("utf-8", "surrogateescape")


def to_text(path: bytes) -> str:
    """The inverse of :func:`to_bytes`."""
    return path.decode("utf-8", "surrogateescape")


def printable(path: str) -> str:
    """A path as it is shown: other than UTF-8 and control characters become escapes, all else is kept."""
    text = to_bytes(path).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def parts(path: str) -> list[str]:
    """The path's components; sorting by them puts a folder before what is in it."""
    return path.split("/")


class Watch:
    """What is watched.

    :param paths: absolute paths of files and folders; a folder is watched with everything in it.
    :param exclude: globs that are left out: without a slash they match a name at any depth below a watched folder,
        with one they match the whole path (``*`` also matches slashes). An excluded folder is left out whole.
    :param sensitive: globs, read the same way, of files whose content appears in no diff.
    """

    def __init__(self, paths: Iterable[str], exclude: Iterable[str] = (), sensitive: Iterable[str] = ()) -> None:
        self.given = tuple(paths)
        self.paths = tuple(sorted({os.path.normpath(path) if path.startswith("/") else path for path in self.given}))
        self.exclude = tuple(sorted({glob.rstrip("/") for glob in exclude}))
        self.sensitive = tuple(sorted({glob.rstrip("/") for glob in sensitive}))
        self._exclude = _Globs(self.exclude)
        self._sensitive = _Globs(self.sensitive)

    def to_json(self) -> dict[str, Any]:
        return {"paths": list(self.paths), "exclude": list(self.exclude), "sensitive": list(self.sensitive)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Watch:
        return cls(data["paths"], data["exclude"], data["sensitive"])

    def leaves_out(self, path: str) -> bool:
        """Whether this one path, taken without its parents, is left out (by a glob, or because it is a staged copy)."""
        if STAGED_MARK in path and STAGED_NAME.match(path.rpartition("/")[2]):
            return True
        return bool(self.exclude) and self._exclude.match(path)

    def covers(self, path: str) -> bool:
        """Whether the path is one of the watched, or inside one and not left out."""
        for root in self.paths:
            if path == root:
                return True
            if path.startswith(root + "/"):
                rest = path[len(root) + 1 :].split("/")
                return not any(self.leaves_out("/".join([root, *rest[: end + 1]])) for end in range(len(rest)))
        return False

    def is_sensitive(self, path: str) -> bool:
        """Whether the content must not be shown: the path itself or a folder that it is in matches a glob."""
        if not self.sensitive:
            return False
        components = parts(path)
        return any(self._sensitive.match("/".join(components[:end])) for end in range(2, len(components) + 1))

    def check(self, state_dir: str) -> None:
        """Refuse paths that cannot be watched.

        :param state_dir: the folder that the history is kept in; it must not be inside a watched path, nor the reverse.
        :raises Refused: a path is relative, the root, a socket, device or pipe, or within another one.
        """
        real: dict[str, str] = {}
        for given in self.given:
            if not given.startswith("/") or "\0" in given:
                raise _refused(given, "is not an absolute path", "Give the path from the root, for example /etc/mailer")
            path = os.path.normpath(given)
            if path in ("/", "//"):
                raise _refused(given, "is the whole host", "Name the files and folders that hold the worker's config")
            try:
                mode = os.lstat(to_bytes(path)).st_mode
            except OSError:
                mode = stat.S_IFREG  # absent: that is recorded, too
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                raise _refused(given, f"is a {_special(mode)}", "Name files, folders or symbolic links only")
            resolved = _resolved(path)
            for other, other_given in real.items():
                if resolved == other:
                    raise _refused(given, f"is the same as {printable(other_given)}", "Give each path once")
                if _inside(resolved, other) or _inside(other, resolved):
                    raise _refused(given, f"and {printable(other_given)} are nested", "Give the outer path only")
            state = to_text(os.path.realpath(to_bytes(state_dir)))
            if state == resolved or _inside(state, resolved) or _inside(resolved, state):
                nested = f"and the state directory {printable(state_dir)} are nested"
                raise _refused(given, nested, "Keep the history outside of the watched paths")
            real[resolved] = given

    def check_apart(self, theirs: Iterable[str], fleet: str, repo_dir: str) -> None:
        """Refuse paths that another fleet on this host watches already, or that are within one another.

        :param theirs: what that fleet watches; ``repo_dir`` is its history.
        :raises Refused: two fleets would put back each other's files.
        """
        others = {_resolved(path): path for path in theirs}
        for path in self.paths:
            mine = _resolved(path)
            for other, given in others.items():
                if mine == other or _inside(mine, other) or _inside(other, mine):
                    raise Refused(
                        f"The watched path {printable(path)} overlaps with {printable(given)} of the fleet {fleet} (option `paths`)",
                        option="paths",
                        next_step=f"Give each fleet paths of its own; if the fleet {fleet} is gone, remove its history {repo_dir}",
                    )


class _Globs:
    """Globs compiled once: those without a slash match a name, those with one the whole path."""

    def __init__(self, globs: Iterable[str]) -> None:
        self._names: list[Pattern[str]] = []
        self._paths: list[Pattern[str]] = []
        for glob in globs:
            (self._paths if "/" in glob else self._names).append(re.compile(fnmatch.translate(glob)))

    def match(self, path: str) -> bool:
        name = path.rpartition("/")[2]
        return any(glob.match(name) for glob in self._names) or any(glob.match(path) for glob in self._paths)


def _resolved(path: str) -> str:
    # By the real parent, so that two names of one folder are found out.
    parent, name = os.path.split(to_bytes(path))
    return to_text(os.path.join(os.path.realpath(parent), name))


def _inside(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


def _special(mode: int) -> str:
    if stat.S_ISSOCK(mode):
        return "socket"
    if stat.S_ISFIFO(mode):
        return "named pipe"
    return "device"


def _refused(path: str, why: str, next_step: str) -> Refused:
    return Refused(f"The watched path {printable(path)} {why} (option `paths`)", option="paths", next_step=next_step)
