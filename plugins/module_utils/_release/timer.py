# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The confirm timer: armed on the host before a change; unless confirmed in time, the host takes itself back.

It needs nothing but what is on the host: the rooms are copied beside the state, and are run from there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from typing import Any

from .._errors import Conflict, FleetError
from .._files import fsync_dir, make_private_dir, read_json, remove_durably, write_atomic, write_json

_ROOT = __package__.rpartition(".")[0]

#: Loaded beside the rooms, but of no use without Ansible.
_NOT_FOR_THE_AGENT = ("_adapter", "_worker_options")

_RUNNER = """\
import os, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from queueops_agent._release.agent import main
sys.exit(main(sys.argv[1:]))
"""


class ConfirmTimer:
    """One fleet's timer on this host.

    :param folder: the fleet's state folder on the host.
    :param fleet: names the timer's unit.
    """

    def __init__(self, folder: str, fleet: str) -> None:
        self._folder = folder
        self._fleet = fleet
        self._path = os.path.join(folder, "timer.json")

    def armed(self) -> dict[str, Any] | None:
        """The pending timer (``operation``, ``release``, ``deadline`` unix s, ``token``), or None."""
        found: dict[str, Any] | None = read_json(self._path)
        return found

    def arm(self, seconds: float, operation: str, release: int, agent_settings: dict[str, Any]) -> dict[str, Any]:
        """Start the timer. Refused when one of another operation is pending."""
        pending = self.armed()
        if pending is not None and pending["operation"] != operation:
            raise Conflict(
                "A confirm timer of operation %s (release %s) is armed here until %s"
                % (pending["operation"], pending["release"], _clock(pending["deadline"])),
                still_true="Nothing was changed",
                next_step="Confirm or roll back that operation first",
            )
        if pending is not None:
            self.disarm()
        runner = self._install_agent(agent_settings)
        timer = {
            "token": uuid.uuid4().hex,
            "operation": operation,
            "release": release,
            "deadline": time.time() + seconds,
            "armed_by": "systemd" if _has_systemd() else "watchdog",
        }
        write_json(self._path, timer)
        command = [sys.executable or "/usr/bin/python3", runner, self._folder, str(timer["token"])]
        try:
            if timer["armed_by"] == "systemd":
                self._start_systemd_timer(seconds, command)
            else:
                _start_watchdog([*command, "--wait"])
        except FleetError:
            remove_durably(self._path)
            raise
        return timer

    def disarm(self) -> bool:
        """Stop the timer; False when none was armed."""
        pending = self.armed()
        if pending is None:
            return False
        # The file is the order: a watchdog that wakes without it does nothing.
        remove_durably(self._path)
        if pending["armed_by"] == "systemd":
            subprocess.run(
                ["systemctl", "stop", "%s.timer" % self._unit()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
            )
        return True

    def _unit(self) -> str:
        return "queueops-confirm-%s" % self._fleet

    def _start_systemd_timer(self, seconds: float, command: list[str]) -> None:
        unit = self._unit()
        # An earlier, finished unit of the same name would make systemd-run refuse.
        for name in ("%s.timer" % unit, "%s.service" % unit):
            subprocess.run(["systemctl", "reset-failed", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        done = subprocess.run(
            [
                *("systemd-run", "--quiet", "--collect", "--unit", unit, "--on-active", "%ds" % max(1, round(seconds))),
                *("--timer-property", "AccuracySec=1s", "--description", "queueops.fleet: take %s back unless confirmed" % self._fleet),
                *command,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode != 0:
            raise FleetError(
                "The confirm timer could not be armed: systemd-run said: %s" % done.stdout.decode(errors="replace").strip(),
                still_true="Nothing live was changed",
                next_step="Mend systemd on this host, then run again",
            )

    def _install_agent(self, settings: dict[str, Any]) -> str:
        """Copy the rooms beside the state and return the path of the script that runs them."""
        home = os.path.join(self._folder, "agent")
        make_private_dir(home)
        package = os.path.join(home, "queueops_agent")
        for name in _agent_modules():
            module = sys.modules[name]
            target = os.path.join(package, *name[len(_ROOT) :].strip(".").split("."))
            if hasattr(module, "__path__"):
                make_private_dir(target)
                target = os.path.join(target, "__init__")
            _write_if_changed(target + ".py", _source_of(module))
        runner = os.path.join(home, "take_back.py")
        _write_if_changed(runner, _RUNNER)
        # Root only: it may hold the service manager's password.
        write_json(os.path.join(home, "settings.json"), settings)
        fsync_dir(home)
        return runner


def _agent_modules() -> list[str]:
    """The rooms that are loaded now: the transaction has imported all that it needs, and so will the agent."""
    from . import agent  # not at the top: the agent imports the transaction, which imports this file

    if agent.__name__ not in sys.modules:
        raise FleetError("The agent of the confirm timer is not loaded")
    loaded = [name for name in sys.modules if name == _ROOT or name.startswith(_ROOT + "._")]
    return sorted(name for name in loaded if name[len(_ROOT) + 1 :] not in _NOT_FOR_THE_AGENT)


def _source_of(module: Any) -> str:
    loader = module.__spec__.loader
    # A package without code has no source in Ansible's archive.
    return (loader.get_source(module.__name__) if hasattr(loader, "get_source") else "") or ""


def _write_if_changed(path: str, source: str) -> None:
    content = source.encode()
    try:
        with open(path, "rb") as stream:
            if stream.read() == content:
                return
    except FileNotFoundError:
        pass
    write_atomic(path, content)


def _has_systemd() -> bool:
    return os.path.isdir("/run/systemd/system") and os.geteuid() == 0


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


def _clock(unix: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(unix))
