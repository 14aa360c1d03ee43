# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A switch that starts the new version while workers of the old one finish: only where the config stays, and undone like any other."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound, PutBack
from ansible_collections.queueops.fleet.plugins.module_utils._release.orders import Order

from tests.unit.conftest import wait_for
from tests.unit.release.conftest import Host


@pytest.fixture
def beside(host: Host) -> Host:
    """A host whose supervisor has the second program group, with release 1 of version 1.0.0 live."""
    conf = host.folder / "supervisord.conf"
    text = conf.read_text()
    conf.write_text(text + text[text.index("[program:mailer]") :].replace("[program:mailer]", "[program:mailer_beside]"))
    subprocess.run([sys.executable, "-m", "supervisor.supervisorctl", "-s", f"unix://{host.socket}", "update"], check=True)
    host.transaction().prepare(host.wanted(1, "1.0.0", "a"), Order())
    host.transaction().activate(1, Order("op-1"), 60)
    host.transaction().confirm(1, Order("op-1"))
    return host


def workers(host: Host) -> Counter[tuple[str, str]]:
    return Counter((one["version"], one["state"]) for one in host.transaction(side_by_side=True).status()["workers"] if one["pid"])


def test_the_old_version_finishes_while_the_new_one_runs(beside: Host) -> None:
    beside.transaction().prepare(beside.wanted(2, "2.0.0", "a"), Order())
    (beside.folder / "hold").touch()
    with ThreadPoolExecutor(1) as pool:
        switch = pool.submit(beside.transaction(side_by_side=True).activate, 2, Order("op-2"), 60)
        both = {("1.0.0", "stopping"): 2, ("2.0.0", "running"): 2}
        wait_for(lambda: workers(beside) == both, what="both versions")
        (beside.folder / "hold").unlink()
        assert switch.result().changed
    assert workers(beside) == {("2.0.0", "running"): 2}
    assert not beside.transaction(side_by_side=True).examine(2, Order()).pending
    beside.transaction(side_by_side=True).revert(1, Order("op-3"))
    assert workers(beside) == {("1.0.0", "running"): 2}


def test_where_the_config_differs_the_new_version_waits(beside: Host) -> None:
    beside.transaction().prepare(beside.wanted(2, "2.0.0", "b"), Order())
    (beside.folder / "hold").touch()
    with ThreadPoolExecutor(1) as pool:
        switch = pool.submit(beside.transaction(side_by_side=True).activate, 2, Order("op-2"), 60)
        wait_for(lambda: workers(beside) == {("1.0.0", "stopping"): 2}, what="the quiet")
        assert (beside.config / "worker.conf").read_text() == "setting=a\n"
        (beside.folder / "hold").unlink()
        assert switch.result().changed
    assert workers(beside) == {("2.0.0", "running"): 2}


def test_a_new_version_that_does_not_start_is_put_back_when_the_old_one_has_ended(beside: Host) -> None:
    before = beside.tree()
    beside.transaction().prepare(beside.wanted(2, "2.0.0", "a", broken=True), Order())
    with pytest.raises(PutBack):
        beside.transaction(side_by_side=True, health={"hold": 5.0, "command": []}).activate(2, Order("op-2"), 60)
    assert beside.tree() == before
    assert workers(beside) == {("1.0.0", "running"): 2}


def test_without_the_second_group_it_is_refused_beforehand(host: Host) -> None:
    before = host.everything()
    with pytest.raises(NotFound, match="mailer_beside") as refused:
        host.transaction(side_by_side=True).prepare(host.wanted(1, "1.0.0", "a"), Order())
    assert refused.value.option == "worker.side_by_side"
    assert {name: what for name, what in host.everything().items() if "artifacts" not in name} == before
