# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A version shut out at a real RabbitMQ: its user is gone, its consumers too, and what they had in hand is queued again."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import amqp
import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._queue.fence import Fence, open_fence

from tests.contract.rabbit import QUEUE, Rabbit, rabbit
from tests.unit.conftest import wait_for

__all__ = ["rabbit"]

VERSION = "mailer-2.0.0"
RIGHTS = {"configure": "", "write": ".*", "read": "^mail"}


@pytest.fixture
def workers(rabbit: Rabbit) -> Iterator[Rabbit]:
    """With a user that the versions are made like, and another virtual host that it may use."""
    ask = rabbit.server.ask
    ask("PUT", "/api/vhosts/other")
    ask("PUT", "/api/users/mailer", {"password": "swordfish", "tags": ""})
    for vhost in ("%2F", "other"):
        ask("PUT", "/api/permissions/%s/mailer" % vhost, RIGHTS)
    ask("PUT", "/api/topic-permissions/%2F/mailer", {"exchange": "amq.topic", "write": "^mail", "read": "^mail"})
    yield rabbit
    for path in ("users/mailer", "users/" + VERSION, "users/plain", "vhosts/other"):
        with suppress(urllib.error.HTTPError):
            ask("DELETE", "/api/" + path)


def fence(rabbit: Rabbit, **more: Any) -> Fence:
    return open_fence({"url": rabbit.server.url, "management_url": rabbit.server.management, **more})


def login(rabbit: Rabbit, user: str = VERSION, vhost: str = "/") -> Any:
    found = amqp.Connection("127.0.0.1:%d" % rabbit.server.port, userid=user, password="swordfish", virtual_host=vhost, connect_timeout=30)
    found.connect()
    return found


def listen_until_closed(worker: Any) -> None:
    with pytest.raises((amqp.exceptions.ConnectionError, OSError)) as closed:
        while True:
            worker.drain_events(timeout=20)
    assert not isinstance(closed.value, TimeoutError)


def test_a_version_has_the_password_and_the_rights_of_the_user_it_is_made_like(workers: Rabbit) -> None:
    own = fence(workers)
    assert own.preflight() == []
    assert not own.look(VERSION).exists
    assert not own.is_like(VERSION, "mailer")
    own.let_in(VERSION, "mailer")
    assert own.is_like(VERSION, "mailer")
    for vhost in ("/", "other"):
        with login(workers, vhost=vhost) as worker, pytest.raises(amqp.exceptions.AccessRefused):
            worker.channel().queue_declare("its-own")


def test_who_waits_for_a_task_gets_none_once_its_version_is_shut_out(workers: Rabbit) -> None:
    own = fence(workers)
    workers.make(QUEUE)
    own.let_in(VERSION, "mailer")
    worker, taken = login(workers), []
    worker.channel().basic_consume(QUEUE, callback=lambda message: taken.append(message.properties["message_id"]))
    workers.put(QUEUE, workers.classic.message("in-hand", "note"))
    while not taken:
        worker.drain_events(timeout=20)
    wait_for(lambda: own.look(VERSION).connections == 1, what="the connection in the statistics")
    own.shut_out(VERSION)
    workers.put(QUEUE, workers.classic.message("later", "note"))
    listen_until_closed(worker)
    assert taken == ["in-hand"]
    with pytest.raises(amqp.exceptions.AccessRefused):
        login(workers)
    assert not own.look(VERSION).exists
    wait_for(lambda: workers.ids(QUEUE) == ["in-hand", "later"], what="the task in hand to be queued again")
    own.shut_out(VERSION)


def test_a_connection_of_this_moment_is_closed_too(workers: Rabbit) -> None:
    """The statistics do not know it yet."""
    own = fence(workers)
    own.let_in(VERSION, "mailer")
    worker = login(workers)
    own.shut_out(VERSION)
    listen_until_closed(worker)


def test_a_user_is_made_anew_where_the_one_that_it_is_like_has_changed(workers: Rabbit) -> None:
    own = fence(workers)
    own.let_in(VERSION, "mailer")
    workers.server.ask("DELETE", "/api/permissions/other/mailer")
    workers.server.ask("PUT", "/api/users/mailer", {"password": "rotated", "tags": ""})
    assert not own.is_like(VERSION, "mailer")
    own.let_in(VERSION, "mailer")
    assert own.is_like(VERSION, "mailer")
    with pytest.raises(amqp.exceptions.AccessRefused):
        login(workers)


def test_what_could_not_be_done_is_refused_before_anything_is_changed(workers: Rabbit) -> None:
    workers.server.ask("PUT", "/api/users/plain", {"password": "swordfish", "tags": "management"})
    with pytest.raises(Refused, match="plain may not make and delete users"):
        fence(workers, username="plain", password="swordfish").preflight()
    with pytest.raises(NotFound, match="no user nobody"):
        fence(workers).is_like(VERSION, "nobody")
    with pytest.raises(Unavailable, match="does not tell"):
        fence(workers, management_url="http://127.0.0.1:1").preflight()
