# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The board's screen as a real terminal shows it, of real runs of ansible-playbook."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tests.unit.board.stage import Stage
from tests.unit.board.terminal import Terminal

_RUNS = count()


class SlowRun(Terminal):
    """The slow deploy on a terminal; ``let`` lets the step go on that waits for it."""

    def __init__(self, stage: Stage, *options: str, columns: int = 80, rows: int = 24, **environment: str) -> None:
        run = f"terminal{next(_RUNS)}"
        self._files = stage.folder / run
        command = stage.command(False, run, *options, playbook="slow.yml")
        super().__init__(command, stage.folder, {**stage.environment(), **environment}, columns, rows)

    def let(self, *steps: str) -> None:
        for step in steps:
            (self._files / step).touch()

    def finish(self) -> int:
        self.let("switched", "judged", "drained")
        return self.end()


@pytest.fixture
def slow(stage: Stage) -> Iterator[Callable[..., SlowRun]]:
    runs: list[SlowRun] = []

    def start(*options: str, columns: int = 80, rows: int = 24, **environment: str) -> SlowRun:
        runs.append(SlowRun(stage, *options, columns=columns, rows=rows, **environment))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def row_of(rows: list[str], text: str) -> str:
    """The last row that begins with ``text``; the screen stands below the lines."""
    return [row for row in rows if row.startswith(text)][-1]


def test_a_deploy_is_on_one_screen(slow: Callable[..., SlowRun]) -> None:
    run = slow()
    rows = run.until(lambda rows: any(re.match(r"worker3 +done +now [1-9]", row) for row in rows))
    # A second has gone by without an event: the clock ticks.
    assert re.match(r"mailer  0:\d\d  op-0001-deploy: release 0 to 1 \(2\.0\.0\), epoch 1$", row_of(rows, "mailer  "))
    assert re.match(r"now      \d+ s  Switch this wave \(3\): worker1, worker2, worker3$", row_of(rows, "now"))
    assert row_of(rows, "host").split() == ["host", "prepared", "active", "confirmed", "live", "release"]
    assert re.match(r"worker1  done       now \d+ s +-          0 \(1\.0\.0\)$", row_of(rows, "worker1"))
    assert re.match(r"queue    mail: 12 queued, 3 executing, 1 failed, at \d\d:\d\d:\d\d$", row_of(rows, "queue"))
    run.let("switched")
    rows = run.text("1 of 9 failed")
    assert re.match(r"worker2  done       FAILED     -          0 \(1\.0\.0\)  PUT BACK The worker", row_of(rows, "worker2"))
    assert re.match(r"worker1  done       done       -          1 \(2\.0\.0\)$", row_of(rows, "worker1"))
    assert re.match(r"gate     canary on mail, bake time (5:00|4:5\d) more$", row_of(rows, "gate"))
    samples = rows.index(row_of(rows, "gate"))
    assert re.match(r" {9}\d\d:\d\d:\d\d  0 of 3 failed$", rows[samples + 1])
    assert re.match(r" {9}\d\d:\d\d:\d\d  1 of 9 failed \(11\.1 %, limit 20\.0 %\)$", rows[samples + 2])
    run.let("judged")
    rows = run.text("3 of 40 left")
    assert re.match(r"drain    mail: 3 of 40 left, about (8:20|8:1\d); 2 executing, 1 queued$", row_of(rows, "drain"))
    assert row_of(rows, "gate") == "gate     PASS: 1 of 90 failed; canary on mail"
    assert "mail: 1 queued, 2 executing, 1 failed" in row_of(rows, "queue")
    assert run.finish() == 0
    # The last screen stays, and what follows is below it.
    rows = run.shown()
    assert rows.index("now      the playbook has ended") < rows.index(next(row for row in rows if "== hosts ==" in row))
    assert run.cursor_shown
    # What is on the screen while it passes is no line as well.
    assert not any("gate canary on mail: 1 of 9 failed" in row for row in run.everything())


def test_nothing_is_lost_that_a_run_without_a_terminal_shows(stage: Stage) -> None:
    terminal = Terminal(stage.command(True, f"terminal{next(_RUNS)}"), stage.folder, stage.environment(), columns=2000, rows=24)
    assert terminal.end() == 2
    plain = stage.play(True, f"plain{next(_RUNS)}")

    def words(lines: list[str]) -> str:
        """Without times and durations, and all on one line: a sentence is broken where the terminal ends."""
        return " ".join(" ".join(re.sub(r"\d+", "#", re.sub("terminal|plain", "run", line)) for line in lines).split())

    shown = words(terminal.everything())
    for line in plain.stdout.splitlines():
        assert words([line]) in shown
    assert "the broker is slow" in shown
    terminal.close()


