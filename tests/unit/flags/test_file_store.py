# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file of flags: what is in it besides is kept, what is not understood is refused, and a reader never sees a half of it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._flags.change import list_gates
from ansible_collections.queueops.fleet.plugins.module_utils._flags.document import Broken, parse
from ansible_collections.queueops.fleet.plugins.module_utils._flags.file_store import FileStore
from ansible_collections.queueops.fleet.plugins.module_utils._flags.gate import NotOurs
from openfeature.client import OpenFeatureClient

from tests.unit.conftest import stamp, wait_for
from tests.unit.flags.conftest import FOREIGN, WRITTEN_AT_A_TIME, put, write_at_a_time

#: Only root can become another user; anybody else is an ordinary one already.
NOBODY = (65534, 65534) if os.geteuid() == 0 else (os.geteuid(), os.getegid())

READERS, SWAPS, LEAST_READS = 8, 1000, 200

# A reader of its own: it shares no code with what writes. It stops when it is told, and says what it saw.
READER = """
import json, os, sys
path, stop, ready = sys.argv[1:]
reads, seen, wrong = 0, set(), []
while not os.path.exists(stop):
    try:
        with open(path, "rb") as stream:
            document = json.loads(stream.read())
        flag = document["flags"]["new-invoice"]
        release = flag["metadata"]["queueops.release"]
        weights = dict(flag["targeting"]["fractional"])
        if weights != {"on": release % 101, "off": 100 - release % 101} or document["flags"]["theme"]["defaultVariant"] != "light":
            wrong.append("two documents in one: %d %r" % (release, weights))
        seen.add(release)
    except Exception as problem:
        wrong.append(repr(problem))
    reads += 1
    if reads == 1:
        open(ready, "w").close()
print(json.dumps({"reads": reads, "seen": len(seen), "wrong": wrong[:5]}))
"""


def swap(file: FileStore, number: int) -> None:
    put(file, percent=number % 101, release=number)


def test_no_reader_sees_a_broken_or_a_missing_file(foreign: Path, tmp_path: Path) -> None:
    file = FileStore(str(foreign))
    swap(file, 0)
    stop = tmp_path / "stop"
    readers = []
    for number in range(READERS):
        ready = tmp_path / f"ready-{number}"
        command = [sys.executable, "-c", READER, str(foreign), str(stop), str(ready)]
        readers.append((ready, subprocess.Popen(command, stdout=subprocess.PIPE, text=True)))
    try:
        wait_for(lambda: all(ready.exists() for ready, _process in readers), 60, "the readers")
        for number in range(1, SWAPS + 1):
            swap(file, number)
    finally:
        stop.touch()
        told = [json.loads(process.communicate(timeout=60)[0]) for _ready, process in readers]
    assert json.loads(foreign.read_text())["flags"]["new-invoice"]["metadata"]["queueops.release"] == SWAPS
    assert [one["wrong"] for one in told] == [[]] * READERS
    assert min(one["reads"] for one in told) >= LEAST_READS, told
    assert min(one["seen"] for one in told) > 1, told
    assert sorted(os.listdir(foreign.parent)) == [".flags.json.lock", "flags.json"]


def test_the_sdk_sees_a_swap_within_its_poll_interval(file: FileStore, path: Path, sdk: Callable[..., OpenFeatureClient]) -> None:
    put(file, state="off")
    reader = sdk(path, poll_ms=500)
    assert not reader.get_boolean_value("new-invoice", False)
    put(file, state="on")
    began = time.monotonic()
    wait_for(lambda: reader.get_boolean_value("new-invoice", False), what="the SDK's look at the file")
    # The interval, and some for a machine that has other work.
    assert time.monotonic() - began < 2.0


