# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking RabbitMQ's management API which queues there are, what workers have in hand, who they are, and the arguments.

All of that by GET; :meth:`Management.tell` changes something, and is for users alone.
"""

from __future__ import annotations

import json
import socket
from typing import Any, Mapping
from urllib.error import HTTPError
from urllib.parse import quote

from ansible.module_utils.urls import open_url

from .._errors import Refused, Unavailable
from .addresses import masked
from .amqp_connection import addresses_of

#: Statistics are at most this old (s) by the defaults: queues tell theirs every 5 s, and these are gathered every 5 s.
LAG_S = 10.5

# Effective settings, by the name of the queue's argument; a policy names them without the x-.
_ARGUMENTS = ("x-dead-letter-exchange", "x-dead-letter-routing-key", "x-max-length", "x-max-length-bytes", "x-overflow", "x-delivery-limit")


class Management:
    """The management API of one of the nodes in ``management_url``, or of port 15672 of those in ``url``.

    :ivar reason: why it cannot be asked; None as long as it answers. It is never asked again after it did not.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        addresses = addresses_of(settings)
        self._vhost = addresses[0].vhost
        self._user = (addresses[0].username, addresses[0].password)
        given = str(settings.get("management_url") or "")
        self._urls = [url.strip().rstrip("/") for url in given.split(",") if url.strip()] or [
            "http://%s:15672" % (address.host if ":" not in address.host else "[%s]" % address.host) for address in addresses
        ]
        self._given = bool(given)
        self._timeout = min(float(settings.get("connect_timeout") or 5.0), 5.0 if given else 1.0)
        self._verify = settings.get("tls_verify") is not False
        self._ca = settings.get("tls_ca")
        self.reason: str | None = None

    def ask(self, path: str) -> Any:
        """The decoded answer to GET ``/api/<path>``; None when there is none, and then :attr:`reason` says why, or 404."""
        if self.reason is not None:
            return None
        told = "it was not asked"
        for url in list(self._urls):
            try:
                found = json.loads(self._call(url, path).read())
            except HTTPError as problem:
                if problem.code == 404:
                    return None
                told = "it answers %d %s" % (problem.code, problem.reason)
            except (OSError, ValueError, socket.timeout) as problem:
                told = masked(str(getattr(problem, "reason", problem)) or type(problem).__name__)
            else:
                # The node that answered is asked first from now on.
                self._urls.sort(key=lambda one: one != url)
                return found
        self.reason = "RabbitMQ's management API at %s does not tell: %s; %s" % (
            masked(self._urls[0]),
            told,
            "check management_url and the user's tags" if self._given else "set management_url",
        )
        return None

    def tell(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> None:
        """PUT or DELETE ``/api/<path>`` at the node that answered last; deleting what is not there is no error.

        :raises Refused: the user may not.
        :raises Unavailable: no answer, so that it may have been done or not. The same call may be made again.
        """
        url = self._urls[0]
        try:
            self._call(url, path, method, None if body is None else json.dumps(body))
        except HTTPError as problem:
            if method == "DELETE" and problem.code == 404:
                return
            told = "RabbitMQ's management API at %s answers %d %s to %s" % (masked(url), problem.code, problem.reason, path)
            raise Refused(told, option="username", next_step="Use a user with the tag administrator") from problem
        except (OSError, socket.timeout) as problem:
            raise Unavailable(
                "RabbitMQ's management API at %s does not answer: %s" % (masked(url), masked(str(getattr(problem, "reason", problem)))),
                option="management_url",
                still_true="What was asked for may have been done or not (%s %s)" % (method, path),
                next_step="Run again; that does no harm",
            ) from problem

    def _call(self, url: str, path: str, method: str = "GET", body: str | None = None) -> Any:
        return open_url(
            "%s/api/%s" % (url, path),
            method=method,
            data=body,
            headers={"Content-Type": "application/json"},
            url_username=self._user[0],
            url_password=self._user[1],
            force_basic_auth=True,
            timeout=self._timeout,
            # Without TLS there is nothing to check, and loading the authorities takes longer than the question.
            validate_certs=self._verify and url.startswith("https"),
            ca_path=self._ca if url.startswith("https") else None,
            use_proxy=False,
        )

    @property
    def vhost(self) -> str:
        """The vhost as a path."""
        return path_part(self._vhost)

    def queues(self) -> dict[str, dict[str, Any]] | None:
        """Every queue of the vhost by name, with its statistics; None: see :attr:`reason`."""
        columns = (
            "name,type,state,arguments,effective_policy_definition,messages_ready,messages_unacknowledged,head_message_timestamp,"
            "message_stats.ack_details.rate"
        )
        found = self.ask("queues/%s?columns=%s" % (self.vhost, columns))
        return None if found is None else {entry["name"]: entry for entry in found}

    def queue(self, name: str) -> dict[str, Any] | None:
        """One queue; None: it does not exist, or see :attr:`reason`."""
        found = self.ask("queues/%s/%s" % (self.vhost, path_part(name)))
        return found if isinstance(found, dict) else None

    def consumers(self) -> list[dict[str, Any]] | None:
        """Every consumer of the vhost."""
        found = self.ask("consumers/%s" % self.vhost)
        return found if isinstance(found, list) else None

    def in_hand(self) -> dict[str, int]:
        """Messages that each connection has taken and not acknowledged, as far as it is told."""
        found: dict[str, int] = {}
        for channel in self.ask("vhosts/%s/channels?columns=connection_details.name,messages_unacknowledged" % self.vhost) or ():
            name = (channel.get("connection_details") or {}).get("name")
            if name is not None and channel.get("messages_unacknowledged") is not None:
                found[name] = found.get(name, 0) + int(channel["messages_unacknowledged"])
        return found

    def connections(self) -> dict[str, dict[str, Any]] | None:
        """Every connection of the vhost by its name."""
        found = self.ask("vhosts/%s/connections?columns=name,client_properties,connected_at,user_provided_name,peer_host" % self.vhost)
        return None if found is None else {entry["name"]: entry for entry in found}

    def bound(self, exchange: str, key: str) -> list[str]:
        """The queues that an exchange routes a dead letter with ``key`` to, as far as its bindings tell."""
        if not exchange:
            return [key]
        told = self.ask("exchanges/%s/%s" % (self.vhost, path_part(exchange)))
        bindings = self.ask("exchanges/%s/%s/bindings/source" % (self.vhost, path_part(exchange))) or []
        kind = (told or {}).get("type")
        queues = [entry for entry in bindings if entry.get("destination_type") == "queue"]
        if kind == "direct":
            queues = [entry for entry in queues if entry.get("routing_key") == key]
        elif kind == "topic":
            queues = [entry for entry in queues if entry.get("routing_key") in (key, "#")]
        elif kind != "fanout":
            return []
        return sorted({str(entry["destination"]) for entry in queues})


def path_part(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="", errors="surrogateescape")


def effective(queue: Mapping[str, Any]) -> dict[str, Any]:
    """What arguments and policies together make of a queue, by the arguments' names; its own arguments go before a policy's."""
    policy = queue.get("effective_policy_definition") or {}
    found = {name: policy[name[2:]] for name in _ARGUMENTS if isinstance(policy, Mapping) and name[2:] in policy}
    own = queue.get("arguments") or {}
    for name in _ARGUMENTS:
        if name not in own:
            continue
        both_numbers = isinstance(found.get(name), int) and isinstance(own[name], int)
        # Of two limits the broker takes the lower.
        found[name] = min(found[name], own[name]) if both_numbers else own[name]
    return found


def is_down(queue: Mapping[str, Any]) -> bool:
    """Whether nobody can take messages of it, nor count them: its node is gone, or too many of a quorum queue's members."""
    return queue.get("state") in ("down", "minority", "stopped", "crashed")


def dead_letter_queues(management: Management, name: str, queue: Mapping[str, Any]) -> list[str]:
    """The queues to which dead letters of ``queue`` go; several, or none, where that is not one by its settings."""
    settings = effective(queue)
    exchange = settings.get("x-dead-letter-exchange")
    if exchange is None:
        return []
    return management.bound(str(exchange), str(settings.get("x-dead-letter-routing-key") or name))
