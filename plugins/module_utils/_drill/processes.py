# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The laboratory's processes: found by the mark in their environment and by descent, and ended for certain.

Reads Linux's ``/proc``; imports nothing but the standard library, because the lab's daemon runs it from a copied file.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time

#: Each process of a lab carries this variable; its value is the lab's folder.
MARK = "QUEUEOPS_DRILL"

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """From now on orphaned descendants become children of this process, so that none is out of its reach (prctl(2))."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(number: int) -> None:
    """Ask the kernel to send this process ``number`` when its parent dies (prctl(2)). Holds over an exec."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def started_at(pid: int) -> int:
    """When ``pid`` began, in clock ticks since boot; 0 when there is no such process or it is a zombie. With the pid: an identity."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as handle:
            # The second field, the name, may contain anything; the fields after its closing bracket may not.
            fields = handle.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def parents() -> dict[int, int]:
    """All processes that are not zombies: pid to parent's pid."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name, "rb") as handle:
                    fields = handle.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] not in (b"Z", b"X"):
                found[int(name)] = int(fields[1])
    return found


def descendants(root: int) -> set[int]:
    """All descendants of ``root``, without itself."""
    tree = parents()
    found: set[int] = set()
    grown = True
    while grown:
        more = {pid for pid, parent in tree.items() if (parent == root or parent in found) and pid not in found}
        grown = bool(more)
        found |= more
    return found


def lineage(pid: int) -> list[int]:
    """``pid``, its parent, and so on up to the first process."""
    tree = parents()
    line = []
    while pid in tree and pid not in line:
        line.append(pid)
        pid = tree[pid]
    return line


def marked(value: str) -> set[int]:
    """The processes of this user that carry the mark with ``value``, without this process and those above it."""
    wanted = ("%s=%s" % (MARK, value)).encode()
    mine = set(lineage(os.getpid()))
    found = set()
    for pid in parents():
        if pid in mine:
            continue
        try:
            with open("/proc/%d/environ" % pid, "rb") as handle:
                if wanted in handle.read().split(b"\0"):
                    found.add(pid)
        except OSError:
            continue
    return found


def send(pids: set[int], number: int) -> None:
    """Send a signal to each of ``pids`` that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end_marked(value: str, limit: float = 5.0) -> int:
    """Kill what carries the mark until nothing does; return how many were killed. Gives up, leaving some, after ``limit`` seconds."""
    killed: set[int] = set()
    end = time.monotonic() + limit
    while time.monotonic() < end:
        left = marked(value)
        if not left:
            break
        killed |= left
        send(left, signal.SIGKILL)
        time.sleep(0.02)
    return len(killed)


def ansible_owner(pid: int) -> int:
    """The process that a lab belongs to: the nearest ansible program above ``pid`` (not a fork of it), or 0 when there is none."""
    owner = 0
    for candidate in lineage(pid):
        try:
            with open("/proc/%d/cmdline" % candidate, "rb") as handle:
                words = handle.read().split(b"\0")
        except OSError:
            words = []
        # The program itself or what its interpreter runs; never a shell that has the name somewhere in a command line.
        if any(os.path.basename(word) in (b"ansible-playbook", b"ansible") for word in words[:2]):
            owner = candidate
        elif owner:
            break
    return owner
