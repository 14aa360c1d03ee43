# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts a playbook is for; and what each of Ansible's workers has to load for a filter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.queueops.fleet.plugins import filter as filters
from ansible_collections.queueops.fleet.plugins.filter.fleet_group import fleet_group

GROUPS = {"all": ["worker1", "broker"], "ungrouped": [], "workers": ["worker1"], "brokers": ["broker"], "spare": []}


@pytest.mark.parametrize("name", ["workers", "worker1", "all", "workers:&eu", "worker*"])
def test_what_has_hosts_or_is_a_pattern_is_left_as_it_is(name: str) -> None:
    assert fleet_group(name, GROUPS) == name


@pytest.mark.parametrize("name", ["nosuch", "spare"])
def test_a_fleet_without_hosts_is_refused(name: str) -> None:
    with pytest.raises(AnsibleFilterError, match=f"no hosts in a group {name}.*It has brokers, workers[.] Nothing was changed"):
        fleet_group(name, GROUPS)


def test_no_filter_loads_a_client_of_a_broker() -> None:
    folder = Path(str(filters.__path__[0]))
    modules = [f"{filters.__name__}.{path.stem}" for path in sorted(folder.glob("*.py"))]
    # Each of Ansible's workers loads them all, when a task first uses one.
    heavy = {"asyncio", "ssl", "http.client", "redis", "amqp", "nats", "psycopg", "scipy"}
    lines = ["import sys", "before = set(sys.modules)", *(f"import {name}" for name in modules), "print(*(set(sys.modules) - before))"]
    code = "import ansible.errors; import ansible.context; " + "; ".join(lines)
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert len(modules) > 5 and set(modules) <= set(loaded)
    assert not heavy & set(loaded)
