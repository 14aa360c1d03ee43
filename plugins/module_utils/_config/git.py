# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs git's plumbing commands on one bare repository, apart from the host's and the user's git settings."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager, suppress
from typing import IO, Any, Generator, Iterable, Iterator, Sequence

from .._errors import MissingLibrary, Refused, Unavailable

#: The object that stands for "must not exist yet" in update-ref.
ZERO = "0" * 40


#: Objects must be on the disk before the ref that needs them moves; git before 2.36 knows another name for that.
_CONFIG = ("core.fsync=all", "core.fsyncObjectFiles=true", "core.hooksPath=/dev/null", "core.protectHFS=false", "core.protectNTFS=false")
SETTINGS = [part for setting in (*_CONFIG, "gc.auto=0", "pack.compression=1") for part in ("-c", setting)]


#: The sum that names git's objects in this repository.
OBJECT_FORMAT = "sha1"


def object_sum(kind: str, size: int) -> Any:
    """The sum over an object's content, begun: give it the content, and it is the object's id."""
    return hashlib.new(OBJECT_FORMAT, f"{kind} {size}\0".encode("ascii"))


def blob_id(content: bytes) -> str:
    """The id that git gives to this content."""
    summed = object_sum("blob", len(content))
    summed.update(content)
    return str(summed.hexdigest())


#: Variables that would lead git to another repository.
_ELSEWHERE = {
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_COMMON_DIR",
    "GIT_SHALLOW_FILE",
    "GIT_GRAFT_FILE",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
}


class GitFailed(Unavailable):
    """A git command ended with an error; the message has its own words."""


