# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redriving Procrastinate's failed tasks against its own retry in a loop, in pairs: ``python -m tests.benchmarks.redrive_procrastinate``.

Both sides work on one PostgreSQL 15 and are checked for count. ``--many`` tasks (1,000,000) are then looked at, beside
10, and redriven, and the memory of that is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import procrastinate
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveReport, RedriveRequest, Rule
from procrastinate.jobs import Status

from tests.benchmarks.longest import looked, redriven
from tests.contract.servers.postgresql import open_server
from tests.contract.systems.procrastinate import Procrastinate


def fill(system: Procrastinate, count: int) -> None:
    system.server.clear()
    system.fail("mail", count)
    # What a server that has been running for a while has done by itself.
    system.query("ANALYZE")


def check(system: Procrastinate, count: int) -> None:
    found = system.native("mail")
    if found != {"queued": count, "executing": 0, "failed": 0}:
        raise SystemExit("the tasks did not all arrive: %s" % found)


async def retry_loop(url: str) -> float:
    """Seconds."""
    async with procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url)).open_async() as app:
        began = time.perf_counter()
        for job in await app.job_manager.list_jobs_async(queue="mail", status=Status.FAILED.value):
            await app.job_manager.retry_job(job, retry_at=datetime.datetime.now(datetime.UTC))
        return time.perf_counter() - began


def theirs(system: Procrastinate, count: int) -> float:
    fill(system, count)
    seconds = asyncio.run(retry_loop(system.server.url))
    check(system, count)
    return count / seconds


def ours(system: Procrastinate, count: int, rule: Rule) -> float:
    fill(system, count)
    backend = system.open()
    began = time.perf_counter()
    report: RedriveReport = redrive.redrive(backend, RedriveRequest("mail", rules=(rule,)))
    seconds = time.perf_counter() - began
    check(system, count)
    if report.moved != count or report.conservation["verdict"] != "proven":
        raise SystemExit("the redrive says %s" % report)
    return count / seconds


def copied(system: Procrastinate, status: str, count: int) -> None:
    """As many tasks in one state, as a server that has been running for a while holds them."""
    system.server.clear()
    system.declare("mail")
    system.query("ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER")
    insert = "INSERT INTO procrastinate_jobs (queue_name, task_name, args, status) SELECT 'mail', 'note', '{\"text\": \"hunter2\"}', %s"
    system.query(insert + " FROM generate_series(1, %s)", status, count)
    system.query("ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER")
    system.query("VACUUM ANALYZE")


def changes(system: Procrastinate) -> list[tuple[int, ...]]:
    """What the server counts of changes to the tables."""
    return system.query("SELECT relname, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables ORDER BY 1")


def looks(system: Procrastinate, many: int) -> None:
    """Print how long a look takes at ten tasks and at many."""
    print("\n| Procrastinate, tasks in the queue | a look, ms: median (range) | it says | changes counted by the server |")
    print("| --- | --- | --- | --- |")
    index = "CREATE INDEX ON procrastinate_jobs (queue_name, id) WHERE status = 'failed'"
    for status, count, more in (
        ("todo", 10, ""),
        ("failed", many, ""),
        ("todo", many, ""),
        ("todo", many, "with the index on failed tasks"),
        ("succeeded", many, "with the index on failed tasks"),
    ):
        copied(system, status, count)
        if more:
            system.query(index)
        before = changes(system)
        told, look = looked("procrastinate", system.settings())
        state = look.queues[0]
        note = look.unknown.get("queues.queued") or look.unknown.get("queues.failed") or "exact"
        after = "none" if changes(system) == before else "some"
        print("| %d %s %s | %s | %s queued, %s failed: %s | %s |" % (count, status, more, told, state.queued, state.failed, note, after))


def memory(system: Procrastinate, many: int) -> None:
    """Print what a redrive of many tasks takes of time and memory."""
    print("\n| Procrastinate, a redrive | tasks | conservation | s | MB at most |\n| --- | --- | --- | --- | --- |")
    for name, match in (("all", {}), ("by match.field", {"field": {"text": "hunter2"}})):
        copied(system, "failed", many)
        found = redriven("procrastinate", system.settings(), match, str(system.folder))
        print("| %s | %d | %s | %.0f | %.0f |" % (name, found["moved"], found["verdict"], found["seconds"], found["mb"]))


def row(name: str, rates: list[float], base: list[float]) -> str:
    ratios = [mine / theirs for mine, theirs in zip(rates, base, strict=True)]
    told = (name, statistics.median(rates), min(rates), max(rates), statistics.median(ratios), min(ratios), max(ratios))
    return "| %s | %.0f (%.0f to %.0f) | %.1f (%.1f to %.1f) |" % told


def rates(system: Procrastinate, chosen: argparse.Namespace) -> None:
    """Print the rates of both sides, and their ratios."""
    base, swept, matched = [], [], []
    for _pair in range(chosen.pairs):
        base.append(theirs(system, chosen.own))
        swept.append(ours(system, chosen.tasks, Rule()))
        matched.append(ours(system, chosen.tasks, Rule(Match(field={"text": "hunter2"}))))
    print("| Procrastinate's failed tasks, a second (median, range of %d) | rate | ratio in its pair |" % chosen.pairs)
    print("| --- | --- | --- |")
    print(row("retry_job one by one", base, base))
    print(row("queue_redrive, marks and proof by identity", swept, base))
    print(row("the same with match.field", matched, base))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=50000, help="tasks that a redrive moves")
    parser.add_argument("--own", type=int, default=5000, help="tasks that Procrastinate's own retry moves")
    parser.add_argument("--many", type=int, default=1000000)
    parser.add_argument("--parts", default="rates,looks,memory", help="what to measure, of these, with commas between them")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    folder.chmod(0o777)
    server = open_server("postgresql15", folder)
    server.start()
    try:
        system = Procrastinate(server, folder)
        if "rates" in chosen.parts:
            rates(system, chosen)
        if "looks" in chosen.parts:
            looks(system, chosen.many)
        if "memory" in chosen.parts:
            memory(system, chosen.many)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
