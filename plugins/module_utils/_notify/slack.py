# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An incoming webhook as Slack has it; Mattermost, Rocket.Chat and others take the same."""

from __future__ import annotations

from typing import Any, Callable, Mapping

from .message import Message
from .post import Address


def sender(where: str, given: Mapping[str, Any]) -> tuple[str, list[str], Callable[[Message, float], None]]:
    """Its server, its secrets, and what sends a message to it.

    :raises Refused: the address cannot be used.
    """
    address = Address.of(where, given)

    def send(message: Message, limit: float) -> None:
        address.post({"text": text(message)}, limit)

    return address.server, address.secrets, send


def text(message: Message) -> str:
    """The title, and the rest as preformatted text, in which nothing is a link, a format, or a mention that calls everybody."""
    title = _escaped(message.title)
    # In front of a title, too, some systems look for mentions.
    return "*%s*\n```\n%s\n```" % (title.replace("*", "").replace("@", "(at)"), "\n".join(_escaped(line) for line in message.lines))


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("`", "'")
