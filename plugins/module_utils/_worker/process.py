# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a process itself shows under /proc: when it started, which version it runs, its children; and its end, with all of those."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from typing import Any

#: The variable in which a worker may be told its version; the last resort, as it is a claim and not what runs.
VERSION_VARIABLE = "QUEUEOPS_VERSION"


def started_at(pid: int) -> float | None:
    """When the process started, seconds since 1970; None when it is gone."""
    fields = _stat(pid)
    return None if fields is None else round(_start(fields), 1)


def is_there(pid: int | None, since: float | None) -> bool:
    """Whether the process with this number is the one that started then, and runs; False also where that cannot be told."""
    fields = None if pid is None else _stat(pid)
    if fields is None or since is None or fields[0] == b"Z":
        return False
    # The clock is set now and then; but no number is given again within a second.
    return abs(_start(fields) - since) < 1.0


def _stat(pid: int) -> list[bytes] | None:
    """The fields of the process's status from its state on; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            # The second field, the name in brackets, may hold spaces and brackets itself.
            return stat.read().rpartition(b")")[2].split()
    except OSError:
        return None


def _start(fields: list[bytes]) -> float:
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def children(pid: int) -> list[dict[str, Any]]:
    """The direct children, as `pid` and `since`; empty where the kernel does not tell."""
    found: set[int] = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as listed:
                found.update(int(child) for child in listed.read().split())
    except OSError:
        return []
    return [{"pid": child, "since": started_at(child)} for child in sorted(found)]


def tree(pid: int) -> list[int]:
    """The process and all that come from it, as far as their parents live; the process itself comes first."""
    made: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        parent = _parent(name) if name.isdigit() else None
        if parent is not None:
            made.setdefault(parent, []).append(int(name))
    found = [pid]
    for one in found:
        found.extend(made.get(one, []))
    return found


def _parent(pid: str) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return None


def pid_inside(pid: int) -> int:
    """The id that the process has in the innermost namespace, which is its own idea of it."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as status:
            found = re.search(r"^NSpid:.*?(\d+)$", status.read(), re.MULTILINE)
    except OSError:
        return pid
    return int(found.group(1)) if found else pid


def kill_tree(pid: int) -> None:
    """Kill the process and all that come from it. They are stopped first, so that none makes another meanwhile."""
    stopped: set[int] = set()
    while True:
        found = set(tree(pid))
        if found <= stopped:
            break
        for one in found - stopped:
            _send(one, signal.SIGSTOP)
        stopped |= found
    for one in stopped:
        _send(one, signal.SIGKILL)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def sidekiq_busy(pid: int) -> int | None:
    """How many tasks a quieted Sidekiq process says in its title that it executes; None before it has begun, or when it is gone.

    It renews its title every few seconds: before it says there that it is stopping, its count is older than the quiet, and is at
    least 1 here.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as title:
            found = re.search(rb"\[(\d+) of \d+ busy\]( stopping)?", title.read())
    except OSError:
        return None
    if not found:
        return None
    return int(found.group(1)) if found.group(2) else max(1, int(found.group(1)))


def running_version(pid: int, root: str) -> tuple[str | None, str | None]:
    """The version that the process runs, and if that cannot be told the reason.

    Looked for in this order: the executable, the working folder, the arguments (each as a path in
    `<root>/versions/<version>`), the variable :data:`VERSION_VARIABLE`. The `current` link is never followed:
    it tells what would be started now, not what was.
    """
    bases = {os.path.join(root, "versions"), os.path.join(os.path.realpath(root), "versions")}
    try:
        for link in ("exe", "cwd"):
            version = _version_in(os.readlink(f"/proc/{pid}/{link}"), bases)
            if version:
                return version, None
        with open(f"/proc/{pid}/cmdline", "rb") as arguments:
            for argument in arguments.read().split(b"\0"):
                version = _version_in(os.fsdecode(argument), bases)
                if version:
                    return version, None
        with open(f"/proc/{pid}/environ", "rb") as environment:
            for entry in environment.read().split(b"\0"):
                name, _equals, value = entry.partition(b"=")
                if name == VERSION_VARIABLE.encode() and value:
                    return os.fsdecode(value), None
    except PermissionError:
        return None, f"no permission to read /proc/{pid}; run as root or as the worker's user"
    except OSError:
        return None, "the process ended while it was looked at"
    return None, f"neither its executable, its working folder nor its arguments lie in {root}/versions, and it has no {VERSION_VARIABLE}"


def _version_in(path: str, bases: set[str]) -> str | None:
    # The kernel adds this to the path of a file or folder that was removed under the process.
    gone = " (deleted)"
    if path.endswith(gone):
        path = path[: -len(gone)]
    for base in bases:
        if path.startswith(base + "/"):
            return path[len(base) + 1 :].split("/", 1)[0] or None
    return None
