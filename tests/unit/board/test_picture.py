# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The screen as rows: what it says of fleets of every size, and that nothing in it breaks out of its place."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.fleet import FleetNow, Running
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.line import TONES
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.picture import picture, waiting
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.seen import Seen
from ansible_collections.queueops.fleet.plugins.plugin_utils._board.text import cut, harmless, one_line, padded, width

BEGAN = time.mktime((2026, 11, 27, 3, 0, 0, 0, 0, -1))


def seen(host: str, module: str, data: dict[str, Any], **args: Any) -> Seen:
    task = SimpleNamespace(delegate_to=None, check_mode=False)
    return Seen(host, task, "queueops.fleet." + module, module, data, args)


class Deploy:
    """A deploy of so many hosts, by hand."""

    def __init__(self, hosts: int) -> None:
        self.fleet = FleetNow()
        self.names = [f"worker{number}" for number in range(1, hosts + 1)]
        self.fleet.play_began("Deploy", False, self.names, BEGAN)
        self.began("prepared", self.names, BEGAN)
        self.done("prepared", self.names, release=1, version="1.0.0")
        opened = {"fleet": "mailer", "operation": "op-0002-deploy", "epoch": 2, "from_release": 1, "target": 2, "version": "2.0.0"}
        self.fleet.task_ended(seen("worker1", "fleet_operation", opened), "done", BEGAN)

    def began(self, phase: str, hosts: list[str], at: float) -> None:
        for host in hosts:
            self.fleet.task_began(host, Running(f"Make it {phase}", at, phase=phase))

    def done(self, phase: str, hosts: list[str], release: int = 2, version: str = "2.0.0") -> None:
        for host in hosts:
            live = {"release": release, "version": version}
            self.fleet.task_ended(seen(host, "worker_release", {"live": live}, phase=phase), "done", BEGAN)

    def failed(self, phase: str, host: str, why: str) -> None:
        self.fleet.task_ended(seen(host, "worker_release", {"msg": why, "error": {"code": "put_back"}}, phase=phase), "FAILED", BEGAN)

    def lost(self, phase: str, host: str) -> None:
        self.fleet.task_ended(seen(host, "worker_release", {"unreachable": True, "msg": "no route to host"}, phase=phase), "LOST", BEGAN)

    def rows(self, columns: int = 80, rows: int = 16, after: float = 0) -> list[str]:
        shown = picture(self.fleet, columns, rows, BEGAN + after)
        assert {tone for row in shown for _text, tone in row} <= set(TONES)
        return ["".join(text for text, _tone in row).rstrip() for row in shown]


