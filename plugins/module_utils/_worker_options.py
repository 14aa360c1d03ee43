# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The argument spec of the `worker` dictionary, shared by every module that has to do with workers."""

from __future__ import annotations

from typing import Any


def worker_options() -> dict[str, Any]:
    """The option `worker` as its documentation fragment `queueops.fleet.worker` describes it."""
    return {
        "type": "dict",
        "required": True,
        "options": {
            "manager": {"type": "str", "required": True, "choices": ["docker", "supervisor", "systemd"]},
            "unit": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "instances": {"type": "int", "default": 1},
            "server": {"type": "str"},
            "server_username": {"type": "str"},
            "server_password": {"type": "str", "no_log": True},
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "definition": {"type": "path"},
            "python": {"type": "path"},
            "framework": {"type": "str", "choices": ["celery", "rq", "sidekiq"]},
            "quiet_signal": {"type": "str"},
            "side_by_side": {"type": "bool", "default": False},
            "forks": {"type": "bool", "default": True},
            "drain_timeout": {"type": "float", "default": 60.0},
            "start_timeout": {"type": "float", "default": 30.0},
            "health": {
                "type": "dict",
                "apply_defaults": True,
                "options": {
                    "hold": {"type": "float", "default": 2.0},
                    "command": {"type": "list", "elements": "str", "default": []},
                    "tcp": {
                        "type": "list",
                        "elements": "dict",
                        "default": [],
                        "options": {
                            "host": {"type": "str", "default": "127.0.0.1"},
                            "port": {"type": "int", "required": True},
                            "hold": {"type": "float", "default": 0.0},
                        },
                    },
                    "http": {
                        "type": "list",
                        "elements": "dict",
                        "default": [],
                        "options": {
                            "url": {"type": "str", "required": True},
                            "status": {"type": "int", "default": 200},
                            "hold": {"type": "float", "default": 0.0},
                        },
                    },
                },
            },
        },
    }
