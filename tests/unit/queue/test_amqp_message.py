# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A message's copy is what the message was, but for what is to be different, whichever way it is written."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_batches import Batches
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_dialect import COPIES, REDRIVES, RUN, USER, Dialect
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_message import AmqpMessage, header_table

ALL: dict[str, Any] = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "delivery_mode": 2,
    "priority": 3,
    "correlation_id": "c1",
    "reply_to": "answers",
    "expiration": "1000",
    "message_id": "m-ü",
    "timestamp": 1700000000,
    "type": "note",
    "app_id": "shop",
}
HEADERS: dict[str, Any] = {
    "text": "ü",
    "number": 7,
    "large": 2**40,
    "deep": {"list": [1, True, None, "x", {"a": -1}], "half": 0.5},
    "raw": b"\x00\xff",
    "none": None,
}


def message(headers: dict[str, Any], properties: dict[str, Any]) -> AmqpMessage:
    found = AmqpMessage(1, False, b"", b"mail")
    found.take(AmqpMessage(0, False, b"", b"").rewritten(headers, properties=properties))
    return found


def read(raw: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    found = AmqpMessage(1, False, b"", b"mail")
    found.take(raw)
    return found.properties(), found.headers


class Connection:
    username = "guest"


def batches(run: str = "r1") -> Batches:
    """As much of it as writes copies."""
    nothing: Any = None
    connection: Any = Connection()
    ledger: Any = type("Ledger", (), {"last": 0})
    return Batches(connection, nothing, ledger, nothing, nothing, nothing, nothing, Dialect(), run)


def test_what_is_written_is_read_again() -> None:
    assert read(message(HEADERS, ALL).raw_properties()) == (ALL, HEADERS)
    assert read(message({}, {}).raw_properties()) == ({}, {})
    assert read(message(HEADERS, ALL).rewritten({"number": 8, "new": "x"}, frozenset(("raw",)), {"priority": None, "type": "other"})) == (
        {**{name: value for name, value in ALL.items() if name != "priority"}, "type": "other"},
        {**{name: value for name, value in HEADERS.items() if name != "raw"}, "number": 8, "new": "x"},
    )


@pytest.mark.parametrize("properties", [ALL, {"delivery_mode": 2}, {"delivery_mode": 2, "priority": 0, "type": "note"}])
def test_headers_are_added_the_quick_way_as_the_long_one(properties: dict[str, Any]) -> None:
    ours = {REDRIVES: 1, RUN: "r1"}
    found = message(HEADERS, properties)
    assert found.extended(header_table(ours)) == found.rewritten(ours)
    assert found.extended(b"") == found.raw_properties()
    assert message({}, properties).extended(header_table(ours)) is None


@pytest.mark.parametrize(
    ("headers", "properties", "wanted"),
    [
        (HEADERS, ALL, {REDRIVES: 1, RUN: "r1"}),
        ({}, ALL, {REDRIVES: 1, RUN: "r1"}),
        ({}, {}, {REDRIVES: 1, RUN: "r1"}),
        ({"a": 1}, {"delivery_mode": 1}, {REDRIVES: 1, RUN: "r1"}),
        ({REDRIVES: 2, RUN: "r0", "a": 1}, ALL, {REDRIVES: 3, RUN: "r1"}),
        ({"CC": ["x"], "a": 1}, ALL, {REDRIVES: 1, RUN: "r1", COPIES: ["x"]}),
        ({"a": 1}, {**ALL, "user_id": "shop"}, {REDRIVES: 1, RUN: "r1", USER: "shop"}),
        ({"a": 1}, {**ALL, "user_id": "guest"}, {REDRIVES: 1, RUN: "r1"}),
    ],
)
def test_the_copy_of_a_task_that_is_requeued(headers: dict[str, Any], properties: dict[str, Any], wanted: dict[str, Any]) -> None:
    _action, _queue, raw, _frames, _size = batches().prepare(message(headers, properties), "requeue", "mail")
    kept = {name: value for name, value in headers.items() if name != "CC"}
    told = {**properties, "delivery_mode": 2}
    if told.get("user_id") == "shop":
        del told["user_id"]
    assert read(raw) == (told, {**kept, **wanted})


def test_the_copy_of_a_task_that_is_left_is_the_task() -> None:
    found = message(HEADERS, ALL)
    assert batches().prepare(found, "leave", "dead")[2] == found.raw_properties()
