# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the drill's laboratory up and down: one folder, one daemon, nothing outside of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from .._errors import Conflict, FleetError, MissingLibrary, OutOfTime, Refused
from . import daemon as _daemon
from . import launch as _launch
from . import load as _load
from . import processes

#: What a lab makes in its folder, and the only things that clearing it removes.
OURS = (
    "artifacts",
    "hosts",
    "lab",
    "lab.json",
    "ledger.tsv",
    "published.tsv",
    "report.html",
    "run",
    "samples.jsonl",
    "summary.json",
)
MARKER = ".queueops-drill"
_README = "This folder belongs to the drill of queueops.fleet. Each drill clears what an earlier one left here.\n"
#: The path of a unix socket has at most 107 bytes, and supervisord binds a longer name first.
_LONGEST_RUN_FOLDER = 70
# The lab runs copies of these files; that they are imported here is what makes Ansible ship them with the module.
_CODE = (_daemon, _launch, _load, processes)


@dataclass
class Lab:
    """What a lab is made from.

    :ivar drill_dir: the lab's folder.
    :ivar hosts: names of the inventory hosts to make.
    :ivar sources: folder with one folder per build of the example application.
    :ivar versions: version to the name of its folder in ``sources``.
    :ivar group: the supervisor program group.
    :ivar queue: name of the queue.
    :ivar instances: workers a host.
    :ivar tasks: how many tasks at least are published.
    :ivar rate: tasks published a second, once all workers are there.
    :ivar python: the interpreter that has rq, redis and supervisor.
    :ivar redis_server: path of a server binary; empty means: look for one.
    :ivar owner_pid: the lab ends itself when this process is gone; 0 for none.
    :ivar ready_limit: seconds to wait for the lab to be ready.
    """

    drill_dir: str
    hosts: list[str]
    sources: str
    versions: dict[str, str]
    group: str
    queue: str
    instances: int
    tasks: int
    rate: float
    python: str
    redis_server: str
    owner_pid: int
    ready_limit: float


def up(lab: Lab) -> dict[str, Any]:
    """Clear what an earlier run left, make the folder, start the daemon, return once everything answers.

    :returns: what ``lab.json`` says (state, pid, run, redis_url, hosts), with ``cleared`` (processes ended) and ``checksums``.
    :raises Refused: the folder is not a drill's, or a source is missing.
    :raises Conflict: another drill is under way in this folder.
    :raises MissingLibrary: no server binary, or a Python library is missing.
    :raises FleetError: the lab did not start.
    """
    server = os.path.abspath(find_redis_server(lab.redis_server))
    _check_sources(lab)
    _check_python(lab.python)
    _check_folder(lab.drill_dir)
    other = read_state(lab.drill_dir)
    if other and _under_way(other, lab.owner_pid):
        raise Conflict(
            "A drill of process %d is under way in %s" % (other["owner_pid"], lab.drill_dir),
            option="drill_dir",
            still_true="Nothing was changed",
            next_step="Wait for it, end it with Ctrl-C, or give this one a folder of its own in drill_dir",
        )
    cleared = down(lab.drill_dir)["ended"]
    _clear(lab.drill_dir)
    run, temporary = _make_run_folder(lab.drill_dir)
    hosts = [_make_host(lab, name, run) for name in lab.hosts]
    checksums = _build_artifacts(lab)
    settings_path = os.path.join(lab.drill_dir, "lab", "settings.json")
    settings = {
        "path": settings_path,
        "drill_dir": lab.drill_dir,
        "run": run,
        "run_is_temporary": temporary,
        "redis_server": server,
        "python": lab.python,
        "hosts": hosts,
        "queue": lab.queue,
        "tasks": lab.tasks,
        "rate": lab.rate,
        "fleet_size": max(1, len(lab.hosts) * lab.instances),
        "owner_pid": lab.owner_pid,
        "owner_started": processes.started_at(lab.owner_pid) if lab.owner_pid else 0,
        "ready_limit": lab.ready_limit,
    }
    _daemon.write_json(settings_path, settings)
    _start(lab, settings_path)
    return dict(read_state(lab.drill_dir) or {}, cleared=cleared, checksums=checksums)


