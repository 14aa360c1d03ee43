# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL after every operation of every phase, git's included, and at some operation of the recovery, another one each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.host import CrashHost
from tests.crash.judge import Judge
from tests.crash.scenarios import SCENARIOS, Scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[one.name for one in SCENARIOS])
def test_killed_after_every_operation(make_host: Callable[[str], CrashHost], memory: Path, scenario: Scenario) -> None:
    """The next run leaves the old state or the new one, byte for byte."""
    judge = Judge(make_host("host"), scenario, memory / "saved")
    print("\n" + judge.try_points(range(1, judge.operations + 1)))
    assert judge.counts["points"] > judge.operations - 10
