# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a look at Sidekiq tells beyond what the contract tests ask: newer versions' keys, long sets, quiet and gone workers."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis
from ansible_collections.queueops.fleet.plugins.module_utils._queue import drain
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend
from ansible_collections.queueops.fleet.plugins.module_utils._queue.sidekiq import COUNTED, version_of

from tests.unit.conftest import RedisServer

TASK = {"retry": True, "queue": "mail", "class": "Note", "args": ["hunter2"], "jid": "a" * 24}


@pytest.fixture
def client(redis_server: RedisServer) -> Any:
    found = redis.Redis.from_url(redis_server.url)
    found.sadd("queues", "mail")
    return found


def register(client: Any, identity: str, version: str | None, quiet: bool = False, prefix: str = "") -> None:
    """A worker's record as version 8 (or without ``version`` 6) writes it, with one task in hand."""
    host, pid, _nonce = identity.rsplit(":", 2)
    info: dict[str, Any] = {"hostname": host, "pid": int(pid), "tag": "mailer@2.3.4", "started_at": time.time(), "queues": ["mail"]}
    if version:
        info["version"] = version
    client.sadd(prefix + "processes", identity)
    fields = {"info": json.dumps(info), "busy": 1, "beat": time.time(), "quiet": json.dumps(quiet)}
    client.hset(prefix + identity, mapping=fields)
    held = json.dumps({"queue": "mail", "payload": json.dumps(TASK), "run_at": 1700000000})
    client.hset("%s%s:%s" % (prefix, identity, "work" if version else "workers"), "t1", held)


@pytest.mark.parametrize(("version", "lag"), [(None, 5.0), ("7.3.2", 10.0), ("8.1.7", 10.0)])
@pytest.mark.parametrize("prefix", ["", "shop:"])
def test_old_and_new_workers(client: Any, redis_server: RedisServer, version: str | None, lag: float, prefix: str) -> None:
    client.sadd(prefix + "queues", "mail")
    register(client, "host-1:4711:abc", version, prefix=prefix)
    client.lpush(prefix + "queue:mail", json.dumps(dict(TASK, enqueued_at=int((time.time() - 60) * 1000) if version else time.time() - 60)))
    backend = open_backend("sidekiq", {"url": redis_server.url, "key_prefix": prefix})
    look = backend.look(["mail"])
    (worker,), (queue,) = look.workers, look.queues
    assert (worker.host, worker.pid, worker.version, worker.state) == ("host-1", 4711, "2.3.4", "busy")
    assert (worker.task, worker.task_queue, worker.task_since) == ("a" * 24, "mail", 1700000000.0)
    assert (queue.queued, queue.executing, queue.paused) == (1, 1, False)
    assert queue.oldest_task_age_s is not None and 59 < queue.oldest_task_age_s < 90
    assert backend.lag_s == lag
    assert "hunter2" not in str(look)


def test_a_drain_looks_twice_a_heartbeat_apart(client: Any, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    register(client, "host-1:4711:abc", "8.1.7", quiet=True)
    client.delete("host-1:4711:abc:work")
    client.hset("host-1:4711:abc", "busy", 0)
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    progress = drain.watch(open_backend("sidekiq", {"url": redis_server.url}), ["mail"], False)
    assert progress.drained and pauses == [10.0]
    assert progress.look.workers[0].state == "suspended" and progress.look.queues[0].paused is True


def test_a_worker_whose_record_is_gone_holds_nothing(client: Any, redis_server: RedisServer) -> None:
    register(client, "host-1:4711:abc", "8.1.7")
    client.delete("host-1:4711:abc")
    look = open_backend("sidekiq", {"url": redis_server.url}).look(["mail"])
    assert [worker.state for worker in look.workers] == ["gone"]
    assert look.queues[0].executing == 0 and look.queues[0].abandoned is None
    assert "without a trace" in look.unknown["queues.abandoned"]


def test_a_long_set_is_not_read_through(client: Any, redis_server: RedisServer) -> None:
    tasks = {json.dumps(dict(TASK, jid="%024x" % number)): number for number in range(COUNTED)}
    client.zadd("retry", tasks)
    client.zadd("dead", {json.dumps(dict(TASK, queue="other")): 1})
    backend = open_backend("sidekiq", {"url": redis_server.url})
    (queue,) = backend.look(["mail"]).queues
    assert (queue.failed, queue.dead_lettered, queue.scheduled) == (COUNTED, 0, 0)
    client.zadd("retry", {"one more": 1})
    client.config_resetstat()
    look = backend.look(["mail"])
    assert look.queues[0].failed is None and str(COUNTED + 1) in look.unknown["queues.failed"]
    asked = {name for name in client.info("commandstats") if "zrange" in name or "eval" in name}
    assert client.info("commandstats").get("cmdstat_zrange", {"calls": 0})["calls"] <= 1, asked


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("mailer@2.3.4", "2.3.4"),
        ("mailer@2.3.4:host-1:1", "2.3.4"),
        ("v1.4.2", "v1.4.2"),
        ("1.4.2", "1.4.2"),
        ("shop", None),
        ("", None),
        (None, None),
    ],
)
def test_the_version_is_read_from_the_tag(tag: Any, version: str | None) -> None:
    assert version_of(tag) == version