def test_the_sdk_sees_a_swap_although_the_clock_was_ahead_before(
    file: FileStore, path: Path, sdk: Callable[..., OpenFeatureClient]
) -> None:
    put(file, state="off")
    ahead = time.time() + 3600
    os.utime(path, (ahead, ahead))
    reader = sdk(path, poll_ms=100)
    put(file, state="on")
    wait_for(lambda: reader.get_boolean_value("new-invoice", False), what="the SDK's look at the file")


def test_two_writers_at_a_time_lose_nothing(path: Path, tmp_path: Path) -> None:
    work = """
from tests.unit.flags.conftest import FileStore, put
def write(number):
    put(FileStore(arguments[0]), "gate-%s-%d" % (name, number), "on")
"""
    write_at_a_time(tmp_path, work, str(path))
    assert set(json.loads(path.read_text())["flags"]) == WRITTEN_AT_A_TIME


def test_what_else_is_in_the_document_stays_in_its_order(foreign: Path) -> None:
    file = FileStore(str(foreign))
    put(file, state="on", release=7)
    written = json.loads(foreign.read_text())
    assert list(written) == list(FOREIGN) and list(written["flags"]) == [*FOREIGN["flags"], "new-invoice"]
    put(file, state="targets", targets=["a"])
    assert list(json.loads(foreign.read_text())["flags"])[-1] == "new-invoice"
    put(file, state="absent")
    assert json.dumps(json.loads(foreign.read_text())) == json.dumps(FOREIGN)


def test_half_a_pair_of_surrogates_stays_one(path: Path) -> None:
    path.write_bytes(b'{"flags": {}, "odd": "\\ud83d", "whole": "\\ud83d\\ude00"}')
    before = json.loads(path.read_bytes())
    put(FileStore(str(path)), state="on")
    written = json.loads(path.read_bytes())
    assert (written["odd"], written["whole"]) == (before["odd"], before["whole"])


def test_what_somebody_else_has_in_a_gates_metadata_stays(file: FileStore, path: Path) -> None:
    put(file, state="off", release=3)
    document = json.loads(path.read_text())
    document["flags"]["new-invoice"]["metadata"]["ticket"] = "PAY-17"
    path.write_text(json.dumps(document))
    put(file, state="on")
    assert json.loads(path.read_text())["flags"]["new-invoice"]["metadata"] == {"queueops.fleet": "mailer", "ticket": "PAY-17"}


