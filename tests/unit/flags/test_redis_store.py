# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Flags in a key of a real Redis, alone and together with a file: nobody's change is lost, and what fails half-way is said."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict, HalfDone, MissingLibrary, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._flag_options import FLAGS_SPEC, stores_of
from ansible_collections.queueops.fleet.plugins.module_utils._flags.change import Store, list_gates
from ansible_collections.queueops.fleet.plugins.module_utils._flags.document import Broken
from ansible_collections.queueops.fleet.plugins.module_utils._flags.file_store import FileStore
from ansible_collections.queueops.fleet.plugins.module_utils._flags.gate import NotOurs
from ansible_collections.queueops.fleet.plugins.module_utils._flags.redis_store import RedisStore
from ansible_collections.queueops.fleet.plugins.module_utils._queue.redis_connection import RedisConnection
from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext

from tests.unit.conftest import RedisServer
from tests.unit.flags.conftest import FOREIGN, WRITTEN_AT_A_TIME, put, write_at_a_time
from tests.unit.queue.test_redis_connection import start

# A fixture.
__all__ = ["start"]

KEY = "mailer:flags"


@pytest.fixture
def client(redis_server: RedisServer) -> Any:
    return redis.Redis.from_url(redis_server.url)


@pytest.fixture
def key(redis_server: RedisServer) -> RedisStore:
    return store(redis_server.url)


def store(url: str, **settings: Any) -> RedisStore:
    return RedisStore(RedisConnection(dict(settings, url=url)), KEY)


def flags(client: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client.get(KEY))["flags"]
    return found


def test_an_application_reads_the_key_with_flagds_own_evaluator(key: RedisStore, client: Any) -> None:
    put(key, percent=10, release=7)
    put(key, "for-all", "on")
    evaluator = FlagdCore()
    evaluator.set_flags(client.get(KEY).decode())
    assert evaluator.resolve_boolean_value("for-all", False).value is True
    on = sum(evaluator.resolve_boolean_value("new-invoice", False, EvaluationContext("c-%d" % number)).value for number in range(10_000))
    assert abs(on - 1000) <= 100
    assert evaluator.resolve_boolean_value("new-invoice", False).flag_metadata == {"queueops.fleet": "mailer", "queueops.release": 7}


def test_what_is_so_already_is_not_written_and_check_mode_writes_nothing(key: RedisStore, client: Any) -> None:
    assert [bool(plan.after) for plan in put(key, percent=10, dry_run=True)] == [True]
    assert client.get(KEY) is None
    put(key, percent=10)
    commands = client.info("commandstats")["cmdstat_set"]["calls"]
    assert [plan.after for plan in put(key, percent=10)] == [None]
    assert client.info("commandstats")["cmdstat_set"]["calls"] == commands


def test_two_writers_at_a_time_lose_nothing(redis_server: RedisServer, client: Any, tmp_path: Path) -> None:
    work = """
from tests.unit.flags.test_redis_store import put, store
def write(number):
    put(store(arguments[0]), "gate-%s-%d" % (name, number), "on")
"""
    write_at_a_time(tmp_path, work, redis_server.url)
    assert set(flags(client)) == WRITTEN_AT_A_TIME


class Raced(RedisStore):
    """A store whose document another writer changes, so many times."""

    times = 1


class Overtaken(Raced):
    """After it was read."""

    def stage(self, before: bytes | None, after: bytes) -> None:
        super().stage(before, after)
        if self.times:
            self.times -= 1
            put(RedisStore(self._connection, KEY), "other-%d" % self.times, "on")


class OvertakenWatching(Raced):
    """Between the last look at it and the write."""

    def commit(self) -> bool:
        pipeline = self._connection.redis.client.Pipeline
        multi = pipeline.multi

        def late(pipe: Any) -> None:
            if self.times:
                self.times -= 1
                put(RedisStore(self._connection, KEY), "other", "on")
            multi(pipe)

        pipeline.multi = late
        try:
            return super().commit()
        finally:
            pipeline.multi = multi


@pytest.mark.parametrize("kind", [Overtaken, OvertakenWatching])
def test_a_change_that_came_in_between_is_kept(
    kind: type[Raced], redis_server: RedisServer, client: Any, file: FileStore, path: Path
) -> None:
    own = kind(RedisConnection({"url": redis_server.url}), KEY)
    put([own, file], state="off")
    assert len(flags(client)) == 2 and flags(client)["new-invoice"]["defaultVariant"] == "off"
    assert list(json.loads(path.read_text())["flags"]) == ["new-invoice"]


def test_who_is_always_overtaken_gives_up_with_nothing_changed(redis_server: RedisServer, client: Any, file: FileStore, path: Path) -> None:
    own = Overtaken(RedisConnection({"url": redis_server.url}), KEY)
    own.times = 1000
    with pytest.raises(Conflict, match="changed the flags 100 times") as caught:
        put([own, file], state="off")
    assert caught.value.still_true == "Nothing was changed"
    assert "new-invoice" not in flags(client) and not path.exists()
    assert os.listdir(path.parent) == [".flags.json.lock"]


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (b'{"flags": {\n "a": }}', Broken, "line 2, column 7"),
        (b"", Broken, "line 1, column 1"),
        (json.dumps(FOREIGN).encode(), NotOurs, "belongs to the fleet billing"),
    ],
)
def test_a_broken_document_and_anothers_flag_are_refused_and_neither_store_changes(
    content: bytes, error: type[Refused], says: str, key: RedisStore, client: Any, file: FileStore, path: Path
) -> None:
    put(file, "of-billing", "on")
    before = path.read_bytes()
    client.set(KEY, content)
    both: list[Store] = [key, file]
    for stores in (both[:1], both):
        with pytest.raises(error) as caught:
            put(stores, "of-billing", "off")
        assert says in caught.value.message and KEY in caught.value.message
        assert caught.value.still_true == "Nothing was changed"
    assert client.get(KEY) == content and path.read_bytes() == before


