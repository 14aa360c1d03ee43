# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NATS JetStream against what one does by hand, one by one: ``python -m tests.benchmarks.redrive_nats``.

That is to get a message, publish it, wait for the ack, and delete it; twice: with the client library's own ``delete_msg``, for which the
server overwrites the message on disk, and with ``no_erase``, which the library does not offer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from tests.benchmarks.common import started
from tests.benchmarks.paired import Comparison, Ours, Race, Side, main, parser
from tests.contract.common import QUEUE, request
from tests.contract.servers.nats import NatsServer
from tests.contract.systems.nats import Nats, application
from tests.unit.conftest import wait_for


def publish_failed(system: Nats, queue: str, count: int) -> None:
    """Publish ``count`` failed tasks of an empty queue."""
    subject = "work.%s.note" % queue
    more = application.dead_headers({}, subject, "mailer@2.0.0:worker1:1", "ValueError: no good")

    async def publish(client: Any) -> None:
        for number in range(some):
            _task, data, headers = application.new_task("note")
            await client.publish(application.dead_subject(subject), data, headers={**headers, **more})
            if number % 2000 == 1999:
                await client.flush(30)
                # Answered when those before are stored.
                await client.jetstream().account_info()
        await client.flush(30)

    for begin in range(0, count, 50000):
        some = min(50000, count - begin)
        system.nats.ask(publish)
    wait_for(lambda: system.native(queue)["failed"] == count, limit=60, what="%d tasks" % count)


def by_hand(system: Nats, count: int, erase: bool) -> float:
    """Seconds of a loop with the client library, without a ledger or a proof."""
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

    return float(system.nats.ask(loop))


def measure(folder: Path, chosen: Any) -> Generator[Race]:
    with started(NatsServer("nats", folder)) as server:
        system = Nats(server, folder)

        def fill(count: int) -> int:
            server.clear()
            system.declare(QUEUE)
            publish_failed(system, QUEUE, count)
            return count

        def check(count: int) -> None:
            found = system.native(QUEUE)
            assert found == {"queued": count, "executing": 0, "failed": 0}, found

        ours = Ours("all", chosen.tasks, fill, check, "nats", system.settings(), request(system))
        erased = Side("get, publish, `delete_msg` one by one", chosen.own, fill, lambda: by_hand(system, chosen.own, True), check)
        kept = Side("the same, deleted without erasing", chosen.own, fill, lambda: by_hand(system, chosen.own, False), check)
        yield Race("NATS JetStream", [Comparison(ours, erased), Comparison(ours, kept)])


if __name__ == "__main__":
    sys.exit(main(parser(__doc__, tasks=5_000, own=300), measure))
