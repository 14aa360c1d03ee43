# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Follows a piece of work, and every process that it starts, operation by operation; kills all of them after one that is named.

The kernel stops a process of the work at each system call that changes a file system or talks to a service (a seccomp filter and
ptrace). So git's operations count like Python's, and the SIGKILL comes when the operation is done and before the next instruction.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

#: System call -> its numbers on x86_64 and on aarch64; -1 where there is none. Source: the kernel's unistd.h of each.
CALLS = {
    "open": (2, -1),
    "openat": (257, 56),
    "creat": (85, -1),
    "write": (1, 64),
    "pwrite64": (18, 68),
    "writev": (20, 66),
    "pwritev": (296, 70),
    "sendfile": (40, 71),
    "copy_file_range": (326, 285),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "rename": (82, -1),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, -1),
    "linkat": (265, 37),
    "symlink": (88, -1),
    "symlinkat": (266, 36),
    "unlink": (87, -1),
    "unlinkat": (263, 35),
    "mkdir": (83, -1),
    "mkdirat": (258, 34),
    "rmdir": (84, -1),
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "chown": (92, -1),
    "lchown": (94, -1),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utimensat": (280, 88),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "syncfs": (306, 267),
    "sync": (162, 81),
    "connect": (42, 203),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "execve": (59, 221),
}
_COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()]
_NAMES = {numbers[_COLUMN]: name for name, numbers in CALLS.items() if numbers[_COLUMN] >= 0}

#: Where a call's path is: the argument with the folder's descriptor (None: the working folder), and the one with the path.
_HERE, _AT = (None, 0), (0, 1)
_PLACES: dict[str, tuple[int | None, int]] = {
    **dict.fromkeys(("open", "creat", "truncate", "unlink", "mkdir", "rmdir", "chmod", "chown", "lchown"), _HERE),
    **dict.fromkeys(("setxattr", "lsetxattr", "removexattr", "lremovexattr"), _HERE),
    **dict.fromkeys(("openat", "unlinkat", "mkdirat", "fchmodat", "fchownat", "utimensat"), _AT),
    "symlink": (None, 1),
    "symlinkat": (1, 2),
    **dict.fromkeys(("rename", "link"), (None, 1)),
    **dict.fromkeys(("renameat", "renameat2", "linkat"), (2, 3)),
}
_SOURCES: dict[str, tuple[int | None, int]] = {
    **dict.fromkeys(("rename", "link"), _HERE),
    **dict.fromkeys(("renameat", "renameat2", "linkat"), _AT),
}
_SYNCS = ("fsync", "fdatasync")
_ON_DESCRIPTORS = (
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "ftruncate",
    "fallocate",
    "fchmod",
    "fchown",
    "fsetxattr",
    "fremovexattr",
    "sendfile",
)
_DATA = ("write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate", "sendfile", "copy_file_range", "truncate")
_SERVICE = ("connect", "sendto", "sendmsg", "execve")

_TRACEME, _CONT, _SYSCALL, _SETOPTIONS, _GETEVENTMSG, _GET_SYSCALL_INFO = 0, 7, 24, 0x4200, 0x4201, 0x420E
_SYSGOOD, _FORK, _VFORK, _CLONE, _EXEC, _SECCOMP, _EXITKILL = 1, 2, 4, 8, 16, 128, 1 << 20
_EVENT_SECCOMP, _EVENT_EXEC = 7, 4
_WALL = 0x40000000
_AT_FDCWD, _AT_REMOVEDIR = -100, 0x200

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


@dataclass(frozen=True)
class Operation:
    """One change of the file system, one sync, or one word to a service, that succeeded.

    :ivar kind: ``create``, ``data``, ``rename``, ``link``, ``symlink``, ``unlink``, ``mkdir``, ``rmdir``, ``mode`` (also owner and
        attributes), ``fsync``, ``sync`` (the whole file system) or ``service``.
    :ivar path: absolute path; of a rename, link or symbolic link the one that came into being.
    :ivar source: where it was renamed or linked from; a symbolic link's target.
    :ivar content: the whole of the file after a ``data`` operation, if it was recorded.
    :ivar mode: permission bits of what was created or changed.
    """

    kind: str
    path: str
    source: str = ""
    content: bytes = b""
    mode: int = 0


@dataclass
class Followed:
    """How a piece of work went.

    :ivar operations: those below the root and to services, in order.
    :ivar killed: whether it came as far as the operation to be killed after.
    :ivar error: the traceback, if the work raised.
    """

    operations: list[Operation] = field(default_factory=list)
    killed: bool = False
    error: str = ""


