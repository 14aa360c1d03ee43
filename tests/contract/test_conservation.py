# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A verdict of proven is only given where it is proved."""

from __future__ import annotations

from tests.contract.common import QUEUE, can, finished, redriven
from tests.contract.system import System


def test_proven_without_consumers(system: System) -> None:
    system.declare(QUEUE)
    system.fail(QUEUE, 30)
    report = redriven(system)
    proof = report.conservation
    assert proof["verdict"] == "proven", proof
    assert proof["by"] == ("identity" if can(system, "identify") else "count")
    assert sum(proof["before"].values()) == sum(proof["after"].values())


def test_check_mode_proves_nothing(system: System) -> None:
    system.declare(QUEUE)
    system.fail(QUEUE, 3)
    proof = redriven(system, check=True).conservation
    assert proof["verdict"] == "unproven" and "check mode" in proof["reason"]


def test_unproven_with_the_reason_while_workers_consume(system: System) -> None:
    system.declare(QUEUE)
    ids = system.fail(QUEUE, 60)
    system.start_worker(QUEUE)
    report = redriven(system, rate=40.0)
    assert report.moved == 60
    assert report.conservation["verdict"] == "unproven"
    assert "meanwhile" in report.conservation["reason"], report.conservation
    finished(system, ids)


def test_proven_by_the_completion_record(system: System) -> None:
    if not can(system, "identify"):
        return
    system.declare(QUEUE)
    system.ledger.touch()
    ids = system.fail(QUEUE, 60)
    system.start_worker(QUEUE)
    report = redriven(system, rate=40.0, completions=str(system.ledger))
    assert system.done(), "the worker took none while they were redriven"
    assert report.conservation["verdict"] == "proven", report.conservation
    finished(system, ids)


def test_a_task_that_somebody_takes_away_is_missed(system: System) -> None:
    """Completed tasks that the record does not name are lost, as far as anybody can tell."""
    if not can(system, "identify"):
        return
    system.declare(QUEUE)
    record = system.folder / "record"
    record.write_text("")
    ids = system.fail(QUEUE, 60)
    system.start_worker(QUEUE)
    report = redriven(system, rate=40.0, completions=str(record))
    assert report.conservation["verdict"] == "unproven"
    assert report.conservation["missing"] > 0 and "not recorded as completed" in report.conservation["reason"]
    finished(system, ids)
