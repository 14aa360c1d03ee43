# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The channel on which a redrive takes and publishes messages, in bulk.

The client library connects, logs in and opens the channel; from then on this reads and writes the frames itself, because a library
that makes an object of every frame is several times slower. The channel is transactional: what is published and acknowledged takes
effect with :meth:`Link.commit`, all of it or, if this process or its connection dies before, nothing.
"""

from __future__ import annotations

import select
import ssl
import struct
import time
from collections import deque
from itertools import islice
from typing import Any, Callable

from .._errors import FleetError, Unavailable
from .amqp_connection import AmqpConnection
from .amqp_message import AmqpMessage

_FRAME = struct.Struct(">BHI")
_METHOD = struct.Struct(">HH")
_TAG = struct.Struct(">Q")
_CONTENT = struct.Struct(">HHQ")
_ACK = struct.Struct(">BHIHHQBB")
_END = b"\xce"
_CHUNK = 1 << 18
#: Longest wait for one answer of the broker (s): a commit that syncs to slow disks is let finish.
PATIENCE = 60.0
# The consumer that holds a queue and takes nothing.
_HOLDS = b"queueops-holds"


class Link:
    """One transactional channel.

    :ivar returned: what the last commit could not route, as (queue, message).
    :ivar cancelled: the broker has ended the consumer: the queue was deleted, or its node is gone.
    """

    def __init__(self, amqp: AmqpConnection, doing: str) -> None:
        self._amqp = amqp
        self._doing = doing
        try:
            self._connection: Any = amqp.connect()
            channel = self._connection.channel()
            channel.tx_select()
        except (amqp.amqp.exceptions.AMQPError, OSError) as problem:
            raise amqp.explain(problem, doing) from problem
        self._number: int = channel.channel_id
        self._frame_max: int = self._connection.frame_max or 131072
        self._sock: Any = self._connection.transport.sock
        self._sock.setblocking(False)
        self._buffer = b""
        self._at = 0
        self._out: list[bytes] = []
        self._inbox: deque[AmqpMessage] = deque()
        self._message: AmqpMessage | None = None
        self._body: list[bytes] = []
        self._missing = 0
        self._returning: str | None = None
        self._answers: set[tuple[int, int]] = set()
        self._methods: dict[str, bytes] = {}
        self._blocked: str | None = None
        self._tag = 0
        self.returned: list[tuple[str, AmqpMessage]] = []
        self.cancelled = False

    # Taking

    def consume(self, queue: str, prefetch: int) -> None:
        """Have the messages of ``queue`` delivered, at most ``prefetch`` that are not acknowledged."""
        self._method(60, 10, struct.pack(">IHB", 0, prefetch, 0))
        self._tag += 1
        tag = b"queueops-%d" % self._tag
        self._method(60, 20, b"\0\0" + _short(queue.encode("utf-8", "surrogateescape")) + _short(tag) + b"\0" + b"\0\0\0\0")
        self._ask((60, 21), "take messages of %s" % queue)

    def hold(self, queue: str) -> None:
        """Be the only one that consumes from ``queue``, which is empty and stays so, until the broker has done all that this channel asked.

        :raises FleetError: somebody else is; then this channel is closed.
        """
        self._method(60, 20, b"\0\0" + _short(queue.encode("utf-8", "surrogateescape")) + _short(_HOLDS) + b"\4" + b"\0\0\0\0")
        self._ask((60, 21), "hold %s" % queue)

    def cancel(self) -> None:
        """Have no more delivered. What was delivered stays ours, and in :meth:`receive`."""
        self._method(60, 30, _short(b"queueops-%d" % self._tag) + b"\0")
        self._ask((60, 31), "stop taking messages")

    def receive(self, most: int, wait: float) -> list[AmqpMessage]:
        """At most ``most`` messages: waits up to ``wait`` s for the first, and then for those on their way."""
        inbox = self._inbox
        end = time.monotonic() + wait
        while len(inbox) < most and not self.cancelled:
            left = end - time.monotonic()
            if left <= 0 or not self._read(min(left, 0.05 if inbox else left)):
                break
        if len(inbox) <= most:
            found = list(inbox)
            inbox.clear()
            return found
        return [inbox.popleft() for _count in range(most)]

    def ahead(self, most: int) -> list[AmqpMessage]:
        """At most ``most`` of the messages that :meth:`receive` will return next, as far as they have come."""
        while len(self._inbox) < most and self._read(0.0):
            pass
        return list(islice(self._inbox, most))

    def __len__(self) -> int:
        """How many messages have been delivered and not been asked for."""
        return len(self._inbox)

    # Giving

    def publish(self, queue: str, properties: bytes, frames: bytes, size: int) -> None:
        """Publish to ``queue`` through the default exchange, mandatory, with the next commit; ``frames`` as the body was delivered."""
        method = self._methods.get(queue)
        if method is None:
            payload = _METHOD.pack(60, 40) + b"\0\0" + b"\0" + _short(queue.encode("utf-8", "surrogateescape")) + b"\1"
            method = self._methods[queue] = _FRAME.pack(1, self._number, len(payload)) + payload + _END
        self._out.append(method)
        self._out.append(_FRAME.pack(2, self._number, len(properties) + 12) + _CONTENT.pack(60, 0, size) + properties + _END)
        self._out.append(frames)

    def frames(self, body: bytes) -> bytes:
        """``body`` in frames of this channel."""
        room = self._frame_max - 8
        pieces = [body[at : at + room] for at in range(0, len(body), room)]
        return b"".join(_FRAME.pack(3, self._number, len(piece)) + piece + _END for piece in pieces)

    def ack(self, tag: int, multiple: bool = False) -> None:
        """Acknowledge with the next commit; ``multiple``: all up to this one."""
        self._out.append(_ACK.pack(1, self._number, 13, 60, 80, tag, multiple, 0xCE))

    def give_back(self, tag: int, multiple: bool = False) -> None:
        """Put back at its place in the queue with the next commit."""
        self._out.append(_ACK.pack(1, self._number, 13, 60, 120, tag, 2 | multiple, 0xCE))

    def commit(self, meanwhile: Callable[[], None] | None = None) -> None:
        """Let what was published and acknowledged take effect; returns when the broker has taken responsibility for all of it.

        :param meanwhile: what to do while the broker is busy with it.
        :raises FleetError: it did not say so. Then whether it has is not known.
        """
        self.begin_commit()
        if meanwhile is not None:
            meanwhile()
        self.end_commit()

    def begin_commit(self) -> None:
        """Send it off; :meth:`end_commit` waits for the answer."""
        self.returned = []
        self._method(90, 20, b"")
        self._answers.discard((90, 21))
        self._send()

    def end_commit(self) -> None:
        """Wait until the broker says that it has done it."""
        self._wait((90, 21), self._doing)

    # The wire

    def _method(self, kind: int, method: int, arguments: bytes) -> None:
        self._out.append(_FRAME.pack(1, self._number, len(arguments) + 4) + _METHOD.pack(kind, method) + arguments + _END)

    def _ask(self, answer: tuple[int, int], doing: str) -> None:
        self._answers.discard(answer)
        self._send()
        self._wait(answer, doing)

    def _wait(self, answer: tuple[int, int], doing: str) -> None:
        end = time.monotonic() + PATIENCE
        while answer not in self._answers:
            if self._blocked is not None:
                raise self._refused(self._blocked)
            left = end - time.monotonic()
            if left <= 0:
                raise Unavailable(
                    "Could not %s at %s: no answer within %d s" % (doing, self._amqp.where, PATIENCE),
                    option="url",
                    next_step="Check the broker, then run again under the same run",
                )
            self._read(left)

    def _refused(self, reason: str) -> FleetError:
        return Unavailable(
            "Could not %s at %s: the broker takes no messages (%s)" % (self._doing, self._amqp.where, reason),
            next_step="Free memory or disk on the broker and run again",
        )

    def _send(self) -> None:
        """Write all that is waiting. Reads meanwhile: a broker that cannot write to us may stop reading from us."""
        view = memoryview(b"".join(self._out))
        self._out.clear()
        end = time.monotonic() + PATIENCE
        while view:
            try:
                view = view[self._sock.send(view[:_CHUNK]) :]
                end = time.monotonic() + PATIENCE
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                if self._blocked is not None:
                    raise self._refused(self._blocked) from None
                readable, _writable, _failed = select.select([self._sock], [self._sock], [], 1.0)
                if readable:
                    self._read(0.0)
                if time.monotonic() > end:
                    raise Unavailable(
                        "Could not %s at %s: the broker reads nothing" % (self._doing, self._amqp.where), option="url"
                    ) from None
            except OSError as problem:
                self._drain()
                raise self._amqp.explain(problem, self._doing) from problem

    def _drain(self) -> None:
        """Read what the broker still said before the connection broke: often why."""
        try:
            while self._read(0.2):
                pass
        except Unavailable:
            return

    def _read(self, wait: float) -> bool:
        """Read and handle what comes within ``wait`` s; False: nothing came."""
        data = self._receive(wait)
        if data is None:
            return False
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0
        self._parse()
        return True

    def _receive(self, wait: float) -> bytes | None:
        """Bytes from the broker; None: none within ``wait`` s."""
        end = time.monotonic() + wait
        while True:
            try:
                data: bytes = self._sock.recv(_CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                left = end - time.monotonic()
                if left <= 0 or not select.select([self._sock], [], [], left)[0]:
                    return None
                continue
            except OSError as problem:
                raise self._amqp.explain(problem, self._doing) from problem
            if not data:
                raise self._amqp.explain(OSError("the broker closed the connection"), self._doing)
            return data

    def _parse(self) -> None:
        buffer, at = self._buffer, self._at
        end = len(buffer)
        unpack, header, method = _FRAME.unpack_from, _CONTENT.unpack_from, _METHOD.unpack_from
        while end - at >= 8:
            kind, _channel, size = unpack(buffer, at)
            start = at + 7
            stop = start + size
            if stop >= end:
                break
            if kind == 3:
                self._body.append(buffer[at : stop + 1])
                self._missing -= size
                if self._missing <= 0:
                    self._complete()
            elif kind == 2:
                message = self._message
                if message is not None:
                    message.size = self._missing = header(buffer, start)[2]
                    message.take(buffer[start + 12 : stop])
                    if not self._missing:
                        self._complete()
            elif kind == 1:
                sort = method(buffer, start)
                if sort == (60, 60):
                    # consumer tag, delivery tag, redelivered, exchange, routing key
                    place = start + 5 + buffer[start + 4]
                    after = place + 10 + buffer[place + 9]
                    self._message = AmqpMessage(
                        _TAG.unpack_from(buffer, place)[0],
                        bool(buffer[place + 8]),
                        buffer[place + 10 : after],
                        buffer[after + 1 : after + 1 + buffer[after]],
                    )
                else:
                    self._at = stop + 1
                    self._handle(sort, buffer[start + 4 : stop])
            at = stop + 1
        self._at = at

    def _complete(self) -> None:
        message, body = self._message, self._body
        self._message = None
        if message is None:
            return
        message.body_frames = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        if self._returning is None:
            self._inbox.append(message)
        else:
            self.returned.append((self._returning, message))
            self._returning = None

    def _handle(self, sort: tuple[int, int], payload: bytes) -> None:
        if sort == (60, 50):
            after = 3 + payload[2]
            after += 1 + payload[after]
            self._returning = payload[after + 1 : after + 1 + payload[after]].decode("utf-8", "surrogateescape")
            self._message = AmqpMessage(0, False, b"", b"")
        elif sort == (60, 30):
            self.cancelled = self.cancelled or payload[1 : 1 + payload[0]] != _HOLDS
        elif sort == (10, 60):
            self._blocked = payload[1 : 1 + payload[0]].decode("utf-8", "replace")
        elif sort == (10, 61):
            self._blocked = None
        elif sort in ((20, 40), (10, 50)):
            code = struct.unpack_from(">H", payload)[0]
            text = payload[3 : 3 + payload[2]].decode("utf-8", "replace")
            raise self._amqp.explain_reply(code, text, self._doing)
        else:
            self._answers.add(sort)

    def close(self) -> None:
        """Let go; what was taken and not acknowledged goes back to its queue. Never raises."""
        for leave in (lambda: self._sock.setblocking(True), lambda: self._sock.settimeout(2.0), self._connection.collect):
            _quietly(leave)


def _quietly(leave: Callable[[], Any]) -> None:
    try:
        leave()
    except (OSError, AttributeError, ValueError):
        return


def _short(text: bytes) -> bytes:
    return bytes((len(text),)) + text