@pytest.mark.parametrize(("columns", "rows"), [(40, 10), (200, 60)])
def test_every_size_has_its_screen(slow: Callable[..., SlowRun], columns: int, rows: int) -> None:
    run = slow(columns=columns, rows=rows)
    seen = run.until(lambda rows: any(re.match(r"now      [1-9]\d* s  Switch this wave", row) for row in rows))
    assert len([row for row in seen if row.startswith("now")]) == 1
    assert row_of(seen, "mailer  0:")
    assert row_of(seen, "worker1  ")
    assert run.finish() == 0


def test_a_terminal_that_changes_its_size(slow: Callable[..., SlowRun]) -> None:
    run = slow(columns=120, rows=30)
    run.text("Switch this wave")
    # The emulator drops what does not fit, where a terminal keeps it in its history: so no row goes.
    run.resize(60, 30)
    rows = run.until(lambda rows: any(row == "-" * 59 for row in rows))
    assert "..." in row_of(rows, "now") or len(row_of(rows, "now")) < 60
    run.resize(100, 40)
    run.until(lambda rows: any(row == "-" * 99 for row in rows))
    assert run.finish() == 0
    assert any("op-0001-deploy opened: to release 1" in row for row in run.everything())


def test_an_interrupted_run_leaves_the_terminal_as_it_was(slow: Callable[..., SlowRun]) -> None:
    run = slow()
    run.text("Switch this wave (3)")
    run.interrupt()
    assert run.end() == 99
    rows = run.shown()
    assert re.match(r"now      interrupted after \d+ s  Switch this wave", row_of(rows, "now"))
    assert any("User interrupted execution" in row for row in rows)
    assert run.cursor_shown
    assert rows[run.cursor_row] == ""


def test_a_run_that_is_ended_leaves_what_was_shown(slow: Callable[..., SlowRun]) -> None:
    run = slow()
    run.text("Switch this wave (3)")
    run.kill(signal.SIGTERM)
    assert run.end() != 0
    rows = run.shown()
    assert "Switch this wave" in row_of(rows, "now")
    assert any("op-0001-deploy opened" in row for row in rows)
    assert run.cursor_shown
    assert rows[run.cursor_row] == ""


def test_no_mode_of_the_terminal_is_changed(slow: Callable[..., SlowRun]) -> None:
    """So that a run that is killed outright leaves nothing behind either."""
    run = slow()
    run.text("Switch this wave (3)")
    assert run.finish() == 0
    commands = set(re.findall(rb"\033\[[0-9;?]*[A-Za-z]", run.raw))
    assert {command for command in commands if not re.fullmatch(rb"\033\[[0-9;]*m|\033\[\d+A|\033\[J", command)} == set()
    assert b"\033[J" in commands


def test_nothing_is_drawn_while_a_task_asks(slow: Callable[..., SlowRun]) -> None:
    run = slow("-e", '{"asks": true}')
    run.text("Switch this wave (3)")
    run.let("switched")
    run.text("Shall it go on:")
    asked = len(run.raw)
    # Elsewhere a second without a picture is the most.
    run.listen(2.5)
    assert run.raw[asked:] == b""
    run.type("yes\r")
    rows = run.text("1 of 9 failed")
    # The screen as it was when the question was put is still there to read.
    assert any(row.startswith("now      ") for row in run.everything()[: run.everything().index(row_of(rows, "now"))])
    assert run.finish() == 0


def test_what_others_write_stays_whole_and_harmless(slow: Callable[..., SlowRun]) -> None:
    run = slow("-e", '{"rude": "the \\u001b[2Jbroker\\u0007 is \\u202eslow"}')
    run.let("switched")
    rows = run.text("1 of 9 failed")
    told = " ".join(run.everything())
    assert "\\u001b[2Jbroker\\u0007 is \\u202eslow" in told
    assert sum(row.startswith("now      ") for row in rows) == 1
    assert b"\033[2J" not in run.raw
    assert run.finish() == 0


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"QUEUEOPS_BOARD_SCREEN": "false"}])
def test_where_no_screen_can_or_may_be_there_are_lines(slow: Callable[..., SlowRun], environment: dict[str, str]) -> None:
    run = slow(QUEUEOPS_BOARD_QUIET_LIMIT="1", **environment)
    run.text("waiting   Switch this wave, for ")
    run.let("switched", "judged")
    assert run.finish() == 0
    assert b"\033[J" not in run.raw
    assert any("gate canary on mail: 1 of 9 failed" in row for row in run.everything())


def test_without_colour_there_still_is_a_screen(slow: Callable[..., SlowRun]) -> None:
    run = slow(NO_COLOR="1")
    run.text("Switch this wave (3)")
    assert run.finish() == 0
    assert b"\033[J" in run.raw
    assert not re.search(rb"\033\[[0-9;]*m", run.raw)


def test_everything_is_everything(slow: Callable[..., SlowRun]) -> None:
    run = slow("-vvv", columns=200, rows=50)
    run.text("TASK [Switch this wave]")
    assert run.finish() == 0
    assert b"\033[J" not in run.raw
