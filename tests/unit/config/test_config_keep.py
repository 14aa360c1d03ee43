# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Letting go of the oldest snapshots: what goes, what stays, and what a crash in between leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._config.history import Snapshot
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound

from tests.unit.config.conftest import Place
from tests.unit.config.crash import killed_at


def several(place: Place, count: int, releases: dict[int, int]) -> list[Snapshot]:
    """``count`` snapshots, the ones in ``releases`` of a release."""
    found = []
    for number in range(count):
        place.write("a.conf", f"state {number}\n")
        place.write(f"only-{number}.conf", f"only in {number}\n" * 50)
        found.append(place.history().snapshot(f"label-{number}", releases.get(number))[0])
        (place.etc / f"only-{number}.conf").unlink()
    place.history().apply(found[-1])
    return found


def whole(place: Place) -> list[str]:
    """The ids of all snapshots; each of them can be read, and git is content with the repository."""
    assert place.git("fsck", "--strict", "--full", "--no-dangling") == ""
    known = place.history().list()
    for one in known:
        place.git("ls-tree", "-r", one.id)
        place.git("cat-file", "-e", place.history().entries(one)[str(place.etc / "a.conf")].blob)
    return [one.id for one in known]


def test_the_oldest_go_and_what_is_needed_stays(place: Place) -> None:
    made = several(place, 9, {1: 0, 2: 1, 5: 2})
    place.history().apply(made[3])
    place.history().apply(made[8])
    only_in_first = place.history().entries(made[0])[str(place.etc / "only-0.conf")].blob
    foreseen = place.history().let_go(3, dry_run=True)
    assert len(place.history().list()) == 9
    gone = place.history().let_go(3)
    assert gone == foreseen
    # 1, 2 and 5 are of releases, 6 to 8 the newest, 8 is live and 3 is what `previous` leads to.
    assert whole(place) == [made[number].id for number in (1, 2, 3, 5, 6, 7, 8)]
    assert place.history().let_go(3) == []
    with pytest.raises(subprocess.CalledProcessError):
        place.git("cat-file", "-e", only_in_first)
    assert place.git("log", "--format=%s").split() == ["label-8", "label-7", "label-6", "label-5"]
    assert place.git("log", "--format=%s", "labels/label-2").split() == ["label-2", "label-1"]
    with pytest.raises(NotFound):
        place.history().resolve("label-4")
    for number in (1, 5, 8):
        place.history().apply(made[number])
        assert (place.etc / "a.conf").read_text() == f"state {number}\n"
    assert place.history().resolve("previous").id == made[5].id
    # And again, after more of them.
    place.write("a.conf", "newer\n")
    newest = place.history().snapshot("newest")[0]
    assert [one.id for one in place.history().let_go(1)] == [made[number].id for number in (3, 6, 7)]
    assert whole(place) == [made[number].id for number in (1, 2, 5, 8)] + [newest.id]
    assert not place.history().snapshot()[1]


def test_what_is_not_connected_any_more_stays_when_more_goes(place: Place) -> None:
    made = several(place, 6, {2: 7})
    place.history().apply(made[0])
    place.history().apply(made[5])
    place.history().let_go(2)
    assert whole(place) == [made[number].id for number in (0, 2, 4, 5)]
    place.history().apply(made[4])
    place.history().apply(made[5])
    assert [one.id for one in place.history().let_go(2)] == [made[0].id]
    assert whole(place) == [made[number].id for number in (2, 4, 5)]


def test_what_is_live_stays_however_old(place: Place) -> None:
    made = several(place, 6, {})
    place.history().apply(made[1])
    place.history().let_go(1)
    assert whole(place) == [made[number].id for number in (0, 1, 5)]
    assert place.history().live() == place.history().resolve(made[1].id)


def test_killed_at_every_call_of_letting_go(fast_path: Path, place_at: Callable[[Path], Place]) -> None:
    """Each time all snapshots are there or only those that stay, and the next run ends as if nothing had been."""
    (fast_path / "host").mkdir()
    place = place_at(fast_path / "host")
    made = several(place, 5, {1: 0})
    before = [one.id for one in made]
    after = [made[number].id for number in (1, 3, 4)]
    shutil.copytree(place.root, fast_path / "saved", symlinks=True)
    number, alive, found = 0, False, {"all": 0, "kept": 0}
    while not alive:
        number += 1
        shutil.rmtree(place.root)
        shutil.copytree(fast_path / "saved", place.root, symlinks=True)
        alive = not killed_at(number, lambda: place.history().let_go(2))
        here = whole(place)
        assert here in (before, after)
        found["all" if here == before else "kept"] += 1
        place.history().let_go(2)
        assert whole(place) == after
        assert place.history().live() is not None
        assert not [name for name in os.listdir(place.repo) if name.startswith("shallow.")]
    print(f"killed at {number - 1} calls: {found}")
    assert min(found.values()) > 3