def down(drill_dir: str, limit: float = 8.0) -> dict[str, Any]:
    """End everything that belongs to the lab in ``drill_dir``.

    :returns: ``ended``: processes that were there; ``changed``: whether there was anything.
    :raises OutOfTime: processes are left after ``limit`` seconds; the details list them.
    """
    drill_dir = os.path.realpath(drill_dir)
    state = read_state(drill_dir)
    there = processes.marked(drill_dir)
    # The name of a temporary run folder is known only from here; without the daemon nobody else removes it.
    run = (state or {}).get("run", "")
    if state and state.get("state") == "up" and processes.started_at(int(state["pid"])) == state["pid_started"]:
        processes.send({int(state["pid"])}, signal.SIGTERM)
        end = time.monotonic() + limit
        pause = 0.01
        while time.monotonic() < end and processes.started_at(int(state["pid"])) == state["pid_started"]:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.2)
    processes.end_marked(drill_dir)
    left = processes.marked(drill_dir)
    if left:
        raise OutOfTime(
            "Processes of the lab in %s do not end: %s" % (drill_dir, ", ".join(str(pid) for pid in sorted(left))),
            next_step="End them by hand, then run again",
            details={"left": sorted(left)},
        )
    if run and os.path.basename(run).startswith("queueops-") and os.path.isdir(run) and os.stat(run).st_uid == os.getuid():
        shutil.rmtree(run, ignore_errors=True)
    link = os.path.join(drill_dir, "run")
    if os.path.islink(link) and not os.path.exists(link):
        os.unlink(link)
    if state and state.get("state") == "up":
        _daemon.write_json(os.path.join(drill_dir, "lab.json"), dict(state, state="down"))
    return {"ended": len(there), "changed": bool(there)}


def _under_way(state: dict[str, Any], owner_pid: int) -> bool:
    """Whether the lab belongs to somebody else who is still there."""
    owner = int(state["owner_pid"])
    return state.get("state") == "up" and owner not in (0, owner_pid) and processes.started_at(owner) == state["owner_started"]


def read_state(drill_dir: str) -> dict[str, Any] | None:
    """What ``lab.json`` says, or None when there is no lab."""
    try:
        with open(os.path.join(drill_dir, "lab.json"), encoding="utf-8") as handle:
            found: dict[str, Any] = json.load(handle)
            return found
    except (OSError, ValueError):
        return None


def find_redis_server(named: str) -> str:
    """The server to embed: the one named, else Valkey or Redis on PATH, else ``QUEUEOPS_REDIS_SERVER``."""
    if named:
        if os.access(named, os.X_OK):
            return named
        raise Refused(
            "The server binary %s cannot be executed" % named,
            option="redis_server",
            next_step="Name a valkey-server or redis-server binary",
        )
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    given = os.environ.get("QUEUEOPS_REDIS_SERVER", "")
    if given and os.access(given, os.X_OK):
        return given
    raise MissingLibrary(
        "No valkey-server or redis-server is on PATH, and QUEUEOPS_REDIS_SERVER names none",
        option="redis_server",
        next_step="Run the drill with `make drill`, which brings one, or install Debian's valkey-server or redis-server package",
    )


def _check_sources(lab: Lab) -> None:
    for version, folder in lab.versions.items():
        path = os.path.join(lab.sources, folder)
        if not os.path.isfile(os.path.join(path, "worker.py")):
            raise Refused("Version %s of the example application is not in %s" % (version, path), option="sources")


def _check_python(python: str) -> None:
    """Refuse before the first change when the interpreter lacks a library. Asked of that interpreter, without importing (which is slow)."""
    question = "import importlib.util as u; print(*[m for m in ('redis', 'rq', 'supervisor') if u.find_spec(m) is None])"
    done = subprocess.run([python, "-c", question], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False)
    missing = done.stdout.decode("utf-8", "replace").split()
    if done.returncode or missing:
        raise MissingLibrary(
            "The Python %s lacks: %s" % (python, ", ".join(missing)),
            option="python",
            next_step="Run the drill with `make drill`, or install them: %s -m pip install redis rq supervisor" % python,
        )


def _check_folder(drill_dir: str) -> None:
    if not os.path.isdir("/proc/self"):
        raise Refused("The drill needs Linux: it finds its processes in /proc, which this system does not have")
    if os.path.isdir(drill_dir) and not os.path.exists(os.path.join(drill_dir, MARKER)):
        strange = sorted(set(os.listdir(drill_dir)) & set(OURS))
        if strange:
            raise Refused(
                "%s holds %s, and it was not a drill that made them" % (drill_dir, ", ".join(strange)),
                option="drill_dir",
                next_step="Name an empty or a new folder",
            )


def _clear(drill_dir: str) -> None:
    os.makedirs(drill_dir, mode=0o755, exist_ok=True)
    with open(os.path.join(drill_dir, MARKER), "w", encoding="utf-8") as handle:
        handle.write(_README)
    for name in OURS:
        path = os.path.join(drill_dir, name)
        if os.path.islink(path) or os.path.isfile(path):
            os.unlink(path)
        elif os.path.isdir(path):
            shutil.rmtree(path)
    package = os.path.join(drill_dir, "lab", "queueops_lab")
    os.makedirs(package, mode=0o700)
    for name in ["__init__", *(module.__name__.rpartition(".")[2] for module in _CODE)]:
        # Read through the loader: inside a module this code is in a zip file.
        code = pkgutil.get_data(__package__ or "", name + ".py")
        if code is None:
            raise FleetError("The lab's own code %s.py cannot be read" % name)
        with open(os.path.join(package, name + ".py"), "wb") as out:
            out.write(code)


