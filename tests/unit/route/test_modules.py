# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules of routes where the producers decide: as an operator runs them, against a real RQ and a file of flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Queue

from tests.unit.conftest import RedisServer
from tests.unit.route.ad_hoc import ad_hoc

NEWS = {"task": "mailer.newsletter", "queue": "mail-news"}


@pytest.fixture
def options(redis_server: RedisServer, tmp_path: Path) -> dict[str, Any]:
    """How the route is reached; RQ knows the queues of two versions and of a task type."""
    client = Redis(unix_socket_path=redis_server.socket)
    for queue in ("mail-1.0.0", "mail-2.0.0", "mail-news"):
        client.sadd("rq:queues", f"rq:queue:{queue}")
    for number in range(6):
        Queue("mail-1.0.0", connection=client).enqueue("mailer.newsletter" if number % 2 else "mailer.invoice")
    flags = {"fleet": "mailer", "path": str(tmp_path / "flags.json"), "redis_key": "flags"}
    return {"backend": "rq", "url": redis_server.url, "route": "mail", "flags": flags}


def test_a_route_is_made_looked_at_and_changed_in_both_stores(options: dict[str, Any], redis_server: RedisServer) -> None:
    path, client = Path(options["flags"]["path"]), Redis(unix_socket_path=redis_server.socket)
    shares = {"weights": {"1.0.0": 75, "2.0.0": 25}}
    assert ad_hoc("queue_route", {**options, **shares}, check=True)["changed"]
    assert not path.exists() and not client.exists("flags")
    done = ad_hoc("queue_route", {**options, **shares})
    assert done["changed"] and done["weights"] == shares["weights"]
    assert path.read_bytes() == client.get("flags")
    assert not ad_hoc("queue_route", {**options, **shares})["changed"]
    assert ad_hoc("queue_route", {**options, "weights": {"1.0.0": 100, "2.0.0": 0}})["moved"] == 25
    told = ad_hoc("queue_route_info", options)
    assert told["key"] == "targetingKey"
    assert [(one["version"], one["weight"], one["state"], one["queued"]) for one in told["versions"]] == [
        ("1.0.0", 100, "active", 6),
        ("2.0.0", 0, "drained", 0),
    ]
    refused = ad_hoc("queue_route", {**options, "weights": {"2.0.0": 100}, "remove": ["1.0.0"]})
    assert "Version 1.0.0 has 100 % of the tasks of route mail and no weight" in refused["msg"]
    assert ad_hoc("queue_route", {**options, "weights": {"1.0.0": 100}, "remove": ["2.0.0"]})["weights"] == {"1.0.0": 100}


def test_what_is_queued_moves_with_its_task_type_out_and_back(options: dict[str, Any], tmp_path: Path) -> None:
    ad_hoc("queue_route", {**options, "weights": {"1.0.0": 100}})
    isolated = {**options, **NEWS, "state": "isolated", "state_dir": str(tmp_path / "state")}
    assert ad_hoc("queue_isolate", isolated, check=True)["moved"] == {"mail-1.0.0": 3}
    assert ad_hoc("queue_isolate", isolated)["moved"] == {"mail-1.0.0": 3}
    assert not ad_hoc("queue_isolate", isolated)["changed"]
    back = ad_hoc("queue_isolate", {**isolated, "state": "joined"})
    assert back["moved"] == {"mail-news": 3} and back["routed"]
    assert ad_hoc("queue_route_info", options)["versions"][0]["queued"] == 6


def test_a_broker_that_does_not_route_needs_flags(options: dict[str, Any]) -> None:
    refused = ad_hoc("queue_route", {**options, "flags": None, "weights": {"1.0.0": 100}})
    assert "cannot divide the tasks of a queue among versions by itself" in refused["msg"] and "flags" in refused["msg"]
