# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connecting to NATS, asking JetStream one thing or hundreds at once, and saying in an operator's words why it did not work.

The client library is asynchronous. One private event loop in a thread of its own runs it, so that the server's pings are
answered also while the caller waits for something else.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
import sys
import threading
from concurrent.futures import TimeoutError as LoopTimeout
from contextlib import contextmanager, suppress
from typing import Any, Coroutine, Iterator, Mapping, Sequence, Union

from .._errors import FleetError, MissingLibrary, NotFound, Refused, Unavailable
from .nats_explained import CHECK, EXPLAINED

SCHEMES = ("nats://", "tls://", "ws://", "wss://")
#: Seconds to wait for the answers to a batch of requests.
PATIENCE_S = 30.0

#: What JetStream says when a thing does not exist (``err_code``).
NO_STREAM, NO_CONSUMER, NO_MESSAGE = 10059, 10014, 10037

#: An answer: the payload, or why there is none.
Answer = Union[bytes, Exception]


def load_nats() -> Any:
    """The client library.

    :raises MissingLibrary: it is not installed for the interpreter that runs this.
    """
    try:
        import nats
        import nats.aio.client
        import nats.errors
    except ImportError:
        raise MissingLibrary(
            "Host %s lacks the Python library nats-py (2.2 or newer), with which the queue's broker is asked, for the interpreter %s"
            % (socket.gethostname(), sys.executable),
            option="backend",
            next_step="Install it with `%s -m pip install nats-py` (Debian and Ubuntu have no package of it),"
            " or run this task on a host that has it (delegate_to, ansible_python_interpreter)" % sys.executable,
        ) from None
    return nats


def masked(url: str) -> str:
    """``url``, or several with commas, without passwords and tokens."""
    return re.sub(r"//[^@,\s]*@", "//***@", url)


class ApiError(Exception):
    """JetStream answered no. ``code`` is its ``err_code``."""

    def __init__(self, code: int, status: int, description: str) -> None:
        super().__init__(description)
        self.code = code
        self.status = status


class NoAnswer(Exception):
    """Nobody is there to answer: no such stream for a subject, or JetStream is off."""


