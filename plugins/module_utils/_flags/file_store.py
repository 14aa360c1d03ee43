# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Flags in a file on this host, swapped whole: whoever opens the path reads the old document or the new one."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
from dataclasses import dataclass
from typing import Iterator

from .._errors import HalfDone, NotFound, Refused
from .._files import fsync_dir, make_later
from .._lock import lock_file
from .document import parse

_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Dress:
    """Who owns the file and who may do what with it."""

    uid: int
    gid: int
    mode: int

    def __str__(self) -> str:
        return "owner %s, group %s, mode %04o" % (_user(self.uid), _group(self.gid), self.mode)


class FileStore:
    """One file of flags.

    :param path: absolute. Its folder has to be there; the file need not.
    :param owner: a user's name or number. None: as the file has it, else who runs this. The same for ``group``.
    :param mode: permissions as octal digits, ``0644``. None: as the file has them, else 0644.
    :raises Refused: an option is wrong.
    """

    option = "path"

    def __init__(self, path: str, owner: str | None = None, group: str | None = None, mode: str | None = None) -> None:
        if not os.path.isabs(path) or path.endswith("/"):
            raise Refused("The path %s is not the absolute path of a file" % path, option="path")
        self.path = os.path.normpath(path)
        self.where = "the file %s" % self.path
        self._folder, self._name = os.path.split(self.path)
        self._beside = os.path.join(self._folder, ".%s.new" % self._name)
        self._uid = None if owner is None else _number(owner, "owner")
        self._gid = None if group is None else _number(group, "group")
        self._mode = None if mode is None else _permissions(mode)
        self._found: os.stat_result | None = None

    def read(self) -> bytes | None:
        """What is in the file; None if there is none.

        :raises Refused: it is no file, may not be read, or has no folder.
        """
        self._found = None
        try:
            # Not blocking: a pipe is found out, not waited for.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            if not os.path.isdir(self._folder):
                raise NotFound(
                    "There is no folder %s on this host" % self._folder, option="path", next_step="Make it, or correct path"
                ) from None
            return None
        except OSError as problem:
            raise self._refused(problem) from problem
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise Refused("%s is not a file" % self.path, option="path", next_step="Take it away, or correct path")
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                content = stream.read()
        finally:
            os.close(descriptor)
        self._found = found
        return content

    def pending(self) -> tuple[str, str] | None:
        """Owner, group and mode as they are and as they should be, where the file that was read last has others than it should."""
        now, wanted = self._dress(), self._wanted_dress()
        return None if now is None or now == wanted else ("%s\n" % now, "%s\n" % wanted)

    def _dress(self) -> Dress | None:
        found = self._found
        return None if found is None else Dress(found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode))

    def _wanted_dress(self) -> Dress:
        now = self._dress() or Dress(os.geteuid(), os.getegid(), 0o644)
        return Dress(
            now.uid if self._uid is None else self._uid,
            now.gid if self._gid is None else self._gid,
            now.mode if self._mode is None else self._mode,
        )

    def require_writable(self) -> None:
        """Refuse where the file could not be swapped by who runs this."""
        if not os.access(self._folder, os.W_OK | os.X_OK, effective_ids=True):
            read_only = os.statvfs(self._folder).f_flag & os.ST_RDONLY
            raise self._refused(OSError(errno.EROFS if read_only else errno.EACCES, ""))
        wanted = self._wanted_dress()
        foreign_group = wanted.gid not in {os.getegid(), *os.getgroups()}
        if os.geteuid() != 0 and (wanted.uid != os.geteuid() or foreign_group):
            raise Refused(
                "Only root can write %s with %s" % (self.path, wanted),
                option="group" if wanted.uid == os.geteuid() else "owner",
                next_step="Run the task with become: true",
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other writers out. The lock is a file beside, for the file itself is another one after each swap."""
        path = os.path.join(self._folder, ".%s.lock" % self._name)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise self._refused(problem) from problem
        try:
            lock_file(descriptor, "flags of", path, True, _PATIENCE_S)
            yield
        finally:
            os.close(descriptor)

    def stage(self, _before: bytes | None, after: bytes) -> None:
        """Write ``after`` beside the file, durably, and read it again as a reader would. The file itself stays as it is.

        :raises Refused: there is no space, no permission, or what was written is no document; nothing is left beside.
        """
        try:
            # Left by a writer that died; the name is made anew, so that nobody's link of that name is followed.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._beside)
            self._write_beside(after)
            with open(self._beside, "rb") as stream:
                parse(stream.read(), self._beside, self.option)
        except OSError as problem:
            self.discard()
            raise self._refused(problem) from problem
        except BaseException:
            self.discard()
            raise

    def _write_beside(self, content: bytes) -> None:
        dress = self._wanted_dress()
        descriptor = os.open(self._beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchown(descriptor, dress.uid, dress.gid)
            os.fchmod(descriptor, dress.mode)
            if self._found is not None:
                make_later(descriptor, self._found.st_mtime_ns)
            os.fsync(descriptor)

    def discard(self) -> None:
        """Take away what was staged."""
        with contextlib.suppress(OSError):
            os.unlink(self._beside)

    def commit(self) -> bool:
        """Put what was staged in the file's place, durably. True: the lock keeps others from having been there first."""
        try:
            os.replace(self._beside, self.path)
        except OSError as problem:
            self.discard()
            raise self._refused(problem) from problem
        try:
            fsync_dir(self._folder)
        except OSError as problem:
            raise HalfDone(
                "The new flags are in %s, but may not survive a power cut: %s" % (self.where, problem.strerror),
                option="path",
                next_step="Look at the disk of %s" % self._folder,
            ) from problem
        return True

    def _refused(self, problem: OSError) -> Refused:
        next_step = "Look at %s on this host" % self._folder
        if problem.errno == errno.ELOOP:
            return Refused(
                "%s is a symbolic link, and a swap would put a file in its place" % self.path,
                option="path",
                next_step="Give the path of the file that it leads to: %s" % os.path.realpath(self.path),
            )
        if problem.errno in (errno.EACCES, errno.EPERM):
            next_step = "Run the task with become: true, or as the owner of %s" % self._folder
        elif problem.errno in (errno.ENOSPC, errno.EDQUOT):
            next_step = "Make space on the file system of %s" % self._folder
        elif problem.errno == errno.EROFS:
            next_step = "The file system is read-only: run the task on the host that writes it"
        return Refused("%s cannot be used: %s" % (self.path, os.strerror(problem.errno or 0)), option="path", next_step=next_step)


def _permissions(mode: str) -> int:
    # A leading 0 is asked for: YAML takes an unquoted 0644 for the number 420, which are octal digits as well.
    if not (mode.startswith("0") and len(mode) <= 5 and all(digit in "01234567" for digit in mode)):
        raise Refused(
            'The mode %s is not octal digits that begin with 0, like "0644"' % mode, option="mode", next_step="Write it in quotation marks"
        )
    return int(mode, 8) & 0o7777


def _number(name: str, option: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid if option == "owner" else grp.getgrnam(name).gr_gid
    except KeyError:
        if name.isdigit():
            return int(name)
    what = "user" if option == "owner" else "group"
    raise NotFound("There is no %s %s on this host" % (what, name), option=option, next_step="Make it, or name another")


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
