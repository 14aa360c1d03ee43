# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""1,000,000 dead letters of RabbitMQ: ``python -m tests.benchmarks.scale_rabbitmq``; see scale.py."""

from __future__ import annotations

import sys
import time
from typing import Any

from tests.benchmarks.common import scratch, started
from tests.benchmarks.own_process import Place
from tests.benchmarks.redrive_rabbitmq import dead_letters, known, settings
from tests.benchmarks.scale import Scaled, Table, main, parser
from tests.contract.servers.rabbitmq import RabbitServer

#: How old (s) the broker's statistics may be: they are gathered every 5 s, and a quorum queue tells its own every 5 s.
LAG_S = 10.0


def counted(server: RabbitServer) -> dict[str, Any]:
    """Of each queue: what is ready and what is in hand, and how many messages were published, delivered, redelivered, acknowledged."""
    found = {}
    for queue in server.ask("GET", "/api/queues/%2F"):
        stats = {name: value for name, value in queue.get("message_stats", {}).items() if isinstance(value, int)}
        found[queue["name"]] = (queue.get("messages_ready"), queue.get("messages_unacknowledged"), stats)
    return found


def settled(server: RabbitServer) -> dict[str, Any]:
    """What is counted, once the statistics have told the same for as long as they lag behind."""
    found, since = counted(server), time.monotonic()
    while time.monotonic() < since + LAG_S:
        time.sleep(0.2)
        now = counted(server)
        if now != found:
            found, since = now, time.monotonic()
    return found


def scaled(server: RabbitServer, kind: str) -> Scaled:
    few, many = (Place("rabbitmq", settings(server), queue, "dead_lettered") for queue in ("few", "many"))
    return Scaled(
        "%s, %s queue" % (server.kind, kind),
        few,
        many,
        fill=lambda place, count: dead_letters(server, kind, place.queue, count),
        clear=server.clear,
        match={"task": "welcome"},
        changes=lambda: settled(server),
        settle=lambda place, count: known(server, place.queue, count),
    )


def measure(table: Table, chosen: Any) -> None:
    for name in chosen.servers.split(","):
        with scratch() as folder, started(RabbitServer(name, folder)) as server:
            for kind in chosen.kinds.split(","):
                server.clear()
                table.measure(scaled(server, kind))


if __name__ == "__main__":
    options = parser(__doc__)
    options.add_argument("--servers", default="rabbitmq4", help="of rabbitmq3 and rabbitmq4, with commas between them (rabbitmq4)")
    options.add_argument("--kinds", default="classic", help="of classic and quorum, with commas between them (classic)")
    sys.exit(main(options, measure))
