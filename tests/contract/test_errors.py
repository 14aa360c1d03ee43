# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A broker that says no, or nothing: a clear message without the password, and nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import QueueBackend
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

from tests.contract.common import QUEUE, request
from tests.contract.system import System


def orders(system: System) -> list[Callable[[QueueBackend], Any]]:
    return [lambda backend: backend.look([QUEUE]), lambda backend: engine.redrive(backend, request(system))]


def test_a_wrong_password_is_refused_and_not_shown(system: System) -> None:
    system.declare(QUEUE)
    system.fail(QUEUE, 2)
    before = system.dump()
    for order in orders(system):
        with pytest.raises(Refused) as caught:
            order(open_backend(system.backend, system.wrong_login()))
        assert caught.value.option in ("password", "username", "url"), caught.value.sentence()
        assert caught.value.next_step
        assert "wrong-pw-9" not in caught.value.sentence()
    assert system.dump() == before


def test_a_broker_that_is_down_is_named(system: System) -> None:
    system.declare(QUEUE)
    system.fail(QUEUE, 2)
    system.server.stop()
    try:
        for order in orders(system):
            with pytest.raises(Unavailable) as caught:
                order(system.open(connect_timeout=2.0))
            told: FleetError = caught.value
            assert told.next_step and (urlsplit(system.server.url).hostname or "") in told.sentence(), told.sentence()
    finally:
        system.server.start()
    assert engine.redrive(system.open(), request(system)).moved == 2
