# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Artifacts: fetched in bounded memory, verified before anything is read from them, unpacked without leaving their folder."""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import stat
import tarfile
import urllib.error
import urllib.request
import zlib
from contextlib import contextmanager
from typing import IO, Any, Iterator
from urllib.parse import unquote, urlsplit

from .._errors import MissingLibrary, NotFound, Refused, Unavailable

try:
    import lzma

    _LZMA_ERRORS: tuple[type[BaseException], ...] = (lzma.LZMAError,)
except ImportError:  # A Python that was built without lzma
    _LZMA_ERRORS = ()

#: What reading an archive that is none, or a torn one, may raise.
_UNREADABLE: tuple[type[BaseException], ...] = (tarfile.TarError, EOFError, zlib.error, UnicodeError, OSError, *_LZMA_ERRORS)

#: Seconds without a byte after which a source of artifacts does not answer.
ANSWER_LIMIT = 30.0
CHUNK = 256 * 1024
#: More symbolic links than this on one path is a circle to the kernel, too. Source: path_resolution(7).
LINK_LIMIT = 40
#: A folder that the worker's user can read, whatever the umask of who unpacks.
FOLDER_MODE = 0o755
#: The file in a version's folder that is written last and says that the folder is whole.
MARKER = ".queueops-version.json"


def parse_checksum(checksum: str | None) -> str:
    """The hexadecimal digits of a checksum `sha256:<hex>`.

    :raises Refused: it is missing or has another form.
    """
    found = re.match(r"sha256:([0-9a-fA-F]{64})\Z", checksum or "")
    if not found:
        raise Refused(
            f"{checksum!r} is not a checksum" if checksum else "The artifact's checksum is missing",
            option="checksum",
            next_step="Give sha256: and 64 hexadecimal digits, as `sha256sum` prints them",
        )
    return found.group(1).lower()


def fetch(artifact: str, checksum: str, into: IO[bytes]) -> None:
    """Copy the artifact into the empty file `into`, and refuse it unless its checksum is `checksum`.

    :param artifact: an absolute path, or a file, http or https URL.
    :raises NotFound: there is no such file.
    :raises Refused: wrong checksum, or not an address of an artifact.
    :raises Unavailable: the server did not answer.
    """
    _copy(artifact, checksum, into)
    into.flush()
    into.seek(0)


def examine(artifact: str, checksum: str) -> None:
    """Refuse what :func:`fetch` and :func:`unpack` would refuse, as far as reading can tell. Writes nothing.

    A file is verified and its names are looked through; of a URL only the first answer is asked for.
    """
    wanted = parse_checksum(checksum)
    with _source(artifact) as source:
        if _is_remote(artifact):
            return
        digest = hashlib.sha256()
        for chunk in iter(lambda: source.read(CHUNK), b""):
            digest.update(chunk)
        _compare(artifact, wanted, digest.hexdigest())
        source.seek(0)
        with _opened(source, artifact) as archive:
            scan(archive)


def unpack(archive_file: IO[bytes], artifact: str, folder: str, uid: int = -1, gid: int = -1) -> None:
    """Unpack the tar archive (plain, gz, bz2 or xz) into the empty `folder`. Its layout is kept as it is.

    Everything is looked through before the first file is written. Owners in the archive do not count; setuid, setgid and
    sticky bits and the write permission of group and others are dropped.

    :param uid: numeric owner of what is unpacked; -1: the user that runs this.
    :raises Refused: not a tar archive, or it holds a name that is unsafe, or a device.
    """
    with _opened(archive_file, artifact) as archive:
        entries = scan(archive)
        folders = [(os.path.join(folder, *parts), member) for parts, member in entries if member.isdir()]
        for parts, member in entries:
            _write_entry(archive, member, folder, parts)
        for path, member in folders:
            os.chmod(path, (member.mode & 0o755) | 0o700)
    if uid != -1 or gid != -1:
        _give_to(folder, uid, gid)


def scan(archive: tarfile.TarFile) -> list[tuple[tuple[str, ...], tarfile.TarInfo]]:
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


