# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs git's plumbing commands on one bare repository, apart from the host's and the user's git settings."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from contextlib import suppress
from typing import IO, Generator, Iterable, Sequence

from .._errors import MissingLibrary, Refused, Unavailable

#: The object that stands for "must not exist yet" in update-ref.
ZERO = "0" * 40


class GitFailed(Unavailable):
    """A git command ended with an error; the message has its own words."""


class Git:
    """A thin runner.

    :param repo_dir: the bare repository. It need not exist for :meth:`hash_files` and :meth:`hash_bytes` without ``write``.
    """

    def __init__(self, repo_dir: str) -> None:
        self.repo_dir = repo_dir
        #: Descriptors that each git process inherits: a lock on one of them outlives a killed parent until git ends.
        self.inherited: tuple[int, ...] = ()
        self._program: str | None = None
        self._settings: list[str] = []

    def check(self) -> None:
        """Find git and learn what it can do.

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
        version = subprocess.run([program, "version"], capture_output=True, env=self._environment(), check=False)
        found = re.search(rb"(\d+)\.(\d+)", version.stdout)
        if version.returncode != 0 or found is None:
            raise MissingLibrary(f"{program} does not run: {_words(version.stderr)}", next_step="Reinstall the package git on the host")
        # Objects must be on the disk before the ref that needs them moves; git before 2.36 knows another name for it.
        durable = "core.fsync=all" if (int(found.group(1)), int(found.group(2))) >= (2, 36) else "core.fsyncObjectFiles=true"
        settings = [durable, "core.hooksPath=/dev/null", "core.protectHFS=false", "core.protectNTFS=false", "gc.auto=0"]
        self._settings = [part for setting in settings for part in ("-c", setting)]
        self._program = program

    def run(self, *args: str, stdin: bytes = b"", index: str | None = None, when: str | None = None) -> bytes:
        """Run one command and return what it printed.

        :param index: path of a temporary index file.
        :param when: date of a commit to write, in git's ``@<unix> +0000`` form.
        :raises GitFailed: it did not exit 0.
        """
        extra = {}
        if index is not None:
            extra["GIT_INDEX_FILE"] = index
        if when is not None:
            extra.update(GIT_AUTHOR_DATE=when, GIT_COMMITTER_DATE=when)
        process = self._popen(args, extra)
        out, err = process.communicate(stdin)
        if process.returncode != 0:
            raise GitFailed(
                f"git {args[0]} failed in {self.repo_dir}: {_words(err)}",
                next_step=f"Look at the history with `git --git-dir {self.repo_dir} fsck`",
            )
        return out

    def line(self, *args: str, stdin: bytes = b"", index: str | None = None, when: str | None = None) -> str:
        """Like :meth:`run`, for a command that prints one line."""
        return self.run(*args, stdin=stdin, index=index, when=when).decode("ascii").strip()

    def hash_files(self, paths: Sequence[bytes], write: bool) -> list[str]:
        """The blob ids of files, in order, all in one process. ``write``: also put them into the repository."""
        if not paths:
            return []
        args = ["hash-object", "--no-filters", "--stdin-paths"] + (["-w"] if write else [])
        ids = self.run(*args, stdin=b"".join(_quoted(path) + b"\n" for path in paths)).decode("ascii").split()
        if len(ids) != len(paths):
            raise GitFailed(f"git hash-object answered for {len(ids)} of {len(paths)} files in {self.repo_dir}")
        return ids

    def hash_bytes(self, content: bytes, write: bool) -> str:
        """The blob id of some content. ``write``: also put it into the repository."""
        return self.line("hash-object", "--no-filters", "--stdin", *(["-w"] if write else []), stdin=content)

    def objects(self, names: Iterable[str]) -> Generator[tuple[str, bytes], None, None]:
        """Type and content of each object, in order, one in memory at a time.

        :raises Refused: one is missing or cannot be read.
        """
        process = self._popen(["cat-file", "--batch"], {})
        try:
            for name in names:
                yield self._answer(process, name)
        finally:
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    with suppress(OSError):  # git is gone already; what it said was raised above
                        stream.close()
            process.wait()

    def object(self, name: str) -> bytes:
        """The content of one object."""
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

    def _popen(self, args: Sequence[str], extra: dict[str, str]) -> subprocess.Popen[bytes]:
        self.check()
        if self._program is None:
            raise GitFailed("git was not found")
        return subprocess.Popen(
            [self._program, *self._settings, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(self._environment(), **extra),
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
            "GIT_DEFAULT_HASH": "sha1",
            "GIT_AUTHOR_NAME": "queueops.fleet",
            "GIT_AUTHOR_EMAIL": "queueops.fleet@localhost",
            "GIT_COMMITTER_NAME": "queueops.fleet",
            "GIT_COMMITTER_EMAIL": "queueops.fleet@localhost",
        }
        if os.path.isdir(self.repo_dir):
            env["GIT_DIR"] = self.repo_dir
        return env


def _quoted(path: bytes) -> bytes:
    # `--stdin-paths` takes one path a line and undoes C-style quotes: that is how a newline in a name gets through.
    quoted = bytearray(b'"')
    for byte in path:
        if byte < 0x20 or byte >= 0x7F or byte in b'"\\':
            quoted += b"\\%03o" % byte
        else:
            quoted.append(byte)
    return bytes(quoted + b'"')


def _read(stream: IO[bytes], size: int) -> bytes:
    chunks = []
    while size > 0:
        chunk = stream.read(size)
        if not chunk:
            break
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def _words(stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip() and not line.startswith(("warning:", "hint:"))]
    return " ".join(line[7:] if line.startswith("fatal: ") else line for line in lines).strip().rstrip(".")
