# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every service manager can do for the workers of one fleet on one host."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Callable

from .._errors import FleetError, NotFound, OutOfTime, Refused
from . import process
from .probes import read_probes
from .waiting import polls

#: The states of a worker as a manager sees it. `failed` and `stopped` have no process; `stopping` finishes its task.
STATES = ("running", "starting", "stopping", "stopped", "failed")
#: Stop signals on which RQ, Celery and Sidekiq finish the task in hand.
GRACEFUL_SIGNALS = {2: "SIGINT", 15: "SIGTERM"}
#: The signal on which a framework's worker takes no new task and finishes those it has. RQ and Celery then end by themselves.
#: Sidekiq does not end, and on SIGTERM would give its tasks only 25 s. Source: tests/contract/test_quiet_signal.py tries each.
QUIET_SIGNALS = {"rq": "TERM", "celery": "TERM", "sidekiq": "TSTP"}


@dataclass(frozen=True)
class WorkerSettings:
    """The `worker` part of the fleet specification, with its defaults. Times are seconds.

    :ivar manager: name of the service manager (a key of :data:`registry.MANAGERS`).
    :ivar unit: systemd: (template) unit; supervisor: program group; docker: value of the containers' label.
    :ivar root: folder that has `versions/` and the `current` link.
    :ivar server: where supervisor or Docker Engine answers; None: at its usual place.
    :ivar definition: docker: file with the body of a container.
    :ivar python: interpreter that virtual environments are made with.
    :ivar forks: whether a worker executes its tasks in child processes (RQ, Celery prefork).
    :ivar framework: a key of :data:`QUIET_SIGNALS`, or None.
    :ivar quiet_signal: what quiets a worker, in place of its framework's signal.
    :ivar side_by_side: whether a switch starts the new version while workers of the old one still finish their tasks.
    :ivar health: as :func:`health.wait_healthy` takes it.
    """

    manager: str
    unit: str
    root: str
    instances: int = 1
    server: str | None = None
    server_username: str | None = None
    server_password: str | None = field(default=None, repr=False)
    owner: str | None = None
    group: str | None = None
    definition: str | None = None
    python: str | None = None
    forks: bool = True
    framework: str | None = None
    quiet_signal: str | None = None
    side_by_side: bool = False
    drain_timeout: float = 60.0
    start_timeout: float = 30.0
    health: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> WorkerSettings:
        """Read the `worker` dictionary of a module or of a fleet specification.

        :raises Refused: an option is missing, unknown to nobody but impossible, or out of range.
        """
        missing = [name for name in ("manager", "unit", "root") if not options.get(name)]
        if missing:
            raise Refused(f"The worker's description lacks {', '.join(missing)}", option=f"worker.{missing[0]}", next_step="Set it")
        settings = cls(**{name: options[name] for name in cls.__dataclass_fields__ if options.get(name) is not None})
        settings._check()
        return settings

    def _check(self) -> None:
        root = os.path.normpath(self.root)
        if not os.path.isabs(self.root) or root == "/":
            raise Refused(f"The worker's root {self.root!r} is not an absolute path below /", option="worker.root")
        if not re.match(r"[A-Za-z0-9_][A-Za-z0-9:_.@\\-]*\Z", self.unit):
            raise Refused(f"{self.unit!r} is not the name of a unit or of a program group", option="worker.unit")
        if self.instances < 1:
            raise Refused(
                f"{self.instances} instances of {self.unit} are not a fleet's worker", option="worker.instances", next_step="Give 1 or more"
            )
        for name, value in (
            ("drain_timeout", self.drain_timeout),
            ("start_timeout", self.start_timeout),
            ("health.hold", self.health.get("hold") or 0),
        ):
            if value < 0:
                raise Refused(f"{value} is not a number of seconds to wait", option=f"worker.{name}", next_step="Give 0 or more")
        read_probes(self.health)
        if self.quiet_by() is not None and self.side_by_side:
            raise Refused(
                "Two versions side by side need workers that end by themselves when the service manager stops them, and these are quieted "
                "by a signal of their own",
                option="worker.side_by_side",
                next_step="Leave it out; then a switch waits for the tasks in hand before it starts the new version",
            )

    def quiet_by(self) -> signal.Signals | None:
        """The signal that quiets a worker, where that is not the manager's own stop; None where it is.

        :raises Refused: there is no such signal, or framework, or a worker does not survive it.
        """
        if self.framework is not None and self.framework not in QUIET_SIGNALS:
            raise Refused(
                f"The quiet signal of {self.framework!r} is not known; known are: {', '.join(sorted(QUIET_SIGNALS))}",
                option="worker.framework",
                next_step="Leave it out, and set worker.quiet_signal",
            )
        name = self.quiet_signal or QUIET_SIGNALS.get(self.framework or "", "TERM")
        name = name.upper() if name.upper().startswith("SIG") else "SIG" + name.upper()
        found = signal.Signals.__members__.get(name)
        if found is None or found in (signal.SIGKILL, signal.SIGSTOP):
            raise Refused(
                f"{self.quiet_signal!r} is not a signal that a worker can act on",
                option="worker.quiet_signal",
                next_step="Name the one on which it takes no new task, such as TERM",
            )
        return None if found is signal.SIGTERM else found


