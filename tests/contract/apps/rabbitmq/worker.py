# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain worker on RabbitMQ: one task at a time, acknowledged when it is done, rejected when it fails.

Arguments: the broker's host:port, the queue, the version, the folder of the test.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import amqp

where, queue, version, folder = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
name = "contract@%s:%s:%d" % (version, socket.gethostname(), os.getpid())
stopping: list[bool] = []
signal.signal(signal.SIGTERM, lambda *_arguments: stopping.append(True))


def work(task: dict[str, str]) -> None:
    kind = task["kind"]
    if kind == "fail" or (kind == "flaky" and (folder / "broken").exists()):
        raise ValueError("no good")
    while kind == "hold" and not (folder / "gate").exists():
        time.sleep(0.02)
    ledger = os.open(folder / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(ledger, (task["id"] + "\n").encode())
    os.close(ledger)


def take(message: Any) -> None:
    try:
        work(json.loads(message.body))
    except ValueError:
        channel.basic_reject(message.delivery_tag, requeue=False)
    else:
        channel.basic_ack(message.delivery_tag)


connection = amqp.Connection(where, connect_timeout=10, read_timeout=30, client_properties={"connection_name": name, "pid": os.getpid()})
connection.connect()
channel = connection.channel()
channel.basic_qos(0, 1, False)
channel.basic_consume(queue, consumer_tag=name, callback=take)
while not stopping:
    try:
        connection.drain_events(timeout=0.2)
    except TimeoutError:
        continue
connection.close()