@pytest.mark.parametrize("hosts", [1, 3, 30, 300])
@pytest.mark.parametrize(("columns", "rows"), [(80, 16), (40, 6), (200, 40), (20, 3)])
def test_it_fits(hosts: int, columns: int, rows: int) -> None:
    deploy = Deploy(hosts)
    deploy.began("active", deploy.names[: hosts // 2 + 1], BEGAN)
    deploy.failed("active", "worker1", "The worker mail:0 ended with status 3. " * 5)
    facts = {"kind": "gate", "title": "gate canary on mail", "text": "0 of 5 failed " * 20, "bake_left": 60.0}
    for at in range(9):
        deploy.fleet.told(facts, BEGAN + at)
    shown = deploy.rows(columns, rows)
    assert len(shown) <= rows
    assert max(map(width, shown)) < columns
    assert any(row.startswith("mailer") for row in shown)


def test_every_host_has_its_phases_and_why_it_failed() -> None:
    deploy = Deploy(4)
    deploy.began("active", deploy.names, BEGAN)
    deploy.done("active", ["worker1"])
    deploy.failed("active", "worker2", "The worker mail:0 ended with status 3.")
    deploy.lost("active", "worker3")
    assert deploy.rows(120, after=75)[1:8] == [
        "mailer  1:15  op-0002-deploy: release 1 to 2 (2.0.0), epoch 2",
        "now      75 s  Make it active (1): worker4",
        "host     prepared   active     confirmed  live release",
        "worker1  done       done       -          2 (2.0.0)",
        "worker2  done       FAILED     -          1 (1.0.0)  PUT BACK The worker mail:0 ended with status 3.",
        "worker3  done       LOST       -          1 (1.0.0)  UNREACHABLE no route to host",
        "worker4  done       now 75 s   -          1 (1.0.0)",
    ]


def test_a_rollback_is_told_in_its_own_phases() -> None:
    deploy = Deploy(2)
    deploy.began("reverted", deploy.names, BEGAN)
    deploy.done("reverted", ["worker1"], release=1, version="1.0.0")
    assert deploy.rows()[3:6] == [
        "host     prepared   reverted   live release",
        "worker1  done       done       1 (1.0.0)",
        "worker2  done       now 0 s    1 (1.0.0)",
    ]


def test_the_hosts_that_matter_come_first_and_the_others_are_counted() -> None:
    deploy = Deploy(30)
    deploy.began("active", deploy.names[:20], BEGAN)
    deploy.done("active", deploy.names[:18])
    deploy.failed("active", "worker20", "It did not start.")
    shown = deploy.rows(rows=8)
    assert [row.split()[0] for row in shown[4:7]] == ["worker20", "worker19", "worker1"]
    assert shown[7] == "... and 27 more: 17 active, 10 prepared"
    deploy.done("confirmed", deploy.names)
    assert deploy.rows(rows=8)[7] == "... and 27 more, all confirmed"
    assert deploy.rows(rows=5)[3:] == [
        "worker20  done       FAILED     done       2 (2.0.0)  PUT BACK It did not st...",
        "... and 29 more, all confirmed",
    ]


def test_a_gate_has_its_newest_samples_and_the_bake_time_runs() -> None:
    deploy = Deploy(1)
    for at in range(8):
        deploy.fleet.told({"kind": "gate", "title": "gate canary on mail", "text": f"{at} of 90 failed", "bake_left": None}, BEGAN + at)
    assert deploy.rows()[5:] == ["gate     canary on mail, the bake time has not begun"] + [
        f"         03:00:0{at}  {at} of 90 failed" for at in (3, 4, 5, 6, 7)
    ]
    deploy.fleet.told({"kind": "gate", "title": "gate canary on mail", "text": "9 of 90 failed", "bake_left": 60.0}, BEGAN + 10)
    assert deploy.rows(after=30)[5] == "gate     canary on mail, bake time 40 s more"
    assert deploy.rows(after=90)[5] == "gate     canary on mail, bake time is over"
    deploy.fleet.task_ended(seen("worker1", "fleet_gate", {"verdict": "fail", "reason": "9 of 90 failed"}, name="canary"), "FAILED", BEGAN)
    assert deploy.rows()[5:] == ["gate     FAIL: 9 of 90 failed; canary on mail"]


def test_a_drain_has_what_is_left_and_for_how_long() -> None:
    deploy = Deploy(1)
    queues = [{"name": "mail", "queued": 1, "executing": 2, "failed": 0, "paused": True}]
    facts = {"kind": "drain", "title": "mail", "text": "2 executing", "left": 3, "most": 40, "seconds_left": 30.0, "queues": queues}
    deploy.fleet.told(facts, BEGAN)
    assert deploy.rows(after=10)[5:] == [
        "queue    mail: 1 queued, 2 executing, 0 failed, PAUSED, at 03:00:00",
        "drain    mail: 3 of 40 left, about 20 s; 2 executing",
    ]
    deploy.fleet.told({"kind": "drain", "title": "mail", "text": "cannot look, trying again: no answer"}, BEGAN)
    assert deploy.rows()[6:] == ["drain    mail: cannot look, trying again: no answer"]
    deploy.fleet.task_ended(seen("worker1", "queue_drain", {"queues": queues}), "done", BEGAN)
    assert len(deploy.rows()) == 6


def test_the_next_operation_of_a_run_begins_with_an_empty_table() -> None:
    deploy = Deploy(2)
    deploy.done("active", deploy.names)
    deploy.fleet.task_ended(seen("worker1", "fleet_operation", {"fleet": "mailer", "outcome": "failed"}), "done", BEGAN)
    assert deploy.rows()[1] == "mailer  0:00  op-0002-deploy: release 1 to 2 (2.0.0), epoch 2  FAILED"
    deploy.began("prepared", ["worker1"], BEGAN)
    assert deploy.rows()[1:6] == [
        "mailer  0:00  Deploy",
        "now      0 s  Make it prepared (1): worker1",
        "host     prepared   active     confirmed  live release",
        "worker1  now 0 s    -          -",
        "worker2  -          -          -",
    ]


def test_the_verdict_has_the_last_word_on_each_host() -> None:
    deploy = Deploy(2)
    table = [{"host": "worker1", "ok": True, "found": 2}, {"host": "worker2", "ok": False, "found": None, "reason": "unreachable"}]
    deploy.fleet.task_ended(seen("worker1", "fleet_verdict", {"table": table}, version="2.0.0"), "FAILED", BEGAN)
    assert deploy.rows()[4:6] == [
        "worker1  done       -          -          2 (2.0.0)",
        "worker2  done       -          -          not known  unreachable",
    ]


def test_what_is_waited_for_names_a_few_hosts_and_since_when() -> None:
    running = {f"worker{number}": Running("Switch this wave", BEGAN) for number in range(1, 31)}
    running["home"] = Running("Write it down", BEGAN + 5, once=True)
    assert waiting(running, BEGAN + 12) == (
        "Switch this wave, for 12 s since 03:00:00: worker1, worker2, worker3, worker4, worker5, worker6 and 24 more; "
        "Write it down, for 7 s since 03:00:05: once for the fleet"
    )
    assert waiting({}, BEGAN) == ""


def test_a_hostile_name_or_message_stays_in_its_place() -> None:
    deploy = Deploy(1)
    names = ["主机一", "wo\u0301rker", "evil\033[2J\r\nhost", "x" * 300, "\u202egnorw", "\U0001f600\ufe0f"]
    deploy.fleet.play_began("Deploy", False, names, BEGAN)
    deploy.began("active", names, BEGAN)
    for name in names:
        deploy.failed("active", name, "line one\nline two\033]0;title\007\ttab")
    for columns in (40, 80, 200):
        shown = deploy.rows(columns)
        assert max(map(width, shown)) < columns
        assert all(character.isprintable() for row in shown for character in row.replace("\u0301", ""))
    assert [row for row in deploy.rows(200) if row.startswith("evil\\u001b[2J host")]
    # Wide names push nothing out of its column.
    starts = {
        width(row[: row.index("-          PUT BACK" if "-          PUT" in row else "FAILED")])
        for row in deploy.rows(200)
        if "FAILED" in row
    }
    assert len(starts) == 1


def test_text_has_the_width_that_a_terminal_gives_it() -> None:
    assert (width("abc"), width("主机"), width("e\u0301")) == (3, 4, 1)
    assert cut("主机一二三", 7) == "主机..."
    assert cut("主机一二三", 8) == "主机..."
    assert cut("abcdef", 5) == "abcde"
    assert padded("主", 4) == "主  "
    assert one_line(" a\n b\tc ") == "a b c"
    assert harmless("\033[31mred\033[0m \033[5A\n") == "\033[31mred\033[0m \\u001b[5A\n"
