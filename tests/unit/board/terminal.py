# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A program on a terminal of its own: what it writes is read through a pseudo-terminal, and shown by a terminal emulator."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pyte

#: Makes the terminal the program's own, as a shell does for what runs in the foreground.
_IN_FOREGROUND = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"

LIMIT_S = 90.0


class Terminal:
    """Runs ``command``. ``raw`` is everything that it wrote."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str], columns: int = 80, rows: int = 24) -> None:
        self._screen = pyte.HistoryScreen(columns, rows, history=100_000, ratio=0.5)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        self._leader, follower = os.openpty()
        self._set_size(columns, rows)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_FOREGROUND, *command],
            cwd=folder,
            env={**environment, "TERM": environment.get("TERM", "xterm-256color")},
            stdin=follower,
            stdout=follower,
            stderr=follower,
            start_new_session=True,
        )
        os.close(follower)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        self._set_size(columns, rows)
        self._screen.resize(rows, columns)

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def interrupt(self) -> None:
        """As Ctrl-C does: the terminal sends it to whoever is in the foreground."""
        self.type("\x03")

    def kill(self, sign: signal.Signals) -> None:
        self.process.send_signal(sign)

    def shown(self) -> list[str]:
        """The terminal's rows as one sees them now."""
        return [row.rstrip() for row in self._screen.display]

    def everything(self) -> list[str]:
        """What has scrolled by, and what is shown."""
        columns = range(self._screen.columns)
        history = ["".join(row[column].data for column in columns).rstrip() for row in self._screen.history.top]
        return history + self.shown()

    @property
    def cursor_shown(self) -> bool:
        return not self._screen.cursor.hidden

    @property
    def cursor_row(self) -> int:
        return int(self._screen.cursor.y)

    def until(self, seen: Callable[[list[str]], object], limit: float = LIMIT_S) -> list[str]:
        """Read until ``seen`` says yes to the rows that are shown; those rows."""
        end = time.monotonic() + limit
        while not seen(self.shown()):
            if time.monotonic() > end:
                raise AssertionError("not seen within %.0f s:\n%s" % (limit, "\n".join(self.everything())))
            if not self._read(0.1) and not seen(self.shown()):
                raise AssertionError("it ended before that was seen:\n%s" % "\n".join(self.everything()))
        return self.shown()

    def text(self, text: str) -> list[str]:
        """Read until a row has ``text``; the rows that are shown then."""
        return self.until(lambda rows: any(text in row for row in rows))

    def listen(self, seconds: float) -> None:
        """Read for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._read(left)

    def end(self, limit: float = LIMIT_S) -> int:
        """Read until the program has ended; its exit code."""
        end = time.monotonic() + limit
        while self._read(0.1):
            if time.monotonic() > end:
                raise AssertionError("not ended within %.0f s:\n%s" % (limit, "\n".join(self.everything())))
        return self.process.wait(limit)

    def _read(self, wait: float) -> bool:
        """Take in what there is; False when nobody writes any more."""
        if not select.select([self._leader], [], [], wait)[0]:
            return True
        try:
            part = os.read(self._leader, 65536)
        except OSError:
            return False
        self.raw += part
        self._stream.feed(part)
        return bool(part)

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._leader)
