# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The check of the quarantine by itself: what it lets start, and what it does when it cannot tell."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._worker import guard


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "opt mailer"
    assert guard.install(str(made)) is True
    assert guard.install(str(made)) is False
    (made / "current").symlink_to("versions/1.0+b")
    return made


def check(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """As a service manager runs it; nothing of this process's environment counts."""
    variables = {"PATH": os.defpath, **environment}
    return subprocess.run([guard.check_path(str(root)), *arguments], env=variables, capture_output=True, text=True, check=False)


def test_without_an_entry_it_becomes_the_worker(root: Path) -> None:
    done = check(root, "/bin/sh", "-c", 'echo "$$ $1"; exit 7', "worker", "two  words")
    assert (done.returncode, done.stdout.split(maxsplit=1)[1], done.stderr) == (7, "two  words\n", "")
    assert check(root).returncode == 0
    guard.add(str(root), guard.Entry("1.0", "another version", time.time()))
    assert check(root).returncode == 0


def test_with_an_entry_nothing_starts_and_it_says_where_to_look(root: Path) -> None:
    guard.add(str(root), guard.Entry("1.0+b", "it is bad", time.time()))
    done = check(root, "/bin/sh", "-c", "echo started")
    assert (done.returncode, done.stdout) == (1, "")
    assert "version 1.0+b is quarantined" in done.stderr
    assert "1.0+b.entry" in done.stderr
    guard.remove(str(root), "1.0+b")
    assert check(root, "/bin/echo", "started").stdout == "started\n"


def test_a_container_is_told_its_version(root: Path) -> None:
    guard.add(str(root), guard.Entry("1.0+b", "it is bad", time.time()))
    assert check(root, QUEUEOPS_VERSION_TO_START="2.0").returncode == 0
    (root / "current").unlink()
    assert check(root, QUEUEOPS_VERSION_TO_START="1.0+b").returncode == 1


def test_an_entry_may_begin_to_hold_later(root: Path) -> None:
    guard.add(str(root), guard.Entry("1.0+b", "not confirmed", time.time() + 600))
    assert check(root).returncode == 0
    guard.refuse_quarantined(str(root), "1.0+b")
    guard.add(str(root), guard.Entry("1.0+b", "not confirmed", time.time() - 1))
    assert check(root).returncode == 1
    with pytest.raises(Refused, match="not confirmed"):
        guard.refuse_quarantined(str(root), "1.0+b")


@pytest.mark.parametrize("damage", ["empty", "no time", "binary", "folder"])
def test_an_entry_that_cannot_be_read_holds(root: Path, damage: str) -> None:
    entry = root / "guard/quarantined/1.0+b.entry"
    if damage == "folder":
        entry.mkdir()
    else:
        entry.write_bytes({"empty": b"", "no time": b"soon\n", "binary": b"\xff\0\n\xff"}[damage])
    assert check(root).returncode == 1
    with pytest.raises(Refused, match="cannot be read"):
        guard.refuse_quarantined(str(root), "1.0+b")


def test_what_is_missing(root: Path, tmp_path: Path) -> None:
    """Open where there is nothing to judge, closed where the check itself is gone."""
    (root / "current").unlink()
    assert check(root).returncode == 0
    (root / "guard/quarantined").rmdir()
    assert check(root).returncode == 0
    assert guard.quarantined(str(root)) == []
    os.unlink(guard.check_path(str(root)))
    assert subprocess.run(["/bin/sh", guard.check_path(str(root))], capture_output=True, check=False).returncode != 0
    assert guard.is_installed(str(root)) is False
