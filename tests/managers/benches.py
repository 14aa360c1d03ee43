# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benches by service manager."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._worker import guard

from tests.managers.bench import INSTANCES, Bench
from tests.unit.conftest import wait_for

SUPERVISOR = """\
[unix_http_server]
file=%(here)s/s.sock
[supervisord]
logfile=%(here)s/supervisord.log
pidfile=%(here)s/supervisord.pid
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[program:mailer]
%(program)s
autostart=%(autostart)s
%(beside)s
"""
PROGRAM = """\
command=%(check)s /bin/sh worker.sh %(here)s
directory=%(here)s/opt/current
process_name=%%(program_name)s_%%(process_num)d
numprocs=%(count)d
startsecs=0
startretries=0
stopwaitsecs=%(limit)d
stdout_logfile=NONE
stderr_logfile=%(here)s/stderr.log
"""

UNIT = """\
[Service]
WorkingDirectory=%(here)s/opt/current
ExecStart=/bin/sh worker.sh %(here)s
KillMode=mixed
TimeoutStopSec=%(limit)d
"""


class SupervisorBench(Bench):
    """A supervisord of its own."""

    manager = "supervisor"
    limit_name = "stopwaitsecs"

    def open(self) -> None:
        self.worker["server"] = f"unix://{self.folder}/s.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._write(30, "false")
        self._start()

    def _write(self, limit: int, autostart: str) -> None:
        values = {
            "here": self.folder,
            "check": guard.check_path(str(self.root)),
            "count": INSTANCES,
            "limit": limit,
        }
        program = PROGRAM % values
        beside = f"[program:mailer_beside]\n{program}autostart=false\n" if self.worker.get("side_by_side") else ""
        text = SUPERVISOR % {"here": self.folder, "program": program, "autostart": autostart, "beside": beside}
        (self.folder / "supervisord.conf").write_text(text)

    def _start(self) -> None:
        command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self.folder / "supervisord.conf")]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for((self.folder / "s.sock").exists, what="supervisor's socket")

    def _stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)

    def limit(self, seconds: int) -> None:
        self._write(seconds, "false")
        self._control("update")

    def beside(self) -> None:
        super().beside()
        self.limit(30)

    def _control(self, *order: str) -> None:
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-s", self.worker["server"], *order]
        subprocess.run(command, capture_output=True, check=False)

    def start_by_hand(self, version: str) -> None:
        point(self.root, version)
        self._control("start", "mailer:*")

    def restart_manager(self) -> None:
        self._stop()
        self._write(30, "true")
        self._start()

    def close(self) -> None:
        self.busy.unlink(missing_ok=True)
        self._stop()
        super().close()


class SystemdBench(Bench):
    """The systemd that this runs under: only in a container whose init it is."""

    manager = "systemd"
    limit_name = "TimeoutStopSec"

    def open(self) -> None:
        if not Path("/run/systemd/system").is_dir():
            pytest.fail("systemd is not this machine's init: run `make managers`, which runs this in a container")
        self.worker["unit"] = "mailer@.service"
        self._unit = Path("/etc/systemd/system/mailer@.service")
        self._drop_in = self._unit.with_name(self._unit.name + ".d") / "queueops-fleet.conf"
        self.limit(30)

    def limit(self, seconds: int) -> None:
        self._unit.write_text(UNIT % {"here": self.folder, "limit": seconds})
        self._control("daemon-reload")

    def _control(self, *order: str) -> None:
        subprocess.run(["systemctl", *order], capture_output=True, check=False)

    def start_by_hand(self, version: str) -> None:
        point(self.root, version)
        self._control("start", "mailer@1", "mailer@2")

    def restart_manager(self) -> None:
        # What boot does with an enabled unit: a target that wants it is started, by a manager that read all units anew.
        target = self._unit.with_name("booted.target")
        target.write_text("[Unit]\nWants=mailer@1.service mailer@2.service\n")
        self._control("daemon-reexec")
        self._control("start", "booted.target")

    def close(self) -> None:
        self.busy.unlink(missing_ok=True)
        self._control("kill", "--signal=KILL", "mailer@*.service")
        self._control("stop", "mailer@*.service", "booted.target")
        for left in (self._unit, self._drop_in, self._unit.with_name("booted.target")):
            left.unlink(missing_ok=True)
        self._control("daemon-reload")
        self._control("reset-failed")
        super().close()


