# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollback when everything is right changes nothing, and says so."""

from __future__ import annotations

from checks import check_release
from conftest import WORKERS, Fleet


def test_it_changed_nothing(fleet: Fleet) -> None:
    """No host reports a change, neither for the rollback nor for the status."""
    for name in ("rollback_again", "status_again"):
        recap = fleet.recap(name)
        assert set(recap) >= set(WORKERS)
        for host, counts in recap.items():
            assert (counts["changed"], counts["failed"], counts["unreachable"]) == (0, 0, 0), f"{name}: {host}"


def test_every_host_still_runs_release_1(fleet: Fleet) -> None:
    """Nothing was switched."""
    check_release(fleet, "1.0.0")
