# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The chain: every damage is found and named, a crash is not damage, and many writers keep one chain."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._journal.events import GENESIS, MAX_LINE, Event
from ansible_collections.queueops.fleet.plugins.module_utils._journal.journal import Damaged, Journal, verify
from ansible_collections.queueops.fleet.plugins.module_utils._journal.overview import overview


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(str(tmp_path / "state" / "mailer" / "journal.jsonl"))


def some_events(count: int = 3) -> list[Event]:
    return [
        Event("host_switched", "op-0001-deploy", 1, f"worker{n}", "alice@ctl1", "because é", {"release": 1, "timings": {"drain": 0.25}})
        for n in range(1, count + 1)
    ]


def content(journal: Journal) -> bytes:
    return Path(journal.path).read_bytes()


def test_events_are_chained_and_read_back_as_written(journal: Journal) -> None:
    assert journal.head() == GENESIS
    written = journal.append(some_events())
    assert [event.seq for event in written] == [1, 2, 3]
    assert written[0].prev == GENESIS
    assert written[1].prev == written[0].hash
    assert journal.read() == written
    assert journal.head() == written[-1].hash
    assert written[0].at is not None
    assert written[0].at.endswith("Z")
    assert len(written[0].at) == len("2026-03-01T07:41:22.123Z")


def test_a_line_is_plain_json_with_the_promised_fields(journal: Journal) -> None:
    journal.append(some_events(1))
    line = json.loads(content(journal))
    assert list(line) == ["seq", "at", "operation", "epoch", "host", "actor", "kind", "reason", "data", "prev", "hash"]


def test_files_are_for_their_owner_alone(journal: Journal) -> None:
    journal.append(some_events(1))
    folder = os.path.dirname(journal.path)
    assert stat.S_IMODE(os.stat(journal.path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.dirname(folder)).st_mode) == 0o700


def test_reading_a_journal_that_does_not_exist_leaves_nothing_behind(journal: Journal, tmp_path: Path) -> None:
    assert journal.read() == []
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_bit_is_found_and_named(journal: Journal) -> None:
    journal.append(some_events(2))
    sound = content(journal)
    first_line = sound.index(b"\n")
    for offset in range(len(sound)):
        for bit in range(8):
            flipped = bytearray(sound)
            flipped[offset] ^= 1 << bit
            with pytest.raises(Damaged) as caught:
                verify(bytes(flipped), "j")
            line = 1 if offset <= first_line else 2
            assert f"line {line} (seq {line})" in str(caught.value), (offset, bit)
            assert caught.value.details["seq"] == line


def test_a_damaged_journal_is_neither_read_nor_written(journal: Journal) -> None:
    journal.append(some_events())
    damaged = content(journal).replace(b'"worker2"', b'"worker9"')
    Path(journal.path).write_bytes(damaged)
    for attempt in (journal.read, journal.head, lambda: journal.append(some_events(1))):
        with pytest.raises(Damaged, match=r"journal\.jsonl is damaged in line 2 \(seq 2\): its content does not match"):
            attempt()
    assert content(journal) == damaged


@pytest.mark.parametrize("dropped", [0, 1])
def test_a_line_that_was_taken_out_is_found(journal: Journal, dropped: int) -> None:
    journal.append(some_events())
    lines = content(journal).splitlines(keepends=True)
    del lines[dropped]
    with pytest.raises(Damaged, match=rf"line {dropped + 1} \(seq {dropped + 1}\): it does not follow"):
        verify(b"".join(lines), "j")


def test_lines_that_were_swapped_are_found(journal: Journal) -> None:
    journal.append(some_events())
    first, second, third = content(journal).splitlines(keepends=True)
    with pytest.raises(Damaged, match="line 2"):
        verify(first + third + second, "j")


def test_a_rewritten_history_does_not_fit_what_follows(journal: Journal, tmp_path: Path) -> None:
    journal.append(some_events())
    other = Journal(str(tmp_path / "other" / "j"))
    other.append([Event("host_switched", host="worker7")])
    lines = content(journal).splitlines(keepends=True)
    with pytest.raises(Damaged, match="line 2"):
        verify(content(other) + b"".join(lines[1:]), "j")


def test_a_torn_last_line_is_cut_wherever_the_crash_was(journal: Journal) -> None:
    journal.append(some_events(2))
    sound = content(journal)
    third = journal.append([Event("gate_verdict", data={"verdict": "pass"})])[0].line()
    for kept in range(1, len(third) - 1):
        Path(journal.path).write_bytes(sound + third[:kept])
        assert [event.kind for event in journal.read()] == ["host_switched"] * 2
        assert overview(journal, "none", None)["torn"] == {"size": kept, "complete": False}
        written = journal.append([Event("wave_started")])
        events = journal.read()
        assert [event.kind for event in events[2:]] == ["journal_tail_cut", "wave_started"]
        assert events[2].data["bytes"] == kept
        assert written == events[3:]
        assert overview(journal, "none", None)["torn"] is None


