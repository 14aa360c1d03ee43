# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is special to Procrastinate: locks, stalled workers, schemas, and what its tables allow."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._queue import procrastinate as backend_module
from ansible_collections.queueops.fleet.plugins.module_utils._queue import procrastinate_counts as counts_module
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, RedriveRequest, Rule
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import open_backend

from tests.contract.common import QUEUE, executing, redriven, state
from tests.contract.conftest import Servers
from tests.contract.servers.certificates import Authority
from tests.contract.servers.postgresql import PASSWORD, PostgresqlServer
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
    monkeypatch.setattr(counts_module, "_COUNT", "SELECT queue_name, pg_sleep(5)::text, 0 FROM procrastinate_jobs")
    look = own.open().look([QUEUE])
    assert (look.queues[0].queued, look.queues[0].failed, look.queues[0].executing) == (None, None, 0)
    assert "given up" in look.unknown["queues.queued"] and "no task is queued" in look.unknown["queues.oldest_task_age_s"]


def test_there_are_no_tables(own: Procrastinate) -> None:
    own.server.clear()
    for order in (lambda: own.open().look([QUEUE]), lambda: redriven(own)):
        with pytest.raises(Refused) as caught:
            order()
        assert not isinstance(caught.value, NotFound) and caught.value.option == "schema"


def test_what_is_due_later_stays_so(own: Procrastinate) -> None:
    """A task that is moved to another queue before it was ever tried."""
    own.declare("undo")
    ids = own.publish(QUEUE, 3)
    own.query("UPDATE procrastinate_jobs SET scheduled_at = now() + interval '30 days' WHERE id = ANY(%s)", [int(task) for task in ids[:2]])
    own.query("UPDATE procrastinate_jobs SET scheduled_at = now() - interval '1 day' WHERE id = %s", int(ids[2]))
    assert redriven(own, Rule(Match(ids=(ids[0], ids[2])), destination="undo"), Rule(action="park"), source="queued").moved == 3
    assert redriven(own, source="parked", run="r2").moved == 1
    rows = own.query("SELECT id, queue_name, scheduled_at > now(), attempts FROM procrastinate_jobs WHERE status = 'todo' ORDER BY id")
    assert rows == [(int(ids[0]), "undo", True, 0), (int(ids[1]), QUEUE, True, 1), (int(ids[2]), "undo", None, 0)]
    found = own.open().look([QUEUE, "undo"]).queues
    assert [(entry.queued, entry.scheduled) for entry in found] == [(0, 1), (1, 1)]


