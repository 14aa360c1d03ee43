# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Celery, by its broker: Redis or RabbitMQ, as the url says. Celery itself is never imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping

from .._errors import Refused
from .addresses import masked
from .api import Capabilities, QueueBackend
from .redis_connection import SCHEMES

if TYPE_CHECKING:
    from .celery_amqp import CeleryAmqpBackend
    from .celery_redis import CeleryRedisBackend

AMQP_SCHEMES = ("amqp://", "amqps://")


class _OpenCelery:
    """Redis (``redis://``, ``rediss://``, ``unix://``) or RabbitMQ (``amqp://``, ``amqps://``)."""

    def __call__(self, settings: Mapping[str, Any]) -> QueueBackend:
        """The backend for the broker that ``url`` names.

        :raises Refused: it is the address of another kind of broker.
        """
        return self._backend(str(settings.get("url") or ""))(settings)

    def capabilities_for(self, url: str) -> Capabilities:
        """What Celery is able to do on the broker of ``url``; without one, on Redis."""
        if (url or SCHEMES[0]).startswith(SCHEMES):
            from .celery_redis import CAPABILITIES

            return CAPABILITIES
        return self._backend(url).capabilities

    def _backend(self, url: str) -> type[CeleryAmqpBackend] | type[CeleryRedisBackend]:
        # The file of the other broker's client is not loaded: a host needs only the library of the one that it uses.
        first = url.split(",")[0].strip()
        if first.startswith(AMQP_SCHEMES):
            from .celery_amqp import CeleryAmqpBackend

            return CeleryAmqpBackend
        if first.startswith(SCHEMES):
            from .celery_redis import CeleryRedisBackend

            return CeleryRedisBackend
        raise Refused(
            "The broker's address %s is not one that Celery is supported on" % (masked(first) or "is missing, and an empty one"),
            option="url",
            next_step="Give url as redis://host:6379/0, rediss://, unix:///path/to.sock?db=0, amqp://host:5672/vhost or amqps://",
        )


#: Opens Celery's queues by the connection options.
open_celery = _OpenCelery()
