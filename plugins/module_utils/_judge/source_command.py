# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A command of the operator's own. What it writes is never shown: it may be a secret."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from typing import IO, Any, Mapping

from .._errors import Refused, Unavailable
from .source import Answer, Source, number

#: What the exit codes mean; any other is no answer.
OUTCOMES: dict[int, str] = {0: "pass", 1: "fail", 2: "inconclusive"}
#: A number is not longer than this (bytes); who writes more finds nobody reading.
MOST = 4096


class Command(Source):
    """Run without a shell and without input, ended with all its children after ``limit`` seconds.

    :param wants_number: what it writes is the number, with exit code 0; else its exit code judges.
    """

    def __init__(self, words: list[str], folder: str | None, limit: float, wants_number: bool) -> None:
        self._words = words
        self._folder = folder
        self._limit = limit
        self._wants_number = wants_number

    def ask(self) -> Answer:
        name = self._words[0]
        code, text = self._run()
        if code not in OUTCOMES or (self._wants_number and code == 1):
            ended = "was ended by signal %d" % -code if code < 0 else "ended with %d" % code
            wanted = "0 and a number" if self._wants_number else "0 (pass), 1 (fail) or 2 (inconclusive)"
            raise Unavailable(
                "The command %s %s, not with %s" % (name, ended, wanted),
                option="command.argv",
                next_step="Run it by hand on that host to see what it says",
            )
        if not self._wants_number or code == 2:
            return Answer("the command %s ended with %d (%s)" % (name, code, OUTCOMES[code]), outcome=OUTCOMES[code])
        value = number(text.decode("ascii", "replace").strip())
        if value is None:
            return Answer("what the command %s wrote is not a number" % name)
        return Answer("the command %s says %g" % (name, value), value=value)

    def _run(self) -> tuple[int, bytes]:
        """Its exit code (below 0: the signal), and the beginning of what it wrote."""
        end = time.monotonic() + self._limit
        process = self._start()
        text = b""
        try:
            if process.stdout is not None:
                with process.stdout:
                    text = _beginning(process.stdout, end)
            return process.wait(max(0.0, end - time.monotonic())), text
        except subprocess.TimeoutExpired as late:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise Unavailable(
                "The command %s did not end within %g s, and was killed" % (self._words[0], self._limit), option="command.timeout"
            ) from late

    def _start(self) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                self._words,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._wants_number else subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except (OSError, ValueError) as problem:
            raise Refused(
                "The command %s cannot be run: %s" % (self._words[0], getattr(problem, "strerror", None) or problem),
                option="command.argv",
                next_step="Give the path of a program on the host that runs this task",
            ) from problem


def _beginning(pipe: IO[bytes], end: float) -> bytes:
    """What is written until everybody has closed it, or until it is more than a number is long, or the time is up."""
    text = b""
    while len(text) <= MOST and select.select([pipe], [], [], max(0.0, end - time.monotonic()))[0]:
        piece = os.read(pipe.fileno(), MOST)
        if not piece:
            break
        text += piece
    return text


def open_source(options: Mapping[str, Any], wants_number: bool) -> Source:
    """See :func:`.sources.open_source`."""
    words = [str(word) for word in options.get("argv") or []]
    if not words or not words[0]:
        raise Refused("There is no command", option="command.argv")
    limit = float(options["timeout"] if options.get("timeout") is not None else 10.0)
    if limit <= 0:
        raise Refused("command.timeout is a number of seconds above 0", option="command.timeout")
    return Command(words, options.get("chdir"), limit, wants_number)
