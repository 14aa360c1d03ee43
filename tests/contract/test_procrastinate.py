# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is special to Procrastinate: locks, stalled workers, schemas, and what its tables allow."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue import procrastinate as backend_module
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveRequest, Rule

from tests.contract.common import QUEUE, executing, redriven, state
from tests.contract.conftest import Servers
from tests.contract.systems.procrastinate import Procrastinate
from tests.unit.conftest import wait_for


@pytest.fixture
def own(servers: Servers) -> Iterator[Procrastinate]:
    server = servers.get("postgresql15")
    server.clear()
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    found = Procrastinate(server, folder)
    found.declare(QUEUE)
    try:
        yield found
    finally:
        found.close()
        shutil.rmtree(folder, ignore_errors=True)


def statuses(own: Procrastinate, ids: list[str]) -> list[str]:
    rows = own.query("SELECT status::text FROM procrastinate_jobs WHERE id = ANY(%s) ORDER BY id", [int(task) for task in ids])
    return [row[0] for row in rows]


@pytest.mark.parametrize("rule", [Rule(), Rule(Match(task="*"))], ids=["sweep", "walk"])
def test_a_queueing_lock_stays_unique(own: Procrastinate, rule: Rule) -> None:
    ids = own.fail(QUEUE, 4)
    own.query("UPDATE procrastinate_jobs SET queueing_lock = 'a' WHERE id = ANY(%s)", [int(task) for task in ids[:2]])
    own.query("UPDATE procrastinate_jobs SET queueing_lock = 'b' WHERE id = %s", int(ids[2]))
    (queued,) = own.publish(QUEUE, 1)
    own.query("UPDATE procrastinate_jobs SET queueing_lock = 'b' WHERE id = %s", int(queued))
    report = redriven(own, rule)
    assert (report.moved, report.skipped_because) == (2, {"another task with its queueing lock is queued": 2})
    assert statuses(own, ids) == ["todo", "failed", "failed", "todo"]


def test_tasks_of_stalled_workers_are_abandoned_and_come_back(own: Procrastinate) -> None:
    ids = own.publish(QUEUE, 2, "hold")
    worker = own.start_worker(QUEUE)
    executing(own, 1)
    worker.kill()
    own.query("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '40 s'")
    found = own.open().look([QUEUE])
    assert (found.queues[0].executing, found.queues[0].abandoned, found.queues[0].queued) == (0, 1, 1)
    assert [worker.state for worker in found.workers] == ["gone"]
    assert redriven(own, source="executing").matched == 0
    assert redriven(own, source="abandoned", run="r1").moved == 1
    own.gate.touch()
    own.start_worker(QUEUE)
    wait_for(lambda: len(own.done()) == 2, limit=40, what="the tasks")
    assert sorted(own.done()) == sorted(ids)


def test_an_abandoned_task_that_was_to_be_aborted_is_left(own: Procrastinate) -> None:
    (task,) = own.publish(QUEUE, 1)
    own.query("UPDATE procrastinate_jobs SET status = 'doing', abort_requested = true WHERE id = %s", int(task))
    assert redriven(own, source="abandoned").skipped_because == {"its abortion was requested": 1}
    assert redriven(own, Rule(action="fail"), source="abandoned", run="r2").moved == 1
    assert statuses(own, [task]) == ["failed"]


def test_parked_tasks_are_taken_by_no_worker_and_are_not_mistaken(own: Procrastinate) -> None:
    """A worker without -q takes from every queue there is."""
    ids = own.fail(QUEUE, 3)
    (cancelled,) = own.publish(QUEUE, 1)
    own.query("SELECT procrastinate_cancel_job_v1(%s, false, false)", int(cancelled))
    assert redriven(own, Rule(Match(ids=(ids[0], ids[1])), "park"), Rule()).by_action == {"park": 2, "requeue": 1}
    own.start_worker("", "any")
    wait_for(lambda: own.done() == [ids[2]], limit=40, what="the task that was not parked")
    assert statuses(own, ids) == ["cancelled", "cancelled", "succeeded"]
    assert redriven(own, source="parked", run="r2").moved == 2
    assert redriven(own, source="parked", run="r3").matched == 0
    assert statuses(own, [cancelled]) == ["cancelled"]
    wait_for(lambda: len(own.done()) == 3, limit=40, what="the others")


