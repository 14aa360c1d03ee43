# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd: one service unit, or the instances 1 to N of a template unit, through `systemctl`."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from typing import Any

from .._errors import FleetError, MissingLibrary, NotFound, Refused, Unavailable
from .._files import write_atomic
from . import guard
from .api import WorkerManager, WorkerProcess, WorkerSettings
from .process import running_version, started_at

#: Seconds after which `systemctl`, which only asks PID 1, is not answering. Source: DefaultTimeout of D-Bus calls is 25 s.
ANSWER_LIMIT = 40
#: Where an administrator's units and their drop-ins are. Source: systemd.unit(5).
UNITS = "/etc/systemd/system"
PROPERTIES = (
    "Id",
    "LoadState",
    "LoadError",
    "ActiveState",
    "SubState",
    "MainPID",
    "Result",
    "Job",
    "TimeoutStopUSec",
    "KillMode",
    "KillSignal",
    "NeedDaemonReload",
)
#: Seconds in each unit that systemd writes a time span with. Source: systemd.time(7).
SPANS = {"y": 31557600, "month": 2629800, "w": 604800, "d": 86400, "h": 3600, "min": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "μs": 1e-6}
#: ActiveState -> state of a worker. Source: the D-Bus interface of systemd, org.freedesktop.systemd1(5).
ACTIVE_STATES = {
    "active": "running",
    "reloading": "running",
    "refreshing": "running",
    "activating": "starting",
    "deactivating": "stopping",
    "inactive": "stopped",
    "failed": "failed",
    "maintenance": "failed",
}


