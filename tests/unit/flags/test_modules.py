# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two modules as Ansible runs them: check, run, check again, run again; and the README's example with its application."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from ansible_collections.queueops.fleet.plugins.module_utils._flags.release_file import release_file

from tests.unit.conftest import RedisServer, wait_for
from tests.unit.flags.conftest import FOREIGN

REPOSITORY = Path(__file__).parents[3]

#: What the README says of feature gates.
README = (REPOSITORY / "README.md").read_text().partition("Let a feature in, for some at first.")[2].partition("\n## ")[0]


def run(module: str, check: bool = False, **options: Any) -> dict[str, Any]:
    """A module as a program by itself: its result."""
    arguments = dict({"fleet": "mailer"}, _ansible_check_mode=check, _ansible_diff=True, **options)
    command = [sys.executable, "-m", f"ansible_collections.queueops.fleet.plugins.modules.{module}"]
    environment = dict(os.environ, PYTHONPATH=str(REPOSITORY / "build"))
    given = json.dumps({"ANSIBLE_MODULE_ARGS": arguments})
    done = subprocess.run(command, input=given, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert bool(found.get("failed")) == (done.returncode != 0)
    return found


def gate(check: Any = False, **options: Any) -> dict[str, Any]:
    return run("feature_gate", bool(check), **{"name": "new-invoice", **options})


def test_check_mode_foretells_what_is_then_done_and_a_second_run_changes_nothing(redis_server: RedisServer, path: Path) -> None:
    client: Any = redis.Redis.from_url(redis_server.url)
    client.set("flags", json.dumps(FOREIGN))
    stores = {"path": str(path), "mode": "0640", "redis_key": "flags", "url": redis_server.url}
    last = ""
    for options in (
        {"state": "percent", "percent": 10, "release": 7},
        {"state": "percent", "percent": 25, "key": "customer", "release": 8},
        {"state": "targets", "targets": ["acme", "Zürich"], "percent": 1},
        {"state": "off"},
        {"state": "absent"},
    ):
        before = client.get("flags"), path.read_bytes() if path.exists() else None
        foreseen = gate(True, **stores, **options)
        assert (client.get("flags"), path.read_bytes() if path.exists() else None) == before
        done = gate(**stores, **options)
        assert (done["changed"], done["gate"], done["diff"]) == (True, foreseen["gate"], foreseen["diff"])
        assert foreseen["changed"] is True
        assert done["gate"].items() >= options.items() and done["gate"]["fleet"] == "mailer"
        for check in (True, False):
            again = gate(check, **stores, **options)
            assert (again["changed"], again["gate"], again["diff"]) == (False, done["gate"], [])
        in_key, in_file = done["diff"]
        assert in_key["before_header"] == f"the key flags at {redis_server.url}, flag new-invoice"
        assert in_file["before_header"] == f"the file {path}, flag new-invoice"
        assert in_key["before"] == in_file["before"] == last and in_key["after"] == in_file["after"]
        last = in_key["after"]
        assert not last or json.loads(last) == json.loads(path.read_bytes())["flags"]["new-invoice"]
    assert json.loads(client.get("flags")) == FOREIGN
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_list_is_all_gates_that_the_fleet_has_and_flags_of_others_stay(foreign: Path, redis_server: RedisServer) -> None:
    client: Any = redis.Redis.from_url(redis_server.url)
    client.set("flags", foreign.read_bytes())
    theirs = json.loads(foreign.read_bytes())["flags"]
    stores: Any = {"path": str(foreign), "redis_key": "flags", "url": redis_server.url}
    steps: list[tuple[list[dict[str, Any]], list[str], list[str]]] = [
        (
            [{"name": "new-invoice", "state": "percent", "percent": 10}, {"name": "new-charge", "state": "on"}],
            ["new-invoice", "new-charge"],
            [],
        ),
        ([{"name": "new-invoice", "state": "percent", "percent": 25}], ["new-invoice"], ["new-charge"]),
        ([], [], ["new-invoice"]),
    ]
    for wanted, added, removed in steps:
        before = client.get("flags"), foreign.read_bytes()
        foreseen = run("feature_gates", check=True, gates=wanted, **stores)
        assert (client.get("flags"), foreign.read_bytes()) == before
        done = run("feature_gates", gates=wanted, **stores)
        for told in (foreseen, done):
            assert (told["changed"], told["set_gates"], told["removed_gates"]) == (True, added, removed)
            assert len(told["diff"]) == 2 * len(added + removed)
        again = run("feature_gates", gates=wanted, **stores)
        assert (again["changed"], again["set_gates"], again["removed_gates"], again["diff"]) == (False, [], [], [])
        there = json.loads(client.get("flags"))["flags"]
        assert there == json.loads(foreign.read_bytes())["flags"]
        assert {name: there[name] for name in theirs} == theirs and there.keys() - theirs.keys() == {gate["name"] for gate in wanted}


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        ([{"name": "new-invoice", "state": "on"}, {"name": "of-billing", "state": "on"}], ["of-billing", "belongs to the fleet billing"]),
        ([{"name": "new-invoice", "state": "on"}, {"name": "theme", "state": "on"}], ["theme", "names no fleet"]),
        ([{"name": "new-invoice", "state": "on"}, {"name": "new-invoice", "state": "off"}], ["new-invoice", "given twice"]),
        ([{"name": "new-invoice", "state": "percent"}], ["new-invoice", "needs the option percent"]),
        ([{"name": "new invoice", "state": "on"}], ["new invoice", "cannot be named"]),
    ],
)
def test_of_a_list_with_one_wrong_gate_none_is_set(foreign: Path, gates: list[dict[str, Any]], words: list[str]) -> None:
    content = foreign.read_bytes()
    refused = run("feature_gates", path=str(foreign), gates=gates)
    assert refused["failed"] and not [word for word in words if word not in refused["msg"]], refused["msg"]
    assert foreign.read_bytes() == content


