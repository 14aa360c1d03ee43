# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the module tells when a phase fails."""

from __future__ import annotations

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.queueops.fleet.plugins.module_utils._release.orders import Order

from tests.unit.release.conftest import Host
from tests.unit.release.test_check_mode import Phase


def test_what_the_operating_system_refuses_is_told_with_where_the_host_stands(host: Host) -> None:
    host.transaction().prepare(host.wanted(1, "1.0.0", "a"), Order())
    # Stands for a full disk: here, too, the system refuses a file of the state.
    lock = host.state_dir / "mailer" / "transaction.lock"
    lock.unlink()
    lock.mkdir()
    with pytest.raises(FleetError) as failed:
        Phase(host, check_mode=False, phase="active", release=1).run()
    assert failed.value.message == f"The operating system of host1 refused: Is a directory: {lock}"
    assert failed.value.details["live"]["release"] == 0
