# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks divided among versions by a real NATS server: sticky, monotone, none lost while it is reloaded."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import HalfDone, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._route.nats import NatsRouter
from ansible_collections.queueops.fleet.plugins.module_utils._route.route import Route, planned
from ansible_collections.queueops.fleet.plugins.module_utils._route.version_names import named
from nats.js.api import AckPolicy, ConsumerConfig

from tests.contract.servers.nats import NatsServer, program
from tests.contract.servers.redis import free_port
from tests.unit.conftest import wait_for
from tests.unit.route.ad_hoc import ad_hoc

ROUTE, TEMPLATE = "orders", "ORDERS-{version}/worker"
KEYS = [f"customer-{number}" for number in range(10_000)]


def slot(key: str) -> int:
    """What a producer makes of a task's key."""
    return zlib.crc32(key.encode()) % 100


class Routed:
    """A server whose configuration includes our file, with a stream and a consumer of each of three versions."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.mappings = folder, folder / "orders.route"
        self.mappings.write_text("")
        self._monitor = free_port()
        more = f'http: "127.0.0.1:{self._monitor}"\npid_file: "{folder}/pid"\nmappings = {{\n  include "orders.route"\n}}'
        self.server = NatsServer("nats", folder, more)

    def make_streams(self) -> None:
        async def make(client: Any) -> None:
            for version in ("1_0_0", "2_0_0", "3_0_0"):
                await client.jetstream().add_stream(name=f"ORDERS-{version}", subjects=[f"orders-{version}.>"])
                await client.jetstream().add_consumer(
                    f"ORDERS-{version}", ConsumerConfig(durable_name="worker", ack_policy=AckPolicy.EXPLICIT)
                )

        self.server.ask(make)

    def options(self, **more: Any) -> dict[str, Any]:
        """Those of the option ``nats``."""
        found = {
            "mappings": str(self.mappings),
            "config": str(self.folder / "nats.conf"),
            "pid_file": str(self.folder / "pid"),
            "monitor": f"http://127.0.0.1:{self._monitor}",
            "account": "$G",
            "program": program(),
        }
        return {**found, **more}

    def router(self, **more: Any) -> NatsRouter:
        return NatsRouter({"url": self.server.url}, self.options(**more))

    def divide(self, weights: dict[str, int], remove: tuple[str, ...] = (), **more: Any) -> bool:
        """What the module does; whether anything had to be done."""
        own = self.router(**more)
        change = planned(own.look(ROUTE), weights, TEMPLATE, remove, partial(named, backend="nats"))
        own.preflight(ROUTE, "subject", change)
        if change:
            own.apply(ROUTE, "subject", change)
        return bool(change)

    def counts(self) -> dict[str, int]:
        """Messages of each version's stream."""

        async def count(client: Any) -> dict[str, int]:
            names = ("1_0_0", "2_0_0", "3_0_0")
            return {name: (await client.jetstream().stream_info(f"ORDERS-{name}")).state.messages for name in names}

        found: dict[str, int] = self.server.ask(count)
        return found

    def published(self, keys: list[str] = KEYS) -> set[str]:
        """Publish one task of each key; the keys that version 2 got. Each was stored once, by version 1 or 2."""

        async def publish(client: Any) -> set[str]:
            stream = client.jetstream()
            acks = {key: await stream.publish_async(f"orders.{slot(key)}.{key}", b"x") for key in keys}
            await stream.publish_async_completed()
            stored = {key: ack.result().stream for key, ack in acks.items()}
            assert set(stored.values()) <= {"ORDERS-1_0_0", "ORDERS-2_0_0"}
            return {key for key, name in stored.items() if name == "ORDERS-2_0_0"}

        found: set[str] = self.server.ask(publish)
        return found


@pytest.fixture
def routed(tmp_path: Path) -> Iterator[Routed]:
    found = Routed(tmp_path)
    found.server.start()
    found.make_streams()
    yield found
    found.server.kill()


