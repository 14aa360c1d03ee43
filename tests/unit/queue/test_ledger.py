# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger tells after a crash which batches are open, and nobody else may read or share it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue.ledger import Ledger


def write(folder: Path, *entries: dict[str, object]) -> Ledger:
    ledger = Ledger(str(folder), "r1")
    for entry in entries:
        ledger.note(**entry)
    ledger.sync()
    return ledger


def test_open_batches_are_those_not_settled(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"plan": 1, "ids": ["a"]},
        {"sure": 1},
        {"plan": 2, "ids": ["b"]},
        {"sure": 2},
        {"settled": 1},
        {"plan": 3, "ids": ["c", "d"]},
    ).close()
    found = Ledger(str(tmp_path), "r1")
    assert [plan["plan"] for plan in found.plans] == [2, 3]
    assert (found.sure, found.doubt, found.last) == ({2}, set(), 3)
    found.note(settled=3)
    found.sync()
    found.close()
    again = Ledger(str(tmp_path), "r1")
    assert (again.plans, again.last) == ([], 3)
    again.close()


def test_the_settled_tasks_of_a_run_that_did_not_end(tmp_path: Path) -> None:
    entries: tuple[dict[str, object], ...] = (
        {"plan": 1, "ids": ["a"]},
        {"settled": 1},
        {"closed": 1},
        {"plan": 2, "ids": ["b", "c"]},
        {"back": 2, "ids": ["c"]},
    )
    write(tmp_path, *entries, {"settled": 2}, {"plan": 3, "ids": ["d"]}).close()
    found = Ledger(str(tmp_path), "r1")
    assert (found.closed, list(found.settled_ids())) == (1, [["b"]])
    found.close()


def test_returned_tasks_are_not_of_their_batch(tmp_path: Path) -> None:
    write(tmp_path, {"plan": 1, "ids": ["a", "b", "a"], "to": [0, 1, 0]}, {"back": 1, "ids": ["a"]}).close()
    found = Ledger(str(tmp_path), "r1")
    assert (found.plans[0]["ids"], found.plans[0]["to"]) == (["b", "a"], [1, 0])
    found.close()


def test_a_line_cut_off_by_a_crash_is_dropped(tmp_path: Path) -> None:
    ledger = write(tmp_path, {"plan": 1, "ids": ["a"]})
    ledger.close()
    with open(ledger.path, "ab") as file:
        file.write(b'{"plan":2,"ids":["b')
    found = Ledger(str(tmp_path), "r1")
    assert [plan["plan"] for plan in found.plans] == [1]
    found.note(plan=2, ids=["c"])
    found.sync()
    found.close()
    again = Ledger(str(tmp_path), "r1")
    assert [plan["ids"] for plan in again.plans] == [["a"], ["c"]]
    again.close()


def test_nothing_is_written_before_sync_and_it_is_private(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "state"), "a/b ü")
    ledger.note(plan=1, ids=["\udce9 é"])
    assert os.path.getsize(ledger.path) == 0
    ledger.sync()
    assert os.path.getsize(ledger.path) > 0
    assert Path(ledger.path).parent == tmp_path / "state" / "redrive"
    assert stat.S_IMODE(os.stat(ledger.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(ledger.path)).st_mode) == 0o700
    ledger.close()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    first = Ledger(str(tmp_path), "r1")
    with pytest.raises(Conflict) as caught:
        Ledger(str(tmp_path), "r1")
    assert caught.value.option == "run"
    Ledger(str(tmp_path), "r2").close()
    first.close()
    Ledger(str(tmp_path), "r1").close()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused) as caught:
        Ledger(str(tmp_path / "file"), "r1")
    assert caught.value.option == "state_dir"