def test_yaml_may_make_booleans_of_on_and_off(path: Path) -> None:
    assert gate(path=str(path), state=True)["gate"]["state"] == "on"
    assert gate(path=str(path), state=False)["gate"]["state"] == "off"


def test_the_gates_are_listed_with_whose_they_are(foreign: Path, redis_server: RedisServer) -> None:
    gate(path=str(foreign), state="targets", targets=["acme"], percent=5, key="customer", release=9)
    mine = {
        "name": "new-invoice",
        "mine": True,
        "fleet": "mailer",
        "state": "targets",
        "percent": 5,
        "key": "customer",
        "targets": ["acme"],
        "release": 9,
    }
    nobodys = {"mine": False, "fleet": None, "state": None, "percent": None, "key": None, "targets": None, "release": None}
    billings = {**nobodys, "name": "of-billing", "fleet": "billing", "state": "off", "release": 3}
    content = foreign.read_bytes()
    found = run("feature_gate_info", path=str(foreign))
    assert (found["changed"], found["exists"]) == (False, True)
    assert found["gates"] == [{**nobodys, "name": "theme"}, {**nobodys, "name": "a-flag"}, billings, mine]
    redis.Redis.from_url(redis_server.url).set("flags", content)
    in_redis = run("feature_gate_info", redis_key="flags", url=redis_server.url, names=["new-invoice", "never"])
    assert in_redis["gates"] == [mine, {**nobodys, "name": "never", "state": "absent"}]
    nothing = run("feature_gate_info", redis_key="none", url=redis_server.url)
    assert (nothing["exists"], nothing["gates"]) == (False, [])
    assert foreign.read_bytes() == content and os.listdir(foreign.parent) != []


