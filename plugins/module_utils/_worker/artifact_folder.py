# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder on the host as an artifact. Its checksum is that of a listing of its content, see :func:`listing_line`."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import tempfile
from typing import IO, Any, Iterator

from .._errors import Refused
from .artifact import Artifact, parse_checksum
from .artifact_fetch import compare
from .artifact_tar import scan, unpack


class FolderArtifact(Artifact):
    """A folder by path. Owners and times do not count, nor do modes except whether the owner may execute a file."""

    kind = "folder"

    def examine(self) -> None:
        members, found = _look(self.address, None)
        scan(members)
        compare(self.address, parse_checksum(self.checksum), found)

    def fill(self, folder: str, workspace: str) -> dict[str, Any]:
        # Packed first: what is verified is then what is written, however the folder changes meanwhile.
        with tempfile.TemporaryFile(dir=workspace) as packed:
            with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
                members, found = _look(self.address, archive)
            scan(members)
            compare(self.address, parse_checksum(self.checksum), found)
            packed.seek(0)
            unpack(packed, self.address, folder)
        return {}


def listing_line(member: tarfile.TarInfo, content: str) -> bytes:
    """One line of the listing that the checksum is taken of; its lines are sorted as bytes.

    `f` and the content's SHA-256 of a file, `x` the same of one that its owner may execute, `l` and the target of a
    symbolic link, `d` of a folder; then the path, which begins with `./`.
    """
    if member.isdir():
        kind = "d"
    elif member.issym():
        kind = f"l {member.linkname}"
    else:
        kind = f"{'x' if member.mode & stat.S_IXUSR else 'f'} {content} "
    return os.fsencode(f"{kind} ./{member.name}\n")


def _look(folder: str, archive: tarfile.TarFile | None) -> tuple[list[tarfile.TarInfo], str]:
    """What is in the folder, packed into `archive` if there is one, and the checksum's hexadecimal digits."""
    members: list[tarfile.TarInfo] = []
    lines: list[bytes] = []
    try:
        for member in _walk(folder, ""):
            content = ""
            if member.isreg():
                content = _read(os.path.join(folder, member.name), member, archive)
            elif archive is not None:
                archive.addfile(member)
            members.append(member)
            lines.append(listing_line(member, content))
    except OSError as error:
        raise Refused(
            f"The artifact {folder} cannot be read: {error.filename or ''} {error.strerror or error}",
            option="artifact",
            still_true="Nothing was unpacked",
            next_step="Look at its permissions, and whether somebody is still writing to it",
        ) from None
    return members, hashlib.sha256(b"".join(sorted(lines))).hexdigest()


def _walk(folder: str, below: str) -> Iterator[tarfile.TarInfo]:
    for name in sorted(os.listdir(os.path.join(folder, below))):
        path = os.path.join(below, name)
        if "\n" in name or "\\" in name:
            raise Refused(
                f"The artifact's entry {path!r} has a line break or a backslash in its name",
                option="artifact",
                still_true="Nothing was unpacked",
                next_step="Rename it, or pack the folder as a tar archive",
            )
        member = _member(os.path.join(folder, path), path)
        yield member
        if member.isdir():
            yield from _walk(folder, path)


def _member(path: str, name: str) -> tarfile.TarInfo:
    found = os.lstat(path)
    member = tarfile.TarInfo(name)
    member.mode, member.mtime = stat.S_IMODE(found.st_mode), int(found.st_mtime)
    if stat.S_ISLNK(found.st_mode):
        member.type, member.linkname = tarfile.SYMTYPE, os.readlink(path)
    elif stat.S_ISDIR(found.st_mode):
        member.type = tarfile.DIRTYPE
    elif not stat.S_ISREG(found.st_mode):
        # Whatever it is, the archive's rules refuse it by this.
        member.type = tarfile.CHRTYPE
    return member


def _read(path: str, member: tarfile.TarInfo, archive: tarfile.TarFile | None) -> str:
    """Read a file once, into the archive if there is one; its SHA-256."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as source:
        member.size = os.fstat(source.fileno()).st_size
        reader = _Digesting(source)
        if archive is not None:
            archive.addfile(member, reader)  # reads exactly member.size bytes
        else:
            while reader.read(256 * 1024):
                pass
        return reader.digest.hexdigest()


class _Digesting:
    """A file that remembers the checksum of what was read."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data
