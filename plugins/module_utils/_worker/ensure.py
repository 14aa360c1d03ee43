# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring one host's workers to a wanted version or to a stop, and show where they stand. Not a transaction: see `_release`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Callable, Collection

from .._errors import FleetError, OutOfTime, Refused
from . import guard
from .api import WorkerManager, WorkerProcess
from .artifact import IMAGE, Tools
from .health import wait_healthy
from .registry import open_manager
from .versions import VersionStore, check_name

#: What may become of tasks that still execute when the time is up. Only the first is the worker's; who does the others.
IN_FLIGHT = {"finish": None, "requeue": "queue_drain", "fail": "queue_drain", "dead_letter": "queue_drain"}


@dataclass
class Wanted:
    """What :func:`ensure` is to bring about.

    :ivar state: `present`, `active` or `stopped`.
    :ivar artifact: where the version is, with `{version}` in it; None when it is prepared already. `checksum` is the artifact's.
    :ivar in_flight: a key of :data:`IN_FLIGHT`, or None: time that is up is a failure.
    :ivar keep: how many of the newest versions are kept; None: all.
    :ivar protect: versions that are kept besides.
    """

    state: str
    version: str | None = None
    artifact: str | None = None
    checksum: str | None = None
    in_flight: str | None = None
    keep: int | None = None
    protect: Collection[str] = ()


@dataclass
class Ensured:
    """What :func:`ensure` did, or in check mode would do.

    :ivar unpacked: whether the version was unpacked.
    :ivar dropped: the versions that were removed, oldest first.
    :ivar restarted: whether workers were stopped or started.
    :ivar before: how it stood, in lines for a diff; `after` likewise, as wanted.
    """

    changed: bool = False
    unpacked: bool = False
    restarted: bool = False
    dropped: list[str] = field(default_factory=list)
    previous: str | None = None
    current: str | None = None
    workers: list[WorkerProcess] = field(default_factory=list)
    before: str = ""
    after: str = ""


def open_store(worker: dict[str, Any]) -> VersionStore:
    """The versions of the workers that `worker`, the part of the fleet specification, describes."""
    settings = open_manager(worker).settings
    server = settings.server if settings.manager == "docker" else None
    tools = Tools(settings.python, server, os.path.basename(os.path.normpath(settings.root)).lower())
    return VersionStore(settings.root, settings.owner, settings.group, tools)


def ensure(worker: dict[str, Any], wanted: Wanted, check_mode: bool) -> Ensured:
    """Bring the host to the wanted state.

    :raises Refused: anything that can be told before the first change.
    :raises OutOfTime: the workers did not finish, or did not become healthy, in time.
    """
    manager = open_manager(worker)
    store = open_store(worker)
    _refuse(wanted)
    if wanted.state != "present":
        manager.validate()
    if wanted.state != "stopped":
        refuse_kind(manager, store, str(wanted.version), wanted.artifact)
    if wanted.state == "active":
        guard.refuse_quarantined(store.root, str(wanted.version))
    previous = store.current()
    unpack = wanted.state != "stopped" and store.check(str(wanted.version), wanted.artifact, wanted.checksum)
    # What is only to be there beside the others needs no service manager.
    workers = manager.workers() if wanted.state != "present" or wanted.keep is not None else []
    done = Ensured(previous=previous, workers=workers if wanted.state != "present" else [], unpacked=unpack)
    if wanted.state == "active":
        done.restarted = _is_to_restart(workers, wanted.version)
        done.current = wanted.version
    else:
        done.restarted = wanted.state == "stopped" and any(not one.ended for one in workers)
        done.current = previous
    if wanted.keep is not None:
        done.dropped = _too_many(store, wanted, workers, done)
    done.changed = unpack or done.restarted or done.current != previous or bool(done.dropped)
    names = set(store.whole())
    done.before = _lines(names, previous, [(one.name, _state(one)) for one in done.workers])
    after = (names | ({str(wanted.version)} if unpack else set())) - set(done.dropped)
    done.after = _lines(after, done.current, _wanted(done.workers, wanted.state, wanted.version))
    if done.changed and not check_mode:
        _carry_out(manager, store, done, wanted)
    return done


def _refuse(wanted: Wanted) -> None:
    if wanted.state != "stopped" and not wanted.version:
        raise Refused(f"state={wanted.state} needs a version", option="version", next_step="Name one")
    if wanted.keep is not None and wanted.keep < 1:
        raise Refused(f"{wanted.keep} versions are not enough to run one", option="keep", next_step="Give 1 or more")
    doer = IN_FLIGHT.get(wanted.in_flight or "finish")
    if doer:
        raise Refused(
            f"What becomes of tasks in flight by in_flight={wanted.in_flight} is the queue's business, not the service manager's",
            option="in_flight",
            next_step=f"Use queueops.fleet.{doer} with in_flight={wanted.in_flight} after the workers were quieted",
        )