class Systemd(WorkerManager):
    """Workers as service units. A template `mailer@.service` with N instances is `mailer@1` to `mailer@N`."""

    # A start job waits until the unit has stopped.
    queues_starts = True

    def __init__(self, settings: WorkerSettings) -> None:
        super().__init__(settings)
        unit = settings.unit if settings.unit.endswith(".service") else settings.unit + ".service"
        self._template = unit.endswith("@.service")
        if not self._template and settings.instances != 1:
            raise Refused(
                f"{unit} is not a template unit and so cannot have {settings.instances} instances",
                option="worker.instances",
                next_step="Name a template unit such as mailer@.service, or set instances to 1",
            )
        stem = unit[: -len(".service")]
        self._units = [f"{stem}{number}.service" for number in range(1, settings.instances + 1)] if self._template else [unit]
        self._others = f"{stem}*.service" if self._template else None
        if settings.side_by_side and not self._template:
            raise Refused(
                f"{unit} is not a template unit and so cannot run two versions side by side",
                option="worker.side_by_side",
                next_step="Name a template unit such as mailer@.service, or leave it out",
            )
        #: The slots of a second version, above those of the first.
        numbers = range(settings.instances + 1, 2 * settings.instances + 1) if settings.side_by_side else range(0)
        self._second = [f"{stem}{number}.service" for number in numbers]

    def validate(self) -> None:
        for shown in self._show(self._units):
            unit, load_state = shown["Id"], shown["LoadState"]
            if load_state == "not-found":
                raise NotFound(
                    f"systemd knows no unit {unit}",
                    option="worker.unit",
                    next_step=f"Install {self.settings.unit} on the host, or name the unit that is there",
                )
            if load_state != "loaded":
                raise Refused(
                    f"The unit {unit} cannot be used: it is {load_state} {shown.get('LoadError', '')}".rstrip(),
                    option="worker.unit",
                    next_step=f"See `systemctl status {unit}`",
                )
            if shown["KillMode"] == "control-group" and self.settings.forks:
                raise Refused(
                    f"{unit} has KillMode=control-group: its stop sends SIGTERM to the processes that execute tasks, too, "
                    "and would break them off",
                    option="worker.unit",
                    next_step=f"Set KillMode=mixed in {self.settings.unit} (or worker.forks to false, if its workers execute in threads)",
                )
            if shown["KillMode"] == "none":
                raise Refused(
                    f"{unit} has KillMode=none: its stop does not end the worker",
                    option="worker.unit",
                    next_step=f"Set KillMode=mixed in {self.settings.unit}",
                )
            self._check_stop(time_span(shown["TimeoutStopUSec"]), "TimeoutStopSec", int(shown["KillSignal"]))
        self._check_health_command()

    def workers(self) -> list[WorkerProcess]:
        found = [self._worker(shown) for shown in self._show(self._units + self._second + ([self._others] if self._others else []))]
        first, second = self._of_rows(found)
        others = [worker for worker in found if worker.extra and not worker.ended]
        return (self._rows(first, second) if self._second else first) + others

    def _of_rows(self, found: list[WorkerProcess]) -> tuple[list[WorkerProcess], list[WorkerProcess]]:
        rows = ([one for one in found if one.name in units] for units in (self._units, self._second))
        first, second = rows
        return first, second

    def guarded(self) -> bool:
        return guard.is_installed(self.settings.root) and self._drop_in() == self._guard_text()

    def check_guard(self) -> None:
        # The unit's file may be anywhere; its drop-ins are an administrator's.
        if self._drop_in() != self._guard_text() and not os.access(UNITS, os.W_OK):
            raise self._unguardable("no permission to write there")

    def guard(self) -> None:
        guard.install(self.settings.root)
        if self._drop_in() == self._guard_text():
            return
        try:
            os.makedirs(os.path.dirname(self._drop_in_path), mode=0o755, exist_ok=True)
            write_atomic(self._drop_in_path, self._guard_text().encode(), 0o644)
        except OSError as error:
            raise self._unguardable(str(error.strerror)) from None
        self._run("daemon-reload")

    def _unguardable(self, why: str) -> Refused:
        return Refused(
            f"The check of the quarantine cannot be put into {self._drop_in_path}: {why}",
            option="worker.unit",
            next_step="Run with become, or ship that file with the unit: a section [Service] with "
            f"ExecCondition=+/bin/sh {guard.check_path(self.settings.root)}",
        )

    @property
    def _drop_in_path(self) -> str:
        return os.path.join(UNITS, (self._others or self._units[0]).replace("*", "") + ".d", "queueops-fleet.conf")

    def _drop_in(self) -> str:
        try:
            with open(self._drop_in_path, encoding="utf-8") as stream:
                return stream.read()
        except OSError:
            return ""

    def _guard_text(self) -> str:
        return guard_text(self.settings.root, self._run("--version"))

    def _signal(self, worker: WorkerProcess, number: signal.Signals) -> None:
        self._run("kill", "--kill-who=main", f"--signal={number.name}", worker.name, tolerate="No main process to kill")

    def _end(self, worker: WorkerProcess) -> None:
        # All that is in its control group, whoever made it. A stop is under way, so that systemd does not start it again.
        self._run("kill", "--kill-who=all", "--signal=SIGKILL", worker.name, tolerate="not loaded")

    def _begin_stop(self) -> None:
        # The pattern means those that systemd has loaded: the second row, and the extra ones.
        self._run("stop", "--no-block", *self._units, *([self._others] if self._others else []))

    def reload(self) -> bool:
        # Units that are made elsewhere start without the check, and a quarantine is refused there.
        with contextlib.suppress(Refused):
            self.guard()
        needed = any(shown["NeedDaemonReload"] == "yes" for shown in self._show(self._units))
        if needed:
            self._run("daemon-reload")
        return needed

    def kill_limit(self) -> float:
        return min(time_span(shown["TimeoutStopUSec"]) for shown in self._show(self._units))

    def hint(self, name: str) -> str:
        return f"journalctl -u {name} -n 50"

    def _begin_start(self) -> None:
        self._started_row = 0
        self._start_units(self._units)

    def _begin_start_beside(self) -> None:
        found = [self._worker(shown) for shown in self._show(self._units + self._second)]
        self._start_units((self._units, self._second)[self._free_row(*self._of_rows(found))])

    def _start_units(self, units: list[str]) -> None:
        # A unit that failed too often is refused a start until this; it fails on units that were never loaded, which is well.
        self._run("reset-failed", *units, tolerate="not loaded")
        self._run("start", "--no-block", *units)

    def _start_pending(self, name: str) -> bool:
        return any(shown.get("Job", "") not in ("", "0") for shown in self._show([name]))

    def _worker(self, shown: dict[str, str]) -> WorkerProcess:
        pid = int(shown.get("MainPID") or 0) or None
        state = ACTIVE_STATES.get(shown["ActiveState"], "failed")
        if state == "running" and shown.get("SubState") == "exited":
            state = "stopped"
        version, unknown = running_version(pid, self.settings.root) if pid else (None, None)
        return WorkerProcess(
            name=shown["Id"],
            pid=pid,
            state=state,
            since=started_at(pid) if pid else None,
            version=version,
            unknown=unknown,
            extra=shown["Id"] not in self._units + self._second,
        )

    def _show(self, units: list[str]) -> list[dict[str, str]]:
        return parse_show(self._run("show", "--property=" + ",".join(PROPERTIES), *units))

    def _run(self, verb: str, *arguments: str, tolerate: str | None = None) -> str:
        command = ["systemctl", "--no-pager", "--no-ask-password", verb, *arguments]
        environment = dict(os.environ, LC_ALL="C", SYSTEMD_COLORS="0")
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=ANSWER_LIMIT,
                env=environment,
                check=False,
            )
        except FileNotFoundError:
            raise MissingLibrary(
                "There is no systemctl on this host", option="worker.manager", next_step="Set worker.manager to what runs the workers here"
            ) from None
        except subprocess.TimeoutExpired:
            raise Unavailable(f"systemd did not answer `systemctl {verb}` within {ANSWER_LIMIT} s", still_true=None) from None
        said = done.stderr.decode("utf-8", "replace").strip()
        if done.returncode == 0 or (tolerate and tolerate in said):
            return done.stdout.decode("utf-8", "replace")
        raise _problem(verb, self.settings.unit, said)