class Git:
    """A thin runner.

    :param repo_dir: the bare repository.
    """

    IDENTITY = "queueops.fleet <queueops.fleet@localhost>"

    def __init__(self, repo_dir: str) -> None:
        self.repo_dir = repo_dir
        #: Descriptors that each git process inherits: a lock on one of them outlives a killed parent until git ends.
        self.inherited: tuple[int, ...] = ()
        self._program: str | None = None
        self._imported = ""
        self._reader: subprocess.Popen[bytes] | None = None

    def check(self) -> None:
        """Find git.

        :raises MissingLibrary: there is no git on PATH.
        """
        if self._program is not None:
            return
        program = shutil.which("git", path=os.environ.get("PATH", os.defpath))
        if program is None:
            raise MissingLibrary(
                "The program git is not on this host; the config history is kept in it",
                next_step="Install the package git on the host",
            )
        self._program = program

    def run(self, *args: str, stdin: bytes = b"") -> bytes:
        """Run one command and return what it printed.

        :raises GitFailed: it did not exit 0.
        """
        process = self._popen(args)
        out, err = process.communicate(stdin)
        if process.returncode != 0:
            raise GitFailed(
                f"git {args[0]} failed in {self.repo_dir}: {_words(err)}",
                next_step=f"Look at the history with `git --git-dir {self.repo_dir} fsck`",
            )
        return out

    def line(self, *args: str, stdin: bytes = b"") -> str:
        """Like :meth:`run`, for a command that prints one line."""
        return self.run(*args, stdin=stdin).decode("ascii").strip()

    def push(self, url: str, refspec: str, seconds: float) -> None:
        """Push, with the settings, keys and credential helpers that git has on this host for this user.

        :raises GitFailed: it did not work, or was not done in ``seconds``.
        """
        self.check()
        env = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
        env.update(LC_ALL="C", GIT_TERMINAL_PROMPT="0", GIT_DIR=self.repo_dir)
        # A session of its own: nobody can be asked for a password, and its helpers end with it.
        process = subprocess.Popen(
            [self._program or "git", "-c", "core.hooksPath=/dev/null", "push", "--quiet", "--", url, refspec],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=env,
            cwd="/",
            start_new_session=True,
        )
        try:
            _out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise GitFailed(f"git push did not end within {seconds:.0f} s") from None
        if process.returncode != 0:
            raise GitFailed(_words(err) or f"git push ended with {process.returncode}")

    def missing(self, blobs: Sequence[str]) -> list[str]:
        """Which of these objects the repository does not have."""
        if not blobs:
            return []
        said = self.run("cat-file", "--batch-check=%(objectname)", stdin="".join(f"{blob}\n" for blob in blobs).encode("ascii"))
        return [line.split()[0] for line in said.decode("ascii").splitlines() if line.endswith(" missing")]

    @contextmanager
    def importing(self) -> Iterator[IO[bytes]]:
        """What is written here goes to ``git fast-import``: one durable pack however many files. :meth:`imported` tells the answer.

        :raises GitFailed: it did not take it. Without ``done`` at the end nothing counts.
        """
        # No deltas: finding them costs more than it saves, and --force: the ref that it writes to is nobody's.
        process = self._popen(["fast-import", "--quiet", "--force", "--depth=0"])
        stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
        if stdin is None or stdout is None or stderr is None:
            raise GitFailed("git fast-import has no pipes")
        try:
            yield stdin
            stdin.close()
            self._imported = stdout.read().decode("ascii").strip()
        except BrokenPipeError:
            pass  # it has ended, and says why
        finally:
            with suppress(OSError):
                stdin.close()
            said = stderr.read()
            stdout.close()
            stderr.close()
            process.wait()
        if process.returncode != 0:
            raise GitFailed(f"git fast-import failed in {self.repo_dir}: {_words(said)}", next_step="See to space and permissions there")

    def imported(self) -> str:
        """The id that the last import answered with."""
        return self._imported

    def objects(self, names: Iterable[str]) -> Generator[tuple[str, bytes], None, None]:
        """Type and content of each object, in order, one in memory at a time.

        :raises Refused: one is missing or cannot be read.
        """
        with self._batch() as process:
            for name in names:
                yield self._answer(process, name)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within this, :meth:`object` asks one and the same process."""
        with self._batch() as process:
            self._reader = process
            try:
                yield
            finally:
                self._reader = None

    @contextmanager
    def _batch(self) -> Iterator[subprocess.Popen[bytes]]:
        process = self._popen(["cat-file", "--batch"])
        try:
            yield process
        finally:
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with suppress(OSError):  # git is gone already; what it said was raised above
                        stream.close()
            process.wait()

    def object(self, name: str) -> bytes:
        """The content of one object."""
        if self._reader is not None:
            return self._answer(self._reader, name)[1]
        for _kind, content in self.objects([name]):
            return content
        raise GitFailed(f"git cat-file gave no answer for {name}")

    def _answer(self, process: subprocess.Popen[bytes], name: str) -> tuple[str, bytes]:
        stdin, stdout = process.stdin, process.stdout
        if stdin is None or stdout is None:
            raise GitFailed("git cat-file has no pipes")
        try:
            stdin.write(name.encode("utf-8") + b"\n")
            stdin.flush()
        except OSError:
            raise self._broken(process, name) from None
        header = stdout.readline().split()
        if len(header) != 3:
            raise self._broken(process, name)
        size = int(header[2])
        content = _read(stdout, size + 1)
        if len(content) != size + 1:
            raise self._broken(process, name)
        return header[1].decode("ascii"), content[:-1]

    def _broken(self, process: subprocess.Popen[bytes], name: str) -> Refused:
        if process.stdin is not None:
            with suppress(OSError):  # the point is to let git end
                process.stdin.close()
        said = process.stderr.read() if process.stderr is not None else b""
        return Refused(
            f"The object {name} of the config history {self.repo_dir} is missing or damaged: {_words(said) or 'git does not have it'}",
            next_step=f"See what is damaged with `git --git-dir {self.repo_dir} fsck`; other snapshots can still be used",
        )

    def _popen(self, args: Sequence[str]) -> subprocess.Popen[bytes]:
        self.check()
        if self._program is None:
            raise GitFailed("git was not found")
        return subprocess.Popen(
            [self._program, *SETTINGS, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment(),
            cwd="/",
            pass_fds=self.inherited,
        )

    def _environment(self) -> dict[str, str]:
        # Built from nothing: no variable, no system, user or home setting of the host may change what is recorded.
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "TZ": "UTC",
            "HOME": "/nonexistent",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_CEILING_DIRECTORIES": "/",
            "GIT_DEFAULT_HASH": OBJECT_FORMAT,
        }
        if os.path.isdir(self.repo_dir):
            env["GIT_DIR"] = self.repo_dir
        return env


def _read(stream: IO[bytes], size: int) -> bytes:
    chunks = []
    while size > 0:
        chunk = stream.read(size)
        if not chunk:
            break
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


#: What git says beside the point.
_NOISE = ("warning:", "hint:", "fast-import: dumping crash report")


def _words(stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip() and not line.startswith(_NOISE)]
    return " ".join(line[7:] if line.startswith("fatal: ") else line for line in lines).strip().rstrip(".")
