# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Journals of fleets that somebody would study, written through the real journal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._journal import events
from ansible_collections.queueops.fleet.plugins.module_utils._journal.closing import CloseRequest, close_operation
from ansible_collections.queueops.fleet.plugins.module_utils._journal.events import Event
from ansible_collections.queueops.fleet.plugins.module_utils._journal.journal import Journal
from ansible_collections.queueops.fleet.plugins.module_utils._journal.opening import OpenRequest, open_operation
from ansible_collections.queueops.fleet.plugins.module_utils._journal.operation import Answer, append_events
from ansible_collections.queueops.fleet.plugins.module_utils._postmortem.facts import Facts, choose, gather

HOSTS = ("worker1", "worker2", "worker3")
#: What a hostile or clumsy writer puts where text may stand.
HOSTILE = (
    '<script>alert("1")</script> | a\nb & \u202egnp.exe\x1b[31m **bold** [x](http://evil.example) {{ 7 * 7 }} `code` \ud800 ' + 120 * "w"
)


class Fleet:
    """A fleet of three hosts as its journal knows it, by a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(str(folder / "mailer" / "journal.jsonl"))
        self.opened: Answer | None = None
        self.clock = datetime(2026, 3, 1, 7, 41, 22, 123000, UTC)
        self.began = self.clock

    def now(self) -> str:
        """What the journal takes for the time."""
        return self.clock.strftime("%Y-%m-%dT%H:%M:%S.") + "%03dZ" % (self.clock.microsecond // 1000)

    @property
    def operation(self) -> str:
        assert self.opened is not None
        return self.opened.operation.id

    def open(self, kind: str, hosts: Sequence[str] = HOSTS, config: str = "a", **options: Any) -> str:
        if kind == "deploy":
            options.setdefault("digests", dict.fromkeys(hosts, "%s+sha256:ab+%s" % (options["version"], config)))
        self.began = self.clock = self.clock + timedelta(seconds=60)
        self.opened = open_operation(
            self.journal, OpenRequest(kind, actor=options.pop("actor", "alice@ctl1"), controller="ctl1", **options)
        )
        return self.operation

    def add(self, second: float, kind: str, host: str | None = None, reason: str | None = None, **data: Any) -> Event:
        """Write an event that happened ``second`` s after the operation was opened."""
        assert self.opened is not None
        at = self.began + timedelta(seconds=second)
        self.clock = max(self.clock, at)
        event = Event(kind, host=host, reason=reason, data=data, at=at.isoformat())
        operation = self.opened.operation
        return append_events(self.journal, operation.id, operation.epoch, [event], "alice@ctl1").written[0]

    def gate(self, second: float, verdict: str, wave: Sequence[str], failed: int, completed: int) -> Event:
        at = self.began.timestamp() + second
        counts = [(failed // 2, completed // 2), (failed, completed)]
        samples = [
            {"at": at - 2 + place, "completed": good, "failed": bad, "ratio": bad / (good + bad)}
            for place, (bad, good) in enumerate(counts)
        ]
        ratio = "%d of %d failed" % (failed, failed + completed)
        data: dict[str, Any] = {"verdict": verdict, "metric": "failed_ratio", "limit": 0.05, "wave": list(wave), "looks": 2}
        return self.add(second, "gate_verdict", reason=ratio, last_sample=samples[-1], samples=samples, **data)

    def close(self, outcome: str, release: int | None, hosts: Sequence[str] = HOSTS, **more: Any) -> None:
        assert self.opened is not None
        operation = self.opened.operation
        reported = {host: {"release": release, "phase": "confirmed", "ok": True} for host in hosts}
        reported.update(more.pop("reported", {}))
        self.clock += timedelta(seconds=1.5)
        close_operation(self.journal, CloseRequest(operation.id, outcome, operation.epoch, hosts=reported, actor="alice@ctl1", **more))

    def deployed(self, version: str = "1.0.0") -> None:
        """A deploy that was confirmed."""
        self.open("deploy", version=version)
        target = self.opened.operation.target if self.opened else 0
        self.add(3, "host_switched", HOSTS[0], release=target, timings={"drain": 0.5, "start": 2.0, "swap": 0.1})
        self.gate(8, "pass", HOSTS[:1], 0, 40)
        for host in HOSTS[1:]:
            self.add(12, "host_switched", host, release=target, timings={})
        for host in HOSTS:
            self.add(20, "host_confirmed", host, release=target, timings={})
        self.close("confirmed", target)

    def bad_deploy(self) -> None:
        """Release 2 on the canary, caught by its gate, up to the end."""
        self.open("deploy", version="2.0.0", config="b")
        self.add(0.5, "queue_looked", queue="mail", queued=40, executing=3, failed=0)
        self.add(
            1, "config_compared", release=2, hosts=list(HOSTS), files=[{"path": "/etc/mailer/worker.conf", "diff": "-pool=4\n+pool=8"}]
        )
        self.add(10, "host_switched", "worker1", release=2, timings={"drain": 1.834, "start": 2.312, "swap": 0.551})
        self.gate(22.5, "fail", ["worker1"], 8, 13)
        ordered: dict[str, Any] = {"target": 1, "from": 2}
        self.add(24, "rollback_ordered", reason="gate after wave 1: fail", **ordered)
        self.add(33.75, "host_reverted", "worker1", release=1, timings={"drain": 1.878})
        self.add(
            36,
            "tasks_redriven",
            queue="mail",
            matched=52,
            moved=50,
            remaining=0,
            skipped_count=2,
            skipped_because={"the payload is gone": 2},
            conservation={
                "before": {"queued": 60, "failed": 52},
                "after": {"queued": 110, "failed": 2},
                "verdict": "proven",
                "reason": "all there",
            },
        )
        self.close("rolled_back", 1, reason="gate after wave 1: fail")

    def facts(self, operation: str | None = None) -> Facts:
        written = self.journal.read()
        return gather(written, "mailer", choose(written, operation))


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """A fleet without a journal."""
    made = Fleet(tmp_path)
    monkeypatch.setattr(events, "now", made.now)
    return made


@pytest.fixture
def rolled_back(fleet: Fleet) -> Fleet:
    """Release 1 confirmed, release 2 caught by its gate."""
    fleet.deployed()
    fleet.bad_deploy()
    return fleet


@pytest.fixture
def hostile(fleet: Fleet) -> Fleet:
    """Release 1 confirmed, and an open deploy in whose events every text is hostile and every value of a wrong kind."""
    fleet.deployed()
    fleet.open("deploy", (HOSTILE, "worker1"), version=HOSTILE, reason=HOSTILE, actor=HOSTILE)
    fleet.add(1, "queue_looked", queue=HOSTILE, queued=5, failed=10**300, executing=True)
    fleet.add(2, "config_compared", hosts=[HOSTILE, 7], files=[{"path": HOSTILE, "diff": HOSTILE}, "x", {"path": None}])
    fleet.add(3, "host_switched", HOSTILE, HOSTILE, release=2, timings={"drain": HOSTILE, "start": 10**300})
    fleet.add(4, "host_switched", "worker1", release=HOSTILE, timings=HOSTILE)
    fleet.add(5, "gate_verdict", reason=HOSTILE, verdict=HOSTILE, metric=HOSTILE, limit=HOSTILE, wave=[HOSTILE, 7], last_sample=HOSTILE)
    fleet.add(
        6,
        "gate_verdict",
        verdict="fail",
        metric="failed_ratio",
        limit=1e300,
        wave="x",
        samples=[{"at": 1e300, "ratio": 0.1}, {"at": 5, "ratio": 0.2}, 3],
    )
    fleet.add(7, "rollback_ordered", reason=HOSTILE, target=HOSTILE)
    fleet.add(8, "host_unreachable", HOSTILE, HOSTILE)
    fleet.add(
        9, "tasks_redriven", queue=HOSTILE, matched=HOSTILE, skipped_because={HOSTILE: 3}, conservation={"after": [1], "verdict": HOSTILE}
    )
    fleet.add(10, "redrive_failed", reason=HOSTILE)
    fleet.add(11, "something_new", HOSTILE, HOSTILE, **{HOSTILE: HOSTILE}, depth={"a": [1]})
    return fleet
