# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options with which every queue module reaches its broker; documented in the fragment ``queue``."""

from __future__ import annotations

from typing import Any, Mapping

from ._queue.api import Match, QueueBackend
from ._queue.registry import BACKENDS, open_backend

QUEUE_SPEC: dict[str, Any] = {
    "backend": {"type": "str", "required": True, "choices": sorted(BACKENDS)},
    "url": {"type": "str", "required": True},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "tls_ca": {"type": "path"},
    "tls_verify": {"type": "bool", "default": True},
    "connect_timeout": {"type": "float", "default": 5.0},
    "key_prefix": {"type": "str", "no_log": False},
    "processing": {"type": "list", "elements": "str", "default": ["{queue}:processing*"]},
    "failed_list": {"type": "str", "default": "{queue}:failed"},
    "dead_letter": {"type": "str"},
    "group": {"type": "str"},
    "stream": {"type": "str"},
    "schema": {"type": "str"},
    "id_field": {"type": "str"},
    "management_url": {"type": "str"},
    "sentinel_username": {"type": "str"},
    "sentinel_password": {"type": "str", "no_log": True},
    "heartbeat_timeout": {"type": "float"},
    "abandoned_after": {"type": "float"},
    "credentials": {"type": "path"},
    "ask_workers": {"type": "bool"},
    "celery": {
        "type": "dict",
        "options": {
            "control_exchange": {"type": "str"},
            "inspect_timeout": {"type": "float"},
            "priority_steps": {"type": "list", "elements": "int"},
            "result_db": {"type": "int"},
            "result_prefix": {"type": "str"},
            "sep": {"type": "str"},
        },
    },
}

#: Which tasks are meant; the suboptions of ``match``.
MATCH_SPEC: dict[str, Any] = {
    "ids": {"type": "list", "elements": "str"},
    "task": {"type": "str"},
    "version": {"type": "str"},
    "error": {"type": "str"},
    "older_than": {"type": "float"},
    "newer_than": {"type": "float"},
    "header": {"type": "dict"},
    "field": {"type": "dict"},
}


def backend_of(params: Mapping[str, Any]) -> QueueBackend:
    """The backend that a module's options name."""
    settings = {name: params[name] for name in QUEUE_SPEC if name != "celery"}
    settings.update({name: value for name, value in (params["celery"] or {}).items() if value is not None})
    return open_backend(params["backend"], settings)


def match_of(params: Mapping[str, Any] | None) -> Match:
    """The conditions that a module's option ``match`` names."""
    given = {name: value for name, value in (params or {}).items() if name in MATCH_SPEC and value is not None}
    if "ids" in given:
        given["ids"] = tuple(given["ids"])
    for name in ("header", "field"):
        if name in given:
            given[name] = {key: _as_json_writes_it(value) for key, value in given[name].items()}
    return Match(**given)


def _as_json_writes_it(value: Any) -> str:
    """YAML's true, null and 3 as the text that they are compared by."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