def refuse_kind(manager: WorkerManager, store: VersionStore, version: str, artifact: str | None) -> None:
    """Containers run images and nothing else does; what is neither there nor given is refused by the store.

    :raises Refused: the version is, or its artifact would be, what the manager cannot run.
    """
    check_name(version)
    marker = store.marker(version)
    if marker is None and not artifact:
        return
    is_image = marker.get("kind") == "image" if marker else str(artifact).startswith(IMAGE)
    if is_image != (manager.settings.manager == "docker"):
        raise Refused(
            f"Version {version} is {'a' if is_image else 'no'} container image, which {manager.settings.manager} cannot run",
            option="artifact",
            next_step=f"Give an artifact {'that is none' if is_image else 'image:REFERENCE or image:/path/to.tar'}",
        )


def _too_many(store: VersionStore, wanted: Wanted, workers: list[WorkerProcess], done: Ensured) -> list[str]:
    # By the time that old versions are dropped, a switch has let every worker run the live one.
    running = {worker.version for worker in workers if not worker.ended} if wanted.state == "present" else set()
    if None in running:
        unknown = next(worker for worker in workers if not worker.ended and worker.version is None)
        raise Refused(
            f"{unknown.name} runs a version that cannot be told ({unknown.unknown}), so none can be dropped",
            option="keep",
            next_step="Leave keep out, or let the version be told: see worker.unit",
        )
    coming = wanted.version if done.unpacked else None
    return list(store.droppable(wanted.keep or 1, {*wanted.protect, *map(str, running)}, coming, done.current))


def survey(worker: dict[str, Any]) -> dict[str, Any]:
    """Where the host stands: `versions`, `current`, `workers`, `quarantined` and `guarded`. Reads only."""
    store = open_store(worker)
    manager = open_manager(worker)
    workers = manager.workers()
    running = {one.version for one in workers if not one.ended}
    entries = guard.quarantined(store.root)
    held = {entry.version for entry in entries if entry.holds}
    versions = store.list()
    for entry in versions:
        entry["live"] = entry["live"] or entry["version"] in running
        entry["quarantined"] = entry["version"] in held
    return {
        "versions": versions,
        "current": store.current(),
        "previous": store.previous(),
        "workers": [one.as_dict() for one in workers],
        "quarantined": [entry.as_dict() for entry in entries],
        "guarded": manager.guarded(),
    }


def _carry_out(manager: WorkerManager, store: VersionStore, done: Ensured, wanted: Wanted) -> None:
    if done.unpacked:
        store.prepare(str(wanted.version), wanted.artifact, wanted.checksum)
    beside = wanted.state == "active" and done.current != done.previous and may_stand_beside(manager, done.workers)
    if done.restarted and beside:
        manager.quiet()
    elif done.restarted:
        _stop(manager, store, done, wanted)
    if wanted.state == "active":
        _switch(manager, store, done, wanted, manager.start_beside if beside else manager.start)
    if beside:
        _wait_for(manager, manager.wait_left, wanted)
    for version in done.dropped:
        store.drop(version)
    if wanted.state != "present":
        done.workers = manager.workers()


def _stop(manager: WorkerManager, store: VersionStore, done: Ensured, wanted: Wanted) -> None:
    manager.quiet()
    try:
        _wait_for(manager, manager.wait_stopped, wanted)
    except OutOfTime as late:
        if wanted.state == "active":
            late.still_true = f"{late.still_true}; {store.root}/current still names {done.previous}"
            late.next_step = "Run again to go on from here; raise worker.drain_timeout to the length of the longest task"
        raise


def may_stand_beside(manager: WorkerManager, workers: list[WorkerProcess]) -> bool:
    """Whether a switch may start another version before these workers have ended: there is room for two, and a third would need it."""
    return manager.settings.side_by_side and not any(worker.leaving for worker in workers)


def _wait_for(manager: WorkerManager, end: Callable[[float], None], wanted: Wanted) -> None:
    settings = manager.settings
    try:
        end(settings.drain_timeout)
    except OutOfTime:
        if wanted.in_flight != "finish":
            raise
        # The manager's own limit is the last one; a worker that is beyond it is killed.
        end(max(0.0, manager.kill_limit() - settings.drain_timeout))


def _is_to_restart(workers: list[WorkerProcess], version: str | None) -> bool:
    staying = [one for one in workers if not one.leaving]
    return not staying or any(one.extra or one.state != "running" or one.version != version for one in staying)


def _switch(manager: WorkerManager, store: VersionStore, done: Ensured, wanted: Wanted, start: Callable[[], None]) -> None:
    settings = manager.settings
    try:
        store.activate(wanted.version)
        if done.restarted:
            manager.reload()
            start()
            wait_healthy(manager, wanted.version, settings.health, settings.start_timeout)
    except FleetError as error:
        error.still_true = f"{store.root}/current names {store.current()}, which was {done.previous} before"
        raise


def _state(worker: WorkerProcess) -> str:
    return f"{worker.state} {worker.version or 'unknown version'}" if worker.pid else worker.state


def _wanted(workers: list[WorkerProcess], state: str, version: str | None) -> list[tuple[str, str]]:
    if state == "active":
        return [(one.name, f"running {version}") for one in workers if not one.extra and not one.leaving]
    return [(one.name, one.state if one.ended else "stopped") for one in workers]


def _lines(versions: Collection[str], current: str | None, workers: list[tuple[str, str]]) -> str:
    lines = [f"versions: {', '.join(sorted(versions)) or 'none'}", f"current: {current or 'none'}"]
    return "\n".join(lines + [f"{name}: {state}" for name, state in workers]) + "\n"
