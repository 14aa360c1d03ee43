# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that refuses one command in the middle of a script, as it does for a user with few rights: a task may then be in two places.

It may not be in none: a script is not undone by the server when it breaks off.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.celery_message import new_envelope
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

from tests.unit.conftest import RedisServer
from tests.unit.queue.test_redis_connection import start

# A fixture.
__all__ = ["start"]

IDS = ["%024x" % number for number in range(1, 5)]
#: What scripts write with.
WRITES = [
    *("lpush", "rpush", "lset", "lrem", "ltrim", "zadd", "zrem", "sadd", "srem", "hset", "hdel"),
    *("hincrby", "set", "del", "expire", "select", "xadd", "xdel", "xack"),
]


# Sidekiq


def sidekiq_task(jid: str) -> str:
    return (
        '{"retry":true,"queue":"mail","class":"Note","args":[1],"jid":"%s","created_at":1700000000.25,"enqueued_at":1700000001.5,'
        '"error_message":"no good","error_class":"ValueError","failed_at":1700000002.125,"retry_count":3}' % jid
    )


def sidekiq_set(key: str) -> Callable[[Any], None]:
    def fill(client: Any) -> None:
        client.sadd("queues", "mail", "other")
        client.zadd(key, {sidekiq_task(jid): 1000 + number for number, jid in enumerate(IDS)})

    return fill


def sidekiq_queued(client: Any) -> None:
    client.sadd("queues", "mail", "other")
    client.lpush("queue:mail", *map(sidekiq_task, IDS))


def sidekiq_places(client: Any) -> list[str]:
    entries = client.lrange("queue:mail", 0, -1) + client.lrange("queue:other", 0, -1)
    for key in ("retry", "dead", "queueops:parked:mail"):
        entries += client.zrange(key, 0, -1)
    return [json.loads(entry)["jid"] for entry in entries if entry.startswith(b"{")]


# Dramatiq


def dramatiq_message(task: str) -> str:
    return (
        '{"queue_name":"mail","actor_name":"work","args":[1],"kwargs":{},"options":{"redis_message_id":"%s","retries":3},'
        '"message_id":"%s","message_timestamp":1700000000000}' % (task, task)
    )


def dramatiq_fill(kind: str) -> Callable[[Any], None]:
    def fill(client: Any) -> None:
        key = {"failed": "dramatiq:mail.XQ", "queued": "dramatiq:mail", "abandoned": "dramatiq:__acks__.w1.mail"}[kind]
        messages = "dramatiq:mail.msgs" if kind == "abandoned" else key + ".msgs"
        client.hset(messages, mapping={task: dramatiq_message(task) for task in IDS})
        if kind == "failed":
            client.zadd(key, {task: 1700000000000 + number for number, task in enumerate(IDS)})
        elif kind == "queued":
            client.rpush(key, *IDS)
        else:
            client.sadd(key, *IDS)
            client.zadd("dramatiq:__heartbeats__", {"w1": 1})

    return fill


def dramatiq_places(client: Any) -> list[str]:
    """An entry without its message is no task."""
    found = []
    for messages, entries in (
        ("dramatiq:mail.msgs", client.lrange("dramatiq:mail", 0, -1)),
        ("dramatiq:other.msgs", client.lrange("dramatiq:other", 0, -1)),
        ("dramatiq:mail.XQ.msgs", client.zrange("dramatiq:mail.XQ", 0, -1)),
        ("queueops:parked:dramatiq:mail.msgs", client.zrange("queueops:parked:dramatiq:mail", 0, -1)),
        ("dramatiq:mail.msgs", client.smembers("dramatiq:__acks__.w1.mail")),
    ):
        found += [entry.decode() for entry in entries if client.hexists(messages, entry)]
    return found


# Celery


def celery_message(task: str) -> str:
    return json.dumps(new_envelope([[1], {}, {}], {"id": task, "task": "app.note", "lang": "py"}, "", "mail", correlation_id=task))