def test_what_is_so_already_is_not_written(file: FileStore, path: Path) -> None:
    put(file, percent=10)
    before = stamp(path)
    assert [plan.after for plan in put(file, percent=10)] == [None]
    assert stamp(path) == before
    os.unlink(path.parent / ".flags.json.lock")
    put(file, percent=10)
    put(file, "never", "absent")
    assert os.listdir(path.parent) == ["flags.json"]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"", "line 1, column 1"),
        (b'{"flags": {\n  "a": }\n}', "line 2, column 8"),
        (b'{"flags": {}}\n{', "line 2, column 1"),
        (b'{"flags":\n {"\xff": 1}}', "line 2, column 4"),
        (b'\xef\xbb\xbf{"flags": {}}', "line 1, column 1"),
        (b'{"flags": {"a": NaN}}', "NaN is not JSON"),
        (b'{"flags": {}, "x": 1e999}', "1e999 is too large"),
        (b'{"flags": {}, "flags": {}}', "flags stands twice"),
        (b'{"flags": ' + b"[" * 100_000, "nested too deep"),
        (b"[]", "not an object"),
        (b"{}", "flags is not an object"),
        (b'{"flags": []}', "flags is not an object"),
        (b'{"flags": {}, "$evaluators": 1}', "$evaluators is not an object"),
        (b'{"flags": {}, "metadata": {"a": {}}}', "metadata.a is neither"),
        (b'{"flags": {}, "metadata": null}', "metadata is not an object"),
        (b'{"flags": {"": {}}}', "a flag without a name"),
        (b'{"flags": {"a": 1}}', "flags.a is not an object"),
        (b'{"flags": {"a": {"variants": {"x": 1}}}}', "flags.a.state is neither"),
        (b'{"flags": {"a": {"state": "on", "variants": {"x": 1}}}}', "flags.a.state is neither"),
        (b'{"flags": {"a": {"state": "ENABLED"}}}', "flags.a.variants is not"),
        (b'{"flags": {"a": {"state": "ENABLED", "variants": {}}}}', "flags.a.variants is not"),
        (b'{"flags": {"a": {"state": "ENABLED", "variants": {"x": 1, "y": true}}}}', "flags.a.variants are not all of one kind"),
        (b'{"flags": {"a": {"state": "ENABLED", "variants": {"x": null}}}}', "flags.a.variants are not all of one kind"),
        (b'{"flags": {"a": {"state": "ENABLED", "variants": {"x": 1}, "defaultVariant": 1}}}', "flags.a.defaultVariant is not"),
        (b'{"flags": {"a": {"state": "ENABLED", "variants": {"x": 1}, "targeting": "x"}}}', "flags.a.targeting is not"),
        (b'{"flags": {"a": {"state": "ENABLED", "variants": {"x": 1}, "metadata": {"m": null}}}}', "flags.a.metadata.m is neither"),
    ],
)
def test_a_broken_document_is_refused_with_its_place_and_stays(content: bytes, place: str, file: FileStore, path: Path) -> None:
    path.write_bytes(content)
    before = stamp(path)
    for work in (lambda: put(file, state="on"), lambda: put(file, state="absent"), lambda: list_gates(file, "mailer", None)):
        with pytest.raises(Broken) as caught:
            work()
        assert place in caught.value.message and str(path) in caught.value.message
        assert caught.value.still_true == "Nothing was changed" and caught.value.option == "path"
    assert path.read_bytes() == content and stamp(path) == before
    assert os.listdir(path.parent) == ["flags.json"]


def test_what_readers_take_is_no_broken_document() -> None:
    parse(json.dumps(FOREIGN).encode(), "here", "path")
    flag: dict[str, Any] = {"state": "ENABLED", "variants": {"x": 1, "y": 2.5}, "targeting": {}, "more": [1]}
    parse(json.dumps({"flags": {"a": flag, "b": dict(flag, defaultVariant=None)}}).encode(), "here", "path")


@pytest.mark.parametrize(
    ("name", "says"),
    [("of-billing", "belongs to the fleet billing, not to mailer"), ("theme", "names no fleet"), ("a-flag", "names no fleet")],
)
def test_a_flag_that_is_somebody_elses_is_refused_and_stays(name: str, says: str, foreign: Path) -> None:
    content = foreign.read_bytes()
    for options in ({"state": "on"}, {"percent": 5}, {"state": "absent"}, {"state": "on", "dry_run": True}):
        with pytest.raises(NotOurs) as caught:
            put(FileStore(str(foreign)), name, **options)
        assert says in caught.value.message and caught.value.still_true == "Nothing was changed"
    assert foreign.read_bytes() == content and os.listdir(foreign.parent) == ["flags.json"]


def test_a_gate_that_somebody_has_changed_by_hand_is_refused_and_stays(file: FileStore, path: Path) -> None:
    put(file, percent=10)
    path.write_text(path.read_text().replace("ENABLED", "DISABLED"))
    content = path.read_bytes()
    with pytest.raises(NotOurs, match="somebody else has changed it"):
        put(file, state="off")
    assert path.read_bytes() == content


