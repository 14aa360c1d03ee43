# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks with a key each, for a route ``counts`` of two versions: published, and read back from the versions' queues.

``keys.py SYSTEM prepare``        make the queues; SYSTEM is rq, rabbitmq or nats
``keys.py SYSTEM publish COUNT``  a task for each key; prints how many went to no version's queue
``keys.py SYSTEM stream``         one after the other, until SIGTERM
``keys.py SYSTEM load``           two hundred at a time, until SIGTERM; prints how many, how many to no version's queue, and in how long
``keys.py SYSTEM take``           print what is in each version's queue, ``{version: [[key, unix time of publishing]]}``, and empty it
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sys
import threading
import time
import zlib
from typing import Any, Protocol

import amqp
import nats
import nats.errors
import redis
from nats.js.api import AckPolicy, ConsumerConfig
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext
from rq import Queue

VERSIONS = ("1.0.0", "2.0.0")
QUEUES = {version: f"counts-{version}" for version in VERSIONS}
#: On NATS each version has a stream.
STREAMS = {version: "COUNTS-" + version.replace(".", "_") for version in VERSIONS}
FLAGS = "/var/lib/producer/flags.json"


class System(Protocol):
    """A queue system with the route."""

    def prepare(self) -> None: ...
    def publish(self, tasks: list[str]) -> int: ...
    def take(self) -> dict[str, list[str]]: ...
    def close(self) -> None: ...


class Rq:
    """The producer decides, by the flag in a file, with the OpenFeature SDK."""

    def __init__(self) -> None:
        self._connection = redis.Redis()
        self._client: Any = None

    def prepare(self) -> None:
        for name in QUEUES.values():
            queue = Queue(name, connection=self._connection)
            queue.enqueue("tasks.nothing")
            queue.empty()

    def publish(self, tasks: list[str]) -> int:
        if self._client is None:
            api.set_provider_and_wait(FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=FLAGS))
            self._client = api.get_client()
        chosen: dict[str, list[Any]] = {}
        for task in tasks:
            queue = self._client.get_string_value("counts", "nobody", EvaluationContext(task.partition("_")[0]))
            chosen.setdefault(queue, []).append(Queue.prepare_data("tasks.nothing", job_id=task))
        for name, prepared in chosen.items():
            Queue(name, connection=self._connection).enqueue_many(prepared)
        return sum(len(prepared) for name, prepared in chosen.items() if name not in QUEUES.values())

    def take(self) -> dict[str, list[str]]:
        found = {}
        for version, name in QUEUES.items():
            queue = Queue(name, connection=self._connection)
            found[version] = queue.get_job_ids()
            queue.empty()
        return found

    def close(self) -> None:
        api.shutdown()


