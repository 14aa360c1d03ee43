# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes as flags that producers read with the real OpenFeature SDK, of real RQ queues: sticky, monotone, and nobody else's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._flags.change import read_flag, set_gate
from ansible_collections.queueops.fleet.plugins.module_utils._flags.file_store import FileStore
from ansible_collections.queueops.fleet.plugins.module_utils._flags.gate import NotOurs, wanted_gate
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend
from ansible_collections.queueops.fleet.plugins.module_utils._route.flag import FlagRouter, definition, route_of
from ansible_collections.queueops.fleet.plugins.module_utils._route.moving import moved
from ansible_collections.queueops.fleet.plugins.module_utils._route.route import Apart, Route, known, planned
from ansible_collections.queueops.fleet.plugins.module_utils._route.slots import SLOTS
from hypothesis import given
from hypothesis import strategies as st
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from redis import Redis
from rq import Queue

from tests.unit.conftest import RedisServer
from tests.unit.flags.conftest import sdk

__all__ = ["sdk"]

ROUTE, TEMPLATE = "mail", "mail-{version}"
OLD, NEW = "mail-1.0.0", "mail-2.0.0"
KEYS = [f"customer-{number}" for number in range(10_000)]
NEWS = Apart("task", "mailer.newsletter", "mail-news")


@pytest.fixture
def redis(redis_server: RedisServer) -> Redis:
    """A Redis in which RQ knows the queues of two versions and of a task type."""
    client = Redis(unix_socket_path=redis_server.socket)
    for queue in (OLD, NEW, NEWS.queue):
        client.sadd("rq:queues", f"rq:queue:{queue}")
    return client


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "flags.json"


def router(redis: Redis, path: Path, fleet: str = "mailer") -> FlagRouter:
    return FlagRouter(fleet, [FileStore(str(path))], open_backend("rq", {"url": url(redis)}))


def url(redis: Redis) -> str:
    return "unix://%s?db=0" % redis.connection_pool.connection_kwargs["path"]


def divide(redis: Redis, path: Path, weights: dict[str, int], *, key: str = "targetingKey", fleet: str = "mailer") -> bool:
    """What the module does; whether anything had to be done."""
    own = router(redis, path, fleet)
    change = planned(own.look(ROUTE), weights, TEMPLATE)
    own.preflight(ROUTE, key, change)
    if change:
        own.apply(ROUTE, key, change)
    return bool(change)


def on_2(client: OpenFeatureClient, keys: list[str], **attributes: Any) -> set[str]:
    """The keys whose tasks a producer gives to version 2."""
    return {key for key in keys if client.get_string_value(ROUTE, "none", EvaluationContext(key, attributes)) == NEW}


def test_a_share_keeps_its_keys_when_it_grows_and_gives_back_first_what_came_last(
    redis: Redis, path: Path, sdk: Callable[..., OpenFeatureClient]
) -> None:
    assert divide(redis, path, {"1.0.0": 90, "2.0.0": 10})
    ten = on_2(sdk(path), KEYS)
    assert 900 <= len(ten) <= 1100
    assert divide(redis, path, {"1.0.0": 75, "2.0.0": 25})
    assert ten < on_2(sdk(path), KEYS)
    assert divide(redis, path, {"1.0.0": 90, "2.0.0": 10})
    assert on_2(sdk(path), KEYS) == ten
    assert divide(redis, path, {"1.0.0": 100, "2.0.0": 0})
    assert on_2(sdk(path), KEYS) == set()
    before = path.read_bytes()
    assert not divide(redis, path, {"1.0.0": 100, "2.0.0": 0})
    assert path.read_bytes() == before


def test_the_key_may_be_an_attribute_and_a_task_without_it_goes_to_the_version_that_has_most(
    redis: Redis, path: Path, sdk: Callable[..., OpenFeatureClient]
) -> None:
    divide(redis, path, {"1.0.0": 60, "2.0.0": 40}, key="tenant")
    client = sdk(path)
    by_tenant = {tenant: on_2(client, ["a task", "another"], tenant=tenant) for tenant in KEYS[:200]}
    # Whatever else the task is, its tenant decides.
    assert all(found in (set(), {"a task", "another"}) for found in by_tenant.values())
    assert 40 <= sum(map(bool, by_tenant.values())) <= 120
    assert on_2(client, ["a task"]) == set()
    with pytest.raises(Refused, match="divides the tasks by tenant, and cannot be made to"):
        divide(redis, path, {"1.0.0": 100, "2.0.0": 0})


