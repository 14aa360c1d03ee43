# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ten thousand keys: how many of them each version's queue gets, which, and what is left of them at 0 %. Read by the broker's own tools."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from lab import POLL_S, SECRET, depths, module, on, tell, wait_until

KEYS = 10_000
OLD, NEW = "1.0.0", "2.0.0"
PRODUCER = "/opt/rq/bin/python /opt/producer/keys.py"

ROUTES: dict[str, dict[str, Any]] = {
    "rq": {
        "backend": "rq",
        "url": "redis://broker:6379/0",
        "flags": {"fleet": "counts", "path": "/var/lib/producer/flags.json"},
    },
    "rabbitmq": {"backend": "rabbitmq", "url": "amqp://broker:5672/", "username": "parcel", "password": SECRET},
    "nats": {
        "backend": "nats",
        "url": "nats://localhost:4222",
        "queue": "COUNTS-{version}/worker",
        "nats": {"mappings": "/etc/nats/counts.route", "config": "/etc/nats/nats.conf"},
    },
}

# What NATS itself says on its monitoring port.
NATS_COUNTS = """
import json, urllib.request
told = json.load(urllib.request.urlopen("http://127.0.0.1:8222/jsz?streams=true"))
print(json.dumps({stream["name"]: stream["state"]["messages"] for stream in told["account_details"][0]["stream_detail"]}))
"""


def divide(system: str, new: int) -> None:
    weights = {OLD: 100 - new, NEW: new}
    # Debian has no package of the NATS client library.
    python = "/opt/rq/bin/python" if system == "nats" else "/usr/bin/python3"
    told = module("broker", "queue_route", {**ROUTES[system], "route": "counts", "weights": weights}, python)["broker"]
    assert {version: share for version, share in told["weights"].items() if share} == {
        one: share for one, share in weights.items() if share
    }


def counted(system: str) -> dict[str, int]:
    """How many tasks are in each version's queue, as the broker itself says."""
    if system == "rabbitmq":
        found = depths()
        return {version: found[f"counts-{version}"] for version in (OLD, NEW)}
    if system == "nats":
        streams = json.loads(on("broker", f"python3 -c '{NATS_COUNTS}'"))
        return {version: streams["COUNTS-" + version.replace(".", "_")] for version in (OLD, NEW)}
    return {version: int(on("broker", f"redis-cli LLEN rq:queue:counts-{version}")) for version in (OLD, NEW)}


def taken(system: str) -> dict[str, list[tuple[str, float]]]:
    """Key and time of publishing of all tasks, by version; the queues are empty after it."""
    found: dict[str, list[tuple[str, float]]] = json.loads(on("broker", f"{PRODUCER} {system} take"))
    return found


def keys_of_the_new_version(system: str, share: int) -> set[str]:
    """Publish a task for each key while version 2 has that share; the keys that it got."""
    divide(system, share)
    assert on("broker", f"{PRODUCER} {system} publish {KEYS}") == "0"
    counts = counted(system)
    found = taken(system)
    assert {name: len(rows) for name, rows in found.items()} == counts
    assert sorted(key for rows in found.values() for key, _at in rows) == sorted(f"customer-{number}" for number in range(KEYS))
    assert abs(counts[NEW] - KEYS * share // 100) <= KEYS // 100
    tell(f"{system}: {counts[NEW]} of {KEYS} keys at {share} %")
    return {key for key, _at in found[NEW]}


@pytest.mark.parametrize("system", ["rq", "rabbitmq", "nats"])
def test_a_share_keeps_its_keys_when_it_grows_and_gives_back_first_what_came_last(system: str) -> None:
    on("broker", f"{PRODUCER} {system} prepare")
    first = keys_of_the_new_version(system, 10)
    second = keys_of_the_new_version(system, 25)
    assert first < second
    assert keys_of_the_new_version(system, 10) == first


@pytest.mark.parametrize("system", ["rq", "rabbitmq", "nats"])
def test_at_0_percent_no_task_comes_within_one_poll_interval(system: str) -> None:
    divide(system, 25)
    taken(system)
    on("broker", f"systemd-run --quiet --unit=keys-{system} {PRODUCER} {system} stream")
    try:
        wait_until(lambda: counted(system)[NEW] > 20, "tasks of version 2")
        divide(system, 0)
        changed = float(on("broker", "date +%s.%N"))
        before = counted(system)[OLD]
        wait_until(lambda: counted(system)[OLD] > before + 300, "tasks after the change")
    finally:
        on("broker", f"systemctl stop keys-{system}")
    found = taken(system)
    late = [at - changed for _key, at in found[NEW] if at > changed]
    assert sum(at > changed + POLL_S for _key, at in found[OLD]) > 100
    assert all(seconds <= POLL_S for seconds in late)
    tell(f"{system}: at 0 % version 2 got {len(late)} tasks after the change was made, and none after {POLL_S} s")


def more_than(before: int) -> bool:
    """Whether the queues on RabbitMQ have more tasks than before."""
    return sum(counted("rabbitmq").values()) > before


def test_divided_anew_under_a_thousand_publishes_a_second_with_confirms() -> None:
    divide("rabbitmq", 10)
    taken("rabbitmq")
    on("broker", f"systemd-run --quiet --unit=keys-load -p StandardOutput=truncate:/run/load.json {PRODUCER} rabbitmq load")
    shares = (25, 50, 100, 30, 0)
    try:
        for share in shares:
            before = sum(counted("rabbitmq").values())
            divide("rabbitmq", share)
            wait_until(partial(more_than, before), "tasks after the change")
    finally:
        on("broker", "systemctl stop keys-load")
    told = json.loads(on("broker", "cat /run/load.json"))
    found = [key for rows in taken("rabbitmq").values() for key, _at in rows]
    rate = told["published"] / told["seconds"]
    assert rate >= 1000, "too slow a load"
    assert told["unroutable"] == 0
    assert sorted(found) == sorted(f"customer-{number}" for number in range(told["published"]))
    tell(
        f"rabbitmq: divided anew {len(shares)} times under {rate:.0f} publishes/s with confirms: {told['published']} confirmed, "
        "none unroutable, each in one queue once"
    )
