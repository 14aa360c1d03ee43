# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is watched, and what is refused."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._config.watch import Watch, printable, to_bytes, to_text
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused


@pytest.mark.parametrize(
    ("path", "covered"),
    [
        ("/etc/mailer", True),
        ("/etc/mailer/worker.conf", True),
        ("/etc/mailer2", False),
        ("/etc", False),
        ("/etc/mailer/run/x.pid", False),
        ("/etc/mailer/cache/deep/file", False),
        ("/etc/mailer/logs/today", False),
        ("/etc/mailer/catalogs/today", True),
        ("/etc/single.pid", True),
        ("/etc/mailer/.worker.conf.queueops-0123456789ab", False),
        ("/etc/mailer/.new.queueops-0123456789ab/inner", False),
        ("/etc/mailer/.worker.conf.queueops-notes", True),
    ],
)
def test_what_is_covered(path: str, covered: bool) -> None:
    watch = Watch(["/etc/mailer", "/etc/single.pid"], ["*.pid", "cache", "/etc/mailer/logs"])
    assert watch.covers(path) is covered


def test_sensitive_matches_names_paths_and_whole_folders() -> None:
    watch = Watch(["/etc/mailer"], sensitive=["*/secret*", "*.key"])
    assert watch.is_sensitive("/etc/mailer/secret.conf")
    assert watch.is_sensitive("/etc/mailer/secrets/inner.conf")
    assert watch.is_sensitive("/etc/mailer/a.key")
    assert not watch.is_sensitive("/etc/mailer/a.conf")


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (["etc/mailer"], "not an absolute path"),
        (["/"], "whole host"),
        (["/etc/mailer", "/etc/mailer/sub"], "nested"),
        (["/etc/mailer/sub", "/etc/mailer/"], "nested"),
        (["/etc/mailer", "/etc/../etc/mailer"], "the same"),
        (["/dev/null"], "device"),
        (["/var/lib"], "nested"),
        (["/var/lib/queueops/mailer/config.git"], "nested"),
    ],
)
def test_paths_that_are_refused(paths: list[str], says: str) -> None:
    with pytest.raises(Refused, match=says) as caught:
        Watch(paths).check("/var/lib/queueops/mailer")
    assert caught.value.option == "paths"
    assert caught.value.next_step


def test_sockets_pipes_and_nesting_through_links_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        for name, says in (("pipe", "named pipe"), ("s", "socket")):
            with pytest.raises(Refused, match=says):
                Watch([str(tmp_path / name)]).check("/var/lib/queueops/mailer")
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "alias").symlink_to("real")
    with pytest.raises(Refused, match="nested"):
        Watch([str(tmp_path / "real"), str(tmp_path / "alias" / "inner")]).check("/var/lib/queueops/mailer")


def test_neighbours_and_absent_paths_are_fine(tmp_path: Path) -> None:
    Watch([str(tmp_path / "a"), str(tmp_path / "ab"), str(tmp_path / "missing" / "c")]).check("/var/lib/queueops/mailer")


def test_names_survive_and_are_shown_on_one_line() -> None:
    raw = b"/etc/a b\nc\xff\xc3\xa4"
    assert to_bytes(to_text(raw)) == raw
    assert printable(to_text(raw)) == "/etc/a b\\nc\\xff\u00e4"
