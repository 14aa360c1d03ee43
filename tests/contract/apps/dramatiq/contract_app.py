# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tasks of the contract tests as actors of one queue, on Redis or RabbitMQ. Everything comes by environment."""

from __future__ import annotations

import os
import time
from typing import Any
from urllib.parse import quote

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker

URL = os.environ["QUEUEOPS_URL"]
QUEUE = os.environ["QUEUEOPS_QUEUE"]

# What the guide tells applications to do, so that a worker can be told from the others.
NAME = "mailer@%s:worker1:%d" % (os.environ["QUEUEOPS_VERSION"], os.getpid())
maker: Any = RedisBroker
broker: Any
if URL.startswith("amqp"):
    broker = RabbitmqBroker(url="%s?client_properties=%s" % (URL, quote(repr({"connection_name": NAME}))))
else:
    broker = maker(url=URL)
    broker.broker_id = NAME
dramatiq.set_broker(broker)


def note(task: str) -> None:
    descriptor = os.open(os.environ["QUEUEOPS_LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, ("%s\n" % task).encode())
    os.close(descriptor)


def hold(task: str) -> None:
    while not os.path.exists(os.environ["QUEUEOPS_GATE"]):
        time.sleep(0.02)
    note(task)


def fail(task: str) -> None:
    raise ValueError("no good")


def flaky(task: str) -> None:
    if os.path.exists(os.environ["QUEUEOPS_BROKEN"]):
        fail(task)
    note(task)


for function in (note, hold, fail, flaky):
    # One more attempt, at once: an error is recorded in the message from the second attempt on.
    dramatiq.actor(queue_name=QUEUE, max_retries=1, min_backoff=1, max_backoff=1)(function)
