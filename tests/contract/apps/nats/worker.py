# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker as applications on JetStream are written: pulls one task at a time, dead-letters what raises, acknowledges the rest.

Run as ``python worker.py <stream> <consumer> <name>``; URL and files come by environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from contextlib import suppress
from typing import Any

import nats
import nats.errors

ENCODING = "utf-8"


def dead_subject(subject: str) -> str:
    """Where this application dead-letters a task of ``subject``."""
    return "dlq." + subject


def dead_headers(headers: dict[str, str], subject: str, worker: str, error: str) -> dict[str, str]:
    """The headers of a dead letter: those of the task, where it came from, who failed and why."""
    return {**headers, "x-queueops-origin": subject, "x-queueops-worker": worker, "x-queueops-error": error}


def new_task(kind: str) -> tuple[str, bytes, dict[str, str]]:
    """Id, payload and headers of a task."""
    task = str(uuid.uuid4())
    return task, json.dumps({"id": task, "kind": kind, "customer": {"country": "NO"}}).encode(ENCODING), {"Nats-Msg-Id": task}


def work(kind: str, task: str) -> None:
    """What the four kinds of tasks do."""
    if kind == "fail" or (kind == "flaky" and os.path.exists(os.environ["QUEUEOPS_BROKEN"])):
        raise ValueError("no good")
    while kind == "hold" and not os.path.exists(os.environ["QUEUEOPS_GATE"]):
        time.sleep(0.02)
    ledger = os.open(os.environ["QUEUEOPS_LEDGER"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(ledger, (task + "\n").encode(ENCODING))
    os.close(ledger)


async def main(stream: str, consumer: str, name: str) -> None:
    connection = await nats.connect(os.environ["QUEUEOPS_URL"], name=name)
    jetstream = connection.jetstream()
    pull = await jetstream.pull_subscribe_bind(consumer, stream)
    loop = asyncio.get_running_loop()
    while True:
        message: Any = None
        with suppress(nats.errors.TimeoutError):
            (message,) = await pull.fetch(1, timeout=5)
        if message is None:
            continue
        told = json.loads(message.data)
        try:
            await loop.run_in_executor(None, work, told["kind"], told["id"])
        except ValueError as problem:
            headers = dead_headers(message.headers or {}, message.subject, name, "%s: %s" % (type(problem).__name__, problem))
            await jetstream.publish(dead_subject(message.subject), message.data, headers=headers)
        await message.ack_sync()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
