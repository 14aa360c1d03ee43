# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""500 tasks that only version 2 can read among 5,000: told before, not seen by version 1, and done once in the end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab import WORKERS, Lab, on, wait_until

ALL, SHEETS = 5000, 500

LABS = {
    "rq": Lab("letters", "letters", "LLEN rq:queue:letters", "ZCARD queueops:parked:rq:letters", keeps=True),
    "celery": Lab("labels", "labels", "-n 1 LLEN labels", "-n 1 LLEN queueops:parked:labels", keeps=False),
}


@pytest.fixture
def held() -> Iterator[None]:
    """Workers of version 2 are stuck on every host, and take no task."""
    for host in WORKERS:
        on(host, "touch /var/lib/held")
    yield
    release()


def release() -> None:
    for host in WORKERS:
        on(host, "rm -f /var/lib/held")


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("system", LABS)
def test_what_version_1_cannot_read_waits_for_version_2(system: str) -> None:
    lab = LABS[system]
    # What the rule is for: a rollback heeds it, a producer does not, so version 1 takes this sheet, and fails at it or throws it away.
    lab.publish(1, 10)
    wait_until(lambda: set(lab.done()) == set(range(1, 10)) and lab.errors() > 0, "the error of version 1")
    errors = lab.errors()
    # Where it is kept, the rule parks it with the others.
    early = {10} if lab.keeps else set()

    lab.must("deploy", version="2.0.0")
    lab.publish(11, ALL)
    assert lab.waiting() == (ALL, 0)
    sheets = set(range(20, ALL + 11, 10))
    notes = set(range(11, ALL + 11)) - sheets
    assert len(sheets) == SHEETS

    code, told = lab.run("plan")
    assert code == 2
    assert f"{lab.queue}: {SHEETS} of its {ALL} queued tasks cannot be read by version 1.0.0: parked by rule sheets" in told

    lab.must("rollback")
    assert lab.versions() == {"1.0.0"}
    wait_until(lambda: notes <= set(lab.done()), "the end of all notes")
    done = lab.done()
    assert all(done[number] == {"1.0.0": 1} for number in notes)
    assert not sheets & set(done)
    assert lab.errors() == errors, "version 1 met a task that it cannot read"
    assert lab.waiting() == (0, SHEETS + len(early))

    release()
    lab.must("deploy", version="2.0.0")
    sheets |= early
    wait_until(lambda: sheets <= set(lab.done()), "the end of all sheets")
    # Nobody releases them a second time.
    lab.must("deploy", version="2.0.0")
    done = lab.done()
    assert all(done[number] == {"2.0.0": 1} for number in sheets) and all(done[number] == {"1.0.0": 1} for number in notes)
    assert (lab.waiting(), lab.errors()) == ((0, 0), errors)
