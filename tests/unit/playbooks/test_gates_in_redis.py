# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The feature gates of a release in Redis: put there when the whole fleet has it, put back before the first host goes back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.unit.conftest import RedisServer
from tests.unit.playbooks.conftest import Fleet, must, new_fleet
from tests.unit.playbooks.test_feature_gates import OFF, QUARTER, gates
from tests.unit.playbooks.test_gates import on_one_line
from tests.unit.playbooks.test_resume import events, killed

KEY = "mailer:flags"
SECOND = {"name": "new-charge", "state": "targets", "targets": ["acme"]}


@pytest.fixture
def published(redis_server: RedisServer) -> Iterator[Fleet]:
    """A fleet on release 1, whose gates are in Redis as well: one, for nobody. In the same key is another fleet's flag."""
    theirs = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on", "metadata": {"queueops.fleet": "billing"}}
    put(redis_server, {"charge": theirs})
    with new_fleet(redis_server) as fleet:
        fleet.specification["config"].update(gates(OFF))
        fleet.specification["feature_gates_in_redis"] = {"dest": "{{ root }}/etc/gates.json", "redis_key": KEY, "url": redis_server.url}
        must(fleet.run("deploy", version="1.0.0"))
        yield fleet


def put(server: RedisServer, there: dict[str, Any]) -> None:
    redis.Redis.from_url(server.url).set(KEY, json.dumps({"flags": there}))


def flags(server: RedisServer) -> dict[str, Any]:
    content = redis.Redis.from_url(server.url).get(KEY)
    assert isinstance(content, bytes)
    found: dict[str, Any] = json.loads(content)["flags"]
    return found


def shares(server: RedisServer) -> dict[str, int]:
    """For how many of a hundred each gate of the fleet is on, as its definition says."""
    found = {}
    for name, flag in flags(server).items():
        if flag["metadata"]["queueops.fleet"] == "mailer":
            found[name] = flag["targeting"]["fractional"][0][1] if "fractional" in flag.get("targeting", {}) else 0
    return found


def order(fleet: Fleet) -> list[str]:
    kinds = [event["kind"] for event in events(fleet)]
    begun = max(place for place, kind in enumerate(kinds) if kind == "operation_opened")
    return [kind for kind in kinds[begun:] if kind in ("host_switched", "host_reverted", "host_confirmed", "feature_gates_set")]


def test_they_come_last_with_a_release_and_go_back_first(published: Fleet, redis_server: RedisServer) -> None:
    assert shares(redis_server) == {"new-invoice": 0}
    published.specification["config"].update(gates(QUARTER, SECOND))
    before = flags(redis_server)
    plan = published.run("plan", version="2.0.0")
    assert plan.returncode == 2, plan.stdout
    assert "feature gates in the key mailer:flags, after the last wave: to be set: new-invoice, new-charge" in on_one_line(plan.stdout)
    assert flags(redis_server) == before

    must(published.run("deploy", version="2.0.0"))
    assert shares(redis_server) == {"new-invoice": 25, "new-charge": 0}
    assert order(published) == ["host_switched", "host_switched", "feature_gates_set", "host_confirmed", "host_confirmed"]
    must(published.run("status"))

    must(published.run("rollback"))
    assert shares(redis_server) == {"new-invoice": 0}
    assert order(published) == ["feature_gates_set", "host_reverted", "host_reverted"]
    assert flags(redis_server)["charge"]["metadata"] == {"queueops.fleet": "billing"}


def test_a_change_by_hand_is_told_and_ended_by_the_next_deploy(published: Fleet, redis_server: RedisServer) -> None:
    there = flags(redis_server)
    there["new-invoice"]["defaultVariant"] = "on"
    put(redis_server, there)
    told = published.run("status")
    assert told.returncode != 0, told.stdout
    assert "the feature gates in the key mailer:flags are not those of release 1 (to be set: new-invoice)" in on_one_line(told.stdout)
    before = published.everything()
    plan = published.run("plan", version="1.0.0")
    assert plan.returncode == 2, plan.stdout
    assert "which changes 0 of 2 hosts. Besides: feature gates in the key mailer:flags, after the last wave: to be set: new-invoice." in (
        on_one_line(plan.stdout)
    )
    must(published.run("deploy", version="1.0.0"))
    assert flags(redis_server)["new-invoice"]["defaultVariant"] == "off"
    after = published.everything()
    workers = [name for name in before if not name.startswith("/")]
    assert workers and [after[name] for name in workers] == [before[name] for name in workers], "a worker was started anew"
    must(published.run("status"))


