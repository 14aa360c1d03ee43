# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A redrive takes these and not those, each once, by rule, at a rate, and stops when they fail again."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import NotFound, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue import redrive as engine
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Breaker, Match, RedriveReport, Rule

from tests.contract.common import QUEUE, agree, can, executing, failed_count, finished, places, redriven, request, state
from tests.contract.kill import Job, run, small_batches
from tests.contract.system import System
from tests.unit.conftest import wait_for


def understands(system: System, condition: str) -> bool:
    return condition in system.open().capabilities.match


def test_all_are_worked_on_once(system: System) -> None:
    system.declare(QUEUE)
    ids = system.fail(QUEUE, 25)
    report = redriven(system)
    assert (report.matched, report.moved, report.by_action) == (25, 25, {"requeue": 25})
    assert (state(system).queued, failed_count(state(system))) == (25, 0)
    assert places(system) == Counter(ids)
    assert redriven(system).matched == 0
    system.start_worker(QUEUE)
    finished(system, ids)


def test_oldest_first_up_to_a_limit(system: System) -> None:
    system.declare(QUEUE)
    ids = system.fail(QUEUE, 10)
    report = redriven(system, limit=4)
    assert (report.moved, state(system).queued) == (4, 4)
    assert report.stopped is None or report.stopped["by"] == "limit"
    if can(system, "check"):
        assert report.remaining == 6
    if report.sample:
        assert [entry["id"] for entry in report.sample] == ids[:4]
    system.start_worker(QUEUE)
    wait_for(lambda: len(system.done()) == 4, limit=40, what="the tasks")
    assert sorted(system.done()) == sorted(ids[:4])


def test_by_ids(system: System) -> None:
    if not understands(system, "ids"):
        with pytest.raises(Refused):
            redriven(system, Rule(Match(ids=("x",))))
        return
    system.declare(QUEUE)
    ids = system.fail(QUEUE, 6)
    report = redriven(system, Rule(Match(ids=(ids[4], ids[1], "nobody"))))
    assert report.moved == 2
    assert redriven(system, Rule(Match(ids=("nobody",)))).moved == 0
    system.start_worker(QUEUE)
    finished(system, [ids[1], ids[4]])
    assert places(system) == Counter(ids) - Counter((ids[1], ids[4]))


def test_by_task_name(system: System) -> None:
    if not understands(system, "task"):
        with pytest.raises(Refused):
            redriven(system, Rule(Match(task="x")))
        return
    if not can(system, "check"):
        return
    system.declare(QUEUE)
    notes, others = system.fail(QUEUE, 3), system.fail(QUEUE, 4, "flaky")
    told = redriven(system, check=True)
    (name,) = {entry["task"] for entry in told.sample if entry["id"] in notes}
    (other,) = {entry["task"] for entry in told.sample if entry["id"] in others}
    assert name and other and name != other and told.by_task == {name: 3, other: 4}
    assert redriven(system, Rule(Match(task=name[:-1])), check=True).matched == 0
    assert redriven(system, Rule(Match(task=name[:-1] + "?")), check=True).matched == 3
    assert redriven(system, Rule(Match(task=other))).moved == 4
    system.start_worker(QUEUE)
    finished(system, others)


def test_by_version(system: System) -> None:
    if not understands(system, "version"):
        with pytest.raises(Refused):
            redriven(system, Rule(Match(version="1")))
        return
    system.declare(QUEUE)
    system.fail(QUEUE, 3)
    version = next(iter(redriven(system, check=True).by_version))
    if version == "unknown":
        assert redriven(system, Rule(Match(version="1"))).undetermined == 3
        return
    assert redriven(system, Rule(Match(version=version + "0"))).matched == 0
    assert redriven(system, Rule(Match(version=version))).moved == 3


def test_by_error(system: System) -> None:
    if not understands(system, "error"):
        with pytest.raises(Refused):
            redriven(system, Rule(Match(error="x")))
        return
    with pytest.raises(Refused) as caught:
        redriven(system, Rule(Match(error="(")))
    assert caught.value.option == "match.error"
    system.declare(QUEUE)
    system.publish(QUEUE, 3, "fail")
    worker = system.start_worker(QUEUE)
    wait_for(lambda: failed_count(state(system)) == 3, limit=60, what="the failures")
    executing(system, 0)
    worker.stop()
    assert redriven(system, Rule(Match(error="not this one")), check=can(system, "check")).matched == 0
    report = redriven(system, Rule(Match(error=system.error)))
    assert report.moved == 3
    assert "no good" not in str(report)  # An error's message may hold data.