class DockerBench(Bench):
    """Containers of tiny images that are built here."""

    manager = "docker"
    limit_name = "StopTimeout"

    def __init__(self) -> None:
        super().__init__()
        self.label = "mailer-" + uuid.uuid4().hex[:8]
        self.worker["unit"] = self.label
        self.worker["definition"] = str(self.folder / "container.json")
        # The images' tags are made of this folder's name, and are to be no other test's.
        self.root = self.folder / self.label
        self.worker["root"] = str(self.root)
        self._images: dict[str, str] = {}
        self.engine: Any = None

    def open(self) -> None:
        self.engine = open_docker()
        self.limit(30)

    def define(self, **more: Any) -> None:
        """Write the definition; `more` goes over it."""
        definition = {
            "Labels": {"queueops.unit": self.label},
            "StopTimeout": 30,
            "HostConfig": {"Binds": [f"{self.folder}:{self.folder}"], "RestartPolicy": {"Name": "on-failure"}, "NetworkMode": "none"},
        }
        Path(self.worker["definition"]).write_text(json.dumps(dict(definition, **more)))

    def limit(self, seconds: int) -> None:
        self.define(StopTimeout=seconds)

    def build(self, name: str, script: str, instructions: str = "") -> str:
        """Build an image; its id."""
        context = self.folder / f"image-{name}"
        context.mkdir(exist_ok=True)
        (context / "worker.sh").write_text(script)
        recipe = f'FROM queueops-base:trixie\nCOPY worker.sh /app/worker.sh\nCMD ["/bin/sh", "/app/worker.sh", "{self.folder}"]\n'
        (context / "Dockerfile").write_text(recipe + instructions)
        image, _log = self.engine.images.build(path=str(context), tag=f"{self.label}:{name}", rm=True)
        return str(image.id)

    def artifact(self, version: str, script: str) -> tuple[str, str]:
        if version not in self._images:
            self._images[version] = self.build(version, script)
        return f"image:{self.label}:{version}", self._images[version]

    def start_by_hand(self, version: str) -> None:
        point(self.root, version)
        for name in self._made_of(version):
            self.engine.api.start(name)

    def _made_of(self, version: str) -> list[str]:
        listed = self.engine.api.containers(all=True, filters={"label": [f"queueops.unit={self.label}", f"queueops.version={version}"]})
        return [one["Id"] for one in listed]

    def restart_manager(self) -> None:
        # This machine's engine has others' containers in it. What its restart does to a container is a start of it.
        for name in self._made_of(os.path.basename(os.readlink(self.root / "current"))):
            self.engine.api.update_container(name, restart_policy={"Name": "unless-stopped"})
            self.engine.api.restart(name)

    def close(self) -> None:
        if self.engine is not None:
            for one in self.engine.api.containers(all=True, filters={"label": f"queueops.unit={self.label}"}):
                self.engine.api.remove_container(one["Id"], force=True, v=True)
            for image in self.engine.images.list():
                for tag in image.tags:
                    if self.label in tag:
                        self.engine.images.remove(tag, force=True)
            self.engine.close()
        super().close()


BENCHES: dict[str, type[Bench]] = {"docker": DockerBench, "supervisor": SupervisorBench, "systemd": SystemdBench}


def open_docker() -> Any:
    """A client of this machine's Docker Engine, whose absence fails the test and says what is missing."""
    import docker

    try:
        engine = docker.from_env(timeout=120)
        engine.images.get("queueops-base:trixie")
    except docker.errors.DockerException as error:
        pytest.fail(f"no Docker Engine with the image queueops-base:trixie answers here: run `make managers`, which sees to both ({error})")
    return engine


def point(root: Path, version: str) -> None:
    """Let `current` name a version, as by hand."""
    (root / "current").unlink(missing_ok=True)
    (root / "current").symlink_to(f"versions/{version}")
