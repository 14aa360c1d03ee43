# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker host in a folder, that can be saved and put back: real files, real git, and a service manager that is a file.

The stand-in for the service manager does each act (stop all, start all) as one rename, so that one kill point lies before and one
after it. Real workers under a real supervisord are in ``tests/unit/release/test_crash_sample.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._release.transaction import HostTransaction
from ansible_collections.queueops.fleet.plugins.module_utils._worker import guard
from ansible_collections.queueops.fleet.plugins.module_utils._worker.api import WorkerManager, WorkerProcess

from tests.unit.release.conftest import Host

#: What a host shows to someone who shares no code with the collection.
Picture = dict[str, tuple[str, ...]]


class FileManager(WorkerManager):
    """Two workers that are lines in a file; each runs the version that ``current`` led to when it was started."""

    @property
    def _path(self) -> Path:
        return Path(str(self.settings.server))

    def validate(self) -> None:
        self.workers()

    def workers(self) -> list[WorkerProcess]:
        rows = json.loads(self._path.read_text())
        return [WorkerProcess(name, row["pid"], row["state"], 1.0, row["version"]) for name, row in sorted(rows.items())]

    def _begin_stop(self) -> None:
        write_workers(self._path, "stopped", None)

    def _signal(self, worker: WorkerProcess, number: signal.Signals) -> None:
        raise AssertionError("these workers are stopped, not signalled")

    def guarded(self) -> bool:
        return guard.is_installed(self.settings.root)

    def check_guard(self) -> None:
        pass

    def guard(self) -> None:
        guard.install(self.settings.root)

    def reload(self) -> bool:
        return False

    def _begin_start(self) -> None:
        current = Path(self.settings.root, "current")
        version = os.path.basename(os.readlink(current))
        fails = (current / "broken").exists() or not may_start(self.settings.root)
        write_workers(self._path, "failed" if fails else "running", version)

    def _begin_start_beside(self) -> None:
        self._begin_start()

    def kill_limit(self) -> float:
        return float("inf")

    def hint(self, name: str) -> str:
        return f"cat {self._path}"


def may_start(root: str | Path) -> bool:
    """What the check of the quarantine says, which the manager runs before each start; a host that never had one has none."""
    check = Path(guard.check_path(str(root)))
    return not check.exists() or subprocess.run([check], env={"PATH": os.defpath}, capture_output=True, check=False).returncode == 0


def write_workers(path: Path, state: str, version: str | None) -> None:
    """Bring both workers to a state, in one step."""
    row = {"state": state, "pid": 1 if state == "running" else None, "version": version if state == "running" else None}
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({"mailer_0": row, "mailer_1": row}))
    beside.replace(path)


class CrashHost(Host):
    """A host without a supervisord, whose folder can be put back as it was."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.workers = folder.parent / f"{folder.name}-workers.json"
        write_workers(self.workers, "stopped", None)

    def transaction(self, **worker: Any) -> HostTransaction:
        stand_in = {"manager": "file", "server": str(self.workers), "health": {"hold": 0.0, "command": []}, "start_timeout": 0.0}
        return super().transaction(**{**stand_in, **worker})

    def reboot(self) -> None:
        """What a start of the machine does to the workers: those that are enabled start with what ``current`` leads to."""
        link = self.root / "current"
        if link.is_symlink() and may_start(self.root):
            write_workers(self.workers, "running", os.path.basename(os.readlink(link)))
        else:
            write_workers(self.workers, "stopped", None)

    def picture(self) -> Picture:
        """What is live: the config by find(1) and its checksums, the link, and the version of each running worker."""
        form = "%P\\0%y\\0%m\\0%U\\0%G\\0%l\\0"
        listed = subprocess.run(["find", str(self.config), "-printf", form], capture_output=True, check=True).stdout.decode().split("\0")
        found: Picture = {}
        for at in range(0, len(listed) - 1, 6):
            name, kind, *rest = listed[at : at + 6]
            content = (self.config / name).read_bytes().hex() if kind == "f" else ""
            # The mode of a symbolic link means nothing.
            found["etc/" + name] = (kind, *(["", *rest[1:]] if kind == "l" else rest), content)
        link = self.root / "current"
        found["current"] = (os.readlink(link) if link.is_symlink() else "",)
        rows = json.loads(self.workers.read_text())
        found["workers"] = tuple(f"{name} {row['state']} {row['version']}" for name, row in sorted(rows.items()))
        return found

    def save(self, where: Path) -> None:
        """Keep a copy of the host as it is."""
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir()
        subprocess.run(["cp", "-a", self.folder, where / "host"], check=True)
        shutil.copy2(self.workers, where / "workers.json")

    def put_back(self, where: Path) -> None:
        """Make the host what it was when it was saved."""
        shutil.rmtree(self.folder)
        subprocess.run(["cp", "-a", where / "host", self.folder], check=True)
        shutil.copy2(where / "workers.json", self.workers)
