# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The board's screen over real hosts, a real broker and the actions that wait for them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.board.terminal import Terminal
from tests.unit.conftest import RedisServer
from tests.unit.playbooks.conftest import Fleet
from tests.unit.queue.conftest import Broker

WAITING = """\
- name: Wait for the queue
  hosts: localhost
  gather_facts: false
  module_defaults:
    group/queueops.fleet.queue: {{backend: rq, url: "{url}"}}
  tasks:
    - name: Watch the gate
      queueops.fleet.fleet_gate: {{name: canary, queue: mail, metric: depth, limit: 10, bake: 60, timeout: 120, interval: 0.2}}
      ignore_errors: true
    - name: Drain
      queueops.fleet.queue_drain: {{queues: [mail], include_queued: true, timeout: 120}}
"""


@pytest.fixture
def on_terminal() -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def start(fleet: Fleet, *arguments: str) -> Terminal:
        fleet.write_inventory()
        environment = {**fleet.environment(), "ANSIBLE_STDOUT_CALLBACK": "queueops.fleet.board"}
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        command = [program, "-i", str(fleet.project / "inventory.yml"), *arguments]
        terminals.append(Terminal(command, fleet.project, environment, columns=100, rows=40))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def last_screen(terminal: Terminal) -> list[str]:
    """The rows from the header on, of the screen that was left."""
    rows = terminal.everything()
    return rows[max(index for index, row in enumerate(rows) if row.startswith("mailer  ")) :]


@pytest.mark.sampled
def test_a_deploy_and_a_rollback_on_a_terminal(deployed: Fleet, on_terminal: Callable[..., Terminal]) -> None:
    deploy = on_terminal(deployed, "-e", "version=2.0.0", "queueops.fleet.deploy")
    rows = deploy.until(lambda rows: any(re.match(r"worker1 +done +done +- ", row) for row in rows))
    assert any(re.match(r"worker2  done       (-|now \d+ s) +- +1 \(1\.0\.0\)$", row) for row in rows)
    assert deploy.end() == 0
    screen = last_screen(deploy)
    assert re.match(r"mailer  \d:\d\d  op-0002-deploy: release 1 to 2 \(2\.0\.0\), epoch 2  confirmed$", screen[0])
    assert screen[1:5] == [
        "now      the playbook has ended",
        "host     prepared   active     confirmed  live release",
        "worker1  done       done       done       2 (2.0.0)",
        "worker2  done       done       done       2 (2.0.0)",
    ]
    assert any(row.endswith("All 2 hosts of fleet mailer are on release 2.") for row in deploy.everything())
    assert deployed.releases() == [2, 2]

    rollback = on_terminal(deployed, "queueops.fleet.rollback")
    assert rollback.end() == 0
    screen = last_screen(rollback)
    assert re.match(r"mailer  \d:\d\d  op-0003-rollback: release 2 to 1 \(1\.0\.0\), epoch 3  rolled back$", screen[0])
    assert screen[2:5] == [
        "host     prepared   reverted   live release",
        "worker1  done       done       1 (1.0.0)",
        "worker2  done       done       1 (1.0.0)",
    ]
    assert deployed.releases() == [1, 1]


def test_a_gate_and_a_drain_tell_how_far_they_are(
    deployed: Fleet, redis_server: RedisServer, tmp_path: Path, on_terminal: Callable[..., Terminal]
) -> None:
    broker = Broker(redis_server, tmp_path)
    broker.publish(8)
    (deployed.project / "wait.yml").write_text(WAITING.format(url=redis_server.url))
    run = on_terminal(deployed, "wait.yml")
    rows = run.text("8 tasks are queued (limit 10)")
    assert any(re.match(r"gate     canary on mail, bake time \d+ s more$", row) for row in rows)
    broker.publish(4)
    rows = run.text("12 of 12 left")
    assert any(re.match(r"gate     FAIL: 12 tasks are queued \(limit 10\); canary on mail$", row) for row in rows)
    assert any(row.startswith("drain    mail at localhost: 12 of 12 left; 0 executing, 12 queued") for row in rows)
    assert any(row.startswith("queue    mail: 12 queued, 0 executing") for row in rows)
    broker.client.lpop(broker.queue().key, 6)
    rows = run.text("6 of 12 left, about ")
    assert any(row.startswith("queue    mail: 6 queued") for row in rows)
    broker.client.lpop(broker.queue().key, 6)
    assert run.end() == 0
    assert any("drained after" in row for row in run.everything())
