# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put a version into quarantine on one host, and take it out again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from .._errors import MissingLibrary, NotFound, Refused
from . import guard
from .api import WorkerManager, WorkerProcess
from .ensure import open_store
from .registry import open_manager
from .versions import check_name


@dataclass
class Quarantined:
    """What was done, or in check mode would be.

    :ivar entry: how the version is quarantined now; None if it is not.
    :ivar running: the workers that run it all the same, since before.
    :ivar before: how it stood, in lines for a diff; `after` likewise.
    """

    changed: bool
    entry: guard.Entry | None
    running: list[WorkerProcess] = field(default_factory=list)
    before: str = ""
    after: str = ""


def quarantine(worker: dict[str, Any], version: str, why: str, by: str | None, check_mode: bool) -> Quarantined:
    """Keep `version` from starting, also by hand and after a reboot. It need not be here. What runs goes on.

    A quarantine that holds already is left as it is, unless its reason is another.

    :raises Refused: the manager does not run the check, and only the operator can let it.
    """
    check_name(version)
    manager = open_manager(worker)
    root = open_store(worker).root
    _require_unit(manager)
    manager.check_guard()
    old = guard.entry(root, version)
    kept = old is not None and old.holds and not old.went_back and old.why == why
    entry = old if kept and old is not None else guard.Entry(version, why, old.since if old and old.holds else time.time(), by)
    changed = not kept or not manager.guarded()
    if changed and not check_mode:
        # The check comes first: an entry that nobody looks at would be a promise that does not hold.
        manager.guard()
        guard.add(root, entry)
        entry = guard.entry(root, version) or entry
    running = [one for one in manager.workers() if not one.ended and one.version == version]
    return Quarantined(changed, entry, running, _line(version, old), _line(version, entry))


def _require_unit(manager: WorkerManager) -> None:
    """Refuse a unit that is not there. One that could not be switched, as its kill limit is too short, can be guarded all the same."""
    try:
        manager.validate()
    except Refused as unfit:
        if isinstance(unfit, (NotFound, MissingLibrary)) and unfit.option != "worker.health.command":
            raise


def end_quarantine(worker: dict[str, Any], version: str, check_mode: bool) -> Quarantined:
    """Let `version` start again. The check stays: it costs nothing and is there for the next one."""
    check_name(version)
    root = open_store(worker).root
    old = guard.entry(root, version)
    if old is not None and not check_mode:
        guard.remove(root, version)
    return Quarantined(old is not None, None, [], _line(version, old), _line(version, None))


def _line(version: str, entry: guard.Entry | None) -> str:
    return f"{version}: quarantined, {entry.why}\n" if entry else f"{version}: may start\n"
