# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Release 11 was confirmed in time."""

from __future__ import annotations

import time

import pytest
from conftest import SCRATCH, WORKERS, Hosts


@pytest.mark.parametrize("name", WORKERS)
def test_nothing_happens(hosts: Hosts, name: str) -> None:
    """Well past the limit the host still runs what was confirmed, and nothing of the timer is left."""
    time.sleep(max(0.0, hosts.deadline("confirmed") + 5 - time.time()))
    assert hosts.running(name) == ["3.0.0", "3.0.0"]
    assert hosts.armed(name) == [False, False, False]
    # What the later steps have to come back to.
    (SCRATCH / f"config-{name}").write_text(hosts.config(name), encoding="utf-8")
