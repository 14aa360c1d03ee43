# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role worker_version over two hosts, by a play of a few lines as an operator writes it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import RedisServer
from tests.unit.playbooks.conftest import Fleet, must, new_fleet

PLAY = """\
- hosts: workers
  gather_facts: false
  roles:
    - role: queueops.fleet.fleet_spec
    - role: queueops.fleet.worker_version
  tasks:
    - ansible.builtin.debug:
        msg: >-
          current {{ worker_version_found.current }} quarantined
          {{ worker_version_found.quarantined | map(attribute='version') | join(',') or 'none' }} there
          {{ worker_version_found.versions | map(attribute='version') | join(',') }} by {{ fleet_spec_worker.framework }}
"""


@pytest.fixture
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    with new_fleet(redis_server) as made:
        yield made


def run(fleet: Fleet, *extra: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    fleet.write_inventory()
    (fleet.project / "play.yml").write_text(PLAY)
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "inventory.yml", *extra, "play.yml"]
    for name, value in variables.items():
        command += ["-e", f"{name}={value}"]
    return subprocess.run(
        command, env=fleet.environment(), cwd=fleet.project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


@pytest.mark.sampled
def test_switch_keep_and_quarantine(fleet: Fleet) -> None:
    must(run(fleet, state="active", version="1.0.0"))
    assert fleet.versions() == {"1.0.0"}
    before = fleet.everything()
    assert "changed=1" in must(run(fleet, "--check", state="active", version="1.1.0"))
    assert fleet.everything() == before
    must(run(fleet, state="active", version="1.1.0"))
    said = must(run(fleet, state="active", version="2.0.0", keep=1))
    assert "current 2.0.0 quarantined none there 1.1.0,2.0.0 by rq" in said
    assert "changed=0" in must(run(fleet, state="active", version="2.0.0", keep=1))

    # supervisor's section of this fleet does not begin with the check, and the message says what to write.
    before = fleet.everything()
    refused = run(fleet, state="quarantined", version="1.1.0", reason="bad")
    assert refused.returncode != 0
    assert "guard/may-start" in refused.stdout
    assert fleet.everything() == before
    missing = run(fleet, state="active")
    assert missing.returncode != 0
    assert "state is active but all of the following are missing: version" in missing.stdout
    assert fleet.everything() == before
