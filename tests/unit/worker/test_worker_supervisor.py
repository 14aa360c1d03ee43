# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers under a real supervisord: what runs, a graceful stop, the switch, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import FleetError, NotFound, OutOfTime, Refused, Unavailable
from ansible_collections.queueops.fleet.plugins.module_utils._worker import registry
from ansible_collections.queueops.fleet.plugins.module_utils._worker.api import WorkerManager, WorkerProcess
from ansible_collections.queueops.fleet.plugins.module_utils._worker.ensure import Ensured, Wanted, ensure, survey
from ansible_collections.queueops.fleet.plugins.module_utils._worker.health import wait_healthy
from ansible_collections.queueops.fleet.plugins.module_utils._worker.process import running_version
from ansible_collections.queueops.fleet.plugins.module_utils._worker.registry import open_manager
from ansible_collections.queueops.fleet.plugins.module_utils._worker.waiting import polls

from tests.unit.conftest import wait_for

# It forks for each task, as RQ does; a task lasts as long as the file `busy` is there. SIGTERM lets the task finish.
WORKER = """\
import os, signal, sys, time
here = %r
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
def note(what):
    with open(here + "/ledger", "a") as ledger:
        ledger.write(what + "\\n")
while not stop:
    child = os.fork()
    if not child:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        note("begin %%d" %% os.getpid())
        while os.path.exists(here + "/busy"):
            time.sleep(0.01)
        note("end %%d" %% os.getpid())
        os._exit(0)
    os.waitpid(child, 0)
    time.sleep(0.02)
"""

CONFIG = """\
[unix_http_server]
file=%(here)s/s.sock
%(login)s
[supervisord]
logfile=%(here)s/supervisord.log
pidfile=%(here)s/supervisord.pid
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[program:mailer]
command=%(python)s -S worker.py
directory=%(here)s/opt/current
process_name=%%(program_name)s_%%(process_num)d
numprocs=2
startsecs=0
startretries=0
stdout_logfile=NONE
stderr_logfile=NONE
%(options)s
"""


class Host:
    """A worker host in a folder, with a supervisord of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "opt"
        self.busy = folder / "busy"
        self.worker: dict[str, Any] = {
            "manager": "supervisor",
            "unit": "mailer",
            "root": str(self.root),
            "server": f"unix://{folder}/s.sock",
            "drain_timeout": 10.0,
            "start_timeout": 10.0,
            "health": {"hold": 0.1},
        }
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, options: str = "", login: str = "") -> None:
        options = "\n".join(["autostart=false", "stopwaitsecs=20", *options.split("\n")])
        values = {"here": self.folder, "python": sys.executable, "options": options, "login": login}
        (self.folder / "supervisord.conf").write_text(CONFIG % values)

    def start(self, options: str = "", login: str = "") -> None:
        self.configure(options, login)
        command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self.folder / "supervisord.conf")]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for((self.folder / "s.sock").exists, what="supervisor's socket")

    def stop(self) -> None:
        self.busy.unlink(missing_ok=True)
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def artifact(self, version: str, worker: str | None = None) -> tuple[str, str]:
        """Path and checksum of a version's archive."""
        path = self.folder / f"mailer-{version}.tar"
        if not path.exists():
            with tarfile.open(path, "w") as archive:
                for name, text in (("worker.py", worker or WORKER % str(self.folder)), ("VERSION", version)):
                    member = tarfile.TarInfo(name)
                    member.size = len(text)
                    archive.addfile(member, io.BytesIO(text.encode()))
        return str(path), "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()

    def go(self, state: str, version: str | None = None, check_mode: bool = False, broken: str | None = None, **worker: Any) -> Ensured:
        artifact = self.artifact(version, broken) if version else (None, None)
        return ensure(dict(self.worker, **worker), Wanted(state, version, artifact[0], artifact[1]), check_mode)

    def manager(self, **worker: Any) -> WorkerManager:
        return open_manager(dict(self.worker, **worker))

    def ledger(self, what: str) -> list[str]:
        path = self.folder / "ledger"
        lines = path.read_text().split("\n") if path.exists() else []
        return sorted(line.split()[1] for line in lines if line.startswith(what))

    def everything(self) -> dict[str, Any]:
        """Files below the root, and the workers' processes."""
        files = {str(path): (path.lstat().st_mtime_ns, os.path.realpath(path)) for path in self.root.rglob("*")}
        return dict(files, workers=[(one.name, one.pid, one.state) for one in self.manager().workers()])


