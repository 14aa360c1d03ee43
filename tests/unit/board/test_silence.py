# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where there is no terminal, waiting is never silent: read from a pipe while the steps of a deploy are held up."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.board.stage import Stage

LIMIT_S = 90.0


class Piped:
    """The slow deploy, its output in a pipe. ``lines``: what has come so far."""

    def __init__(self, stage: Stage, run: str, *options: str, quiet_limit: float) -> None:
        self._files: Path = stage.folder / run
        environment = {**stage.environment(), "QUEUEOPS_BOARD_QUIET_LIMIT": str(quiet_limit)}
        command = stage.command(False, run, *options, playbook="slow.yml")
        self.process = subprocess.Popen(command, cwd=stage.folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.lines: list[str] = []
        self._rest = b""

    def let(self, *steps: str) -> None:
        for step in steps:
            (self._files / step).touch()

    def line(self, pattern: str, of: int = 1) -> Any:
        """Read until so many lines match; the last one's match."""
        end = time.monotonic() + LIMIT_S
        while len(found := [match for line in self.lines if (match := re.search(pattern, line))]) < of:
            assert time.monotonic() < end, "\n".join(self.lines)
            assert self._read(), "\n".join(self.lines)
        return found[-1]

    def end(self) -> int:
        while self._read():
            pass
        return self.process.wait(LIMIT_S)

    def _read(self) -> bool:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], 0.1)[0]:
            return True
        part = os.read(self.process.stdout.fileno(), 65536)
        *lines, self._rest = (self._rest + part).split(b"\n")
        self.lines += [line.decode() for line in lines]
        return bool(part)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def piped(stage: Stage, request: pytest.FixtureRequest) -> Iterator[Piped]:
    run = Piped(stage, request.node.name.replace("[", "-").replace("]", ""), *getattr(request, "param", ()), quiet_limit=1)
    yield run
    run.close()


def seconds_of_day(text: str) -> int:
    hours, minutes, seconds = map(int, text.split(":"))
    return hours * 3600 + minutes * 60 + seconds


WAITING = r"^(?P<at>\S+)  waiting   Switch this wave, for (?P<so_far>\d+) s since (?P<since>\S+): worker1, worker2, worker3$"


def test_what_takes_long_is_told_while_it_does(piped: Piped) -> None:
    # Nothing but the clock can have told it: the step waits for us.
    first, third = piped.line(WAITING), piped.line(WAITING, of=3)
    assert first["since"] == third["since"]
    assert 0 <= seconds_of_day(third["at"]) - seconds_of_day(third["since"]) - int(third["so_far"]) + 1 <= 2
    piped.let("switched")
    piped.line(r"  waiting   Watch the gate, for \d+ s since \S+: once for the fleet$")
    piped.let("judged", "drained")
    assert piped.end() == 0
    # Its own line, told by the action, and no waiting after the end.
    assert any(line.endswith("  gate canary on mail: 1 of 9 failed") for line in piped.lines)
    assert "== hosts ==" in piped.lines[-4]


def test_a_line_is_read_when_it_was_written(piped: Piped) -> None:
    """Ansible itself hands over what it displays when it starts the next task, which is too late for a gate's lines."""
    piped.let("switched")
    piped.line("gate canary on mail: 1 of 9 failed")
    piped.let("judged", "drained")
    assert piped.end() == 0


@pytest.mark.parametrize("piped", [("-vvv",)], indirect=True)
def test_waiting_is_told_among_everything_as_well(piped: Piped) -> None:
    piped.line(WAITING)
    piped.let("switched", "judged", "drained")
    assert piped.end() == 0


def test_who_has_patience_is_not_told(stage: Stage) -> None:
    run = Piped(stage, "patient", quiet_limit=100)
    run.let("switched", "judged", "drained")
    assert run.end() == 0
    assert not any("waiting" in line for line in run.lines)
    run.close()
