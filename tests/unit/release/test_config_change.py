# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The config alone under the confirm timer, with the real watchdog."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._config.history import ConfigHistory
from ansible_collections.queueops.fleet.plugins.module_utils._config.watch import Watch
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Conflict, Refused
from ansible_collections.queueops.fleet.plugins.module_utils._release import waiter
from ansible_collections.queueops.fleet.plugins.module_utils._release.config_change import ConfigChange
from ansible_collections.queueops.fleet.plugins.module_utils._release.orders import Order

from tests.unit.conftest import wait_for
from tests.unit.release.conftest import Host


def change_of(state_dir: Path, to: str) -> ConfigChange:
    """The change that the module would conduct."""
    params: dict[str, Any] = {"fleet": "mailer", "state_dir": str(state_dir), "to": to, "paths": None}
    return ConfigChange(dict(params, exclude=[], sensitive=[], validate=[]))


class Place:
    """A watched file with two recorded states, `old` and `new`, the second one live."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "etc" / "a.conf"
        self.file.parent.mkdir()
        self.state = folder / "state"
        history = ConfigHistory(str(self.state / "mailer" / "config.git"), Watch([str(self.file.parent)], [], []))
        self.file.write_text("old\n")
        history.snapshot("old")
        self.file.write_text("new\n")
        history.snapshot("new")

    def change(self, to: str) -> ConfigChange:
        return change_of(self.state, to)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_unless_confirmed_the_host_puts_the_config_back(place: Place) -> None:
    result, changed, _diffs, _warnings = place.change("old").revert(1, dry_run=False)
    assert changed
    assert result["confirm_until"] is not None
    assert place.file.read_text() == "old\n"
    wait_for(lambda: place.file.read_text() == "new\n", 15, "the config to be put back")
    with pytest.raises(Conflict, match="is not at the snapshot"):
        wait_for(lambda: not (place.state / "mailer" / "timer.json").exists(), 15, "the end of the timer")
        place.change("old").confirm(dry_run=False)


def test_edits_that_nobody_recorded_come_back_too(place: Place) -> None:
    place.file.write_text("edited\n")
    place.change("old").revert(1, dry_run=False)
    wait_for(lambda: place.file.read_text() == "edited\n", 15, "the edits to be put back")


def test_confirmed_in_time_it_stays(place: Place) -> None:
    result = place.change("old").revert(2, dry_run=False)[0]
    assert place.change(result["snapshot"]["id"]).confirm(dry_run=True)[1]
    assert place.change(result["snapshot"]["id"]).confirm(dry_run=False)[1]
    assert not place.change("old").confirm(dry_run=False)[1], "a second time changes nothing"
    assert not (place.state / "mailer" / "timer.json").exists()
    assert place.file.read_text() == "old\n"


def test_a_second_change_is_refused_and_the_way_back_is_not(place: Place) -> None:
    place.file.write_text("third\n")
    first = place.change("old").revert(60, dry_run=False)[0]
    for dry_run in (True, False):
        with pytest.raises(Conflict, match="A confirm timer of operation config-"):
            place.change("new").revert(60, dry_run=dry_run)
        with pytest.raises(Conflict, match="A confirm timer of operation config-"):
            place.change("new").revert(None, dry_run=dry_run)
    with pytest.raises(Conflict, match="waits for the confirmation of config snapshot"):
        place.change("new").confirm(dry_run=False)
    assert not place.change("old").revert(60, dry_run=False)[1], "the same again"
    assert place.file.read_text() == "old\n"
    result, changed, _diffs, _warnings = place.change(first["was"]).revert(None, dry_run=False)
    assert (changed, result["confirm_until"]) == (True, None)
    assert place.file.read_text() == "third\n"


def test_previous_cannot_be_confirmed(place: Place) -> None:
    with pytest.raises(Refused, match="another snapshot since the change"):
        place.change("previous").confirm(dry_run=False)


def test_nothing_to_change_arms_nothing(place: Place) -> None:
    result, changed, _diffs, _warnings = place.change("new").revert(60, dry_run=False)
    assert (changed, result["confirm_until"]) == (False, None)
    assert not (place.state / "mailer" / "timer.json").exists()


def test_after_a_reboot_without_systemd_the_next_run_puts_it_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiter, "start", lambda *_arguments: "a watchdog that a reboot ends")
    place.change("old").revert(0, dry_run=False)
    assert place.file.read_text() == "old\n"
    assert place.change("new").revert(None, dry_run=False) is not None
    assert place.file.read_text() == "new\n"
    assert not (place.state / "mailer" / "timer.json").exists()


def test_a_switch_is_refused_while_a_config_change_waits_and_a_rollback_is_not(host: Host) -> None:
    host.transaction().prepare(host.wanted(1, "1.0.0", "a"), Order())
    host.transaction().activate(1, Order(), 60)
    host.transaction().confirm(1, Order())
    before = host.tree()
    host.transaction().prepare(host.wanted(2, "2.0.0", "b"), Order())
    params: dict[str, Any] = {
        "fleet": "mailer",
        "state_dir": str(host.state_dir),
        "to": "release-0",
        "paths": None,
        "exclude": [],
        "sensitive": [],
    }
    change = ConfigChange(dict(params, validate=[]))
    change.revert(60, dry_run=False)
    assert host.tree() != before
    with pytest.raises(Conflict, match="config snapshot"):
        host.transaction().activate(2, Order(), 60)
    with pytest.raises(Conflict, match="config snapshot"):
        host.transaction().foresee_switch(2, Order(), 60)
    host.transaction().confirm(1, Order())
    assert host.transaction().timer.armed() is not None, "confirming a release confirms no config change"
    host.transaction().revert(1, Order())
    assert host.tree() == before
    assert host.transaction().timer.armed() is None
