# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch an artifact's file from a path or a URL: in bounded memory, and refused unless its checksum is the wanted one."""

from __future__ import annotations

import hashlib
import http.client
import os
import stat
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import IO, Any, Iterator
from urllib.parse import unquote, urlsplit

from .._errors import NotFound, Refused, Unavailable
from .artifact import parse_checksum

#: Seconds without a byte after which a source of artifacts does not answer.
ANSWER_LIMIT = 30.0
CHUNK = 256 * 1024


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


@contextmanager
def verified(artifact: str, checksum: str) -> Iterator[IO[bytes] | None]:
    """The artifact's file, opened and verified, without a copy of it; None of a URL, of which only the first answer is asked for."""
    wanted = parse_checksum(checksum)
    with _source(artifact) as source:
        if is_remote(artifact):
            yield None
            return
        digest = hashlib.sha256()
        for chunk in iter(lambda: source.read(CHUNK), b""):
            digest.update(chunk)
        compare(artifact, wanted, digest.hexdigest())
        source.seek(0)
        yield source


def _copy(artifact: str, checksum: str, into: IO[bytes]) -> None:
    wanted = parse_checksum(checksum)
    digest = hashlib.sha256()
    with _source(artifact) as source:
        for chunk in iter(lambda: source.read(CHUNK), b""):
            digest.update(chunk)
            into.write(chunk)
    compare(artifact, wanted, digest.hexdigest())


def compare(artifact: str, wanted: str, found: str) -> None:
    """Refuse an artifact whose checksum is `found`, unless that is `wanted`; both in hexadecimal digits."""
    if found != wanted:
        raise Refused(
            f"The artifact {shown(artifact)} has the checksum sha256:{found}, but sha256:{wanted} is wanted",
            option="checksum",
            still_true="Nothing was unpacked",
            next_step="Find out which of the two is right: the artifact was built anew, or is not the one that was released",
        )


def is_remote(artifact: str) -> bool:
    """Whether the artifact is on another host."""
    return urlsplit(artifact).scheme in ("http", "https")


def shown(artifact: str) -> str:
    """The artifact's address without a query, which may hold a signature."""
    if not is_remote(artifact):
        return artifact
    url = urlsplit(artifact)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


@contextmanager
def _source(artifact: str) -> Iterator[Any]:
    if is_remote(artifact):
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
