# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that say how tasks are routed, documented in the fragment ``route``, and the routes that they name."""

from __future__ import annotations

from typing import Any, Mapping

from ._errors import Refused
from ._flag_options import stores_of
from ._flags.gate import check_fleet
from ._queue.addresses import masked
from ._queue_options import QUEUE_SPEC, backend_of
from ._route.flag import FlagRouter
from ._route.route import Router

ROUTE_SPEC: dict[str, Any] = dict(
    QUEUE_SPEC,
    route={"type": "str", "required": True},
    flags={
        "type": "dict",
        "options": {
            "fleet": {"type": "str", "required": True},
            "path": {"type": "path"},
            "redis_key": {"type": "str", "no_log": False},
            "owner": {"type": "str"},
            "group": {"type": "str"},
            "mode": {"type": "str"},
        },
    },
    nats={
        "type": "dict",
        "options": {
            "mappings": {"type": "path", "required": True},
            "config": {"type": "path", "default": "/etc/nats-server.conf"},
            "pid_file": {"type": "path", "default": "/run/nats-server/nats-server.pid"},
            "monitor": {"type": "str", "default": "http://127.0.0.1:8222"},
            "account": {"type": "str", "default": "$G"},
            "program": {"type": "str", "default": "nats-server"},
        },
    },
)


def router_of(params: Mapping[str, Any]) -> Router:
    """The routes that a module's options name: flags where there are some, else the broker's.

    :raises Refused: the broker is not able to, and there are no flags.
    """
    flags = params["flags"]
    if flags is not None:
        check_fleet(flags["fleet"])
        # The key is at the broker itself.
        stores = stores_of(dict(params, **flags, **({} if flags["redis_key"] else {"url": None})))
        return FlagRouter(flags["fleet"], stores, backend_of(params))
    url = str(params["url"])
    if url.startswith(("amqp://", "amqps://")):
        from ._route.rabbitmq import RabbitmqRouter

        return RabbitmqRouter(params)
    if params["nats"] is not None:
        from ._route.nats import NatsRouter

        return NatsRouter(params, params["nats"])
    if params["backend"] == "nats":
        raise Refused(
            "It is not said where the server's mappings are",
            option="nats",
            next_step="Give nats.mappings, the file that its configuration includes",
        )
    raise Refused(
        "The broker %s cannot divide the tasks of a queue among versions by itself" % masked(url),
        option="flags",
        next_step="Let the producers decide: say in flags where the flag is that they read",
    )


def key_of(params: Mapping[str, Any]) -> str:
    """What of a task decides which version gets it."""
    given = params["key"]
    return (
        str(given)
        if given is not None
        else "targetingKey"
        if params["flags"] is not None
        else "subject"
        if params["nats"]
        else "routing_key"
    )
