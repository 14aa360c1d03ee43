# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A tar archive as an artifact: looked through before anything is written, and unpacked without leaving its folder."""

from __future__ import annotations

import os
import tarfile
import tempfile
import zlib
from contextlib import contextmanager
from typing import IO, Any, Iterable, Iterator

from .._errors import MissingLibrary, Refused
from .artifact import FOLDER_MODE, MARKER, Artifact
from .artifact_fetch import CHUNK, fetch, shown, verified

try:
    import lzma

    _LZMA_ERRORS: tuple[type[BaseException], ...] = (lzma.LZMAError,)
except ImportError:  # A Python that was built without lzma
    _LZMA_ERRORS = ()

#: What reading an archive that is none, or a torn one, may raise.
_UNREADABLE: tuple[type[BaseException], ...] = (tarfile.TarError, EOFError, zlib.error, UnicodeError, OSError, *_LZMA_ERRORS)

#: More symbolic links than this on one path is a circle to the kernel, too. Source: path_resolution(7).
LINK_LIMIT = 40


class TarArtifact(Artifact):
    """A tar archive, plain or compressed by gz, bz2 or xz, by path or URL."""

    kind = "tar"

    def examine(self) -> None:
        with verified(self.address, self.checksum) as source:
            if source is not None:
                with _opened(source, self.address) as archive:
                    scan(archive)

    def fill(self, folder: str, workspace: str) -> dict[str, Any]:
        with tempfile.TemporaryFile(dir=workspace) as archive:
            fetch(self.address, self.checksum, archive)
            unpack(archive, self.address, folder)
        return {}


def unpack(archive_file: IO[bytes], artifact: str, folder: str) -> None:
    """Unpack the tar archive (plain, gz, bz2 or xz) into the empty `folder`. Its layout is kept as it is.

    Everything is looked through before the first file is written. Owners in the archive do not count; setuid, setgid and
    sticky bits and the write permission of group and others are dropped.

    :raises Refused: not a tar archive, or it holds a name that is unsafe, or a device.
    """
    with _opened(archive_file, artifact) as archive:
        entries = scan(archive)
        folders = [(os.path.join(folder, *parts), member) for parts, member in entries if member.isdir()]
        for parts, member in entries:
            _write_entry(archive, member, folder, parts)
        for path, member in folders:
            os.chmod(path, (member.mode & 0o755) | 0o700)


def scan(archive: Iterable[tarfile.TarInfo]) -> list[tuple[tuple[str, ...], tarfile.TarInfo]]:
    """The archive's entries with their names in parts, the archive's own top folder left out.

    :raises Refused: an absolute name, `..`, a link that leads outside, a device, a name twice, or a name below a link.
    """
    entries: list[tuple[tuple[str, ...], tarfile.TarInfo]] = []
    known: dict[tuple[str, ...], tarfile.TarInfo] = {}
    for member in archive:
        parts = _parts(member, member.name)
        if not parts and member.isdir():
            continue
        _refuse_kind(member, parts, known)
        before = known.get(parts)
        if before is not None:
            if before.isdir() and member.isdir():
                continue
            raise _unsafe(member, "is there twice")
        known[parts] = member
        entries.append((parts, member))
    links = {parts: member.linkname for parts, member in entries if member.issym()}
    for parts, member in entries:
        _refuse_below_a_file(member, parts, known)
        if member.issym():
            _refuse_leading_outside(member, parts, links)
    return entries


def _refuse_kind(member: tarfile.TarInfo, parts: tuple[str, ...], known: dict[tuple[str, ...], tarfile.TarInfo]) -> None:
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        raise _unsafe(member, "is a device, a pipe or of an unknown kind")
    if not parts:
        raise _unsafe(member, "has no name")
    if parts == (MARKER,):
        raise _unsafe(member, "has the name that queueops.fleet marks a whole version with")
    if member.islnk():
        target = known.get(_parts(member, member.linkname))
        if target is None or not (target.isreg() or target.islnk()):
            raise _unsafe(member, f"is a hard link to {member.linkname!r}, which is no file before it in the archive")


