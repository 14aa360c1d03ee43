# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fleet of two hosts in folders, driven by the collection's playbooks as an operator runs them."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.conftest import RedisServer
from tests.unit.release.conftest import Host

BUILD = Path(__file__).resolve().parents[3] / "build"


class Fleet:
    """Two worker hosts, a Redis, and an inventory in an ephemeral project folder."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self.folder = folder
        self.project = folder / "project"
        self.hosts = {name: self._host(folder / name) for name in ("worker1", "worker2")}
        checksums = {}
        for version in ("1.0.0", "1.1.0", "2.0.0"):
            for host in self.hosts.values():
                checksums[version] = host.artifact(version)[1]
        (self.project / "templates").mkdir(parents=True)
        (self.project / "templates" / "worker.conf.j2").write_text("setting={{ queueops_version }}\nsecret=hunter2\n")
        self.specification: dict[str, Any] = {
            "name": "mailer",
            "home": "worker1",
            "state_dir": "{{ root }}/state",
            "queue": {"backend": "rq", "url": redis.url, "names": ["mail"]},
            "worker": {
                "manager": "supervisor",
                "unit": "mailer",
                "server": "unix://{{ root }}/s.sock",
                "root": "{{ root }}/opt",
                "drain_timeout": 10,
                "health": {"hold": 0.2},
            },
            "artifact": {"url": "{{ root }}/artifacts/mailer-{version}.tar.gz", "checksums": checksums},
            "config": {
                "paths": ["{{ root }}/etc"],
                "files": [{"src": "templates/worker.conf.j2", "dest": "{{ root }}/etc/worker.conf", "mode": "0640"}],
            },
            "gate": {"min_tasks": 0, "bake": 0, "timeout": 5},
        }
        self.more: dict[str, Any] = {}
        #: Hosts that are no workers, and their variables.
        self.others: dict[str, dict[str, Any]] = {}

    @staticmethod
    def _host(folder: Path) -> Host:
        folder.mkdir()
        host = Host(folder)
        host.start_supervisor()
        return host

    def write_inventory(self) -> None:
        hosts = {name: {"root": str(host.folder), **self.more.get(name, {})} for name, host in self.hosts.items()}
        shared = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "queueops_fleet": self.specification}
        inventory: dict[str, Any] = {"workers": {"hosts": hosts, "vars": shared}}
        here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        inventory["others"] = {"hosts": {name: {**here, **variables} for name, variables in self.others.items()}}
        for name in hosts:
            hosts[name].setdefault("ansible_python_interpreter", sys.executable)
        del shared["ansible_python_interpreter"]
        (self.project / "inventory.yml").write_text(yaml.safe_dump(inventory))
        # An own, empty configuration: the one of whoever runs the tests must not count.
        (self.project / "ansible.cfg").touch()

    def environment(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
            "ANSIBLE_COLLECTIONS_PATH": str(BUILD),
            "ANSIBLE_CONFIG": str(self.project / "ansible.cfg"),
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
            "ANSIBLE_REMOTE_TEMP": str(self.folder / "tmp"),
            "ANSIBLE_NOCOLOR": "1",
        }

    def command(self, playbook: str, *extra: str, **variables: Any) -> list[str]:
        """How a playbook is run, with the inventory as it is specified now."""
        self.write_inventory()
        command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(self.project / "inventory.yml"), *extra]
        for name, value in variables.items():
            command += ["-e", json.dumps({name: value}, default=str)]
        return [*command, f"queueops.fleet.{playbook}"]

    def start(self, playbook: str, *extra: str, **variables: Any) -> subprocess.Popen[str]:
        """A playbook in a process group of its own; what it prints goes to a file."""
        with open(self.folder / "output", "wb") as output:
            return subprocess.Popen(
                self.command(playbook, *extra, **variables),
                env=self.environment(),
                cwd=self.project,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def break_version(self, version: str, name: str) -> None:
        """Let the archive of this version on that host be one that cannot start; on a busy machine it runs for a while."""
        broken, others = self.hosts[name], [host for host in self.hosts if host != name]
        (broken.artifacts / f"mailer-{version}.tar.gz").unlink()
        checksum = broken.artifact(version, broken=True)[1]
        good = self.hosts[others[0]].artifact(version)[1]
        self.specification["artifact"]["checksums"][version] = "{{ '%s' if inventory_hostname == '%s' else '%s' }}" % (checksum, name, good)
        self.specification["worker"]["health"] = {"hold": 2}

    def run(self, playbook: str, *extra: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        process = self.start(playbook, *extra, **variables)
        code = process.wait()
        return subprocess.CompletedProcess(process.args, code, (self.folder / "output").read_text(encoding="utf-8", errors="replace"))

    def everything(self) -> dict[str, bytes]:
        """Every file of every host, and the pids of its workers."""
        found: dict[str, bytes] = {}
        for name, host in self.hosts.items():
            found.update(host.everything())
            for worker in host.transaction().status()["workers"]:
                found[f"{name} {worker['name']}"] = str(worker["pid"]).encode()
        return found

    def releases(self) -> list[int | None]:
        return [host.transaction().status()["release"] for host in self.hosts.values()]

    def versions(self) -> set[str | None]:
        return {worker["version"] for host in self.hosts.values() for worker in host.transaction().status()["workers"]}


@contextmanager
def new_fleet(redis: RedisServer) -> Iterator[Fleet]:
    folder = Path(tempfile.mkdtemp(prefix="qof-"))
    fleet = Fleet(folder, redis)
    try:
        yield fleet
    finally:
        for host in fleet.hosts.values():
            host.stop()
        shutil.rmtree(folder, ignore_errors=True)


def must(done: subprocess.CompletedProcess[str]) -> str:
    """The output of a run that has to succeed."""
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def deployed(redis_server: RedisServer) -> Iterator[Fleet]:
    """A fleet of its own on release 1."""
    with new_fleet(redis_server) as fleet:
        must(fleet.run("deploy", version="1.0.0"))
        assert fleet.releases() == [1, 1]
        yield fleet


@pytest.fixture(scope="module")
def _standing(_redis: RedisServer) -> Iterator[Fleet]:
    with new_fleet(_redis) as fleet:
        must(fleet.run("deploy", version="1.0.0"))
        must(fleet.run("deploy", version="1.1.0"))
        yield fleet


@pytest.fixture
def standing(_standing: Fleet) -> Iterator[Fleet]:
    """A fleet on release 2, with release 1 behind it. Tests share it, so they must leave it as it is."""
    specification = copy.deepcopy(_standing.specification)
    yield _standing
    _standing.specification, _standing.more = specification, {}
