# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options with which every queue module reaches its broker; documented in the fragment ``queue``."""

from __future__ import annotations

from typing import Any, Mapping

from ._queue.api import QueueBackend
from ._queue.registry import BACKENDS, open_backend

QUEUE_SPEC: dict[str, Any] = {
    "backend": {"type": "str", "required": True, "choices": sorted(BACKENDS)},
    "url": {"type": "str", "required": True},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "tls_ca": {"type": "path"},
    "tls_verify": {"type": "bool", "default": True},
    "connect_timeout": {"type": "float", "default": 5.0},
    "key_prefix": {"type": "str", "default": "rq", "no_log": False},
    "processing": {"type": "list", "elements": "str", "default": ["{queue}:processing*"]},
    "failed_list": {"type": "str", "default": "{queue}:failed"},
}


def backend_of(params: Mapping[str, Any]) -> QueueBackend:
    """The backend that a module's options name."""
    return open_backend(params["backend"], {name: params[name] for name in QUEUE_SPEC})