@pytest.fixture
def host() -> Iterator[Host]:
    # A short folder: the path of a unix socket is limited to 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="qo-"))
    made = Host(folder)
    try:
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def states(workers: list[WorkerProcess]) -> list[tuple[str, str, str | None]]:
    return [(one.name, one.state, one.version) for one in workers]


RUNNING_1 = [("mailer:mailer_0", "running", "1.0"), ("mailer:mailer_1", "running", "1.0")]
RUNNING_2 = [("mailer:mailer_0", "running", "2.0"), ("mailer:mailer_1", "running", "2.0")]
STOPPED = [("mailer:mailer_0", "stopped", None), ("mailer:mailer_1", "stopped", None)]


def test_first_version_and_the_next(host: Host) -> None:
    host.start()
    before = time.time()
    done = host.go("active", "1.0")
    assert (done.changed, done.unpacked, done.restarted, done.previous, done.current) == (True, True, True, None, "1.0")
    assert states(done.workers) == RUNNING_1
    assert all(before - 1 <= (one.since or 0) <= time.time() + 1 for one in done.workers)
    first = host.everything()

    again = host.go("active", "1.0")
    assert (again.changed, again.before) == (False, again.after)
    assert host.everything() == first

    done = host.go("active", "2.0")
    assert states(done.workers) == RUNNING_2
    assert (done.previous, done.current) == ("1.0", "2.0")
    # Every task that was begun was finished.
    host.go("stopped")
    assert host.ledger("begin") == host.ledger("end") != []


def test_check_mode_is_the_plan_and_changes_nothing(host: Host) -> None:
    host.start()
    host.go("active", "1.0")
    for state, version in (("present", "2.0"), ("active", "2.0"), ("stopped", None), ("active", "2.0")):
        before = host.everything()
        planned = host.go(state, version, check_mode=True)
        assert host.everything() == before
        done = host.go(state, version)
        assert (planned.changed, planned.before, planned.after) == (True, done.before, done.after)
        assert (planned.restarted, planned.unpacked, planned.current) == (done.restarted, done.unpacked, done.current)
        assert host.go(state, version).changed is False


def test_running_version_is_the_processes_not_the_links(host: Host) -> None:
    host.start()
    host.go("active", "1.0")
    host.go("present", "2.0")
    (host.root / "current").unlink()
    (host.root / "current").symlink_to("versions/2.0")
    assert states(host.manager().workers()) == RUNNING_1
    found = survey(host.worker)
    assert found["current"] == "2.0"
    assert [(one["version"], one["live"]) for one in found["versions"]] == [("1.0", True), ("2.0", True)]
    # The link is right, but what runs is not: that is a change to make.
    done = host.go("active", "2.0")
    assert (done.changed, done.restarted) == (True, True)
    assert states(done.workers) == RUNNING_2


def test_running_version_outlives_its_folder(host: Host) -> None:
    host.start()
    host.go("active", "1.0")
    shutil.rmtree(host.root / "versions/1.0")
    assert states(host.manager().workers()) == RUNNING_1


