# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every service manager has to do, tried on the real one. systemd runs it in a container: see scripts/managers.py."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, NotFound, OutOfTime, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._worker import guard
from ansible_collections.queueops.fleet.plugins.module_utils._worker.ensure import survey
from ansible_collections.queueops.fleet.plugins.module_utils._worker.quarantine import end_quarantine, quarantine
from ansible_collections.queueops.fleet.plugins.module_utils._worker.waiting import polls

from tests.managers.bench import BROKEN, INSTANCES, WORKER, Bench
from tests.managers.benches import point
from tests.unit.conftest import wait_for


def begun(bench: Bench) -> None:
    """Wait until each worker has a task in hand."""
    wait_for(lambda: len(bench.ledger("begin")) - len(bench.ledger("end")) == INSTANCES, what="a task in each worker")


def stays_ended(bench: Bench, seconds: float = 2.0) -> None:
    """No worker has a process, and the manager starts none again."""
    wait_for(lambda: bench.running() == [], what="the end of all workers")
    for _look in polls(seconds, longest=0.2):
        assert bench.running() == []


def test_start_and_switch(bench: Bench) -> None:
    before = time.time()
    done = bench.go("active", "1.0")
    assert (done.changed, done.unpacked, done.restarted, done.previous, done.current) == (True, True, True, None, "1.0")
    assert [(one.state, one.version, one.extra) for one in done.workers] == [("running", "1.0", False)] * INSTANCES
    for one in done.workers:
        assert one.pid is not None and os.path.exists(f"/proc/{one.pid}")
        assert before - 1 <= (one.since or 0) <= time.time() + 1
    first = bench.everything()
    again = bench.go("active", "1.0")
    assert (again.changed, again.before) == (False, again.after)
    assert bench.everything() == first
    done = bench.go("active", "2.0")
    assert (done.previous, done.current, bench.running()) == ("1.0", "2.0", ["2.0"] * INSTANCES)
    done = bench.go("active", "1.0")
    assert bench.running() == ["1.0"] * INSTANCES
    bench.go("stopped")
    stays_ended(bench)
    # Every task that was begun was finished.
    assert bench.ledger("begin") == bench.ledger("end") != []
    assert bench.go("stopped").changed is False


def test_check_mode_is_the_plan_and_changes_nothing(bench: Bench) -> None:
    bench.go("active", "1.0")
    for state, version in (("present", "2.0"), ("active", "2.0"), ("stopped", None), ("active", "2.0")):
        if version:
            bench.artifact(version, script=WORKER)
        before = bench.everything()
        planned = bench.go(state, version, check_mode=True)
        assert bench.everything() == before
        done = bench.go(state, version)
        # The name of a container says its version.
        assert (planned.changed, planned.restarted, planned.unpacked, planned.current) == (
            True,
            done.restarted,
            done.unpacked,
            done.current,
        )
        assert (planned.before, planned.after) == (done.before, done.after)
        assert bench.go(state, version).changed is False


def test_running_version_is_the_processes_not_the_links(bench: Bench) -> None:
    bench.go("active", "1.0")
    bench.go("present", "2.0")
    point(bench.root, "2.0")
    assert bench.running() == ["1.0"] * INSTANCES
    found = survey(bench.worker)
    assert found["current"] == "2.0"
    assert [(one["version"], one["live"]) for one in found["versions"]] == [("1.0", True), ("2.0", True)]
    done = bench.go("active", "2.0")
    assert (done.changed, done.restarted, bench.running()) == (True, True, ["2.0"] * INSTANCES)


def test_quiet_lets_an_executing_task_finish(bench: Bench) -> None:
    bench.busy.touch()
    bench.go("active", "1.0")
    begun(bench)
    manager = bench.open_manager()
    pids = {one.pid for one in manager.workers()}
    manager.quiet()
    with pytest.raises(OutOfTime) as late:
        manager.wait_stopped(0.5)
    executing = late.value.details["executing"]
    assert {one["pid"] for one in executing} == pids
    assert all(one["since"] <= time.time() and one["version"] == "1.0" and one["children"] for one in executing)
    assert {one.state for one in manager.workers()} == {"stopping"}
    assert bench.ledger("end") == []
    bench.busy.unlink()
    manager.wait_stopped(15)
    # Each finished what it had, took no new task, and the manager started neither again.
    assert bench.ledger("end") == bench.ledger("begin")
    assert len(bench.ledger("begin")) == INSTANCES
    stays_ended(bench)
    manager.quiet()
    manager.wait_stopped(0)


