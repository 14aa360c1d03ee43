# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""After the switch to release 13 the controller was killed and the hosts were restarted; one was down when the time was up."""

from __future__ import annotations

from conftest import SCRATCH, Hosts, wait_until


def back(hosts: Hosts, name: str, end: float) -> None:
    """Code and config are back by then, and the unit is gone."""
    assert wait_until(end, lambda: hosts.running(name) == ["3.0.0", "3.0.0"]), (hosts.running(name), hosts.armed(name))
    assert wait_until(end, lambda: hosts.armed(name) == [False, False, False])
    assert hosts.config(name) == (SCRATCH / f"config-{name}").read_text(encoding="utf-8")


def test_a_host_that_was_restarted_is_back_within_the_limit_and_ten_seconds(hosts: Hosts) -> None:
    """The timer outlived the restart."""
    back(hosts, "worker1", hosts.deadline("rebooted") + 10)


def test_a_host_that_was_down_when_the_time_was_up_is_back_ten_seconds_after_its_start(hosts: Hosts) -> None:
    """The deadline that it missed is acted on after the start, and until then the unconfirmed version does not start."""
    started = float((SCRATCH / "rebooted.started").read_text(encoding="utf-8"))
    back(hosts, "worker2", started + 10)
    # The units are enabled: systemd asks the check while it starts the host.
    command = f"journalctl --no-pager --output=short-precise --since=@{started:.0f} --unit='mailer@*' --unit='queueops-*'"
    told = hosts.workers["worker2"].run(command).stdout
    assert "version 1.0.0 is quarantined and does not start" in told, told
