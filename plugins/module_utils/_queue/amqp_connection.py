# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connecting to RabbitMQ by AMQP 0-9-1, and saying in an operator's words why it did not work."""

from __future__ import annotations

import os
import socket
import ssl
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Iterator, Mapping
from urllib.parse import unquote, urlsplit

from .._errors import FleetError, MissingLibrary, NotFound, Refused, Unavailable
from .addresses import masked

SCHEMES = {"amqp": 5672, "amqps": 5671}
#: What this shows up as among the broker's connections.
NAME = "queueops.fleet"
#: Two counts of a queue that has just come up agree, this far apart, within this time (s).
APART_S = 0.3
STEADY_S = 10.0


def load_amqp() -> Any:
    """The client library.

    :raises MissingLibrary: it is not installed for the interpreter that runs this.
    """
    try:
        import amqp
    except ImportError:
        raise MissingLibrary(
            "Host %s lacks the Python library amqp (5.1 or newer), with which the queue's broker is asked, for the interpreter %s"
            % (socket.gethostname(), sys.executable),
            option="backend",
            next_step="Install it with `apt install python3-amqp` (Debian, Ubuntu) or `%s -m pip install amqp`,"
            " or run this task on a host that has it (delegate_to, ansible_python_interpreter)" % sys.executable,
        ) from None
    return amqp


@dataclass(frozen=True)
class Address:
    """One node of the broker. ``where`` is its url without the password."""

    host: str
    port: int
    tls: bool
    username: str
    password: str
    vhost: str
    where: str


@dataclass(frozen=True)
class Depth:
    """What the broker itself says of a queue at this moment: messages ready to be taken, and how many consumers it has."""

    ready: int
    consumers: int


_CHECK = "Check url, and that the broker is up and reachable from %s" % socket.gethostname()

# Reply code (None: any), mark in the text, our error, what to say, the option at fault, what to do. The first that fits.
_REPLIES: tuple[tuple[int | None, str, type[FleetError], str, str | None, str], ...] = (
    (
        403,
        "Login was refused",
        Refused,
        "the broker wants another user name or password",
        "password",
        "Set both to what the broker expects",
    ),
    (403, "exclusive use", Refused, "another connection alone may take from it (%s)", "queues", "Stop that consumer first"),
    (403, "", Refused, "the broker's user may not do this (%s)", "username", "Grant it (rabbitmqctl set_permissions), or use another user"),
    (404, "no queue", NotFound, "there is no such queue (%s)", "queues", "Check the queue's name and the vhost in url"),
    (405, "", Refused, "another connection holds it for itself (%s)", "queues", "Stop that consumer first"),
    (
        406,
        "partial tx completion",
        Refused,
        "a queue that is full refused a part of them",
        None,
        "Let workers empty the destination, or raise its max-length, then run again under the same run",
    ),
    (
        406,
        "timed out",
        Unavailable,
        "tasks were in hand for longer than the broker allows (%s)",
        "rate",
        "Run again under the same run; raise rate, or the broker's consumer_timeout",
    ),
    (320, "", Unavailable, "the broker closed the connection (%s)", "url", "Wait until the broker is up and run again"),
    (530, "vhost", Refused, "there is no such vhost, or the user may not use it (%s)", "url", "Check the vhost at the end of url"),
    (None, "certificate", Refused, "TLS failed (%s)", "tls_ca", "Give the CA that signed the broker's certificate in tls_ca"),
    (None, "CERTIFICATE", Refused, "TLS failed (%s)", "tls_ca", "Give the CA that signed the broker's certificate in tls_ca"),
    (None, "SSL", Refused, "TLS failed (%s)", "url", "Check that this port speaks TLS"),
)


