# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker host under test: one service manager, and a worker that runs one task after the other, each in a child process."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._worker.api import WorkerManager, WorkerProcess
from ansible_collections.queueops.fleet.plugins.module_utils._worker.ensure import Ensured, Wanted, ensure
from ansible_collections.queueops.fleet.plugins.module_utils._worker.registry import open_manager

#: A task lasts as long as the file `busy` is there. On TERM and on USR1 it finishes the task in hand, takes no other, and ends.
WORKER = """\
stop=
trap 'stop=1' TERM USR1
here=$1
while [ -z "$stop" ]; do
    sh -c 'read -r id </proc/sys/kernel/random/uuid
    echo "begin $id" >>"$1/ledger"
    while [ -e "$1/busy" ]; do sleep 0.02; done
    echo "end $id" >>"$1/ledger"' task "$here" &
    task=$!
    while kill -0 $task 2>/dev/null; do wait $task; done
    sleep 0.05
done
"""
BROKEN = "exit 3\n"
INSTANCES = 2


class Bench(ABC):
    """A worker host; `worker` is what its operator has in the fleet specification."""

    manager: str
    #: What the manager calls its kill limit, and how it calls a unit.
    limit_name: str
    option_of_unit = "worker.unit"

    def __init__(self) -> None:
        # A short folder: the path of a unix socket is limited to 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="qm-"))
        self.root = self.folder / "opt"
        self.busy = self.folder / "busy"
        self.worker: dict[str, Any] = {
            "manager": self.manager,
            "unit": "mailer",
            "root": str(self.root),
            "instances": INSTANCES,
            "drain_timeout": 15.0,
            "start_timeout": 15.0,
            "health": {"hold": 0.3},
        }
        # What the workers append to, and what a worker of another user may read.
        self.folder.chmod(0o755)

    @abstractmethod
    def open(self) -> None:
        """Set the manager up for two workers, with a kill limit of 30 s."""

    @abstractmethod
    def limit(self, seconds: int) -> None:
        """Set another kill limit."""

    @abstractmethod
    def start_by_hand(self, version: str) -> None:
        """Start the workers of `version` as somebody would who knows nothing of this collection; does not wait."""

    @abstractmethod
    def restart_manager(self) -> None:
        """What a reboot does to the workers, as far as it can be had here: the manager starts them by itself."""

    def beside(self) -> None:
        """Let two versions run side by side."""
        self.worker["side_by_side"] = True

    def close(self) -> None:
        """End the workers and remove everything."""
        self.busy.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def artifact(self, version: str, script: str) -> tuple[str, str]:
        """Address and checksum of a version whose worker is `script`."""
        path = self.folder / f"mailer-{version}.tar"
        if not path.exists():
            with tarfile.open(path, "w") as archive:
                member = tarfile.TarInfo("worker.sh")
                member.size = len(script)
                archive.addfile(member, io.BytesIO(script.encode()))
        return str(path), "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()

    def go(self, state: str, version: str | None = None, check_mode: bool = False, script: str = WORKER, **more: Any) -> Ensured:
        """Bring the host to a state; `more` are options of the worker, or `in_flight` and `keep`."""
        wanted = Wanted(state, version)
        if version is not None:
            wanted.artifact, wanted.checksum = self.artifact(version, script)
        wanted.in_flight, wanted.keep = more.pop("in_flight", None), more.pop("keep", None)
        return ensure(dict(self.worker, **more), wanted, check_mode)

    def open_manager(self, **more: Any) -> WorkerManager:
        return open_manager(dict(self.worker, **more))

    def workers(self) -> list[WorkerProcess]:
        return self.open_manager().workers()

    def running(self) -> list[str | None]:
        """The version of each worker that has a process."""
        return [worker.version for worker in self.workers() if not worker.ended]

    def ledger(self, what: str) -> list[str]:
        """The tasks that were begun, or ended."""
        path = self.folder / "ledger"
        lines = path.read_text().splitlines() if path.exists() else []
        return sorted(line.split()[1] for line in lines if line.startswith(what))

    def everything(self) -> dict[str, Any]:
        """All files but the ledger, and the workers' processes."""
        found = {
            str(path): (path.lstat().st_mtime_ns, os.path.realpath(path))
            for path in self.folder.rglob("*")
            if path.name not in ("ledger", "supervisord.log") and path != self.folder
        }
        return dict(found, workers=[(one.name, one.pid, one.state) for one in self.workers()])
