# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""1,000,000 tasks of Procrastinate, on PostgreSQL 15: ``python -m tests.benchmarks.scale_procrastinate``; see scale.py.

Few and many are in two databases of one server: in one table, what is many would be in the way of a look at few.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

from tests.benchmarks.common import scratch, started
from tests.benchmarks.own_process import Place
from tests.benchmarks.scale import FEW, Table, main, parser
from tests.contract.servers.postgresql import open_server
from tests.contract.systems.procrastinate import Procrastinate

QUEUE = "mail"
INDEX = "CREATE INDEX ON procrastinate_jobs (queue_name, id) WHERE status = 'failed'"
INSERT = "INSERT INTO procrastinate_jobs (queue_name, task_name, args, status) SELECT 'mail', 'note', '{\"text\": \"hunter2\"}', %s"


def fill(system: Procrastinate, status: str, count: int) -> None:
    """As many tasks in one state, as a server that has been running for a while holds them."""
    system.server.clear()
    system.declare(QUEUE)
    system.query("ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER")
    system.query(INSERT + " FROM generate_series(1, %s)", status, count)
    system.query("ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER")
    system.query("VACUUM ANALYZE")


def changes(*systems: Procrastinate) -> list[Any]:
    """What the server counts of changes to the tables."""
    query = "SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables ORDER BY 1"
    return [system.query(query) for system in systems]


def measure(table: Table, _chosen: Any) -> None:
    with scratch() as folder, started(open_server("postgresql15", folder)) as server:
        server_of_few = copy.copy(server)
        server_of_few.url = server.url.replace("/test", "/few")
        many = Procrastinate(server, folder)
        many.query("CREATE DATABASE few")
        few = Procrastinate(server_of_few, folder)
        at_few, at_many = (Place("procrastinate", system.settings(), QUEUE) for system in (few, many))

        def looks(state: str, more: str = "") -> None:
            table.looks("Procrastinate", at_few, at_many, state, lambda: changes(few, many), more)

        def redrive(match: dict[str, Any]) -> None:
            table.redrive("Procrastinate", at_many, match)

        def both(status: str) -> None:
            fill(few, status, FEW)
            fill(many, status, table.count)

        both("failed")
        looks("failed")
        redrive({})
        both("todo")
        looks("queued")
        many.query(INDEX)
        looks("queued", ", with an index on failed tasks")
        both("succeeded")
        many.query(INDEX)
        looks("succeeded", ", with an index on failed tasks")
        fill(many, "failed", table.count)
        redrive({"field": {"text": "hunter2"}})


if __name__ == "__main__":
    sys.exit(main(parser(__doc__), measure))
