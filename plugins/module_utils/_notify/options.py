# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of fleet_notify: for the action that runs, for the module that documents it, and for the fleet specification's ``notify``."""

from __future__ import annotations

from typing import Any

from .._errors import Refused
from .message import EVENTS

_WEBHOOK: dict[str, Any] = {
    "url": {"type": "str", "required": True, "no_log": True},
    "headers": {"type": "dict", "no_log": True},
    "body": {"type": "dict", "no_log": True},
    "tls_ca": {"type": "path"},
}

_SLACK: dict[str, Any] = {
    "url": {"type": "str", "required": True, "no_log": True},
    "tls_ca": {"type": "path"},
}

_MAIL: dict[str, Any] = {
    "server": {"type": "str", "required": True},
    "port": {"type": "int"},
    "tls": {"type": "str", "choices": ["starttls", "tls", "none"], "default": "starttls"},
    "tls_ca": {"type": "path"},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "from": {"type": "str", "required": True},
    "to": {"type": "list", "elements": "str", "required": True},
}

#: One channel is exactly one of these.
KINDS = ("webhook", "slack", "mail")

_CHANNEL: dict[str, Any] = {
    "webhook": {"type": "dict", "options": _WEBHOOK},
    "slack": {"type": "dict", "options": _SLACK},
    "mail": {"type": "dict", "options": _MAIL, "required_together": [["username", "password"]]},
    "events": {"type": "list", "elements": "str", "choices": list(EVENTS), "default": list(EVENTS)},
    "only_trouble": {"type": "bool", "default": False},
    "timeout": {"type": "float", "default": 5.0},
}

NOTIFY_OPTIONS: dict[str, Any] = {
    "channels": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": _CHANNEL,
        "mutually_exclusive": [list(KINDS)],
        "required_one_of": [list(KINDS)],
    },
    "event": {"type": "str", "choices": list(EVENTS)},
    "fleet": {"type": "str", "required": True},
    "operation": {"type": "dict", "default": {}},
    "actor": {"type": "str"},
    "reason": {"type": "str"},
    "gate": {"type": "dict", "default": {}},
    "wave": {"type": "list", "elements": "str", "default": []},
    "verdict": {"type": "dict", "default": {}},
}


def wrong(where: str, what: str, next_step: str = "Mend it, in the fleet specification under notify") -> Refused:
    """The error for a channel that cannot work; ``what`` never quotes what may be a secret."""
    return Refused("%s: %s" % (where, what), option="channels", next_step=next_step)
