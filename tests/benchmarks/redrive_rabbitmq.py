# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redrive of a dead-letter queue, ledger on, against RabbitMQ's own ways: one by one (get, publish, confirm, ack) and a dynamic shovel.

From the top of the repository: ``PYTHONPATH=build python -m tests.benchmarks.redrive_rabbitmq [--servers rabbitmq3,rabbitmq4]
[--kinds classic,quorum] [--tasks 20000,40000] [--pairs 3] [--cold]``. The ways are run in turn in each round; prints Markdown rows: median
(range) of tasks a second, and of the ratios round by round. Ends with 1 where the median of a ratio misses its bar. ``--cold`` does not
run each way once beforehand.
``--memory 1000000`` instead redrives so many in a process of its own, and prints the most memory that it had, and how long looks take;
``--profile`` shows what the time of one redrive is spent on.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
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

from tests.benchmarks.longest import most_memory
from tests.contract.servers.rabbitmq import RabbitServer
from tests.unit.conftest import wait_for

QUEUE, DEAD, ID = "mail", "mail.dead", "task-%09d"
#: Ratios that have to be reached, to one by one and to a shovel.
BARS = (8.0, 0.6)
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
        properties = {"message_id": ID % 0, "delivery_mode": 2, "type": "welcome", "content_type": "application/json"}
        body, model = link.frames(BODY), AmqpMessage(0, False, b"", b"").rewritten(headers, properties=properties)
        for number in range(1, self.tasks + 1):
            link.publish(DEAD, model.replace((ID % 0).encode(), (ID % number).encode()), body, len(BODY))
            if number % 2000 == 0 or number == self.tasks:
                link.commit()
        link.close()
        # As of a queue that has been there for a while: the broker's statistics know it.
        wait_for(lambda: self.server.ask("GET", "/api/queues/%2F/" + DEAD).get("messages_ready") == self.tasks, limit=60, what="statistics")

    def settings(self) -> dict[str, str]:
        return {"url": self.server.url, "management_url": self.server.management, "dead_letter": "{queue}.dead"}

    def depth(self, name: str) -> int:
        with self.server.connection() as connection:
            return int(connection.channel().queue_declare(name, passive=True).message_count)

    def ours(self) -> float:
        self.fill()
        state = tempfile.mkdtemp(prefix="qo-")
        began = time.monotonic()
        report = redrive(open_backend("rabbitmq", self.settings()), RedriveRequest(QUEUE, state_dir=state))
        took = time.monotonic() - began
        shutil.rmtree(state)
        assert report.moved == self.depth(QUEUE) == self.tasks, report
        return self.tasks / took

    def looks(self, count: int = 30) -> str:
        """How long queue_info's look takes (ms)."""
        took = []
        for _look in range(count):
            backend = open_backend(
                "rabbitmq", {"url": self.server.url, "management_url": self.server.management, "dead_letter": "{queue}.dead"}
            )
            began = time.monotonic()
            (state,) = backend.look([QUEUE]).queues
            took.append(1000 * (time.monotonic() - began))
            assert state.dead_lettered == self.tasks, state
        return told(took)

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


def told(values: list[float], form: str = "%.0f") -> str:
    return (form + " (" + form + " to " + form + ")") % (statistics.median(values), min(values), max(values))


def compare(bench: Bench, pairs: int, warm: bool) -> tuple[str, bool]:
    """The row, and whether both bars are reached."""
    ways = ("ours", "one_by_one", "shovel")
    if warm:
        # Once beforehand, so that no way pays for what is loaded once.
        for way in ways:
            getattr(Bench(bench.server, bench.kind, 2000), way)()
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _round in range(pairs):
        for way in ways:
            rates[way].append(getattr(bench, way)())
    ratios = [[mine / theirs for mine, theirs in zip(rates["ours"], rates[way], strict=True)] for way in ways[1:]]
    name = "%s %s, %d tasks%s" % (bench.server.kind, bench.kind, bench.tasks, "" if warm else ", cold")
    cells = [name, *(told(rates[way]) for way in ways), told(ratios[0], "%.1f"), told(ratios[1], "%.2f")]
    return "| %s |" % " | ".join(cells), all(statistics.median(found) >= least for found, least in zip(ratios, BARS, strict=True))


def memory(url: str, management: str) -> None:
    """In a process of its own: redrive what there is, and print the most memory that was had (MB) beside the time."""
    state = tempfile.mkdtemp(prefix="qo-")
    settings = {"url": url, "management_url": management, "dead_letter": "{queue}.dead"}
    began = time.monotonic()
    report = redrive(open_backend("rabbitmq", settings), RedriveRequest(QUEUE, state_dir=state))
    most = most_memory()
    shutil.rmtree(state)
    print("%d tasks in %.1f s, at most %.0f MB" % (report.moved, time.monotonic() - began, most))


def profile(bench: Bench) -> None:
    """What the time of one redrive is spent on."""
    bench.ours()
    watch = cProfile.Profile()
    print("%s %s: %.0f tasks a second while watched" % (bench.server.kind, bench.kind, watch.runcall(bench.ours)))
    pstats.Stats(watch).sort_stats("tottime").print_stats(25)


def run(bench: Bench, chosen: Any) -> bool:
    """Do with one server and type of queue what was asked for; False: a bar was missed."""
    if chosen.memory:
        few = Bench(bench.server, bench.kind, 10)
        few.fill()
        told_few = few.looks()
        bench.fill()
        print(
            "%s %s: a look at 10 tasks %s ms, at %d %s ms;" % (bench.server.kind, bench.kind, told_few, bench.tasks, bench.looks()), end=" "
        )
        sys.stdout.flush()
        child = [sys.executable, "-m", "tests.benchmarks.redrive_rabbitmq", "--child", bench.server.url, bench.server.management]
        subprocess.run(child, check=True)
        return True
    if chosen.profile:
        profile(bench)
        return True
    row, reached = compare(bench, chosen.pairs, not chosen.cold)
    print(row, flush=True)
    return reached


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--servers", default="rabbitmq3,rabbitmq4")
    options.add_argument("--kinds", default="classic,quorum")
    options.add_argument("--tasks", default="20000,40000", help="sizes, separated by commas")
    options.add_argument("--pairs", type=int, default=3)
    options.add_argument("--cold", action="store_true")
    options.add_argument("--profile", action="store_true")
    options.add_argument("--memory", type=int)
    options.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    chosen: Any = options.parse_args()
    if chosen.child:
        memory(*chosen.child)
        return 0
    if not (chosen.memory or chosen.profile):
        print(
            "| RabbitMQ, tasks a second: median (range) of %d | ours, ledger on | get, publish, confirm, ack | shovel |" % chosen.pairs,
            end="",
        )
        print(" to one by one, at least %g | to shovel, at least %g |" % BARS)
        print("| --- | --- | --- | --- | --- | --- |")
    reached = True
    sizes = [chosen.memory] if chosen.memory else [int(size) for size in chosen.tasks.split(",")]
    for kind in chosen.servers.split(","):
        folder = Path(tempfile.mkdtemp(prefix="qo-"))
        folder.chmod(0o777)
        server = RabbitServer(kind, folder)
        server.start()
        try:
            for queues in chosen.kinds.split(","):
                for size in sizes:
                    reached = run(Bench(server, queues, size), chosen) and reached
        finally:
            server.stop()
            server.remove()
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
