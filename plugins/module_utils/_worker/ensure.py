# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring one host's workers to a wanted version or to a stop, and show where they stand. Not a transaction: see `_release`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .._errors import FleetError, OutOfTime, Refused
from .api import WorkerManager, WorkerProcess
from .health import wait_healthy
from .registry import open_manager
from .versions import VersionStore


@dataclass
class Ensured:
    """What :func:`ensure` did, or in check mode would do.

    :ivar unpacked: whether the version was unpacked.
    :ivar restarted: whether workers were stopped or started.
    :ivar before: how it stood, in lines for a diff; `after` likewise, as wanted.
    """

    changed: bool = False
    unpacked: bool = False
    restarted: bool = False
    previous: str | None = None
    current: str | None = None
    workers: list[WorkerProcess] = field(default_factory=list)
    before: str = ""
    after: str = ""


def open_store(worker: dict[str, Any]) -> VersionStore:
    """The versions of the workers that `worker`, the part of the fleet specification, describes."""
    settings = open_manager(worker).settings
    return VersionStore(settings.root, settings.owner, settings.group)


def ensure(
    worker: dict[str, Any], state: str, version: str | None, artifact: str | None, checksum: str | None, check_mode: bool
) -> Ensured:
    """Bring the host to `state`: `present`, `active` or `stopped`.

    :raises Refused: anything that can be told before the first change.
    :raises OutOfTime: the workers did not finish, or did not become healthy, in time.
    """
    manager = open_manager(worker)
    store = open_store(worker)
    if state != "stopped" and not version:
        raise Refused(f"state={state} needs a version", option="version", next_step="Name one")
    if state != "present":
        manager.validate()
    previous = store.current()
    unpack = state != "stopped" and store.check(str(version), artifact, checksum)
    # What is only to be there beside the others needs no service manager.
    workers = manager.workers() if state != "present" else []
    done = Ensured(previous=previous, workers=workers, unpacked=unpack)
    if state == "active":
        done.restarted = any(one.extra or one.state != "running" or one.version != version for one in workers) or not workers
        done.current = version
    else:
        done.restarted = state == "stopped" and any(not one.ended for one in workers)
        done.current = previous
    done.changed = unpack or done.restarted or done.current != previous
    names = list(store.whole())
    done.before = _lines(names, previous, [(one.name, _state(one)) for one in workers])
    done.after = _lines(names + ([str(version)] if unpack else []), done.current, _wanted(workers, state, version))
    if done.changed and not check_mode:
        _carry_out(manager, store, done, state, version, artifact, checksum)
    return done


def survey(worker: dict[str, Any]) -> dict[str, Any]:
    """Where the host stands: `versions`, `current` and `workers`. Reads only."""
    store = open_store(worker)
    workers = open_manager(worker).workers()
    running = {one.version for one in workers if not one.ended}
    versions = store.list()
    for entry in versions:
        entry["live"] = entry["live"] or entry["version"] in running
    return {"versions": versions, "current": store.current(), "workers": [one.as_dict() for one in workers]}


def _carry_out(
    manager: WorkerManager, store: VersionStore, done: Ensured, state: str, version: str | None, artifact: str | None, checksum: str | None
) -> None:
    if done.unpacked:
        store.prepare(str(version), artifact, checksum)
    if state == "present":
        return
    settings = manager.settings
    if done.restarted:
        manager.quiet()
        try:
            manager.wait_stopped(settings.drain_timeout)
        except OutOfTime as late:
            if state == "active":
                late.still_true = f"{late.still_true}; {store.root}/current still names {done.previous}"
                late.next_step = "Run again to go on from here; raise worker.drain_timeout to the length of the longest task"
            raise
    if state == "active":
        try:
            store.activate(version)
            if done.restarted:
                manager.reload()
                manager.start()
                health = {"hold": settings.health_hold, "command": list(settings.health_command)}
                wait_healthy(manager, version, health, settings.start_timeout)
        except FleetError as error:
            error.still_true = f"{store.root}/current names {store.current()}, which was {done.previous} before"
            raise
    done.workers = manager.workers()


def _state(worker: WorkerProcess) -> str:
    return f"{worker.state} {worker.version or 'unknown version'}" if worker.pid else worker.state


def _wanted(workers: list[WorkerProcess], state: str, version: str | None) -> list[tuple[str, str]]:
    if state == "active":
        return [(one.name, f"running {version}") for one in workers if not one.extra]
    return [(one.name, one.state if one.ended else "stopped") for one in workers]


def _lines(versions: list[str], current: str | None, workers: list[tuple[str, str]]) -> str:
    lines = [f"versions: {', '.join(sorted(versions)) or 'none'}", f"current: {current or 'none'}"]
    return "\n".join(lines + [f"{name}: {state}" for name, state in workers]) + "\n"
