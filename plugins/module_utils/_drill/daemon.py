# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's daemon: the parent of every process of a drill, which ends them all when it is told to or when its owner is gone.

Run as ``python -m queueops_lab.daemon SETTINGS`` from a copy in the drill's folder: it outlives the module that starts it.
Standard library only, so that it is light and starts at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from .processes import MARK, become_subreaper, descendants, send, started_at


def write_json(path: str, value: dict[str, Any]) -> None:
    """Write ``value`` so that a reader sees the old file or the new one, whole."""
    beside = path + ".new"
    with open(beside, "w", encoding="utf-8") as handle:
        json.dump(value, handle, indent=2, sort_keys=True)
        handle.write("\n")
    os.replace(beside, path)


class Daemon:
    """One lab, from its first process to its last.

    :param settings: what ``lab.py`` wrote: ``drill_dir``, ``run``, ``redis_server``, ``python``, ``hosts``, ``owner_pid``,
        ``owner_started`` and ``ready_limit`` (seconds).
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.drill_dir: str = settings["drill_dir"]
        self.run: str = settings["run"]
        self.named: dict[str, subprocess.Popen[bytes]] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._asked_to_stop = False

    def say(self, text: str) -> None:
        """Write a line to ``lab/lab.log``, which is this process's standard error."""
        sys.stderr.write("%s %s\n" % (time.strftime("%H:%M:%S"), text))
        sys.stderr.flush()

    def main(self) -> int:
        """Start everything, watch, stop everything. Returns the exit code."""
        become_subreaper()
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        code = 1
        try:
            if self._start():
                self._publish("up")
                code = 0
                self._watch()
        finally:
            self._end()
            self._publish("down")
        return code

    def _stop(self, number: int, frame: object) -> None:
        self._asked_to_stop = True

    def _spawn(self, name: str, argv: list[str], on_parent_death: int, cwd: str) -> None:
        # Each in a session of its own, so that no signal meant for one reaches another.
        launcher = [self.settings["python"], "-m", "queueops_lab.launch", str(int(on_parent_death)), str(os.getpid()), cwd]
        with open(os.path.join(self.drill_dir, "lab", name + ".log"), "ab") as log:
            self.named[name] = subprocess.Popen(launcher + argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def _start(self) -> bool:
        python: str = self.settings["python"]
        redis_socket = os.path.join(self.run, "redis.sock")
        redis = [self.settings["redis_server"], "--port", "0", "--unixsocket", redis_socket, "--unixsocketperm", "700"]
        redis += ["--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--dir", self.run, "--daemonize", "no"]
        self._spawn("redis", redis, signal.SIGKILL, self.run)
        sockets = [redis_socket]
        for host in self.settings["hosts"]:
            argv = [python, "-m", "supervisor.supervisord", "--nodaemon", "--configuration", host["conf"]]
            self._spawn("supervisord-" + host["name"], argv, signal.SIGTERM, host["root"])
            sockets.append(host["socket"])
        self._spawn("load", [python, "-m", "queueops_lab.load", self.settings["path"]], signal.SIGKILL, os.path.join(self.drill_dir, "lab"))
        end = time.monotonic() + float(self.settings["ready_limit"])
        while not self._asked_to_stop:
            dead = [name for name, process in self.named.items() if process.poll() is not None]
            if dead:
                log = os.path.join(self.drill_dir, "lab", dead[0] + ".log")
                self.say("ended before the lab was ready: %s; see %s" % (", ".join(dead), log))
                return False
            silent = [path for path in sockets if not answers(path)]
            if not silent:
                return True
            if time.monotonic() > end or not self._owner_lives():
                self.say("not ready in time: %s" % ", ".join(silent))
                return False
            time.sleep(0.03)
        return False

    def _publish(self, state: str) -> None:
        write_json(
            os.path.join(self.drill_dir, "lab.json"),
            {
                "state": state,
                "pid": os.getpid(),
                "pid_started": started_at(os.getpid()),
                "owner_pid": self.settings["owner_pid"],
                "owner_started": self.settings["owner_started"],
                "drill_dir": self.drill_dir,
                "run": self.run,
                "redis_url": "unix://%s?db=0" % os.path.join(self.run, "redis.sock"),
                "hosts": {host["name"]: {"root": host["root"], "server": "unix://" + host["socket"]} for host in self.settings["hosts"]},
            },
        )

    def _owner_lives(self) -> bool:
        owner = int(self.settings["owner_pid"])
        return not owner or started_at(owner) == int(self.settings["owner_started"])

    def _watch(self) -> None:
        """Return when told to stop or when the owner is gone."""
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        owner = int(self.settings["owner_pid"])
        handle = -1
        if owner and hasattr(os, "pidfd_open"):
            try:
                handle = os.pidfd_open(owner)
                poller.register(handle, select.POLLIN)
            except OSError:
                handle = -1
        lost: set[str] = set()
        while not self._asked_to_stop:
            # The kernel says at once that the owner ended; the time-out is for kernels and Pythons that cannot.
            for ready, _events in poller.poll(500):
                if ready == self._wake_read:
                    os.read(self._wake_read, 4096)
            if not self._owner_lives():
                self.say("the owner (pid %d) is gone" % owner)
                return
            for name, process in self.named.items():
                if name not in lost and process.poll() is not None:
                    lost.add(name)
                    self.say("%s ended by itself with code %s" % (name, process.returncode))
            self._reap()

    def _reap(self) -> None:
        """Collect orphans that ended: as subreaper this process is their parent. The named ones belong to their Popen."""
        mine = {process.pid for process in self.named.values()}
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None or ended.si_pid in mine:
                return
            os.waitpid(ended.si_pid, os.WNOHANG)

    def _end(self) -> None:
        """TERM to all but Redis, which lets workers sign off; then KILL to whatever is left, again and again until none is."""
        redis = self.named.get("redis")
        redis_pid = redis.pid if redis else 0
        limit = 1.5 if self._owner_lives() else 0.7
        send(descendants(os.getpid()) - {redis_pid}, signal.SIGTERM)
        end = time.monotonic() + limit
        while time.monotonic() < end and descendants(os.getpid()) - {redis_pid}:
            self._collect()
            time.sleep(0.02)
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            left = descendants(os.getpid())
            if not left:
                break
            send(left, signal.SIGKILL)
            self._collect()
            time.sleep(0.01)
        for name in os.listdir(self.run):
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.run, name))
        if self.settings["run_is_temporary"]:
            with contextlib.suppress(OSError):
                os.rmdir(self.run)

    def _collect(self) -> None:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def answers(path: str) -> bool:
    """Whether a server accepts connections on this unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        try:
            client.connect(path)
        except OSError:
            return False
    return True


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as source:
        SETTINGS = json.load(source)
    if MARK not in os.environ:
        raise SystemExit("the lab's daemon is started by drill_lab, which marks its processes")
    raise SystemExit(Daemon(SETTINGS).main())
