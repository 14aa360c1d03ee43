# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redrive on NATS, ledger and proof on, against what one does by hand: get a message, publish it, wait for the ack, delete it, one by one.

By hand twice: with the client library's own ``delete_msg``, for which the server overwrites the message on disk, and with
``no_erase``, which the library does not offer. Prints one markdown row for each.

``--many`` tasks (1,000,000) are then looked at, beside 10, and redriven, and the memory of that is measured.

Usage: ``python -m tests.benchmarks.redrive_nats [--tasks 5000] [--by-hand 300] [--pairs 3] [--many 1000000]``.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine

from tests.benchmarks.longest import looked, redriven
from tests.contract.common import QUEUE, request
from tests.contract.servers.nats import NatsServer
from tests.contract.systems.nats import STREAM, Nats, application
from tests.unit.conftest import wait_for


def fill(system: Nats, count: int) -> None:
    """An empty queue with ``count`` failed tasks."""
    system.server.clear()
    system.declare(QUEUE)
    subject = "work.%s.note" % QUEUE
    more = application.dead_headers({}, subject, "mailer@2.0.0:worker1:1", "ValueError: no good")

    flood(system, application.dead_subject(subject), count, more)


def flood(system: Nats, subject: str, count: int, more: dict[str, str]) -> None:
    """Publish ``count`` tasks there."""

    async def publish(client: Any) -> None:
        for number in range(left):
            _task, data, headers = application.new_task("note")
            await client.publish(subject, data, headers={**headers, **more})
            if number % 2000 == 1999:
                await client.flush(30)
                # Answered when those before are stored.
                await client.jetstream().account_info()
        await client.flush(30)

    for begin in range(0, count, 50000):
        left = min(50000, count - begin)
        system.nats.ask(publish)
    wait_for(lambda: sum(system.native(QUEUE).values()) == count, limit=60, what="%d tasks" % count)


def looks(system: Nats, many: int) -> None:
    """Print how long a look takes at ten tasks and at many."""
    print("\n| NATS, tasks in the queue | a look, ms: median (range) | it says | its counters |")
    print("| --- | --- | --- | --- |")
    for count in (10, many):
        system.server.clear()
        system.declare(QUEUE)
        flood(system, "work.%s.note" % QUEUE, count, {})
        before = system.dump()
        told, look = looked("nats", system.settings())
        after = "unchanged" if system.dump() == before else "changed"
        print("| %d queued | %s | %s queued, %s failed | %s |" % (count, told, look.queues[0].queued, look.queues[0].failed, after))


def memory(system: Nats, many: int, folder: Path) -> None:
    """Print what a redrive of many tasks takes of time and memory."""
    print("\n| NATS, a redrive | tasks | conservation | s | MB at most |\n| --- | --- | --- | --- | --- |")
    for name, match in (("all", {}), ("by match.field", {"field": {"kind": "note"}})):
        fill(system, many)
        found = redriven("nats", system.settings(), match, str(folder))
        print("| %s | %d | %s | %.0f | %.0f |" % (name, found["moved"], found["verdict"], found["seconds"], found["mb"]))


def ours(system: Nats, count: int) -> float:
    """Tasks a second of our redrive, with everything that a playbook pays for: connect, proof, ledger."""
    fill(system, count)
    began = time.perf_counter()
    report = engine.redrive(system.open(), request(system))
    seconds = time.perf_counter() - began
    assert report.moved == count and report.conservation["verdict"] == "proven", report
    return count / seconds


def by_hand(system: Nats, count: int, erase: bool) -> float:
    """Tasks a second of a loop with the client library, without a ledger or a proof."""
    fill(system, count)
    dead = system.dead(QUEUE)

    async def loop(client: Any) -> float:
        jetstream = client.jetstream()
        began = time.perf_counter()
        for seq in range(1, count + 1):
            message = await jetstream.get_msg(dead, seq)
            await jetstream.publish(message.headers["x-queueops-origin"], message.data, headers=message.headers)
            if erase:
                await jetstream.delete_msg(dead, seq)
            else:
                await client.request("$JS.API.STREAM.MSG.DELETE." + dead, b'{"seq": %d, "no_erase": true}' % seq)
        return time.perf_counter() - began

    seconds: float = system.nats.ask(loop)
    assert system.native(QUEUE)["queued"] == count, STREAM
    return count / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--by-hand", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--many", type=int, default=1000000)
    parser.add_argument("--parts", default="rates,looks,memory", help="what to measure, of these, with commas between them")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    server = NatsServer("nats", folder)
    server.start()
    try:
        system = Nats(server, folder)
        if "rates" in chosen.parts:
            rates(system, chosen)
        if "looks" in chosen.parts:
            looks(system, chosen.many)
        if "memory" in chosen.parts:
            memory(system, chosen.many, folder)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def rates(system: Nats, chosen: argparse.Namespace) -> None:
    """Print the rates of both sides, and their ratios."""
    runs = [
        (ours(system, chosen.tasks), by_hand(system, chosen.by_hand, True), by_hand(system, chosen.by_hand, False))
        for _index in range(chosen.pairs)
    ]
    fast = [run[0] for run in runs]
    for what, column in (("get, publish, delete_msg one by one", 1), ("the same, deleted without erasing", 2)):
        slow = [run[column] for run in runs]
        ratios = [one / other for one, other in zip(fast, slow, strict=True)]
        rate = ["%d tasks/s (%d to %d)" % (statistics.median(rates), min(rates), max(rates)) for rates in (fast, slow)]
        times = "%.1f x (%.1f to %.1f)" % (statistics.median(ratios), min(ratios), max(ratios))
        print("| NATS | %s | %s: %s | %s |" % (rate[0], what, rate[1], times))


if __name__ == "__main__":
    main()
