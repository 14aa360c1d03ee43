# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gates by ansible-playbook: every metric, every kind of source, and two versions side by side, with real workers."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import RedisServer, wait_for

from .conftest import Broker
from .test_modules import Run, task

OLD, NEW = "mailer@1.9.0:worker1:1", "mailer@2.0.0:worker2:1"


def gate(title: str, **options: Any) -> dict[str, Any]:
    """A gate that decides at the first look, unless ``options`` say otherwise."""
    return task(title, "fleet_gate", **{"bake": 0, "timeout": 20, **options})


def verdicts(run: Run) -> dict[str, str | None]:
    return {name: result.get("verdict") for name, result in run.results.items()}


def test_every_metric_of_the_queue(broker: Broker) -> None:
    broker.publish(30)
    wait_for(lambda: (broker.backend().look(["mail"]).queues[0].oldest_task_age_s or 0) > 0.05, what="an age")
    broker.start_worker("mailer@2.0.0:worker1:1", "other")
    run = Run(
        broker,
        [
            gate("deep", metric="depth", queue="mail", limit=29),
            gate("shallow", metric="depth", queue="mail", limit=30),
            gate("starved", metric="depth", queue="mail", limit=31, fail_when="below"),
            gate("old", metric="oldest_age", queue="mail", limit=0.01),
            gate("young", metric="oldest_age", queue="mail", limit=1000),
            gate("empty", metric="oldest_age", queue="other", limit=0),
            gate("idle", metric="throughput", queue="other", version="2.0.0", limit=0.5, bake=1.5),
            gate("lazy", metric="throughput", queue="other", version="2.0.0", limit=0, bake=1.5),
            gate("limitless", metric="depth", queue="mail"),
            gate("untold", metric="oldest_age", queue="mail", limit=1, backend="redis_list"),
            gate("uncounted", metric="throughput", queue="mail", version="2.0.0", limit=1, backend="redis_list"),
            gate("gone", metric="depth", queue="mial", limit=1),
            gate("absent", metric="depth", queue="mial", limit=1, dry_run=True),
            gate("nameless", metric="depth", limit=1, queue=None),
        ],
    )
    wanted = {"deep": "fail", "shallow": "pass", "starved": "fail", "old": "fail", "young": "pass", "empty": "pass", "idle": "fail"}
    wanted.update(lazy="pass", absent="pass")
    assert {name: verdict for name, verdict in verdicts(run).items() if verdict} == wanted
    assert run["deep"]["reason"] == "30 tasks are queued (limit 29)" and run["deep"]["limit"] == 29
    assert run["deep"]["samples"] == [{"at": run["deep"]["samples"][0]["at"], "value": 30}]
    assert (run["deep"]["failing_looks"], run["deep"]["looks"], run["deep"]["metric"]) == (1, 1, "depth")
    assert run["idle"]["reason"] == "0 tasks/s (at least 0.5)" and run["idle"]["looks"] > 1
    assert [run[name]["error"]["option"] for name in ("limitless", "nameless")] == ["limit", "queue"]
    assert run["untold"]["error"]["option"] == "metric" and "the oldest task has waited" in run["untold"]["msg"]
    assert "completed and failed" in run["uncounted"]["msg"] and run["gone"]["error"]["code"] == "not_found"
    assert run["absent"]["would_be"] == "inconclusive" and "no queue mial" in run["absent"]["reason"]
    assert "gate depth on mail: fail: 30 tasks are queued (limit 29)" in run.output