def test_quiet_by_a_signal_of_its_own(bench: Bench) -> None:
    bench.busy.touch()
    bench.go("active", "1.0")
    begun(bench)
    manager = bench.open_manager(quiet_signal="USR1")
    manager.quiet()
    with pytest.raises(OutOfTime, match="still executing"):
        manager.wait_stopped(0.5)
    # Nobody but the worker knows of it.
    assert {one.state for one in manager.workers()} == {"running"}
    bench.busy.unlink()
    manager.wait_stopped(15)
    assert len(bench.ledger("begin")) == INSTANCES
    assert bench.ledger("end") == bench.ledger("begin")
    stays_ended(bench)


def test_stop_beyond_the_limit_switches_nothing_and_can_be_gone_on_with(bench: Bench) -> None:
    bench.busy.touch()
    bench.go("active", "1.0")
    begun(bench)
    with pytest.raises(OutOfTime) as late:
        bench.go("active", "2.0", drain_timeout=0.5)
    assert len(late.value.details["executing"]) == INSTANCES
    assert "still names 1.0" in late.value.sentence()
    assert os.readlink(bench.root / "current") == "versions/1.0"
    assert set(bench.running()) == {"1.0"}
    bench.busy.unlink()
    bench.go("active", "2.0")
    assert bench.running() == ["2.0"] * INSTANCES


def test_in_flight_finish_waits_on(bench: Bench) -> None:
    bench.busy.touch()
    bench.go("active", "1.0")
    begun(bench)
    before = bench.everything()
    for policy in ("requeue", "fail", "dead_letter"):
        with pytest.raises(Refused) as refused:
            bench.go("stopped", in_flight=policy)
        assert "queueops.fleet.queue_drain" in refused.value.sentence()
    assert bench.everything() == before
    # The tasks end only when the worker was already told to stop, and its time was up.
    child = os.fork()
    if not child:
        wait_for(lambda: {one.state for one in bench.workers()} == {"stopping"}, what="the quiet")
        time.sleep(1.0)
        bench.busy.unlink()
        os._exit(0)
    bench.go("stopped", in_flight="finish", drain_timeout=0.2)
    os.waitpid(child, 0)
    assert bench.ledger("end") == bench.ledger("begin")
    stays_ended(bench, 0.5)


def test_kill_ends_what_was_quieted_with_the_processes_of_its_tasks(bench: Bench) -> None:
    bench.busy.touch()
    bench.go("active", "1.0")
    begun(bench)
    manager = bench.open_manager()
    # What still takes tasks is left alone.
    manager.kill()
    assert bench.running() == ["1.0"] * INSTANCES
    manager.quiet()
    with pytest.raises(OutOfTime) as late:
        manager.wait_stopped(0.3)
    seen = [manager.seen_as(one) for one in manager.workers()]
    assert all(one["hostname"] and one["pids"] for one in seen)
    tasks = [child["pid"] for one in late.value.details["executing"] for child in one["children"]]
    assert len(tasks) == INSTANCES
    manager.kill()
    manager.wait_stopped(15)
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in tasks), what="the end of the tasks' processes")
    bench.busy.unlink()
    stays_ended(bench)
    assert bench.ledger("end") == []
    manager.kill()
    bench.go("active", "1.0")
    assert bench.running() == ["1.0"] * INSTANCES


def test_kill_of_what_was_quieted_by_a_signal_of_its_own(bench: Bench) -> None:
    bench.busy.touch()
    bench.go("active", "1.0")
    begun(bench)
    manager = bench.open_manager(quiet_signal="USR1")
    manager.quiet()
    manager.kill()
    manager.wait_stopped(15)
    stays_ended(bench)
    assert bench.ledger("end") == []


def test_two_versions_side_by_side(bench: Bench) -> None:
    """While workers of the old version finish what they have, those of the new one run; and never do both take tasks."""
    bench.beside()
    bench.go("active", "1.0")
    bench.busy.touch()
    begun(bench)
    known = set(bench.ledger("begin"))
    held = known - set(bench.ledger("end"))
    with ThreadPoolExecutor(1) as pool:
        switch = pool.submit(bench.go, "active", "2.0")
        wait_for(lambda: sorted(map(str, bench.running())) == ["1.0"] * INSTANCES + ["2.0"] * INSTANCES, what="both versions")
        wait_for(lambda: len(set(bench.ledger("begin")) - known) == INSTANCES, what="a task in each new worker")
        seen = bench.workers()
        assert [(one.version, one.state, one.extra) for one in seen if not one.leaving] == [("2.0", "running", False)] * INSTANCES
        assert [(one.version, one.state, one.extra) for one in seen if one.leaving] == [("1.0", "stopping", False)] * INSTANCES
        assert not held & set(bench.ledger("end"))
        bench.busy.unlink()
        done = switch.result()
    assert (done.previous, done.current, bench.running()) == ("1.0", "2.0", ["2.0"] * INSTANCES)
    assert bench.go("active", "2.0").changed is False
    # And again, from the second row of slots to the first.
    bench.go("active", "1.0")
    assert bench.running() == ["1.0"] * INSTANCES
    bench.go("stopped")
    stays_ended(bench)
    assert bench.ledger("begin") == bench.ledger("end")


