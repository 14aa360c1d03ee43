# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Dead-letter queues of RabbitMQ against its own ways, one by one and by a dynamic shovel: ``python -m tests.benchmarks.redrive_rabbitmq``.

On each server, for each type of queue. One by one is: get, publish, confirm, ack. Most of its time it waits for the broker's statistics to
know the dead letters: 5 s for a classic queue, 10 s for a quorum queue.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import amqp
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_connection import AmqpConnection
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_link import Link
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_message import AmqpMessage
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveRequest

from tests.benchmarks.common import scratch, started
from tests.benchmarks.paired import Comparison, Ours, Race, Side, main, parser
from tests.contract.servers.rabbitmq import RabbitServer
from tests.unit.conftest import wait_for

QUEUE, ID = "mail", "task-%09d"
BODY = b'{"to": "someone@example.org", "template": "welcome", "attempt": 1, "padding": "%s"}' % (b"x" * 110)
#: Each way is run with so many once beforehand.
WARM = 2000


def settings(server: RabbitServer) -> dict[str, str]:
    return {"url": server.url, "management_url": server.management, "dead_letter": "{queue}.dead"}


def dead_letters(server: RabbitServer, kind: str, queue: str, tasks: int) -> None:
    """An empty queue, and ``tasks`` dead letters of it, with the headers that RabbitMQ gives them."""
    dead = queue + ".dead"
    with server.connection() as connection:
        channel = connection.channel()
        for name in (queue, dead):
            channel.queue_delete(name)
            channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-queue-type": kind})
    death = {"count": 1, "reason": "rejected", "queue": queue, "time": 1700000000, "exchange": "", "routing-keys": [queue]}
    headers = {"x-death": [death], "x-first-death-exchange": "", "x-first-death-queue": queue, "x-first-death-reason": "rejected"}
    link = Link(AmqpConnection({"url": server.url}), "fill")
    properties = {"message_id": ID % 0, "delivery_mode": 2, "type": "welcome", "content_type": "application/json"}
    body, model = link.frames(BODY), AmqpMessage(0, False, b"", b"").rewritten(headers, properties=properties)
    for number in range(1, tasks + 1):
        link.publish(dead, model.replace((ID % 0).encode(), (ID % number).encode()), body, len(BODY))
        if number % 2000 == 0 or number == tasks:
            link.commit()
    link.close()
    known(server, dead, tasks)


def known(server: RabbitServer, queue: str, tasks: int) -> None:
    """Wait until the broker's statistics tell so many tasks, as they do of a queue that has been there for a while."""
    wait_for(lambda: server.ask("GET", "/api/queues/%2F/" + queue).get("messages_ready") == tasks, limit=60, what="statistics")


def check(server: RabbitServer, left: int, moved: int) -> None:
    depths = {QUEUE: moved, QUEUE + ".dead": left}
    wait_for(lambda: {name: server.depth(name) for name in depths} == depths, what="the depths %s" % depths)


def shovel(server: RabbitServer, tasks: int) -> float:
    """Seconds from its order to the arrival of the last."""
    value: dict[str, Any] = {"src-protocol": "amqp091", "src-uri": server.url.rstrip("/"), "src-queue": QUEUE + ".dead"}
    value.update({"dest-protocol": "amqp091", "dest-uri": server.url.rstrip("/"), "dest-queue": QUEUE})
    value.update({"src-prefetch-count": 1000, "src-delete-after": "queue-length", "ack-mode": "on-confirm"})
    with server.connection() as connection:
        channel = connection.channel()
        began = time.perf_counter()
        server.ask("PUT", "/api/parameters/shovel/%2F/bench", {"value": value})
        while channel.queue_declare(QUEUE, passive=True).message_count < tasks:
            time.sleep(0.01)
        return time.perf_counter() - began


def one_by_one(server: RabbitServer, tasks: int) -> float:
    """Seconds."""
    with server.connection() as connection:
        channel = connection.channel()
        channel.confirm_select()
        began = time.perf_counter()
        for _number in range(tasks):
            found = channel.basic_get(QUEUE + ".dead")
            channel.basic_publish_confirm(amqp.Message(found.body, **found.properties), routing_key=QUEUE, mandatory=True)
            channel.basic_ack(found.delivery_tag)
        return time.perf_counter() - began


def comparisons(server: RabbitServer, kind: str, tasks: int, own: int) -> list[Comparison]:
    """One by one moves ``own`` of the ``tasks`` dead letters."""

    def fill(_moved: int) -> None:
        dead_letters(server, kind, QUEUE, tasks)

    def moved(count: int) -> Callable[[Any], None]:
        return lambda _left: check(server, tasks - count, count)

    ours = Ours("all, ledger on", tasks, fill, moved(tasks), "rabbitmq", settings(server), RedriveRequest(QUEUE))
    slow = Side("get, publish, confirm, ack one by one", own, fill, lambda: one_by_one(server, own), moved(own))
    quick = Side("a dynamic shovel", tasks, fill, lambda: shovel(server, tasks), moved(tasks))
    return [Comparison(ours, slow, 8), Comparison(ours, quick, 0.6)]


def measure(_folder: Path, chosen: Any) -> Generator[Race]:
    for name in chosen.servers.split(","):
        with scratch() as folder, started(RabbitServer(name, folder)) as server:
            for kind in chosen.kinds.split(","):
                few = min(WARM, chosen.own)
                Race("warming up", comparisons(server, kind, few, few)).warm_up()
                yield Race("%s, %s queue" % (name, kind), comparisons(server, kind, chosen.tasks, chosen.own))


if __name__ == "__main__":
    options = parser(__doc__, tasks=40_000, own=2_000)
    options.add_argument("--servers", default="rabbitmq3,rabbitmq4")
    options.add_argument("--kinds", default="classic,quorum")
    sys.exit(main(options, measure))
