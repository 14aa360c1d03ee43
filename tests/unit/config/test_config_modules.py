# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The three modules, run by ansible itself: check, run, check again, run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BUILD = Path(__file__).parents[3] / "build"

from tests.unit.config.conftest import Picture, Place


def run(place: Place, module: str, *flags: str, **options: Any) -> dict[str, Any]:
    """One task on localhost; its result, with ``failed`` and ``rc`` of ansible."""
    args = json.dumps(dict({"fleet": "mailer", "state_dir": str(place.state)}, **options))
    env = dict(
        os.environ,
        ANSIBLE_COLLECTIONS_PATH=os.fspath(BUILD),
        ANSIBLE_NOCOLOR="1",
        ANSIBLE_LOCAL_TEMP=str(place.root / "ansible"),
        ANSIBLE_PYTHON_INTERPRETER=sys.executable,
    )
    command = [sys.executable, "-m", "ansible", "adhoc", "localhost", "-i", "localhost,", "-c", "local"]
    command += ["-m", f"queueops.fleet.{module}", "-a", args, "-vvv", *flags]  # -vvv: shows the diff in the result, too
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    _before, _arrow, result = done.stdout.partition(" => ")
    assert result, done.stdout + done.stderr
    found: dict[str, Any] = json.JSONDecoder().raw_decode(result)[0]
    return dict(found, rc=done.returncode)


def run_alone(place: Place, module: str, **options: Any) -> dict[str, Any]:
    """The module as a program by itself, which is all that a refusal needs, and much quicker."""
    args = {"ANSIBLE_MODULE_ARGS": dict({"fleet": "mailer", "state_dir": str(place.state)}, **options)}
    command = [sys.executable, "-m", f"ansible_collections.queueops.fleet.plugins.modules.{module}"]
    env = dict(os.environ, PYTHONPATH=os.fspath(BUILD))
    done = subprocess.run(command, input=json.dumps(args), capture_output=True, text=True, env=env, check=False)
    assert done.stdout, done.stderr
    return dict(json.loads(done.stdout), rc=done.returncode)


def test_snapshot_check_run_check_run(place: Place, picture_of: Callable[..., Picture]) -> None:
    place.write("a.conf", "one\n")
    place.write("secret.key", "hunter2\n")
    options = {"paths": [str(place.etc)], "sensitive": ["secret*"], "label": "first", "release": 7}
    before = picture_of(place.etc, ctime=True)
    foreseen = run(place, "config_snapshot", "-C", "-D", **options)
    assert foreseen["changed"] is True
    assert foreseen["snapshot"]["id"] is None
    assert not place.state.exists()
    done = run(place, "config_snapshot", "-D", **options)
    assert (done["changed"], done["diff"]) == (True, foreseen["diff"])
    assert (done["snapshot"]["files"], done["snapshot"]["changed_files"], done["snapshot"]["release"]) == (2, 3, 7)
    assert "hunter2" not in json.dumps(done)
    for flags in (("-C",), ()):
        again = run(place, "config_snapshot", *flags, **options)
        assert again["changed"] is False
        assert again["snapshot"]["id"] == done["snapshot"]["id"]
    assert picture_of(place.etc, ctime=True) == before


def test_info_and_revert_check_run_check_run(place: Place, picture_of: Callable[..., Picture]) -> None:
    path = place.write("a.conf", "one\n")
    first = place.history().snapshot("first")[0]
    path.write_text("two\n")
    (place.etc / os.fsdecode(b"odd\xff\n")).write_text("x")
    second = place.history().snapshot("second")[0]
    before = picture_of(place.root / "etc", ctime=True)
    state = picture_of(place.state, ctime=True)
    info = run(place, "config_info", **{"from": "first"})
    assert info["changed"] is False
    assert [(one["label"], one["live"]) for one in info["snapshots"]] == [("first", False), ("second", True)]
    assert (info["live"], info["pending"], info["watched"]["paths"]) == (second.id, None, [str(place.etc)])
    assert [one["after_header"] for one in info["diff"]] == [str(place.etc / "a.conf"), f"{place.etc}/odd\\xff\\n"]
    one = run(place, "config_info", snapshot="previous")
    assert [row["path"] for row in one["snapshots"][0]["entries"]] == [str(place.etc), str(path)]
    foreseen = run(place, "config_revert", "-C", "-D", to="first")
    assert foreseen["changed"] is True
    assert picture_of(place.state, ctime=True) == state
    assert picture_of(place.root / "etc", ctime=True) == before
    done = run(place, "config_revert", "-D", to="first")
    assert (done["changed"], done["diff"], done["files"]) == (True, foreseen["diff"], foreseen["files"])
    assert (done["was"], done["snapshot"]["id"]) == (second.id, first.id)
    assert os.listdir(place.etc) == ["a.conf"]
    for flags in (("-C",), ()):
        again = run(place, "config_revert", *flags, to="first")
        assert (again["changed"], again["files"]) == (False, [])


@pytest.mark.parametrize(
    ("module", "options", "option", "says"),
    [
        ("config_revert", {"to": "nightly"}, "to", "first"),
        ("config_revert", {"to": "previous"}, "to", "before the one that is live"),
        ("config_info", {"from": "live", "to": "x"}, "to", "no snapshot 'x'"),
        ("config_info", {"snapshot": "x"}, "snapshot", "no snapshot 'x'"),
        ("config_snapshot", {"paths": ["etc"]}, "paths", "not an absolute path"),
        ("config_snapshot", {"label": "previous"}, "label", "a meaning of its own"),
        ("config_snapshot", {"fleet": "new"}, "paths", "Nothing is watched"),
        ("config_snapshot", {"fleet": "No Fleet"}, "fleet", "not valid"),
    ],
)
def test_what_is_refused(
    place: Place, picture_of: Callable[..., Picture], module: str, options: dict[str, Any], option: str, says: str
) -> None:
    place.write("a.conf", "one\n")
    place.history().snapshot("first")
    before = picture_of(place.root / "state", ctime=True)
    failed = run_alone(place, module, **options)
    assert failed["rc"] != 0
    assert failed["error"]["option"] == option
    assert failed["error"]["still_true"] == "Nothing was changed"
    assert failed["error"]["next_step"]
    assert says in failed["msg"]
    assert picture_of(place.root / "state", ctime=True) == before
