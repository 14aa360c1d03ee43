# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery's messages and results as data: JSON alone is read, a body in any other form (pickle) is carried as the bytes it is.

An *envelope* is what kombu keeps of a message on Redis: ``{"body", "content-type", "content-encoding", "headers", "properties"}``,
the body in base64. A *meta* is a result: ``{"status", "result", "task_id", ...}``, with ``name``, ``args``, ``kwargs``, ``worker``
and ``queue`` where the application sets ``result_extended``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import uuid
from datetime import datetime, timedelta, timezone
from typing import Any, Mapping

#: Our header (and stamp) that counts redrives, the one that names the run, and the one that marks a task to be undone.
REDRIVES = "queueops_redrives"
RUN = "queueops_run"
COMPENSATES = "queueops_compensates"
#: In a meta: what became of the task of this failure, and the whole message where a redrive made the failure.
MOVED = "queueops_moved"
MESSAGE = "queueops_message"

NO_ARGUMENTS = "its result does not hold its name, arguments and queue; set result_extended=True in Celery's configuration"
NOT_JSON = "its arguments are not JSON"
NOT_CELERY = "it is not a message of Celery"

_TIME = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:?\d\d)?$")


def parse_time(value: Any) -> float | None:
    """Seconds since 1970 from an ISO 8601 time, which is UTC unless it says otherwise; None if it is none."""
    if not isinstance(value, str):
        return None
    try:
        # As Celery writes it: much faster than what follows.
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except ValueError:
        pass
    found = _TIME.match(value)
    if found is None:
        return None
    try:
        moment = datetime.strptime(found.group(1), "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    except ValueError:
        return None
    zone = (found.group(3) or "Z").replace(":", "")
    if zone != "Z":
        moment -= (1 if zone[0] == "+" else -1) * timedelta(hours=int(zone[1:3]), minutes=int(zone[3:5]))
    return moment.timestamp() + float(found.group(2) or 0)


def read_object(raw: Any) -> dict[str, Any] | None:
    """The JSON object that ``raw`` (bytes or text) is, or None."""
    try:
        found = json.loads(raw)
    except (TypeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def read_envelope(raw: bytes) -> dict[str, Any] | None:
    """The envelope, or None where ``raw`` is none."""
    found = read_object(raw)
    if found is None or "body" not in found:
        return None
    return found if isinstance(found.get("headers"), dict) and isinstance(found.get("properties"), dict) else None


def body_of(envelope: Mapping[str, Any]) -> Any:
    """The body of a message, where it says of itself that it is JSON; else None."""
    if "json" not in str(envelope.get("content-type")):
        return None
    body = envelope.get("body")
    try:
        if envelope["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(str(body))
        return json.loads(body) if isinstance(body, (str, bytes)) else None
    except (binascii.Error, ValueError, RecursionError):
        return None


def identity(raw: bytes, headers: Mapping[str, Any], correlation_id: Any) -> str:
    """The task's id; without one a hash of the message."""
    for value in (headers.get("id"), correlation_id):
        if isinstance(value, str) and value:
            return value
    return hashlib.blake2b(raw, digest_size=16).hexdigest()


def name_of(headers: Mapping[str, Any], body: Any) -> str | None:
    """The task's name; protocol 1 has it in the body."""
    name = headers.get("task") or (body.get("task") if isinstance(body, dict) else None)
    return name if isinstance(name, str) else None


def call_of(body: Any) -> dict[str, Any] | None:
    """``{"args", "kwargs"}`` of a body of protocol 2 or 1, as far as it is JSON."""
    if isinstance(body, list) and len(body) >= 2:
        return {"args": body[0], "kwargs": body[1]}
    if isinstance(body, dict) and "args" in body:
        return {"args": body["args"], "kwargs": body.get("kwargs")}
    return None


def count_of(headers: Mapping[str, Any]) -> int:
    """How often the task was redriven."""
    value = headers.get(REDRIVES)
    return value if isinstance(value, int) and value > 0 else 0


def headers_as_text(headers: Mapping[str, Any]) -> dict[str, str]:
    """The headers for matching; those that repeat the arguments are left out."""
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in headers.items()
        if name not in ("argsrepr", "kwargsrepr")
    }


def moved_envelope(envelope: Mapping[str, Any], queue: str | None, run: str | None, counts: bool, compensates: bool = False) -> bytes:
    """The message as it goes on: the body untouched, with our headers.

    :param queue: the queue that it goes to, if that is another than it was published to.
    :param counts: whether this is one redrive more.
    """
    headers = dict(envelope["headers"])
    properties = dict(envelope["properties"])
    if counts:
        headers[REDRIVES] = count_of(headers) + 1
    if run:
        headers[RUN] = run
    if compensates:
        headers[COMPENSATES] = run or True
    if queue is not None:
        properties["delivery_info"] = {"exchange": "", "routing_key": queue}
    return json.dumps(dict(envelope, headers=headers, properties=properties)).encode()


def new_envelope(body: Any, headers: Mapping[str, Any], exchange: str, routing_key: str, **properties: Any) -> dict[str, Any]:
    """A message of ours, as kombu writes it on Redis."""
    return {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": dict(headers),
        "properties": dict(
            {
                "delivery_mode": 2,
                "delivery_info": {"exchange": exchange, "routing_key": routing_key},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
            **properties,
        ),
    }


def meta_obstacle(meta: Mapping[str, Any]) -> str | None:
    """Why a failed result cannot be made a message again, or None."""
    if isinstance(meta.get(MESSAGE), str):
        return None
    # A list of arguments that is really a text was not JSON when it was stored.
    if not isinstance(meta.get("name"), str) or not isinstance(meta.get("args"), list) or not isinstance(meta.get("kwargs"), dict):
        return NO_ARGUMENTS if meta.get("name") is None else NOT_JSON
    return None


def envelope_of_meta(meta: Mapping[str, Any], queue: str, redrives: int) -> dict[str, Any]:
    """The task of a failed result as a new message: same id, name and arguments; everything else as a first call has it.

    What Celery does not record in a result (callbacks, chain, chord, time limits, priority) is not in it.
    """
    kept = read_envelope(str(meta.get(MESSAGE) or "").encode())
    if kept is not None:
        return kept
    task_id = str(meta["task_id"])
    stamped = [name for name in meta.get("stamped_headers") or [] if isinstance(name, str)]
    headers = {
        "lang": "py",
        "task": meta["name"],
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": meta.get("group_id"),
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": meta.get("parent_id"),
        "argsrepr": repr(tuple(meta["args"]))[:1024],
        "kwargsrepr": repr(meta["kwargs"])[:1024],
        "origin": "queueops",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": stamped or None,
        "stamps": {name: meta.get(name) for name in stamped},
        REDRIVES: redrives,
    }
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return new_envelope([meta["args"], meta["kwargs"], embed], headers, "", queue, correlation_id=task_id, reply_to="")


def error_of_meta(meta: Mapping[str, Any]) -> str | None:
    """Class and message of the exception, as ``ValueError: no good``."""
    result = meta.get("result")
    if not isinstance(result, dict) or not isinstance(result.get("exc_type"), str):
        return None
    said = result.get("exc_message")
    text = ", ".join(str(part) for part in said) if isinstance(said, list) else str(said or "")
    return "%s: %s" % (result["exc_type"], text[:8192])


def marked_meta(meta: Mapping[str, Any], action: str, run: str | None) -> bytes:
    """A failed result whose task went on. Requeued, it reads RETRY, as Celery says of a task that will run again."""
    changed = dict(meta)
    changed[MOVED] = "%s:%s" % (action, run or "")
    if action == "requeue":
        changed["status"] = "RETRY"
    return json.dumps(changed).encode()


def failed_meta(envelope: Mapping[str, Any], task_id: str, queue: str, at: float) -> bytes:
    """A result that says the task failed, by an operator's rule, with the whole message, so that a redrive can bring it back."""
    body = body_of(envelope)
    call = call_of(body) or {"args": None, "kwargs": None}
    meta = {
        "status": "FAILURE",
        "result": {"exc_type": "FailedByRule", "exc_message": ["a redrive of queueops made it a failed task"], "exc_module": "queueops"},
        "traceback": None,
        "children": [],
        "date_done": datetime.fromtimestamp(at, timezone.utc).isoformat(),
        "name": name_of(envelope["headers"], body),
        "args": call["args"],
        "kwargs": call["kwargs"],
        "worker": None,
        "retries": envelope["headers"].get("retries"),
        "queue": queue,
        "task_id": task_id,
        MESSAGE: json.dumps(envelope),
    }
    return json.dumps(meta).encode()
