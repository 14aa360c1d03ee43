# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The append-only, hash-chained journal: many writers, one valid chain, and every damage found and named."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from typing import Iterator, Sequence

from .._errors import Refused
from .._files import fsync_dir, make_private_dir
from .._lock import lock_file
from .events import GENESIS, MAX_LINE, Event, parse_line

FILE_NAME = "journal.jsonl"

_ENDS_A_RECORD = re.compile(rb'"hash":"[0-9a-f]{64}"\}')


class Damaged(Refused):
    """A line of the journal is not what was written there."""

    code = "damaged"


@dataclass(frozen=True)
class Tail:
    """What a writer left behind the last whole line when it died.

    :ivar size: bytes behind the last sound event.
    :ivar digest: SHA-256 of them.
    :ivar complete: whether the event itself is whole and only its newline is missing.
    """

    size: int
    digest: str
    complete: bool


@dataclass(frozen=True)
class Chain:
    """A verified journal.

    :ivar sound_end: the offset behind the last sound byte.
    :ivar tail: what an interrupted writer left, if anything.
    """

    events: list[Event]
    sound_end: int
    tail: Tail | None

    @property
    def head(self) -> str:
        return self.events[-1].hash if self.events else GENESIS


class Session:
    """The journal while its lock is held: what was read stays true until the session ends."""

    def __init__(self, path: str, chain: Chain, descriptor: int | None) -> None:
        self._path = path
        self._chain = chain
        self._descriptor = descriptor
        self.events: list[Event] = list(chain.events)

    @property
    def head(self) -> str:
        """The hash of the last event."""
        return self.events[-1].hash if self.events else GENESIS

    @property
    def tail(self) -> Tail | None:
        """What an interrupted writer left behind the last event; the next append mends it."""
        return self._chain.tail

    def preview(self, events: Sequence[Event]) -> list[Event]:
        """The events as ``append`` would write them now. Writes nothing."""
        return _chained(events, len(self.events), self.head)

    def append(self, events: Sequence[Event]) -> list[Event]:
        """Write the events durably: all or none. Returns them with ``seq``, ``at``, ``prev`` and ``hash``."""
        if self._descriptor is None:
            raise ValueError("this session only reads")
        if not events:
            return []
        mending = _mending(self._chain.tail)
        written = self.preview(mending + list(events))
        start = self._chain.sound_end
        missing_newline = self._chain.tail is not None and self._chain.tail.complete
        content = (b"\n" if missing_newline else b"") + b"".join(event.line() for event in written)
        try:
            if self._chain.tail is not None:
                os.ftruncate(self._descriptor, start)
            _write_all(self._descriptor, content)
            os.fsync(self._descriptor)
            if not self._chain.events:
                fsync_dir(os.path.dirname(self._path))
        except OSError as problem:
            # What was begun is taken off again: a half-written batch must not look like a crash.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, start)
            raise _unusable(self._path, problem) from problem
        self.events.extend(written)
        self._chain = Chain(self.events, start + len(content), None)
        return written[len(mending) :]


class Journal:
    """One journal file.

    :param path: for example ``<state_dir>/<fleet>/journal.jsonl``. Missing folders are made (0700) by the first append.
    :param patience: s to wait for another writer.
    """

    def __init__(self, path: str, patience: float = 30.0) -> None:
        self.path = os.path.abspath(path)
        self._patience = patience

    def append(self, events: Sequence[Event]) -> list[Event]:
        """Write the events durably at the end: all or none."""
        with self.session(write=True) as session:
            return session.append(events)

    def read(self) -> list[Event]:
        """All events, verified. Raises ``Damaged`` with the line and the seq of the first one that is not sound."""
        with self.session(write=False) as session:
            return session.events

    def head(self) -> str:
        """The hash of the last event, after verifying all; of an empty journal, 64 zeros."""
        with self.session(write=False) as session:
            return session.head

    def exists(self) -> bool:
        """Whether anything was ever written."""
        return os.path.exists(self.path)

    @contextlib.contextmanager
    def session(self, write: bool) -> Iterator[Session]:
        """Hold the lock, alone in order to write and shared in order to read, and give the verified content."""
        try:
            descriptor = self._open(write)
        except FileNotFoundError:
            # Nobody has written yet: reading must leave no file behind.
            yield Session(self.path, Chain([], 0, None), None)
            return
        except OSError as problem:
            raise _unusable(self.path, problem) from problem
        try:
            lock_file(descriptor, "journal", self.path, write, self._patience)
            chain = verify(_read_all(descriptor), self.path)
            yield Session(self.path, chain, descriptor if write else None)
        finally:
            os.close(descriptor)

    def _open(self, write: bool) -> int:
        flags = os.O_CLOEXEC | os.O_NOFOLLOW
        if not write:
            return os.open(self.path, flags | os.O_RDONLY)
        folder = os.path.dirname(self.path)
        for needed in (os.path.dirname(folder), folder):
            # Two first writers at once: the other one made it, which is as good.
            with contextlib.suppress(FileExistsError):
                make_private_dir(needed)
        if stat.S_IMODE(os.stat(folder).st_mode) & 0o022:
            raise Refused(
                "The folder %s can be written by others than its owner, so that its journal proves nothing" % folder,
                option="state_dir",
                next_step="chmod 0700 %s" % folder,
            )
        return os.open(self.path, flags | os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)


