# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A worker host in a folder: a real supervisord, real worker processes, versions as real archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._config.history import DesiredFile
from ansible_collections.queueops.fleet.plugins.module_utils._release.orders import HostSettings, Wanted
from ansible_collections.queueops.fleet.plugins.module_utils._release.transaction import HostTransaction

from tests.unit.conftest import wait_for

WORKER = """\
import os, signal, sys, time
if os.path.exists("broken"):
    sys.exit(3)
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
print("version", open("VERSION").read(), flush=True)
while not stop:
    time.sleep(0.02)
busy = os.environ["HOLD"]
while os.path.exists(busy):
    time.sleep(0.02)
"""

SUPERVISORD = """\
[unix_http_server]
file=%(socket)s
[supervisord]
logfile=%(folder)s/supervisord.log
pidfile=%(folder)s/supervisord.pid
nodaemon=true
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[program:mailer]
command=%(python)s worker.py
directory=%(root)s/current
environment=HOLD="%(folder)s/hold"
process_name=%%(program_name)s_%%(process_num)d
numprocs=2
autostart=false
autorestart=false
startsecs=0
stopwaitsecs=120
stdout_logfile=NONE
stderr_logfile=NONE
"""


class Host:
    """One worker host under ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "opt"
        self.config = folder / "etc"
        self.state_dir = folder / "state"
        self.socket = folder / "s.sock"
        self.artifacts = folder / "artifacts"
        for path in (self.root, self.config, self.artifacts):
            path.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def start_supervisor(self) -> None:
        values = {"socket": self.socket, "folder": self.folder, "python": sys.executable, "root": self.root}
        (self.folder / "supervisord.conf").write_text(SUPERVISORD % values)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.folder / "supervisord.conf")]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.socket.exists, what="the supervisor socket")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(40)

    def artifact(self, version: str, broken: bool = False) -> tuple[str, str]:
        """Path and checksum of a version's archive."""
        path = self.artifacts / f"mailer-{version}.tar.gz"
        if not path.exists():
            # Without the time of packing: the hosts of a fleet share one checksum.
            with gzip.GzipFile(path, "wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
                files = {"worker.py": WORKER, "VERSION": version, **({"broken": ""} if broken else {})}
                for name, text in files.items():
                    entry = tarfile.TarInfo(name)
                    entry.size = len(text)
                    archive.addfile(entry, io.BytesIO(text.encode()))
        return str(path), "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()

    def wanted(self, number: int, version: str, setting: str, broken: bool = False) -> Wanted:
        path, checksum = self.artifact(version, broken)
        files = [DesiredFile(str(self.config / "worker.conf"), f"setting={setting}\n".encode(), 0o640, None, None)]
        return Wanted(number, version, path, checksum, files)

    def transaction(self, **worker: Any) -> HostTransaction:
        options = {
            "manager": "supervisor",
            "unit": "mailer",
            "server": f"unix://{self.socket}",
            "instances": None,
            "server_username": None,
            "server_password": None,
            "root": str(self.root),
            "owner": None,
            "group": None,
            "drain_timeout": 5.0,
            "start_timeout": 5.0,
            "health": {"hold": 0.1, "command": []},
            **worker,
        }
        config = {"paths": [str(self.config)], "exclude": [], "sensitive": []}
        return HostTransaction(HostSettings("host1", "mailer", str(self.state_dir), options, config))

    def tree(self) -> dict[str, tuple[str, bytes]]:
        """Everything that is live: watched files and the link, by an independent reading."""
        found = {}
        for path in sorted(self.config.rglob("*")):
            if path.is_file():
                found[str(path.relative_to(self.folder))] = (oct(path.stat().st_mode), path.read_bytes())
        link = self.root / "current"
        found["current"] = ("link", os.readlink(link).encode() if link.is_symlink() else b"")
        return found

    def everything(self) -> dict[str, bytes]:
        """Every file below the folder but logs and sockets, to see that nothing was changed."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_symlink():
                found[str(path)] = os.readlink(path).encode()
            elif path.is_file() and path.suffix not in (".log", ".pid"):
                found[str(path)] = path.read_bytes()
        return found


@pytest.fixture
def host() -> Iterator[Host]:
    # Short, for the socket's sake.
    folder = Path(tempfile.mkdtemp(prefix="qoh-"))
    one = Host(folder)
    one.start_supervisor()
    yield one
    (folder / "hold").unlink(missing_ok=True)
    one.stop()
    shutil.rmtree(folder, ignore_errors=True)
