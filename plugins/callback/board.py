# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The live board: what happens to the fleet, in operators' words; on a terminal with a screen that is drawn in place."""

from __future__ import annotations

DOCUMENTATION = r"""
name: board
type: stdout
short_description: Shows a deploy or a rollback of a fleet in operators' words
version_added: 0.1.0
description:
  - Writes one line for each thing that happens to the fleet - which host is on which release in which phase, what a gate measured and
    decided, how many tasks were put back, which operation was opened and how it ended - and leaves out the tasks that only prepare it.
  - Failures, refusals and hosts that cannot be reached are always shown, with the whole sentence that says what to do. A task of another
    collection that fails is shown in full, as by the callback plugin P(ansible.builtin.default#callback). Warnings are never hidden.
  - With C(-v) the names of the tasks are shown as well, with C(-vv) the results too. From C(-vvv) on everything is shown as by
    P(ansible.builtin.default#callback).
  - With C(--diff) differences are shown as by P(ansible.builtin.default#callback).
  - On a terminal the lines scroll by above a screen of the fleet as it is now - the operation, what is under way on which hosts and since
    when, each host's phases, the queues, how far a drain is, a gate's last samples. The lines stay above when the run is over, and so does
    the last screen. The lines of a gate or a drain that goes on watching are on the screen alone; their results are lines as ever.
  - Elsewhere - in a file, a pipe, AWX - there are only lines. What takes long is told every O(quiet_limit) seconds, and each line is shown
    at once.
  - While a task or a play asks something (M(ansible.builtin.pause), C(vars_prompt), C(--step)), nothing is drawn. A question that a program
    puts to the terminal past Ansible, as C(ssh) does for an unknown host key, is not noticed - let O(screen=false) where that can be.
  - Any task can put a line of its own on the board, by a result with the key C(board). It is a dictionary with C(text) (a text or a list
    of texts), C(subject) (what it is about, by default the host) and C(tone) (V(plain), V(good), V(warn) or V(bad)).
options:
  quiet_limit:
    description: After so many seconds without a line, one says what is waited for. At least V(1).
    type: float
    default: 10
    env: [{name: QUEUEOPS_BOARD_QUIET_LIMIT}]
    ini: [{section: callback_queueops_board, key: quiet_limit}]
    version_added: 0.1.0
  screen:
    description: Whether there is a screen where the output is a terminal that can show one. From C(-vvv) on there never is.
    type: bool
    default: true
    env: [{name: QUEUEOPS_BOARD_SCREEN}]
    ini: [{section: callback_queueops_board, key: screen}]
    version_added: 0.1.0
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - Set as C(stdout_callback) in the configuration, or in the environment variable C(ANSIBLE_STDOUT_CALLBACK).
author:
  - The queueops.fleet contributors (@queueops)
"""

EXAMPLES = r"""
ansible.cfg: |
  [defaults]
  stdout_callback = queueops.fleet.board
"""

import atexit
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ansible.constants as settings
import ansible.context as cli
from ansible.plugins.callback.default import CallbackModule as DefaultCallback
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.colors import COLORS
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.fleet import PHASES, FleetNow, Running
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.line import Line
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.output import Output
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.picture import picture, waiting
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.recap import Recap
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.screen import Screen, can_draw
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.seen import Seen
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.text import Row
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.words import (
    WORDS,
    board_lines,
    changed_or_not,
    sentence,
    unreachable,
    verdict_lines,
)
from ansible_collections.queueops.fleet.plugins.plugin_utils._told import Told

#: Built-in tasks whose failure is a sentence for the operator, and no more than that.
_SENTENCES = ("ansible.builtin.fail", "ansible.builtin.assert", "ansible.builtin.validate_argument_spec")

#: Columns: the least that a wrapped sentence gets, the most that the first column takes, and the line where no terminal is.
_NARROWEST = 60
_WIDEST_SUBJECT = 24
_WIDTH_WITHOUT_TERMINAL = 120


