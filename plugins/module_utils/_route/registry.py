# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which brokers route tasks by version."""

from __future__ import annotations

from typing import Any, Mapping

from .._errors import Refused
from .._queue.addresses import masked
from .route import Router


def open_router(settings: Mapping[str, Any]) -> Router:
    """The routes of the broker that ``settings`` name (the options of the fragment ``queue``).

    :raises Refused: this kind of broker is not able to.
    """
    url = str(settings.get("url") or "")
    if url.startswith(("amqp://", "amqps://")):
        from .rabbitmq import RabbitmqRouter

        return RabbitmqRouter(settings)
    raise Refused(
        "The broker %s cannot divide the tasks of a queue among versions: only RabbitMQ can" % masked(url),
        option="url",
        next_step="Give the new version a share of the hosts instead (waves)",
    )
