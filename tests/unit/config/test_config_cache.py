# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stat cache: what did not change is not read again, and what could deceive it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._config import live as reading
from ansible_collections.queueops.fleet.plugins.module_utils._config import statcache as room
from ansible_collections.queueops.fleet.plugins.module_utils._config.history import LIVE
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Unavailable

from tests.unit.config.conftest import Place

#: The files that were opened since the list was emptied; an audit hook stays for good, so there is one for all tests.
OPENED: list[str] = []
sys.addaudithook(lambda event, args: OPENED.append(os.fsdecode(args[0])) if event == "open" and isinstance(args[0], (str, bytes)) else None)


@pytest.fixture
def opened(place: Place) -> Callable[[], list[str]]:
    """The names of the watched files that were opened since the last call."""

    def since() -> list[str]:
        found = sorted({os.path.basename(path) for path in OPENED if path.startswith(f"{place.etc}/")})
        OPENED.clear()
        return found

    return since


def test_unchanged_files_are_not_read(place: Place, opened: Callable[[], list[str]]) -> None:
    for name in ("a", "b", "c"):
        place.write(name, "one\n")
    (place.etc / "link").symlink_to("a")
    first = place.history().snapshot()[0]
    assert {"a", "b", "c"} <= set(opened())
    assert place.history().snapshot() == (first, False)
    assert place.history().snapshot(dry_run=True) == (first, False)
    assert place.history().live() == first
    assert opened() == []
    os.utime(place.etc / "b")
    assert place.history().snapshot() == (first, False)
    assert opened() == ["b"]
    assert place.history().snapshot() == (first, False)
    assert opened() == []


@pytest.mark.parametrize("damage", ["cut", "head", "rows", "empty", "gone"])
def test_a_damaged_cache_is_thrown_away(place: Place, opened: Callable[[], list[str]], damage: str) -> None:
    place.write("a", "one\n")
    place.write("b", "one\n")
    first = place.history().snapshot()[0]
    place.write("b", "two\n")
    cache = Path(place.repo, "queueops", "stat-cache")
    good = cache.read_bytes()
    if damage == "cut":
        cache.write_bytes(good[:-20])
    elif damage == "head":
        cache.write_bytes(good.replace(b'"manifest": "', b'"manifest": "0', 1))
    elif damage == "rows":
        # The sums of two files exchanged: what it says is well formed, and wrong.
        rows = good.splitlines()[-1]
        blob = place.history().entries(first)[str(place.etc / "a")].blob.encode()
        cache.write_bytes(good.replace(rows, rows.replace(blob, b"0" * 40)))
    elif damage == "empty":
        cache.write_bytes(b"")
    else:
        cache.unlink()
    opened()
    second, recorded = place.history().snapshot()
    assert recorded
    assert opened() == ["a", "b"]
    assert place.git("show", f"{second.id}:files{place.etc}/a") == "one\n"
    assert place.git("show", f"{second.id}:files{place.etc}/b") == "two\n"
    assert place.history().snapshot() == (second, False)
    assert opened() == []


def test_what_may_have_been_written_in_the_same_tick_is_read_again(
    place: Place, opened: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As git does with racily clean files."""
    place.write("young", "one\n")
    # A clock tick that is longer than all of this test: nothing is old enough to be trusted.
    monkeypatch.setattr(room, "CLOCK_TICK", 3600.0)
    first = place.history().snapshot()[0]
    for _turn in range(2):
        opened()
        assert place.history().snapshot() == (first, False)
        assert opened() == ["young"]


def test_what_stays_too_young_to_be_sure_of_is_not_recorded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("young", "one\n")
    monkeypatch.setattr(reading, "CLOCK_TICK", 3600.0)
    monkeypatch.setattr(reading, "_wait_for_clock", lambda _looked: False)
    with pytest.raises(Unavailable, match="young"):
        place.history().snapshot()
    assert place.history().list() == []


def test_an_edit_that_hides_its_time_and_size_is_seen(place: Place) -> None:
    path = place.write("a", "00000\n")
    seen = path.stat()
    place.history().snapshot()
    for number in range(1, 40):
        path.write_text(f"{number:05d}\n")
        os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
        snapshot, recorded = place.history().snapshot()
        assert recorded
        assert place.git("show", f"{snapshot.id}:files{path}") == f"{number:05d}\n"


@pytest.mark.parametrize("what", ["mode", "owner", "attribute", "link", "attribute of a folder", "absent", "exclude"])
def test_everything_else_is_seen_too(place: Place, what: str) -> None:
    path = place.write("a", "one\n")
    (place.etc / "sub").mkdir()
    place.write("x.pid", "1\n")
    first = place.history().snapshot()[0]
    assert place.history().snapshot() == (first, False)
    edits: dict[str, Callable[[], Any]] = {
        "mode": lambda: path.chmod(0o600),
        "owner": lambda: os.chown(path, 12, 34),
        "attribute": lambda: os.setxattr(path, "user.a", b"x"),
        "link": lambda: os.link(path, place.etc / "sub/b"),
        "attribute of a folder": lambda: os.setxattr(place.etc / "sub", "user.a", b"x"),
        "absent": path.unlink,
        "exclude": lambda: None,
    }
    edits[what]()
    history = place.history(exclude=["*.pid"] if what == "exclude" else [])
    assert history.snapshot()[1]
    assert what == "exclude" or history.diff(first, LIVE)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    OPENED.clear()
    yield
    OPENED.clear()