class CallbackModule(DefaultCallback):
    """Operators' words up to ``-vv``; everything, as the default callback shows it, from ``-vvv`` on."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "queueops.fleet.board"

    def __init__(self) -> None:
        super().__init__()
        self._width = 8
        self._recap = Recap()
        self._fleet = FleetNow()
        self._output: Output | None = None
        # Results come on more than one thread; see Output on the lock.
        self._lock = getattr(self._display, "_lock", None) or threading.RLock()

    # -- writing --------------------------------------------------------------------------------------------------

    @property
    def _verbosity(self) -> int:
        return int(self._display.verbosity)

    @property
    def _everything(self) -> bool:
        return self._verbosity >= 3

    def _write(self, line: Line, subject: str = "", stderr: bool = False, wrap: bool = False) -> None:
        about = line.subject or subject
        self._width = max(self._width, min(len(about), _WIDEST_SUBJECT))
        lead = f"{time.strftime('%H:%M:%S')}  {about:<{self._width}}  "
        text = _wrapped(line.text, len(lead)) if wrap else line.text.replace("\n", "\n" + " " * len(lead))
        self._display.display((lead + text).rstrip(), color=COLORS[line.tone], stderr=stderr)

    def _to_stderr(self) -> bool:
        return bool(self.get_option("display_failed_stderr"))

    def _tell_warnings(self, result: Any, seen: Seen) -> None:
        if hasattr(self, "_handle_warnings_and_exception"):
            self._handle_warnings_and_exception(result)
        else:
            self._handle_warnings(seen.data)

    # -- what is known at this moment -----------------------------------------------------------------------------

    def _begin(self, play: Any) -> None:
        """Take over what is shown, and the clock."""
        # Who debugs talks to the terminal past us.
        debugging = settings.ENABLE_TASK_DEBUGGER or str(play.strategy).endswith("debug")
        drawing = self.get_option("screen") and can_draw() and not self._everything and not debugging
        screen = Screen(self._picture) if drawing else None
        limit = max(float(self.get_option("quiet_limit")), 1.0)
        # A second playbook of the same command begins anew.
        self._fleet = FleetNow()
        self._output = Output(self._display, limit, self._tell_waiting, self._told, screen)
        self._output.begin()
        # Where the run is interrupted no callback is told.
        atexit.register(self._end, "interrupted after")

    def _end(self, how: str) -> None:
        """The run is over; the last screen stays."""
        atexit.unregister(self._end)
        self._fleet.over = how
        if self._output:
            self._output.end()
            self._output = None

    def _picture(self, columns: int, rows: int) -> list[Row]:
        return picture(self._fleet, columns, rows, time.time())

    def _tell_waiting(self) -> None:
        text = waiting(self._fleet.running, time.time()) or "no task is under way, the controller prepares the next one"
        self._write(Line(text, "dim", "waiting"), wrap=True)

    def _told(self, told: Told) -> None:
        self._fleet.told(told.facts, time.time())

    def _ended(self, seen: Seen, how: str) -> None:
        with self._lock:
            self._fleet.task_ended(seen, how, time.time())
            if self._output:
                self._output.changed()

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        if self._output and task.debugger not in (None, "never"):
            self._output.end()
        if task.action not in settings._ACTION_ALL_INCLUDES:
            phase = task.args.get("phase") if (task.resolved_action or task.action) == "queueops.fleet.worker_release" else None
            running = Running(str(task.name or task.action).strip(), time.time(), bool(task.run_once), phase if phase in PHASES else "")
            with self._lock:
                self._fleet.task_began(host.get_name(), running)
        super().v2_runner_on_start(host, task)

    # -- plays and tasks ------------------------------------------------------------------------------------------

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if self._output is None:
            self._begin(play)
        name = play.get_name().strip() or "play"
        inventory = getattr(play.get_variable_manager(), "_inventory", None)
        hosts = [host.get_name() for host in inventory.get_hosts(play.hosts)] if inventory is not None else []
        with self._lock:
            self._fleet.play_began(name, bool(play.check_mode), hosts, time.time())
        if self._everything:
            super().v2_playbook_on_play_start(play)
            return
        self._play = play
        if inventory is not None:
            names = [len(host.get_name()) for host in inventory.get_hosts()]
            self._width = max([self._width, *(min(length, _WIDEST_SUBJECT) for length in names)])
        check = "  (check mode: nothing is changed)" if play.check_mode else ""
        self._display.display(f"{time.strftime('%H:%M:%S')}  == {name} =={check}", color=settings.COLOR_HIGHLIGHT)

    def _task_start(self, task: Any, prefix: str | None = None) -> None:
        if self._everything:
            super()._task_start(task, prefix=prefix)
            return
        if prefix is not None:
            self._task_type_cache[task._uuid] = prefix
        # The name is kept for the banner of a failure; with strategy free it may belong to another host's task.
        free = getattr(self._play, "strategy", "linear") in ("free", "host_pinned", "ansible.builtin.free", "ansible.builtin.host_pinned")
        self._last_task_name = None if free else task.get_name().strip()
        if self._verbosity >= 1:
            self._write(Line(task.get_name().strip(), "dim", "task"))
            if self._verbosity >= 2:
                self._print_task_path(task)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        if self._verbosity >= 1:
            super().v2_playbook_on_include(included_file)

    # -- results --------------------------------------------------------------------------------------------------

    def v2_runner_on_ok(self, result: Any) -> None:
        seen = Seen.of(result)
        self._ended(seen, "done")
        if self._everything:
            super().v2_runner_on_ok(result)
            return
        self._tell_warnings(result, seen)
        if not (seen.task.loop and "results" in seen.data):
            self._show(result, seen)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        if self._everything:
            super().v2_runner_item_on_ok(result)
            return
        seen = Seen.of(result)
        self._tell_warnings(result, seen)
        self._show(result, seen, item=True)

    def _show(self, result: Any, seen: Seen, item: bool = False) -> None:
        if seen.name:
            self._recap.well(seen.host)
        for line in self._lines(result, seen, item):
            self._write(line, seen.where)
        if self._verbosity >= 2 and not seen.hidden and seen.name:
            self._display.display(self._dump_results(seen.data))

    def _lines(self, result: Any, seen: Seen, item: bool) -> Iterator[Line]:
        if seen.hidden:
            return
        if isinstance(seen.data.get("board"), Mapping):
            yield from board_lines(seen)
        elif seen.name:
            self._recap.remember(seen)
            yield from WORDS.get(seen.name, changed_or_not)(seen)
        elif seen.action in settings._ACTION_DEBUG:
            self._clean_results(seen.data, seen.task.action)
            said = seen.data.get("msg")
            if isinstance(said, list) and all(isinstance(row, str) for row in said):
                said = "\n".join(said)
            yield Line(said if isinstance(said, str) else self._dump_results(seen.data))
        elif seen.data.get("changed"):
            label = f" ({self._get_item_label(seen.data)})" if item else ""
            would = "would change: " if seen.checking else "changed: "
            yield Line(f"{would}{seen.task.get_name().strip()}{label}", "change")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        seen = Seen.of(result)
        self._ended(seen, "FAILED")
        self._recap.trouble(seen, "failed", lasting=bool(seen.name) or not ignore_errors)
        if self._everything:
            super().v2_runner_on_failed(result, ignore_errors=ignore_errors)
            return
        if seen.task.loop and "results" in seen.data:
            # Each item was shown when it failed.
            self._tell_warnings(result, seen)
        elif self._is_sentence(seen):
            self._show_sentence(seen)
        else:
            super().v2_runner_on_failed(result, ignore_errors=False)
        if ignore_errors:
            self._write(Line("the run goes on", "dim"), seen.where)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        seen = Seen.of(result)
        if not self._everything and self._is_sentence(seen):
            self._show_sentence(seen)
        else:
            super().v2_runner_item_on_failed(result)

    def _is_sentence(self, seen: Seen) -> bool:
        """Whether the message says it all: a failure that our modules explain, or one that a playbook's author wrote."""
        if seen.hidden or not seen.data.get("msg"):
            return False
        if seen.name:
            return (seen.name == "fleet_verdict" and "table" in seen.data) or isinstance(seen.data.get("error"), Mapping)
        return seen.action in _SENTENCES

    def _show_sentence(self, seen: Seen) -> None:
        data, stderr = seen.data, self._to_stderr()
        self._handle_warnings(data)
        self._recap.remember(seen)
        about = ""
        if seen.name == "fleet_verdict":
            about = "verdict"
            for line in verdict_lines(seen):
                self._write(line, stderr=stderr)
        self._write(Line(sentence(data), "bad", about), seen.where, stderr, wrap=True)
        if data.get("assertion") is not None:
            self._write(Line(f"checked: {data['assertion']}", "dim"), seen.where, stderr, wrap=True)
        if self._verbosity >= 1:
            self._print_task_path(seen.task)
            self._display.display(self._dump_results(data), color=settings.COLOR_ERROR, stderr=stderr)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        seen = Seen.of(result)
        self._ended(seen, "LOST")
        self._recap.trouble(seen, "unreachable", lasting=True)
        if self._everything:
            super().v2_runner_on_unreachable(result)
            return
        # The message says what the exception says; the place in the playbook is of no use when a host is down.
        self._handle_warnings(seen.data)
        self._write(Line(unreachable(seen.data), "lost"), seen.where, self._to_stderr(), wrap=True)
        if seen.task.ignore_unreachable:
            self._write(Line("the run goes on", "dim"), seen.where)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._ended(Seen.of(result), "skipped")
        self._skipped(result, super().v2_runner_on_skipped)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        self._skipped(result, super().v2_runner_item_on_skipped)

    def _skipped(self, result: Any, show_all: Callable[[Any], None]) -> None:
        seen = Seen.of(result)
        if self._everything:
            show_all(result)
            return
        self._tell_warnings(result, seen)
        if seen.name == "queue_redrive" and "matched" in seen.data:
            # It counts the tasks that it left out as skipped, which ansible-core takes for a skipped task.
            self._show(result, seen)

    def v2_on_file_diff(self, result: Any) -> None:
        if self._everything:
            super().v2_on_file_diff(result)
            return
        seen = Seen.of(result)
        results = seen.data.get("results") if seen.task.loop else None
        for entry in results if isinstance(results, list) else [seen.data]:
            if isinstance(entry, Mapping) and entry.get("diff") and entry.get("changed", False):
                diff = self._get_diff(entry["diff"])
                if diff:
                    self._write(Line(f"difference: {seen.task.get_name().strip()}", "dim"), seen.where)
                    self._display.display(diff)

    # -- the end --------------------------------------------------------------------------------------------------

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._end("the playbook has ended")
        if self._everything:
            super().v2_playbook_on_stats(stats)
            return
        self._display.display(f"{time.strftime('%H:%M:%S')}  == hosts ==", color=settings.COLOR_HIGHLIGHT)
        for host in sorted(stats.processed):
            self._write(self._recap.line(host, stats.summarize(host)))
        if stats.custom and self.get_option("show_custom_stats"):
            self._display.display(self._dump_results(stats.custom))
        if cli.CLIARGS.get("check") and self.get_option("check_mode_markers"):
            self._display.display(f"{time.strftime('%H:%M:%S')}  check mode: nothing was changed", color=settings.COLOR_HIGHLIGHT)


def _wrapped(text: str, indent: int) -> str:
    """``text`` broken for the screen; its own line breaks stay."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL
    width = max(columns - indent, _NARROWEST)
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        lines += textwrap.wrap(paragraph, width, break_long_words=False, break_on_hyphens=False) or [""]
    return ("\n" + " " * indent).join(lines)