def test_a_broken_file_leaves_the_key_as_it_was(key: RedisStore, client: Any, file: FileStore, path: Path) -> None:
    put(key, state="on")
    before = client.get(KEY)
    path.write_text("{")
    with pytest.raises(Broken):
        put([key, file], state="off")
    assert client.get(KEY) == before and path.read_text() == "{"


def test_a_key_of_another_kind_is_refused(key: RedisStore, client: Any) -> None:
    client.rpush(KEY, "task")
    with pytest.raises(Refused, match=r"no text in the key mailer:flags at unix:.* but a list") as caught:
        put(key, state="on")
    assert caught.value.option == "redis_key" and client.lrange(KEY, 0, -1) == [b"task"]


def test_both_stores_change_in_one_call(key: RedisStore, client: Any, file: FileStore, path: Path) -> None:
    put(file, state="off")
    plans = put([key, file], state="on", release=4)
    assert [bool(plan.after) for plan in plans] == [True, True]
    assert flags(client) == json.loads(path.read_text())["flags"]
    client.delete(KEY)
    plans = put([key, file], state="on", release=4)
    assert [bool(plan.after) for plan in plans] == [True, False]
    assert flags(client) == json.loads(path.read_text())["flags"]
    assert list_gates(key, "mailer", None) == list_gates(file, "mailer", None)


def test_who_may_not_write_the_key_leaves_the_file_as_it_was(start: Callable[..., RedisServer], file: FileStore, path: Path) -> None:
    server = start()
    redis.Redis.from_url(server.url).acl_setuser("reader", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-set"], categories=[])
    put(file, state="off")
    before = path.read_bytes()
    with pytest.raises(Refused, match="may not do this") as caught:
        put([store(server.url, username="reader"), file], state="on")
    assert caught.value.still_true == "Nothing was changed"
    assert path.read_bytes() == before and sorted(os.listdir(path.parent)) == [".flags.json.lock", "flags.json"]


class Dying(RedisStore):
    """A store whose server dies just before the write."""

    server: RedisServer

    def stage(self, before: bytes | None, after: bytes) -> None:
        super().stage(before, after)
        self.server.stop()


def test_a_server_that_dies_leaves_the_file_as_it_was_and_it_is_said_what_is_known(
    start: Callable[..., RedisServer], file: FileStore, path: Path
) -> None:
    server = start()
    own = Dying(RedisConnection({"url": server.url}), KEY)
    own.server = server
    with pytest.raises(Unavailable) as caught:
        put([own, file], state="on")
    assert "may be changed in the key mailer:flags" in caught.value.sentence() and "nothing else was" in caught.value.sentence()
    assert not path.exists()


class Meanwhile(RedisStore):
    """A store after whose write the file's place is taken."""

    path: Path

    def commit(self) -> bool:
        done = super().commit()
        self.path.mkdir()
        return done


def test_a_rename_that_fails_is_said_and_the_next_run_does_the_rest(
    redis_server: RedisServer, client: Any, file: FileStore, path: Path
) -> None:
    own = Meanwhile(RedisConnection({"url": redis_server.url}), KEY)
    own.path = path
    with pytest.raises(HalfDone) as caught:
        put([own, file], state="on")
    assert f"The flag is changed in {own.where}, and is as it was in the file {path}" in caught.value.sentence()
    assert os.listdir(path.parent) != [] and not (path.parent / ".flags.json.new").exists()
    path.rmdir()
    plans = put([RedisStore(own._connection, KEY), file], state="on")
    assert [bool(plan.after) for plan in plans] == [False, True]
    assert flags(client) == json.loads(path.read_text())["flags"]


def test_a_replica_is_refused_in_check_mode_too(start: Callable[..., RedisServer]) -> None:
    server = start("--replicaof", "127.0.0.1", "1")
    with pytest.raises(Refused, match="read-only replica"):
        put(store(server.url), state="on", dry_run=True)


def test_the_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MissingLibrary) as caught:
        stores_of(dict(dict.fromkeys(FLAGS_SPEC), redis_key=KEY, url="redis://broker"))
    assert (
        caught.value.option == "redis_key"
        and "lacks the Python library redis" in caught.value.message
        and "python3-redis" in caught.value.sentence()
    )


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({}, "path"),
        ({"redis_key": "x"}, "url"),
        ({"path": "/x", "url": "redis://x"}, "redis_key"),
        ({"redis_key": "", "url": "redis://x"}, "redis_key"),
    ],
)
def test_where_the_flags_are_has_to_be_said(options: dict[str, Any], option: str) -> None:
    with pytest.raises(Refused) as caught:
        stores_of(dict(dict.fromkeys(FLAGS_SPEC), **options))
    assert caught.value.option == option
