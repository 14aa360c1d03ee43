# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A broker that is starting, read-only, a replica or out of memory: a clear message, and nothing is changed."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, Refused, Unavailable

from tests.contract.common import QUEUE, agree, failed_count, places, redriven, state
from tests.contract.system import System
from tests.unit.conftest import wait_for


def refused(system: System, trouble: str) -> None:
    """In that state of the broker a redrive is refused with its name and a way out; afterwards all is as it was, and can be redriven."""
    says = system.server.troubles.get(trouble)
    if says is None:
        return
    system.declare(QUEUE)
    ids = system.fail(QUEUE, 3)
    agree(system)
    before = system.dump()
    with system.server.in_trouble(trouble):
        for check in (False, True):
            try:
                redriven(system, check=check)
            except (Refused, Unavailable) as caught:
                assert re.search(says, caught.sentence()), caught.sentence()
                assert caught.next_step and not caught.details.get("moved")
            else:
                assert check, "it took no notice"
        try:
            found = state(system)
        except FleetError as error:
            assert re.search(says, error.sentence()) and error.next_step, error.sentence()
        else:
            assert (found.queued, failed_count(found)) == (0, 3)
    # What a broker tells of a moment ago is still on its way.
    wait_for(lambda: system.dump() == before, what="what was there before")
    assert redriven(system).moved == 3
    assert places(system) == Counter(ids)


@pytest.mark.parametrize("trouble", ["starting", "read_only", "replica", "out_of_memory"])
def test_a_broker_that_is(system: System, trouble: str) -> None:
    refused(system, trouble)
