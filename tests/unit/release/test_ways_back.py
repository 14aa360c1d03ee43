# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Back by number, by version and to known good, the traps that other tools fall into, and what a run does that comes too late."""

from __future__ import annotations

import json
import time

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._config.history import ConfigHistory
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict, NotFound, PutBack, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._release import waiter
from ansible_collections.queueops.fleet.plugins.module_utils._release.orders import Order

from tests.unit.release.conftest import Host


def deploy(host: Host, number: int, version: str, setting: str) -> None:
    transaction = host.transaction()
    transaction.prepare(host.wanted(number, version, setting), Order())
    transaction.activate(number, Order(f"op-{number}"), 60)
    transaction.confirm(number, Order(f"op-{number}"))


def back_to(host: Host, release: str | int | None, version: str | None = None) -> bool:
    """Roll back as the module does; whether anything changed."""
    transaction = host.transaction()
    return transaction.revert(transaction.record.named(release, version), Order()).changed


def running(host: Host) -> set[str | None]:
    return {worker["version"] for worker in host.transaction().status()["workers"]}


def test_a_second_rollback_changes_nothing(host: Host) -> None:
    """The first trap: "current" is not the newest folder by its time, so a second rollback stays."""
    deploy(host, 1, "1.0.0", "a")
    transaction = host.transaction()
    transaction.prepare(host.wanted(2, "2.0.0", "b"), Order())
    transaction.activate(2, Order("op-2"), 60)
    assert back_to(host, "known_good")
    assert running(host) == {"1.0.0"}
    pids = [worker["pid"] for worker in host.transaction().status()["workers"]]
    assert not back_to(host, "known_good")
    assert [worker["pid"] for worker in host.transaction().status()["workers"]] == pids


def test_forward_to_the_newest_then_back(host: Host) -> None:
    """The second trap: after back and forth the way back still leads to the release before, code and config."""
    deploy(host, 1, "1.0.0", "a")
    first = host.tree()
    deploy(host, 2, "2.0.0", "b")
    second = host.tree()
    assert back_to(host, 1)
    assert host.tree() == first
    assert (host.root / "versions" / "2.0.0" / "worker.py").is_file(), "the bad release stays for study"
    host.transaction().activate(2, Order("op-4"), 60)
    host.transaction().confirm(2, Order("op-4"))
    assert host.tree() == second
    assert running(host) == {"2.0.0"}
    assert back_to(host, None, "1.0.0")
    assert host.tree() == first
    assert running(host) == {"1.0.0"}


def test_a_host_that_missed_a_deploy_stays_on_the_release_that_the_others_go_back_to(host: Host) -> None:
    """The third trap: one step back from where each host is would take this one to another release than the rest."""
    deploy(host, 1, "1.0.0", "a")
    # Release 2 went out elsewhere; this host was away. Now the fleet goes back to release 1.
    before = host.tree()
    for release in (1, "known_good"):
        assert not back_to(host, release)
        assert host.tree() == before
    assert running(host) == {"1.0.0"}
    with pytest.raises(NotFound, match="known here: 0, 1"):
        back_to(host, 2)


def test_a_version_names_its_newest_release_that_was_live(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a")
    deploy(host, 2, "1.0.0", "b")
    host.transaction().prepare(host.wanted(3, "1.0.0", "c"), Order())
    record = host.transaction().record
    assert (record.named(None, "1.0.0"), record.named("known_good", None), record.named("1", "1.0.0")) == (2, 2, 1)
    with pytest.raises(NotFound, match=r"no release of version 9\.9\.9 .* known here: 0 \(None\), 1 \(1\.0\.0\)"):
        record.named(None, "9.9.9")
    for release in (None, "newest"):
        with pytest.raises(Refused, match="does not name a release"):
            record.named(release, None if release is None else "1.0.0")


def test_without_systemd_a_deadline_that_passed_during_a_reboot_is_acted_on_by_the_next_run(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(host, 1, "1.0.0", "a")
    before = host.tree()
    monkeypatch.setattr(waiter, "start", lambda *_arguments: "a watchdog that a reboot ends")
    host.transaction().prepare(host.wanted(2, "2.0.0", "b"), Order())
    switched = host.transaction(drain_timeout=0.5, start_timeout=0.5).activate(2, Order("op-2"), 2)
    assert switched.confirm_until is not None
    # As after a reboot that took longer than the time that was left.
    path = host.state_dir / "mailer" / "timer.json"
    path.write_text(json.dumps(dict(json.loads(path.read_text()), boot="an earlier one", deadline=time.time() - 60)))
    with pytest.raises(Conflict, match="Release 2 is not live on host1: release 1 is"):
        host.transaction().confirm(2, Order("op-2"))
    assert host.tree() == before
    assert running(host) == {"1.0.0"}
    assert host.transaction().status()["confirm_until"] is None


def test_a_way_back_that_was_cut_short_goes_on_although_the_release_that_it_left_starts_no_more(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the broker has shut its version out meanwhile."""
    deploy(host, 1, "1.0.0", "a")
    first = host.tree()
    deploy(host, 2, "2.0.0", "b")

    def dies(*_arguments: object) -> None:
        raise SystemExit

    with monkeypatch.context() as dying:
        dying.setattr(ConfigHistory, "apply", dies)
        with pytest.raises(SystemExit):
            back_to(host, 1)
    assert host.transaction().status()["phase"] == "interrupted"
    (host.root / "versions" / "2.0.0" / "worker.py").write_text("raise SystemExit(1)\n")
    assert back_to(host, 1)
    (host.root / "versions" / "2.0.0" / "worker.py").unlink()
    assert host.transaction().status()["phase"] == "confirmed"
    assert (host.tree(), running(host)) == (first, {"1.0.0"})


def test_the_way_back_leads_past_an_unconfirmed_release(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a")
    for number, version in ((2, "2.0.0"), (3, "3.0.0")):
        host.transaction().prepare(host.wanted(number, version, "b"), Order())
        host.transaction().activate(number, Order("op-2"), 60)
    assert back_to(host, "known_good")
    assert running(host) == {"1.0.0"}


def test_a_repair_of_the_live_release_needs_no_confirmation(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a")
    (host.config / "worker.conf").write_text("setting=edited\n")
    repaired = host.transaction().activate(1, Order("op-2"), 60)
    assert (repaired.changed, repaired.confirm_until) == (True, None)
    assert host.transaction().status()["phase"] == "confirmed"
    assert host.transaction().timer.armed() is None


def test_an_unconfirmed_release_keeps_its_timer_when_a_second_try_is_put_back(host: Host) -> None:
    deploy(host, 1, "1.0.0", "a")
    host.transaction().prepare(host.wanted(2, "2.0.0", "b"), Order())
    host.transaction().activate(2, Order("op-2"), 60)
    host.transaction().prepare(host.wanted(3, "3.0.0", "c", broken=True), Order())
    with pytest.raises(PutBack):
        host.transaction(health={"hold": 5.0, "command": []}).activate(3, Order("op-2"), 60)
    assert running(host) == {"2.0.0"}
    assert host.transaction().timer.armed() is not None
    assert back_to(host, "known_good")