def _give_to(folder: str, uid: int, gid: int) -> None:
    os.chown(folder, uid, gid)
    for where, folders, files in os.walk(folder):
        for name in folders + files:
            os.chown(os.path.join(where, name), uid, gid, follow_symlinks=False)


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


def _copy(artifact: str, checksum: str, into: IO[bytes]) -> None:
    wanted = parse_checksum(checksum)
    digest = hashlib.sha256()
    with _source(artifact) as source:
        for chunk in iter(lambda: source.read(CHUNK), b""):
            digest.update(chunk)
            into.write(chunk)
    _compare(artifact, wanted, digest.hexdigest())


def _compare(artifact: str, wanted: str, found: str) -> None:
    if found != wanted:
        raise Refused(
            f"The artifact {shown(artifact)} has the checksum sha256:{found}, but sha256:{wanted} is wanted",
            option="checksum",
            still_true="Nothing was unpacked",
            next_step="Find out which of the two is right: the artifact was built anew, or is not the one that was released",
        )


def _is_remote(artifact: str) -> bool:
    return urlsplit(artifact).scheme in ("http", "https")


def shown(artifact: str) -> str:
    """The artifact's address without a query, which may hold a signature."""
    if not _is_remote(artifact):
        return artifact
    url = urlsplit(artifact)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


@contextmanager
def _source(artifact: str) -> Iterator[Any]:
    if _is_remote(artifact):
        with _remote(artifact) as answer:
            yield answer
        return
    path = artifact
    if artifact.startswith("file:"):
        url = urlsplit(artifact)
        if url.netloc not in ("", "localhost"):
            raise Refused(f"{artifact} names another host", option="artifact", next_step="Give file:///path, or a path")
        path = unquote(url.path)
    if not os.path.isabs(path):
        raise Refused(f"The artifact {artifact!r} is neither an absolute path nor a file, http or https URL", option="artifact")
    try:
        # A pipe would never end; only a regular file is an artifact.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise Refused(f"The artifact {path} is not a regular file", option="artifact", next_step="Give a tar archive")
        source = _open_file(path)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"There is no artifact {path} on this host", option="artifact", next_step="Put it there, or mend the path") from None
    except OSError as error:
        raise Refused(
            f"The artifact {path} cannot be read: {error.strerror}",
            option="artifact",
            next_step="Look at its permissions, or run with become",
        ) from None
    with source:
        yield source


def _open_file(path: str) -> IO[bytes]:
    return open(path, "rb")


@contextmanager
def _remote(artifact: str) -> Iterator[Any]:
    where = shown(artifact)
    if "@" in urlsplit(artifact).netloc:
        raise Refused(
            f"The URL of {where} holds a user name or password, which would be logged",
            option="artifact",
            next_step="Serve artifacts without one",
        )
    # Put together by hand: the ready-made opener speaks ftp and file as well, and would follow a redirect there.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "queueops.fleet")]
    try:
        answer = opener.open(artifact, timeout=ANSWER_LIMIT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise NotFound(
                f"There is no artifact {where} ({error.code})", option="artifact", next_step="Publish it, or mend the URL"
            ) from None
        if error.code < 500 and error.code not in (408, 429):
            raise Refused(f"The server refuses the artifact {where}: {error.code} {error.reason}", option="artifact") from None
        raise Unavailable(f"The server of the artifact {where} failed: {error.code} {error.reason}", option="artifact") from None
    except (OSError, ValueError) as error:
        raise Unavailable(
            f"The artifact {where} could not be fetched: {error}", option="artifact", next_step="Look whether the server answers"
        ) from None
    with answer:
        yield _Patient(answer, where)


class _Patient:
    """Reads an answer, and says of which artifact it was when it breaks off."""

    def __init__(self, answer: Any, where: str) -> None:
        self._answer = answer
        self._where = where

    def read(self, size: int) -> bytes:
        try:
            return bytes(self._answer.read(size))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Unavailable(
                f"The artifact {self._where} broke off while it was fetched: {error}", option="artifact", still_true="Nothing was unpacked"
            ) from None