def test_side_by_side_what_does_not_end_is_told_and_can_be_gone_on_with(bench: Bench) -> None:
    bench.beside()
    bench.go("active", "1.0")
    bench.busy.touch()
    begun(bench)
    with pytest.raises(OutOfTime) as late:
        bench.go("active", "2.0", drain_timeout=0.5)
    assert {one["version"] for one in late.value.details["executing"]} == {"1.0"}
    assert sorted(map(str, bench.running())) == ["1.0"] * INSTANCES + ["2.0"] * INSTANCES
    # A third version has to wait for those that are leaving.
    with pytest.raises(OutOfTime):
        bench.go("active", "3.0", drain_timeout=0.5)
    bench.busy.unlink()
    bench.go("active", "3.0")
    assert bench.running() == ["3.0"] * INSTANCES


def test_worker_that_does_not_start(bench: Bench) -> None:
    bench.go("active", "1.0")
    with pytest.raises(FleetError) as failed:
        bench.go("active", "2.0", script=BROKEN, health={"hold": 5}, start_timeout=3)
    assert failed.value.details["workers"]
    assert bench.open_manager().hint("")[:6] in failed.value.sentence()
    assert "was 1.0 before" in failed.value.sentence()
    # Back again: what failed does not stand in the way.
    bench.go("active", "1.0")
    assert bench.running() == ["1.0"] * INSTANCES


def test_unit_that_does_not_exist(bench: Bench) -> None:
    bench.go("active", "1.0")
    before = bench.everything()
    other = bench.worker["unit"].replace("mailer", "other")
    for state, version in (("active", "2.0"), ("stopped", None)):
        with pytest.raises(NotFound) as missing:
            bench.go(state, version, unit=other)
        assert missing.value.option == "worker.unit"
        assert "other" in missing.value.message
    (bench.folder / "mailer-2.0.tar").unlink(missing_ok=True)
    assert {name: what for name, what in bench.everything().items() if "image-2.0" not in name} == before


def test_kill_limit_that_is_too_short_is_refused_beforehand(bench: Bench) -> None:
    bench.go("active", "1.0")
    bench.limit(9)
    bench.artifact("2.0", WORKER)
    before = bench.everything()
    with pytest.raises(Refused) as refused:
        bench.go("active", "2.0", drain_timeout=10.0)
    assert refused.value.option == "worker.drain_timeout"
    assert all(word in refused.value.sentence() for word in ("10 s", "9 s", bench.limit_name))
    assert bench.everything() == before
    assert bench.open_manager().kill_limit() == 9


def test_workers_that_are_too_many_are_stopped(bench: Bench) -> None:
    bench.go("active", "1.0")
    if bench.manager == "supervisor":
        # Its group alone says how many there are.
        assert bench.go("active", "1.0", instances=1).changed is False
        return
    assert [one.extra for one in bench.open_manager(instances=1).workers()] == [False, True]
    bench.go("active", "1.0", instances=1)
    assert bench.running() == ["1.0"]


def test_quarantined_version_cannot_start(bench: Bench) -> None:
    bench.go("active", "1.0")
    bench.go("active", "2.0")
    bench.go("active", "1.0")
    before = bench.everything()
    planned = quarantine(bench.worker, "2.0", "it is bad", "op-1", check_mode=True)
    assert bench.everything() == before
    done = quarantine(bench.worker, "2.0", "it is bad", "op-1", check_mode=False)
    assert (planned.changed, planned.before, planned.after) == (True, done.before, done.after)
    assert done.running == []
    assert quarantine(bench.worker, "2.0", "it is bad", "op-2", check_mode=False).changed is False
    # The good one is not touched.
    assert bench.running() == ["1.0"] * INSTANCES
    found = survey(bench.worker)
    assert [(one["version"], one["why"], one["by"]) for one in found["quarantined"]] == [("2.0", "it is bad", "op-1")]
    assert [one["version"] for one in found["versions"] if one["quarantined"]] == ["2.0"]
    assert found["guarded"] is True
    assert time.time() - found["quarantined"][0]["since"] < 60

    # By this collection: refused before anything is touched.
    before = bench.everything()
    with pytest.raises(Refused, match="it is bad") as refused:
        bench.go("active", "2.0")
    assert refused.value.option == "version"
    assert bench.everything() == before
    # By hand, and by the manager's own doing.
    bench.go("stopped")
    bench.start_by_hand("2.0")
    never_runs(bench, "2.0")
    bench.restart_manager()
    never_runs(bench, "2.0")
    # What is not quarantined starts by the same means.
    point(bench.root, "1.0")
    bench.go("stopped")
    bench.go("active", "1.0")
    bench.go("stopped")
    bench.start_by_hand("1.0")
    wait_for(lambda: bench.running() == ["1.0"] * INSTANCES, what="the good version's start by hand")

    assert end_quarantine(bench.worker, "2.0", check_mode=True).changed is True
    assert end_quarantine(bench.worker, "2.0", check_mode=False).changed is True
    assert end_quarantine(bench.worker, "2.0", check_mode=False).changed is False
    bench.go("active", "2.0")
    assert bench.running() == ["2.0"] * INSTANCES