def test_by_age(system: System) -> None:
    if not understands(system, "older_than"):
        with pytest.raises(Refused):
            redriven(system, Rule(Match(older_than=1.0)))
        return
    system.declare(QUEUE)
    system.fail(QUEUE, 3)
    assert redriven(system, Rule(Match(older_than=3600.0))).moved == 0
    report = redriven(system, Rule(Match(newer_than=3600.0)))
    assert report.moved == 3 or report.undetermined == 3


def test_rules_the_first_match_wins(system: System) -> None:
    if not understands(system, "ids"):
        return
    system.declare(QUEUE)
    ids = system.fail(QUEUE, 8)
    before = places(system)
    actions = [name for name in ("discard", "park", "fail", "dead_letter") if name in system.open().capabilities.actions]
    rules = [Rule(Match(ids=(ids[number], ids[0])), action) for number, action in enumerate(actions)]
    told = redriven(system, *rules, Rule(), check=True) if can(system, "check") else None
    report = redriven(system, *rules, Rule())
    rest = 8 - len(actions)
    for found in (report, told or report):
        assert found.by_action == {"requeue": rest, **dict.fromkeys(actions, 1)}
        assert [rule["moved"] for rule in found.rules] == [1] * len(actions) + [rest]
    assert state(system).queued == rest
    discarded = Counter(ids[:1]) if "discard" in actions else Counter()
    assert places(system) == before - discarded
    if "park" in actions:
        assert redriven(system, source="parked").moved == 1
        assert state(system).queued == rest + 1
    assert places(system) == before - discarded
    system.start_worker(QUEUE)
    stay = {ids[actions.index(name)] for name in ("fail", "dead_letter", "discard") if name in actions}
    finished(system, [task for task in ids if task not in stay])


def test_another_destination(system: System) -> None:
    system.declare(QUEUE)
    system.declare("undo")
    ids = system.fail(QUEUE, 4)
    action = "compensate" if "compensate" in system.open().capabilities.actions else "requeue"
    assert redriven(system, Rule(action=action, destination="undo"), limit=3).moved == 3
    assert (state(system).queued, state(system, "undo").queued) == (0, 3)
    system.start_worker("undo")
    wait_for(lambda: len(system.done()) == 3, limit=40, what="the tasks")
    assert sorted(system.done()) == sorted(ids[:3])


def test_a_missing_queue_or_destination_is_refused(system: System) -> None:
    if not system.tells_missing:
        return
    system.declare(QUEUE)
    ids = system.fail(QUEUE, 2)
    for check in (True, False):
        with pytest.raises(NotFound) as caught:
            redriven(system, queue="nowhere", check=check)
        assert caught.value.option == "queue"
        with pytest.raises(NotFound):
            redriven(system, Rule(destination="nowhere"), check=check)
    assert (places(system), failed_count(state(system))) == (Counter(ids), 2)


def test_check_mode_changes_nothing_and_foretells(system: System) -> None:
    system.declare(QUEUE)
    ids = system.fail(QUEUE, 12)
    by_ids = understands(system, "ids") and can(system, "check")
    rules = (Rule(Match(ids=tuple(ids[2:9]))),) if by_ids else (Rule(),)
    # RabbitMQ counts a moment late.
    agree(system)
    before = system.dump()
    told = redriven(system, *rules, check=True, limit=5)
    assert system.dump() == before
    assert not (system.folder / "state").exists()
    done = redriven(system, *rules, limit=5)
    names = ["matched", "moved", "remaining", "skipped", "by_action", "diff", "stopped"]
    if can(system, "check"):
        names += ["by_task", "by_version"]
    assert {name: getattr(told, name) for name in names} == {name: getattr(done, name) for name in names}
    assert done.moved == 5


def test_the_same_run_leaves_alone_what_it_moved(system: System) -> None:
    if not can(system, "redrive_run"):
        with pytest.raises(Refused):
            redriven(system, run="r1")
        return
    system.declare(QUEUE)
    system.publish(QUEUE, 3, "fail")
    worker = system.start_worker(QUEUE)
    wait_for(lambda: failed_count(state(system)) == 3, limit=60, what="the failures")
    executing(system, 0)
    worker.stop()
    assert redriven(system, run="r1").moved == 3
    assert redriven(system, run="r1").moved == 0
    worker = system.start_worker(QUEUE)
    wait_for(lambda: failed_count(state(system)) == 3, limit=60, what="the failures again")
    executing(system, 0)
    worker.stop()
    report = redriven(system, run="r1")
    assert (report.moved, report.skipped) == (0, 3), report
    assert failed_count(state(system)) == 3
    if can(system, "redrive_count"):
        if can(system, "check"):
            told = redriven(system, check=True)
            assert [entry["redrives"] for entry in told.sample] == [1, 1, 1]
        report = redriven(system, run="r2", max_redrives=1)
        assert report.by_action == {"park": 3}
        assert (failed_count(state(system)), state(system).queued) == (0, 0)
        assert redriven(system, source="parked", run="r3").moved == 3
    else:
        assert redriven(system, run="r2").moved == 3