@dataclass(frozen=True)
class WorkerProcess:
    """One worker as its manager and its process show it.

    :ivar name: the manager's name of it, for example `mailer@1.service` or `mailer:mailer_00`.
    :ivar pid: its main process, if it has one.
    :ivar state: one of :data:`STATES`.
    :ivar since: when that process started, seconds since 1970.
    :ivar version: the version that the *process* runs; never what the `current` link says.
    :ivar unknown: why the version of a live process could not be told.
    :ivar extra: it is running, but is none of the fleet's instances (systemd: numbered above `instances`).
    :ivar leaving: it was told to stop, still finishes its task, and another worker has been started in its place.
    """

    name: str
    pid: int | None
    state: str
    since: float | None = None
    version: str | None = None
    unknown: str | None = None
    extra: bool = False
    leaving: bool = False

    @property
    def ended(self) -> bool:
        """Whether it has no process any more and so executes nothing."""
        return self.state in ("stopped", "failed")

    def is_there(self) -> bool:
        """Whether its process is still the one that was seen. Asks the kernel alone; False also where that cannot tell."""
        return process.is_there(self.pid, self.since)

    def as_dict(self) -> dict[str, Any]:
        """As a module returns it."""
        return asdict(self)


class WorkerManager(ABC):
    """The workers of one fleet on this host, through the service manager that runs them.

    Every method may raise :class:`Unavailable` when the manager does not answer.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        #: Which of two rows of slots this run has started workers in, 0 or 1; None: none.
        self._started_row: int | None = None

    @abstractmethod
    def validate(self) -> None:
        """Refuse what can be known to go wrong. Reads only.

        :raises NotFound: the unit or program group does not exist.
        :raises Refused: the manager would kill a worker before `drain_timeout` is up, or its stop would not be graceful.
        """

    @abstractmethod
    def workers(self) -> list[WorkerProcess]:
        """All instances, and other live instances of the same unit, as they are now."""

    def quiet(self) -> None:
        """Let all workers, also the extra ones, take no new task and finish what they have; returns at once.

        :meth:`wait_stopped` lets them end.
        """
        by = self.settings.quiet_by()
        if by is None:
            self._begin_stop()
            return
        for worker in self.workers():
            # A worker that has not begun has no task, and no handler for the signal either.
            if worker.pid and self._tasks_in_hand(worker) is not None:
                self._signal(worker, by)

    def kill(self) -> None:
        """End each quieted worker, with the processes in which it executes tasks; :meth:`wait_stopped` sees them end."""
        if self.settings.quiet_by() is not None:
            # Else the manager would start it again.
            self._begin_stop()
        for worker in self.workers():
            if worker.state == "stopping":
                self._end(worker)

    def _end(self, worker: WorkerProcess) -> None:
        if worker.pid:
            process.kill_tree(worker.pid)

    def seen_as(self, worker: WorkerProcess) -> dict[str, Any]:
        """By which host name and pids a broker may know the worker: `hostname` and `pids`, those of all its processes."""
        return {"hostname": socket.gethostname(), "pids": process.tree(worker.pid) if worker.pid else []}

    @abstractmethod
    def _begin_stop(self) -> None:
        """Ask all workers, also the extra ones, to finish what they have and end; does not wait. The manager does not restart them."""

    @abstractmethod
    def _signal(self, worker: WorkerProcess, number: signal.Signals) -> None:
        """Send a signal to the worker's main process alone; nothing happens if it has just ended."""

    @abstractmethod
    def guarded(self) -> bool:
        """Whether the manager runs the check of the quarantine before each start, also one by hand or after a reboot. Reads only."""

    @abstractmethod
    def check_guard(self) -> None:
        """Refuse where only the operator can let the manager run that check. Reads only.

        :raises Refused: says what the operator has to do.
        """

    @abstractmethod
    def guard(self) -> None:
        """Let the manager run that check from now on; refuses as :meth:`check_guard`."""

    @abstractmethod
    def reload(self) -> bool:
        """Take in the unit's changed configuration, if it changed; call it with the workers stopped. Whether there was any."""

    @abstractmethod
    def _begin_start(self) -> None:
        """Ask the manager to start all instances; does not wait. Forgets earlier failures."""

    @abstractmethod
    def _begin_start_beside(self) -> None:
        """As :meth:`_begin_start`, in slots of which no worker has a process; those that are leaving go on."""

    @abstractmethod
    def kill_limit(self) -> float:
        """Seconds after which the manager kills a worker that is still stopping; may be `inf`."""

    @abstractmethod
    def hint(self, name: str) -> str:
        """The command that shows the last lines of the worker `name`."""

    #: Whether a start that is asked for while a worker is stopping happens when it has stopped.
    queues_starts = False

    def wait_stopped(self, timeout: float) -> None:
        """Wait until no worker has a process any more. Call :meth:`quiet` before.

        :raises OutOfTime: `timeout` seconds were up first. `details` has `executing` (a list of name, pid, since and
            children: the processes in which it executes tasks) and `waited_s`. The workers go on finishing their tasks.
        """
        self._wait_ended(timeout, lambda worker: True)

    def wait_left(self, timeout: float) -> None:
        """Wait until none is leaving any more; raises as :meth:`wait_stopped`."""
        self._wait_ended(timeout, lambda worker: worker.leaving)

    def _wait_ended(self, timeout: float, is_meant: Callable[[WorkerProcess], bool]) -> None:
        begun = time.monotonic()
        left: list[WorkerProcess] = []
        # Quieted by a signal of its own, a worker may need to be told to end when it has nothing left to do.
        to_end = self.settings.quiet_by() is not None

        def idle() -> bool:
            # Whoever has its process has not ended. Those that have yet to be told to end are looked at by their tasks.
            return not to_end and bool(left) and all(worker.is_there() for worker in left)

        for _look in polls(timeout, idle=idle):
            left = [worker for worker in self.workers() if not worker.ended and is_meant(worker)]
            if to_end and all(self._tasks_in_hand(worker) in (0, None) for worker in left):
                self._begin_stop()
                to_end = False
                continue
            if not left:
                return
        raise OutOfTime(
            f"{len(left)} worker(s) of {self.settings.unit} still executing after {timeout:g} s: {', '.join(map(_in_words, left))}",
            option="worker.drain_timeout",
            still_true="They take no new task" + ("" if to_end else " and end when they have finished the one in hand"),
            next_step="Raise drain_timeout to the length of the longest task, or run again when they have ended",
            details={"executing": [executing(worker) for worker in left], "waited_s": round(time.monotonic() - begun, 1)},
        )

    def _tasks_in_hand(self, worker: WorkerProcess) -> int | None:
        """How many tasks a quieted worker with a process has in hand; None when it has not begun to take any."""
        if self.settings.framework == "sidekiq":
            return process.sidekiq_busy(worker.pid or 0)
        # It ends by itself when it has none.
        return 1

    def start(self) -> None:
        """Start all instances and wait until the manager calls them running (`start_timeout`, apart from any stop still under way).

        Workers that are still finishing a task are waited for first, as long as `drain_timeout`.

        :raises FleetError: a worker did not start; names it and the command that shows its last lines.
        :raises OutOfTime: it was not running in time; `details` has `workers`.
        """
        if self.queues_starts:
            self._begin_start()
        self._await_stops()
        if not self.queues_starts:
            self._begin_start()
        self._await_running()

    def start_beside(self) -> None:
        """Start all instances beside workers that are still finishing a task, which are not waited for. Call :meth:`quiet` before.

        Raises as :meth:`start`.
        """
        self._begin_start_beside()
        self._await_running()

    def _await_running(self) -> None:
        workers: list[WorkerProcess] = []
        for _look in polls(self.settings.start_timeout):
            workers = [worker for worker in self.workers() if not worker.extra and not worker.leaving]
            if all(worker.state == "running" for worker in workers):
                return
            ended = [worker for worker in workers if worker.ended and not self._start_pending(worker.name)]
            if ended:
                raise FleetError(
                    f"{_in_words(ended[0])} after it was started",
                    next_step=f"See `{self.hint(ended[0].name)}`",
                    details={"workers": [worker.as_dict() for worker in workers]},
                )
        late = next(worker for worker in workers if worker.state != "running")
        raise OutOfTime(
            f"{_in_words(late)}, {self.settings.start_timeout:g} s after it was asked to start",
            option="worker.start_timeout",
            next_step=f"See `{self.hint(late.name)}`",
            details={"workers": [worker.as_dict() for worker in workers]},
        )

    def _start_pending(self, name: str) -> bool:
        """Whether the manager has yet to act on the start of the ended worker `name`."""
        return False

    def _await_stops(self) -> None:
        stopping = self._stopping()
        if not stopping:
            return
        for _look in polls(min(self.kill_limit(), self.settings.drain_timeout) + 1.0):
            stopping = self._stopping()
            if not stopping:
                return
        queued = self.queues_starts
        raise OutOfTime(
            f"{len(stopping)} worker(s) of {self.settings.unit} cannot start yet: {', '.join(map(_in_words, stopping))}",
            option="worker.drain_timeout",
            still_true="They start by themselves when they have finished the task in hand" if queued else "They are still finishing a task",
            next_step=None if queued else "Run again when they have ended",
            details={"executing": [executing(worker) for worker in stopping]},
        )

    def _stopping(self) -> list[WorkerProcess]:
        return [worker for worker in self.workers() if worker.state == "stopping"]

    def _rows(self, first: list[WorkerProcess], second: list[WorkerProcess]) -> list[WorkerProcess]:
        """The fleet's workers, which are those of one of two rows of slots, and of the other one those that are leaving or too many."""
        rows = (first, second)
        chosen = self._started_row
        if chosen is None:
            chosen = int(_serves(second) and not _serves(first))
        others = [worker for worker in rows[1 - chosen] if not worker.ended]
        return rows[chosen] + [replace(one, leaving=one.state == "stopping", extra=one.state != "stopping") for one in others]

    def _free_row(self, first: list[WorkerProcess], second: list[WorkerProcess]) -> int:
        """Which of two rows of slots no worker has a process in; remembered as the one that was started.

        :raises Refused: both have one.
        """
        rows = (first, second)
        free = [number for number, row in enumerate(rows) if all(worker.ended for worker in row)]
        if not free:
            held = next(worker for worker in second if not worker.ended)
            raise Refused(
                f"There is no room for another version beside: {_in_words(held)}",
                option="worker.side_by_side",
                next_step="Run again when it has ended",
            )
        self._started_row = free[0]
        return free[0]

    def _check_stop(self, kill_limit: float, limit_name: str, signal_number: int) -> None:
        """What every manager's way to stop must grant."""
        settings = self.settings
        if kill_limit < settings.drain_timeout:
            raise Refused(
                f"The drain of {settings.unit} may take {settings.drain_timeout:g} s, but its {limit_name} is {kill_limit:g} s: "
                f"{settings.manager} would kill a worker that is still executing",
                option="worker.drain_timeout",
                next_step=f"Raise {limit_name} of {settings.unit} to at least {settings.drain_timeout:g} s, or lower drain_timeout",
            )
        if signal_number not in GRACEFUL_SIGNALS:
            raise Refused(
                f"{settings.manager} stops {settings.unit} with signal {signal_number}, on which a worker does not finish its task",
                option="worker.unit",
                next_step="Let it stop the workers with SIGTERM",
            )

    def _check_health_command(self) -> None:
        command = [str(part) for part in self.settings.health.get("command") or []]
        if not command:
            return
        program, root = command[0], self.settings.root.rstrip("/") + "/"
        # What lies under the root may come only with the version that is yet to be switched to.
        if os.path.isabs(program) and not program.startswith(root) and not os.access(program, os.X_OK):
            raise NotFound(f"The health command {program} is not an executable file", option="worker.health.command")


def executing(worker: WorkerProcess, children: Callable[[int], list[dict[str, Any]]] = process.children) -> dict[str, Any]:
    """What an operator asks about a worker that does not end: where it is and since when, with its task's processes."""
    return {
        "name": worker.name,
        "pid": worker.pid,
        "since": worker.since,
        "version": worker.version,
        "children": children(worker.pid) if worker.pid else [],
    }


def _serves(row: list[WorkerProcess]) -> bool:
    return any(worker.state in ("running", "starting") for worker in row)


def _in_words(worker: WorkerProcess) -> str:
    return f"{worker.name} is {worker.state}" + (f" (pid {worker.pid})" if worker.pid else "")