class NatsConnection:
    """How to connect, and how to speak about it. :meth:`session` connects.

    :ivar where: the urls without passwords.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.nats = load_nats()
        given = str(settings.get("url") or "")
        self.where = masked(given)
        self.urls = [url.strip() for url in given.split(",") if url.strip()]
        if not self.urls or not all(url.startswith(SCHEMES) for url in self.urls):
            raise Refused(
                "The broker's address %s is not understood" % (self.where or "is missing and an empty one"),
                option="url",
                next_step="Give url as nats://host:4222 or tls://host:4222, several with commas between them",
            )
        self.timeout = float(settings.get("connect_timeout") or 5.0)
        self._login: dict[str, Any] = {}
        username, password = settings.get("username"), settings.get("password")
        if username:
            self._login.update(user=str(username), password=str(password or ""))
        elif password:
            self._login["token"] = str(password)
        if settings.get("credentials"):
            self._login["user_credentials"] = _existing(str(settings["credentials"]), "credentials", "the user's credentials")
        self._tls = self._tls_context(settings)

    def _tls_context(self, settings: Mapping[str, Any]) -> ssl.SSLContext | None:
        ca = settings.get("tls_ca")
        if not any(url.startswith(("tls://", "wss://")) for url in self.urls):
            if ca:
                raise Refused(
                    "tls_ca is given, but %s does not use TLS" % self.where,
                    option="tls_ca",
                    next_step="Write url with tls://, or leave tls_ca out",
                )
            return None
        if ca:
            _existing(str(ca), "tls_ca", "the CA that signed the broker's certificate")
        try:
            context = ssl.create_default_context(cafile=ca)
        except (OSError, ssl.SSLError) as problem:
            raise Refused("The file %s holds no certificate: %s" % (ca, problem), option="tls_ca") from problem
        if settings.get("tls_verify") is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    def options(self) -> dict[str, Any]:
        """What the client is connected with, besides its server and callbacks. It never reconnects: what was sent may have arrived."""
        found: dict[str, Any] = {"connect_timeout": self.timeout, "allow_reconnect": False, "max_reconnect_attempts": 1}
        found.update(reconnect_time_wait=0.1, name="queueops", **self._login)
        if self._tls is not None:
            found["tls"] = self._tls
        return found

    @contextmanager
    def session(self, doing: str) -> Iterator[NatsSession]:
        """Connected, with every error turned into one that says what to do; closed at the end. ``doing`` is what was asked."""
        session = self.open(doing)
        try:
            with self.asking(doing):
                yield session
        finally:
            session.close()

    def open(self, doing: str) -> NatsSession:
        """Connected until it is closed."""
        session = NatsSession(self)
        try:
            with self.asking(doing):
                session.connect()
        except BaseException:
            session.close()
            raise
        return session

    @contextmanager
    def asking(self, doing: str) -> Iterator[None]:
        """Turns what goes wrong inside into an error of our tree."""
        try:
            yield
        except FleetError:
            raise
        except (ApiError, NoAnswer, OSError, LoopTimeout, asyncio.TimeoutError, self.nats.errors.Error) as problem:
            raise self.explain(problem, doing) from problem

    def explain(self, problem: Exception, doing: str) -> FleetError:
        """The error of our tree that says what ``problem`` means for the operator."""
        text = masked(" ".join(str(problem).split())).replace("nats: ", "") or "no answer in time"
        here = "Could not %s at %s" % (doing, self.where)
        if isinstance(problem, ApiError) and problem.code in (NO_STREAM, NO_CONSUMER):
            return NotFound("%s: %s" % (here, text), option="queue", next_step="Check the names of stream and consumer")
        for marks, error, what, option, next_step in EXPLAINED:
            if any(mark in text.lower() for mark in marks):
                return error("%s: %s" % (here, what % text), option=option, next_step=next_step)
        if isinstance(problem, ApiError):
            return Refused("%s: JetStream says %s" % (here, text), next_step="Look at the stream with `nats stream info`, and run again")
        return Unavailable("%s: %s" % (here, text), option="url", next_step=CHECK)


class _Batch:
    """Requests in flight together. One future for all, because one each costs as much as the rest of the work."""

    def __init__(self, subjects: list[str], done: asyncio.Future[None]) -> None:
        self.subjects = subjects
        self.answers: list[Answer] = [asyncio.TimeoutError("no answer in time")] * len(subjects)
        self.done = done
        self._left = len(subjects)

    def take(self, index: int, answer: Answer) -> None:
        self.answers[index] = answer
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)


class NatsSession:
    """One connection. All methods but :meth:`close` raise what :meth:`NatsConnection.asking` understands.

    :ivar version: the server's, as (2, 11, 0).
    :ivar server: tells this start of this server from every other one.
    """

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._errors = connection.nats.errors
        self._client: Any = None
        self._waiting: dict[str, tuple[_Batch, int]] = {}
        self._count = 0
        self._inbox = ""
        self._last_error: Exception | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="queueops-nats", daemon=True)
        self._thread.start()
        self.version: tuple[int, ...] = ()
        self.server = ""

    def _run(self, work: Coroutine[Any, Any, Any], limit: float) -> Any:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(limit)
        except LoopTimeout:
            future.cancel()
            raise

    def connect(self) -> None:
        """Connect to the first of the urls that answers."""
        problem: Exception | None = None
        for url in self._connection.urls:
            try:
                self._run(self._connect(url), self._connection.timeout + 5)
                return
            except ImportError as missing:
                raise MissingLibrary(
                    "Host %s lacks the Python library nkeys, with which credentials are used" % socket.gethostname(),
                    option="credentials",
                    next_step="Install it with `%s -m pip install nkeys`" % sys.executable,
                ) from missing
            except (OSError, LoopTimeout, asyncio.TimeoutError, ValueError, self._errors.Error) as ended:
                found = self._told(ended)
                # A server that refuses us tells more than one that is down.
                if problem is None or not isinstance(found, (OSError, asyncio.TimeoutError, LoopTimeout)):
                    problem = found
        raise problem or self._errors.NoServersError()

    def _told(self, ended: Exception) -> Exception:
        """Why a connection did not come about: what the library ends with may say less than what it reported on the way."""
        reported = self._last_error
        if reported is None:
            return ended
        # A refusal is followed by the end of the connection, in either order.
        return reported if isinstance(ended, (OSError, self._errors.NoServersError, asyncio.TimeoutError)) else ended

    async def _connect(self, url: str) -> None:
        self._last_error = None
        client = self._connection.nats.aio.client.Client()
        if url.startswith("tls://"):
            self._require_tls(client)
        try:
            await asyncio.wait_for(
                client.connect(
                    servers=[url],
                    error_cb=self._on_error,
                    disconnected_cb=self._on_end,
                    closed_cb=self._on_end,
                    **self._connection.options(),
                ),
                self._connection.timeout,
            )
        except BaseException:
            with suppress(Exception):
                await client.close()
            raise
        self._client = client
        told = client.connected_server_version
        self.version = (told.major, told.minor, told.patch)
        self.server = str(client._server_info.get("server_id"))
        self._inbox = client.new_inbox()
        await client.subscribe(self._inbox + ".*", cb=self._on_answer)

    def _require_tls(self, client: Any) -> None:
        """Let the client tell its password only over TLS: by itself it does without where the server does not ask for it."""
        told = client._connect_command

        def told_over_tls() -> Any:
            if not client._server_info.get("tls_required"):
                raise self._errors.Error("nats: tls: the server offers none")
            return told()

        client._connect_command = told_over_tls

    async def _on_error(self, problem: Exception) -> None:
        self._last_error = problem
        # A refusal by permission comes beside the answers, and the answer itself never does.
        refused = re.search(r"permissions violation for publish to [\"']([^\"']*)", str(problem), re.IGNORECASE)
        if refused or "permissions violation" in str(problem).lower():
            self._fail(problem, refused.group(1) if refused else None)

    async def _on_end(self) -> None:
        self._fail(self._last_error or self._errors.ConnectionClosedError(), None)

    def _fail(self, problem: Exception, subject: str | None) -> None:
        """Nobody will answer the requests to ``subject`` (None: any)."""
        for token, (batch, index) in list(self._waiting.items()):
            if subject is None or batch.subjects[index].lower() == subject.lower():
                del self._waiting[token]
                batch.take(index, problem)

    async def _on_answer(self, message: Any) -> None:
        batch, index = self._waiting.pop(message.subject.rsplit(".", 1)[1], (None, 0))
        if batch is None:
            return
        if not message.data and message.headers and message.headers.get("Status") == "503":
            batch.take(index, NoAnswer("no responders"))
        else:
            batch.take(index, message.data)

    async def _send(self, requests: Sequence[tuple[str, bytes, Any]], limit: float) -> list[Answer]:
        batch = _Batch([subject for subject, _data, _headers in requests], self._loop.create_future())
        tokens = []
        for index, (subject, data, headers) in enumerate(requests):
            self._count += 1
            token = str(self._count)
            self._waiting[token] = (batch, index)
            tokens.append(token)
            try:
                if headers is not None and len(data) + headers.size() > self._client.max_payload:
                    # The library does not count the headers, and the server would end the connection.
                    raise self._errors.MaxPayloadError
                await self._client.publish(subject, data, reply="%s.%s" % (self._inbox, token), headers=headers)
            except (ValueError, self._errors.Error) as problem:
                # This one cannot be sent: too large, or a header that the library does not write.
                if self._waiting.pop(token, None) is not None:
                    batch.take(index, problem)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(batch.done, limit)
        for token in tokens:
            self._waiting.pop(token, None)
        return batch.answers

    def ask_many(self, requests: Sequence[tuple[str, bytes, Any]], limit: float = PATIENCE_S) -> list[Answer]:
        """The answers to many requests (subject, payload, headers or None), all in flight at once, in their order."""
        if not requests:
            return []
        answers: list[Answer] = self._run(self._send(requests, limit), limit + 10)
        return answers

    def api_many(self, requests: Sequence[tuple[str, Mapping[str, Any] | None]]) -> list[dict[str, Any] | ApiError]:
        """The decoded answers of JetStream's API. A refusal is an :class:`ApiError` in its place; anything else is raised."""
        sent = [("$JS.API." + subject, json.dumps(body).encode() if body is not None else b"", None) for subject, body in requests]
        found: list[dict[str, Any] | ApiError] = []
        for answer in self.ask_many(sent):
            if isinstance(answer, Exception):
                raise answer
            decoded = json.loads(answer)
            error = decoded.get("error")
            if error:
                found.append(ApiError(int(error.get("err_code") or 0), int(error.get("code") or 0), str(error.get("description"))))
            else:
                found.append(decoded)
        return found

    def api(self, subject: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """One answer of JetStream's API.

        :raises ApiError: it says no.
        """
        (answer,) = self.api_many([(subject, body)])
        if isinstance(answer, ApiError):
            raise answer
        return answer

    def api_or_none(self, subject: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        """As :meth:`api`; None when what is asked for does not exist."""
        try:
            return self.api(subject, body)
        except ApiError as problem:
            if problem.code in (NO_STREAM, NO_CONSUMER, NO_MESSAGE):
                return None
            raise

    def close(self) -> None:
        """End the connection and the thread. Never raises."""
        if self._client is not None:
            with suppress(Exception):
                self._run(self._client.close(), 5)
            self._client = None
        if self._thread.is_alive():
            with suppress(Exception):
                self._run(_cancel_rest(), 5)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
            if not self._thread.is_alive():
                self._loop.close()


async def _cancel_rest() -> None:
    """Let what the library left running end, so that the loop can be closed in order."""
    rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def _existing(path: str, option: str, what: str) -> str:
    if not os.path.isfile(path):
        raise Refused(
            "There is no file %s on %s" % (path, socket.gethostname()),
            option=option,
            next_step="Name the file with %s, as it is on that host" % what,
        )
    return path
