# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start one real RQ worker. One of version 2 is stuck, and takes no task, as long as its host is held."""

from __future__ import annotations

import os
import time
from pathlib import Path

import redis
import tasks
from rq import Queue, Worker

while tasks.VERSION != "1.0.0" and Path("/var/lib/held").exists():
    time.sleep(0.1)

connection = redis.Redis(host="broker")
name = f"letters@{tasks.VERSION}:{os.uname().nodename}:{os.environ['LETTERS_INSTANCE']}"
Worker([Queue("letters", connection=connection)], name=name, connection=connection).work(logging_level="WARNING")
