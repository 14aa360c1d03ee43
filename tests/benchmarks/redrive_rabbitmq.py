# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redrive of a dead-letter queue, ledger on, against RabbitMQ's own ways: one by one (get, publish, confirm, ack) and a dynamic shovel.

From the top of the repository:
``PYTHONPATH=build python -m tests.benchmarks.redrive_rabbitmq [--servers rabbitmq3,rabbitmq4] [--tasks 30000]
[--pairs 3]``. The ways are run in turn in each round; prints Markdown rows: median (range) of tasks a second, and the ratios.
``--memory 1000000`` instead redrives so many in a process of its own, and prints the most memory that it had.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import amqp
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_connection import AmqpConnection
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_link import Link
from ansible_collections.queueops.fleet.plugins.module_utils._queue.amqp_message import AmqpMessage
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveRequest
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

from tests.contract.servers.rabbitmq import RabbitServer

QUEUE, DEAD = "mail", "mail.dead"
BODY = b'{"to": "someone@example.org", "template": "welcome", "attempt": 1, "padding": "%s"}' % (b"x" * 110)


class Bench:
    """One server, one type of queue."""

    def __init__(self, server: RabbitServer, kind: str, tasks: int) -> None:
        self.server, self.kind, self.tasks = server, kind, tasks

    def fill(self) -> None:
        """An empty queue, and ``tasks`` dead letters of it, with the headers that RabbitMQ gives them."""
        with self.server.connection() as connection:
            channel = connection.channel()
            for name in (QUEUE, DEAD):
                channel.queue_delete(name)
                channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-queue-type": self.kind})
        death = {"count": 1, "reason": "rejected", "queue": QUEUE, "time": 1700000000, "exchange": "", "routing-keys": [QUEUE]}
        headers = {"x-death": [death], "x-first-death-exchange": "", "x-first-death-queue": QUEUE, "x-first-death-reason": "rejected"}
        link = Link(AmqpConnection({"url": self.server.url}), "fill")
        body, blank = link.frames(BODY), AmqpMessage(0, False, b"", b"")
        for number in range(1, self.tasks + 1):
            properties = {"message_id": "task-%09d" % number, "delivery_mode": 2, "type": "welcome", "content_type": "application/json"}
            link.publish(DEAD, blank.rewritten(headers, properties=properties), body, len(BODY))
            if number % 2000 == 0 or number == self.tasks:
                link.commit()
        link.close()

    def depth(self, name: str) -> int:
        with self.server.connection() as connection:
            return int(connection.channel().queue_declare(name, passive=True).message_count)

    def ours(self) -> float:
        self.fill()
        state = tempfile.mkdtemp(prefix="qo-")
        settings = {"url": self.server.url, "management_url": self.server.management, "dead_letter": "{queue}.dead"}
        began = time.monotonic()
        report = redrive(open_backend("rabbitmq", settings), RedriveRequest(QUEUE, state_dir=state))
        took = time.monotonic() - began
        shutil.rmtree(state)
        assert report.moved == self.depth(QUEUE) == self.tasks, report
        return self.tasks / took

    def shovel(self) -> float:
        self.fill()
        uri = self.server.url.rstrip("/")
        value: dict[str, Any] = {
            "src-protocol": "amqp091",
            "src-uri": uri,
            "src-queue": DEAD,
            "dest-protocol": "amqp091",
            "dest-uri": uri,
            "dest-queue": QUEUE,
        }
        value.update({"src-prefetch-count": 1000, "src-delete-after": "queue-length", "ack-mode": "on-confirm"})
        with self.server.connection() as connection:
            channel = connection.channel()
            began = time.monotonic()
            self.server.ask("PUT", "/api/parameters/shovel/%2F/bench", {"value": value})
            while channel.queue_declare(QUEUE, passive=True).message_count < self.tasks:
                time.sleep(0.01)
            return self.tasks / (time.monotonic() - began)

    def one_by_one(self, some: int = 2000) -> float:
        self.fill()
        with self.server.connection() as connection:
            channel = connection.channel()
            channel.confirm_select()
            began = time.monotonic()
            for _number in range(some):
                found = channel.basic_get(DEAD)
                channel.basic_publish_confirm(amqp.Message(found.body, **found.properties), routing_key=QUEUE, mandatory=True)
                channel.basic_ack(found.delivery_tag)
            return some / (time.monotonic() - began)


def told(rates: list[float]) -> str:
    return "%d (%d to %d)" % (statistics.median(rates), min(rates), max(rates))


def compare(bench: Bench, pairs: int) -> str:
    # Once beforehand, so that no way pays for what is loaded once.
    Bench(bench.server, bench.kind, 1000).ours()
    rates: dict[str, list[float]] = {"ours": [], "shovel": [], "one_by_one": []}
    for _round in range(pairs):
        for name, measured in rates.items():
            measured.append(getattr(bench, name)())
    by_one = statistics.median(mine / theirs for mine, theirs in zip(rates["ours"], rates["one_by_one"], strict=True))
    by_shovel = statistics.median(mine / theirs for mine, theirs in zip(rates["ours"], rates["shovel"], strict=True))
    row = (bench.server.kind, bench.kind, told(rates["ours"]), told(rates["one_by_one"]), told(rates["shovel"]), by_one, by_shovel)
    return "| %s %s | %s | %s | %s | %.1f x | %.2f x |" % row


def memory(url: str, management: str) -> None:
    """In a process of its own: redrive what there is, and print the most memory that was had (MB) beside the time."""
    state = tempfile.mkdtemp(prefix="qo-")
    settings = {"url": url, "management_url": management, "dead_letter": "{queue}.dead"}
    began = time.monotonic()
    report = redrive(open_backend("rabbitmq", settings), RedriveRequest(QUEUE, state_dir=state))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    shutil.rmtree(state)
    print("%d tasks in %.1f s, at most %.0f MB" % (report.moved, time.monotonic() - began, most))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--servers", default="rabbitmq3,rabbitmq4")
    options.add_argument("--kinds", default="classic,quorum")
    options.add_argument("--tasks", type=int, default=30000)
    options.add_argument("--pairs", type=int, default=3)
    options.add_argument("--memory", type=int)
    options.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    chosen: Any = options.parse_args()
    if chosen.child:
        memory(*chosen.child)
        return
    if not chosen.memory:
        print("| RabbitMQ | ours, ledger on (tasks/s) | get, publish, confirm, ack | shovel | to one by one | to shovel |")
        print("| --- | --- | --- | --- | --- | --- |")
    for kind in chosen.servers.split(","):
        folder = Path(tempfile.mkdtemp(prefix="qo-"))
        folder.chmod(0o777)
        server = RabbitServer(kind, folder)
        server.start()
        try:
            for queues in chosen.kinds.split(","):
                if chosen.memory:
                    Bench(server, queues, chosen.memory).fill()
                    print("%s %s: " % (kind, queues), end="", flush=True)
                    subprocess.run(
                        [sys.executable, "-m", "tests.benchmarks.redrive_rabbitmq", "--child", server.url, server.management], check=True
                    )
                else:
                    print(compare(Bench(server, queues, chosen.tasks), chosen.pairs), flush=True)
        finally:
            server.stop()
            server.remove()
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
