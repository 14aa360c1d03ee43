# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publish tasks as a producer does that knows version 2: numbers from FIRST on, COUNT of them, every tenth one a sheet.

``publish.py letters|labels FIRST COUNT``; the other code of version 2 is beside it.
"""

from __future__ import annotations

import sys


def letters(first: int, count: int) -> None:
    import redis
    import tasks
    from rq import Queue

    queue = Queue("letters", connection=redis.Redis())
    prepared = []
    for number in range(first, first + count):
        function, argument = (tasks.sheet, tasks.Sheet(number)) if number % 10 == 0 else (tasks.note, number)
        prepared.append(Queue.prepare_data(function, args=(argument,)))
    queue.enqueue_many(prepared)


def labels(first: int, count: int) -> None:
    from celery import Celery

    app = Celery("labels", broker="redis://localhost:6379/1")
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        for number in range(first, first + count):
            name = "labels.sheet" if number % 10 == 0 else "labels.note"
            app.send_task(name, (number,), queue="labels", producer=producer)


if __name__ == "__main__":
    {"letters": letters, "labels": labels}[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))
