# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger tells after a crash which batches are open, and nobody else may read or share it."""

from __future__ import annotations

import errno
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
    assert (found.closed, list(found.settled_ids("dead"))) == (1, [["b"]])
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


def test_a_line_damaged_in_the_middle_is_refused_and_what_follows_is_kept(tmp_path: Path) -> None:
    ledger = write(tmp_path, {"plan": 1, "ids": ["a"]})
    ledger.close()
    with open(ledger.path, "ab") as file:
        file.write(b'{"plan":2,"i\x00\x00\n{"sure":1}\n')
    whole = Path(ledger.path).read_bytes()
    for _again in range(2):
        with pytest.raises(Refused) as caught:
            Ledger(str(tmp_path), "r1")
        assert "line 3" in caught.value.message and caught.value.next_step
    assert Path(ledger.path).read_bytes() == whole


def test_a_full_disk_is_told_and_leaves_no_half_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = write(tmp_path, {"plan": 1, "ids": ["a"]})
    whole, real = Path(ledger.path).read_bytes(), os.write

    def some(file: int, data: memoryview) -> int:
        if len(data) > 40:
            return real(file, data[:40])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", some)
    ledger.note(plan=2, ids=["b" * 80])
    with pytest.raises(Refused) as caught:
        ledger.sync()
    assert "No space left" in caught.value.message and "published" in (caught.value.still_true or "")
    ledger.close()
    ledger.close()
    monkeypatch.undo()
    assert Path(ledger.path).read_bytes() == whole
    again = Ledger(str(tmp_path), "r1")
    assert again.last == 1
    again.close()


def test_each_source_of_a_run_has_its_own(tmp_path: Path) -> None:
    first, second = Ledger(str(tmp_path), "r1", "/ mail.dead"), Ledger(str(tmp_path), "r1", "/ other.dead")
    first.note(plan=1, ids=["a"])
    first.sync()
    first.close()
    second.close()
    assert Ledger(str(tmp_path), "r1", "/ other.dead").last == 0
    again = Ledger(str(tmp_path), "r1", "/ mail.dead")
    assert (again.last, again.token, again.name != second.name) == (1, first.token, True)
    again.close()


def test_what_went_to_the_tail_of_the_source_is_not_settled(tmp_path: Path) -> None:
    plan = {"plan": 1, "queues": ["mail", "dead", None], "ids": ["a", "b", "c"], "to": [0, 1, 2]}
    write(tmp_path, plan, {"settled": 1}, {"plan": 2, "queues": ["dead"], "ids": ["d"]}, {"settled": 2}).close()
    found = Ledger(str(tmp_path), "r1")
    assert list(found.settled_ids("dead")) == [["a", "c"], []]
    found.close()


def test_nothing_is_written_before_sync_and_it_is_private(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path / "state"), "a/b ü")
    ledger.note(plan=1, ids=["\udce9 é"])
    begun = os.path.getsize(ledger.path)
    ledger.note(sure=1)
    assert os.path.getsize(ledger.path) == begun
    ledger.sync()
    assert os.path.getsize(ledger.path) > begun
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
