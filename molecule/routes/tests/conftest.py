# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two fleets, and the figures of a verify step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import APPS, FIGURES, Lab, on


@pytest.fixture
def mailer() -> Lab:
    """The RQ fleet."""
    return Lab("mailer")


@pytest.fixture
def parcel() -> Lab:
    """The Celery fleet."""
    return Lab("parcel")


@pytest.fixture(autouse=True)
def no_producer_goes_on() -> Iterator[None]:
    """After its test."""
    yield
    for app in APPS.values():
        on("broker", f"systemctl stop {app.producer}")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the figures, and leave the counts for the closing lines of ``make molecule-routes``."""
    for figure in FIGURES:
        terminalreporter.write_line(f"=== {figure}")
    counts = {kind: len(terminalreporter.stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped")}
    line = {
        "name": "/".join(Path(argument).parent.name for argument in config.args[:1]),
        "passed": counts["passed"],
        "failed": counts["failed"] + counts["error"],
        "skipped": counts["skipped"],
    }
    with Path(os.environ["QUEUEOPS_VERIFIED"]).open("a", encoding="utf-8") as counted:
        counted.write(json.dumps(line) + "\n")