def test_a_share_keeps_its_keys_when_it_grows_and_gives_back_first_what_came_last(routed: Routed) -> None:
    assert routed.divide({"1.0.0": 90, "2.0.0": 10})
    ten = routed.published()
    assert 900 <= len(ten) <= 1100
    assert routed.divide({"1.0.0": 75, "2.0.0": 25})
    assert ten < routed.published()
    assert routed.divide({"1.0.0": 90, "2.0.0": 10})
    assert routed.published() == ten
    assert routed.divide({"1.0.0": 100, "2.0.0": 0})
    assert routed.published() == set()
    assert sum(routed.counts().values()) == 4 * len(KEYS)
    assert not routed.divide({"1.0.0": 100, "2.0.0": 0})
    queues = {"1.0.0": "ORDERS-1_0_0/worker", "2.0.0": "ORDERS-2_0_0/worker"}
    assert routed.router().look(ROUTE) == Route(ROUTE, "subject", queues, ("1.0.0",) * 100, "1.0.0")


def test_a_server_that_is_reloaded_under_load_loses_no_task_and_doubles_none_that_was_acknowledged(routed: Routed) -> None:
    """A reload may end the producers' connections, as NATS does it; what was not acknowledged they publish again."""
    routed.divide({"1.0.0": 100, "2.0.0": 0})
    done, acknowledged, repeated = threading.Event(), [0], set()

    def load() -> None:
        async def publish() -> None:
            client = await nats.connect(routed.server.url, reconnect_time_wait=0.05, error_cb=quiet)
            stream = client.jetstream(timeout=1.0)
            while not done.is_set():
                task = f"orders.{acknowledged[0] % 100}.{acknowledged[0]}"
                try:
                    await stream.publish(task, b"x", headers={"Nats-Msg-Id": task})
                except (TimeoutError, nats.errors.Error):
                    repeated.add(task)
                    continue
                acknowledged[0] += 1
            await client.close()

        asyncio.run(publish())

    def reached(count: int) -> bool:
        return acknowledged[0] > count

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for share in (10, 50, 100, 0):
            wanted = acknowledged[0] + 200
            routed.divide({"1.0.0": 100 - share, "2.0.0": share})
            wait_for(partial(reached, wanted), what="tasks to be published after the change")
    finally:
        done.set()
        thread.join()
    counts = routed.counts()
    assert counts["1_0_0"] and counts["2_0_0"]
    # A repeated one is dropped by its id where it arrived before, unless its slot went to another version's stream meanwhile.
    assert acknowledged[0] <= sum(counts.values()) <= acknowledged[0] + len(repeated)


async def quiet(_problem: Exception) -> None:
    """What goes wrong is raised as well."""


def test_a_file_that_the_server_has_not_taken_is_seen_and_the_same_call_ends_it(routed: Routed) -> None:
    routed.divide({"1.0.0": 100})
    before = routed.mappings.read_text()
    routed.divide({"1.0.0": 0, "2.0.0": 100})
    after = routed.mappings.read_text()
    # As if the run had died before it reloaded the server.
    routed.divide({"1.0.0": 100, "2.0.0": 0})
    assert before != after
    routed.mappings.write_text(after)
    found = routed.router().look(ROUTE)
    assert found is not None and found.weights() == {"1.0.0": 100, "2.0.0": 0}
    assert routed.divide({"1.0.0": 0, "2.0.0": 100})
    assert routed.published(KEYS[:50]) == set(KEYS[:50])


def test_a_version_is_removed_once_no_worker_waits_for_its_tasks(routed: Routed) -> None:
    routed.divide({"1.0.0": 0, "2.0.0": 100})
    released = threading.Event()

    async def work(client: Any) -> None:
        subscription = await client.jetstream().pull_subscribe_bind("worker", "ORDERS-1_0_0")
        while not released.is_set():
            try:
                await subscription.fetch(1, timeout=0.5)
            except TimeoutError:
                continue

    thread = threading.Thread(target=lambda: routed.server.ask(work))
    thread.start()
    try:
        wait_for(lambda: stranded(routed), what="the refusal to strand a worker")
    finally:
        released.set()
        thread.join()
    wait_for(lambda: not stranded(routed), what="the worker to be gone")
    found = routed.router().look(ROUTE)
    assert found is not None and dict(found.queues) == {"2.0.0": "ORDERS-2_0_0/worker"}


