# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What waits on the host for the confirm timer's deadline: a systemd service that is enabled while armed, else a detached watchdog.

The service survives a reboot: its unit is on the disk, and a deadline that passed while the host was down is acted on soon after it is
up. The watchdog survives the connection and the controller. A reboot ends it; then the next run of the collection on this host, of
whatever phase, takes the host back before it does anything else.
"""

from __future__ import annotations

import os
import subprocess
import time

from .._errors import FleetError
from .._files import fsync_dir, read_json, remove_durably, write_atomic

#: Where systemd looks for the administrator's units.
UNITS = "/etc/systemd/system"
_BOOT_TARGET = "multi-user.target.wants"

#: The longest that the waiting process may take to show that it runs, s.
_SIGN_OF_LIFE = 30.0

_UNIT = """\
# Written by queueops.fleet when a confirm timer was armed; gone again when it is confirmed or acted on.
[Unit]
Description=queueops.fleet: takes {fleet} back unless confirmed
After=local-fs.target network.target

[Service]
ExecStart={command}
Restart=on-failure
RestartSec=2

[Install]
WantedBy=multi-user.target
"""


def has_systemd() -> bool:
    """Whether this process may give systemd units that outlive a reboot."""
    return os.path.isdir("/run/systemd/system") and os.geteuid() == 0


def start(folder: str, fleet: str, token: str, command: list[str]) -> str:
    """Start what waits for the deadline of the timer in ``folder``, and see it run. Returns what it is: ``systemd`` or ``watchdog``.

    :raises FleetError: it does not run; nothing waits.
    """
    kind = "systemd" if has_systemd() else "watchdog"
    try:
        if kind == "systemd":
            _start_service(unit_of(folder, fleet), fleet, command)
        else:
            _start_watchdog(command)
        _await_sign_of_life(folder, token, kind)
    except OSError as error:
        raise FleetError(
            "The confirm timer could not be armed: %s: %s" % (error.filename or command[0], error.strerror),
            still_true="Nothing live was changed",
            next_step="Mend that on this host, then run again",
        ) from error
    return kind


def forget(folder: str, fleet: str) -> None:
    """Take the service away again, if there is one. A process that waits ends by itself: without the timer's file it has no order."""
    unit = unit_of(folder, fleet)
    remove_durably(os.path.join(UNITS, _BOOT_TARGET, unit))
    remove_durably(os.path.join(UNITS, unit))


def show_life(folder: str, token: str) -> None:
    """Called by what waits: tell the run that armed it that it is there."""
    write_atomic(os.path.join(folder, "waiting.json"), ('{"token": "%s", "pid": %d}\n' % (token, os.getpid())).encode())


def unit_of(folder: str, fleet: str) -> str:
    """The service's name; the state folder is part of it where it is not the usual one."""
    usual = folder == os.path.join("/var/lib/queueops", fleet)
    other = "" if usual else "-" + "".join(char if char.isalnum() else "-" for char in os.path.dirname(folder)).strip("-")
    return "queueops-confirm-%s%s.service" % (fleet, other)


def _start_service(unit: str, fleet: str, command: list[str]) -> None:
    path = os.path.join(UNITS, unit)
    write_atomic(path, _UNIT.format(fleet=fleet, command=" ".join(_quoted(word) for word in command)).encode(), 0o644)
    wants = os.path.join(UNITS, _BOOT_TARGET)
    if not os.path.isdir(wants):
        os.mkdir(wants, 0o755)
        fsync_dir(UNITS)
    link = os.path.join(wants, unit)
    if not os.path.islink(link):
        os.symlink(path, link)
    fsync_dir(wants)
    # A service of an earlier order may still be ending, so it is not merely started.
    if _systemctl("show", "--property=NeedDaemonReload", "--value", unit) == "yes":
        _systemctl("daemon-reload")
    _systemctl("restart", unit)


def _systemctl(*words: str) -> str:
    done = subprocess.run(
        ["systemctl", "--no-ask-password", *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode != 0:
        raise FleetError(
            "The confirm timer could not be armed: systemctl %s said: %s" % (words[0], said),
            still_true="Nothing live was changed",
            next_step="Mend systemd on this host, then run again",
        )
    return said


def _start_watchdog(command: list[str]) -> None:
    subprocess.Popen(  # outlives this process on purpose: nobody waits for it
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        close_fds=True,
        cwd="/",
    )


def _await_sign_of_life(folder: str, token: str, kind: str) -> None:
    end = time.monotonic() + _SIGN_OF_LIFE
    pause = 0.02
    while (read_json(os.path.join(folder, "waiting.json")) or {}).get("token") != token:
        if time.monotonic() > end:
            raise FleetError(
                "The confirm timer could not be armed: its %s did not come up within %d s" % (kind, _SIGN_OF_LIFE),
                still_true="Nothing live was changed",
                next_step="Run `%s %s` on the host by hand to see why" % ("python3", os.path.join(folder, "agent", "take_back.py")),
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)


def _quoted(word: str) -> str:
    """A word of a command line as a unit file wants it."""
    return '"%s"' % word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
