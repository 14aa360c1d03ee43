# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A headless Chromium, spoken to over a pair of pipes with the DevTools protocol: JSON, each message ended by a zero byte."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: Seconds until an answer, or the event that is waited for, has to be there.
LIMIT = 60.0


def find_chromium() -> str:
    """The browser to test with."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    pytest.fail("no chromium on PATH; run the tests with `make unit`, which installs it or says what is missing")


class Browser:
    """One page in a browser with a profile of its own.

    :ivar events: what the page caused, oldest first: requests, console messages, exceptions.
    """

    def __init__(self, profile: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self._begun = b""
        self._number = 0
        self._session: str | None = None
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        command = [find_chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        # The browser reads from its descriptor 3 and writes to 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", *command],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        self._session = None
        self.ask("Browser.close")
        self._process.wait(LIMIT)
        os.close(self._to)
        os.close(self._from)

    def show(self, url: str, width: int, height: int) -> None:
        """Load a page at a width in CSS pixels, and wait until it is there."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.events.clear()
        self.ask("Page.navigate", url=url)
        self._wait(lambda: "Page.loadEventFired" in [event["method"] for event in self.events], "the page")

    def evaluate(self, expression: str) -> Any:
        """What an expression comes to in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        answers: list[dict[str, Any]] = []
        self._wait(lambda: bool(answers), method, lambda found: answers.append(found) if found.get("id") == message["id"] else None)
        assert "error" not in answers[0], (method, answers[0])
        result: dict[str, Any] = answers[0]["result"]
        return result

    def _wait(self, done: Callable[[], bool], what: str, also: Callable[[dict[str, Any]], None] | None = None) -> None:
        end = time.monotonic() + LIMIT
        while not done():
            ready = select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0]
            if not ready:
                pytest.fail(f"chromium did not answer within {LIMIT:g} s: {what}")
            read = os.read(self._from, 1 << 20)
            if not read:
                pytest.fail(f"chromium ended while it was asked for {what}")
            *whole, self._begun = (self._begun + read).split(b"\0")
            for line in whole:
                found = json.loads(line)
                if "method" in found:
                    self.events.append(found)
                elif also is not None:
                    also(found)

    def of(self, *methods: str) -> list[dict[str, Any]]:
        """The parameters of the events of these kinds."""
        return [event["params"] for event in self.events if event["method"] in methods]