def celery_fill(kind: str) -> Callable[[Any], None]:
    def fill(client: Any) -> None:
        for queue in ("mail", "other"):
            client.sadd("_kombu.binding." + queue, "%s\x06\x16\x06\x16%s" % (queue, queue))
        for number, task in enumerate(IDS):
            if kind == "queued":
                client.lpush("mail", celery_message(task))
            elif kind == "executing":
                client.hset("unacked", task, '[%s, "", "mail"]' % celery_message(task))
                client.zadd("unacked_index", {task: 1000 + number})
            else:
                meta = {"status": "FAILURE", "name": "app.note", "args": [1], "kwargs": {}, "queue": "mail", "task_id": task}
                client.set("celery-task-meta-" + task, json.dumps(meta))

    return fill


def celery_places(client: Any) -> list[str]:
    entries = [json.loads(entry)[0] for entry in client.hvals("unacked")]
    for key in ("mail", "other", "queueops:parked:mail"):
        entries += [json.loads(entry) for entry in client.lrange(key, 0, -1) if entry.startswith(b"{")]
    found = [str(entry["headers"]["id"]) for entry in entries]
    for key in client.scan_iter(match="celery-task-meta-*", count=1000):
        meta = json.loads(client.get(key))
        found += [meta["task_id"]] if meta["status"] == "FAILURE" and "queueops_moved" not in meta else []
    return found


# Plain lists and streams


def list_fill(key: str) -> Callable[[Any], None]:
    return lambda client: client.rpush(key, *('{"id": "%s"}' % task for task in IDS))


def list_places(client: Any) -> list[str]:
    keys = ("mail", "other", "mail:failed", "queueops:parked:list:mail")
    entries = [entry for key in keys for entry in client.lrange(key, 0, -1)]
    return [json.loads(entry)["id"] for entry in entries if entry.startswith(b"{")]


def stream_fill(kind: str) -> Callable[[Any], None]:
    def fill(client: Any) -> None:
        client.xgroup_create("mail", "workers", "0", mkstream=True)
        for task in IDS:
            client.xadd("mail" if kind == "executing" else "mail:failed", {"task": task})
        if kind == "executing":
            client.xreadgroup("workers", "w1", {"mail": ">"}, count=10)

    return fill


def stream_places(client: Any) -> list[str]:
    keys = ("mail", "mail:failed", "queueops:parked:stream:mail")
    return [fields[b"task"].decode() for key in keys for _entry, fields in client.xrange(key)]


@dataclass(frozen=True)
class Case:
    backend: str
    source: str
    rule: Rule
    fill: Callable[[Any], None]
    places: Callable[[Any], list[str]]
    settings: tuple[tuple[str, Any], ...] = ()


#: Chosen one by one rather than swept.
EACH = Match(task="*")
OTHER = Rule(destination="other")
CASES = {
    "sidekiq sweeps": Case("sidekiq", "dead_lettered", Rule(), sidekiq_set("dead"), sidekiq_places),
    "sidekiq chooses": Case("sidekiq", "failed", Rule(EACH), sidekiq_set("retry"), sidekiq_places),
    "sidekiq fails": Case("sidekiq", "failed", Rule(action="fail"), sidekiq_set("retry"), sidekiq_places),
    "sidekiq parks": Case("sidekiq", "dead_lettered", Rule(EACH, "park"), sidekiq_set("dead"), sidekiq_places),
    "sidekiq empties a queue": Case("sidekiq", "queued", OTHER, sidekiq_queued, sidekiq_places),
    "dramatiq sweeps": Case("dramatiq", "failed", Rule(), dramatiq_fill("failed"), dramatiq_places),
    "dramatiq chooses": Case("dramatiq", "failed", Rule(EACH), dramatiq_fill("failed"), dramatiq_places),
    "dramatiq parks": Case("dramatiq", "queued", Rule(action="park"), dramatiq_fill("queued"), dramatiq_places),
    "dramatiq empties a queue": Case("dramatiq", "queued", OTHER, dramatiq_fill("queued"), dramatiq_places),
    "dramatiq's abandoned": Case("dramatiq", "abandoned", Rule(), dramatiq_fill("abandoned"), dramatiq_places),
    "celery parks": Case("celery", "queued", Rule(action="park"), celery_fill("queued"), celery_places),
    "celery empties a queue": Case("celery", "queued", OTHER, celery_fill("queued"), celery_places),
    "celery fails": Case("celery", "queued", Rule(action="fail"), celery_fill("queued"), celery_places),
    "celery's unacknowledged": Case("celery", "executing", Rule(), celery_fill("executing"), celery_places),
    "celery fails what executes": Case("celery", "executing", Rule(action="fail"), celery_fill("executing"), celery_places),
    "celery's failed": Case("celery", "failed", Rule(), celery_fill("failed"), celery_places),
    "celery parks the failed": Case("celery", "failed", Rule(action="park"), celery_fill("failed"), celery_places),
    "lists unread": Case("redis_list", "failed", Rule(), list_fill("mail:failed"), list_places),
    "lists by identity": Case("redis_list", "failed", Rule(), list_fill("mail:failed"), list_places, (("id_field", "id"),)),
    "lists by rules": Case("redis_list", "queued", Rule(Match(field={"id": IDS[1]}), "park"), list_fill("mail"), list_places),
    "streams": Case("redis_stream", "failed", Rule(), stream_fill("failed"), stream_places),
    "streams' pending": Case("redis_stream", "executing", Rule(action="park"), stream_fill("executing"), stream_places),
}


