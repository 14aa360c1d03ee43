# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fleet went back to release 1 by its number, started as AWX starts a job."""

from __future__ import annotations

from checks import check_conservation, check_release, check_secret
from conftest import WORKERS, Fleet


def test_every_host_runs_release_1(fleet: Fleet) -> None:
    """Code and config of release 1, although release 3 was known good as well."""
    check_release(fleet, "1.0.0")


def test_it_ran_on_every_host(fleet: Fleet) -> None:
    """Each worker host reports a change, none a failure."""
    recap = fleet.recap("rollback_by_number")
    assert set(recap) >= set(WORKERS)
    for host in WORKERS:
        assert recap[host]["changed"] > 0
        assert (recap[host]["failed"], recap[host]["unreachable"]) == (0, 0)


def test_nothing_is_lost_or_run_twice(settled: Fleet) -> None:
    """Over the whole story."""
    check_conservation(settled)


def test_no_secret_is_shown(fleet: Fleet) -> None:
    """The secret is in the config and nowhere else."""
    check_secret(fleet, "rollback_by_number")
