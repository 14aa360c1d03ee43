# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of a release as a file: what readers find in it, and what it must not take the place of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._flags.file_store import FileStore
from ansible_collections.queueops.fleet.plugins.module_utils._flags.gate import Gate, gate_of
from ansible_collections.queueops.fleet.plugins.module_utils._flags.release_file import ReleaseFile, release_file
from openfeature.client import OpenFeatureClient

from tests.unit.flags.conftest import FOREIGN, on_for, put

KEYS = [f"customer-{number}" for number in range(400)]

OFF = {"name": "new-invoice", "state": "off"}
TENTH = {"name": "new-invoice", "state": "percent", "percent": 10}
QUARTER = {**TENTH, "percent": 25}


def of_mailer(path: Path, *gates: dict[str, Any]) -> ReleaseFile:
    return release_file("mailer", str(path), gates)


def test_the_sdk_reads_the_gates_of_a_release(path: Path, sdk: Callable[..., OpenFeatureClient]) -> None:
    named = {"name": "named", "state": "targets", "targets": ["customer-7"]}
    path.write_bytes(of_mailer(path, QUARTER, {"name": "all", "state": "on"}, {"name": "none", "state": "off"}, named).content())
    reader = sdk(path)
    assert 60 <= len(on_for(reader, KEYS)) <= 140
    assert on_for(reader, KEYS, "all") == set(KEYS) and on_for(reader, KEYS, "none") == set()
    assert on_for(reader, KEYS, "named") == {"customer-7"}


def test_it_is_what_the_module_feature_gate_writes(path: Path) -> None:
    put(FileStore(str(path)), percent=10, key="customer")
    put(FileStore(str(path)), "all", "on")
    assert of_mailer(path, {**TENTH, "key": "customer"}, {"name": "all", "state": "on"}).content() == path.read_bytes()


def test_two_releases_that_say_the_same_have_the_same_bytes(path: Path) -> None:
    # So a second deploy of the same finds nothing to do, under whatever number.
    assert (
        of_mailer(path, TENTH, {"name": "all", "state": "on"}).content() == of_mailer(path, TENTH, {"name": "all", "state": "on"}).content()
    )
    assert b"queueops.release" not in of_mailer(path, TENTH).content()
    assert json.loads(of_mailer(path).content())["flags"] == {}


@pytest.mark.parametrize(
    ("wrong", "option", "words"),
    [
        ([OFF, TENTH], "config.feature_gates", "new-invoice"),
        ([OFF, {"name": "b", "state": "percent", "percent": 101}], "percent", "101"),
        ([{"name": "b", "state": "percent"}], "percent", "needs"),
        ([{"name": "b", "state": "on", "key": "customer"}], "key", "nothing"),
        ([{"name": "b c", "state": "on"}], "name", "named"),
    ],
)
def test_a_wrong_gate_is_named(path: Path, wrong: list[dict[str, Any]], option: str, words: str) -> None:
    with pytest.raises(Refused) as refused:
        of_mailer(path, *wrong)
    assert refused.value.option == option
    for word in (wrong[-1]["name"], str(path), "config.feature_gates", words, "Nothing was changed"):
        assert word in refused.value.sentence()


def test_the_fleets_own_gates_may_be_replaced(path: Path) -> None:
    assert of_mailer(path, TENTH).refuse_loss("mailer") == {}
    assert of_mailer(path.parent / "not" / "there.json", TENTH).refuse_loss("mailer") == {}
    put(FileStore(str(path)), percent=25, release=3)
    assert of_mailer(path, TENTH).refuse_loss("mailer") == {
        "new-invoice": Gate("new-invoice", "mailer", "percent", 25, "targetingKey", None, 3)
    }


ROUTE = {
    "state": "ENABLED",
    "variants": {"1.0.0": "mail-1.0.0", "2.0.0": "mail-2.0.0"},
    "defaultVariant": "1.0.0",
    "targeting": {"fractional": [["1.0.0", 90], ["2.0.0", 10]]},
    "metadata": {"queueops.fleet": "mailer", "queueops.route.rest": "1.0.0", "queueops.route.key": "targetingKey"},
}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps(FOREIGN), ["theme", "no gate of the fleet mailer"]),
        (json.dumps({"flags": {"of-billing": FOREIGN["flags"]["of-billing"]}}), ["of-billing", "belongs to the fleet billing"]),
        (json.dumps({"flags": {"mail": ROUTE}}), ["mail", "no gate of the fleet mailer"]),
        ('{"flags": {', ["not a document of flags", "line 1"]),
    ],
)
def test_what_is_somebody_elses_is_not_replaced(path: Path, content: str, words: list[str]) -> None:
    path.write_text(content)
    with pytest.raises(Refused) as refused:
        of_mailer(path, TENTH).refuse_loss("mailer")
    assert path.read_text() == content
    for word in (*words, str(path), "config.feature_gates", "Nothing was changed"):
        assert word in refused.value.sentence()


def test_a_link_is_not_replaced(path: Path) -> None:
    path.symlink_to("elsewhere.json")
    with pytest.raises(Refused, match="symbolic link") as refused:
        of_mailer(path, TENTH).refuse_loss("mailer")
    assert refused.value.option == "config.feature_gates"


@pytest.mark.parametrize(
    ("now", "then", "refused"),
    [
        (None, OFF, False),
        (None, {**TENTH, "percent": 0}, False),
        (None, TENTH, True),
        (None, {"name": "new-invoice", "state": "on"}, True),
        (TENTH, TENTH, False),
        (TENTH, QUARTER, True),
        (TENTH, OFF, False),
        (OFF, TENTH, True),
    ],
)
def test_the_first_release_with_the_file_lets_nobody_new_in(
    path: Path, now: dict[str, Any] | None, then: dict[str, Any], refused: bool
) -> None:
    there: dict[str, Gate] = {}
    if now is not None:
        flags = json.loads(of_mailer(path, now).content())["flags"]
        gate = gate_of("new-invoice", flags["new-invoice"])
        assert gate is not None
        there = {"new-invoice": gate}
    if not refused:
        of_mailer(path, then).refuse_no_way_back(there)
        return
    with pytest.raises(Refused) as caught:
        of_mailer(path, then).refuse_no_way_back(there)
    for word in ("new-invoice", str(path), "config.feature_gates", "Nothing was changed", "Deploy it first"):
        assert word in caught.value.sentence()