def _refuse_below_a_file(member: tarfile.TarInfo, parts: tuple[str, ...], known: dict[tuple[str, ...], tarfile.TarInfo]) -> None:
    for depth in range(1, len(parts)):
        above = known.get(parts[:depth])
        if above is not None and not above.isdir():
            raise _unsafe(member, f"lies below {above.name!r}, which is no folder")


def _parts(member: tarfile.TarInfo, name: str) -> tuple[str, ...]:
    if name.startswith("/"):
        raise _unsafe(member, f"has the absolute name {name!r}")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise _unsafe(member, f"names {name!r}, which leads out by '..'")
    if "\0" in name:
        raise _unsafe(member, "has a zero byte in its name")
    return parts


def _refuse_leading_outside(member: tarfile.TarInfo, parts: tuple[str, ...], links: dict[tuple[str, ...], str]) -> None:
    """Follow the link as the kernel would, through the archive's other links, and refuse it once it leaves the top folder."""
    at = list(parts[:-1])
    ahead = member.linkname.split("/")[::-1]
    followed = 0
    if member.linkname.startswith("/"):
        raise _unsafe(member, f"is a link to {member.linkname!r}, outside of the archive")
    while ahead:
        part = ahead.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not at:
                raise _unsafe(member, f"is a link to {member.linkname!r}, outside of the archive")
            at.pop()
            continue
        at.append(part)
        through = links.get(tuple(at))
        if through is not None:
            followed += 1
            if followed > LINK_LIMIT:
                raise _unsafe(member, "is a link in a circle")
            at.pop()
            ahead.extend(through.split("/")[::-1])


def _unsafe(member: tarfile.TarInfo, why: str) -> Refused:
    return Refused(
        f"The artifact's entry {member.name!r} {why}",
        option="artifact",
        next_step="Build the artifact anew, without it",
        still_true="Nothing was unpacked",
    )


def _write_entry(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: str, parts: tuple[str, ...]) -> None:
    path = os.path.join(folder, *parts)
    _make_folders(folder, parts[:-1])
    if member.isdir():
        _make_folders(folder, parts)
    elif member.issym():
        os.symlink(member.linkname, path)
    elif member.islnk():
        os.link(os.path.join(folder, *_parts(member, member.linkname)), path, follow_symlinks=False)
    else:
        content = archive.extractfile(member)
        if content is None:
            raise _unsafe(member, "has no content")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o600), "wb") as target:
            for chunk in iter(lambda: content.read(CHUNK), b""):
                target.write(chunk)
            target.flush()
            os.fchmod(target.fileno(), (member.mode & 0o755) | 0o400)
            # Python's byte code counts as stale when its source's time changed.
            os.utime(target.fileno(), (member.mtime, member.mtime))


def _make_folders(folder: str, parts: tuple[str, ...]) -> None:
    for depth in range(1, len(parts) + 1):
        path = os.path.join(folder, *parts[:depth])
        if not os.path.isdir(path):
            os.mkdir(path)
            os.chmod(path, FOLDER_MODE)


@contextmanager
def _opened(archive_file: IO[bytes], artifact: str) -> Iterator[tarfile.TarFile]:
    """Open the archive, and put its reader's many kinds of complaint in our words, also later ones."""
    try:
        with tarfile.open(fileobj=archive_file, mode="r:*") as archive:
            yield archive
    except tarfile.CompressionError as error:
        raise MissingLibrary(f"This host's Python cannot unpack {shown(artifact)}: {error}", option="artifact") from None
    except _UNREADABLE as error:
        # A broken gz or bz2 stream is an OSError, too, but one that did not come from the system.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Refused(
            f"{shown(artifact)} is not a whole tar archive (plain, gz, bz2 or xz): {error}",
            option="artifact",
            still_true="Nothing was unpacked",
            next_step="Build it anew",
        ) from None
