# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A new task type that always fails and is always tried again, beside the others and isolated from them: Celery on RabbitMQ."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from lab import SECRET, WORKERS, Lab, depths, module, on, tell, wait_until

TASK, OWN = "parcel.survey", "parcel-survey"
SURVEYS = 40
#: Of the others each twenty-fifth is refused, so that in each window there are as many.
WINDOW = 150

ISOLATE = {
    "backend": "celery",
    "url": "amqp://broker:5672/",
    "username": "parcel",
    "password": SECRET,
    "route": "parcel",
    "task": TASK,
    "queue": OWN,
}


@dataclass(frozen=True)
class Figures:
    """How the others fared in a window.

    :ivar latency: median of the seconds from publishing to the end.
    :ivar failed: share of them that failed.
    :ivar failed_there: share of all tasks that failed with the version's own workers meanwhile.
    """

    latency: float
    failed: float
    failed_there: float

    def __str__(self) -> str:
        return f"{self.latency * 1000:.0f} ms, {self.failed:.1%} failed ({self.failed_there:.0%} of all in the version's queue)"


def surveys() -> list[tuple[str, float]]:
    """Each try of the new type: the worker that failed it, and when."""
    rows = []
    for host in WORKERS:
        for line in on(host, "cat /var/lib/mailer/survey.tsv 2>/dev/null", check=False).splitlines():
            _number, worker, at = line.split("\t")
            rows.append((worker, float(at)))
    return rows


def surveys_there(since: float) -> int:
    """How many tries the version's own workers have failed since then."""
    return sum(worker.startswith("parcel-") and at >= since for worker, at in surveys())


def window(lab: Lab) -> Figures:
    """The others that are published from now on."""
    first, begun = max(lab.published(), default=0) + 1, time.time()
    numbers = set(range(first, first + WINDOW))
    wait_until(lambda: numbers <= {row.number for row in lab.done()}, "the end of the tasks of a window", every=2.0)
    rows = [row for row in lab.done() if row.number in numbers]
    assert len(rows) == WINDOW
    refused = sum(row.more[0] == "refused" for row in rows)
    new = surveys_there(begun)
    return Figures(statistics.median(row.at - float(row.more[1]) for row in rows), refused / WINDOW, (refused + new) / (WINDOW + new))


@pytest.fixture
def own_worker() -> Iterator[None]:
    """A worker that listens to the new type's own queue."""
    worker = f"/opt/rq/bin/celery -A parcel worker --concurrency=1 -Q {OWN} -n survey@worker3 --without-gossip --without-mingle"
    settings = "--uid=mailer --working-directory=/opt/parcel/current -E PARCEL_CONFIG=/etc/parcel/parcel.json"
    on("worker3", f"systemd-run --quiet --unit=survey {settings} {worker} --loglevel=WARNING")
    wait_until(lambda: OWN in depths(), "the worker to have declared its queue")
    yield
    end_of_the_surveys()


def end_of_the_surveys() -> None:
    """Nobody tries them any more."""
    on("worker3", "systemctl stop survey", check=False)
    on("broker", f"rabbitmqctl --quiet purge_queue {OWN}")


@pytest.mark.usefixtures("own_worker")
def test_the_others_do_not_notice_a_type_that_always_fails_once_it_is_isolated(parcel: Lab) -> None:
    parcel.publish()
    wait_until(lambda: len(parcel.done()) > 0, "the first tasks")
    alone = window(parcel)

    url = "amqp://guest:guest@localhost:5672//"
    on("broker", f"/opt/rq/bin/python /opt/producer/parcel_producer.py {url} --surveys {SURVEYS}")
    begun = time.time()
    wait_until(lambda: surveys_there(begun) > 10, "some tries of the new type")
    beside = window(parcel)

    told = module("broker", "queue_isolate", {**ISOLATE, "state": "isolated"})["broker"]
    assert told["changed"] and not told["routed"]
    # What the workers had in hand then is tried again in its own queue; what the others had waited for is worked off.
    wait_until(lambda: surveys_there(time.time() - 3) == 0, "the last try by the version's own workers")
    wait_until(lambda: len(parcel.published()) - len(parcel.done()) < 5, "the others to be worked off")
    begun = time.time()
    apart = window(parcel)
    assert surveys_there(begun) == 0
    assert sum(worker.startswith("survey@") and at > begun for worker, at in surveys()) > 0
    moved = sum(told["moved"].values())
    tell(f"the others alone: {alone}; beside it: {beside}; with it apart: {apart}; {moved} of it were moved at once")
    assert beside.latency > 5 * max(alone.latency, apart.latency)
    assert apart.latency < 3 * alone.latency
    assert alone.failed == beside.failed == apart.failed == 0.04
    assert alone.failed_there == apart.failed_there == 0.04 and beside.failed_there > 5 * 0.04
    end_of_the_surveys()
    parcel.check_tasks()
