# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kill a phase after one operation after the other, and judge what the next run leaves."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.queueops.fleet.plugins.module_utils._release.orders import Order
from ansible_collections.queueops.fleet.plugins.module_utils._worker import guard

from tests.crash.host import CrashHost, Picture
from tests.crash.power import Disk, disks
from tests.crash.scenarios import Scenario
from tests.crash.trace import follow


class Judge:
    """One scenario on one host.

    :ivar operations: how many operations the phase does when nothing goes wrong.
    :ivar counts: points tried, kills during the recovery, and what was live afterwards.
    """

    def __init__(self, host: CrashHost, scenario: Scenario, saved: Path) -> None:
        self.host = host
        self.scenario = scenario
        self.saved = saved
        self.counts: Counter[str] = Counter()
        scenario.before(host)
        self.old = host.picture()
        host.save(saved)
        whole = follow(lambda: scenario.phase(host), str(host.folder))
        assert not whole.error, whole.error
        self.operations = len(whole.operations)
        self.new = host.picture()

    def try_points(self, points: Iterable[int]) -> str:
        """Kill after each of these operations, and at another of the recovery each time; return a line of counts."""
        for point in points:
            self.host.put_back(self.saved)
            killed = follow(lambda: self.scenario.phase(self.host), str(self.host.folder), kill_after=point)
            if not killed.killed:
                # How many folders git makes for its objects depends on their ids, and these on the time.
                assert point > self.operations - 10, f"{self.scenario.name} ended before operation {point}: {killed.error}"
                break
            # Another operation of the recovery each time; 53 has no factor in common with what the phase counts in.
            again = follow(lambda: self.scenario.next_run(self.host), str(self.host.folder), kill_after=1 + point * 7 % 53)
            assert not again.error, f"after a kill at {point} ({killed.operations[-1]}): {again.error}"
            self.counts["points"] += 1
            self.counts["of the recovery"] += again.killed
            self.judge(f"{self.scenario.name} killed after operation {point}, {killed.operations[-1]}", thorough=point % 16 == 1)
        return f"{self.scenario.name}: {self.operations} operations, " + ", ".join(f"{what} {n}" for what, n in sorted(self.counts.items()))

    def cut_power(self, every: int = 1) -> str:
        """Judge what is left of the phase for every disk that a power cut may leave, or for one in ``every``; a line of counts."""
        self.host.put_back(self.saved)
        start = Disk.read(self.host.folder)
        whole = follow(lambda: self.scenario.phase(self.host), str(self.host.folder), contents=True)
        assert not whole.error, whole.error
        for number, (what, disk) in enumerate(disks(start, whole.operations)):
            if number % every:
                continue
            disk.write()
            self.host.reboot()
            self.counts["states"] += 1
            self.judge(f"{self.scenario.name}: {what}", thorough=number // every % 16 == 0)
        counts = ", ".join(f"{what} {n}" for what, n in sorted(self.counts.items()))
        return f"power cut, {self.scenario.name}: {len(whole.operations)} operations, {counts}"

    def judge(self, what: str, thorough: bool) -> None:
        """Run the next run to its end, and see that the host is in the old or in the new state, and knows in which."""
        self.scenario.next_run(self.host)
        picture = self.host.picture()
        assert picture in (self.old, self.new), f"a mixture: {what}: {_difference(picture, self.old, self.new)}"
        is_old = picture == self.old
        self.counts["old" if is_old else "new"] += 1
        status = self.host.transaction().status()
        wanted = {release for release, live in zip(self.scenario.releases, (self.old, self.new), strict=True) if live == picture}
        assert status["release"] in wanted, f"{what}: the record says {status}"
        assert status["phase"] != "interrupted", what
        barred = guard.entry(str(self.host.root), status["version"] or "none")
        assert barred is None or (status["phase"] == "active" and not barred.holds), f"{what}: what is live may not start: {barred}"
        left = [str(path) for path in self.host.folder.rglob(".*.queueops-*")]
        assert not left, f"{what}: left behind {left}"
        if thorough:
            self._go_on(what)

    def _go_on(self, what: str) -> None:
        """The history is whole, and the host can go to any release that it knows."""
        repo = self.host.state_dir / "mailer" / "config.git"
        checked = subprocess.run(
            ["git", "--git-dir", repo, "fsck", "--strict", "--no-dangling"], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, f"{what}: {checked.stdout}{checked.stderr}"
        for number in (0, 1):
            if number in [record.number for record in self.host.transaction().record.releases()]:
                self.host.transaction().revert(number, Order("op-0009-rollback", 9))
                assert not self.host.transaction().examine(number, Order()).pending, f"{what}: cannot go to release {number}"


def _difference(picture: Picture, *others: Picture) -> str:
    rows = []
    for name in sorted(set(picture).union(*others)):
        values = [one.get(name) for one in (picture, *others)]
        if len(set(values)) > 1:
            rows.append(f"{name}: {values}")
    return "; ".join(rows)