def test_a_look_is_of_one_moment(own: Procrastinate, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that a worker takes in the middle of a look is seen where it was, and not nowhere."""
    (task,) = own.publish(QUEUE, 1)
    original = counts_module.count

    def taken(*arguments: Any) -> Any:
        own.query("UPDATE procrastinate_jobs SET status = 'doing' WHERE id = %s", int(task))
        return original(*arguments)

    monkeypatch.setattr(backend_module, "count", taken)
    found = state(own)
    assert (found.queued, found.executing, found.abandoned) == (1, 0, 0)


def copied(own: Procrastinate, status: str, count: int) -> None:
    """Many tasks at once, as a server that has been running for a while holds them."""
    own.query("ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER")
    insert = "INSERT INTO procrastinate_jobs (queue_name, task_name, status) SELECT %s, 'note', %s FROM generate_series(1, %s)"
    own.query(insert, QUEUE, status, count)
    own.query("ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER")
    own.query("ANALYZE procrastinate_jobs")


@pytest.mark.parametrize("many", ["todo", "failed"])
def test_very_many_are_told_by_a_sample_and_said_to_be(own: Procrastinate, monkeypatch: pytest.MonkeyPatch, many: str) -> None:
    monkeypatch.setattr(counts_module, "SMALL_PAGES", 100)
    monkeypatch.setattr(counts_module, "SAMPLE_PAGES", 60)
    monkeypatch.setattr(counts_module, "MANY", 10000)
    few = "failed" if many == "todo" else "todo"
    copied(own, few, 37)
    copied(own, many, 60000)
    own.declare("other")
    own.publish("other", 3)
    look = own.open().look([QUEUE, "other"])
    mail, other = look.queues
    big, small = (mail.queued, mail.failed) if many == "todo" else (mail.failed, mail.queued)
    assert (small, other.queued, other.scheduled, other.failed) == (37, 3, 0, 0)
    field = "queued" if many == "todo" else "failed"
    note = look.unknown["queues." + field]
    told = re.fullmatch(r"mail: an estimate from a sample of its tasks, give or take (\d+) %", note)
    assert told and big is not None and abs(big - 60000) <= 60000 * int(told.group(1)) / 100 * 1.5, (big, note)
    # None of them is scheduled, but a sample cannot tell.
    assert mail.scheduled == (None if many == "todo" else 0) and ("queues.scheduled" in look.unknown) == (many == "todo")
    assert mail.oldest_task_age_s is None and other.oldest_task_age_s is not None
    # Where there is no more than that, it is counted one by one.
    monkeypatch.setattr(counts_module, "MANY", 60000)
    look = own.open().look([QUEUE])
    mail = look.queues[0]
    assert ((mail.queued, mail.failed) if many == "todo" else (mail.failed, mail.queued)) == (60000, 37)
    assert mail.scheduled == 0 and not {"queues.queued", "queues.failed", "queues.scheduled"} & set(look.unknown)


def test_a_locked_table_is_named_and_not_waited_for(own: Procrastinate) -> None:
    """As a migration locks it."""
    own.fail(QUEUE, 2)
    with psycopg.connect(own.server.url) as connection:
        connection.execute("LOCK TABLE procrastinate_jobs IN ACCESS EXCLUSIVE MODE")
        for order in (
            lambda: own.open(connect_timeout=1.0).look([QUEUE]),
            lambda: engine.redrive(own.open(connect_timeout=1.0), RedriveRequest(QUEUE)),
        ):
            with pytest.raises(Unavailable) as caught:
                order()
            assert "lock" in caught.value.message and "migration" in str(caught.value.next_step), caught.value.sentence()
    assert (state(own).failed, redriven(own).moved) == (2, 2)


@pytest.mark.parametrize("rules", [(), (Rule(Match(task="note")),)], ids=["all", "by_rules"])
def test_tasks_that_a_dying_run_still_holds_are_waited_for(own: Procrastinate, rules: tuple[Rule, ...]) -> None:
    """The server lets go of them when it notices that the run is dead."""
    ids = own.fail(QUEUE, 5)
    reports: list[Any] = []
    with psycopg.connect(own.server.url) as connection:
        connection.execute("SELECT 1 FROM procrastinate_jobs WHERE id = ANY(%s) FOR UPDATE", [[int(task) for task in ids[1:4]]])
        redrive = threading.Thread(target=lambda: reports.append(redriven(own, *rules)))
        redrive.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'queueops.fleet' AND wait_event_type = 'Lock'"
        wait_for(lambda: own.query(waiting) == [(1,)], what="the redrive to wait for the other one")
    redrive.join(30)
    assert [(report.moved, report.skipped) for report in reports] == [(5, 0)]


@pytest.mark.parametrize("rules", [(), (Rule(Match(task="note")),)], ids=["all", "by_rules"])
def test_tasks_that_others_go_on_holding_are_told(own: Procrastinate, rules: tuple[Rule, ...]) -> None:
    ids = own.fail(QUEUE, 5)
    with psycopg.connect(own.server.url) as connection:
        connection.execute("SELECT 1 FROM procrastinate_jobs WHERE id = ANY(%s) FOR UPDATE", [[int(task) for task in ids[1:4]]])
        report = engine.redrive(own.open(connect_timeout=1.0), RedriveRequest(QUEUE, rules=rules or (Rule(),), run="r1"))
    assert (report.moved, report.matched, report.remaining) == (2, 5, 0)
    assert report.skipped_because == {"another session of the database holds it; run again when that has ended": 3}
    again = engine.redrive(own.open(), RedriveRequest(QUEUE, rules=rules or (Rule(),), run="r1"))
    assert (again.moved, again.skipped) == (3, 0) and statuses(own, ids) == ["todo"] * 5


def test_a_task_that_is_deferred_at_the_same_moment_with_its_lock(own: Procrastinate) -> None:
    """Its transaction is open when the redrive looks, and then commits: the redriven task has to stay. The lock's name misleads nobody."""
    (task,) = own.fail(QUEUE, 1)
    own.query("UPDATE procrastinate_jobs SET queueing_lock = 'SSL certificate' WHERE id = %s", int(task))
    reports: list[Any] = []
    with psycopg.connect(own.server.url) as connection:
        connection.execute(
            "INSERT INTO procrastinate_jobs (queue_name, task_name, queueing_lock) VALUES (%s, 'note', 'SSL certificate')", (QUEUE,)
        )
        redrive = threading.Thread(target=lambda: reports.append(redriven(own)))
        redrive.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'queueops.fleet' AND wait_event_type = 'Lock'"
        wait_for(lambda: own.query(waiting) == [(1,)], what="the redrive to wait for the other one")
    redrive.join(30)
    assert [(report.moved, report.skipped) for report in reports] == [(0, 1)]
    assert statuses(own, [task]) == ["failed"]


def test_an_error_shows_no_arguments(own: Procrastinate) -> None:
    own.fail(QUEUE, 1)
    own.query("ALTER TABLE procrastinate_jobs ADD CONSTRAINT none_again CHECK (attempts < 2)")
    with pytest.raises(Unavailable) as caught:
        redriven(own)
    assert "none_again" in caught.value.message and "hunter2" not in caught.value.sentence() + str(caught.value.details)


@pytest.mark.parametrize("address", ["postgresql://u:hunter%zz@127.0.0.1/x", "postgresql://u:hunter/2@127.0.0.1/x"])
def test_an_address_that_cannot_be_read_shows_no_password(own: Procrastinate, address: str) -> None:
    with pytest.raises(Refused) as caught:
        own.open(url=address).look([QUEUE])
    assert caught.value.option == "url" and "hunter" not in caught.value.sentence() and "%25" in str(caught.value.next_step)


def test_of_several_servers_the_one_that_takes_writes(own: Procrastinate, tmp_path: Path) -> None:
    ids = own.fail(QUEUE, 2)
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o755)
    standby = PostgresqlServer("postgresql15", tmp_path)
    standby.start()
    try:
        other = Procrastinate(standby, tmp_path)
        other.declare(QUEUE)
        other.query("ALTER DATABASE test SET default_transaction_read_only = on")
        here = own.server.url.partition("@")[2].partition("/")[0]
        several = own.open(url=standby.url.replace("/test", ",%s/test" % here))
        assert engine.redrive(several, RedriveRequest(QUEUE)).moved == 2
        assert statuses(own, ids) == ["todo", "todo"]
        alone = own.open(url=standby.url.replace("/test", ",%s/test" % here) + "?target_session_attrs=any")
        with pytest.raises(Refused, match="read-only"):
            engine.redrive(alone, RedriveRequest(QUEUE))
    finally:
        standby.stop()


