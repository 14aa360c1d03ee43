# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a redrive over AMQP that died has left is recognised, each task once, and nothing else is."""

from __future__ import annotations

from array import array

from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_dialect import REDRIVES, RUN, Dialect
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_message import AmqpMessage
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_resume import Resumed
from ansible_collections.queueops.fleet.plugins.module_utils._queue.conservation import fingerprint


def test_published_tasks_are_taken_away_once_and_not_those_that_came_back() -> None:
    found = Resumed()
    found.published.update(["a", "a", "b"])
    assert not found.takes("a", "r1", "r1")
    assert [found.takes("a", None, "r1") for _time in range(3)] == [True, True, False]
    assert found.carried() == {"carry": ["b"]}
    assert found.takes("b", "r0", "r1") and not found


def test_of_tasks_at_the_tail_of_the_source_one_copy_is_left_whatever_its_headers() -> None:
    found = Resumed()
    found.returned(["a", "b"])
    assert [found.takes("a", "r1", "r1"), found.takes("a", "r1", "r1"), found.takes("a", "r1", "r1")] == [False, True, False]
    assert found.carried() == {"kept": ["b"], "spare": ["b"]}
    again = Resumed()
    again.carry(found.carried())
    assert not again.takes("b", None, "r1")
    third = Resumed()
    third.carry(again.carried())
    assert third.takes("b", None, "r1") and not third.takes("b", None, "r1")


def test_copies_that_may_not_be_there_are_no_longer_looked_for_by_the_next_run() -> None:
    found = Resumed(exact=False)
    found.returned(["a"])
    found.published.update(["p"])
    assert found.carried() == {"carry": ["p"]}


def test_forgotten_acknowledgements_count_once_and_only_for_tasks_that_nobody_redrove() -> None:
    found = Resumed(settled=array("Q", sorted((fingerprint("a"), fingerprint("a"), fingerprint("b")))))
    assert not found.takes("b", "r0", "r1")
    assert [found.takes("a", None, "r1") for _time in range(3)] == [True, True, False]


def test_a_copy_tells_the_identity_that_the_message_had() -> None:
    dialect = Dialect()
    for headers in ({}, {"trace": "x"}):
        message = AmqpMessage(1, False, b"", b"mail")
        message.take(AmqpMessage(0, False, b"", b"").rewritten(headers, properties={"delivery_mode": 2, "type": "note"}))
        message.body_frames = b"\3\0\1\0\0\0\2{}\xce"
        copy = AmqpMessage(2, False, b"", b"mail")
        copy.take(message.rewritten({REDRIVES: 1, RUN: "r1"}, properties={"delivery_mode": 2}))
        copy.body_frames = message.body_frames
        assert dialect.identity(copy) != dialect.identity(message)
        assert dialect.identity_before(copy) == dialect.identity(message) == dialect.identity_before(message)