def test_a_task_type_goes_to_a_queue_of_its_own_and_what_is_queued_is_moved(
    redis: Redis, path: Path, sdk: Callable[..., OpenFeatureClient], tmp_path: Path
) -> None:
    divide(redis, path, {"1.0.0": 50, "2.0.0": 50})
    for name, count in (("mailer.newsletter", 30), ("mailer.invoice", 20)):
        for number in range(count):
            Queue(OLD, connection=redis).enqueue(name, job_id=f"{name.partition('.')[2]}-{number}")
    own, backend = router(redis, path), open_backend("rq", {"url": url(redis)})
    own.isolate(ROUTE, NEWS)
    assert known(own.look(ROUTE), ROUTE).apart == (NEWS,)
    client = sdk(path)
    news = {client.get_string_value(ROUTE, "none", EvaluationContext(key, {"task": NEWS.task})) for key in KEYS[:50]}
    others = {client.get_string_value(ROUTE, "none", EvaluationContext(key, {"task": "mailer.invoice"})) for key in KEYS[:50]}
    assert (news, others) == ({NEWS.queue}, {OLD, NEW})
    assert moved(backend, OLD, NEWS.queue, NEWS, str(tmp_path), True) == 30
    assert moved(backend, OLD, NEWS.queue, NEWS, str(tmp_path), False) == 30
    assert moved(backend, OLD, NEWS.queue, NEWS, str(tmp_path), False) == 0
    assert sorted(Queue(NEWS.queue, connection=redis).job_ids) == sorted(f"newsletter-{number}" for number in range(30))
    assert Queue(OLD, connection=redis).job_ids == [f"invoice-{number}" for number in range(20)]
    own.join(ROUTE, NEWS)
    assert known(own.look(ROUTE), ROUTE).apart == ()
    assert moved(backend, NEWS.queue, OLD, None, str(tmp_path), False) == 30
    assert len(Queue(OLD, connection=redis).job_ids) == 50


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"1.0.0": 60, "2.0.0": 30}, "sum to 90, and not to 100"),
        ({"1.0.0": 90, "9.0.0": 10}, r"Version 9\.0\.0 is not known: no worker listens to queue mail-9\.0\.0"),
    ],
)
def test_what_is_no_division_is_refused_and_nothing_changed(redis: Redis, path: Path, weights: dict[str, int], told: str) -> None:
    divide(redis, path, {"1.0.0": 100})
    before = path.read_bytes()
    with pytest.raises(Refused, match=told):
        divide(redis, path, weights)
    assert path.read_bytes() == before


def test_the_first_version_may_come_before_its_workers_and_no_other(redis: Redis, path: Path) -> None:
    with pytest.raises(Refused, match="no worker listens to queue mail-8"):
        divide(redis, path, {"8": 90, "9": 10})
    assert not path.exists()
    own = router(redis, path)
    assert own.preflight(ROUTE, "targetingKey", planned(None, {"8": 100}, TEMPLATE)) == [
        "No worker is known to listen to queue mail-8: the tasks of version 8 may wait there"
    ]


def test_another_fleet_s_flag_and_a_flag_that_is_no_route_are_left_alone(redis: Redis, path: Path) -> None:
    divide(redis, path, {"1.0.0": 100})
    before = path.read_bytes()
    with pytest.raises(NotOurs, match="belongs to the fleet mailer, not to parcel"):
        divide(redis, path, {"1.0.0": 50, "2.0.0": 50}, fleet="parcel")
    with pytest.raises(NotOurs, match="is not as feature_gate makes one"):
        set_gate(wanted_gate(ROUTE, "mailer", "on"), [FileStore(str(path))])
    assert path.read_bytes() == before
    document = json.loads(before)
    document["flags"][ROUTE]["targeting"] = {"if": [True, "2.0.0"]}
    path.write_text(json.dumps(document))
    with pytest.raises(NotOurs, match="somebody else made it, or has changed it"):
        divide(redis, path, {"1.0.0": 100})
    path.write_text("{")
    with pytest.raises(Refused, match="is not a document of flags in line 1"):
        divide(redis, path, {"1.0.0": 100})


def test_gates_beside_a_route_stay_as_they_are(redis: Redis, path: Path) -> None:
    store = FileStore(str(path))
    set_gate(wanted_gate("new-invoice", "mailer", "percent", percent=10), [store])
    gate = read_flag("new-invoice", store)
    divide(redis, path, {"1.0.0": 50, "2.0.0": 50})
    assert read_flag("new-invoice", store) == gate


@given(
    st.lists(st.sampled_from(["1", "2", "3"]), min_size=SLOTS, max_size=SLOTS),
    st.sampled_from(["targetingKey", "tenant"]),
    st.lists(st.sampled_from([NEWS, Apart("task", "b", "mail-b"), Apart("kind", "c=d", "mail-c")]), unique=True),
)
def test_a_route_is_read_back_from_its_flag(owners: list[str], key: str, apart: list[Apart]) -> None:
    queues = {version: "mail-" + version for version in ("1", "2", "3")}
    ordered = tuple(sorted(apart, key=lambda one: (one.header, one.task)))
    route = Route(ROUTE, key, queues, tuple(owners), "1", ordered)
    assert route_of(ROUTE, json.loads(json.dumps(definition(route, "mailer")))) == route