def test_a_rate_is_kept(system: System) -> None:
    """By the test's own clock, and by what the broker says has arrived."""
    count, rate = 1000, 200.0
    system.declare(QUEUE)
    system.fail_many(QUEUE, count)
    looks: list[tuple[float, int, float]] = []

    def watch(_pid: int) -> None:
        end = time.monotonic() + 60
        while not looks or looks[-1][1] < count:
            assert time.monotonic() < end, "only %s arrived" % (looks[-1:],)
            looks.append((time.monotonic(), system.arrived(QUEUE), time.monotonic()))
            # Not oftener: each look at RabbitMQ is a connection, and of a hundred in a second one waits for 5 s (4.0).
            time.sleep(0.05)

    assert run(system, Job(request(system, rate=rate)), meanwhile=watch).error is None
    first = next(index for index, (_before, arrived, _after) in enumerate(looks) if arrived)
    _before, at_first, began = looks[first]
    mean = (count - at_first) / (looks[-1][2] - began)
    assert 0.9 * rate <= mean <= 1.1 * rate, mean
    # Nor has more come at any moment than the rate lets since it was ordered, but for one portion.
    ordered = looks[0][0]
    ahead = [(arrived, after - ordered) for _before, arrived, after in looks if arrived > 1.1 * rate * (after - ordered) + rate / 10]
    assert not ahead, ahead[:3]


def test_the_breaker_stops_after_its_limit_not_later(system: System) -> None:
    if not can(system, "breaker"):
        with pytest.raises(Refused) as caught:
            redriven(system, breaker=Breaker(0.2))
        assert caught.value.next_step
        return
    system.declare(QUEUE)
    ids = system.fail(QUEUE, 60, "fail")
    system.start_worker(QUEUE)
    report = redriven(system, breaker=Breaker(0.2, min_tasks=10, patience=60.0))
    assert report.stopped is not None and report.stopped["by"] == "breaker" and "failed again" in report.stopped["reason"]
    assert (report.moved, report.settled, report.failed_again) == (10, 10, 10)
    wait_for(lambda: failed_count(state(system)) == 60, limit=60, what="the failures")
    assert places(system) == Counter(ids)


def test_the_breaker_lets_good_ones_through(system: System) -> None:
    if not can(system, "breaker"):
        return
    system.declare(QUEUE)
    ids = system.fail(QUEUE, 40, "flaky")
    system.start_worker(QUEUE)
    report = redriven(system, breaker=Breaker(0.2, min_tasks=10, patience=60.0))
    assert (report.stopped, report.moved, report.failed_again) == (None, 40, 0)
    finished(system, ids)


def test_the_breaker_does_not_wait_for_ever_without_workers(system: System) -> None:
    if not can(system, "breaker"):
        return
    system.declare(QUEUE)
    system.fail(QUEUE, 30)
    report = redriven(system, breaker=Breaker(0.2, min_tasks=10, patience=0.5))
    assert report.stopped is not None and "are workers running" in report.stopped["reason"]
    assert (report.moved, state(system).queued) == (10, 10)


def test_two_at_once_move_each_task_once(system: System) -> None:
    system.declare(QUEUE)
    ids = system.fail(QUEUE, 200)
    reports: list[RedriveReport] = []
    begin = threading.Barrier(2)

    def one() -> None:
        backend = system.open()
        small_batches(backend, 10)
        begin.wait()
        reports.append(engine.redrive(backend, request(system)))

    threads = [threading.Thread(target=one) for _index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert len(reports) == 2 and sum(report.moved for report in reports) == 200
    assert (state(system).queued, failed_count(state(system))) == (200, 0)
    assert places(system) == Counter(ids)


def test_nothing_is_lost_or_doubled_under_live_workers(system: System) -> None:
    system.declare(QUEUE)
    ids = system.fail(QUEUE, system.many)
    for _index in range(2):
        system.start_worker(QUEUE)
    backend = system.open()
    small_batches(backend, 20)
    report = engine.redrive(backend, request(system, rate=400.0))
    assert report.moved == system.many
    finished(system, ids, limit=120)
