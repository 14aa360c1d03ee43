# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fixed sample of ``make crash``, and the switch killed among real workers under a real supervisord."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._release.orders import Order

from tests.crash.conftest import make_host, memory
from tests.crash.host import CrashHost
from tests.crash.judge import Judge
from tests.crash.scenarios import SCENARIOS, Scenario, release_2_prepared
from tests.crash.trace import follow
from tests.unit.release.conftest import Host

__all__ = ["make_host", "memory"]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=[one.name for one in SCENARIOS])
def test_killed_at_a_few_operations(make_host: Callable[[str], CrashHost], memory: Path, scenario: Scenario) -> None:
    judge = Judge(make_host("host"), scenario, memory / "saved")
    print(judge.try_points(range(2, judge.operations + 1, max(2, judge.operations // 4))))
    assert judge.counts["points"] >= 2


@pytest.mark.parametrize("name", ["switch", "confirm", "config take back"])
def test_power_cut_at_a_few_operations(make_host: Callable[[str], CrashHost], memory: Path, name: str) -> None:
    judge = Judge(make_host("host"), next(one for one in SCENARIOS if one.name == name), memory / "saved")
    print(judge.cut_power(every=4))
    assert judge.counts["states"] >= 2


def processes(host: Host) -> list[str]:
    """The version folder that each worker process is in, as the kernel tells it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                folder = os.readlink(entry / "cwd")
            except OSError:
                continue
            if folder.startswith(str(host.root / "versions")):
                found.append(os.path.basename(folder))
    return sorted(found)


def test_a_switch_of_real_workers_killed_at_a_few_operations(host: Host) -> None:
    def switch() -> None:
        host.transaction().activate(2, Order("by-hand"), 3600)

    release_2_prepared(host)
    old = host.tree(), processes(host)
    whole = follow(switch, str(host.folder))
    assert not whole.error, whole.error
    new = host.tree(), processes(host)
    assert (old[1], new[1]) == (["1.0.0"] * 2, ["2.0.0"] * 2)
    found = []
    # Not near the end: how often the workers are looked at, and so how many operations there are, depends on the machine.
    for point in (3, *(len(whole.operations) * share // 100 for share in (20, 40, 60, 75))):
        host.transaction().revert(1, Order())
        assert (host.tree(), processes(host)) == old
        killed = follow(switch, str(host.folder), kill_after=point)
        assert killed.killed, killed.error
        host.transaction().prepare(host.wanted(2, "2.0.0", "b"), Order())
        assert (host.tree(), processes(host)) in (old, new), f"a mixture after {killed.operations[-1]}"
        found.append(host.transaction().status()["release"])
    assert len(found) >= 5
