# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check mode of every phase, through the module: nothing of the host is touched, and it says what the run then does."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._release.orders import Order
from ansible_collections.queueops.fleet.plugins.modules import worker_release

from tests.unit.release.conftest import Host


class Phase:
    """Runs the module's body as AnsibleModule would, with ``params`` complete."""

    def __init__(self, host: Host, check_mode: bool, **params: Any) -> None:
        settings = host.transaction()._settings
        self.config: dict[str, Any] = {"paths": [str(host.config)], "exclude": [], "sensitive": [], "files": [], "feature_gates": []}
        names = ("version", "artifact", "checksum", "operation", "epoch", "release", "spared")
        given = {**dict.fromkeys(names), "confirm_timeout": 60, "host": "host1", **params}
        self.check_mode = check_mode
        self.params = {"fleet": "mailer", "state_dir": str(host.state_dir), "worker": settings.worker, "config": self.config, **given}

    def run(self) -> bool:
        return bool(worker_release.body(self).changed)


def fingerprint(host: Host) -> bytes:
    """The whole host by find(1), with times and checksums, and its processes."""
    form = "%p %y %m %U %G %s %l %i %T@ %C@\\n"
    noise = ["-not", "-name", "*.log", "-not", "-name", "*.pid"]
    listed = subprocess.run(["find", str(host.folder), *noise, "-printf", form], capture_output=True, check=True).stdout
    sums = subprocess.run(
        ["find", str(host.folder), *noise, "-type", "f", "-exec", "sha256sum", "{}", "+"], capture_output=True, check=True
    )
    workers = [(worker["pid"], worker["since"], worker["state"]) for worker in host.transaction().status()["workers"]]
    return listed + sums.stdout + repr(workers).encode()


def unchanged(host: Host, expected: bool, **params: Any) -> None:
    before = fingerprint(host)
    assert Phase(host, check_mode=True, **params).run() is expected
    assert fingerprint(host) == before


@pytest.mark.parametrize("first", [True, False], ids=["fresh host", "after a release"])
def test_prepared(host: Host, first: bool) -> None:
    number = 1
    if not first:
        deploy(host)
        number = 2
    path, checksum = host.artifact(f"{number}.0.0")
    new = {"phase": "prepared", "release": number, "version": f"{number}.0.0", "artifact": path, "checksum": checksum}
    unchanged(host, True, **new)
    assert Phase(host, check_mode=False, **new).run()
    unchanged(host, False, **new)
    unchanged(host, False, phase="prepared", release=number)


def test_active_confirmed_and_reverted(host: Host) -> None:
    deploy(host)
    host.transaction().prepare(host.wanted(2, "2.0.0", "b"), Order())
    for phase in ("active", "confirmed"):
        unchanged(host, True, phase=phase, release=2)
        assert Phase(host, check_mode=False, phase=phase, release=2).run()
        unchanged(host, False, phase=phase, release=2)
    unchanged(host, True, phase="reverted", release=1)
    unchanged(host, True, phase="reverted", version="1.0.0")
    unchanged(host, False, phase="reverted", release="known_good")
    assert Phase(host, check_mode=False, phase="reverted", release=1).run()
    unchanged(host, False, phase="reverted", release=1)


def deploy(host: Host) -> None:
    host.transaction().prepare(host.wanted(1, "1.0.0", "a"), Order())
    host.transaction().activate(1, Order(), 60)
    host.transaction().confirm(1, Order())