def test_a_missing_folder_a_link_a_pipe_and_a_folder_are_refused(tmp_path: Path) -> None:
    real = tmp_path / "real.json"
    put(FileStore(str(real)), state="on")
    content = real.read_bytes()
    (tmp_path / "link.json").symlink_to(real)
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    before = sorted(os.listdir(tmp_path))
    for name, error, says in [
        ("nowhere/flags.json", NotFound, f"There is no folder {tmp_path}/nowhere"),
        ("real.json/flags.json", Refused, "Not a directory"),
        ("link.json", Refused, str(real)),
        ("pipe.json", Refused, "is not a file"),
        ("folder.json", Refused, "is not a file"),
    ]:
        with pytest.raises(error) as caught:
            put(FileStore(str(tmp_path / name)), state="off")
        assert says in caught.value.sentence() and caught.value.option == "path"
    for path in ("flags.json", "/etc/"):
        with pytest.raises(Refused, match="absolute path"):
            FileStore(path)
    assert sorted(os.listdir(tmp_path)) == before and real.read_bytes() == content


def test_owner_and_mode_stay_unless_they_are_given(path: Path) -> None:
    put(FileStore(str(path)), state="on")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    path.chmod(0o600)
    put(FileStore(str(path)), state="off")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (plan,) = put(FileStore(str(path), mode="0640"), state="off")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    (diff,) = plan.diffs
    assert "mode 0600" in diff["before"] and "mode 0640" in diff["after"]
    assert [plan.after for plan in put(FileStore(str(path), mode="0640"), state="off")] == [None]


def test_a_given_owner_and_group_are_kept(path: Path) -> None:
    put(FileStore(str(path), owner=str(NOBODY[0]), group=str(NOBODY[1])), state="on")
    assert (path.stat().st_uid, path.stat().st_gid) == NOBODY
    put(FileStore(str(path)), state="off")
    assert (path.stat().st_uid, path.stat().st_gid) == NOBODY


def test_who_may_not_write_is_refused_in_check_mode_too() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        path = folder / "flags.json"
        put(FileStore(str(path), mode="0644"), state="on")
        content = path.read_bytes()
        folder.chmod(0o555)
        with nobody():
            for dry_run in (True, False):
                with pytest.raises(Refused, match="Permission denied") as caught:
                    put(FileStore(str(path)), state="off", dry_run=dry_run)
                assert "become: true" in caught.value.sentence()
            # Reading takes no right to write, and so does finding that all is as it should be.
            put(FileStore(str(path)), state="on")
        folder.chmod(0o777)
        with nobody(), pytest.raises(Refused, match="Only root can write"):
            put(FileStore(str(path), owner="1"), state="off", dry_run=True)
        assert path.read_bytes() == content


@contextmanager
def nobody() -> Iterator[None]:
    """As somebody who is not root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY[0])
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"mode": "420"}, "mode"),
        ({"mode": "0o644"}, "mode"),
        ({"mode": "u=rw"}, "mode"),
        ({"owner": "nobody-at-all"}, "owner"),
        ({"group": "none-such"}, "group"),
    ],
)
def test_wrong_owners_and_modes_are_refused(options: dict[str, str], option: str, path: Path) -> None:
    with pytest.raises(Refused) as caught:
        FileStore(str(path), **options)
    assert caught.value.option == option


def test_what_a_dead_writer_left_beside_is_not_followed(file: FileStore, path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (path.parent / ".flags.json.new").symlink_to(victim)
    put(file, state="on")
    assert victim.read_text() == "precious" and not path.is_symlink()
    assert sorted(os.listdir(path.parent)) == [".flags.json.lock", "flags.json"]


def test_a_full_disk_leaves_the_file_as_it_was(file: FileStore, path: Path) -> None:
    put(file, state="off")
    content = path.read_bytes()
    work = f"""
import resource, signal
from tests.unit.flags.conftest import put
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._flags.file_store import FileStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))
try:
    put(FileStore({str(path)!r}), state="on")
except Refused as refused:
    print(refused.sentence())
"""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    done = subprocess.run([sys.executable, "-c", work], env=environment, capture_output=True, text=True, check=False)
    assert "File too large (option path). Nothing was changed." in done.stdout, done.stderr
    assert path.read_bytes() == content and sorted(os.listdir(path.parent)) == [".flags.json.lock", "flags.json"]
