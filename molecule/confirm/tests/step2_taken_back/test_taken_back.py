# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller was killed after the switch to release 12, and nobody helped."""

from __future__ import annotations

import time

import pytest
from conftest import SCRATCH, WORKERS, Hosts, wait_until


@pytest.mark.parametrize("name", WORKERS)
def test_the_host_is_back_within_the_limit_and_ten_seconds(hosts: Hosts, name: str) -> None:
    """Code and config, by itself; the unit that did it is gone."""
    deadline = hosts.deadline("controller_killed")
    if time.time() < deadline - 5:
        assert hosts.armed(name) == [True, True, True]
    assert wait_until(deadline + 10, lambda: hosts.running(name) == ["3.0.0", "3.0.0"]), hosts.running(name)
    assert wait_until(deadline + 10, lambda: hosts.armed(name) == [False, False, False])
    assert hosts.config(name) == (SCRATCH / f"config-{name}").read_text(encoding="utf-8")
