# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts a set of changes in place, all or none: staged beside their targets, recorded as an intent, renamed, the record removed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping, Sequence

from .._errors import FleetError, HalfDone, PutBack, Refused, Unavailable
from .._files import read_json, write_atomic
from .entries import FILE, Change, Entry, Names
from .git import Git
from .live import read_some
from .preflight import preflight
from .staging import Steps, create, put_in_place, sync
from .validate import Validate, check_staged
from .watch import Watch, printable, to_bytes, to_text

#: Phases of an intent. Until ``renaming`` nothing live was touched; ``undoing`` goes back to the state before.
STAGING, RENAMING, UNDOING = "staging", "renaming", "undoing"

#: The longest name that file systems take, in bytes.
LONGEST_NAME = 255


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
        return {"format": 2, "ident": self.ident, "phase": self.phase, "snapshot": self.snapshot, "changes": rows}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Intent:
        def entry(row: Mapping[str, Any] | None) -> Entry | None:
            found = None if row is None else Entry.from_json(row)
            # The first format knew neither attributes nor hard links.
            return found._replace(xattrs=None, link=None) if found is not None and data["format"] == 1 else found

        rows = tuple(Change(row["path"], entry(row["before"]), entry(row["after"])) for row in data["changes"])
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

    def run(self, found: Sequence[Change], snapshot: str, validate: Validate, watch: Watch, done: Callable[[], None]) -> None:
        """Carry out ``found``, all of it or nothing.

        :param watch: tells which paths are sensitive.
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
            steps = Steps(intent.wanted(), {change.path: change.before for change in found}, names, watch, intent.staged)
            self._stage(steps, intent)
            check_staged(steps.files(), validate, watch)
            now = read_some((change.path for change in found), names)
            moved = [change.path for change in found if not names.same(change.before, now[change.path])]
            if moved:
                raise Unavailable(f"{printable(moved[0])} changed while the new content was prepared", next_step="Run again")
            intent = replace(intent, phase=RENAMING)
            self._write(intent)
        except OSError as error:
            self._forget_staged(intent)
            raise Refused(
                f"The new content for {self._meant(error, intent)} cannot be staged: {error.strerror}",
                next_step="See to space, quota, permissions and attributes there",
            ) from error
        except FleetError:
            self._forget_staged(intent)
            raise
        try:
            put_in_place(steps)
            done()
        except (OSError, FleetError) as error:
            self._undo(intent, watch, error)
        self._forget()

    def resume(self, intent: Intent, watch: Watch, done: Callable[[], None]) -> list[Change]:
        """Finish a change that was cut short, or undo it where its intent says so; return what had to be changed."""
        if intent.phase == STAGING:
            self._forget_staged(intent)
            return []
        try:
            changed = self._carry_on(intent, watch)
            if intent.phase == RENAMING:
                done()
        except (OSError, FleetError) as error:
            if intent.phase == UNDOING:
                raise _half_done(intent, error) from error
            self._undo(intent, watch, error)
        self._forget()
        return changed

    def _undo(self, intent: Intent, watch: Watch, error: Exception) -> None:
        """Go back to the state before, and raise what happened."""
        undoing = replace(intent, phase=UNDOING)
        # Without space for the record, a crash from here on is finished forward, and if that fails, undone.
        with suppress(OSError):
            self._write(undoing)
        try:
            self._carry_on(undoing, watch)
            self._forget()
        except (OSError, FleetError) as second:
            raise _half_done(intent, second) from error
        raise PutBack(
            f"Putting the config in place failed: {_say(error)}",
            still_true="The config files are as they were before",
            next_step="Mend the cause and run again",
        ) from error

    def _carry_on(self, intent: Intent, watch: Watch) -> list[Change]:
        """Bring every path of the intent to where it is to be, whatever a crash left; idempotent."""
        names = Names()
        self._remove_staged(intent)
        wanted = intent.wanted()
        current = read_some(wanted, names)
        steps = Steps(wanted, current, names, watch, intent.staged)
        self._stage(steps, intent)
        put_in_place(steps)
        return [Change(path, current[path], wanted[path]) for path in wanted if not names.same(current[path], wanted[path])]

    def _stage(self, steps: Steps, intent: Intent) -> None:
        blobs = [one.entry.blob for one in steps.staged if one.entry.kind == FILE and not one.like]
        objects = self._git.objects(blobs)
        try:
            create(steps, (content for _kind, content in objects), intent.staged)
        finally:
            objects.close()

    @staticmethod
    def _meant(error: OSError, intent: Intent) -> str:
        """The live path that an error on a staged one is about."""
        if not error.filename:
            return "the watched paths"
        path = to_text(os.fsencode(error.filename))
        return printable({intent.staged(change.path): change.path for change in intent.changes}.get(path, path))

    def _write(self, intent: Intent) -> None:
        write_atomic(self._record, json.dumps(intent.to_json()).encode("ascii") + b"\n")

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
            for staged in (intent.staged(change.path), intent.staged(f"{change.path}/probe")):
                raw = to_bytes(staged)
                try:
                    if stat.S_ISDIR(os.lstat(raw).st_mode):
                        shutil.rmtree(raw)
                    else:
                        os.unlink(raw)
                except (FileNotFoundError, NotADirectoryError):
                    pass  # not every change has a staged copy


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
