# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The quarantine over a reboot: a host with systemd as its init, which is really booted anew."""

from __future__ import annotations

import json
import subprocess
import sysconfig
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import wait_for

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "queueops-init:trixie"

#: What each order of the test begins with, on the host. Its folder outlives a reboot, as /tmp does not.
BEGIN = """
import json, os, pathlib, subprocess
os.environ["TMPDIR"] = "/var/lib"
from tests.managers.benches import SystemdBench
from ansible_collections.queueops.fleet.plugins.module_utils._worker import guard
from ansible_collections.queueops.fleet.plugins.module_utils._worker.quarantine import quarantine
bench = SystemdBench()
bench.folder = pathlib.Path("/var/lib/bench"); bench.folder.mkdir(exist_ok=True)
bench.root = bench.folder / "opt"; bench.busy = bench.folder / "busy"
bench.worker.update(root=str(bench.root), unit="mailer@.service")
"""


class Machine:
    """A host in a container, and Python on it."""

    def __init__(self) -> None:
        self.name = f"queueops-reboot-{uuid.uuid4().hex[:8]}"

    def start(self) -> None:
        mounts = [f"--volume={ROOT}:/src:ro", f"--volume={sysconfig.get_path('purelib')}:/packages:ro"]
        mounts += ["--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw", "--tmpfs=/run", "--tmpfs=/run/lock", "--tmpfs=/tmp:exec"]
        rights = ["--cap-add=SYS_ADMIN", "--cap-add=SYS_PTRACE", "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"]
        done = subprocess.run(
            ["docker", "run", "--detach", f"--name={self.name}", "--cgroupns=host", *rights, *mounts, IMAGE],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"no container of {IMAGE} could be started: run `make managers`, which builds it ({done.stderr.strip()})")
        self.wait_up()

    def wait_up(self) -> None:
        command = ["docker", "exec", self.name, "systemctl", "is-system-running", "--wait"]
        wait_for(
            lambda: subprocess.run(command, capture_output=True, check=False).stdout.strip() in (b"running", b"degraded"), 90, "systemd"
        )

    def reboot(self) -> None:
        subprocess.run(["docker", "restart", "--time=30", self.name], stdout=subprocess.DEVNULL, check=True)
        self.wait_up()

    def do(self, order: str) -> Any:
        """Run Python on the host; what its last line, `json.dumps(...)`, is."""
        command = ["docker", "exec", "--workdir=/src", "--env=PYTHONPATH=/src/build:/packages", "--env=PYTHONDONTWRITEBYTECODE=1"]
        lines = (BEGIN + order).strip().splitlines()
        lines[-1] = f"print(json.dumps({lines[-1]}))"
        done = subprocess.run([*command, self.name, "python3", "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def stop(self) -> None:
        subprocess.run(["docker", "rm", "--force", "--volumes", self.name], capture_output=True, check=False)


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_quarantined_version_does_not_come_back_with_a_reboot(machine: Machine) -> None:
    install = """
bench.open()
bench._unit.write_text(bench._unit.read_text() + "[Install]\\nWantedBy=multi-user.target\\n")
bench._control("daemon-reload")
bench._control("enable", "mailer@1", "mailer@2")
bench.go("active", "1.0")
bench.go("active", "2.0")
bench.running()
"""
    assert machine.do(install) == ["2.0", "2.0"]
    # Boot starts the workers: without this the rest would show nothing.
    machine.reboot()
    assert machine.do("bench.running()") == ["2.0", "2.0"]

    # One that holds only later, as of a release that has yet to be confirmed: the host is away when it begins to hold.
    machine.do(f"""
bench.open_manager().guard()
guard.add(str(bench.root), guard.Entry("2.0", "not confirmed in time", {time.time() + 3}))
None
""")
    assert machine.do("bench.running()") == ["2.0", "2.0"]
    wait_for(lambda: machine.do("all(entry.holds for entry in guard.quarantined(str(bench.root)))"), what="the time from which on it holds")
    machine.reboot()
    said = machine.do("""
subprocess.run(["systemctl", "start", "mailer@1"], check=False)
said = subprocess.run(["journalctl", "-b", "-u", "mailer@1", "-o", "cat"], capture_output=True, text=True).stdout
[bench.running(), said]
""")
    assert said[0] == []
    assert "version 2.0 is quarantined" in said[1]

    # The host is not lost: another version starts, now and with the next boot.
    machine.do("""
bench.go("active", "1.0")
None
""")
    machine.reboot()
    assert machine.do("bench.running()") == ["1.0", "1.0"]
