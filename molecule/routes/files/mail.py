# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the applications of docs/routing.md do with a mail: note which version did it, in Redis.

The first try of a flaky customer's waits until the tasks were divided anew, and then fails.
"""

from __future__ import annotations

import os

from redis import Redis

URL = os.environ["URL"]
# A first try waits for longer than the five seconds after which the client gives up by itself.
redis = Redis.from_url(os.environ["REDIS"], socket_timeout=None)


def deliver(what: str, customer: str) -> None:
    tries = redis.hincrby("tries", f"{what} {customer}", 1)
    if customer.startswith("flaky") and what == "send" and tries == 1:
        redis.rpush("begun", customer)
        redis.blpop(["divided"], 600)
        raise RuntimeError("the mail server is away")
    redis.rpush("done", f"{what} {customer} {os.environ['VERSION']}")