def follow(work: Callable[[], object], root: str, kill_after: int | None = None, contents: bool = False) -> Followed:
    """Run ``work`` in a process of its own; with ``kill_after`` SIGKILL it and all its children after that many operations.

    :param root: only file operations below it count.
    :param contents: record what files hold after each change of their data.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        # Waits for any child, so it has to be a process that has no others.
        with _Ending(2):
            os.close(reader)
            followed = _Follower(os.path.realpath(root), kill_after, contents).run(work)
            with os.fdopen(writer, "wb") as stream:
                stream.write(_to_json(followed))
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        answer = stream.read()
    _pid, status = os.waitpid(pid, 0)
    if status or not answer:
        raise RuntimeError(f"following the work failed: status {status}")
    return _from_json(answer)


def _to_json(followed: Followed) -> bytes:
    rows = [(one.kind, one.path, one.source, one.content.decode("latin-1"), one.mode) for one in followed.operations]
    return json.dumps([rows, followed.killed, followed.error]).encode()


def _from_json(answer: bytes) -> Followed:
    rows, killed, error = json.loads(answer)
    operations = [Operation(kind, path, source, content.encode("latin-1"), mode) for kind, path, source, content, mode in rows]
    return Followed(operations, killed, error)


class _Follower:
    def __init__(self, root: str, kill_after: int | None, contents: bool) -> None:
        self._root = root
        self._kill_after = kill_after
        self._contents = contents
        self._found = Followed()
        self._alive: set[int] = set()
        self._entered: dict[int, Operation] = {}

    def run(self, work: Callable[[], object]) -> Followed:
        reader, writer = os.pipe()
        main = os.fork()
        if main == 0:
            os.close(reader)
            _be_followed(work, writer)
        os.close(writer)
        os.waitpid(main, _WALL)
        options = _SYSGOOD | _FORK | _VFORK | _CLONE | _EXEC | _SECCOMP | _EXITKILL
        _ptrace(_SETOPTIONS, main, options)
        self._alive = {main}
        _ptrace(_CONT, main, 0)
        while main in self._alive:
            pid, status = os.waitpid(-1, _WALL)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                self._alive.discard(pid)
            else:
                self._stopped(pid, status)
        self._kill_all()
        with os.fdopen(reader, "rb") as stream:
            self._found.error = stream.read().decode()
        return self._found

    def _stopped(self, pid: int, status: int) -> None:
        """Decide what becomes of a process that stopped, and let it go on."""
        event, number = status >> 16, os.WSTOPSIG(status)
        known = pid in self._alive
        self._alive.add(pid)
        if event == _EVENT_SECCOMP:
            operation = self._entering(pid)
            if operation is not None:
                self._entered[pid] = operation
                _ptrace(_SYSCALL, pid, 0)
                return
        elif number == signal.SIGTRAP | 0x80:
            self._left(pid)
        elif not event and known and number != signal.SIGTRAP:
            _ptrace(_CONT, pid, number)
            return
        # Of a new process the kernel reports one stop of its own.
        _ptrace(_CONT, pid, 0)

    def _entering(self, pid: int) -> Operation | None:
        """The operation that the process is about to ask for; None if it does not count."""
        _op, number, *arguments = _call_info(pid)
        name = _NAMES[number]
        if name in _SERVICE:
            return Operation("service", name)
        if name == "sync":
            return Operation("sync", self._root)
        if name in ("syncfs", "copy_file_range", *_SYNCS, *_ON_DESCRIPTORS):
            path = _opened(pid, arguments[2] if name == "copy_file_range" else arguments[0])
            if not self._below(path):
                return None
            kind = "sync" if name == "syncfs" else "fsync" if name in _SYNCS else "data" if name in _DATA else "mode"
            return Operation(kind, path)
        return self._of_paths(pid, name, arguments)

    def _of_paths(self, pid: int, name: str, arguments: list[int]) -> Operation | None:
        path = _place(pid, arguments, _PLACES[name])
        if not self._below(path):
            return None
        if name in ("open", "openat", "creat"):
            flags = os.O_CREAT | os.O_TRUNC if name == "creat" else arguments[_PLACES[name][1] + 1]
            return _of_opening(path, flags)
        if name == "unlinkat":
            return Operation("rmdir" if arguments[2] & _AT_REMOVEDIR else "unlink", path)
        if name.startswith("symlink"):
            return Operation("symlink", path, _text(pid, arguments[0]))
        if name in _SOURCES:
            return Operation(name[: len("link" if name.startswith("link") else "rename")], path, _place(pid, arguments, _SOURCES[name]))
        kind = next((kind for kind in ("unlink", "mkdir", "rmdir") if name.startswith(kind)), "data" if name in _DATA else "mode")
        return Operation(kind, path)

    def _left(self, pid: int) -> None:
        """Count the operation that the process has just done, and end everything if it was the one."""
        operation = self._entered.pop(pid, None)
        _op, result, *_rest = _call_info(pid)
        if operation is None or ctypes.c_int64(result).value < 0:
            return
        if self._contents:
            operation = _recorded(operation)
        self._found.operations.append(operation)
        if len(self._found.operations) == self._kill_after:
            self._found.killed = True
            self._kill_all()

    def _kill_all(self) -> None:
        for pid in self._alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self._alive:
            try:
                pid, status = os.waitpid(-1, _WALL)
            except ChildProcessError:
                break
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                self._alive.discard(pid)
            else:
                # One that was being started when the others were killed.
                self._alive.add(pid)
                os.kill(pid, signal.SIGKILL)
        self._alive.clear()

    def _below(self, path: str) -> bool:
        return path.startswith(self._root + "/") and not path.endswith(" (deleted)")


def _of_opening(path: str, flags: int) -> Operation | None:
    """What opening a file changes: it comes into being, or loses its content; None where neither."""
    if flags & os.O_TMPFILE == os.O_TMPFILE:
        return None
    if flags & os.O_CREAT and not os.path.lexists(path):
        return Operation("create", path)
    return Operation("data", path) if flags & os.O_TRUNC else None


def _place(pid: int, arguments: list[int], where: tuple[int | None, int]) -> str:
    """The absolute path in a call's arguments; without one its descriptor is meant."""
    folder, text = where
    if not arguments[text] and folder is not None:
        return _opened(pid, arguments[folder])
    return _path(pid, _AT_FDCWD if folder is None else arguments[folder], arguments[text])


