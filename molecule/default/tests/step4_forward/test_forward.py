# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Release 3 is good: it went out to every host and was confirmed."""

from __future__ import annotations

from checks import check_conservation, check_release, check_secret
from conftest import WORKERS, Fleet


def test_every_host_runs_release_3(fleet: Fleet) -> None:
    """The processes run 3.0.0, on the config of 3.0.0."""
    check_release(fleet, "3.0.0")


def test_every_host_has_done_tasks_with_it(settled: Fleet) -> None:
    """It is not only there, it works."""
    check_conservation(settled)
    assert {row.host for row in settled.ledger() if row.version == "3.0.0"} == set(WORKERS)


def test_no_secret_is_shown(fleet: Fleet) -> None:
    """The secret is in the config and nowhere else."""
    check_secret(fleet, "deploy_3")
