# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The signal that quiets a worker of RQ, Celery and Sidekiq, on real ones: none takes a task after it, and none breaks one off."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._worker.api import QUIET_SIGNALS
from ansible_collections.queueops.fleet.plugins.module_utils._worker.process import sidekiq_busy
from ansible_collections.queueops.fleet.plugins.module_utils._worker.waiting import polls

from tests.contract.common import QUEUE
from tests.contract.conftest import Servers
from tests.contract.systems.celery import CeleryRedis
from tests.contract.systems.rq import Rq
from tests.contract.systems.sidekiq import Sidekiq
from tests.unit.conftest import wait_for


@pytest.fixture(params=[Rq, CeleryRedis, Sidekiq], ids=lambda kind: str(kind.backend))
def framework(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Any]:
    server = servers.get("redis7")
    server.clear()
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    made = request.param(server, folder)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def exit_code(pid: int) -> int | None:
    """The exit code of a child that has ended, which is left to who started it; minus the signal that ended it."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def done(framework: Any) -> list[str]:
    return framework.ledger.read_text().split() if framework.ledger.exists() else []


def test_quiet_signal(framework: Any) -> None:
    worker = framework.start_worker(QUEUE)
    first, _second = framework.publish(QUEUE, 2, "hold")
    wait_for(lambda: framework.native(QUEUE)["executing"], limit=60, what="a task in hand")
    if framework.backend == "sidekiq":
        wait_for(lambda: sidekiq_busy(worker.pid), limit=60, what="its title")
    number = signal.Signals["SIG" + QUIET_SIGNALS[framework.backend]]
    os.kill(worker.pid, number)
    # It goes on with the task in hand.
    for _look in polls(2.0, longest=0.2):
        assert exit_code(worker.pid) is None
        assert done(framework) == []
    if framework.backend == "sidekiq":
        assert sidekiq_busy(worker.pid) == 1
    framework.gate.touch()
    if framework.backend == "sidekiq":
        # It does not end by itself, and takes no other task: it says when it has none.
        wait_for(lambda: sidekiq_busy(worker.pid) == 0, limit=60, what="the end of the task in hand")
        assert done(framework) == [first]
        assert exit_code(worker.pid) is None
        os.kill(worker.pid, signal.SIGTERM)
    wait_for(lambda: exit_code(worker.pid) is not None, limit=60, what="the worker's end")
    assert exit_code(worker.pid) == 0
    assert done(framework) == [first]
    assert framework.native(QUEUE)["queued"] == 1
