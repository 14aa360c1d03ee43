# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds after every step: which version runs where, with which config, and that no task was lost or run twice."""

from __future__ import annotations

from collections import Counter

from conftest import INSTANCES, SECRET, WORKERS, Fleet


def check_release(fleet: Fleet, version: str) -> None:
    """Every host runs the version, on a byte for byte right config, and RQ knows just those workers."""
    for name in WORKERS:
        assert fleet.running(name) == [version] * INSTANCES, name
        assert fleet.configs(name) == fleet.wanted_configs(name, version), name
        for file in ("routes.json", "secret.conf", "worker.conf"):
            found = fleet.workers[name].file(f"/etc/mailer/{file}")
            assert (found.user, found.group, found.mode) == ("root", "mailer", 0o640), f"{name}: {file}"
    wanted = sorted(f"mailer@{version}:{name}:{instance}" for name in WORKERS for instance in range(1, INSTANCES + 1))
    state = fleet.queue()
    assert state["workers"] == wanted
    assert not state["paused"]


def check_conservation(settled: Fleet) -> None:
    """Every published task is in a ledger, once; none waits, is failed or is held back anywhere."""
    done = Counter(row.number for row in settled.ledger())
    published = settled.published()
    state = settled.queue()
    assert len(published) > 20
    found = {
        "lost": sorted(set(published) - set(done)),
        "run twice": sorted(number for number, times in done.items() if times > 1),
        "never published": sorted(set(done) - set(published)),
    }
    assert found == {"lost": [], "run twice": [], "never published": []}, f"{found}; RQ says {state}"
    assert [state[key] for key in ("queued", "taken", "executing", "scheduled", "failed")] == [0] * 5, state


def check_secret(fleet: Fleet, *logs: str) -> None:
    """The secret of the config is on the hosts, for root and the workers alone, and in nothing that was printed or written down."""
    for log in logs:
        assert SECRET not in fleet.log(log), log
    for host in (fleet.broker, *fleet.workers.values()):
        # Config history holds the config itself; everything else under the state folder must not.
        found = host.run("grep -rl --exclude-dir=config.git %s /var/lib/queueops /var/log 2>/dev/null", SECRET)
        assert found.stdout == "", found.stdout
        if host is not fleet.broker:
            assert host.file("/var/lib/queueops").mode == 0o700