def never_runs(bench: Bench, version: str, seconds: float = 3.0) -> None:
    """No task is begun by a worker of the version; that it may have a process for as long as the check takes does not count."""
    tasks = bench.ledger("begin")
    for _look in polls(seconds, longest=0.2):
        assert bench.ledger("begin") == tasks
    assert guard.entry(str(bench.root), version) is not None


def test_quarantine_needs_the_unit_and_nothing_else(bench: Bench) -> None:
    bench.go("active", "1.0")
    # The kill limit would be refused by a switch, and is no reason to let a bad version start.
    bench.limit(9)
    assert quarantine(bench.worker, "2.0", "it is bad", None, check_mode=False).changed is True
    before = bench.everything()
    for check_mode in (True, False):
        with pytest.raises(NotFound) as missing:
            quarantine(dict(bench.worker, unit=bench.worker["unit"].replace("mailer", "other")), "2.0", "worse", None, check_mode)
        assert missing.value.option == "worker.unit"
        with pytest.raises(Refused) as refused:
            quarantine(bench.worker, "../x", "it is bad", None, check_mode)
        assert refused.value.option == "version"
    assert bench.everything() == before


def test_quarantine_of_a_running_version_says_who_runs_it(bench: Bench) -> None:
    bench.go("active", "1.0")
    done = quarantine(bench.worker, "1.0", "it is bad", None, check_mode=False)
    assert len(done.running) == INSTANCES
    assert bench.running() == ["1.0"] * INSTANCES
    assert end_quarantine(bench.worker, "1.0", check_mode=False).entry is None


def test_quarantine_can_come_before_the_version_and_begin_later(bench: Bench) -> None:
    bench.go("present", "1.0")
    quarantine(bench.worker, "3.0", "never again", None, check_mode=False)
    with pytest.raises(Refused, match="never again"):
        bench.go("active", "3.0")
    # As the transaction can do it for a release that has yet to be confirmed.
    guard.add(str(bench.root), guard.Entry("1.0", "not confirmed in time", time.time() + 5))
    bench.go("active", "1.0")
    wait_for(lambda: all(entry.holds for entry in guard.quarantined(str(bench.root))), what="the time from which on it holds")
    with pytest.raises(Refused, match="not confirmed in time"):
        bench.go("active", "1.0")
    assert bench.running() == ["1.0"] * INSTANCES


def test_keep_drops_old_versions_and_never_those_in_use(bench: Bench) -> None:
    for version in ("1.0", "2.0", "3.0"):
        bench.go("present", version)
    bench.go("active", "1.0")
    planned = bench.go("active", "4.0", keep=1, check_mode=True)
    assert planned.dropped == ["2.0", "3.0"]
    done = bench.go("active", "4.0", keep=1)
    assert (done.dropped, done.before, done.after) == (["2.0", "3.0"], planned.before, planned.after)
    # The one before is the way back, also after a run that changes nothing.
    again = bench.go("active", "4.0", keep=1)
    assert (again.changed, again.dropped) == (False, [])
    assert [one["version"] for one in survey(bench.worker)["versions"]] == ["1.0", "4.0"]
    # What was spared as the one before then is not any more, and at once, not only at the next run.
    done = bench.go("active", "5.0", keep=1)
    assert (done.dropped, bench.go("active", "5.0", keep=1).changed) == (["1.0"], False)
    bench.go("active", "4.0")
    assert bench.running() == ["4.0"] * INSTANCES
    bench.go("active", "1.0")
    assert bench.running() == ["1.0"] * INSTANCES
    with pytest.raises(Refused) as refused:
        bench.go("present", "1.0", keep=0)
    assert refused.value.option == "keep"
