# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Health after a start: every worker runs the wanted version and goes on doing so, and the operator's probes and command agree."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

from .._errors import FleetError, NotFound, OutOfTime
from .api import WorkerManager, WorkerProcess
from .probes import Probe, read_probes
from .process import VERSION_VARIABLE
from .waiting import polls

#: Of what a health command says, as much as helps and no more.
TAIL = 1000


def wait_healthy(manager: WorkerManager, version: str | None, health: dict[str, Any], start_timeout: float) -> None:
    """Wait until all instances have run `version` for `health["hold"]` seconds without a restart, and the probes and the command agree.

    :param version: the version that has to run; None: whichever.
    :param health: `hold` (seconds, default 2), `tcp` (a list of `host`, `port`, `hold`) and `http` (a list of `url`, `status`, `hold`),
        each of which has to answer well for its own hold without a break, and `command` (list of arguments, none by default). The
        command is run last and once, without a shell, in `start_timeout` at most, with the version in `QUEUEOPS_VERSION`.
    :param start_timeout: seconds, besides the longest hold, that the workers may take.
    :raises FleetError: a worker failed, or the command did. `details` has `workers` and what to look at (`hints`).
    :raises OutOfTime: not so in time; the same details.
    """
    hold = float(health["hold"]) if health.get("hold") is not None else 2.0
    pids = _wait_held(manager, version, hold, read_probes(health), start_timeout)
    command = [str(part) for part in health.get("command") or []]
    if not command:
        return
    _run(manager, version, command, start_timeout)
    workers = _staying(manager)
    wrong = _wrong(workers, version)
    if wrong or _pids(workers) != pids:
        raise FleetError(f"A worker restarted during the health command: {wrong or 'its pid changed'}", details=_details(manager, workers))


def _wait_held(
    manager: WorkerManager, version: str | None, hold: float, probes: list[Probe], start_timeout: float
) -> dict[str, int | None]:
    """Look until the workers and each probe were as wanted for long enough, all at once; the pids of the workers."""
    workers: list[WorkerProcess] = []
    pids: dict[str, int | None] = {}
    held = [_Held(hold), *(_Held(probe.hold) for probe in probes)]
    limit = start_timeout + max(condition.hold for condition in held)
    # A short hold is missed by long pauses, so look at least four times in it.
    longest = min(1.0, max(0.05, min(condition.hold for condition in held) / 4))

    def idle() -> bool:
        # Whoever restarts has another process. A probe sees what no process shows, so that it is asked each time.
        return bool(pids) and not probes and not held[0].is_met() and all(worker.is_there() for worker in workers)

    for elapsed in polls(limit, longest=longest, idle=idle):
        workers = _staying(manager)
        wrong = _wrong(workers, version)
        if not wrong and pids and _pids(workers) != pids:
            held[0].note(f"it was restarted after {held[0].seconds():.1f} s")
        pids = {} if wrong else _pids(workers)
        held[0].note(wrong)
        for condition, probe in zip(held[1:], probes):
            condition.note(probe.wrong())
        if all(condition.is_met() for condition in held):
            return pids
        failed = [worker for worker in workers if worker.state == "failed" and not worker.extra]
        if failed:
            raise FleetError(
                f"{failed[0].name} failed {elapsed:.1f} s after the start",
                next_step=f"See `{manager.hint(failed[0].name)}`",
                details=_details(manager, workers),
            )
    unmet = next(condition for condition in held if not condition.is_met())
    raise OutOfTime(
        f"The workers of {manager.settings.unit} were not healthy for {unmet.hold:g} s within {limit:g} s: "
        f"{unmet.why or 'restarted meanwhile'}",
        option="worker.start_timeout",
        next_step=f"See `{manager.hint(_first_wrong(workers, version))}`",
        details=_details(manager, workers),
    )


class _Held:
    """For how long one condition has been as wanted, without a break."""

    def __init__(self, hold: float) -> None:
        self.hold = hold
        self.why = "it was not looked at"
        self._since: float | None = None

    def note(self, wrong: str) -> None:
        """What a look found wrong; empty for nothing. The last complaint is kept."""
        if wrong:
            self.why, self._since = wrong, None
        elif self._since is None:
            self._since = time.monotonic()

    def seconds(self) -> float:
        return 0.0 if self._since is None else time.monotonic() - self._since

    def is_met(self) -> bool:
        return self._since is not None and self.seconds() >= self.hold


def _staying(manager: WorkerManager) -> list[WorkerProcess]:
    return [worker for worker in manager.workers() if not worker.leaving]


def _wrong(workers: list[WorkerProcess], version: str | None) -> str:
    """What is wrong with the first worker that is not as wanted, in words; empty when all are."""
    for worker in workers:
        if worker.extra:
            return f"{worker.name} runs besides the fleet's instances"
        if worker.state != "running":
            return f"{worker.name} is {worker.state}"
        if version is not None and worker.version != version:
            return f"{worker.name} runs {worker.version or 'an unknown version (%s)' % worker.unknown}, not {version}"
    return "" if workers else "there is no worker"


def _first_wrong(workers: list[WorkerProcess], version: str | None) -> str:
    return next((worker.name for worker in workers if _wrong([worker], version)), workers[0].name if workers else "")


def _pids(workers: list[WorkerProcess]) -> dict[str, int | None]:
    return {worker.name: worker.pid for worker in workers}


def _details(manager: WorkerManager, workers: list[WorkerProcess]) -> dict[str, Any]:
    return {"workers": [worker.as_dict() for worker in workers], "hints": [manager.hint(worker.name) for worker in workers]}


def _run(manager: WorkerManager, version: str | None, command: list[str], limit: float) -> None:
    environment = dict(os.environ)
    if version is not None:
        environment[VERSION_VARIABLE] = version
    option = "worker.health.command"
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit, env=environment, check=False
        )
    except FileNotFoundError:
        raise NotFound(f"There is no health command {command[0]} on this host", option=option, still_true="The workers run") from None
    except OSError as error:
        raise FleetError(f"The health command {command[0]} could not be run: {error.strerror}", option=option) from None
    except subprocess.TimeoutExpired as late:
        raise OutOfTime(
            f"The health command {command[0]} took longer than {limit:g} s",
            option="worker.start_timeout",
            details={"output": _tail(late.stdout)},
        ) from None
    if done.returncode != 0:
        raise FleetError(
            f"The health command {command[0]} says no: exit code {done.returncode}",
            option=option,
            next_step="See `output`, the last of what it wrote",
            details=dict(_details(manager, manager.workers()), output=_tail(done.stdout)),
        )


def _tail(output: bytes | None) -> str:
    return (output or b"")[-TAIL:].decode("utf-8", "replace")
