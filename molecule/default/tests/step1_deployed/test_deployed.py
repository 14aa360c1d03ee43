# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Release 1 was deployed to hosts that had nothing."""

from __future__ import annotations

from checks import check_conservation, check_release, check_secret
from conftest import Fleet


def test_every_host_runs_release_1(fleet: Fleet) -> None:
    """The processes run 1.0.0, on the config of 1.0.0."""
    check_release(fleet, "1.0.0")


def test_the_broker_is_the_distributions_redis_8(fleet: Fleet) -> None:
    """The story is told on a real broker of the distribution."""
    assert fleet.broker.package("redis-server").version.startswith("5:8.")
    assert fleet.broker.service("redis-server").is_running


def test_worker_hosts_have_no_redis_library_of_their_own(fleet: Fleet) -> None:
    """Only the host that talks to the broker needs its client library."""
    for host in fleet.workers.values():
        assert host.run("/usr/bin/python3 -c 'import redis'").failed


def test_nothing_is_lost_or_run_twice(settled: Fleet) -> None:
    """The tasks that waited for the first deploy are done too."""
    check_conservation(settled)


def test_no_secret_is_shown(fleet: Fleet) -> None:
    """The secret is in the config and nowhere else."""
    check_secret(fleet, "deploy_1")
