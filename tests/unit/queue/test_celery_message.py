# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery's messages and results are read as JSON and nothing else, and written so that Celery reads them."""

from __future__ import annotations

import base64
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._queue import celery_message as message


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (_touch, (str(self.path),))


def _touch(path: str) -> None:
    Path(path).touch()


def meta(**more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "status": "FAILURE",
        "result": {"exc_type": "ValueError", "exc_message": ["no good", 7], "exc_module": "builtins"},
        "date_done": "2026-11-22T10:06:10.250000+00:00",
        "name": "app.send",
        "args": [1, {"__type__": "datetime", "__value__": "2026-01-01T00:00:00"}],
        "kwargs": {"to": "grüße"},
        "worker": "mailer@2.0.0:vm",
        "queue": "mail",
        "task_id": "t-1",
    }
    return dict(found, **more)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:10+00:00", 10.0),
        ("1970-01-01T00:00:10.500000", 10.5),
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T02:00:10+02:00", 10.0),
        ("1969-12-31T19:00:10.25-05:00", 10.25),
        ("1970-99-01T00:00:00", None),
        ("yesterday", None),
        (None, None),
        (7, None),
    ],
)
def test_times(text: Any, seconds: float | None) -> None:
    assert message.parse_time(text) == seconds


def test_a_pickled_body_is_carried_and_never_read(tmp_path: Path) -> None:
    path = tmp_path / "written"
    body = base64.b64encode(pickle.dumps(([Evil(path)], {}, {}))).decode()
    raw = json.dumps(
        {
            "body": body,
            "content-type": "application/x-python-serialize",
            "content-encoding": "binary",
            "headers": {"id": "t-1", "task": "app.send"},
            "properties": {"body_encoding": "base64", "correlation_id": "t-1"},
        }
    ).encode()
    envelope = message.read_envelope(raw)
    assert envelope is not None
    assert message.body_of(envelope) is None and message.call_of(message.body_of(envelope)) is None
    assert message.name_of(envelope["headers"], None) == "app.send"
    going = json.loads(message.moved_envelope(envelope, "other", "r1", True))
    assert going["body"] == body and going["content-type"] == "application/x-python-serialize"
    assert going["headers"] == {"id": "t-1", "task": "app.send", "queueops_redrives": 1, "queueops_run": "r1"}
    assert going["properties"]["delivery_info"] == {"exchange": "", "routing_key": "other"}
    kept = json.loads(message.failed_meta(envelope, "t-1", "mail", 0.0))
    assert kept["args"] is None and message.meta_obstacle(kept) is None
    assert message.envelope_of_meta(kept, "mail", 0) == envelope
    assert not path.exists()


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"nonsense", b"\x80\x04", b"{}", b'{"body": 1, "headers": [], "properties": {}}', b"[" * 100000]
)
def test_what_is_no_message_is_told(raw: bytes) -> None:
    assert message.read_envelope(raw) is None


def test_both_protocols() -> None:
    one: dict[str, Any] = {"task": "app.send", "id": "t-1", "args": [1], "kwargs": {"a": 2}}
    assert message.call_of(one) == {"args": [1], "kwargs": {"a": 2}} == message.call_of([[1], {"a": 2}, {"chain": None}])
    assert message.name_of({}, one) == "app.send" and message.identity(b"x", {}, "t-1") == "t-1"
    assert message.identity(b"x", {}, None) != message.identity(b"y", {}, None)


def test_a_result_becomes_the_same_call() -> None:
    found = message.envelope_of_meta(meta(group_id="g", stamped_headers=["who"], who="me"), "mail", 2)
    args, kwargs, embed = message.body_of(found)
    assert (args, kwargs) == (meta()["args"], meta()["kwargs"])
    assert embed == {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    headers = found["headers"]
    assert (headers["id"], headers["task"], headers["group"], headers["retries"]) == ("t-1", "app.send", "g", 0)
    assert (headers["stamped_headers"], headers["stamps"]) == (["who"], {"who": "me"})
    assert message.count_of(headers) == 2
    assert found["properties"]["correlation_id"] == "t-1"


def test_results_that_cannot_become_one() -> None:
    assert message.meta_obstacle(meta()) is None
    assert message.meta_obstacle({"status": "FAILURE", "task_id": "t-1"}) == message.NO_ARGUMENTS
    assert message.meta_obstacle(meta(args="(<object>,)")) == message.NOT_JSON
    assert message.meta_obstacle(meta(kwargs=None)) == message.NOT_JSON


def test_errors_have_class_and_message() -> None:
    assert message.error_of_meta(meta()) == "ValueError: no good, 7"
    assert message.error_of_meta(meta(result=None)) is None
    assert message.error_of_meta(meta(result="text")) is None


def test_a_mark_says_what_became_of_it() -> None:
    requeued = json.loads(message.marked_meta(meta(), "requeue", "r1"))
    assert (requeued["status"], requeued[message.MOVED], requeued["result"]) == ("RETRY", "requeue:r1", meta()["result"])
    assert json.loads(message.marked_meta(meta(), "park", None))["status"] == "FAILURE"
