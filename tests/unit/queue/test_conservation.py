# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Conservation by identity, while workers consume and record what they complete."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._queue import conservation as room
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveReport, RedriveRequest

from .conftest import Broker


@pytest.fixture(name="record")
def _record(tmp_path: Path) -> Path:
    record = tmp_path / "completed"
    record.touch()
    return record


def redriven_while_two_are_taken(broker: Broker, record: Path, monkeypatch: pytest.MonkeyPatch, worked_on: Any) -> RedriveReport:
    """Redrive five tasks, of which two are taken before they are counted, where nobody sees it; ``worked_on`` ends them after that."""
    client: Any = broker.client
    client.rpush("mail:failed", *(json.dumps({"id": "t%d" % number}) for number in range(5)))
    count, read = room.Conservation.after, room.Conservation._completed
    taken: list[bytes] = []

    def take_and_count(self: room.Conservation) -> None:
        taken.extend(client.rpop("mail", 2))
        count(self)

    def read_and_end(self: room.Conservation) -> array[int]:
        found = read(self)
        if taken:
            worked_on(client, taken)
            taken.clear()
        return found

    monkeypatch.setattr(room.Conservation, "after", take_and_count)
    monkeypatch.setattr(room.Conservation, "_completed", read_and_end)
    return engine.redrive(broker.backend("redis_list", id_field="id"), RedriveRequest("mail", completions=str(record)))


def test_a_task_that_is_on_its_way_is_looked_for_again(broker: Broker, record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is completed a moment later, the other one put back."""

    def worked_on(client: Any, taken: list[bytes]) -> None:
        record.write_text("%s\n" % json.loads(taken[0])["id"])
        client.rpush("mail", taken[1])

    report = redriven_while_two_are_taken(broker, record, monkeypatch, worked_on)
    assert (report.conservation["verdict"], report.conservation["missing"]) == ("proven", 0), report.conservation


def test_a_task_that_is_gone_stays_missing(broker: Broker, record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ON_ITS_WAY_S", 0.5)

    def worked_on(_client: Any, taken: list[bytes]) -> None:
        record.write_text("%s\n" % json.loads(taken[0])["id"])

    report = redriven_while_two_are_taken(broker, record, monkeypatch, worked_on)
    assert (report.conservation["verdict"], report.conservation["missing"]) == ("unproven", 1)
    assert report.conservation["reason"] == "1 task is in none of the places counted, and not recorded as completed"
