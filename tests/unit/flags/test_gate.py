# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gate means, by the evaluator that applications have: the OpenFeature SDK with flagd's provider, on the file itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._flags.file_store import FileStore
from ansible_collections.queueops.fleet.plugins.module_utils._flags.gate import definition, gate_of, wanted_gate
from hypothesis import given
from hypothesis import strategies as st
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext

from tests.unit.flags.conftest import on_for, put

KEYS = ["customer-%d" % number for number in range(10_000)]

Sdk = Callable[..., OpenFeatureClient]


@pytest.mark.parametrize("attribute", [None, "customer"])
def test_ten_percent_are_in_at_twenty_five_and_again_at_ten_and_nobody_at_nought(
    file: FileStore, path: Path, sdk: Sdk, attribute: str | None
) -> None:
    on: dict[str, set[str]] = {}
    for step, percent in [("none", 0), ("ten", 10), ("grown", 25), ("back", 10), ("gone", 0), ("all", 100)]:
        put(file, percent=percent, key=attribute)
        on[step] = on_for(sdk(path), KEYS, attribute=attribute)
    assert abs(len(on["ten"]) - 1000) <= 100
    assert abs(len(on["grown"]) - 2500) <= 150
    assert on["ten"] < on["grown"]
    assert on["back"] == on["ten"]
    assert on["none"] == on["gone"] == set()
    assert on["all"] == set(KEYS)


@pytest.mark.parametrize("attribute", [None, "customer"])
def test_it_is_not_the_same_ones_who_are_first_in_each_gate(file: FileStore, path: Path, sdk: Sdk, attribute: str | None) -> None:
    for name in ("one", "other"):
        put(file, name, percent=10, key=attribute)
    reader = sdk(path)
    one, other = (on_for(reader, KEYS, name, attribute) for name in ("one", "other"))
    assert len(one & other) < 200


def test_on_and_off_are_so_for_everybody_and_not_left_to_the_application(file: FileStore, path: Path, sdk: Sdk) -> None:
    put(file, "for-all", "on")
    put(file, "for-nobody", "off")
    reader = sdk(path)
    assert reader.get_boolean_value("for-all", False)
    # The default in the code is not asked.
    assert not reader.get_boolean_value("for-nobody", True)


def test_targets_are_in_and_a_share_of_the_others(file: FileStore, path: Path, sdk: Sdk) -> None:
    put(file, "named", "targets", targets=["customer-7", "customer-8"])
    put(file, "both", "targets", targets=["customer-7", "Zürich"], percent=10, key="customer")
    put(file, "share", percent=10, key="customer")
    reader = sdk(path)
    assert on_for(reader, KEYS, "named") == {"customer-7", "customer-8"}
    both = on_for(reader, [*KEYS, "Zürich"], "both", "customer")
    assert {"customer-7", "Zürich"} < both and 900 < len(both) < 1102


@pytest.mark.parametrize(
    "options", [{"percent": 100, "key": "customer"}, {"percent": 100}, {"state": "targets", "targets": ["x"], "percent": 100}]
)
def test_who_has_not_the_attribute_is_off(file: FileStore, path: Path, sdk: Sdk, options: dict[str, Any]) -> None:
    put(file, **options)
    for context in (EvaluationContext(), EvaluationContext(None, {"other": "x"}), EvaluationContext("", {"customer": ""})):
        assert not sdk(path).get_boolean_value("new-invoice", False, context)


def test_a_nested_attribute(file: FileStore, path: Path, sdk: Sdk) -> None:
    put(file, state="targets", targets=["acme"], key="tenant.name")
    reader = sdk(path)
    assert reader.get_boolean_value("new-invoice", False, EvaluationContext("x", {"tenant": {"name": "acme"}}))
    assert not reader.get_boolean_value("new-invoice", False, EvaluationContext("x", {"tenant": {"name": "initech"}}))


