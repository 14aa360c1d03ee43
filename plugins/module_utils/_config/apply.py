# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a set of changes in place, all or none: staged beside their targets, recorded as an intent, renamed, the record removed."""

from __future__ import annotations

import fnmatch
import os
import secrets
import shutil
import stat
import subprocess
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping, Sequence, Union

from .._errors import FleetError, HalfDone, PutBack, Refused, Unavailable
from .._files import read_json, write_json
from .git import Git
from .tree import DIRECTORY, FILE, SYMLINK, Change, Entry, Names, read_some
from .watch import Watch, parts, printable, to_bytes, to_text

#: A command that must exit 0 for each staged file (``%s`` is the staged copy), or such commands by glob of the live path.
Validate = Union[Sequence[str], Mapping[str, Sequence[str]], None]

#: Phases of an intent. Until ``renaming`` nothing live was touched; ``undoing`` goes back to the state before.
STAGING, RENAMING, UNDOING = "staging", "renaming", "undoing"

#: The longest name that file systems take, in bytes.
LONGEST_NAME = 255

VALIDATE_SECONDS = 300


@dataclass(frozen=True)
class Intent:
    """What a change is about to do; durable on disk before the first live file is touched.

    :ivar ident: twelve hexadecimal digits, part of each staged name.
    :ivar phase: ``staging``, ``renaming`` or ``undoing``.
    :ivar snapshot: id of the snapshot that the change leads to.
    :ivar changes: every path that differs, with its entry before and after.
    """

    ident: str
    phase: str
    snapshot: str
    changes: tuple[Change, ...]

    def to_json(self) -> dict[str, Any]:
        rows = [
            {
                "path": change.path,
                "before": change.before.to_json() if change.before else None,
                "after": change.after.to_json() if change.after else None,
            }
            for change in self.changes
        ]
        return {"format": 1, "ident": self.ident, "phase": self.phase, "snapshot": self.snapshot, "changes": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Intent:
        rows = tuple(
            Change(
                row["path"],
                Entry.from_json(row["before"]) if row["before"] else None,
                Entry.from_json(row["after"]) if row["after"] else None,
            )
            for row in data["changes"]
        )
        return cls(data["ident"], data["phase"], data["snapshot"], rows)

    def wanted(self) -> dict[str, Entry | None]:
        """The entries that the phase leads to."""
        return {change.path: change.before if self.phase == UNDOING else change.after for change in self.changes}

    def staged(self, path: str) -> str:
        """Where the new content of a path waits: beside it, under a name that no snapshot records."""
        folder, _slash, name = path.rpartition("/")
        tail = f".queueops-{self.ident}"
        kept = to_bytes(name)[: LONGEST_NAME - len(tail) - 1]
        return f"{folder}/.{to_text(kept)}{tail}"


class Workbench:
    """Carries out one change at a time; the caller holds the history's lock.

    :param folder: where the intent record is kept.
    """

    def __init__(self, git: Git, folder: str) -> None:
        self._git = git
        self._folder = folder
        self._record = os.path.join(folder, "intent.json")

    def load(self) -> Intent | None:
        """The intent of a change that was cut short, if there is one."""
        data = read_json(self._record)
        return None if data is None else Intent.from_json(data)

    def run(self, found: list[Change], snapshot: str, validate: Validate, watch: Watch, done: Callable[[], None]) -> None:
        """Carry out ``found``, all of it or nothing.

        :param done: called when everything is in place, before the intent is forgotten; may be called again after a crash.
        :raises Refused: it cannot be done, or ``validate`` says no; nothing live was touched.
        :raises Unavailable: a live file changed meanwhile; nothing live was touched.
        :raises PutBack: it failed half-way and was undone.
        :raises HalfDone: it failed half-way and could not be undone; the intent stays, the next run tries again.
        """
        names = Names()
        preflight(found, names)
        intent = Intent(secrets.token_hex(6), STAGING, snapshot, tuple(found))
        try:
            self._write(intent)
            steps = _Steps(intent, {change.path: change.before for change in found}, names)
            self._stage(steps)
            _validate(steps, validate, watch)
            now = read_some((change.path for change in found), self._git, names)
            moved = [change.path for change in found if not names.same(change.before, now[change.path])]
            if moved:
                raise Unavailable(f"{printable(moved[0])} changed while the new content was prepared", next_step="Run again")
            intent = replace(intent, phase=RENAMING)
            self._write(intent)
        except OSError as error:
            self._forget_staged(intent)
            raise Refused(
                f"The new content for {printable(to_text(os.fsencode(error.filename)) if error.filename else 'the watched paths')}"
                f" cannot be staged: {error.strerror}",
                next_step="See to space, quota and permissions there",
            ) from error
        except FleetError:
            self._forget_staged(intent)
            raise
        try:
            self._rename(steps)
            done()
        except (OSError, FleetError) as error:
            self._undo(intent, error)
        self._forget()

    def resume(self, intent: Intent, done: Callable[[], None]) -> list[Change]:
        """Finish a change that was cut short, or undo it where its intent says so; return what had to be changed."""
        if intent.phase == STAGING:
            self._forget_staged(intent)
            return []
        try:
            changed = self._carry_on(intent)
            if intent.phase == RENAMING:
                done()
        except (OSError, FleetError) as error:
            if intent.phase == UNDOING:
                raise _half_done(intent, error) from error
            self._undo(intent, error)
        self._forget()
        return changed

    def _undo(self, intent: Intent, error: Exception) -> None:
        """Go back to the state before, and raise what happened."""
        undoing = replace(intent, phase=UNDOING)
        # Without space for the record, a crash from here on is finished forward, and if that fails, undone.
        with suppress(OSError):
            self._write(undoing)
        try:
            self._carry_on(undoing)
            self._forget()
        except (OSError, FleetError) as second:
            raise _half_done(intent, second) from error
        raise PutBack(
            f"Putting the config in place failed: {_say(error)}",
            still_true="The config files are as they were before",
            next_step="Mend the cause and run again",
        ) from error

    def _carry_on(self, intent: Intent) -> list[Change]:
        """Bring every path of the intent to where it is to be, whatever a crash left; idempotent."""
        names = Names()
        self._remove_staged(intent)
        wanted = intent.wanted()
        current = read_some(wanted, self._git, names)
        steps = _Steps(intent, current, names)
        self._stage(steps)
        self._rename(steps)
        return [Change(path, current[path], wanted[path]) for path in wanted if not names.same(current[path], wanted[path])]

    def _stage(self, steps: _Steps) -> None:
        blobs = [(path, entry) for path, entry in steps.staged_entries if entry.kind == FILE]
        contents = self._git.objects(entry.blob for _path, entry in blobs)
        try:
            for path, entry in steps.staged_entries:
                raw = to_bytes(path)
                if entry.kind == DIRECTORY:
                    os.mkdir(raw, 0o700)
                elif entry.kind == SYMLINK:
                    os.symlink(to_bytes(entry.target), raw)
                    _dress(raw, entry, steps.names)
                else:
                    _write_file(raw, next(contents)[1], entry, steps.names)
        finally:
            contents.close()
        written = self._git.hash_files([to_bytes(path) for path, _entry in blobs], write=False)
        for blob, (path, entry) in zip(written, blobs):
            if blob != entry.blob:
                raise Refused(
                    f"The object {entry.blob} for {printable(path)} is damaged in the config history",
                    next_step="Use another snapshot, and see what is damaged with `git fsck`",
                )
        # Children first: a directory gets its mode when nothing more goes into it.
        for path, entry in reversed(steps.staged_entries):
            if entry.kind == DIRECTORY:
                _dress(to_bytes(path), entry, steps.names)
                sync(to_bytes(path))

    @staticmethod
    def _rename(steps: _Steps) -> None:
        for staged, path in steps.replacing:
            os.rename(to_bytes(staged), to_bytes(path))
        for path, entry in steps.removing:
            if entry.kind == DIRECTORY:
                os.rmdir(to_bytes(path))
            else:
                os.unlink(to_bytes(path))
        for staged, path in steps.arriving:
            os.rename(to_bytes(staged), to_bytes(path))
        for path, entry in steps.dressing:
            _dress(to_bytes(path), entry, steps.names)
            sync(to_bytes(path))
        for folder in sorted({path.rpartition("/")[0] or "/" for path in steps.wanted}, key=parts):
            if os.path.isdir(to_bytes(folder)):
                sync(to_bytes(folder))

    def _write(self, intent: Intent) -> None:
        write_json(self._record, intent.to_json())

    def _forget(self) -> None:
        os.unlink(self._record)
        sync(to_bytes(self._folder))

    def _forget_staged(self, intent: Intent) -> None:
        self._remove_staged(intent)
        if os.path.lexists(self._record):
            self._forget()

    @staticmethod
    def _remove_staged(intent: Intent) -> None:
        for change in intent.changes:
            staged = to_bytes(intent.staged(change.path))
            try:
                if stat.S_ISDIR(os.lstat(staged).st_mode):
                    shutil.rmtree(staged)
                else:
                    os.unlink(staged)
            except (FileNotFoundError, NotADirectoryError):
                pass  # not every change has a staged copy


#: Stands for the entry of a path that no change takes away.
_STAYS = Entry(FILE, 0, 0, 0)


class _Steps:
    """The order of work between what is there and what is wanted.

    ``staged_entries``: what to create under staged names, parents first. ``replacing``: renames over nothing or over the
    same sort. ``removing``: children first. ``arriving``: renames to where something of another sort was removed.
    ``dressing``: what only gets another mode, owner or group, in place.
    """

    def __init__(self, intent: Intent, current: Mapping[str, Entry | None], names: Names) -> None:
        self.names = names
        self.wanted = intent.wanted()
        self.staged_entries: list[tuple[str, Entry]] = []
        self.replacing: list[tuple[str, str]] = []
        self.removing: list[tuple[str, Entry]] = []
        self.arriving: list[tuple[str, str]] = []
        self.dressing: list[tuple[str, Entry]] = []
        self.live: dict[str, str] = {}
        inside: dict[str, str] = {}
        for path in sorted(self.wanted, key=parts):
            now, then = current[path], self.wanted[path]
            parent, _slash, name = path.rpartition("/")
            if parent in inside and then is not None:
                self._put(f"{inside[parent]}/{name}", path, then, inside)
                continue
            if names.same(now, then):
                continue
            if then is not None and names.same_content(now, then):
                self.dressing.append((path, then))
                continue
            other_sort = now is not None and (then is None or (now.kind == DIRECTORY) != (then.kind == DIRECTORY))
            if now is not None and other_sort:
                self.removing.append((path, now))
            if then is not None:
                staged = intent.staged(path)
                self._put(staged, path, then, inside)
                (self.arriving if other_sort else self.replacing).append((staged, path))
        self.removing.reverse()
        self.dressing.reverse()

    def _put(self, staged: str, path: str, entry: Entry, inside: dict[str, str]) -> None:
        self.staged_entries.append((staged, entry))
        if entry.kind == DIRECTORY:
            inside[path] = staged
        else:
            self.live[staged] = path


def preflight(found: Sequence[Change], names: Names) -> None:
    """Refuse what is known to fail before anything is touched.

    :raises Refused: a parent directory is missing, something not watched is in the way, or this user may not do it.
    """
    wanted: dict[str, Entry | None] = {change.path: change.after for change in found}
    for change in found:
        parent = change.path.rpartition("/")[0] or "/"
        after = change.after
        if after is not None:
            coming = wanted.get(parent)
            if not (coming is not None and coming.kind == DIRECTORY) and not os.path.isdir(to_bytes(parent)):
                raise Refused(
                    f"{printable(change.path)} cannot be put back: its directory {printable(parent)} is not there, and it is not watched",
                    next_step=f"Create {printable(parent)}, or watch it",
                )
        if change.before is not None and change.before.kind == DIRECTORY and (after is None or after.kind != DIRECTORY):
            for name in os.listdir(to_bytes(change.path)):
                child = f"{change.path}/{to_text(name)}"
                if wanted.get(child, _STAYS) is not None:
                    raise Refused(
                        f"The directory {printable(change.path)} has to go, but {printable(child)} in it is not watched",
                        next_step=f"Move {printable(child)} away",
                    )
        if os.geteuid() != 0:
            _permitted(change, parent, names)


def _permitted(change: Change, parent: str, names: Names) -> None:
    """Refuse beforehand what only root could do. Root needs no such look."""
    shown, after = printable(change.path), change.after
    step = "Run as root (`become: true`)"
    if after is not None:
        uid, gid = names.uid(after), names.gid(after)
        if uid != os.geteuid():
            raise Refused(f"{shown} belongs to user {after.owner or after.uid}, and only root can give a file away", next_step=step)
        if gid != os.getegid() and gid not in os.getgroups():
            raise Refused(f"{shown} belongs to group {after.group or after.gid}, which this user is not in", next_step=step)
        if change.before is not None and names.same_content(change.before, after) and names.uid(change.before) != os.geteuid():
            raise Refused(f"The mode of {shown} can only be changed by its owner", next_step=step)
    if os.path.isdir(to_bytes(parent)) and not os.access(to_bytes(parent), os.W_OK | os.X_OK):
        raise Refused(f"{shown} cannot be changed: {printable(parent)} is not writable for this user", next_step=step)


def _validate(steps: _Steps, validate: Validate, watch: Watch) -> None:
    if not validate:
        return
    for staged, path in steps.live.items():
        command = _command_for(path, validate)
        if command:
            check_file(command, staged, path, watch.is_sensitive(path))


def _command_for(path: str, validate: Validate) -> Sequence[str]:
    if not isinstance(validate, Mapping):
        return validate or ()
    for glob, command in validate.items():
        if path == glob or fnmatch.fnmatchcase(path, glob):
            return command
    return ()


def check_file(command: Sequence[str], staged: str, path: str, sensitive: bool) -> None:
    """Run one validating command on a staged file.

    :raises Refused: it did not exit 0; its words are in the error unless the file is sensitive.
    """
    if not any("%s" in word for word in command):
        raise Refused("The command of `validate` has no %s for the staged file", option="validate", next_step="Put %s where the path goes")
    argv = [to_bytes(word.replace("%s", staged)) for word in command]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=VALIDATE_SECONDS, check=False
        )
        failed = f"exited {done.returncode}" if done.returncode else ""
        words = done.stdout.decode("utf-8", "replace").strip()[-1000:]
    except subprocess.TimeoutExpired:
        failed, words = f"did not end within {VALIDATE_SECONDS} s", ""
    except OSError as error:
        failed, words = f"could not be started: {error.strerror}", ""
    if failed:
        said = "" if sensitive or not words else f": {words.replace(staged, path)}"
        raise Refused(
            f"The new content of {printable(path)} is not valid: `{command[0]}` {failed}{said}",
            option="validate",
            next_step="Mend the content, or the command",
        )