def addresses_of(settings: Mapping[str, Any]) -> list[Address]:
    """The nodes in ``url``: one or several, separated by commas, each ``amqp[s]://[user[:password]@]host[:port][/vhost]``.

    User, password and vhost may be given with the first alone; ``username`` and ``password`` of the settings go before them.

    :raises Refused: one is not understood.
    """
    found: list[Address] = []
    for url in [one.strip() for one in str(settings.get("url") or "").split(",")]:
        where = masked(url)
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in SCHEMES or not parts.hostname:
            raise Refused(
                "The broker's address %s is not understood" % (where or "is missing and an empty one"),
                option="url",
                next_step="Give url as amqp://host:5672/vhost or amqps://host:5671/vhost; several nodes are separated by commas",
            )
        first = found[0] if found else None
        vhost = unquote(parts.path[1:]) if len(parts.path) > 1 else (first.vhost if first else "/")
        given_name = unquote(parts.username) if parts.username else (first.username if first else "guest")
        given_word = unquote(parts.password) if parts.password else (first.password if first else "guest")
        found.append(
            Address(
                host=parts.hostname,
                port=port or SCHEMES[parts.scheme],
                tls=parts.scheme == "amqps",
                username=str(settings.get("username") or given_name),
                password=str(settings.get("password") or given_word),
                vhost=vhost,
                where=where,
            )
        )
    if settings.get("tls_ca") and not all(address.tls for address in found):
        raise Refused(
            "tls_ca is given, but %s does not use TLS" % next(address.where for address in found if not address.tls),
            option="tls_ca",
            next_step="Write url with amqps://, or leave tls_ca out",
        )
    return found


