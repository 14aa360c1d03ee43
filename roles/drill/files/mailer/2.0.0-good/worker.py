# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start one real RQ worker. Its name carries the version and the host, because RQ's own ``version`` field is RQ's."""

from __future__ import annotations

import logging
import os

import redis
import tasks  # loaded before the fork, so a worker runs the code it was started with, and only that
from rq import Queue, Worker

logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)

connection = redis.Redis.from_url(tasks.CONFIG["mailer"]["redis"])
queue = Queue(tasks.CONFIG["mailer"]["queue"], connection=connection)
name = f"mailer@{tasks.VERSION}:{tasks.HOST}:{os.environ['MAILER_INSTANCE']}"
Worker([queue], name=name, connection=connection, log_job_description=False).work(with_scheduler=False, logging_level="WARNING")
