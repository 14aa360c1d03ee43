# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A webhook: a JSON body after the user's own template, in which ``{name}`` stands for a fact of the event."""

from __future__ import annotations

import json
import re
from typing import Any, Callable, Mapping

from .message import VARIABLES, Message
from .options import wrong
from .post import Address

_NAMED = re.compile(r"\{([a-z_]+)\}")


def sender(where: str, given: Mapping[str, Any]) -> tuple[str, list[str], Callable[[Message, float], None]]:
    """Its server, its secrets, and what sends a message to it.

    :raises Refused: the address or the template cannot work.
    """
    address, body = Address.of(where, given), given.get("body")
    unknown = sorted(_names(body).difference(VARIABLES))
    if unknown:
        raise wrong(where, "body names {%s}, which no event has; there are %s" % ("}, {".join(unknown), ", ".join(VARIABLES)))

    def send(message: Message, limit: float) -> None:
        address.post(dict(message.variables) if body is None else filled(body, message.variables), limit)

    return address.server, address.secrets, send


def filled(template: Any, variables: Mapping[str, Any]) -> Any:
    """``template`` with its facts. A text that is a ``{name}`` and nothing else becomes the fact itself, number or list."""
    if isinstance(template, Mapping):
        return {str(key): filled(value, variables) for key, value in template.items()}
    if isinstance(template, (list, tuple)):
        return [filled(value, variables) for value in template]
    if not isinstance(template, str):
        return template
    alone = _NAMED.fullmatch(template)
    if alone:
        return variables[alone.group(1)]
    return _NAMED.sub(lambda found: _as_text(variables[found.group(1)]), template)


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _names(template: Any) -> set[str]:
    parts = template.values() if isinstance(template, Mapping) else template if isinstance(template, (list, tuple)) else ()
    found = set(_NAMED.findall(template)) if isinstance(template, str) else set()
    for part in parts:
        found |= _names(part)
    return found