def _make_run_folder(drill_dir: str) -> tuple[str, bool]:
    """The folder for sockets: in the lab's folder, or in /tmp and linked from there when a socket could not have that path.

    A path may be too long, and redis-py cannot parse what the server says of a client whose path has white space.
    """
    run = os.path.join(drill_dir, "run")
    if len(os.fsencode(run)) <= _LONGEST_RUN_FOLDER and not re.search(r"\s", run):
        os.mkdir(run, 0o700)
        return run, False
    short = tempfile.mkdtemp(prefix="queueops-", dir="/tmp")
    os.symlink(short, run)
    return short, True


def _make_host(lab: Lab, name: str, run: str) -> dict[str, str]:
    root = os.path.join(lab.drill_dir, "hosts", name)
    for folder in ("etc/mailer", "opt/mailer", "var/log", "var/lib"):
        os.makedirs(os.path.join(root, folder), mode=0o755)
    conf = os.path.join(root, "supervisord.conf")
    sock = os.path.join(run, name + ".sock")
    # In this format a percent sign starts an expansion, and a quoted value of `environment` ends at a quote.
    text = _SUPERVISORD.format(
        root=root.replace("%", "%%"),
        sock=sock.replace("%", "%%"),
        python=lab.python.replace("%", "%%"),
        group=lab.group,
        host=name,
        instances=lab.instances,
    )
    with open(conf, "w", encoding="utf-8") as handle:
        handle.write(text)
    return {"name": name, "root": root, "conf": conf, "socket": sock}


_SUPERVISORD = """\
; One host of the drill. The program group is not started here: a release does that.
[unix_http_server]
file = {sock}
chmod = 0700

[supervisord]
logfile = {root}/var/log/supervisord.log
logfile_maxbytes = 0
pidfile = {root}/var/supervisord.pid
childlogdir = {root}/var/log
directory = {root}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl = unix://{sock}

[program:{group}]
command = "{python}" worker.py
directory = {root}/opt/mailer/current
process_name = %(program_name)s_%(process_num)d
numprocs = {instances}
autostart = false
autorestart = unexpected
startsecs = 1
startretries = 1
stopsignal = TERM
stopwaitsecs = 90
; A TERM to the whole process group would reach the child that executes the task, and kill it.
stopasgroup = false
killasgroup = false
environment = MAILER_HOST="{host}",MAILER_INSTANCE="%(process_num)d",MAILER_CONFIG="{root}/etc/mailer",PYTHONDONTWRITEBYTECODE="1"
redirect_stderr = true
stdout_logfile = {root}/var/log/{group}_%(process_num)d.log
stdout_logfile_maxbytes = 0
"""


def _build_artifacts(lab: Lab) -> dict[str, str]:
    """Write one tarball a version and ``checksums.json``. The same sources give the same bytes, so a checksum can be pinned."""
    folder = os.path.join(lab.drill_dir, "artifacts")
    os.mkdir(folder, 0o755)
    checksums = {}
    for version, source in sorted(lab.versions.items()):
        archive = _pack(os.path.join(lab.sources, source))
        with open(os.path.join(folder, "mailer-%s.tar.gz" % version), "wb") as out:
            out.write(archive)
        checksums[version] = "sha256:" + hashlib.sha256(archive).hexdigest()
    _daemon.write_json(os.path.join(folder, "checksums.json"), dict(checksums))
    return checksums


def _pack(folder: str) -> bytes:
    """The files of ``folder`` as a tar.gz, without times and owners."""
    plain, packed = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                with open(path, "rb") as handle:
                    content = handle.read()
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode, entry.mtime = len(content), 0o644, 0
                tar.addfile(entry, io.BytesIO(content))
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped:
        zipped.write(plain.getvalue())
    return packed.getvalue()


def _start(lab: Lab, settings_path: str) -> None:
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")
    # Whoever started the drill may know its processes by a variable of their own.
    environment = {name: value for name, value in os.environ.items() if name in kept or name.startswith("QUEUEOPS_")}
    environment.update({processes.MARK: lab.drill_dir, "PYTHONDONTWRITEBYTECODE": "1"})
    folder = os.path.join(lab.drill_dir, "lab")
    log_path = os.path.join(folder, "lab.log")
    with open(log_path, "ab") as log:
        process = subprocess.Popen(
            [lab.python, "-m", "queueops_lab.daemon", settings_path],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environment,
            start_new_session=True,
            close_fds=True,
        )
    end = time.monotonic() + lab.ready_limit + 5
    pause = 0.02
    while True:
        state = read_state(lab.drill_dir)
        if state and state.get("state") == "up":
            return
        if process.poll() is not None or time.monotonic() > end:
            down(lab.drill_dir)
            with open(log_path, encoding="utf-8", errors="replace") as handle:
                said = handle.read().splitlines()[-5:]
            raise FleetError(
                "The lab in %s did not start: %s" % (lab.drill_dir, " | ".join(said) or "it said nothing"),
                still_true="Nothing of it is running",
                next_step="Read %s" % log_path,
                details={"log": said},
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
