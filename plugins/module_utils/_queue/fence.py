# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shutting a version's workers out at the broker, where no host has to be reached for it.

Each version logs in as a user of its own. To let it in, the user is made, with the password and the rights of one that the operator
keeps. To shut it out, the user is deleted, with which both kinds of brokers also close its connections, in one act.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Mapping

from .._errors import Refused
from .addresses import masked
from .redis_connection import SCHEMES as REDIS_SCHEMES

_WITHOUT = "Leave queue.fence out; a host that is out of reach in a rollback then has to be stopped by hand"


@dataclass(frozen=True)
class BrokerUser:
    """One user of the broker at one moment.

    :ivar exists: whether anybody can log in as it.
    :ivar connections: those that are logged in as it, from all hosts together.
    """

    name: str
    exists: bool
    connections: int


class Fence(ABC):
    """The users of one broker. Every method may raise :class:`Unavailable` when the broker does not answer."""

    @abstractmethod
    def preflight(self) -> list[str]:
        """Refuse what can be known to go wrong with making and deleting users; what the operator should know, a sentence each. Reads only.

        :raises Refused: no right to, or the broker would forget it.
        """

    @abstractmethod
    def look(self, user: str) -> BrokerUser:
        """The user as it is now."""

    @abstractmethod
    def is_like(self, user: str, like: str) -> bool:
        """Whether ``user`` exists with the password and the rights of ``like``.

        :raises NotFound: there is no user ``like``.
        """

    @abstractmethod
    def let_in(self, user: str, like: str) -> None:
        """Make ``user`` like ``like``; who is logged in as it stays so. May be repeated."""

    @abstractmethod
    def shut_out(self, user: str) -> None:
        """Delete ``user``, and close its connections. May be repeated."""


def open_fence(settings: Mapping[str, Any]) -> Fence:
    """The users of the broker that ``settings`` name (the options of the fragment ``queue``).

    :raises Refused: this kind of broker is not able to.
    """
    url = str(settings.get("url") or "")
    if "+sentinel://" in url:
        raise Refused(
            "The users of the Redis servers behind sentinels (%s) are not replicated, so that a failover would let a version in again"
            % masked(url),
            option="url",
            next_step=_WITHOUT,
        )
    if url.startswith(REDIS_SCHEMES):
        from .redis_fence import RedisFence

        return RedisFence(settings)
    if url.startswith(("amqp://", "amqps://")):
        from .rabbitmq_fence import RabbitmqFence

        return RabbitmqFence(settings)
    raise Refused(
        "A version cannot be shut out at the broker %s: only Redis, Valkey and RabbitMQ can do that" % masked(url),
        option="url",
        next_step=_WITHOUT,
    )
