# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host is doing when it dies: each phase, what goes before it, and the run that comes after."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._errors import PutBack
from ansible_collections.queueops.fleet.plugins.module_utils._release.config_change import ConfigChange
from ansible_collections.queueops.fleet.plugins.module_utils._release.orders import Order

from tests.unit.release.conftest import Host

FIRST, SECOND, THIRD = Order("op-0001-deploy", 1), Order("op-0002-deploy", 2), Order("op-0003-rollback", 3)

#: Longer than any of these tests: the timer's own act is a phase of its own here.
CONFIRM_SECONDS = 3600.0


@dataclass(frozen=True)
class Scenario:
    """One phase to die in.

    :ivar before: brings a fresh host to where the phase starts.
    :ivar phase: what is killed.
    :ivar next_run: the run after it; what is live is judged when it has ended.
    :ivar releases: the numbers of the releases that may be live then: those of the old state and of the new one.
    """

    name: str
    before: Callable[[Host], None]
    phase: Callable[[Host], None]
    next_run: Callable[[Host], None]
    releases: tuple[int | None, int | None]


def nothing(host: Host) -> None:
    """A host that only has its application's config."""
    (host.config / "by-hand.conf").write_text("by hand\n")
    for version in ("1.0.0", "2.0.0"):
        host.artifact(version)


def release_1(host: Host) -> None:
    """Release 1 is live and confirmed."""
    nothing(host)
    host.transaction().prepare(host.wanted(1, "1.0.0", "a"), FIRST)
    host.transaction().activate(1, FIRST, CONFIRM_SECONDS)
    host.transaction().confirm(1, FIRST)


def release_2_prepared(host: Host) -> None:
    """And release 2 is prepared."""
    release_1(host)
    prepare(host)


def release_2_unconfirmed(host: Host) -> None:
    """Release 2 is live under an armed confirm timer."""
    release_2_prepared(host)
    host.transaction().activate(2, SECOND, CONFIRM_SECONDS)


def release_2_confirmed(host: Host) -> None:
    """Release 2 is known good."""
    release_2_unconfirmed(host)
    host.transaction().confirm(2, SECOND)


def broken_prepared(host: Host) -> None:
    """Release 2, prepared, does not start."""
    host.artifact("2.0.0", broken=True)
    release_1(host)
    prepare(host)


def edited(host: Host) -> None:
    """Release 1 is live, with edits of every kind that were not recorded."""
    release_1(host)
    host.transaction().history.snapshot("before-edits")
    (host.config / "worker.conf").write_text("setting=edited\n")
    (host.config / "by-hand.conf").unlink()
    (host.config / "new").mkdir()
    (host.config / "new" / "one.conf").write_text("one\n")
    (host.config / "link").symlink_to("worker.conf")


def prepare(host: Host) -> None:
    """Prepare release 2."""
    host.transaction().prepare(host.wanted(2, "2.0.0", "b"), SECOND)


def prepare_first(host: Host) -> None:
    """Prepare release 1."""
    host.transaction().prepare(host.wanted(1, "1.0.0", "a"), FIRST)


def switch(host: Host) -> None:
    """Switch to release 2."""
    host.transaction().activate(2, SECOND, CONFIRM_SECONDS)


def same_config_prepared(host: Host) -> None:
    """Release 2 is prepared, and differs from release 1 in its version alone."""
    release_1(host)
    host.transaction().prepare(host.wanted(2, "2.0.0", "a"), SECOND)


def switch_beside(host: Host) -> None:
    """Switch to release 2 while the workers of release 1 still finish."""
    host.transaction(side_by_side=True).activate(2, SECOND, CONFIRM_SECONDS)


def prepare_same_later(host: Host) -> None:
    """As :func:`prepare_later`, with the config that release 1 has, too."""
    host.transaction().prepare(host.wanted(2, "2.0.0", "a"), THIRD)


def switch_to_broken(host: Host) -> None:
    """Switch to a release 2 that does not start, so that the host puts itself back."""
    with suppress(PutBack):
        host.transaction().activate(2, SECOND, CONFIRM_SECONDS)


def confirm(host: Host) -> None:
    """Confirm release 2."""
    host.transaction().confirm(2, SECOND)


def revert(host: Host) -> None:
    """Go back to release 1."""
    host.transaction().revert(1, THIRD)


def take_back(host: Host) -> None:
    """What the confirm timer does when its time is up."""
    timer = host.transaction().timer.armed()
    if timer is not None:
        host.transaction().take_back(timer["token"])


def prepare_later(host: Host) -> None:
    """Prepare release 2 for a later operation: all it does to what is live is to put right what was cut short."""
    host.transaction().prepare(host.wanted(2, "2.0.0", "b"), THIRD)


def snapshot(host: Host) -> None:
    """Record the config."""
    host.transaction().history.snapshot("edits")


def config_revert(host: Host) -> None:
    """Put the config back."""
    host.transaction().history.apply("before-edits")


def changed_under_timer(host: Host) -> None:
    """The config was put back under an armed confirm timer."""
    edited(host)
    change_config(host)


def change_config(host: Host) -> None:
    """Put the config back under the confirm timer."""
    _change(host, "before-edits").revert(int(CONFIRM_SECONDS), dry_run=False)


def confirm_config(host: Host) -> None:
    """Confirm that."""
    _change(host, "before-edits").confirm(dry_run=False)


def take_back_config(host: Host) -> None:
    """What the confirm timer does when its time is up."""
    timer = host.transaction().timer.armed()
    if timer is not None:
        _change(host, "before-edits").take_back(timer["token"])


def _change(host: Host, to: str) -> ConfigChange:
    params: dict[str, Any] = {"fleet": "mailer", "state_dir": str(host.state_dir), "to": to, "paths": None, "exclude": [], "sensitive": []}
    return ConfigChange(dict(params, validate=[]))


SCENARIOS = [
    Scenario("snapshot", edited, snapshot, snapshot, (1, 1)),
    Scenario("config revert", edited, config_revert, snapshot, (1, 1)),
    Scenario("first prepare", nothing, prepare_first, prepare_first, (0, 0)),
    Scenario("prepare", release_1, prepare, prepare, (1, 1)),
    Scenario("switch", release_2_prepared, switch, prepare_later, (1, 2)),
    Scenario("switch side by side", same_config_prepared, switch_beside, prepare_same_later, (1, 2)),
    Scenario("switch that fails", broken_prepared, switch_to_broken, prepare_later, (1, 1)),
    Scenario("confirm", release_2_unconfirmed, confirm, confirm, (2, 2)),
    Scenario("revert", release_2_confirmed, revert, prepare_later, (2, 1)),
    Scenario("config change", edited, change_config, snapshot, (1, 1)),
    Scenario("config confirm", changed_under_timer, confirm_config, confirm_config, (1, 1)),
    Scenario("config take back", changed_under_timer, take_back_config, snapshot, (1, 1)),
    Scenario("take back", release_2_unconfirmed, take_back, prepare_later, (2, 1)),
]
