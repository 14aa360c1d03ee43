# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The frame of the benchmarks of queue systems, and the script that runs every benchmark with a table: what they say and end with."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import redis
from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import RedriveRequest

from tests.benchmarks.common import ended
from tests.benchmarks.own_process import Place, redriven
from tests.benchmarks.paired import Comparison, Ours, Race, Side
from tests.benchmarks.scale import FEW, Scaled, Table
from tests.unit.conftest import RedisServer

ROOT = Path(__file__).parents[3]


class Timed(Ours):
    """Ours, taking this long."""

    def __init__(self, spent: float, order: list[str]) -> None:
        super().__init__("all", 100, lambda _count: order.append("ours"), lambda _left: None, "redis_list", {}, RedriveRequest("mail"))
        self.redrive = lambda: spent


def race(asked: float | None, order: list[str]) -> Race:
    """Ours moves 100 tasks in 2 s, theirs 100 in 20 s: ten times as fast."""
    theirs = Side("one by one", 100, lambda _count: order.append("theirs"), lambda: 20.0, lambda _left: None)
    return Race("a system", [Comparison(Timed(2.0, order), theirs, asked)])


@pytest.mark.parametrize(("asked", "told"), [(10, "at least 10: met"), (11, "at least 11: missed"), (None, "none asked")])
def test_a_row_says_whether_the_bar_is_met(asked: float | None, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    missed = race(asked, []).run(1)
    assert capsys.readouterr().out.rstrip().endswith("| 10.00 (10.00 to 10.00) | %s |" % told)
    assert ended(missed) == (1 if "missed" in told else 0)
    assert ("has to be 11 times" in capsys.readouterr().out) == ("missed" in told)


def test_each_side_is_the_first_in_turn() -> None:
    order: list[str] = []
    race(None, order).run(3)
    assert order == ["theirs", "ours", "ours", "theirs", "theirs", "ours"]


def ours_of(server: RedisServer, tasks: int) -> Ours:
    client: Any = redis.Redis.from_url(server.url)
    request = RedriveRequest("mail")
    return Ours(
        "all",
        tasks,
        lambda _count: client.rpush("mail:failed", "one", "two"),
        lambda _left: None,
        "redis_list",
        {"url": server.url},
        request,
    )


def test_ours_is_measured_with_the_proof_of_conservation(redis_server: RedisServer) -> None:
    ours = ours_of(redis_server, 2)
    assert ours.rate() > 0
    assert ours.by == "count"


def test_ours_ends_the_benchmark_when_not_all_were_moved(redis_server: RedisServer) -> None:
    with pytest.raises(SystemExit, match="moved=2"):
        ours_of(redis_server, 3).rate()


def scaled(server: RedisServer, client: Any, match: dict[str, Any], changes: Any) -> Scaled:
    few, many = (Place("redis_list", {"url": server.url, "id_field": "id"}, queue) for queue in ("few", "many"))

    def fill(place: Place, count: int) -> None:
        client.rpush(place.queue + ":failed", *('{"id": "%d", "kind": "note"}' % number for number in range(count)))

    return Scaled("a list", few, many, fill, client.flushall, match, changes)


def test_many_tasks_are_looked_at_and_redriven(redis_server: RedisServer, capsys: pytest.CaptureFixture[str]) -> None:
    client: Any = redis.Redis.from_url(redis_server.url)
    table = Table(2 * FEW)
    table.measure(
        scaled(redis_server, client, {"field": {"kind": "note"}}, lambda: client.info("persistence")["rdb_changes_since_last_save"])
    )
    shown = capsys.readouterr().out
    assert [line.split(" | ")[1] for line in shown.splitlines()[2:]] == [
        "100 looks at failed tasks, ms: median (range)",
        "redrive of all",
        "100 looks at queued tasks, ms: median (range)",
        "redrive by match.field",
    ]
    assert shown.count("proven by identity") == 2 and "told" not in shown
    assert not [problem for problem in table.missed if "slower" not in problem]


def test_a_look_that_changes_something_and_tasks_that_are_left_miss_the_bar(redis_server: RedisServer) -> None:
    client: Any = redis.Redis.from_url(redis_server.url)
    table = Table(2 * FEW)
    table.measure(scaled(redis_server, client, {"field": {"kind": "hold"}}, object))
    assert sum("a look changed something" in problem for problem in table.missed) == 2
    assert any("redrive by match.field: 0 moved" in problem for problem in table.missed)


def test_the_memory_is_that_of_a_process_of_its_own(redis_server: RedisServer) -> None:
    client: Any = redis.Redis.from_url(redis_server.url)
    client.rpush("mail:failed", "one")
    # What this process takes meanwhile is not counted.
    ballast = b"x" * 200_000_000
    found = redriven(Place("redis_list", {"url": redis_server.url}, "mail"), {})
    assert found["moved"] == 1 and found["verdict"] == "proven"
    assert 10 < found["mb"] < 100 < len(ballast) / 1e6


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """scripts/bench_tables.py with a page of its own."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    loaded = importlib.import_module("bench_tables")
    monkeypatch.setattr(loaded, "BUILD", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# Before\n%s\nold\n%s\nafter\n" % loaded.KINDS["queues"].marks())
    return loaded


def measured(printed: dict[str, list[str]], page: Path, seen: list[str]) -> Any:
    """In place of ``measure``: what each benchmark prints; one that is not named is interrupted after its first line."""

    def measure(part: Any, _options: list[str]) -> None:
        seen.append(page.read_text())
        part.lines += printed.get(part.name, ["| half |"])
        if part.name not in printed:
            raise KeyboardInterrupt
        part.code = 1 if part.missed() else 0

    return measure


def test_a_run_that_is_cut_off_keeps_its_tables_and_says_so(script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page, seen = tmp_path / "page.md", list[str]()
    monkeypatch.setattr(script, "measure", measured({"redrive_rq": ["| rq |"]}, page, seen))
    assert script.run(script.KINDS["queues"], ["redrive_rq", "redrive_nats", "scale_nats"], [], [page]) == 1
    # Written after each one, so that it is there whatever ends the run.
    assert "| rq |" in seen[1] and "cut off**, and of these there is nothing, or not all: redrive_nats, scale_nats." in seen[1]
    left = page.read_text()
    assert "| rq |" in left and "| half |" in left and "old" not in left and left.startswith("# Before") and left.endswith("after\n")
    assert "cut off**, and of these there is nothing, or not all: redrive_nats, scale_nats." in left


def test_the_closing_lines_name_the_missed_bars(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    missed = "- Missed: NATS: our redrive is slow"
    monkeypatch.setattr(script, "measure", measured({"redrive_rq": ["| rq |"], "redrive_nats": ["| nats |", missed]}, page, []))
    assert script.run(script.KINDS["queues"], ["redrive_rq", "redrive_nats"], ["--tasks", "5"], [page]) == 1
    assert capsys.readouterr().out.endswith("%s\n" % missed)
    assert "cut off" not in page.read_text() and "with --tasks 5." in page.read_text()
    assert script.run(script.KINDS["queues"], ["redrive_rq"], [], [page]) == 0
    assert capsys.readouterr().out.endswith("Every bar is met.\n")


def test_a_benchmark_that_ends_badly_is_not_taken_for_measured(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bad = script.Part("redrive_rq", ["| half |"], 1)
    assert script.close(["redrive_rq"], [bad]) == 1
    assert capsys.readouterr().out.endswith("- Not measured, or not all of it: redrive_rq\n")


def test_what_a_benchmark_printed_is_kept_when_it_is_broken_off(
    script: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tests" / "benchmarks"
    folder.mkdir(parents=True)
    (tmp_path / "tests" / "__init__.py").touch()
    # As a benchmark does itself: where this is run in the background, SIGINT is ignored.
    program = "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nprint('| row |', flush=True)\n"
    program += "try:\n    time.sleep(300)\nfinally:\n    print('servers stopped')\n"
    (folder / "redrive_long.py").write_text(program)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "LIMIT_S", 5)
    part = script.Part("redrive_long")
    script.measure(part, [])
    assert part.lines == ["| row |", "servers stopped"] and not part.whole() and part.seconds < 60
