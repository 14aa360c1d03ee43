# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Celery workers on Redis have in hand that do not listen any more; what listening ones have is not theirs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._queue import celery_redis_keys
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import FINISH, Holder, Match, Rule
from kombu import pools

from tests.unit.conftest import RedisServer, wait_for
from tests.unit.queue.test_celery_redis import Lab

#: Whoever it is: Celery does not record whose a message is.
KILLED = (Holder("host1", (4711,)),)

APPLICATION = """
import os, time
from celery import Celery
app = Celery("app", broker=%(url)r)
app.conf.update(task_acks_late=%(late)r, worker_prefetch_multiplier=1)
@app.task(name="app.note", rate_limit=%(limit)r)
def note(*_values, **_named):
    while not os.path.exists("gate"):
        time.sleep(0.02)
app.worker_main(["worker", "-n", %(node)r, "-Q", "mail", "--concurrency=1", "--without-gossip", "--without-mingle"])
"""

Start = Callable[..., None]


@pytest.fixture
def lab(redis_server: RedisServer) -> Iterator[Lab]:
    found = Lab(redis_server)
    yield found
    found.app.close()
    pools.reset()
    found.client.close()


@pytest.fixture
def start(lab: Lab, tmp_path: Path) -> Iterator[Start]:
    """Starts a worker under a node's name, which acknowledges late or not; its tasks last until the test is over, or there is a gate."""
    started: list[subprocess.Popen[bytes]] = []

    def starting(node: str, late: bool, limit: str | None = None) -> None:
        path = tmp_path / ("%d.py" % len(started))
        path.write_text(APPLICATION % {"url": lab.app.conf.broker_url, "late": late, "node": node, "limit": limit})
        with open(tmp_path / "log", "ab") as log:
            started.append(subprocess.Popen([sys.executable, str(path)], cwd=tmp_path, stdout=log, stderr=log))
        listens = len(started)
        wait_for(lambda: sum(int(one["psub"]) > 0 for one in lab.client.client_list()) == listens, limit=60, what="a worker that listens")

    yield starting
    (tmp_path / "gate").touch()
    for process in started:
        process.terminate()
    for process in started:
        process.wait(30)


def test_what_nobody_who_listens_has_in_hand_is_treated_by_rule(lab: Lab) -> None:
    lab.publish(3)
    mine = lab.take(2)
    kept, given_up = (Rule(Match(ids=(mine[0],)), FINISH, name="kept"), Rule(name="all"))
    for check in (True, False):
        report = lab.redrive(kept, given_up, source="executing", held_by=KILLED, check=check)
        assert (report.matched, report.moved, report.remaining, report.held) == (2, 1, 1, 2)
        assert report.rules[0]["sample"][0]["id"] == mine[0]
    assert lab.client.hlen("unacked") == 1 and mine[1] in lab.ids("mail")


def test_what_is_in_hand_of_another_queue_is_counted_and_not_touched(lab: Lab) -> None:
    lab.publish(1)
    lab.publish(1, "other")
    lab.take(1, "other")
    report = lab.redrive(source="executing", held_by=KILLED, check=True)
    assert (report.matched, report.held) == (0, 1)


def test_what_a_listening_worker_has_in_hand_is_left_to_it(lab: Lab, start: Start) -> None:
    lab.publish(1)
    (dead,) = lab.take(1)
    start("mailer@1.0.0:worker2:1", True)
    (living,) = lab.publish(1)
    wait_for(lambda: lab.client.hlen("unacked") == 2 and lab.state().executing == 1, what="a task in hand")
    report = lab.redrive(source="executing", held_by=KILLED)
    assert (report.matched, report.moved, report.held) == (1, 1, 1)
    assert report.sample[0]["id"] == dead
    assert lab.client.hlen("unacked") == 1 and living.encode() in lab.client.hvals("unacked")[0]


def test_what_a_listening_worker_has_in_hand_is_not_abandoned(lab: Lab, start: Start) -> None:
    start("mailer@1.0.0:worker2:1", True)
    lab.publish(2)
    wait_for(lambda: lab.client.hlen("unacked") > 0 and lab.state().executing == 1, what="a task in hand")
    report = lab.redrive(source="abandoned")
    assert (report.matched, report.moved) == (0, 0)
    # Of one that listens no more it cannot be told whether it is killed, or stops and will finish it.
    lab.publish(1)
    lab.take(1)
    with pytest.raises(Refused, match="1 workers listen, and 1 of mail are in the hands of none that answers"):
        lab.redrive(source="abandoned")


def test_a_rate_limit_makes_it_unknown(lab: Lab, start: Start, tmp_path: Path) -> None:
    """What waits for its turn is in the hands of a living worker, which does not tell of it."""
    (tmp_path / "gate").touch()
    start("mailer@1.0.0:worker2:1", True, limit="1/h")
    (_first, waits) = lab.publish(2)
    wait_for(lambda: lab.client.llen("mail") == 0 and [waits] == held(lab), what="a task that waits for its turn")
    with pytest.raises(Unavailable, match=r"do not tell which tasks wait for their rate limit \(app.note\)"):
        lab.redrive(source="executing", held_by=KILLED)
    assert held(lab) == [waits]


def held(lab: Lab) -> list[str]:
    return [json.loads(raw)[0]["headers"]["id"] for raw in lab.client.hvals("unacked")]


def test_a_worker_that_does_not_answer_makes_it_unknown(lab: Lab) -> None:
    lab.publish(1)
    lab.take(1)
    listening = lab.client.pubsub()
    listening.psubscribe("/0.celery.pidbox")
    wait_for(lambda: lab.client.pubsub_numpat() == 1, what="the subscription")
    try:
        with pytest.raises(Unavailable, match=r"Not every Celery worker at .* answered: 1 listen, 0 answered"):
            lab.redrive(source="executing", held_by=KILLED, check=True, settings={"inspect_timeout": 0.2})
        assert "1 listen, 0 answered" in lab.backend(inspect_timeout=0.2).lost_with("2.0.0")
    finally:
        listening.close()
    assert lab.client.hlen("unacked") == 1


def test_too_many_are_not_compared(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.publish(3)
    lab.take(3)
    monkeypatch.setattr(celery_redis_keys, "READ_WHOLE", 2)
    with pytest.raises(Unavailable, match="hold 3 messages, too many to be compared"):
        lab.redrive(source="executing", held_by=KILLED, check=True)


def test_a_version_that_acknowledges_early_or_does_not_answer_would_lose_tasks(lab: Lab, start: Start) -> None:
    assert "no listening worker has version 2.0.0 in its name" in lab.backend().lost_with("2.0.0")
    assert "were not asked" in lab.backend(ask_workers=False).lost_with("2.0.0")
    start("mailer@1.0.0:worker1:1", True)
    start("mailer@2.0.0:worker1:2", False)
    assert lab.backend().lost_with("1.0.0") == ""
    told = lab.backend().lost_with("2.0.0")
    assert told.startswith("version 2.0.0 acknowledges tasks before they have run (app.note; acks_late is not set)"), told