@pytest.fixture
def page() -> Iterator[tuple[str, dict[str, Any]]]:
    """A real HTTP server, and what it answers: ``status`` and ``body``."""
    said: dict[str, Any] = {"status": 200, "body": {"p95": 0.2, "status": "success"}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(said["body"]).encode()
            self.send_response(said["status"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            """Nothing: the tests look at the results."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield "http://127.0.0.1:%d/stats" % server.server_port, said
    server.shutdown()
    server.server_close()
    thread.join()


def test_sources_besides_the_queue(broker: Broker, page: tuple[str, dict[str, Any]]) -> None:
    url, _said = page
    count = broker.folder / "count"
    sometimes = "n=$(cat %s 2>/dev/null || echo 0); echo $((n + 1)) > %s; test $n -ge 3" % (count, count)
    nobody = "http://127.0.0.1:9/"

    def command(text: str) -> dict[str, Any]:
        return {"argv": ["/bin/sh", "-c", text]}

    run = Run(
        broker,
        [
            gate("healthy", metric="http", http={"url": url}),
            gate("ill", metric="http", http={"url": url, "status": 204}),
            gate("fast", metric="http", http={"url": url, "field": "p95"}, limit=0.5),
            gate("slow", metric="http", http={"url": url, "field": "p95"}, limit=0.1),
            gate("dead", metric="http", http={"url": nobody}, errors_limit=2, name="page"),
            gate("silent", metric="http", http={"url": url, "field": "p99"}, limit=0.1, inconclusive_limit=1, bake=0),
            gate("yes", metric="command", command=command("exit 0"), bake=6, interval=7),
            gate("no", metric="command", command=command("exit 1")),
            gate("maybe", metric="command", command=command("exit 2"), timeout=1),
            gate("many", metric="command", command=command("echo 7"), limit=6),
            gate("recovers", metric="command", command=command(sometimes), fail_limit=3),
            gate("would", metric="command", command=command("exit 1"), dry_run=True, name="try"),
            task("check", "fleet_gate", check=True, metric="command", command=command("exit 0")),
            task("foretold", "fleet_gate", check=True, metric="command", command=command("exit 1")),
            gate("no such", metric="command", command={"argv": ["/nowhere/check"]}),
            gate("unasked", metric="prometheus"),
            gate("pointless", metric="prometheus", prometheus={"url": url, "query": "up"}),
            gate("both", metric="failed_ratio", queue="mail", version="2.0.0", limit=0.1, compare={"baseline_version": "1.9.0"}),
            gate("itself", queue="mail", version="2.0.0", compare={"baseline_version": "2.0.0"}),
            gate("close", metric="prometheus", prometheus={"url": url, "query": "up"}, compare={"query": "up"}),
            gate("odd", metric="http", http={"url": url}, compare={"baseline_version": "1.9.0"}),
        ],
    )
    wanted = {"healthy": "pass", "ill": "fail", "fast": "pass", "slow": "fail", "dead": "inconclusive", "silent": "inconclusive"}
    wanted.update({"yes": "pass", "no": "fail", "maybe": "inconclusive", "many": "fail", "recovers": "pass", "would": "pass"})
    wanted.update(check="inconclusive", foretold="fail")
    assert {name: verdict for name, verdict in verdicts(run).items() if verdict} == wanted, run.output
    assert run["slow"]["reason"] == "the field is 0.2 (limit 0.1)" and run["many"]["reason"] == "the command says 7 (limit 6)"
    assert run["ill"]["reason"].endswith("/stats answers 200, not 204") and run["ill"]["samples"][0]["outcome"] == "fail"
    assert run["dead"]["errors"] == 2 and run["silent"]["inconclusive_looks"] == 2 and "no field p99" in run["silent"]["reason"]
    # How long the command took is in it, too.
    assert re.match(r"time is up after \d+ s: could not measure: ", run["maybe"]["reason"]) and not run["maybe"]["measured"]
    assert run["recovers"]["failing_looks"] == 3 and run["recovers"]["looks"] == 4
    assert run["would"]["would_be"] == "fail" and run["would"]["reason"].startswith("dry run, would be fail: ")
    assert "gate try: would be fail: the command /bin/sh ended with 1 (fail)" in run.output
    options = {name: run[name]["error"]["option"] for name in ("no such", "unasked", "pointless", "both", "itself", "close", "odd")}
    assert options == {
        "no such": "command.argv",
        "unasked": "prometheus",
        "pointless": "limit",
        "both": "limit",
        "itself": "compare.baseline_version",
        "close": "interval",
        "odd": "compare",
    }
    # Seven seconds between two looks, and a line at most every five.
    assert run["yes"]["looks"] == 2 and len(re.findall(r"^\d\d:\d\d:\d\d  gate command: the command /bin/sh ended", run.output, re.M)) >= 2


class Bad(Broker):
    """The same broker, for workers of a version whose tasks all fail."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        folder.mkdir()
        super().__init__(server, folder)
        (folder / "tasks.py").write_text("def note(ledger, number):\n    raise ValueError(number)\n")


def test_two_versions_side_by_side(broker: Broker, redis_server: RedisServer) -> None:
    """The same tasks, taken by whoever is free: version 2 fails them all, version 2.1 none."""
    bad = Bad(redis_server, broker.folder / "bad")
    try:
        broker.start_worker(OLD)
        broker.start_worker("mailer@2.1.0:worker3:1")
        bad.start_worker(NEW)
        compare = {"compare": {"baseline_version": "1.9.0"}, "queue": "mail", "min_tasks": 5, "timeout": 60}

        def feed(current: str, line: str) -> None:
            if "0 of 0 failed" in line:
                broker.publish(150)

        run = Run(
            broker,
            [
                gate("bad", version="2.0.0", bake=40, **compare),
                gate("good", version="2.1.0", bake=2, **compare),
                gate("alone", version="2.1.0", bake=0, **{**compare, "compare": {"baseline_version": "1.0.0"}, "timeout": 1}),
                task("check", "fleet_gate", check=True, version="2.0.0", bake=2, **compare),
            ],
            feed,
        )
    finally:
        bad.close()
    assert verdicts(run) == {"bad": "fail", "good": "pass", "alone": "inconclusive", "check": "inconclusive"}
    sample = run["bad"]["samples"][-1]
    assert sample["failed"] >= 5 and sample["completed"] == 0 and sample["baseline_failed"] == 0 and sample["baseline_completed"] >= 5
    assert re.match(r"\d+ of \d+ \(100\.0 %\) failed, of the baseline 0 of \d+ \(0\.0 %\); by chance alone: p ", run["bad"]["reason"])
    assert run["bad"]["limit"] is None and run["bad"]["decided_at"] - run["bad"]["began_at"] < 40
    assert "and 0 of the baseline; 5 of each are needed" in run["alone"]["reason"] and not run["alone"]["measured"]


def test_two_versions_each_in_a_queue_of_its_own(broker: Broker, redis_server: RedisServer) -> None:
    """Version 2 fails every task of its queue, version 2.1 none of its own; what version 1.9 does counts in its queue alone."""
    bad = Bad(redis_server, broker.folder / "bad")
    newer, stray = "mailer@2.1.0:worker3:1", "mailer@1.9.0:worker4:1"
    try:
        broker.start_worker(OLD, "mail-1.9.0")
        broker.start_worker(newer, "mail-2.1.0")
        broker.start_worker(stray, "mail-2.1.0")
        bad.start_worker(NEW, "mail-2.0.0")
        compare = {"baseline_version": "1.9.0", "baseline_queue": "mail-1.9.0"}
        bad_one = {"version": "2.0.0", "queue": "mail-2.0.0", "min_tasks": 5, "timeout": 60}
        good_one = {**bad_one, "version": "2.1.0", "queue": "mail-2.1.0"}

        def feed(current: str, line: str) -> None:
            if "0 of 0 failed" in line:
                for queue in ("mail-1.9.0", "mail-2.0.0", "mail-2.1.0"):
                    broker.publish(60, queue=queue)

        run = Run(
            broker,
            [
                gate("bad", bake=40, compare=compare, **bad_one),
                gate("good", bake=2, compare=compare, **good_one),
                task("check", "fleet_gate", check=True, compare=compare, **good_one),
                task("its own", "fleet_gate", check=True, compare={"baseline_version": "1.9.0"}, **bad_one),
                gate("gone", bake=2, compare={**compare, "baseline_queue": "mial"}, **good_one),
                *(gate(name, metric=name, compare=compare, **good_one) for name in ("depth", "oldest_age", "throughput")),
            ],
            feed,
        )
    finally:
        bad.close()
    assert {name: verdict for name, verdict in verdicts(run).items() if verdict} == {
        "bad": "fail",
        "good": "pass",
        "check": "inconclusive",
        "its own": "inconclusive",
    }
    sample = run["bad"]["samples"][-1]
    assert sample["failed"] >= 5 and sample["completed"] == 0 and sample["baseline_failed"] == 0 and sample["baseline_completed"] >= 5
    assert re.match(r"\d+ of \d+ \(100\.0 %\) failed, of the baseline 0 of \d+ \(0\.0 %\); by chance alone: p ", run["bad"]["reason"])

    def counted(name: str) -> tuple[list[str], list[str]]:
        readings = run[name]["readings"]
        return [worker["name"] for worker in readings["workers"]], [worker["name"] for worker in readings["baseline_workers"]]

    # The same queue is meant where no other is named, and a worker counts in none that it does not take tasks from.
    assert counted("check") == ([newer], [OLD]) and counted("its own") == ([NEW], [])
    assert run["gone"]["error"]["code"] == "not_found" and "There is no queue mial" in run["gone"]["msg"]
    assert [run[name]["error"]["option"] for name in ("depth", "oldest_age", "throughput")] == ["compare"] * 3


def test_a_queue_that_both_versions_take_from_is_read_once(broker: Broker) -> None:
    broker.publish(1)

    def lengths_asked() -> int:
        return int(broker.client.info("commandstats")["cmdstat_llen"]["calls"])

    before = lengths_asked()
    broker.backend().look(["mail"])
    once, before = lengths_asked() - before, lengths_asked()
    options = {"queue": "mail", "version": "2.0.0", "compare": {"baseline_version": "1.9.0", "baseline_queue": "mail"}}
    run = Run(broker, [task("check", "fleet_gate", check=True, **options)])
    assert run["check"]["verdict"] == "inconclusive" and lengths_asked() - before == once > 0


def test_a_controller_without_scipy_is_told_before_it_waits(broker: Broker) -> None:
    broker.publish(1)
    (broker.folder / "none" / "scipy").mkdir(parents=True)
    (broker.folder / "none" / "scipy" / "__init__.py").write_text("raise ImportError('there is none here')\n")
    options = {"queue": "mail", "version": "2.0.0", "compare": {"baseline_version": "1.9.0"}}
    tasks = [
        gate("told", **options),
        task("foretold", "fleet_gate", check=True, **options),
        gate("without", metric="depth", queue="mail", limit=5),
    ]
    run = Run(broker, tasks, environment={"PYTHONPATH": str(broker.folder / "none")})
    for name in ("told", "foretold"):
        assert run[name]["failed"] and run[name]["error"]["code"] == "missing_library" and run[name]["error"]["option"] == "compare"
        assert "-m pip install scipy" in run[name]["msg"]
    assert run["without"]["verdict"] == "pass"