def _recorded(operation: Operation) -> Operation:
    """The operation with what its file is like after it."""
    content = b""
    mode = 0
    if operation.kind == "data":
        with open(operation.path, "rb") as stream:
            content = stream.read()
    if operation.kind in ("create", "mkdir", "mode"):
        mode = os.lstat(operation.path).st_mode & 0o7777
    return Operation(operation.kind, operation.path, operation.source, content, mode)


def _be_followed(work: Callable[[], object], complaints: int) -> None:
    """In the process to be followed: let the parent trace it, install the filter, work, and end."""
    with _Ending(complaints):
        _ptrace(_TRACEME, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        _install_filter()
        work()


class _Ending:
    """Ends a forked process with what is done in it, whatever that raises: it must not go on as a second pytest.

    :param complaints: the descriptor that a traceback is written to.
    """

    def __init__(self, complaints: int) -> None:
        self._complaints = complaints

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, problem: BaseException | None, where: object) -> NoReturn:
        if problem is not None:
            os.write(self._complaints, "".join(traceback.format_exception(problem)).encode())
        sys.stdout.flush()
        os._exit(3 if problem else 0)


def _install_filter() -> None:
    """Stop at the calls of :data:`CALLS`, and at no others."""
    load, jump_equal, give_back = 0x20, 0x15, 0x06
    allow, trace = 0x7FFF0000, 0x7FF00000
    numbers = sorted(_NAMES)
    code = [(load, 0, 0, 0)]
    code += [(jump_equal, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    code += [(give_back, 0, 0, allow), (give_back, 0, 0, trace)]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code), ctypes.addressof(packed)))
    no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    if _libc.prctl(no_new_privileges, 1, 0, 0, 0) or _libc.prctl(set_seccomp, filter_mode, program, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel does not take the filter")


def _ptrace(request: int, pid: int, data: Any, address: int = 0) -> int:
    ctypes.set_errno(0)
    result = int(_libc.ptrace(request, pid, address, data))
    problem = ctypes.get_errno()
    # A process that was killed meanwhile is no concern.
    if result < 0 and problem and problem != 3:
        raise OSError(problem, f"ptrace request {request:#x}: {os.strerror(problem)}")
    return result


def _call_info(pid: int) -> list[int]:
    """What the kernel says of the call that a process is stopped at: which stop, then the number or result, then arguments."""
    buffer = ctypes.create_string_buffer(96)
    _ptrace(_GET_SYSCALL_INFO, pid, buffer, len(buffer))
    stop, *words = struct.unpack_from("=B3xIQQ7Q", buffer)
    return [stop, *words[3:]]


def _text(pid: int, address: int) -> str:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        read = b""
        while b"\0" not in read:
            memory.seek(address + len(read))
            # Not over the end of a page: the next one may not be there.
            read += memory.read(4096 - (address + len(read)) % 4096)
    return os.fsdecode(read[: read.index(b"\0")])


def _path(pid: int, folder: int, address: int) -> str:
    """The absolute path of a call's argument, its folder part resolved."""
    given = _text(pid, address)
    base = os.readlink(f"/proc/{pid}/cwd") if ctypes.c_int32(folder).value == _AT_FDCWD else _opened(pid, folder)
    head, tail = os.path.split(os.path.normpath(os.path.join(base, given)))
    return os.path.join(os.path.realpath(head), tail)


def _opened(pid: int, descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{ctypes.c_int32(descriptor).value}")
    except FileNotFoundError:
        return ""
