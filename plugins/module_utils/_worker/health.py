# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Health after a start: every worker runs the wanted version and goes on doing so, and the operator's command agrees."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Any

from .._errors import FleetError, NotFound, OutOfTime
from .api import WorkerManager, WorkerProcess, polls
from .process import VERSION_VARIABLE

#: Of what a health command says, as much as helps and no more.
TAIL = 1000


def wait_healthy(manager: WorkerManager, version: str | None, health: dict[str, Any], start_timeout: float) -> None:
    """Wait until all instances have run `version` for `health["hold"]` seconds without a restart, and the command exits 0.

    :param version: the version that has to run; None: whichever.
    :param health: `hold` (seconds, default 2) and `command` (list of arguments, none by default). The command is run once,
        without a shell, in `start_timeout` at most, with the version in the variable `QUEUEOPS_VERSION`.
    :param start_timeout: seconds, besides the hold, that the workers may take.
    :raises FleetError: a worker failed, or the command did. `details` has `workers` and what to look at (`hints`).
    :raises OutOfTime: not so in time; the same details.
    """
    hold = float(health["hold"]) if health.get("hold") is not None else 2.0
    pids = _wait_held(manager, version, hold, start_timeout)
    command = [str(part) for part in health.get("command") or []]
    if not command:
        return
    _run(manager, version, command, start_timeout)
    workers = manager.workers()
    wrong = _wrong(workers, version)
    if wrong or _pids(workers) != pids:
        raise FleetError(f"A worker restarted during the health command: {wrong or 'its pid changed'}", details=_details(manager, workers))


def _wait_held(manager: WorkerManager, version: str | None, hold: float, start_timeout: float) -> dict[str, int | None]:
    workers: list[WorkerProcess] = []
    wrong = "none was looked at"
    pids: dict[str, int | None] = {}
    held_since = time.monotonic()
    # A short hold is missed by long pauses, so look at least four times in it.
    longest = min(1.0, max(0.05, hold / 4))
    for elapsed in polls(start_timeout + hold, longest=longest):
        workers = manager.workers()
        now = time.monotonic()
        wrong = _wrong(workers, version)
        if wrong or _pids(workers) != pids:
            if pids and not wrong:
                wrong = f"it was restarted after {now - held_since:.1f} s"
            held_since, pids = now, {} if _wrong(workers, version) else _pids(workers)
        if pids and now - held_since >= hold:
            return pids
        failed = [worker for worker in workers if worker.state == "failed" and not worker.extra]
        if failed:
            raise FleetError(
                f"{failed[0].name} failed {elapsed:.1f} s after the start",
                next_step=f"See `{manager.hint(failed[0].name)}`",
                details=_details(manager, workers),
            )
    raise OutOfTime(
        f"The workers of {manager.settings.unit} were not healthy for {hold:g} s within {start_timeout + hold:g} s: "
        f"{wrong or 'restarted meanwhile'}",
        option="worker.start_timeout",
        next_step=f"See `{manager.hint(_first_wrong(workers, version))}`",
        details=_details(manager, workers),
    )


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