class Rabbitmq:
    """The broker decides, by the routing key."""

    def __init__(self) -> None:
        self._connection = amqp.Connection("localhost:5672", userid="guest", password="guest")
        self._connection.connect()
        self._channel = self._connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._acked)
        self._channel.events["basic_return"].add(self._came_back)
        self._returned = self._sent = 0
        self._open: set[int] = set()

    def _acked(self, tag: int, multiple: bool) -> None:
        self._open -= {one for one in self._open if one <= tag} if multiple else {tag}

    def _came_back(self, *_told: Any) -> None:
        self._returned += 1

    def prepare(self) -> None:
        for name in QUEUES.values():
            self._channel.queue_declare(name, durable=True, auto_delete=False)

    def publish(self, tasks: list[str]) -> int:
        for task in tasks:
            self._sent += 1
            self._open.add(self._sent)
            self._channel.basic_publish(amqp.Message(task), exchange="counts", routing_key=task.partition("_")[0], mandatory=True)
        while self._open:
            self._connection.drain_events(timeout=60)
        return self._returned

    def take(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for version, name in QUEUES.items():
            rows = found.setdefault(version, [])
            wanted = self._channel.queue_declare(name, passive=True).message_count
            tag = self._channel.basic_consume(name, no_ack=True, callback=lambda message, rows=rows: rows.append(message.body))
            while len(rows) < wanted:
                self._connection.drain_events(timeout=60)
            self._channel.basic_cancel(tag)
        return found

    def close(self) -> None:
        self._connection.close()


class Nats:
    """The server decides, by the slot that the producer makes of the key and puts into the subject."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(nats.connect("nats://localhost:4222", reconnect_time_wait=0.05))
        self._stream = self._client.jetstream(timeout=5.0)

    def prepare(self) -> None:
        self._loop.run_until_complete(self._prepare())

    async def _prepare(self) -> None:
        for name in STREAMS.values():
            await self._stream.add_stream(name=name, subjects=[name.lower() + ".>"])
            await self._stream.add_consumer(name, ConsumerConfig(durable_name="worker", ack_policy=AckPolicy.EXPLICIT))

    def publish(self, tasks: list[str]) -> int:
        return self._loop.run_until_complete(self._publish_one(tasks[0]) if len(tasks) == 1 else self._publish(tasks))

    async def _publish(self, tasks: list[str]) -> int:
        stored = [await self._stream.publish_async(subject(task), task.encode()) for task in tasks]
        await self._stream.publish_async_completed()
        return sum(answer.stream not in STREAMS.values() for answer in await asyncio.gather(*stored))

    async def _publish_one(self, task: str) -> int:
        # A reload of the server may end the connection: what is not acknowledged is published again.
        while True:
            try:
                answer = await self._stream.publish(subject(task), task.encode(), headers={"Nats-Msg-Id": task})
            except (TimeoutError, nats.errors.Error):
                await asyncio.sleep(0.05)
            else:
                return int(answer.stream not in STREAMS.values())

    def take(self) -> dict[str, list[str]]:
        return self._loop.run_until_complete(self._take())

    async def _take(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for version, name in STREAMS.items():
            rows = found.setdefault(version, [])
            wanted = (await self._stream.stream_info(name)).state.messages
            consumer = await self._stream.pull_subscribe_bind("worker", stream=name)
            while len(rows) < wanted:
                for message in await consumer.fetch(min(1000, wanted - len(rows)), timeout=60):
                    rows.append(message.data.decode())
                    await message.ack()
            await self._stream.purge_stream(name)
        return found

    def close(self) -> None:
        self._loop.run_until_complete(self._client.close())


def subject(task: str) -> str:
    """Where a task is published to on NATS: the slot is a number from 0 to 99, made of its key."""
    key = task.partition("_")[0]
    return f"counts.{zlib.crc32(key.encode()) % 100}.{key}"


def task(number: int) -> str:
    """The name of a task: its key, and when it is published."""
    return f"customer-{number}_{int(time.time() * 1000)}"


def told_to_stop() -> threading.Event:
    """What SIGTERM sets."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    return stop


def main(name: str, what: str, count: str = "0") -> int:
    system: System = {"rq": Rq, "rabbitmq": Rabbitmq, "nats": Nats}[name]()
    if what == "prepare":
        system.prepare()
    elif what == "publish":
        print(system.publish([task(number) for number in range(int(count))]))
    elif what == "stream":
        stop = told_to_stop()
        for number in itertools.count():
            if stop.wait(0.005):
                break
            system.publish([task(number)])
    elif what == "load":
        stop = told_to_stop()
        began, published, unroutable = time.monotonic(), 0, 0
        # At a rate that can be read back in some seconds.
        while not stop.wait(0.06):
            unroutable = system.publish([task(number) for number in range(published, published + 200)])
            published += 200
        print(json.dumps({"published": published, "unroutable": unroutable, "seconds": time.monotonic() - began}))
    else:
        found = {version: [row.split("_") for row in rows] for version, rows in system.take().items()}
        print(json.dumps({version: [[key, int(at) / 1000] for key, at in rows] for version, rows in found.items()}))
    system.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
