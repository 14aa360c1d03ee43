# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbooks drain and redrive, over the fleet specification alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.conftest import RedisServer
from tests.unit.playbooks.conftest import Fleet, must
from tests.unit.queue.conftest import Broker


@pytest.fixture
def broker(redis_server: RedisServer, tmp_path: Path) -> Broker:
    return Broker(redis_server, tmp_path)


@pytest.mark.sampled
def test_drain_stops_the_workers_and_active_starts_them(deployed: Fleet, broker: Broker) -> None:
    broker.publish(1)
    output = must(deployed.run("drain"))
    states = {worker["state"] for host in deployed.hosts.values() for worker in host.transaction().status()["workers"]}
    assert states == {"stopped"}, output
    assert "changed=0" in must(deployed.run("drain"))
    must(deployed.run("drain", state="active"))
    assert deployed.versions() == {"1.0.0"}


def test_drain_can_pause_instead_and_leave_the_workers_running(deployed: Fleet, broker: Broker) -> None:
    broker.publish(1)
    before = deployed.everything()
    must(deployed.run("drain", how="pause", expires=900, reason="release-2"))
    assert deployed.everything() == before
    paused = broker.backend().look(["mail"]).queues[0]
    assert paused.paused and paused.paused_by["owner"] == "mailer" and paused.paused_by["reason"] == "release-2"
    must(deployed.run("drain", state="active"))
    assert not broker.backend().look(["mail"]).queues[0].paused


def test_drain_refuses_a_pause_that_the_system_does_not_have(deployed: Fleet) -> None:
    deployed.specification["queue"]["backend"] = "redis_list"
    before = deployed.everything()
    done = deployed.run("drain", how="pause")
    words = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert "A redis_list queue cannot be paused (option how). Nothing was changed. Leave how out" in words
    assert deployed.everything() == before


@pytest.mark.sampled
def test_redrive_counts_in_check_mode_and_then_does_that(deployed: Fleet, broker: Broker) -> None:
    bad = broker.fail(6, worker="mailer@2.0.0:worker1:1")
    good = broker.fail(2, worker="mailer@1.0.0:worker1:1")
    rules = json.dumps({"rules": [{"match": {"version": "2.0.0"}}, {"match": {"version": "1.0.0"}, "action": "park"}]})
    before = broker.snapshot()
    told = "mail: 8 matched, park 2, requeue 6, 0 skipped, 0 left"
    foreseen = " ".join(must(deployed.run("redrive", "--check", "-e", rules)).split())
    assert told in foreseen and "conservation" not in foreseen
    assert broker.snapshot() == before
    assert told + "; conservation proven" in " ".join(must(deployed.run("redrive", "-e", rules)).split())
    assert sorted(broker.queue().job_ids) == sorted(bad)
    assert not set(good) & set(broker.queue().job_ids)
    assert "changed=0" in must(deployed.run("redrive", "-e", rules))


def test_redrive_refuses_a_rule_that_the_system_does_not_know(deployed: Fleet, broker: Broker) -> None:
    broker.fail(1)
    before = broker.snapshot()
    done = deployed.run("redrive", "-e", json.dumps({"rules": [{"match": {"field": {"a": "1"}}}]}))
    assert done.returncode != 0
    assert "cannot select tasks by match.field" in " ".join(done.stdout.split())
    assert broker.snapshot() == before
