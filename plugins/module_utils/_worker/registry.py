# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The service managers by name. A new one is one new file and its line here."""

from __future__ import annotations

from typing import Any, Callable

from .._errors import Refused
from .api import WorkerManager, WorkerSettings


# Imports by statement: Ansible sends a module's host only what it finds imported so.
def _docker() -> type[WorkerManager]:
    from .docker import Docker

    return Docker


def _supervisor() -> type[WorkerManager]:
    from .supervisor import Supervisor

    return Supervisor


def _systemd() -> type[WorkerManager]:
    from .systemd import Systemd

    return Systemd


#: Name -> what imports and gives its class; imported only when used.
MANAGERS: dict[str, Callable[[], type[WorkerManager]]] = {
    "docker": _docker,
    "supervisor": _supervisor,
    "systemd": _systemd,
}


def open_manager(worker: dict[str, Any]) -> WorkerManager:
    """The manager of the workers that `worker`, the part of the fleet specification, describes. Contacts nothing yet.

    :raises Refused: the manager is unknown, or an option is missing or out of range.
    """
    name = worker.get("manager")
    if name not in MANAGERS:
        raise Refused(
            f"No service manager is called {name!r}; there are: {', '.join(sorted(MANAGERS))}",
            option="worker.manager",
            next_step="Name one of these",
        )
    return MANAGERS[name]()(WorkerSettings.from_options(worker))
