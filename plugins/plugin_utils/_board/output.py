# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands between the run and whoever watches it: shows at once what is displayed, and never is silent for long."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .._told import Told
from .screen import APART_S, Screen

#: Seconds between two pictures while nothing happens but time.
_TICK_S = 1.0


class Output:
    """Takes over ``display`` and the prompts of Ansible's Display, and has a thread that watches the clock.

    Everything is done under Display's own lock: Display writes under it, and no process is forked while it is held.

    :param quiet_limit: seconds without any line, after which ``waiting`` is called.
    :param waiting: shows a line that says what is waited for. Not called where there is a screen, which shows it all the time.
    :param told: takes what a waiting action tells.
    :param screen: None where there is no terminal.
    """

    def __init__(
        self,
        display: Any,
        quiet_limit: float,
        waiting: Callable[[], None],
        told: Callable[[Told], None],
        screen: Screen | None,
    ) -> None:
        self._lock = getattr(display, "_lock", None) or threading.RLock()
        self._display = display
        self._waiting = waiting
        self._told = told
        self._screen = screen
        self._pause = APART_S if screen else min(0.5, quiet_limit / 20)
        # A bit early, so that it is never late.
        self._patience = quiet_limit - 2 * self._pause
        self._process = os.getpid()
        self._last = time.monotonic()
        self._asking = False
        self._ended = threading.Event()
        self._original = {name: getattr(display, name) for name in ("display", "prompt", "prompt_until") if hasattr(display, name)}

    def begin(self) -> None:
        """Take over."""
        self._display.display = self._displayed
        for name in ("prompt", "prompt_until"):
            if name in self._original:
                setattr(self._display, name, self._asked(name))
        if self._screen:
            self._screen.begin()
        threading.Thread(target=self._watch, name="board", daemon=True).start()

    def end(self) -> None:
        """Give back what was taken over."""
        with self._lock:
            if self._ended.is_set() or os.getpid() != self._process:
                return
            self._ended.set()
            for name, original in self._original.items():
                setattr(self._display, name, original)
            if self._screen:
                with suppress(OSError):
                    self._screen.end()

    def changed(self) -> None:
        """What the screen shows has changed."""
        if self._screen:
            self._screen.touched()

    def _displayed(self, msg: str, *arguments: Any, **options: Any) -> None:
        """``Display.display``. In a worker process it goes on to the one that shows it, which comes back here."""
        show = self._original["display"]
        if os.getpid() != self._process:
            show(msg, *arguments, **options)
            return
        with self._lock:
            if isinstance(msg, Told):
                self._told(msg)
                if self._screen and msg.passing:
                    self._screen.touched()
                    show(msg, log_only=True)
                    return
            if not options.get("log_only"):
                self._last = time.monotonic()
            show(msg, *arguments, **options)
            # Where no terminal is, nobody else does it before the next task begins.
            with suppress(OSError):
                sys.stdout.flush()

    def _asked(self, name: str) -> Callable[..., Any]:
        """A prompt of Display's, during which nothing is drawn or written."""
        ask = self._original[name]

        def asked(*arguments: Any, **options: Any) -> Any:
            if os.getpid() != self._process or not sys.stdin.isatty():
                return ask(*arguments, **options)
            self._still(True)
            try:
                return ask(*arguments, **options)
            finally:
                self._still(False)

        return asked

    def _still(self, still: bool) -> None:
        with self._lock:
            self._asking = still
            self._last = time.monotonic()
            if self._screen:
                self._screen.still(still)

    def _watch(self) -> None:
        """The thread: a picture a second, or a line when it was silent for too long."""
        with suppress(OSError, ValueError):  # The terminal, or who reads the pipe, is gone; the run goes on.
            while not self._ended.wait(self._pause):
                with self._lock:
                    if self._ended.is_set() or self._asking:
                        continue
                    if self._screen:
                        if self._screen.due(_TICK_S):
                            self._screen.draw()
                    elif time.monotonic() - self._last >= self._patience:
                        self._waiting()
