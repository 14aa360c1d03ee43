# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kills a process before a chosen one of its file-system calls."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

# What may come between two states of a disk. os.write and the like have no audit event and are wrapped instead.
EVENTS = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.chown",
    "os.symlink",
    "os.link",
    "os.setxattr",
    "os.removexattr",
    "shutil.rmtree",
    "subprocess.Popen",
}
WRAPPED = ("write", "fsync")


def is_disk_call(event: str, _args: tuple[Any, ...]) -> bool:
    return event in EVENTS or event in WRAPPED


def killed_at(number: int, work: Callable[[], object], counts: Callable[[str, tuple[Any, ...]], bool] = is_disk_call) -> bool:
    """Run ``work`` in a forked process that dies by SIGKILL before the call ``number`` that counts; return whether it came so far."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def step(event: str, args: tuple[Any, ...]) -> None:
            nonlocal count
            if not counts(event, args):
                return
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

        def wrap(name: str) -> None:
            original = getattr(os, name)

            def wrapped(*args: Any) -> Any:
                step(name, args)
                return original(*args)

            setattr(os, name, wrapped)

        # Whatever happens, the child must not go on as a second pytest.
        ended = 3
        try:
            for name in WRAPPED:
                wrap(name)
            sys.addaudithook(step)
            work()
            ended = 0
        finally:
            os._exit(ended)
    _pid, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False
