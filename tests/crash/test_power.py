# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The power is cut at every operation of every phase; what was not fsynced may be gone or reordered, as :mod:`tests.crash.power` says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.host import CrashHost
from tests.crash.judge import Judge
from tests.crash.scenarios import SCENARIOS, Scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[one.name for one in SCENARIOS])
def test_power_cut_after_every_operation(make_host: Callable[[str], CrashHost], memory: Path, scenario: Scenario) -> None:
    """The machine starts again, and the next run leaves the old state or the new one, byte for byte."""
    judge = Judge(make_host("host"), scenario, memory / "saved")
    print("\n" + judge.cut_power())
    assert judge.counts["states"] >= 2
