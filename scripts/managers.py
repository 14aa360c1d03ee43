# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the contract of the service managers: supervisor and docker on this machine, systemd in a container whose init it is."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import time
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path

from house import BUILD, ROOT, Record, environment

#: The molecule scenarios' image, as far as systemd in it.
IMAGE = "queueops-init:trixie"
#: systemd as init without a privileged container, as molecule/shared/create.yml has it.
RUN = ["--cap-add=SYS_ADMIN", "--cap-add=SYS_PTRACE", "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"]
RUN += ["--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw", "--tmpfs=/run", "--tmpfs=/run/lock", "--tmpfs=/tmp:exec"]


def main(arguments: list[str]) -> int:
    """See that there is an engine, run the tests in both places (or pytest over what ``arguments`` name), and count what ran."""
    record = Record("managers")
    if subprocess.run([str(ROOT / "scripts" / "engine.sh")], cwd=ROOT, check=False).returncode:
        record.add(False, "managers: no container engine")
        return record.close()
    build = ["docker", "build", "--quiet", "--network=host", "--build-arg=http_proxy", "--build-arg=https_proxy", "--build-arg=no_proxy"]
    build += ["--target=init", f"--tag={IMAGE}", str(ROOT / "molecule" / "shared" / "image")]
    if subprocess.run(build, env=environment(DOCKER_BUILDKIT="0"), stdout=subprocess.DEVNULL, check=False).returncode:
        record.add(False, f"managers: the image {IMAGE} could not be built")
        return record.close()
    folder = BUILD / "managers"
    folder.mkdir(parents=True, exist_ok=True)
    given = arguments or ["tests/managers"]
    here = [sys.executable, "-m", "pytest", "-p", "no:testinfra", "-o", "cache_dir=build/pytest"]
    report = folder / "here.xml"
    report.unlink(missing_ok=True)
    done = subprocess.run([*here, f"--junit-xml={report}", *given], cwd=ROOT, env=environment(), check=False)
    count(record, "supervisor, docker", report, done.returncode)
    if not arguments:
        report = folder / "systemd.xml"
        report.unlink(missing_ok=True)
        count(record, "systemd", report, in_container(report))
    return record.close()


def in_container(report: Path) -> int:
    """Run the contract over systemd in a container that is removed afterwards; pytest's exit code."""
    name = f"queueops-managers-{uuid.uuid4().hex[:8]}"
    packages = sysconfig.get_path("purelib")
    mounts = [f"--volume={ROOT}:/src:ro", f"--volume={packages}:/packages:ro", f"--volume={report.parent}:/report"]
    subprocess.run(["docker", "run", "--detach", f"--name={name}", *RUN, *mounts, IMAGE], stdout=subprocess.DEVNULL, check=True)
    try:
        if not is_up(name):
            return -1
        # pytest and what it needs are plain Python, so that this machine's serve the container's Python as well.
        variables = ["PYTHONPATH=/src/build:/packages", "PYTHONDONTWRITEBYTECODE=1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"]
        command = ["docker", "exec", "--workdir=/src", *(f"--env={one}" for one in variables), name, "python3", "-m", "pytest"]
        command += ["-p", "no:cacheprovider", f"--junit-xml=/report/{report.name}", "--manager=systemd", "tests/managers/test_contract.py"]
        return subprocess.run(command, check=False).returncode
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], stdout=subprocess.DEVNULL, check=False)


def is_up(name: str, limit: float = 60.0) -> bool:
    """Wait until systemd in the container has started all that it starts."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done = subprocess.run(
            ["docker", "exec", name, "systemctl", "is-system-running", "--wait"], capture_output=True, text=True, check=False
        )
        if done.stdout.strip() in ("running", "degraded"):
            return True
        time.sleep(0.2)
    print(f"systemd did not come up in a container within {limit:g} s: {done.stdout}{done.stderr}", file=sys.stderr)
    return False


def count(record: Record, where: str, report: Path, code: int) -> None:
    """Note what ran; none, a failed one or a skipped one is a failure."""
    ran = broken = 0
    if report.exists():
        for suite in ET.parse(report).getroot().iter("testsuite"):
            ran += int(suite.get("tests", 0))
            broken += sum(int(suite.get(what, 0)) for what in ("failures", "errors", "skipped"))
    good = ran > 0 and not broken and code == 0
    record.add(good, f"{where}: {ran} tests, {broken} failed or skipped, exit code {code}", ran if good else max(broken, 1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
