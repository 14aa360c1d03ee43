# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A version shut out at a real Redis: its user is gone, its connections are closed, and a restart does not let it in again."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
import redis
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue.fence import BrokerUser, Fence, open_fence

from tests.unit.conftest import RedisServer, wait_for
from tests.unit.queue.test_redis_connection import start

# A fixture.
__all__ = ["start"]

VERSION = "mailer-2.0.0"
FILE = "users.acl"
USERS = """user default on >root ~* &* +@all
user mailer on >swordfish ~rq:* (~mail:* +get) &* +@all -@dangerous
user reader on >swordfish ~* &* +@all -acl|setuser
"""


@pytest.fixture
def server(start: Callable[..., RedisServer]) -> RedisServer:
    """A Redis that keeps its users in a file."""
    return start("--aclfile", FILE, files={FILE: USERS.encode()})


def fence(server: RedisServer, user: str = "default", password: str = "root") -> Fence:
    return open_fence({"url": server.url, "username": user, "password": password})


def client(server: RedisServer, user: str = VERSION, password: str = "swordfish") -> Any:
    return redis.Redis.from_url(server.url, username=user, password=password)


def test_a_version_has_the_password_and_the_rights_of_the_user_it_is_made_like(server: RedisServer) -> None:
    own = fence(server)
    assert own.look(VERSION) == BrokerUser(VERSION, exists=False, connections=0)
    assert not own.is_like(VERSION, "mailer")
    own.let_in(VERSION, "mailer")
    assert own.is_like(VERSION, "mailer")
    worker = client(server)
    assert worker.lpush("rq:queue:mail", "task") == 1
    assert own.look(VERSION) == BrokerUser(VERSION, exists=True, connections=1)
    with pytest.raises(redis.exceptions.NoPermissionError):
        worker.lpush("others", "task")


def test_who_waits_for_a_task_gets_none_once_its_version_is_shut_out(server: RedisServer) -> None:
    own = fence(server)
    own.let_in(VERSION, "mailer")
    taken: list[Any] = []

    def work() -> None:
        try:
            taken.append(client(server).blpop("rq:queue:mail", timeout=20))
        except redis.exceptions.ConnectionError as closed:
            taken.append(closed)

    worker = Thread(target=work)
    worker.start()
    wait_for(lambda: own.look(VERSION).connections == 1, what="a worker that waits")
    own.shut_out(VERSION)
    client(server, "mailer").lpush("rq:queue:mail", "task")
    worker.join(20)
    assert [type(outcome) for outcome in taken] == [redis.exceptions.ConnectionError]
    assert client(server, "mailer").llen("rq:queue:mail") == 1
    with pytest.raises(redis.exceptions.AuthenticationError):
        client(server).ping()
    assert own.look(VERSION) == BrokerUser(VERSION, exists=False, connections=0)
    own.shut_out(VERSION)


@pytest.mark.parametrize("let_in", [True, False], ids=["open", "fenced"])
def test_a_restart_of_the_broker_changes_nothing(server: RedisServer, let_in: bool) -> None:
    own = fence(server)
    own.let_in(VERSION, "mailer")
    if not let_in:
        own.shut_out(VERSION)
    server.stop()
    server.start("--aclfile", FILE)
    assert fence(server).is_like(VERSION, "mailer") == let_in


def test_a_user_is_made_anew_where_the_one_that_it_is_like_has_changed_and_who_is_logged_in_stays(server: RedisServer) -> None:
    own = fence(server)
    own.let_in(VERSION, "mailer")
    worker = client(server)
    worker.ping()
    client(server, "default", "root").acl_setuser("mailer", passwords=["+rotated"], enabled=True)
    assert not own.is_like(VERSION, "mailer")
    own.let_in(VERSION, "mailer")
    assert own.is_like(VERSION, "mailer")
    assert worker.lpush("rq:queue:mail", "task") == 1
    assert client(server, VERSION, "rotated").ping()


def test_what_could_not_be_kept_or_done_is_refused_before_any_change(server: RedisServer, start: Callable[..., RedisServer]) -> None:
    with pytest.raises(Refused, match="a restart would forget") as forgetful:
        fence(start()).preflight()
    assert "aclfile" in forgetful.value.sentence()
    with pytest.raises(Refused, match=r"acl\|setuser") as refused:
        fence(server, "reader", "swordfish").preflight()
    assert "Grant +acl to the user reader" in refused.value.sentence()
    with pytest.raises(NotFound, match="has no user nobody"):
        fence(server).is_like(VERSION, "nobody")
    assert fence(server).preflight() == []


def test_a_default_user_without_a_password_is_told(start: Callable[..., RedisServer]) -> None:
    server = start("--aclfile", FILE, files={FILE: b"user default on nopass ~* &* +@all\n"})
    assert "is not shut out" in open_fence({"url": server.url}).preflight()[0]


@pytest.mark.parametrize("url", ["redis+sentinel://one:26379/primary/0", "nats://broker:4222", "postgresql://broker/queue"])
def test_a_broker_that_is_not_able_to_is_refused_by_name(url: str) -> None:
    with pytest.raises(Refused) as refused:
        open_fence({"url": url})
    assert url in refused.value.message
    assert "Leave queue.fence out" in refused.value.sentence()
