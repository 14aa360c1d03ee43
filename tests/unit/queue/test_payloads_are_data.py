# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A payload that would do harm when it is unpickled goes through look, match, park and redrive untouched and unexecuted."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import rq
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveReport, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redrive import redrive
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend
from dramatiq.brokers.redis import RedisBroker
from dramatiq.encoder import PickleEncoder
from rq.job_lifecycle import record_job_failure

from tests.unit.conftest import RedisServer


class Bomb:
    """When its pickle is loaded, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def rq_failed(client: Any, bomb: Bomb) -> bytes:
    queue = rq.Queue("mail", connection=client)
    job = queue.enqueue("tasks.note")
    job.started_at = job.ended_at = rq.utils.now()
    pipe = client.pipeline()
    record_job_failure(job, "Traceback\nValueError: no good\n", pipe)
    pipe.lrem(queue.key, 1, job.id)
    pipe.execute()
    data = zlib.compress(pickle.dumps(bomb))
    client.hset(job.key, "data", data)
    return data


def list_failed(client: Any, bomb: Bomb) -> bytes:
    data = pickle.dumps(bomb)
    client.rpush("mail:failed", data)
    return data


def list_queued(client: Any, bomb: Bomb) -> bytes:
    data = pickle.dumps(bomb)
    client.rpush("mail", data)
    return data


def dramatiq_message(bomb: Bomb) -> bytes:
    return PickleEncoder().encode({"queue_name": "mail", "actor_name": "work", "args": (bomb,), "message_id": "m1", "options": {"x": bomb}})


def dramatiq_failed(client: Any, bomb: Bomb) -> bytes:
    maker: Any = RedisBroker
    broker = maker(client=client, middleware=[], maintenance_chance=0)
    data = dramatiq_message(bomb)
    broker.do_enqueue("mail", "k1", data)
    broker.do_fetch("mail", 1)
    broker.do_nack("mail", "k1")
    return data


def dramatiq_queued(client: Any, bomb: Bomb) -> bytes:
    maker: Any = RedisBroker
    data = dramatiq_message(bomb)
    maker(client=client, middleware=[], maintenance_chance=0).do_enqueue("mail", "k1", data)
    return data


def celery_queued(client: Any, bomb: Bomb) -> bytes:
    body = base64.b64encode(pickle.dumps(bomb))
    properties = {
        "correlation_id": "t1",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "mail"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "d1",
    }
    message = {
        "body": body.decode(),
        "content-encoding": "binary",
        "content-type": "application/x-python-serialize",
        "headers": {"lang": "py", "task": "contract.note", "id": "t1", "root_id": "t1", "retries": 0},
        "properties": properties,
    }
    client.sadd("_kombu.binding.mail", "mail\x06\x16\x06\x16mail")
    client.lpush("mail", json.dumps(message))
    return body


Put = Callable[[Any, Bomb], bytes]
CASES: dict[str, tuple[str, str, Put]] = {
    "rq": ("rq", "failed", rq_failed),
    "redis_list": ("redis_list", "failed", list_failed),
    "redis_list-queued": ("redis_list", "queued", list_queued),
    "dramatiq": ("dramatiq", "failed", dramatiq_failed),
    "dramatiq-queued": ("dramatiq", "queued", dramatiq_queued),
    "celery-queued": ("celery", "queued", celery_queued),
}


def values(client: Any) -> list[bytes]:
    """Every value in the database."""
    found: list[bytes] = []
    for key in client.scan_iter(count=1000):
        kind = client.type(key).decode()
        if kind == "string":
            found.append(client.get(key))
        elif kind == "list":
            found += client.lrange(key, 0, -1)
        elif kind == "hash":
            found += client.hvals(key)
        elif kind == "zset":
            found += client.zrange(key, 0, -1)
        elif kind == "set":
            found += client.smembers(key)
    return found


@pytest.mark.parametrize("case", sorted(CASES))
def test_a_pickle_is_carried_and_not_loaded(case: str, redis_server: RedisServer, tmp_path: Path) -> None:
    backend, source, put = CASES[case]
    mark = tmp_path / "executed"
    bomb = Bomb(mark)
    PickleEncoder().decode(pickle.dumps(bomb))
    assert mark.exists(), "it does no harm, and would prove nothing"
    mark.unlink()
    client = redis.Redis.from_url(redis_server.url)
    data = put(client, bomb)

    def untouched() -> None:
        assert not mark.exists(), "the payload was executed"
        assert sum(data in value for value in values(client)) == 1, "the payload was changed, lost or doubled"

    def redriven(*rules: Rule, source: str = source, check: bool = False) -> RedriveReport:
        opened = open_backend(backend, {"url": redis_server.url})
        report = redrive(opened, RedriveRequest("mail", source=source, rules=rules or (Rule(),)), check)
        untouched()
        return report

    look = open_backend(backend, {"url": redis_server.url}).look(["mail"])
    untouched()
    assert (look.queues[0].queued or 0) + (look.queues[0].failed or 0) == 1
    able = open_backend(backend, {"url": redis_server.url}).capabilities.match
    asked = {"task": "x*", "error": "x", "version": "9", "header": {"x": "1"}, "field": {"args.0": "1"}, "ids": ("x",), "older_than": 9e9}
    for name in sorted(set(asked) & set(able)):
        conditions: dict[str, Any] = {name: asked[name]}
        for check in (True, False):
            assert redriven(Rule(Match(**conditions), "park"), check=check).moved == 0
    assert redriven(Rule(action="park")).moved == 1
    assert redriven(source="parked", check=True).matched == 1
    assert redriven(source="parked").moved == 1
    assert open_backend(backend, {"url": redis_server.url}).look(["mail"]).queues[0].queued == 1
    untouched()
    client.close()