@pytest.mark.parametrize(
    ("options", "code", "option"),
    [
        ({"percent": 101, "state": "percent"}, "refused", "percent"),
        ({"state": "on", "name": "no name"}, "refused", "name"),
        ({"state": "on", "mode": "644"}, "refused", "mode"),
        ({"state": "on", "name": "of-billing"}, "not_ours", "fleet"),
        ({"state": "absent", "name": "theme"}, "not_ours", "name"),
        ({"state": "on", "path": "/nowhere/flags.json"}, "not_found", "path"),
        ({"state": "on", "redis_key": "flags"}, "refused", "url"),
        ({"state": "on", "redis_key": "flags", "url": "redis://nobody.invalid"}, "unavailable", "url"),
    ],
)
def test_what_is_refused_changes_nothing(options: dict[str, Any], code: str, option: str, foreign: Path) -> None:
    content = foreign.read_bytes()
    for check in (True, False):
        refused = gate(check, **{"path": str(foreign), **options})
        assert (refused["error"]["code"], refused["error"]["option"]) == (code, option)
        assert refused["error"]["still_true"] == "Nothing was changed"
    assert foreign.read_bytes() == content and os.listdir(foreign.parent) == ["flags.json"]


def test_a_broken_file_is_refused_by_both_with_its_line(path: Path) -> None:
    path.write_text('{"flags": {\n"a": }}')
    for found in (gate(path=str(path), state="on"), run("feature_gate_info", path=str(path))):
        assert found["error"]["code"] == "broken" and (found["line"], found["column"]) == (2, 6)
        assert f"the file {path} is not a document of flags in line 2, column 6: Expecting value" in found["msg"]


def test_one_store_is_shown_at_a_time(path: Path) -> None:
    assert run("feature_gate_info", path=str(path), redis_key="x", url="redis://x")["error"]["option"] == "path"


def test_the_readmes_example_and_its_application(path: Path, tmp_path: Path) -> None:
    section = README.partition("*Gates that go back with a release.*")[0]
    blocks = {
        kind: text.replace("/etc/mailer-flags/flags.json", str(path)) for kind, text in re.findall(r"```(\w+)\n(.*?)```", section, re.S)
    }
    playbook, inventory, application = tmp_path / "gate.yml", tmp_path / "hosts.yml", tmp_path / "worker.py"
    playbook.write_text(blocks["yaml"])
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory.write_text(json.dumps({"workers": {"hosts": {"worker1": local}}}))
    asking = '\nfor line in __import__("sys").stdin:\n    print(sum(invoice("c-%d" % n) == "new" for n in range(1000)), flush=True)\n'
    application.write_text(blocks["python"] + asking)
    environment = dict(os.environ, ANSIBLE_COLLECTIONS_PATH=str(REPOSITORY / "build"), ANSIBLE_LOCAL_TEMP=str(tmp_path / "ansible"))

    def play(percent: int) -> str:
        command = [sys.executable, "-m", "ansible", "playbook", "-i", str(inventory), str(playbook), "-e", f"percent={percent}"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "changed=1" in play(0)
    with subprocess.Popen([sys.executable, str(application)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        asked, told = process.stdin, process.stdout

        def new() -> int:
            print("?", file=asked, flush=True)
            return int(told.readline())

        assert new() == 0
        assert "changed=1" in play(10)
        wait_for(lambda: 70 <= new() <= 130, what="one in ten")
        assert "changed=0" in play(10)
        assert "changed=1" in play(100)
        wait_for(lambda: new() == 1000, what="everybody")
        asked.close()
    assert process.returncode == 0


def test_the_readmes_gates_of_a_release(path: Path) -> None:
    example = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", README.partition("*Gates that go back with a release.*")[2], re.S)[0])
    for entry in example["config"]["feature_gates"]:
        path.write_bytes(release_file("mailer", entry["dest"], entry["gates"]).content())
    shown = run("feature_gate_info", path=str(path))["gates"]
    assert [(one["name"], one["state"], one["percent"], one["mine"], one["release"]) for one in shown] == [
        ("new-invoice", "percent", 25, True, None)
    ]
