# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""1,000,000 failed tasks of NATS JetStream: ``python -m tests.benchmarks.scale_nats``; see scale.py."""

from __future__ import annotations

import sys
from typing import Any

from tests.benchmarks.common import scratch, started
from tests.benchmarks.own_process import Place
from tests.benchmarks.redrive_nats import publish_failed
from tests.benchmarks.scale import Scaled, Table, main, parser
from tests.contract.servers.nats import NatsServer
from tests.contract.systems.nats import Nats


def measure(table: Table, _chosen: Any) -> None:
    with scratch() as folder, started(NatsServer("nats", folder)) as server:
        system = Nats(server, folder)

        def fill(place: Place, count: int) -> None:
            system.declare(place.queue)
            publish_failed(system, place.queue, count)

        few, many = (Place("nats", system.settings(), queue) for queue in ("few", "many"))
        table.measure(Scaled("NATS JetStream", few, many, fill, server.clear, {"field": {"kind": "note"}}, system.dump))


if __name__ == "__main__":
    sys.exit(main(parser(__doc__), measure))
