# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `systemctl show` said, recorded from systemd 257, is read right. No systemd runs here: Molecule tries the manager itself."""

from __future__ import annotations

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._worker.registry import open_manager
from ansible_collections.queueops.fleet.plugins.module_utils._worker.systemd import Systemd, guard_text, parse_show, time_span

# systemctl show --property=… mailer@1.service mailer@2.service 'mailer@*.service', Debian 13; mailer@3 runs besides the two.
RECORDED = """\
TimeoutStopUSec=20s
MainPID=0
Result=success
KillMode=mixed
KillSignal=15
Id=mailer@1.service
LoadState=loaded
ActiveState=inactive
SubState=dead
Job=
NeedDaemonReload=no
LoadError=

TimeoutStopUSec=20s
MainPID=619
Result=success
KillMode=mixed
KillSignal=15
Id=mailer@2.service
LoadState=loaded
ActiveState=active
SubState=running
Job=
NeedDaemonReload=no
LoadError=

TimeoutStopUSec=20s
MainPID=619
Result=success
KillMode=mixed
KillSignal=15
Id=mailer@2.service
LoadState=loaded
ActiveState=active
SubState=running
Job=
NeedDaemonReload=no
LoadError=

TimeoutStopUSec=20s
MainPID=846
Result=success
KillMode=mixed
KillSignal=15
Id=mailer@3.service
LoadState=loaded
ActiveState=active
SubState=running
Job=
NeedDaemonReload=no
LoadError=
"""
NOT_FOUND = """\
TimeoutStopUSec=1min 30s
MainPID=0
Result=success
KillMode=control-group
KillSignal=15
Id=no@1.service
LoadState=not-found
ActiveState=inactive
SubState=dead
Job=
NeedDaemonReload=no
LoadError=org.freedesktop.systemd1.NoSuchUnit "Unit no@1.service not found."
"""


def test_recorded_units() -> None:
    units = parse_show(RECORDED)
    assert [(unit["Id"], unit["ActiveState"], unit["MainPID"]) for unit in units] == [
        ("mailer@1.service", "inactive", "0"),
        ("mailer@2.service", "active", "619"),
        ("mailer@3.service", "active", "846"),
    ]


def test_recorded_missing_unit() -> None:
    (unit,) = parse_show(NOT_FOUND)
    assert unit["LoadState"] == "not-found"
    # The value holds an equals sign's worth of quotes and spaces, and is kept whole.
    assert unit["LoadError"] == 'org.freedesktop.systemd1.NoSuchUnit "Unit no@1.service not found."'


@pytest.mark.parametrize(
    ("text", "seconds"),
    # Recorded: what systemd makes of TimeoutStopSec = 90, 90061.5, 1.5, infinity, 2w, 100d.
    [
        ("1min 30s", 90),
        ("1d 1h 1min 1.500000s", 90061.5),
        ("1.500000s", 1.5),
        ("infinity", float("inf")),
        ("2w", 1209600),
        ("3month 1w 1d 16h 30min", 8640000),
    ],
)
def test_recorded_time_spans(text: str, seconds: float) -> None:
    assert time_span(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("version", "setting"),
    # As `systemctl --version` begins; the second was read on Debian 12.
    [
        ("systemd 257 (257.8-1~deb13u2)", "ExecCondition"),
        ("systemd 252 (252.38-1~deb12u1)", "ExecCondition"),
        ("systemd 239 (239-82.el8)", "ExecStartPre"),
    ],
)
def test_check_of_the_quarantine_suits_the_version(version: str, setting: str) -> None:
    lines = guard_text("/opt/mailer", version + "\n+PAM +AUDIT\n").splitlines()
    assert lines[1:] == ["[Service]", f"{setting}=+/bin/sh /opt/mailer/guard/may-start"]


@pytest.mark.parametrize(("unit", "units"), [("mailer@", ["mailer@1.service", "mailer@*.service"]), ("mailer", ["mailer.service"])])
def test_a_stop_is_one_call_that_means_the_extra_ones_too(unit: str, units: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, ...]] = []

    def run(_manager: Systemd, *arguments: str) -> str:
        called.append(arguments)
        return ""

    monkeypatch.setattr(Systemd, "_run", run)
    open_manager({"manager": "systemd", "unit": unit, "root": "/opt/mailer"}).quiet()
    assert called == [("stop", "--no-block", *units)]


@pytest.mark.parametrize(
    ("unit", "instances", "option"),
    [
        ("mailer.service", 2, "worker.instances"),
        ("--help", 1, "worker.unit"),
        ("a b", 1, "worker.unit"),
        ("mailer@", 0, "worker.instances"),
    ],
)
def test_impossible_units_are_refused(unit: str, instances: int, option: str) -> None:
    with pytest.raises(Refused) as refused:
        open_manager({"manager": "systemd", "unit": unit, "instances": instances, "root": "/opt/mailer"})
    assert refused.value.option == option
