# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many of Procrastinate's tasks are in which state, without reading a million of them.

A table of up to :data:`SMALL_PAGES` is read whole. Of a larger one some pages are read first, always the same ones. A state in which
there are by them more than :data:`MANY` tasks is told by them, and said to be an estimate; the others are counted exactly.

For queued tasks Procrastinate has an index. For failed ones among many others there is none, and the whole table is read, unless
somebody has made one: ``CREATE INDEX CONCURRENTLY ON procrastinate_jobs (queue_name, id) WHERE status = 'failed'``.
"""

from __future__ import annotations

import math
from typing import Any, Iterable

SMALL_PAGES = 2000
SAMPLE_PAGES = 250
MANY = 100000

STATES = ("queued", "scheduled", "failed")

_STATE = """CASE WHEN status = 'failed' THEN 'failed' WHEN scheduled_at > now() THEN 'scheduled' ELSE 'queued' END"""
_COUNT = "SELECT queue_name, " + _STATE + ", count(*) FROM procrastinate_jobs WHERE queue_name = ANY(%(queues)s) AND {status} GROUP BY 1, 2"
_PAGES = "SELECT pg_relation_size('procrastinate_jobs') / current_setting('block_size')::int"
_SAMPLE = (
    "SELECT queue_name, state, sum(n)::bigint, sum(n * n)::bigint FROM (SELECT queue_name, "
    + _STATE
    + " AS state, count(*) AS n FROM procrastinate_jobs TABLESAMPLE SYSTEM (%(percent)s) REPEATABLE (1)"
    " WHERE queue_name = ANY(%(queues)s) AND status IN ('todo', 'failed') GROUP BY 1, 2, (ctid::text::point)[0]) pages GROUP BY 1, 2"
)
#: Compiling a query takes longer than counting a million tasks.
_NO_JIT = "SELECT set_config('jit', 'off', true)"


class Counts:
    """The counts of one queue by state, as far as they are known.

    :ivar notes: by state, why it is not known, or how far off it may be.
    """

    def __init__(self) -> None:
        self.found: dict[str, int] = dict.fromkeys(STATES, 0)
        self.notes: dict[str, str] = {}


def count(cursor: Any, names: list[str]) -> dict[str, Counts]:
    """The counts of each of ``names``."""
    counts = {name: Counts() for name in names}
    cursor.execute(_NO_JIT)
    cursor.execute(_PAGES)
    pages = int(cursor.fetchone()[0])
    if pages <= SMALL_PAGES:
        _exactly(cursor, counts, "status IN ('todo', 'failed')", names)
        return counts
    # By halves, so that the pages are the same ones while the table grows a little.
    share = 0.5 ** max(0, int(math.log2(pages / SAMPLE_PAGES)))
    cursor.execute(_SAMPLE, {"queues": names, "percent": 100 * share})
    for name, state, tasks, squares in cursor.fetchall():
        _estimate(counts[name], state, int(tasks) / share, math.sqrt(int(squares) * (1 - share)) / share)
    _exactly(cursor, counts, "status = 'failed'", [name for name in names if "failed" not in counts[name].notes])
    _exactly(cursor, counts, "status = 'todo'", [name for name in names if "queued" not in counts[name].notes])
    for name in names:
        notes = counts[name].notes
        if "queued" in notes and "scheduled" not in notes:
            # Counting these few would mean to read all the others.
            del counts[name].found["scheduled"]
            notes["scheduled"] = "they are few among the many that are queued, and not counted"
    return counts


def _exactly(cursor: Any, counts: dict[str, Counts], status: str, names: Iterable[str]) -> None:
    """Count, but for what is estimated already."""
    if names:
        cursor.execute(_COUNT.replace("{status}", status), {"queues": names})
        for name, state, tasks in cursor.fetchall():
            if state not in counts[name].notes:
                counts[name].found[state] = int(tasks)


def _estimate(counts: Counts, state: str, tasks: float, error: float) -> None:
    """Take what the sample says if there are surely more than :data:`MANY`; ``error`` is its standard error."""
    if tasks - 4 * error > MANY:
        counts.found[state] = int(round(tasks, 2 - int(math.log10(tasks))))
        counts.notes[state] = "an estimate from a sample of its tasks, give or take %.0f %%" % max(1, 200 * error / tasks)
