# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Celery application of the contract tests. Folders and broker come by environment."""

from __future__ import annotations

import os
import time
from typing import Any

from celery import Celery
from celery.exceptions import Reject
from kombu.entity import Exchange, Queue

app: Any = Celery("contract", broker=os.environ.get("QUEUEOPS_URL"), backend=os.environ.get("QUEUEOPS_RESULTS") or None)
app.conf.update(
    result_extended=True,
    task_acks_late=os.environ.get("QUEUEOPS_LATE", "1") == "1",
    task_reject_on_worker_lost=True,
    task_acks_on_failure_or_timeout=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    result_serializer="json",
)
if os.environ.get("QUEUEOPS_REJECT"):
    name = os.environ["QUEUEOPS_QUEUE"]
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": name + ".dead"}
    app.conf.task_queues = [Queue(name, Exchange(name), routing_key=name, queue_arguments=dead)]


def write(task: str) -> None:
    descriptor = os.open(os.environ["QUEUEOPS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, ("%s\n" % task).encode())
    os.close(descriptor)


def fails(problem: ValueError) -> None:
    """As an application does that has its failed tasks dead-lettered by RabbitMQ."""
    if os.environ.get("QUEUEOPS_REJECT"):
        raise Reject(problem, requeue=False)
    raise problem


def note(self: Any, *_values: Any, **_named: Any) -> None:
    write(self.request.id)


def hold(self: Any, *_values: Any, **_named: Any) -> None:
    while not os.path.exists(os.environ["QUEUEOPS_GATE"]):
        time.sleep(0.02)
    write(self.request.id)


def fail(self: Any, *_values: Any, **_named: Any) -> None:
    fails(ValueError("no good"))


def flaky(self: Any, *_values: Any, **_named: Any) -> None:
    if os.path.exists(os.environ["QUEUEOPS_BROKEN"]):
        fails(ValueError("no good"))
    write(self.request.id)


for task in (note, hold, fail, flaky):
    app.task(task, name="contract." + task.__name__, bind=True)