def test_a_deploy_that_cannot_put_them_there_goes_back(published: Fleet, redis_server: RedisServer) -> None:
    published.specification["config"].update(gates(QUARTER))
    # Somebody else's flag of the same name comes while the hosts are switched, which could not be seen before.
    theirs = flags(redis_server)
    theirs["new-invoice"]["metadata"]["queueops.fleet"] = "billing"
    # The gate is asked once before anything changes.
    program = f"""
import redis
server = redis.Redis.from_url({redis_server.url!r})
if server.incr("asked") > 1:
    server.set({KEY!r}, {json.dumps({"flags": theirs})!r})
"""
    gate = {"name": "theirs", "metric": "command", "command": {"argv": [sys.executable, "-c", program]}, "bake": 0, "timeout": 5}
    del published.specification["gate"]
    published.specification["gates"] = [gate]
    done = published.run("deploy", version="2.0.0")
    assert done.returncode != 0, done.stdout
    assert published.releases() == [1, 1]
    said = on_one_line(done.stdout)
    assert "belongs to the fleet billing" in said and "release 1" in said, done.stdout


@pytest.mark.parametrize(("do", "release", "percent"), [("finish", 2, 25), ("undo", 1, 0)])
def test_after_the_controllers_death_they_are_what_the_fleet_has(
    published: Fleet, redis_server: RedisServer, do: str, release: int, percent: int
) -> None:
    published.specification["config"].update(gates(QUARTER))
    killed(published, "deploy", lambda kinds: "feature_gates_set" in kinds, version="2.0.0")
    assert shares(redis_server) == {"new-invoice": 25}
    must(published.run("resume", takeover="true", do=do))
    assert published.releases() == [release, release] and shares(redis_server) == {"new-invoice": percent}
    must(published.run("status"))


def test_a_rollback_that_cannot_put_them_back_takes_the_hosts_back_and_says_so(published: Fleet, redis_server: RedisServer) -> None:
    published.specification["config"].update(gates(QUARTER))
    must(published.run("deploy", version="2.0.0"))
    right = published.specification["feature_gates_in_redis"]
    published.specification["feature_gates_in_redis"] = {**right, "url": "redis://127.0.0.1:1/0"}
    done = published.run("rollback")
    assert done.returncode != 0, done.stdout
    assert published.releases() == [1, 1] and shares(redis_server) == {"new-invoice": 25}
    assert "the feature gates in Redis should have become those of release 1" in on_one_line(done.stdout)
    published.specification["feature_gates_in_redis"] = right
    must(published.run("rollback", release=1))
    assert shares(redis_server) == {"new-invoice": 0}


def test_what_is_wrong_is_refused_before_anything_changes(published: Fleet, redis_server: RedisServer) -> None:
    published.specification["config"].update(gates(QUARTER, {"name": "charge", "state": "on"}))
    right = published.specification["feature_gates_in_redis"]
    for wrong, words in (
        ({}, ["The flag charge", "belongs to the fleet billing"]),
        ({"dest": "/etc/other.json"}, ["feature_gates_in_redis.dest is /etc/other.json", "Name one of its files"]),
        ({"url": "redis://127.0.0.1:1/0"}, ["127.0.0.1:1"]),
    ):
        published.specification["feature_gates_in_redis"] = {**right, **wrong}
        before = flags(redis_server)
        done = published.run("deploy", version="2.0.0")
        assert done.returncode != 0, done.stdout
        said = on_one_line(done.stdout)
        assert not [word for word in words if word not in said], done.stdout
        assert flags(redis_server) == before and published.releases() == [1, 1]
