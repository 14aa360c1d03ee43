# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A redrive of RQ's tasks by a user of the broker that may not run every command of it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveRequest, Rule

from .conftest import Broker
from .test_redis_connection import redis_major


def places(client: Any) -> set[str]:
    found = client.lrange("rq:queue:mail", 0, -1)
    for key in ("rq:failed:mail", "queueops:parked:rq:mail"):
        found += client.zrange(key, 0, -1)
    return {task.decode() for task in found}


@pytest.mark.parametrize("rule", [Rule(), Rule(Match(task="tasks.*")), Rule(action="park")])
@pytest.mark.parametrize("denied", ["hset", "persist", "sadd", "rpush", "zadd", "zrem", "zremrangebyrank"])
def test_a_user_that_may_not_do_all_of_it_changes_nothing(broker: Broker, rule: Rule, denied: str) -> None:
    ids = broker.fail(3)
    before = broker.snapshot()
    client: Any = broker.client
    client.acl_setuser("few", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=["+@all", "-" + denied])
    few = broker.backend(username="few", password="pw")
    refused = None
    try:
        engine.redrive(few, RedriveRequest("mail", rules=(rule,)))
    except Refused as error:
        refused = error
    finally:
        client.acl_deluser("few")
    assert places(client) == set(ids)
    if redis_major() >= 7:
        # From then on a script can ask beforehand.
        assert refused is not None and refused.option == "username" and denied in refused.sentence()
        assert broker.snapshot() == before


def test_a_user_of_rqs_keys_and_ours_is_enough(broker: Broker) -> None:
    broker.fail(3)
    client: Any = broker.client
    client.acl_setuser("few", enabled=True, passwords=["+pw"], keys=["rq:*", "queueops:*"], commands=["+@all"])
    try:
        few = broker.backend(username="few", password="pw")
        assert engine.redrive(few, RedriveRequest("mail", rules=(Rule(action="park"),))).moved == 3
        assert engine.redrive(few, RedriveRequest("mail", source="parked")).moved == 3
    finally:
        client.acl_deluser("few")
