# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which task fits a rule, how fast tasks may go, and whether two multisets are equal: plain computing, without a broker."""

from __future__ import annotations

import time
from array import array
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, Task
from ansible_collections.queueops.fleet.plugins.module_utils._queue.conservation import _difference, _numbers
from ansible_collections.queueops.fleet.plugins.module_utils._queue.matching import Matcher, error_class, field_text
from ansible_collections.queueops.fleet.plugins.module_utils._queue.pace import Pace
from hypothesis import given
from hypothesis import strategies as st

NOW = 1000.0


def fits(match: Match, task: Task) -> bool | None:
    """Both questions, as the engine asks them."""
    matcher = Matcher(match)
    early = matcher.could_fit(task, NOW)
    return matcher.fits(task) if early else early


@pytest.mark.parametrize(
    ("match", "answer"),
    [
        (Match(), True),
        (Match(ids=("a", "b")), True),
        (Match(ids=("b",)), False),
        (Match(task="mail.*"), True),
        (Match(task="Mail.*"), False),
        (Match(version="2.0.0"), True),
        (Match(version="2"), False),
        (Match(older_than=99), True),
        (Match(older_than=100), False),
        (Match(newer_than=101), True),
        (Match(newer_than=100), False),
        (Match(error="^Type"), True),
        (Match(error="Value"), False),
        (Match(header={"tenant": "7"}), True),
        (Match(header={"tenant": "8"}), False),
        (Match(header={"nobody": "None"}), False),
        (Match(field={"args.0.customer": "4711"}), True),
        (Match(field={"args.1": "true", "args.0.customer": "4711"}), True),
        (Match(field={"args.1": "false"}), False),
        (Match(field={"args.9": "null"}), False),
        (Match(version="2.0.0", error="Value"), False),
    ],
)
def test_every_condition_has_to_hold(match: Match, answer: bool) -> None:
    task = Task("a", name="mail.send", version="2.0.0", ended_at=900.0)
    task.error = "TypeError: no"
    task.headers = {"tenant": "7"}
    task.fields = {"args": [{"customer": 4711}, True]}
    assert fits(match, task) is answer


@pytest.mark.parametrize(
    "match",
    [Match(task="x"), Match(version="1"), Match(older_than=1), Match(error="x"), Match(header={"a": "b"}), Match(field={"a": "b"})],
)
def test_what_is_not_recorded_is_neither_yes_nor_no(match: Match) -> None:
    assert fits(match, Task("a")) is None


def test_a_condition_that_fails_outweighs_one_that_is_unknown() -> None:
    assert fits(Match(task="x", version="1"), Task("a", version="2")) is False


@pytest.mark.parametrize(
    ("path", "text"),
    [("a.b.0", "1"), ("a.b.-1", "2.5"), ("a.c", "null"), ("a.d", "false"), ("a.b", None), ("a.x", None), ("a.b.7", None), ("e.f", None)],
)
def test_a_field_is_found_by_its_path(path: str, text: str | None) -> None:
    assert field_text({"a": {"b": [1, 2.5], "c": None, "d": False}, "e": "text"}, path) == text


@pytest.mark.parametrize(
    ("block", "name"),
    [("a.B: secret", "a.B"), ("ValueError", "ValueError"), ("no such thing", None), (None, None), ("A::B: x", "A::B")],
)
def test_of_an_error_the_class_alone_is_told(block: str | None, name: str | None) -> None:
    assert error_class(block) == name


def test_a_wrong_pattern_is_refused_by_its_option() -> None:
    with pytest.raises(Refused) as refused:
        Matcher(Match(error="("))
    assert refused.value.option == "match.error"


def test_a_rate_is_kept() -> None:
    pace, sent, began = Pace(500.0, 0.0), 0, time.monotonic()
    while sent < 500:
        sent += pace.portion(500 - sent)
    assert 0.9 <= time.monotonic() - began <= 1.3


def test_a_ramp_takes_twice_the_time() -> None:
    # Half the rate on average while it grows: 250 tasks in the first second of a ramp of one second to 500.
    pace, sent, began = Pace(500.0, 1.0), 0, time.monotonic()
    while sent < 250:
        sent += pace.portion(250 - sent)
    assert 0.9 <= time.monotonic() - began <= 1.3


@pytest.mark.parametrize(("ramp", "act", "wanted"), [(0.0, 0.25, 2.0), (0.0, 0.01, 2.0), (1.0, 0.25, 2.5), (0.0, 3.0, None)])
def test_a_rate_is_kept_where_each_act_takes_longer_than_its_portion(
    monkeypatch: pytest.MonkeyPatch, ramp: float, act: float, wanted: float | None
) -> None:
    """By a clock of the test's own: what is overdue goes at once, but never more than the rate has allowed, nor after a stall all of it."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    pace, sent, portions = Pace(200.0, ramp), 0, []
    while sent < 400:
        portion = pace.portion(400 - sent)
        sent += portion
        portions.append(portion)
        assert sent <= 200.0 * clock[0] + 1e-6
        clock[0] += act
    if wanted is not None:
        assert clock[0] == pytest.approx(wanted, rel=0.2)
    assert max(portions) <= 200.0 * max(0.1, min(act, 1.0)) + 1


def test_without_a_rate_nothing_waits() -> None:
    assert Pace(None, 0.0).portion(10**6) == 10**6


@given(st.lists(st.integers(0, 40)), st.lists(st.integers(0, 40)))
def test_differences_are_those_of_multisets(left: list[int], right: list[int]) -> None:
    def numbers(values: list[int]) -> Any:
        return array("q", _numbers([str(value) for value in values]))

    only_left, only_right = _difference(numbers(left), numbers(right))
    expected_left = sum(max(0, left.count(value) - right.count(value)) for value in set(left))
    expected_right = sum(max(0, right.count(value) - left.count(value)) for value in set(right))
    assert (len(only_left), len(only_right)) == (expected_left, expected_right)


def test_an_identity_is_the_same_as_text_and_as_bytes() -> None:
    ids = ["a", "grüße 邮件", "not utf-8: \udcff"]
    assert list(_numbers(ids)) == list(_numbers([task.encode("utf-8", "surrogateescape") for task in ids]))
    assert list(_numbers([])) == []
