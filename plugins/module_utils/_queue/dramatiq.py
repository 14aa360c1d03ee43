# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dramatiq, on whichever broker the address names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

from .._errors import Refused
from .addresses import masked
from .api import Capabilities, QueueBackend
from .redis_connection import SCHEMES

if TYPE_CHECKING:
    from .dramatiq_amqp import DramatiqAmqpBackend
    from .dramatiq_redis import DramatiqRedisBackend

AMQP_SCHEMES = ("amqp://", "amqps://")


class _OpenDramatiq:
    """Redis (``redis://``, ``rediss://``, ``unix://``) or RabbitMQ (``amqp://``, ``amqps://``)."""

    def __call__(self, settings: Mapping[str, Any]) -> QueueBackend:
        """The backend for the broker that ``url`` names.

        :raises Refused: the address is of neither.
        """
        return self._backend(str(settings.get("url") or ""))(settings)

    def capabilities_for(self, url: str) -> Capabilities:
        """What Dramatiq is able to do on the broker of ``url``; without one, on Redis."""
        return self._backend(url or SCHEMES[0]).capabilities

    def _backend(self, url: str) -> type[DramatiqRedisBackend] | type[DramatiqAmqpBackend]:
        # Only the file of the broker in use is loaded: a host needs no more than its client library.
        if url.startswith(SCHEMES):
            from .dramatiq_redis import DramatiqRedisBackend

            return DramatiqRedisBackend
        if url.startswith(AMQP_SCHEMES):
            from .dramatiq_amqp import DramatiqAmqpBackend

            return DramatiqAmqpBackend
        raise Refused(
            "The broker's address %s is not understood" % (masked(url) or "is missing and an empty one"),
            option="url",
            next_step="Give url as redis://host:6379/0 or amqp://user@host:5672/vhost, whichever broker Dramatiq uses",
        )


#: Opens Dramatiq's queues by the connection options.
open_dramatiq = _OpenDramatiq()