def test_an_absent_gate_is_the_default_in_the_code(file: FileStore, path: Path, sdk: Sdk) -> None:
    put(file, state="on")
    put(file, state="absent")
    assert json.loads(path.read_text())["flags"] == {}
    assert sdk(path).get_boolean_value("new-invoice", True)


_SHARES = st.integers(0, 100)
_KEYS = st.sampled_from([None, "targetingKey", "customer", "tenant.name"])
_OPTIONS = st.one_of(
    st.sampled_from([{"state": "on"}, {"state": "off"}]),
    st.fixed_dictionaries({"state": st.just("percent"), "percent": _SHARES, "key": _KEYS}),
    st.fixed_dictionaries(
        {
            "state": st.just("targets"),
            "targets": st.lists(st.text(st.characters(codec="utf-8")), min_size=1),
            "percent": st.none() | _SHARES,
            "key": _KEYS,
        }
    ),
)


@given(_OPTIONS, st.none() | st.integers(0), st.dictionaries(st.text(min_size=1), st.integers()))
def test_a_gate_is_read_as_it_was_written(options: dict[str, Any], release: int | None, others: dict[str, int]) -> None:
    gate = wanted_gate("g", "mailer", release=release, **options)
    written = json.loads(json.dumps(definition(gate, {"metadata": others})))
    assert gate_of("g", written) == gate
    kept = {name: value for name, value in others.items() if not name.startswith("queueops.")}
    assert kept.items() <= written["metadata"].items()


@pytest.mark.parametrize(
    "change",
    [
        {"state": "DISABLED"},
        {"variants": {"on": 1, "off": 0}},
        {"variants": {"on": False, "off": True}},
        {"defaultVariant": "on"},
        {"targeting": {"fractional": [["on", 10], ["off", 80]]}},
        {"targeting": {"fractional": [["off", 90], ["on", 10]]}},
        {"targeting": {"fractional": [["on", True], ["off", 99]]}},
        {"targeting": {"fractional": [["on", 300], ["off", -200]]}},
        {"targeting": {"fractional": [["on", "10"], ["off", 90]]}},
        {"targeting": {"if": []}},
        {"targeting": {"if": [{"in": [{"var": "customer"}, "text"]}, "on", "off"]}},
        {"targeting": {"==": [{"var": "customer"}, "acme"]}},
        {"more": 1},
        {"metadata": {"queueops.fleet": "mailer", "queueops.release": "7"}},
        {"metadata": {"queueops.fleet": 7}},
        {"metadata": {}},
    ],
)
def test_what_somebody_else_has_made_of_it_is_no_gate(change: dict[str, Any]) -> None:
    flag = definition(wanted_gate("g", "mailer", "percent", 10))
    assert gate_of("g", flag) is not None
    assert gate_of("g", dict(flag, **change)) is None


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"percent": 101}, "percent"),
        ({"percent": -1}, "percent"),
        ({}, "percent"),
        ({"name": "", "percent": 1}, "name"),
        ({"name": "-x", "percent": 1}, "name"),
        ({"name": "a b", "percent": 1}, "name"),
        ({"name": "a\n", "percent": 1}, "name"),
        ({"name": "x" * 101, "percent": 1}, "name"),
        ({"fleet": "Mailer", "percent": 1}, "fleet"),
        ({"key": "$flagd.flagKey", "percent": 1}, "key"),
        ({"key": "a..b", "percent": 1}, "key"),
        ({"release": -1, "percent": 1}, "release"),
        ({"state": "on", "percent": 1}, "percent"),
        ({"state": "off", "key": "customer"}, "key"),
        ({"state": "percent", "percent": 1, "targets": ["a"]}, "targets"),
        ({"state": "targets"}, "targets"),
        ({"state": "targets", "targets": []}, "targets"),
        ({"state": "absent", "release": 1}, "release"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], option: str, file: FileStore, path: Path) -> None:
    with pytest.raises(Refused) as caught:
        put(file, **options)
    assert caught.value.option == option
    assert list(path.parent.iterdir()) == []
