# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Procrastinate's failed tasks against its own retry in a loop, on PostgreSQL 15: ``python -m tests.benchmarks.redrive_procrastinate``."""

from __future__ import annotations

import asyncio
import datetime
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import procrastinate
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveRequest, Rule
from procrastinate.jobs import Status

from tests.benchmarks.common import started
from tests.benchmarks.paired import Comparison, Ours, Race, Side, main, parser
from tests.contract.servers.postgresql import open_server
from tests.contract.systems.procrastinate import Procrastinate


async def retry_loop(url: str) -> float:
    """Seconds."""
    async with procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url)).open_async() as app:
        began = time.perf_counter()
        for job in await app.job_manager.list_jobs_async(queue="mail", status=Status.FAILED.value):
            await app.job_manager.retry_job(job, retry_at=datetime.datetime.now(datetime.UTC))
        return time.perf_counter() - began


def measure(folder: Path, chosen: Any) -> Generator[Race]:
    with started(open_server("postgresql15", folder)) as server:
        system = Procrastinate(server, folder)

        def fill(count: int) -> int:
            server.clear()
            system.fail("mail", count)
            # What a server that has been running for a while has done by itself.
            system.query("ANALYZE")
            return count

        def check(count: int) -> None:
            found = system.native("mail")
            assert found == {"queued": count, "executing": 0, "failed": 0}, found

        def ours(name: str, match: Match) -> Ours:
            request = RedriveRequest("mail", rules=(Rule(match),))
            return Ours(name, chosen.tasks, fill, check, "procrastinate", system.settings(), request)

        theirs = Side("`retry_job` one by one", chosen.own, fill, lambda: asyncio.run(retry_loop(server.url)), check)
        matched = ours("by match.field", Match(field={"text": "hunter2"}))
        yield Race("Procrastinate", [Comparison(ours("all", Match()), theirs, 8), Comparison(matched, theirs)])


if __name__ == "__main__":
    sys.exit(main(parser(__doc__, tasks=50_000, own=5_000), measure))