def test_running_version_from_the_environment_comes_last(tmp_path: Path) -> None:
    (tmp_path / "versions/3.0").mkdir(parents=True)
    environment = dict(os.environ, QUEUEOPS_VERSION="9.9")
    for folder, arguments, version in (
        ("/", [], "9.9"),
        ("/", [f"{tmp_path}/versions/3.0/x"], "3.0"),
        (f"{tmp_path}/versions/3.0", [], "3.0"),
    ):
        child = subprocess.Popen(
            [sys.executable, "-c", "print(1, flush=True); input()", *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            assert running_version(child.pid, str(tmp_path)) == (version, None)
            child.kill()
    unknown, why = running_version(os.getpid(), str(tmp_path))
    assert unknown is None
    assert "QUEUEOPS_VERSION" in str(why)


def test_quiet_lets_an_executing_task_finish(host: Host) -> None:
    host.start("autorestart=true")
    host.busy.touch()
    host.go("active", "1.0")
    wait_for(lambda: len(host.ledger("begin")) == 2, what="a task in each worker")
    manager = host.manager()
    pids = {one.pid for one in manager.workers()}
    manager.quiet()
    with pytest.raises(OutOfTime) as late:
        manager.wait_stopped(0.3)
    executing = late.value.details["executing"]
    assert {one["pid"] for one in executing} == pids
    assert all(one["since"] <= time.time() and one["version"] == "1.0" for one in executing)
    # The children are the very processes that execute the tasks.
    assert sorted(str(child["pid"]) for one in executing for child in one["children"]) == host.ledger("begin")
    assert late.value.details["waited_s"] >= 0.3
    assert "mailer:mailer_0" in late.value.message
    assert {one.state for one in manager.workers()} == {"stopping"}
    assert host.ledger("end") == []
    host.busy.unlink()
    manager.wait_stopped(10)
    # Each finished what it had, took no new task, and the manager started neither again.
    assert host.ledger("end") == host.ledger("begin")
    assert len(host.ledger("begin")) == 2
    assert states(manager.workers()) == STOPPED
    manager.quiet()
    manager.wait_stopped(0)


def test_worker_that_keeps_falling_over_is_not_started_again_after_quiet(host: Host) -> None:
    """supervisord does not stop a worker that ended an instant ago, and would start it again after the call."""
    host.start("autorestart=true\ncommand=/bin/true\ndirectory=/")
    manager = host.manager()
    for _round in range(3):
        # Not manager.start(): such a worker never counts as started.
        manager._begin_start()
        manager.quiet()
        manager.wait_stopped(5)
        # supervisord's turn takes a second at most.
        for _look in polls(1.2):
            assert all(one.ended for one in manager.workers())


def test_drain_that_runs_out_of_time_switches_nothing_and_can_be_gone_on_with(host: Host) -> None:
    host.start()
    host.busy.touch()
    host.go("active", "1.0")
    wait_for(lambda: len(host.ledger("begin")) == 2, what="a task in each worker")
    with pytest.raises(OutOfTime) as late:
        host.go("active", "2.0", drain_timeout=0.2)
    assert len(late.value.details["executing"]) == 2
    assert "still names 1.0" in late.value.sentence()
    assert os.readlink(host.root / "current") == "versions/1.0"
    # A start has to wait for the tasks, too, and says so.
    with pytest.raises(OutOfTime, match="cannot start yet"):
        host.manager(drain_timeout=0.1).start()
    host.busy.unlink()
    assert states(host.go("active", "2.0").workers) == RUNNING_2


@pytest.mark.parametrize(
    ("options", "worker", "option", "words"),
    [
        ("stopwaitsecs=9", {}, "worker.drain_timeout", ("10 s", "9 s", "stopwaitsecs")),
        ("stopasgroup=true", {}, "worker.unit", ("stopasgroup",)),
        ("stopsignal=KILL", {}, "worker.unit", ("signal 9", "SIGTERM")),
        ("", {"unit": "other"}, "worker.unit", ("other", "mailer")),
        ("", {"health": {"command": ["/no/such/program"]}}, "worker.health.command", ("/no/such/program",)),
    ],
    ids=["kill-limit", "stopasgroup", "signal", "group", "health-command"],
)
def test_refused_before_anything_is_changed(host: Host, options: str, worker: dict[str, Any], option: str, words: tuple[str, ...]) -> None:
    host.start(options)
    with pytest.raises(Refused) as refused:
        host.go("active", "1.0", **worker)
    assert refused.value.option == option
    assert all(word in refused.value.sentence() for word in words)
    assert not host.root.exists()
    assert states(host.manager().workers()) == STOPPED


def test_threads_may_be_stopped_as_a_group(host: Host) -> None:
    host.start("stopasgroup=true")
    host.manager(forks=False).validate()


def test_unknown_manager_names_the_known_ones() -> None:
    with pytest.raises(Refused) as refused:
        open_manager({"manager": "runit", "unit": "x", "root": "/opt/x"})
    assert refused.value.option == "worker.manager"
    assert all(name in refused.value.message for name in registry.MANAGERS)


@pytest.mark.parametrize(
    ("worker", "option"),
    [
        ({"root": ""}, "worker.root"),
        ({"root": "opt/mailer"}, "worker.root"),
        ({"root": "/"}, "worker.root"),
        ({"drain_timeout": -1}, "worker.drain_timeout"),
        ({"server": "tcp://x"}, "worker.server"),
        ({"server": "http://me:hush@localhost:1"}, "worker.server"),
    ],
)
def test_impossible_options_are_refused(worker: dict[str, Any], option: str) -> None:
    with pytest.raises(Refused) as refused:
        open_manager({"manager": "supervisor", "unit": "mailer", "root": "/opt/mailer", **worker})
    assert refused.value.option == option
    assert "hush" not in refused.value.sentence()


def test_supervisor_that_does_not_answer(host: Host, tmp_path: Path) -> None:
    for server in (f"unix://{tmp_path}/none.sock", "http://127.0.0.1:1"):
        with pytest.raises(Unavailable) as missing:
            host.go("active", "1.0", server=server)
        assert missing.value.option == "worker.server"
        assert server in missing.value.message
    assert not host.root.exists()


def test_user_name_and_password(host: Host) -> None:
    host.start(login="username=me\npassword=hush")
    host.manager(server_username="me", server_password="hush").validate()
    for login in ({}, {"server_username": "me", "server_password": "wrong"}):
        with pytest.raises(Refused) as refused:
            host.manager(**login).validate()
        assert refused.value.option == "worker.server_password"
        assert "wrong" not in refused.value.sentence()


def test_supervisor_over_http(host: Host) -> None:
    # supervisord cannot choose a free port itself.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    host.start(login=f"[inet_http_server]\nport=127.0.0.1:{port}\nusername=me\npassword=hush")
    host.manager(server=f"http://me@127.0.0.1:{port}", server_password="hush").validate()
    with pytest.raises(Refused):
        host.manager(server=f"http://me@127.0.0.1:{port}").validate()


def test_changed_group_is_taken_over(host: Host) -> None:
    host.start()
    host.go("active", "1.0")
    manager = host.manager()
    assert manager.reload() is False
    host.configure("environment=X=1")
    with pytest.raises(Refused, match="still has running workers"):
        manager.reload()
    assert states(manager.workers()) == RUNNING_1
    manager.quiet()
    manager.wait_stopped(10)
    assert manager.reload() is True
    assert manager.reload() is False
    assert states(manager.workers()) == STOPPED
    manager.start()
    assert states(manager.workers()) == RUNNING_1
    # A process has its own environment only once it was executed, an instant after its fork.
    environment = Path(f"/proc/{manager.workers()[0].pid}/environ")
    wait_for(lambda: b"X=1" in environment.read_bytes(), what="the changed environment")


def test_group_with_autostart_is_started_by_its_addition(host: Host) -> None:
    """Measured, not assumed: supervisord starts such a group by itself, and a start after it is not an error."""
    host.start()
    host.go("active", "1.0")
    manager = host.manager()
    manager.quiet()
    manager.wait_stopped(10)
    host.configure("autostart=true")
    assert manager.reload() is True
    wait_for(lambda: states(manager.workers()) == RUNNING_1, what="supervisord's own start")
    pids = [one.pid for one in manager.workers()]
    manager.start()
    assert [one.pid for one in manager.workers()] == pids


def test_broken_configuration_is_refused(host: Host) -> None:
    host.start()
    host.go("active", "1.0")
    host.configure("stopwaitsecs=soon")
    with pytest.raises(Refused, match="cannot read its configuration"):
        host.manager().reload()
    assert states(host.manager().workers()) == RUNNING_1


def test_version_that_does_not_start(host: Host) -> None:
    host.start("autorestart=false")
    host.go("active", "1.0")
    with pytest.raises(FleetError) as failed:
        host.go("active", "2.0", broken="raise SystemExit(3)", health={"hold": 10})
    assert {one["state"] for one in failed.value.details["workers"]} <= {"failed", "running"}
    assert "supervisorctl tail mailer:mailer_" in failed.value.sentence()
    assert "was 1.0 before" in failed.value.sentence()
    # Forward and back again: failed workers can be started.
    assert states(host.go("active", "1.0").workers) == RUNNING_1


def test_version_that_keeps_falling_over_is_not_healthy(host: Host) -> None:
    host.start("autorestart=true")
    with pytest.raises(FleetError) as failed:
        host.go("active", "1.0", broken="import time; time.sleep(0.2); raise SystemExit(3)", start_timeout=1, health={"hold": 3})
    assert failed.value.details["hints"]


def test_program_that_is_missing(host: Host) -> None:
    host.start("command=/no/such/program")
    with pytest.raises(FleetError, match="could not start mailer:mailer_0"):
        host.go("active", "1.0")


def test_health_wants_the_version_and_the_command(host: Host) -> None:
    host.start()
    host.go("active", "1.0")
    manager = host.manager()
    begun = time.monotonic()
    wait_healthy(manager, "1.0", {"hold": 0.4, "command": [sys.executable, "-c", _wants("1.0")]}, 5)
    assert time.monotonic() - begun >= 0.4
    with pytest.raises(OutOfTime, match=r"runs 1\.0, not 2\.0"):
        wait_healthy(manager, "2.0", {"hold": 0.1}, 0.2)
    with pytest.raises(FleetError, match="exit code 1") as failed:
        wait_healthy(manager, "1.0", {"hold": 0, "command": [sys.executable, "-c", _wants("7")]}, 5)
    assert "this is 1.0" in failed.value.details["output"]
    with pytest.raises(OutOfTime, match="longer than"):
        wait_healthy(manager, "1.0", {"hold": 0, "command": [sys.executable, "-c", "import time; time.sleep(60)"]}, 0.3)
    with pytest.raises(NotFound, match="no-such-program"):
        wait_healthy(manager, "1.0", {"hold": 0, "command": ["no-such-program"]}, 5)


def _wants(version: str) -> str:
    return f"import os, sys; v = os.environ['QUEUEOPS_VERSION']; print('this is', v); sys.exit(v != {version!r})"


def test_stopped_workers_and_no_version_needed(host: Host) -> None:
    host.start()
    assert host.go("stopped").changed is False
    with pytest.raises(Refused) as refused:
        host.go("active")
    assert refused.value.option == "version"
    with pytest.raises(NotFound, match="there are: none"):
        ensure(host.worker, Wanted("active", "1.0"), False)


def test_present_needs_no_service_manager(host: Host) -> None:
    done = host.go("present", "1.0")
    assert (done.changed, done.restarted, done.workers, done.current) == (True, False, [], None)


# -- through Ansible, as it is sent to a host -------------------------------------------------------------------------


def ansible(module: str, arguments: dict[str, Any], *extra: str) -> tuple[dict[str, Any], str]:
    """One module run by the real `ansible`, which also shows that every file that it needs is sent along. Its result, and its diff."""
    found = next(parent for parent in Path(registry.__file__).parents if parent.name == "ansible_collections").parent
    environment = dict(os.environ, ANSIBLE_COLLECTIONS_PATH=str(found), ANSIBLE_NOCOLOR="1")
    environment.pop("PYTHONPATH", None)
    command = [str(Path(sys.executable).parent / "ansible"), "localhost", "-e", f"ansible_python_interpreter={sys.executable}"]
    run = subprocess.run(
        [*command, "-m", f"queueops.fleet.{module}", "-a", json.dumps(arguments), *extra],
        env=environment,
        capture_output=True,
        check=False,
        timeout=120,
    )
    diff, _host, result = run.stdout.decode().partition("localhost | ")
    answer: dict[str, Any] = json.loads(result.partition(" => ")[2])
    return answer, diff


def test_the_modules(host: Host) -> None:
    host.start()
    path, checksum = host.artifact("1.0")
    arguments = {"worker": host.worker, "version": "1.0", "artifact": path, "checksum": checksum, "state": "active"}
    planned, plan = ansible("worker_version", arguments, "--check", "--diff")
    assert (planned["changed"], planned["current"]) == (True, "1.0")
    assert "+mailer:mailer_0: running 1.0" in plan
    assert not host.root.exists()
    done, diff = ansible("worker_version", arguments, "--diff")
    assert (done["changed"], diff) == (True, plan)
    again, diff = ansible("worker_version", arguments, "--diff")
    assert (again["changed"], diff.strip()) == (False, "")
    found, _diff = ansible("worker_version_info", {"worker": host.worker})
    assert (found["changed"], found["current"]) == (False, "1.0")
    assert [(one["name"], one["version"]) for one in found["workers"]] == [("mailer:mailer_0", "1.0"), ("mailer:mailer_1", "1.0")]
    assert [(one["version"], one["live"], one["unfinished"]) for one in found["versions"]] == [("1.0", True, False)]
    wrong, _diff = ansible("worker_version", dict(arguments, version="2.0", checksum="sha256:" + "0" * 64))
    assert (wrong["error"]["code"], wrong["error"]["option"]) == ("refused", "checksum")
    assert checksum in wrong["msg"]
    assert os.listdir(host.root / "versions") == ["1.0"]