def _problem(verb: str, unit: str, said: str) -> FleetError:
    what = f"`systemctl {verb}` for {unit} failed: {said[-500:]}"
    if re.search("not been booted with systemd|Failed to connect to (system scope )?bus|Host is down", said):
        return Unavailable(what, option="worker.manager", next_step="Look whether systemd is this host's init")
    if re.search("Access denied|authentication required|Permission denied", said, re.IGNORECASE):
        return Refused(what, next_step="Run with become, as root")
    return FleetError(what, next_step=f"See `systemctl status {unit}` and `journalctl -b -p err -n 50`")


def guard_text(root: str, version_text: str) -> str:
    """The drop-in that lets a unit run the check of the quarantine, as root, before each start.

    :param version_text: what `systemctl --version` says.
    """
    found = re.match(r"systemd (\d+)", version_text)
    # A unit that a condition keeps from starting is skipped; before systemd 243 there is no such condition, and it fails.
    setting = "ExecCondition" if found and int(found.group(1)) >= 243 else "ExecStartPre"
    return f"# Written by queueops.fleet: a quarantined version does not start.\n[Service]\n{setting}=+/bin/sh {guard.check_path(root)}\n"


def parse_show(text: str) -> list[dict[str, str]]:
    """The blocks of `systemctl show`, one per unit; a unit that a pattern names again is given once."""
    units: dict[str, dict[str, str]] = {}
    for block in text.split("\n\n"):
        shown: dict[str, str] = {}
        for line in block.splitlines():
            name, equals, value = line.partition("=")
            if equals:
                shown[name] = value
        if shown.get("Id"):
            units.setdefault(shown["Id"], shown)
    return list(units.values())


def time_span(text: str) -> float:
    """Seconds of a time span as systemd writes it, such as `1min 30s` or `infinity`."""
    if text == "infinity":
        return float("inf")
    total: Any = 0.0
    for number, unit in re.findall(r"([0-9.]+)\s*([a-zμ]+)", text):
        total += float(number) * SPANS[unit]
    return float(total)
