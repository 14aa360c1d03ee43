# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every benchmark of the queue systems shares: its server, how figures are told, and what it ends with."""

from __future__ import annotations

import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

#: What the line begins with that names a bar which was missed; scripts/bench_tables.py repeats these lines.
MISSED = "Missed: "


class _Startable(Protocol):
    def start(self) -> Any: ...

    def stop(self) -> None: ...


Server = TypeVar("Server", bound=_Startable)


@contextmanager
def started(server: Server) -> Iterator[Server]:
    """The server, running."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the servers' files: with a short name, for sockets are in it, and open to the users that servers run as."""
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def interruptible() -> None:
    """SIGINT ends this process by an exception, so that its servers end too, even where it was started with the signal ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def spread(values: list[float], form: str = "%.0f") -> str:
    """Median and range."""
    return "%s (%s to %s)" % tuple(form % value for value in (statistics.median(values), min(values), max(values)))


def show(*cells: object) -> None:
    """A row of a table, at once."""
    print("| %s |" % " | ".join(map(str, cells)), flush=True)


def ended(missed: list[str]) -> int:
    """Name the bars that were missed; the exit code."""
    if missed:
        print("\n" + "\n".join("- " + MISSED + problem for problem in missed))
    sys.stdout.flush()
    return 1 if missed else 0
