# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole small drill by hand, on real workers: the bad version fails a third, and after going back nothing is lost."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._drill.conclude import Order, conclude
from ansible_collections.queueops.fleet.plugins.module_utils._drill.measure import Measurement
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveRequest
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend
from rq.registry import FailedJobRegistry

from tests.unit.conftest import wait_for

from .conftest import TEMPLATE, RunningLab, rendered


def order_for(lab: RunningLab, events: list[dict[str, Any]], **changes: Any) -> Order:
    config = {
        host: {
            f"{there['root']}/etc/mailer/{name}": hashlib.sha256(content).hexdigest()
            for name, content in rendered("1.0.0", host, lab.settings.drill_dir, lab.state).items()
        }
        for host, there in lab.state["hosts"].items()
    }
    given: dict[str, Any] = {
        "drill_dir": lab.settings.drill_dir,
        "trial": "bad",
        "events": events,
        "releases": dict.fromkeys(lab.state["hosts"], 1),
        "target_release": 1,
        "target_version": "1.0.0",
        "config": config,
        "template": TEMPLATE,
        "queue": "mail",
        "parked_queues": [],
        "instances": 1,
        "tasks": 60,
        "problems": [],
        "timeout": 60.0,
        "made_at": "today",
    }
    return Order(**{**given, **changes})


def reclaim(lab: RunningLab) -> None:
    """As the playbooks do after a switch: RQ leaves a task behind when a worker is stopped between taking and beginning it."""
    redrive(open_backend("rq", {"url": lab.state["redis_url"]}), RedriveRequest("mail", None, "abandoned"))


def test_a_bad_version_goes_out_and_comes_back_and_nothing_is_lost(bring_up: Callable[..., RunningLab]) -> None:
    lab = bring_up()
    measurement = Measurement(lab.state, "mail", [])
    events: list[dict[str, Any]] = []

    def event(what: str, on: str | None = None, **data: Any) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        events.append({"kind": what, "at": at, "host": on, "operation": "op", "reason": None, "data": data})

    event("operation_opened", kind="deploy", target=1, version="1.0.0")
    for host in ("worker1", "worker2"):
        lab.activate(host, "1.0.0")
        event("host_switched", host, release=1)
    wait_for(lambda: {row.host for row in measurement.rows()} == {"worker1", "worker2"}, what="tasks of both hosts")
    assert measurement.running() == {"worker1": {"1.0.0": 1}, "worker2": {"1.0.0": 1}}

    event("operation_opened", kind="deploy", target=2, version="2.0.0")
    lab.activate("worker1", "2.0.0")
    reclaim(lab)
    event("host_switched", "worker1", release=2)
    wait_for(lambda: len(measurement.failed()) >= 3, what="failing tasks")
    wait_for(lambda: [row for row in measurement.rows() if row.version == "2.0.0"], what="tasks that the bad version completes")
    assert measurement.running()["worker1"] == {"2.0.0": 1}
    numbers = measurement.published()
    failed = {numbers[job] for job in measurement.failed()}
    assert all(number % 3 == 0 for number in failed)
    # They failed before they did anything.
    assert not failed & {row.number for row in measurement.rows()}
    assert {row.setting.split("|")[0] for row in measurement.rows() if row.version == "2.0.0"} == {"release-2@mailer.example"}
    event("gate_verdict", verdict="fail")

    event("rollback_ordered", target=1)
    lab.activate("worker1", "1.0.0")
    reclaim(lab)
    event("host_reverted", "worker1", release=1)

    # Measured too early: the tasks that release 2 failed still stand as failed, and the drill must not pass.
    early = conclude(order_for(lab, events), look_only=True)["summary"]
    assert early["verdict"] == "failed"
    assert early["failed_by_rule"] >= 3
    assert any("still stand as failed" in reason for reason in early["reasons"])
    assert not (lab.folder / "summary.json").exists()

    registry = FailedJobRegistry("mail", connection=lab.redis)
    for job in registry.get_job_ids(cleanup=False):
        registry.requeue(job)
    event("tasks_redriven", moved=len(failed))
    result = conclude(order_for(lab, events))
    summary = result["summary"]
    assert summary["reasons"] == []
    assert summary["verdict"] == "passed"
    assert summary["published"] == summary["completed"] >= 60
    assert (summary["lost"], summary["duplicated"], summary["waiting"], summary["failed_by_rule"], summary["parked"]) == (0, 0, 0, 0, 0)
    assert summary["time_to_detect_s"] > 0
    assert summary["time_to_decide_s"] >= 0
    assert summary["time_to_revert_s"] > 0
    assert json.loads((lab.folder / "summary.json").read_text()) == summary
    page = (lab.folder / "report.html").read_text()
    assert "Passed" in page
    assert "all hosts back" in page

    # One byte more in one config file of one host, and it does not pass.
    path = next(iter(order_for(lab, events).config["worker2"]))
    with open(path, "a", encoding="utf-8") as handle:
        handle.write("\n")
    spoilt = conclude(order_for(lab, events), look_only=True)["summary"]
    assert spoilt["config_same"] == {"worker1": True, "worker2": False}
    assert any(path in reason for reason in spoilt["reasons"])


def test_some_tasks_are_slow_and_the_producer_reaches_its_number_quickly(bring_up: Callable[..., RunningLab]) -> None:
    lab = bring_up(tasks=200)
    measurement = Measurement(lab.state, "mail", [])
    for host in ("worker1", "worker2"):
        lab.activate(host, "1.0.0")
    wait_for(lambda: len(measurement.published()) >= 20, what="20 published tasks")
    assert measurement.settle(60.0) is True
    works = [float(line.split("\t")[2]) for line in (lab.folder / "published.tsv").read_text().splitlines()]
    assert len(works) >= 200
    assert max(works[:20]) >= 1.0
    kept = measurement.conservation()
    assert (kept.published, kept.lost, kept.duplicated) == (len(works), 0, 0)
    assert kept.completed == kept.published
