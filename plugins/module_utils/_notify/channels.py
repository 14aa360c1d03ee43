# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The channels by which people are told: from options, refused where one cannot work; what is told goes to all of them at the same time."""

from __future__ import annotations

import smtplib
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Callable, Mapping, Sequence

from .._errors import FleetError, Unavailable
from . import mail, slack, webhook
from .message import Message
from .options import KINDS, wrong

#: Between a try that was cut off and the second one, seconds.
PAUSE_S = 0.3

#: So long before its timeout a server is given up, so that there is time to say what was waited for; seconds, at most a tenth of it.
_SPARE_S = 0.2

_SENDERS: dict[str, Any] = {"webhook": webhook.sender, "slack": slack.sender, "mail": mail.sender}


@dataclass(frozen=True)
class Channel:
    """One way to tell people.

    :ivar name: what messages call it, without anything secret: its kind, its server, its place in the list, from 1.
    :ivar events: what it wants to be told of. ``only_trouble``: and of that only what somebody may have to look at.
    :ivar timeout: seconds for all of it, a second try included.
    :ivar send: tells it, within so many seconds. Raises Unavailable where a second try may do, Refused where none does.
    :ivar secrets: what no message may hold.
    """

    name: str
    events: Sequence[str]
    only_trouble: bool
    timeout: float
    send: Callable[[Message, float], None]
    secrets: Sequence[str]

    def wants(self, message: Message) -> bool:
        """Whether it is to be told of this."""
        return bool(message.events.intersection(self.events)) and (message.trouble or not self.only_trouble)


@dataclass
class Delivery:
    """What came of telling one channel.

    :ivar problem: why it was not told, for the on-call; empty if it was.
    """

    channel: Channel
    problem: str = ""
    next_step: str = ""
    done: threading.Event = field(default_factory=threading.Event)


def channels_of(given: Sequence[Mapping[str, Any]]) -> list[Channel]:
    """The option ``channels`` as channels.

    :raises Refused: one of them cannot work.
    """
    return [_channel("channel %d" % number, entry) for number, entry in enumerate(given, 1)]


def _channel(where: str, entry: Mapping[str, Any]) -> Channel:
    kind = next(kind for kind in KINDS if entry.get(kind) is not None)
    if entry["timeout"] <= 0:
        raise wrong(where, "timeout is a number of seconds above 0")
    server, secrets, send = _SENDERS[kind]("%s (%s)" % (where, kind), entry[kind])
    return Channel("%s %s (%s)" % (kind, server, where), entry["events"], entry["only_trouble"], entry["timeout"], send, secrets)


def deliver(channels: Sequence[Channel], message: Message) -> list[Delivery]:
    """Tell all of them at the same time. Returns within the longest timeout, whatever their servers do."""
    deliveries = [Delivery(channel) for channel in channels]
    began = time.monotonic()
    for delivery in deliveries:
        # A thread that looks up a name cannot be stopped; as a daemon it does not hold up the end of the process either.
        end = began + delivery.channel.timeout - min(_SPARE_S, delivery.channel.timeout / 10)
        threading.Thread(target=_tell, name=delivery.channel.name, args=(delivery, message, end), daemon=True).start()
    return [_settled(delivery, began + delivery.channel.timeout) for delivery in deliveries]


def _settled(delivery: Delivery, end: float) -> Delivery:
    if delivery.done.wait(max(0.0, end - time.monotonic())):
        return delivery
    # A copy: the thread may still write into the other one.
    return Delivery(
        delivery.channel,
        "no answer within %g s; it may have arrived all the same" % delivery.channel.timeout,
        "Look at its server and at the network in between, or raise its timeout",
    )


def _tell(delivery: Delivery, message: Message, end: float) -> None:
    delivery.problem = "it ended without saying why"
    try:
        _try_twice(delivery.channel, message, end)
        delivery.problem = ""
    except FleetError as error:
        delivery.problem, delivery.next_step = _masked(error.message, delivery.channel.secrets), error.next_step or ""
    except (OSError, HTTPException, smtplib.SMTPException, ValueError, RuntimeError) as error:
        # By its kind alone: what it says may quote what was sent.
        delivery.problem = type(error).__name__
    finally:
        delivery.done.set()


def _try_twice(channel: Channel, message: Message, end: float) -> None:
    try:
        channel.send(message, end - time.monotonic())
    except Unavailable:
        if end - time.monotonic() <= PAUSE_S:
            raise
        time.sleep(PAUSE_S)
        channel.send(message, end - time.monotonic())


def _masked(text: str, secrets: Sequence[str]) -> str:
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