def journal_path(state_dir: str, fleet: str) -> str:
    """Where the journal of ``fleet`` is on its home."""
    return os.path.join(state_dir, fleet, FILE_NAME)


def verify(content: bytes, path: str) -> Chain:
    """The events in ``content``; raises ``Damaged`` when a line is not exactly what was written there.

    A part of a line at the end is what a crash while writing leaves. It was never acknowledged, so it is not damage.
    """
    *lines, rest = content.split(b"\n")
    events: list[Event] = []
    head = GENESIS
    for number, line in enumerate(lines, 1):
        event = parse_line(line)
        if event is None:
            raise _damaged(path, number, "its content does not match its hash", events)
        if event.seq != number or event.prev != head:
            raise _damaged(path, number, "it does not follow the line before it", events)
        events.append(event)
        head = event.hash
    sound_end = len(content) - len(rest)
    if not rest:
        return Chain(events, sound_end, None)
    # A file that was grown but not filled before a power cut ends in zero bytes.
    begun = rest.rstrip(b"\0")
    digest = hashlib.sha256(rest).hexdigest()
    last = parse_line(begun)
    if last is not None and last.seq == len(events) + 1 and last.prev == head:
        return Chain([*events, last], sound_end + len(begun), Tail(len(rest) - len(begun), digest, True))
    if not _could_be_torn(begun, len(events) + 1):
        raise _damaged(path, len(events) + 1, "it is neither a whole line nor the begun part of one", events)
    return Chain(events, sound_end, Tail(len(rest), digest, False))


def _could_be_torn(begun: bytes, seq: int) -> bool:
    """Whether ``begun`` may be the first part of line ``seq``; nothing stands behind a whole record but a newline."""
    opening = b'{"seq":%d,' % seq
    return len(begun) <= MAX_LINE and opening.startswith(begun[: len(opening)]) and _ENDS_A_RECORD.search(begun) is None


def _mending(tail: Tail | None) -> list[Event]:
    if tail is None:
        return []
    kind = "journal_tail_completed" if tail.complete else "journal_tail_cut"
    return [
        Event(
            kind=kind,
            reason="an earlier writer died while it wrote its last line",
            data={"bytes": tail.size, "sha256": tail.digest},
        )
    ]


def _chained(events: Sequence[Event], seq: int, head: str) -> list[Event]:
    chained: list[Event] = []
    for offset, event in enumerate(events, 1):
        sealed = event.sealed(seq + offset, head)
        chained.append(sealed)
        head = sealed.hash
    return chained


def _read_all(descriptor: int) -> bytes:
    parts: list[bytes] = []
    while True:
        part = os.read(descriptor, 1 << 20)
        if not part:
            return b"".join(parts)
        parts.append(part)


def _write_all(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _damaged(path: str, line: int, how: str, sound: list[Event]) -> Damaged:
    until = "seq %d of %s" % (sound[-1].seq, sound[-1].at) if sound else "nothing"
    return Damaged(
        "The journal %s is damaged in line %d (seq %d): %s" % (path, line, line, how),
        option="state_dir",
        still_true="Nothing was changed; sound until %s" % until,
        next_step="Keep a copy of the file for study, put the undamaged file back from your backup, then run again",
        details={"path": path, "line": line, "seq": line, "sound_events": len(sound)},
    )


def _unusable(path: str, problem: OSError) -> Refused:
    next_step = "Look at %s on this host" % os.path.dirname(path)
    if problem.errno in (errno.EACCES, errno.EPERM):
        next_step = "Run the task with become: true, as the owner of the folder"
    elif problem.errno in (errno.ENOSPC, errno.EDQUOT):
        next_step = "Make space on the file system of %s" % os.path.dirname(path)
    elif problem.errno == errno.ELOOP:
        next_step = "The journal must be a file, not a link: remove the link"
    return Refused(
        "The journal %s cannot be used: %s" % (path, os.strerror(problem.errno or 0)),
        option="state_dir",
        next_step=next_step,
    )
