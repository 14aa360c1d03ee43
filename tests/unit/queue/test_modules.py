# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules and their action plugins, run by ansible-playbook."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import wait_for

from .conftest import Broker

REPOSITORY = Path(__file__).parents[3]
NAME = "mailer@2.0.0:worker1:1"


class Run:
    """One playbook run: each task's result by its name, and the output. ``on_line`` gets each task's name and line as it is shown."""

    def __init__(
        self,
        broker: Broker,
        tasks: list[dict[str, Any]],
        on_line: Callable[[str, str], None] = lambda *line: None,
        environment: dict[str, str] | None = None,
    ) -> None:
        results = broker.folder / "results"
        steps: list[dict[str, Any]] = []
        for number, task in enumerate(tasks):
            steps.append({"ignore_errors": True, **task, "register": "result%d" % number})
        content = "{{ {%s} | to_json }}" % ", ".join("%r: result%d" % (task["name"], number) for number, task in enumerate(tasks))
        steps.append({"name": "Keep", "ansible.builtin.copy": {"content": content, "dest": str(results), "mode": "0600"}})
        play = {
            "hosts": "worker1",
            "gather_facts": False,
            "module_defaults": {"group/queueops.fleet.fleet": {"backend": "rq", "url": broker.url}},
            "tasks": steps,
        }
        playbook = broker.folder / "playbook.yml"
        playbook.write_text(json.dumps([play]))
        inventory = broker.folder / "inventory.yml"
        host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory.write_text(json.dumps({"all": {"hosts": {"worker1": host}}}))
        environment = dict(os.environ, ANSIBLE_COLLECTIONS_PATH=str(REPOSITORY / "build"), ANSIBLE_NOCOLOR="1", **(environment or {}))
        environment.update(ANSIBLE_LOCAL_TEMP=str(broker.folder / "tmp"), ANSIBLE_PIPELINING="1", PYTHONUNBUFFERED="1")
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        command = [program, "-i", str(inventory), "--diff", str(playbook)]
        self.output, current = "", ""
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                self.output += line
                if line.startswith("TASK ["):
                    current = line[6 : line.index("]")]
                on_line(current, line)
        assert process.returncode == 0, self.output
        self.results: dict[str, Any] = json.loads(results.read_text())

    def __getitem__(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.results[name]
        return found


def task(title: str, module: str, /, **options: Any) -> dict[str, Any]:
    check = options.pop("check", False)
    return {"name": title, "queueops.fleet." + module: options, "check_mode": check}


@pytest.fixture
def busy(broker: Broker) -> Broker:
    """Version 2 finished 4 tasks, failed 6 and holds one until the file ``gate`` is there."""
    broker.publish(6, "fail")
    broker.publish(4)
    broker.start_worker(NAME)
    broker.queue().enqueue("tasks.hold", str(broker.folder / "gate"))
    wait_for(lambda: broker.backend().look().queues[0].executing and broker.backend().look().queues[0].queued == 0, what="the execution")
    return broker


def test_drain_waits_shows_and_fails_when_time_is_up(busy: Broker) -> None:
    def finish(current: str, line: str) -> None:
        if current == "drained" and "drain mail" in line:
            (busy.folder / "gate").touch()

    run = Run(
        busy,
        [
            task("look", "queue_info"),
            task("check", "queue_drain", check=True, queues=["mail"], timeout=60),
            task("late", "queue_drain", queues=["mail"], timeout=2),
            task("nobody", "queue_drain", queues=["mial"]),
            task("drained", "queue_drain", queues=["mail"], timeout=60),
            task("again", "queue_drain", queues=["mail"], timeout=60),
        ],
        finish,
    )
    assert run["look"]["queues"][0]["executing"] == 1 and run["look"]["changed"] is False
    assert run["check"]["drained"] is False and not run["check"].get("failed") and run["check"]["waited_s"] == 0
    late = run["late"]
    assert late["failed"] and late["error"]["code"] == "out_of_time" and late["changed"] is False
    assert late["executing"] == 1 and late["holding"][0]["name"] == NAME and late["waited_s"] >= 2
    assert re.search(r"not drained after \d+ s: 1 executing.*%s \(worker1, pid \d+\) has task \S+ for \d+ s" % re.escape(NAME), late["msg"])
    assert run["nobody"]["failed"] and run["nobody"]["error"]["option"] == "queues"
    assert run["drained"]["drained"] and not run["drained"].get("failed") and run["drained"]["changed"] is False
    assert run["drained"]["progress"][-1]["executing"] == 0 and run["drained"]["progress"][0]["executing"] == 1
    assert run["again"]["drained"]
    assert re.search(r"^\d\d:\d\d:\d\d  drain mail at worker1: 1 executing, 0 queued; ", run.output, re.M)


def test_pause_is_idempotent_and_foretold(broker: Broker) -> None:
    broker.publish(1)
    options = {"queues": ["mail"], "owner": "mailer", "reason": "bad release", "expires": 600}
    run = Run(
        broker,
        [
            task("told", "queue_drain", check=True, state="paused", **options),
            task("paused", "queue_drain", state="paused", **options),
            task("again", "queue_drain", state="paused", **options),
            task("look", "queue_info", queues=["mail"]),
            task("foreign", "queue_drain", state="active", queues=["mail"], owner="payments"),
            task("lifting", "queue_drain", check=True, state="active", **options),
            task("lifted", "queue_drain", state="active", **options),
            task("twice", "queue_drain", state="active", **options),
            task("list", "queue_drain", state="paused", backend="redis_list", queues=["mail"]),
        ],
    )
    changed = {name: run[name]["changed"] for name in ("told", "paused", "again", "lifting", "lifted", "twice")}
    assert changed == {"told": True, "paused": True, "again": False, "lifting": True, "lifted": True, "twice": False}
    assert run["told"]["diff"] == run["paused"]["diff"] and run["lifting"]["diff"] == run["lifted"]["diff"]
    assert "all queues" in run["paused"]["guarantee"]
    assert run["look"]["queues"][0]["paused_by"]["reason"] == "bad release"
    assert run["foreign"]["failed"] and run["foreign"]["error"]["code"] == "conflict"
    assert run["list"]["failed"] and "not able to pause" in run["list"]["msg"]


def test_redrive_by_playbook(busy: Broker) -> None:
    (busy.folder / "gate").touch()
    wait_for(lambda: busy.backend().look().workers[0].state == "idle", what="the idle worker")
    busy.close()
    options = {"queue": "mail", "match": {"version": "2.0.0", "error": "ValueError"}, "run": "rollback-17"}
    run = Run(
        busy,
        [
            task("told", "queue_redrive", check=True, **options),
            task("done", "queue_redrive", **options),
            task("again", "queue_redrive", **options),
            task("wrong", "queue_redrive", queue="mail", match={"error": "("}),
        ],
    )
    assert [run[name]["moved"] for name in ("told", "done", "again")] == [6, 6, 0]
    assert [run[name]["changed"] for name in ("told", "done", "again")] == [True, True, False]
    assert run["told"]["diff"] == run["done"]["diff"]
    assert not any(run[name].get("skipped") for name in ("told", "done", "again"))
    assert run["done"]["skipped_count"] == 0 and run["done"]["conservation"]["verdict"] == "proven"
    assert run["done"]["by_version"] == {"2.0.0": 6}
    assert run["wrong"]["failed"] and run["wrong"]["error"]["option"] == "match.error"
    assert "hunter2" not in run.output and "hunter2" not in json.dumps(run.results)


def test_gate_verdicts(busy: Broker) -> None:
    options: dict[str, Any] = {"queue": "mail", "version": "2.0.0", "since": 0, "min_tasks": 5, "bake": 1, "timeout": 2}

    def changed(**more: Any) -> dict[str, Any]:
        return {**options, **more}

    nowhere = "unix:///nowhere.sock"
    run = Run(
        busy,
        [
            task("fail", "fleet_gate", **options),
            task("pass", "fleet_gate", **changed(limit=0.7, bake=8, timeout=40, name="canary")),
            task("few", "fleet_gate", **changed(min_tasks=50)),
            task("fresh", "fleet_gate", **{key: value for key, value in options.items() if key != "since"}),
            task("nobody", "fleet_gate", **changed(version="3.0.0")),
            task("blind", "fleet_gate", **changed(url=nowhere, timeout=30, errors_limit=2)),
            task("check", "fleet_gate", check=True, **changed(limit=0.7, bake=30, timeout=60)),
            task("refused", "fleet_gate", **changed(timeout=0.5)),
            task("unable", "fleet_gate", **changed(backend="redis_list")),
        ],
    )
    assert {name: run[name].get("verdict") for name in run.results} == {
        "fail": "fail",
        "pass": "pass",
        "few": "inconclusive",
        "fresh": "inconclusive",
        "nobody": "inconclusive",
        "blind": "inconclusive",
        "check": "inconclusive",
        "refused": None,
        "unable": None,
    }
    assert not any(run[name].get("failed") for name in ("fail", "few", "fresh", "blind", "check"))
    assert run["fail"]["reason"] == "6 of 10 failed (60.0 %, limit 5.0 %)" and run["fail"]["measured"]
    assert run["fail"]["samples"] == [{"at": run["fail"]["samples"][0]["at"], "completed": 4, "failed": 6, "ratio": 0.6}]
    assert run["fail"]["decided_at"] >= run["fail"]["began_at"]
    assert run["pass"]["decided_at"] - run["pass"]["began_at"] >= 8
    assert not run["few"]["measured"] and "only 10 tasks finished" in run["few"]["reason"]
    assert "only 0 tasks" in run["fresh"]["reason"]
    assert "no worker was seen" in run["nobody"]["reason"]
    assert run["blind"]["reason"].startswith("could not measure: 2 looks in a row failed") and run["blind"]["errors"] == 2
    assert run["refused"]["error"]["option"] == "timeout"
    assert run["unable"]["failed"] and "completed and failed" in run["unable"]["msg"]
    assert "gate failed_ratio on mail, version 2.0.0: fail: 6 of 10 failed (60.0 %, limit 5.0 %)" in run.output
    assert "gate canary on mail, version 2.0.0: 6 of 10 failed (60.0 %, limit 70.0 %)" in run.output
    (busy.folder / "gate").touch()