def _write_file(path: bytes, content: bytes, entry: Entry, names: Names) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        _dress(path, entry, names)
        os.fsync(stream.fileno())


def _dress(path: bytes, entry: Entry, names: Names) -> None:
    """Give a path its owner, group and mode; never more open in between than before or after."""
    uid, gid = names.uid(entry), names.gid(entry)
    now = os.lstat(path)
    if entry.kind != SYMLINK:
        narrow = stat.S_IMODE(now.st_mode) & entry.mode
        if (now.st_uid, now.st_gid) != (uid, gid) and narrow != stat.S_IMODE(now.st_mode):
            os.chmod(path, narrow)
    if (now.st_uid, now.st_gid) != (uid, gid):
        os.lchown(path, uid if uid != now.st_uid else -1, gid if gid != now.st_gid else -1)
    if entry.kind != SYMLINK:
        os.chmod(path, entry.mode)


def sync(path: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return  # a symbolic link, or a file whose owner may not read it: its directory is synced
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _say(error: Exception) -> str:
    if isinstance(error, FleetError):
        return error.message
    if isinstance(error, OSError) and error.filename:
        return f"{printable(to_text(os.fsencode(error.filename)))}: {error.strerror}"
    return str(error)


def _half_done(intent: Intent, error: Exception) -> HalfDone:
    return HalfDone(
        f"The config is between two states, and neither can be reached: {_say(error)}",
        still_true="All content of both states is in the config history, and the next run tries again",
        next_step="Mend the cause, then run again",
        details={"paths": [printable(change.path) for change in intent.changes], "towards": intent.snapshot},
    )
