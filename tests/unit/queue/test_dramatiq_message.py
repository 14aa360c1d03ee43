# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Dramatiq message is changed in its options and its address alone, whoever wrote it, and however."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._queue.dramatiq_message import Message, members, plain, spliced
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text(max_size=12) | st.sampled_from(['"options":{', '","message_id":"x"', "}", "\\", "\u2028", "\ud800", "grüße", '],"kwargs":{'])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
OBJECT = st.dictionaries(TEXT | st.sampled_from(["options", "eta", "retries", "queueops_redrives"]), JSON, max_size=4)
#: As Dramatiq writes it, and as others might.
WRITERS = ({"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (",", ":"), "sort_keys": True})


def whole(args: Any, kwargs: Any, options: Any, queue: str = "mail") -> dict[str, Any]:
    return {
        "queue_name": queue,
        "actor_name": "send",
        "args": args,
        "kwargs": kwargs,
        "options": options,
        "message_id": "id-1",
        "message_timestamp": 1790000000123,
    }


@given(st.lists(JSON, max_size=3), OBJECT, OBJECT, st.sampled_from(WRITERS), st.sampled_from(["mail", "grüße 1", "mail.DQ"]))
def test_all_else_is_as_it_was(args: Any, kwargs: Any, options: Any, writer: dict[str, Any], queue: str) -> None:
    document = whole(args, kwargs, options)
    data = json.dumps(document, **writer).encode("utf-8", "surrogatepass")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        assert Message(data).options is None
        return
    message = Message(data)
    assert (message.id, message.actor, message.queue, message.timestamp) == ("id-1", "send", "mail", 1790000000.123)
    splices = message.readdressed(queue, fresh=True, due=True)
    changed = spliced(data, splices)
    told = json.loads(changed)
    gone = ("retries", "traceback", "requeue_timestamp", "eta", "queueops_action")
    expected = {name: value for name, value in options.items() if name not in gone}
    expected["queueops_redrives"] = message.redrives + 1
    assert told == dict(document, queue_name=queue, options=expected)
    # Byte for byte: what lies between the changes.
    at = 0
    rest = []
    for splice in splices:
        rest.append(data[at : splice.start])
        at = splice.end
    rest.append(data[at:])
    assert all(piece in changed for piece in rest)
    begin, end = message.options_place()
    assert json.loads(data[begin:end]) == options


@given(st.lists(JSON, max_size=3), OBJECT, OBJECT)
def test_the_fast_way_reads_what_the_slow_one_reads(args: Any, kwargs: Any, options: Any) -> None:
    text = json.dumps(whole(args, kwargs, options), separators=(",", ":"))
    fast, slow = plain(text), members(text)[0]
    assert fast is not None
    assert {name: (one.value, one.value_start, one.end) for name, one in fast.items()} == {
        name: (one.value, one.value_start, one.end) for name, one in slow.items()
    }


class Bomb:
    """Its pickle raises when it is loaded."""

    def __reduce__(self) -> Any:
        return (eval, ("1/0",))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"[1]",
        b"{}",
        b"null",
        b'{"queue_name":"q"',
        b'{"a":1,"a":2}',
        b"[" * 100000,
        b'{"options":' + b'{"a":' * 100000,
        json.dumps(dict(whole([], {}, {}), message_id=7)).encode(),
        json.dumps(dict(whole([], {}, {}), options=[1])).encode(),
        json.dumps(whole([], {}, {})).encode() + b" x",
        json.dumps(whole([], {}, {})).encode("utf-16"),
        pickle.dumps(dict(whole([], {}, {}), options=Bomb())),
    ],
)
def test_what_is_no_message_is_carried_as_it_is(data: bytes) -> None:
    message = Message(data)
    assert (message.id, message.options, message.error, message.fields, message.headers) == (None,) * 5
    assert message.readdressed("other", True, True) == [] and message.options_place() == (0, 0)


def test_the_error_is_what_follows_the_frames() -> None:
    text = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\n    g()\n    ^^^\nValueError: no\nmore of it\n'
    message = Message(json.dumps(whole([], {}, {"traceback": text})).encode())
    assert message.error == "ValueError: no\nmore of it"
    assert Message(json.dumps(whole([], {}, {})).encode()).error is None