def stranded(routed: Routed) -> bool:
    try:
        routed.divide({"2.0.0": 100}, remove=("1.0.0",))
    except Refused as refused:
        assert "would be stranded" in str(refused)
        return True
    return False


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"1.0.0": 60, "2.0.0": 30}, "sum to 90, and not to 100"),
        ({"1.0.0": 90, "9.0.0": 10}, r"Version 9\.0\.0 is not known: NATS has no stream ORDERS-9_0_0"),
    ],
)
def test_what_is_no_division_is_refused_and_nothing_changed(routed: Routed, weights: dict[str, int], told: str) -> None:
    routed.divide({"1.0.0": 100})
    before = routed.mappings.read_bytes()
    with pytest.raises(Refused, match=told):
        routed.divide(weights)
    assert routed.mappings.read_bytes() == before


def test_what_is_not_ours_or_not_right_is_refused_and_left_as_it_is(routed: Routed) -> None:
    with pytest.raises(Refused, match="There is no file"):
        routed.router(mappings=str(routed.folder / "none")).look(ROUTE)
    with pytest.raises(Unavailable, match="does not tell its mappings"):
        routed.router(monitor="http://127.0.0.1:1").look(ROUTE)
    (routed.folder / "elsewhere").write_text("")
    with pytest.raises(Refused, match="does not include"):
        routed.divide({"1.0.0": 100}, mappings=str(routed.folder / "elsewhere"))
    routed.divide({"1.0.0": 100})
    with pytest.raises(Refused, match=r"maps orders\.0\.> already, and not by the file"):
        routed.divide({"1.0.0": 100}, mappings=str(routed.folder / "elsewhere"))
    ours = routed.mappings.read_text()
    routed.mappings.write_text(ours.replace("orders-1_0_0.7.>", "elsewhere.7.>"))
    with pytest.raises(Refused, match="does not hold route orders as this module writes it"):
        routed.divide({"1.0.0": 100})
    routed.mappings.write_text(ours)
    configuration = routed.folder / "nats.conf"
    plain = configuration.read_text()
    configuration.write_text(plain + "\nthis is: { no configuration\n")
    with pytest.raises(Refused, match="is not valid"):
        routed.divide({"1.0.0": 50, "2.0.0": 50})
    assert routed.mappings.read_text() == ours


def test_a_server_that_does_not_take_the_file_is_told_of(routed: Routed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.queueops.fleet.plugins.module_utils._route.nats._TAKES_S", 0.5)
    with subprocess.Popen(["sleep", "60"]) as other:
        (routed.folder / "pid").write_text(str(other.pid))
        with pytest.raises(HalfDone, match="was reloaded and does not route as"):
            routed.divide({"1.0.0": 100})
        other.kill()


def test_the_modules_do_so_too(routed: Routed) -> None:
    options = {"backend": "nats", "url": routed.server.url, "route": ROUTE, "nats": routed.options()}
    assert ad_hoc("queue_route", {**options, "queue": TEMPLATE, "weights": {"1.0.0": 80, "2.0.0": 20}})["changed"]
    assert not ad_hoc("queue_route", {**options, "queue": TEMPLATE, "weights": {"1.0.0": 80, "2.0.0": 20}})["changed"]
    routed.published(KEYS[:20])
    told = ad_hoc("queue_route_info", options)
    assert [(one["weight"], one["state"]) for one in told["versions"]] == [(80, "active"), (20, "active")]
    assert sum(one["queued"] for one in told["versions"]) == 20
    refused = ad_hoc("queue_isolate", {**options, "task": "new", "queue": "ORDERS-3_0_0/worker", "state": "isolated"})
    assert "NATS cannot keep a task type of route orders apart" in refused["msg"]
