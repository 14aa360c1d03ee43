# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publish numbered parcels to the route, with confirms, at a steady rate until told to stop, and write down what became of each.

``parcel_producer.py URL RATE LEDGER``; with ``--surveys COUNT`` so many surveys at once instead.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from celery import Celery

ROUTE = "parcel"


class Publisher:
    """Publishes as the application does, but for the exchange. What the broker cannot route comes back.

    :ivar returned: how many did.
    """

    def __init__(self, url: str) -> None:
        self._app = Celery("parcel", broker=url)
        self._app.conf.broker_transport_options = {"confirm_publish": True}
        self.returned = 0
        self._producer = self._app.amqp.Producer(self._app.connection_for_write(), auto_declare=False, on_return=self._came_back)

    def _came_back(self, *_told: Any) -> None:
        self.returned += 1

    def send(self, task: str, arguments: tuple[Any, ...], task_id: str | None = None) -> None:
        """Return when the broker has confirmed it. Raises whatever the client library does when it has not."""
        self._app.send_task(
            task,
            arguments,
            task_id=task_id,
            producer=self._producer,
            exchange=ROUTE,
            routing_key=ROUTE,
            # The queues are the workers' business.
            declare=[],
            mandatory=True,
            retry=False,
        )


def main(url: str, rate: str, ledger: str) -> int:
    """Publish ``rate`` parcels a second; go on counting where an earlier run stopped."""
    if rate == "--surveys":
        publisher = Publisher(url)
        for number in range(int(ledger)):
            publisher.send("parcel.survey", (number,))
        return publisher.returned
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    path = Path(ledger)
    number = len(path.read_text(encoding="ascii").splitlines()) if path.exists() else 0
    publisher = Publisher(url)
    with path.open("a", encoding="ascii", buffering=1) as published:
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            number += 1
            came_back = publisher.returned
            sent = time.time()
            publisher.send("parcel.deliver", (number, 0.01, sent), task_id=f"parcel-{number:06d}")
            outcome = "routed" if publisher.returned == came_back else "returned"
            published.write(f"{number}\t{outcome}\t{sent:.3f}\n")
            due = max(due + 1.0 / float(rate), time.monotonic() - 1.0)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