def test_the_oldest_schema_that_is_understood(own: Procrastinate) -> None:
    """That of Procrastinate 3.1 has neither the event nor the function with which failed tasks are retried."""
    own.server.clear()
    folder = files("procrastinate.sql.migrations")
    for script in sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql") and entry.name < "03.02"):
        own.query((folder / script).read_text())
    insert = "INSERT INTO procrastinate_jobs (queue_name, task_name, status) VALUES ('mail', 'note', %s)"
    for status in ("todo", "failed", "failed"):
        own.query(insert, status)
    found = state(own)
    assert (found.queued, found.failed) == (1, 2) and found.oldest_task_age_s is not None
    assert redriven(own, Rule(Match(task="note"))).moved == 2
    assert state(own).queued == 3


class TlsServer(PostgresqlServer):
    """Speaks TLS as ``localhost``, and lets in nobody without."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        super().__init__("postgresql15", folder)
        self._authority = authority

    def _make(self) -> None:
        super()._make()
        for source, name in zip(self._authority.sign("localhost"), ("server.crt", "server.key"), strict=True):
            target = self._data / name
            shutil.copy2(source, target)
            os.chown(target, self._data.stat().st_uid, -1)
        with open(self._data / "postgresql.conf", "a") as settings:
            settings.write("ssl = on\n")
        (self._data / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\n")


@pytest.fixture(scope="module")
def secure() -> Iterator[tuple[TlsServer, Authority, Authority]]:
    """A server with TLS, the authority that signed its certificate, and another one."""
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    folder.chmod(0o777)
    authority, other = Authority(folder, "ours"), Authority(folder, "theirs")
    server = TlsServer(folder, authority)
    server.start()
    Procrastinate(server, folder).declare(QUEUE)
    yield server, authority, other
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


def test_tls_is_checked_against_the_authority_and_the_name(
    secure: tuple[TlsServer, Authority, Authority], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, authority, other = secure
    by_name = server.url.replace("127.0.0.1", "localhost")
    ours, theirs = str(authority.file), str(other.file)
    good: list[dict[str, Any]] = [
        {"url": by_name, "tls_ca": ours},
        {"url": by_name + "?sslmode=disable", "tls_ca": ours},
        {"url": server.url, "tls_verify": False},
        {"url": server.url + "?sslmode=verify-full", "tls_verify": False},
        {"url": server.url, "tls_verify": False, "tls_ca": theirs},
        {"url": server.url},
    ]
    for settings in good:
        assert open_backend("procrastinate", settings).look([QUEUE]).queues[0].queued == 0, settings
    bad: list[tuple[dict[str, Any], str]] = [
        ({"url": by_name, "tls_ca": theirs}, "certificate verify failed"),
        ({"url": server.url, "tls_ca": ours}, 'does not match host name "127.0.0.1"'),
        ({"url": by_name + "?sslmode=require"}, "certificate verify failed"),
        ({"url": by_name + "?sslmode=verify-full"}, "certificate verify failed"),
    ]
    for settings, text in bad:
        with pytest.raises(Refused) as caught:
            open_backend("procrastinate", settings).look([QUEUE])
        assert caught.value.option == "tls_ca" and text in caught.value.message and caught.value.next_step, caught.value.sentence()
        assert PASSWORD not in caught.value.sentence()
    # Signed by one that this host trusts.
    monkeypatch.setenv("SSL_CERT_FILE", ours)
    for mode in ("require", "verify-full"):
        assert open_backend("procrastinate", {"url": by_name + "?sslmode=" + mode}).look([QUEUE]).queues[0].queued == 0


def test_a_server_without_tls_is_not_told_the_password(own: Procrastinate, secure: tuple[TlsServer, Authority, Authority]) -> None:
    for settings in ({"tls_ca": str(secure[1].file)}, {"tls_verify": False}):
        with pytest.raises(Refused) as caught:
            own.open(**settings).look([QUEUE])
        assert caught.value.option == "tls_ca" and "does not support SSL" in caught.value.message
    with pytest.raises(Refused) as caught:
        own.open(url=secure[0].url + "?sslmode=disable").look([QUEUE])
    assert caught.value.option == "password" and "no encryption" in caught.value.message and "TLS" in str(caught.value.next_step)