class AmqpConnection:
    """One connection to one of several nodes, opened when it is first asked, and how to speak about it.

    :ivar where: the url without its password.
    :ivar vhost: the vhost in which all queues are meant.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.amqp = load_amqp()
        self.addresses = addresses_of(settings)
        self.where = ",".join(address.where for address in self.addresses)
        self.vhost = self.addresses[0].vhost
        self.timeout = float(settings.get("connect_timeout") or 5.0)
        self._ca = settings.get("tls_ca")
        self._verify = settings.get("tls_verify") is not False
        if self._ca and not os.path.isfile(str(self._ca)):
            raise Refused(
                "There is no file %s on %s" % (self._ca, socket.gethostname()),
                option="tls_ca",
                next_step="Name the file with the CA that signed the broker's certificate, as it is on that host",
            )
        self._connection: Any = None
        self._channel: Any = None

    @property
    def username(self) -> str:
        return self.addresses[0].username

    @contextmanager
    def asking(self, doing: str) -> Iterator[Any]:
        """A channel of the client library, with every error turned into one that says what to do. ``doing`` is for the message.

        After an error the channel is a new one the next time.
        """
        try:
            yield self.channel()
        except FleetError:
            raise
        except (self.amqp.exceptions.AMQPError, OSError) as problem:
            self._forget_channel(problem)
            raise self.explain(problem, doing) from problem

    def channel(self) -> Any:
        """A channel that is open, of the client library."""
        if self._connection is None or not self._connection.connected:
            self._connection = self.connect()
            self._channel = None
        if self._channel is None or not self._channel.is_open:
            self._channel = self._connection.channel()
        return self._channel

    def cluster(self) -> str:
        """The broker's name for itself, the same at each of its nodes."""
        with self.asking("ask for its name"):
            return str(self._connection.server_properties.get("cluster_name") or "")

    def _forget_channel(self, problem: Exception) -> None:
        self._channel = None
        if not isinstance(problem, self.amqp.exceptions.ChannelError):
            self.close()

    def connect(self) -> Any:
        """A connection of the client library to the first node that takes it, open and without heartbeats (each wait has an end).

        :raises amqp.exceptions.AMQPError: it answered no.
        :raises OSError: none can be reached; the last one's reason.
        """
        problem: Exception = OSError("no address")
        for address in self.addresses:
            connection = self.amqp.Connection(
                host="%s:%d" % (address.host if ":" not in address.host else "[%s]" % address.host, address.port),
                userid=address.username,
                password=address.password,
                virtual_host=address.vhost,
                ssl=self._tls(address) if address.tls else False,
                connect_timeout=self.timeout,
                read_timeout=self.timeout,
                write_timeout=self.timeout,
                heartbeat=0,
                login_method="PLAIN",
                client_properties={"connection_name": NAME},
            )
            try:
                connection.connect()
            except (OSError, self.amqp.exceptions.RecoverableConnectionError) as failed:
                problem = failed
                continue
            return connection
        raise problem

    def _tls(self, address: Address) -> dict[str, Any]:
        if not self._verify:
            return {"cert_reqs": ssl.CERT_NONE}
        return {"context": {"check_hostname": True, "cafile": str(self._ca) if self._ca else None}, "server_hostname": address.host}

    def explain(self, problem: Exception, doing: str) -> FleetError:
        """The error of our tree that says what ``problem`` means for the operator."""
        code = getattr(problem, "reply_code", None) or getattr(problem, "code", None)
        text = masked(" ".join(str(getattr(problem, "reply_text", None) or problem or type(problem).__name__).split()))
        return self.explain_reply(code, text, doing)

    def explain_reply(self, code: int | None, text: str, doing: str) -> FleetError:
        """The same for a reply code and text that the broker closed a channel or the connection with."""
        here = "Could not %s at %s" % (doing, self.where)
        for wanted, mark, error, what, option, next_step in _REPLIES:
            if wanted in (None, code) and mark in text:
                return error("%s: %s" % (here, what % text if "%s" in what else what), option=option, next_step=next_step)
        if code is not None and 400 <= code < 600 and code not in (501, 504, 541):
            return Refused("%s: %s" % (here, text), option="url")
        return Unavailable("%s: %s" % (here, text or "the connection was closed"), option="url", next_step=_CHECK)

    def depth(self, queue: str, doing: str = "count the tasks", option: str = "queues") -> Depth:
        """What the broker says of ``queue`` now; exact, and needs no permission but to connect.

        :raises NotFound: there is no such queue; ``option`` named it.
        """
        found = self.depths([queue], doing)[queue]
        if found is None:
            raise self.no_queues([queue], option)
        return found

    def no_queues(self, names: list[str], option: str = "queues") -> NotFound:
        """The error that says that there are no such queues."""
        return NotFound(
            "There is no queue %s at %s" % (" and no queue ".join(names), self.where),
            option=option,
            next_step="Check the queue's name and the vhost (%s)" % self.vhost,
        )

    def steady(self, queue: str, doing: str = "count the tasks") -> Depth:
        """The same, once two answers in a row agree.

        While a quorum queue reads its log after a restart, the broker counts what it has read so far, and says 0 while there is no leader.
        """
        before = self.depth(queue, doing)
        end = time.monotonic() + STEADY_S
        while time.monotonic() < end:
            time.sleep(APART_S)
            found = self.depth(queue, doing)
            if found == before:
                break
            before = found
        return before

    def depths(self, queues: list[str], doing: str = "count the tasks") -> dict[str, Depth | None]:
        """The same for many; None for a queue that does not exist."""
        found: dict[str, Depth | None] = {}
        for queue in queues:
            try:
                with self.asking(doing) as channel:
                    told = channel.queue_declare(queue=queue, passive=True)
            except NotFound:
                found[queue] = None
            else:
                found[queue] = Depth(told.message_count, told.consumer_count)
        return found

    def declare(self, queue: str, arguments: Mapping[str, Any], doing: str) -> None:
        """Make a durable queue, if it is not there as it is to be.

        :raises Refused: the user may not.
        """
        with self.asking(doing) as channel:
            channel.queue_declare(queue=queue, durable=True, auto_delete=False, arguments=dict(arguments))

    def delete(self, queue: str, doing: str) -> None:
        """Delete a queue of our own; nothing if it is not there."""
        with self.asking(doing) as channel:
            channel.queue_delete(queue=queue)

    def close(self) -> None:
        """Let go of the connection; never raises."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            try:
                connection.close()
            except (self.amqp.exceptions.AMQPError, OSError, AttributeError):
                connection.collect()