def test_a_last_line_that_only_lacks_its_newline_is_kept(journal: Journal) -> None:
    journal.append(some_events(2))
    Path(journal.path).write_bytes(content(journal)[:-1] + b"\0\0\0")
    assert len(journal.read()) == 2
    journal.append([Event("wave_started")])
    assert [event.kind for event in journal.read()] == ["host_switched", "host_switched", "journal_tail_completed", "wave_started"]


def test_zero_bytes_of_a_power_cut_are_cut(journal: Journal) -> None:
    journal.append(some_events(1))
    with open(journal.path, "ab") as stream:
        stream.write(b'{"seq":2,"at"' + b"\0" * 100)
    assert len(journal.read()) == 1
    journal.append([Event("wave_started")])
    assert [event.kind for event in journal.read()] == ["host_switched", "journal_tail_cut", "wave_started"]


@pytest.mark.parametrize("foreign", [b"hello", b"hello\n", b'{"seq":7,', b"\n", b'{"seq":1,"at":"2026'])
def test_what_no_writer_left_there_is_damage(journal: Journal, foreign: bytes) -> None:
    journal.append(some_events(1))
    with open(journal.path, "ab") as stream:
        stream.write(foreign)
    with pytest.raises(Damaged, match="line 2"):
        journal.read()


def _write_many(path: str, writer: int, count: int) -> None:
    journal = Journal(path)
    for number in range(count):
        journal.append([Event("written", host=f"writer{writer}", data={"number": number})])


def test_eight_writers_keep_one_chain(journal: Journal) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_many, args=(journal.path, writer, 50)) for writer in range(8)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(120)
    assert [process.exitcode for process in writers] == [0] * 8
    events = journal.read()
    assert [event.seq for event in events] == list(range(1, 401))
    for writer in range(8):
        assert [event.data["number"] for event in events if event.host == f"writer{writer}"] == list(range(50))


def test_a_batch_is_written_whole_or_not_at_all(journal: Journal) -> None:
    journal.append(some_events(1))
    before = content(journal)
    with pytest.raises(Refused, match="Not A Kind"):
        journal.append([Event("fine"), Event("Not A Kind")])
    assert content(journal) == before


@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        (Event("x", data={"n": float("nan")}), "not plain JSON"),
        (Event("x", data={"n": b"bytes"}), "not plain JSON"),
        (Event("x", data={"n": "a" * MAX_LINE}), "bytes long"),
        (Event("x", at="yesterday"), "not a time"),
        (Event("x", at="2026-03-01T07:41:22"), "not a time"),
    ],
)
def test_an_unfit_event_is_refused(journal: Journal, event: Event, complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        journal.append([event])
    assert journal.read() == []


def test_a_given_time_is_kept_in_utc(journal: Journal) -> None:
    written = journal.append([Event("x", at="2026-03-01T08:41:22.123456+01:00"), Event("x", at="2026-03-01T07:41:22Z")])
    assert [event.at for event in written] == ["2026-03-01T07:41:22.123Z", "2026-03-01T07:41:22.000Z"]


def test_a_full_disk_leaves_the_journal_sound(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "mailer" / "journal.jsonl"))
    journal.append(some_events(1))
    before = content(journal)
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    process = context.Process(target=_write_beyond_limit, args=(journal.path, len(before) + 100, answers))
    process.start()
    answer = answers.get()
    process.join(30)
    assert "cannot be used: File too large" in answer
    assert content(journal) == before
    assert len(journal.read()) == 1


def _write_beyond_limit(path: str, limit: int, answers: multiprocessing.SimpleQueue[str]) -> None:
    import resource
    import signal

    # A limit on the file's size stops a write in its middle, as a full disk does.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        Journal(path).append(some_events(3))
        answers.put("written")
    except Refused as refused:
        answers.put(refused.sentence())


def test_waiting_for_another_writer_has_a_limit(journal: Journal) -> None:
    journal.append(some_events(1))
    with journal.session(write=True), pytest.raises(Unavailable, match="Another process has held the journal"):
        Journal(journal.path, patience=0.05).append(some_events(1))


def test_readers_share_the_lock(journal: Journal) -> None:
    journal.append(some_events(1))
    with journal.session(write=False):
        assert len(Journal(journal.path, patience=0.05).read()) == 1


def test_a_link_in_place_of_the_journal_is_refused(journal: Journal, tmp_path: Path) -> None:
    journal.append(some_events(1))
    target = tmp_path / "elsewhere"
    os.rename(journal.path, target)
    os.symlink(target, journal.path)
    for attempt in (journal.read, lambda: journal.append(some_events(1))):
        with pytest.raises(Refused, match="must be a file, not a link"):
            try:
                attempt()
            except Refused as refused:
                raise Refused(refused.sentence()) from refused


def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mailer"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(Refused, match="can be written by others"):
        Journal(str(folder / "journal.jsonl")).append(some_events(1))
    assert list(folder.iterdir()) == []
