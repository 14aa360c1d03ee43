# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host in memory with the stand-in for the service manager, and no watchdog: what it does at the deadline is a phase of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._release import waiter
from ansible_collections.queueops.fleet.plugins.module_utils._worker import registry

from tests.crash.host import CrashHost, FileManager


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file stand in for the service manager, and nothing for what waits for the deadline."""
    monkeypatch.setitem(registry.MANAGERS, "file", lambda: FileManager)
    monkeypatch.setattr(waiter, "start", lambda *_arguments: "nothing")


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder in memory where there is one."""
    folder = Path(tempfile.mkdtemp(prefix="qoc-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def make_host(memory: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], CrashHost]:
    """Make fresh hosts."""
    stand_in(monkeypatch)

    def make(name: str) -> CrashHost:
        (memory / name).mkdir()
        return CrashHost(memory / name)

    return make
