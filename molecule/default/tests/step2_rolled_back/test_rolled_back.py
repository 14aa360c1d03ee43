# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Release 2 failed a third of its tasks; its gate saw it, and the fleet went back."""

from __future__ import annotations

from checks import check_conservation, check_release, check_secret
from conftest import Fleet


def test_the_deploy_said_that_it_failed(fleet: Fleet) -> None:
    """An operator, or a pipeline, sees that the new version is not out."""
    log = fleet.log("deploy_2")
    assert "exit code 0" not in log
    assert "rolled_back" in log


def test_every_host_runs_release_1(fleet: Fleet) -> None:
    """Code and config are back, byte for byte."""
    check_release(fleet, "1.0.0")


def test_only_the_canary_ran_release_2(fleet: Fleet) -> None:
    """The bad version did run, on the hosts of the first wave and no others."""
    assert {row.host for row in fleet.ledger() if row.version == "2.0.0"} == {"worker1"}


def test_tasks_that_release_2_failed_are_done_by_release_1(settled: Fleet) -> None:
    """They were put back and done once; nothing else was touched."""
    check_conservation(settled)


def test_no_secret_is_shown(fleet: Fleet) -> None:
    """Not even while the config with the secret in it goes forth and back."""
    check_secret(fleet, "deploy_2")
