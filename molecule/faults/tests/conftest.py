# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every test begins with a fleet that is whole, on release 1."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import APPS, Lab, mend


def standing(app: str) -> Lab:
    """A fleet that is whole, on version 1.0.0; whatever an earlier test has left."""
    mend()
    lab = Lab(app)
    if lab.is_held() or not lab.is_one_release():
        lab.must("resume", takeover="true", do="undo", min_tasks=0)
    if not lab.on_version("1.0.0"):
        lab.must("deploy", version="1.0.0", min_tasks=0)
    return Lab(app)


@pytest.fixture
def mailer() -> Iterator[Lab]:
    """The RQ fleet on version 1.0.0."""
    yield standing("mailer")
    mend()


def pytest_runtest_teardown() -> None:
    """No producer goes on after its test, and one that failed leaves no host that another one would miss."""
    mend()
    for app in APPS.values():
        Lab(app.name).stop_publishing()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Leave the counts for the closing lines of ``make molecule-faults``."""
    counts = {kind: len(terminalreporter.stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped")}
    line = {
        "name": "/".join(Path(argument).parent.name for argument in config.args[:1]),
        "passed": counts["passed"],
        "failed": counts["failed"] + counts["error"],
        "skipped": counts["skipped"],
    }
    with Path(os.environ["QUEUEOPS_VERIFIED"]).open("a", encoding="utf-8") as counted:
        counted.write(json.dumps(line) + "\n")
