# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a verify step ran."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Leave the counts for the closing lines of ``make molecule-payloads``."""
    counts = {kind: len(terminalreporter.stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped")}
    line = {
        "name": "/".join(Path(argument).parent.name for argument in config.args[:1]),
        "passed": counts["passed"],
        "failed": counts["failed"] + counts["error"],
        "skipped": counts["skipped"],
    }
    with Path(os.environ["QUEUEOPS_VERIFIED"]).open("a", encoding="utf-8") as counted:
        counted.write(json.dumps(line) + "\n")