def test_what_a_redriven_task_is_like(own: Procrastinate) -> None:
    (task,) = own.fail(QUEUE, 1)
    own.query("UPDATE procrastinate_jobs SET priority = 7, lock = 'x', args = '{\"n\": 12345678901234567890123, \"e\": []}' WHERE true")
    redriven(own)
    (row,) = own.query(
        "SELECT status::text, attempts, priority, lock, args::text, scheduled_at FROM procrastinate_jobs WHERE id = %s", int(task)
    )
    assert row == ("todo", 2, 7, "x", '{"e": [], "n": 12345678901234567890123}', None)
    events = own.query("SELECT type::text FROM procrastinate_events WHERE job_id = %s ORDER BY id", int(task))
    assert [entry[0] for entry in events] == ["deferred", "started", "failed", "retried"]


def test_match_by_arguments(own: Procrastinate) -> None:
    ids = own.fail(QUEUE, 3)
    own.query('UPDATE procrastinate_jobs SET args = \'{"to": {"n": [1, 2]}}\' WHERE id = %s', int(ids[1]))
    report = redriven(own, Rule(Match(field={"to.n.1": "2"})))
    assert (report.moved, report.sample[0]["id"]) == (1, ids[1])
    assert "hunter2" not in str(report.as_dict())


def test_check_mode_makes_no_table(own: Procrastinate) -> None:
    own.fail(QUEUE, 2)
    assert redriven(own, check=True).matched == 2
    assert redriven(own, source="parked", check=True).matched == 0
    assert own.query("SELECT to_regclass('queueops_redrive')") == [(None,)]


def test_another_schema(own: Procrastinate) -> None:
    ids = own.fail(QUEUE, 2)
    own.query('ALTER SCHEMA public RENAME TO "Shop 1"')
    own.query("CREATE SCHEMA public")
    with pytest.raises(Refused) as caught:
        own.open().look([QUEUE])
    assert caught.value.option == "schema"
    backend = own.open(schema="Shop 1")
    assert backend.look([QUEUE]).queues[0].failed == 2
    assert engine.redrive(backend, RedriveRequest(QUEUE)).moved == 2
    assert own.query('SELECT count(*) FROM "Shop 1".queueops_redrive') == [(2,)]
    assert len(ids) == 2


def test_a_database_that_takes_no_writes(own: Procrastinate) -> None:
    own.fail(QUEUE, 2)
    backend = own.open(url=own.server.url + "?options=-c%20default_transaction_read_only%3Don")
    assert backend.look([QUEUE]).queues[0].failed == 2
    with pytest.raises(Refused) as caught:
        engine.redrive(backend, RedriveRequest(QUEUE))
    assert "read-only" in caught.value.sentence() and caught.value.option == "url"
    assert state(own).failed == 2


def test_a_user_that_may_not_make_our_table(own: Procrastinate) -> None:
    own.fail(QUEUE, 2)
    own.query("DROP ROLE IF EXISTS reader")
    own.query("CREATE ROLE reader LOGIN PASSWORD 'reader-pw'")
    own.query("GRANT USAGE ON SCHEMA public TO reader")
    own.query("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    backend = own.open(username="reader", password="reader-pw")
    assert backend.look([QUEUE]).queues[0].failed == 2
    with pytest.raises(Refused) as caught:
        engine.redrive(backend, RedriveRequest(QUEUE))
    assert caught.value.option == "username" and "queueops_redrive" in caught.value.sentence()
    assert "reader-pw" not in caught.value.sentence()


def test_counting_is_given_up_and_said_to_be_unknown(own: Procrastinate, monkeypatch: pytest.MonkeyPatch) -> None:
    own.fail(QUEUE, 2)
    monkeypatch.setattr(backend_module, "COUNT_S", 0.05)
    monkeypatch.setattr(backend_module, "_COUNTS", "SELECT queue_name, 0, 0, pg_sleep(5)::text FROM procrastinate_jobs")
    look = own.open().look([QUEUE])
    assert (look.queues[0].queued, look.queues[0].failed, look.queues[0].executing) == (None, None, 0)
    assert "given up" in look.unknown["queues.queued"]


def test_there_are_no_tables(own: Procrastinate) -> None:
    own.server.clear()
    for order in (lambda: own.open().look([QUEUE]), lambda: redriven(own)):
        with pytest.raises(Refused) as caught:
            order()
        assert not isinstance(caught.value, NotFound) and caught.value.option == "schema"