@pytest.fixture
def admin(redis_server: RedisServer) -> Iterator[Any]:
    client = redis.Redis.from_url(redis_server.url)
    yield client
    client.acl_deluser("few")
    client.close()


@pytest.mark.parametrize("name", CASES)
def test_a_script_that_is_refused_a_command_leaves_every_task_somewhere(admin: Any, redis_server: RedisServer, name: str) -> None:
    case = CASES[name]
    run = None if case.backend == "redis_list" and not case.settings else "r1"
    refused = []
    for denied in WRITES:
        admin.flushall()
        case.fill(admin)
        assert Counter(case.places(admin)) == Counter(IDS)
        admin.acl_setuser("few", enabled=True, passwords=["+pw"], keys=["*"], channels=["*"], commands=["+@all", "-" + denied])
        settings = {"url": redis_server.url, **dict(case.settings)}
        request = RedriveRequest("mail", run=run, source=case.source, rules=(case.rule,))
        try:
            engine.redrive(open_backend(case.backend, {**settings, "username": "few", "password": "pw"}), request)
        except FleetError as error:
            refused.append(denied)
            assert isinstance(error, Refused) and error.option == "username", "%s: %s" % (denied, error.sentence())
        places = Counter(case.places(admin))
        assert set(places) == set(IDS), "without %s: %s" % (denied, places)
        if denied in refused:
            # Somebody grants it, and the run goes on.
            engine.redrive(open_backend(case.backend, settings), request)
            assert set(case.places(admin)) == set(IDS)
    assert refused, "no command was refused"


@pytest.mark.parametrize("name", CASES)
def test_a_server_that_evicts_is_named_in_the_report(start: Callable[..., RedisServer], name: str) -> None:
    case = CASES[name]
    url = start("--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru").url
    client: Any = redis.Redis.from_url(url)
    case.fill(client)
    backend = open_backend(case.backend, {"url": url, **dict(case.settings)})
    request = RedriveRequest("mail", source=case.source, rules=(case.rule,))
    assert "maxmemory-policy allkeys-lru" in engine.redrive(backend, request).warnings[0]


def test_failed_tasks_that_expire_are_not_moved_on_a_full_server_that_evicts_them(start: Callable[..., RedisServer]) -> None:
    """What is written would evict those whose turn has not come."""
    url = start("--maxmemory-policy", "volatile-lru").url
    client: Any = redis.Redis.from_url(url)
    celery_fill("failed")(client)
    # Room for a connection, but not much more.
    client.set("ballast", "x" * 20_000_000)
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.05))
    with pytest.raises(Refused, match="evicts keys that expire") as caught:
        engine.redrive(open_backend("celery", {"url": url}), RedriveRequest("mail"))
    assert caught.value.option == "url" and Counter(celery_places(client)) == Counter(IDS)
    client.lpush("mail", celery_message("1"))
    assert engine.redrive(open_backend("celery", {"url": url}), RedriveRequest("mail", source="queued", rules=(OTHER,))).moved == 1
