# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The history of a host's config: snapshots in a bare git repository, and the way back to any of them.

A snapshot is a commit. Its tree holds the files under ``files/`` by their real paths, for people and their tools, and
``manifest.json`` with all that git does not keep.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from typing import Sequence, Union

from .._errors import NotFound, Refused
from . import apply as applying
from .apply import Intent, Workbench
from .desired import DesiredFile, desired_entry, overlaid
from .diff import FileDiff, describe
from .entries import FILE, Change, Entry, Names, State, changes, companions, parse_manifest
from .git import blob_id
from .live import ATTEMPTS, Looked, look, read_live
from .recording import Torn, tree_id
from .repository import AFTER_REFS, LIVE_REF, Refs, Repository
from .snapshots import Snapshot, iso, label_ref, named
from .statcache import StatCache
from .validate import Validate
from .watch import Watch, printable

__all__ = ["LIVE", "ConfigHistory", "DesiredFile", "FileDiff", "Snapshot"]

FLEET_NAME = re.compile(r"\A[a-z0-9][a-z0-9-]*\Z")
_SHORT_ID = re.compile(r"\A[0-9a-f]{4,40}\Z")


class _Live:
    """Stands for what is on the host now."""

    def __repr__(self) -> str:
        return "LIVE"


LIVE = _Live()

#: The class has a method of this name, which would hide it in the class's own annotations.
_list = list

#: What can be compared: a snapshot, what is live, or what would be live with these files.
Side = Union[Snapshot, _Live, State, Sequence[DesiredFile]]


class ConfigHistory:
    """The config history of one fleet on this host.

    :param repo_dir: the bare repository, created (0700) when the first snapshot is recorded.
    :param watch: what is watched. With no paths nothing is recorded but that.
    :ivar recovered: what :meth:`recover` last had to put right, empty if nothing.
    :ivar saved: the snapshot that :meth:`apply` made of what was live and not yet recorded, or None.
    """

    def __init__(self, repo_dir: str, watch: Watch) -> None:
        self.repo_dir = repo_dir
        self.watch = watch
        self.recovered: _list[FileDiff] = []
        self.saved: Snapshot | None = None
        self._repository = Repository(repo_dir)
        self._bench = Workbench(self._repository.git, self._repository.own)
        self._cache = StatCache(os.path.join(self._repository.own, "stat-cache"))
        self._manifests: dict[str, tuple[Watch, dict[str, Entry]]] = {}

    @classmethod
    def open(
        cls, state_dir: str, fleet: str, paths: Sequence[str] | None = None, exclude: Sequence[str] = (), sensitive: Sequence[str] = ()
    ) -> ConfigHistory:
        """The history of a fleet by its name.

        :param paths: what is watched; None: what the newest snapshot watched, with ``exclude`` and ``sensitive`` added to it.
        :raises Refused: the fleet's name or the state directory is not valid.
        """
        if not FLEET_NAME.match(fleet):
            raise Refused(f"The fleet name {fleet!r} is not valid", option="fleet", next_step="Use lower-case letters, digits and hyphens")
        if not state_dir.startswith("/"):
            raise Refused(f"The state directory {printable(state_dir)} is not an absolute path", option="state_dir")
        repo_dir = os.path.join(os.path.normpath(state_dir), fleet, "config.git")
        if paths is not None:
            return cls(repo_dir, Watch(paths, exclude, sensitive))
        history = cls(repo_dir, Watch([]))
        known = history.list()
        if known:
            recorded = history._manifest(known[-1].id)[0]
            history.watch = Watch(recorded.paths, recorded.exclude + tuple(exclude), recorded.sensitive + tuple(sensitive))
        return history

    # -- looking ------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """See that everything needed is there, reading only.

        :raises MissingLibrary: git is not on the host.
        :raises Refused: a watched path cannot be watched.
        """
        self._repository.git.check()
        self.watch.check(os.path.dirname(self.repo_dir))

    def list(self) -> _list[Snapshot]:
        """All snapshots, the newest last."""
        return self._repository.snapshots(self._repository.refs())

    def resolve(self, ref: str, option: str = "to") -> Snapshot:
        """The snapshot that a person means.

        :param ref: a label; ``previous``: the one that was live before the one that is live now (see :meth:`previous`);
            an id, or at least four digits of one. A label goes before an id.
        :param option: the module option that ``ref`` came from, for the error.
        :raises NotFound: there is none; the error names the known ones.
        :raises Refused: more than one snapshot's id begins so.
        """
        refs = self._repository.refs()
        known = self._repository.snapshots(refs)
        by_id = {snapshot.id: snapshot for snapshot in known}
        if ref == "previous":
            return self.previous(option)
        if ref in refs.labels and refs.labels[ref] in by_id:
            return by_id[refs.labels[ref]]
        matching = [snapshot for snapshot in known if snapshot.id.startswith(ref)] if _SHORT_ID.match(ref) else []
        if len(matching) > 1:
            raise Refused(
                f"More than one snapshot's id begins with {ref}: {named(matching)}", option=option, next_step="Give more of the id"
            )
        if not matching:
            raise NotFound(
                f"There is no snapshot {printable(ref)!r} (option `{option}`) in the config history {self.repo_dir}",
                option=option,
                next_step=f"Use one of the known: {named(known)}" if known else "No snapshot was recorded yet: run config_snapshot first",
                details={"known": [{"id": snapshot.id, "label": snapshot.label, "time": snapshot.time} for snapshot in known[-20:]]},
            )
        return matching[0]

    def previous(self, option: str = "to") -> Snapshot:
        """The snapshot that was live before the one that is live now.

        If what is live was never recorded (somebody edited it), it is the snapshot that was last live: the edits are what
        goes. Each snapshot remembers what was live when it came, so repeated use walks back in time and never to and fro.

        :raises NotFound: what is live is the first there is.
        """
        refs = self._repository.refs()
        known = self._repository.snapshots(refs)
        by_id = {snapshot.id: snapshot for snapshot in known}
        # A change that was cut short is not seen: running the same again has to mean the same snapshot again.
        here = by_id.get(refs.live or "") if self._bench.load() is not None else self._at(known, refs)
        if here is None:
            last = by_id.get(refs.live or "") or next((one for one in reversed(known) if not one.planned), None)
            if last is not None:
                return last
        before = here
        # A snapshot with the same content (of other paths, or planned and never needed) is no way back.
        while before is not None and here is not None and (before is here or not self._changes(self._state(here), self._state(before))):
            before = by_id.get(before.after or "")
        if before is None:
            live = f" ({here.short})" if here else ""
            raise NotFound(
                f"There is no snapshot before the one that is live{live} in the config history {self.repo_dir}",
                option=option,
                next_step=f"Use one of the known: {named(known)}" if known else "No snapshot was recorded yet: run config_snapshot first",
            )
        return before

    def live(self) -> Snapshot | None:
        """The snapshot that what is on the host now equals, or None."""
        refs = self._repository.refs()
        return self._at(self._repository.snapshots(refs), refs)

    def last_live(self) -> Snapshot | None:
        """The snapshot that was last known to be live, whatever is on the host now."""
        refs = self._repository.refs()
        return next((one for one in self._repository.snapshots(refs) if one.id == refs.live), None)

    def nothing(self) -> State:
        """The state in which all watched paths are absent."""
        return State(self.watch, {}, lambda _path, _entry: b"")

    def entries(self, snapshot: Snapshot) -> dict[str, Entry]:
        """What a snapshot holds, by path."""
        return self._manifest(snapshot.id)[1]

    def desired_tree(self, overlay: Sequence[DesiredFile]) -> State:
        """What would be at the watched paths with these files in place; nothing is recorded or touched."""
        return overlaid(self._live(), overlay)

    def tree_of(self, overlay: Sequence[DesiredFile]) -> str:
        """The ``tree`` that a snapshot with this overlay would have now. Nothing is recorded, not even in the state directory."""
        return tree_id(self.desired_tree(overlay))

    def holds(self, snapshot: Snapshot, overlay: Sequence[DesiredFile]) -> bool:
        """Whether the snapshot has each of these files with this content, and with the mode and owner where one is given.

        Unlike comparing trees this does not ask about the other files that are watched.
        """
        entries, names = self.entries(snapshot), Names()
        for wanted in overlay:
            there = entries.get(os.path.normpath(wanted.dest))
            if there is None or there.kind != FILE or there.blob != blob_id(wanted.content):
                return False
            if not names.same_dress(there, desired_entry(wanted, there, names)):
                return False
        return True

    def diff(self, before: Side, after: Side) -> _list[FileDiff]:
        """What differs, at the paths that both sides and this history watch. Reads only."""
        one = self._side(before)
        # Both sides of a live comparison come from one reading, so that they cannot differ by when they were read.
        other = overlaid(one, after) if before is LIVE and isinstance(after, (list, tuple)) else self._side(after)
        return self._describe(self._changes(one, other), one, other)

    def pending(self) -> dict[str, object] | None:
        """The change that a crash cut short: its phase, the snapshot that it leads to and its paths; None if there is none."""
        intent = self._bench.load()
        if intent is None:
            return None
        return {
            "phase": intent.phase,
            "snapshot": intent.snapshot,
            "paths": [printable(change.path) for change in intent.changes],
        }

    # -- changing -----------------------------------------------------------------------------------------------------

    def snapshot(
        self, label: str | None = None, release: int | None = None, overlay: Sequence[DesiredFile] | None = None, dry_run: bool = False
    ) -> tuple[Snapshot, bool]:
        """Record what is live, or with ``overlay`` what would be live with these files, without touching anything live.

        A state that is recorded already (as what was last live, as the newest, or planned since) is not recorded again; a
        label that it does not have yet is added to it.

        :param dry_run: change nothing; the snapshot returned has an empty id if one would be recorded.
        :returns: the snapshot, and whether the history was (or would be) changed.
        :raises Refused: the label or a file of the overlay is not valid.
        :raises Unavailable: a file kept changing while it was read.
        """
        self.check()
        name = None if label is None else label_ref(label)
        if dry_run:
            return self._foreseen(label, release, overlay)
        with self._repository.locked():
            self._recover()
            refs = self._repository.refs()
            looked = look(self.watch)
            found = self._unchanged(looked, refs) if overlay is None else None
            if found is None:
                found, is_new = self._recorded_or_new(looked, refs, label, release, overlay)
                if is_new:
                    return found, True
            if name is None or label is None or label in found.labels:
                return found, False
            self._repository.update([(name, found.id, None)])
            return replace(found, labels=(*found.labels, label)), True

    def apply(self, snapshot: Snapshot | str, validate: Validate = None, dry_run: bool = False) -> _list[FileDiff]:
        """Put a snapshot in place: all files or none, whenever the process dies.

        Only what differs is touched, and only what the snapshot and this history both watch. What is live and was never
        recorded is recorded first. A change that was cut short before is finished first.

        :param snapshot: the snapshot, or its id.
        :param validate: a command as a list with ``%s`` for the staged file, or such commands by glob of the live path;
            each must exit 0 before anything live is touched.
        :param dry_run: change nothing, stage nothing and run no command; refuse and return what a real run would.
        :returns: what was changed; empty when nothing differed.
        :raises Refused: it cannot be done, or ``validate`` said no; nothing was touched.
        :raises PutBack: it failed half-way and was undone.
        :raises HalfDone: it failed half-way and could not be undone.
        """
        self.check()
        target = snapshot if isinstance(snapshot, Snapshot) else self.resolve(snapshot)
        wanted = self._state(target)
        if dry_run:
            live = self._live()
            found = self._changes(live, wanted)
            applying.preflight(found, Names())
            return self._describe(found, live, wanted)
        with self._repository.locked():
            # Seen before the recovery: this is what check mode shows, and what a person finds changed afterwards.
            shown = self.diff(LIVE, target) if self._bench.load() is not None else None
            self._recover()
            live = self._live()
            found = self._changes(live, wanted)
            if found:
                diffs = self._describe(found, live, wanted)
                refs = self._repository.refs()
                applying.preflight(found, Names())
                if not self._is_kept(found, refs):
                    self.saved = self._repository.record(live, refs, None, None, False, f"As found before {target.short} was put in place")
                whole = companions(found, live, wanted, self.watch)
                self._bench.run(whole, target.id, validate, self._secret(wanted.watch), lambda: self._set_live(target.id))
            else:
                diffs = []
            return diffs if shown is None else shown

    def recover(self) -> _list[FileDiff]:
        """Finish, or undo, what a crash cut short, by its intent record; return what had to be changed.

        :raises PutBack: it could not be finished and was undone.
        :raises HalfDone: it could neither be finished nor undone.
        """
        self.recovered = []
        if self._bench.load() is not None:
            self._repository.git.check()
            with self._repository.locked():
                self._recover()
        return self.recovered

    # -- inside: recording ------------------------------------------------------------------------------------------------

    def _foreseen(self, label: str | None, release: int | None, overlay: Sequence[DesiredFile] | None) -> tuple[Snapshot, bool]:
        """What :meth:`snapshot` would return, with nothing changed."""
        refs = self._repository.refs()
        intent = self._bench.load()
        if intent is not None and intent.phase == applying.RENAMING:
            refs.live = intent.snapshot  # where the recovery will have brought it
        state = self._settled() if overlay is None else overlaid(self._settled(), overlay)
        found = self._recorded(state, refs)
        if found is None:
            now = int(time.time())
            return Snapshot("", "", label, iso(now), now, release, state.files(), (label,) if label else (), overlay is not None), True
        return found, label is not None and label not in found.labels

    def _unchanged(self, looked: Looked, refs: Refs) -> Snapshot | None:
        """The snapshot that was last live, if by the stamps alone nothing has changed since it was recorded."""
        manifest = self._cache.manifest_of(self.watch, looked.seen)
        if manifest is None or refs.live is None or self._repository.manifest_id(refs.live) != manifest:
            return None
        return self._repository.one(refs.live, refs)

    def _recorded_or_new(
        self, looked: Looked, refs: Refs, label: str | None, release: int | None, overlay: Sequence[DesiredFile] | None
    ) -> tuple[Snapshot, bool]:
        """The snapshot that holds what is live (with the overlay), and whether it had to be recorded."""
        for attempt in range(ATTEMPTS):
            live, looked = read_live(self.watch, Names(), self._cache, looked if attempt == 0 else look(self.watch))
            state = live if overlay is None else overlaid(live, overlay)
            found = self._recorded(state, refs)
            try:
                snapshot = found or self._repository.record(state, refs, label, release, overlay is not None)
            except Torn:
                if attempt == ATTEMPTS - 1:
                    raise
                continue
            if overlay is None:
                self._cache.save(self.watch, looked.seen, blob_id(state.manifest()), looked.when)
            return snapshot, found is None
        raise Torn("The watched files changed each time they were recorded")

    def _recorded(self, state: State, refs: Refs) -> Snapshot | None:
        """The snapshot that holds just this: what was last live, or the newest, going back over what was only planned."""
        known = self._repository.snapshots(refs)
        candidates = [one for one in known if one.id == refs.live]
        for one in reversed(known):
            candidates.append(one)
            if not one.planned:
                break
        manifest = blob_id(state.manifest())
        return next((one for one in candidates if self._repository.manifest_id(one.id) == manifest), None)

    def _set_live(self, ident: str) -> None:
        refs = self._repository.refs()
        if refs.live == ident:
            return
        updates: _list[tuple[str, str, str | None]] = [(LIVE_REF, ident, None)]
        order = [one.id for one in self._repository.snapshots(refs)]
        # Only a newer snapshot remembers what was live before it: going back must not become the way forward.
        if refs.live is not None and refs.live in order and ident in order and order.index(refs.live) < order.index(ident):
            updates.append((AFTER_REFS + ident, refs.live, None))
        self._repository.update(updates)

    # -- inside: states -------------------------------------------------------------------------------------------------

    def _live(self) -> State:
        return read_live(self.watch, Names(), self._cache)[0]

    def _settled(self) -> State:
        """What is live, with a pending change already finished: what a real run starts from."""
        live, intent = self._live(), self._bench.load()
        if intent is None or intent.phase == applying.STAGING:
            return live
        entries = dict(live.entries)
        for path, entry in intent.wanted().items():
            if self.watch.covers(path):
                entries.pop(path, None)
                if entry is not None:
                    entries[path] = entry
        return State(self.watch, entries, lambda path, entry: self._repository.git.object(entry.blob), live.holding)

    def _state(self, snapshot: Snapshot) -> State:
        watch, entries = self._manifest(snapshot.id)
        return State(watch, entries, lambda _path, entry: self._repository.git.object(entry.blob))

    def _manifest(self, ident: str) -> tuple[Watch, dict[str, Entry]]:
        if ident not in self._manifests:
            self._manifests[ident] = parse_manifest(self._repository.git.object(f"{ident}:manifest.json"), f"The snapshot {ident[:12]}")
        return self._manifests[ident]

    def _side(self, side: Side) -> State:
        if isinstance(side, State):
            return side
        if isinstance(side, Snapshot):
            return self._state(side)
        if isinstance(side, _Live):
            return self._live()
        return self.desired_tree(side)

    def _changes(self, before: State, after: State) -> _list[Change]:
        return changes(before, after, Names(), self.watch)

    def _describe(self, found: _list[Change], before: State, after: State) -> _list[FileDiff]:
        return describe(found, before, after, Names(), [self.watch, before.watch, after.watch])

    def _secret(self, other: Watch) -> Watch:
        return Watch(self.watch.paths, (), self.watch.sensitive + other.sensitive)

    def _at(self, known: _list[Snapshot], refs: Refs) -> Snapshot | None:
        """The snapshot that what is live equals: the one last known to be live, else the newest."""
        live = self._live()
        candidates = sorted(known, key=lambda one: one.id == refs.live)
        return next((one for one in reversed(candidates) if not self._changes(live, self._state(one))), None)

    def _is_kept(self, found: _list[Change], refs: Refs) -> bool:
        """Whether one snapshot of what was live holds everything that the changes are about to overwrite."""
        for snapshot in reversed(self._repository.snapshots(refs)):
            if snapshot.planned and snapshot.id != refs.live:
                continue
            watch, entries = self._manifest(snapshot.id)
            names = Names()
            if all(watch.covers(change.path) and names.same(change.before, entries.get(change.path)) for change in found):
                return True
        return False

    # -- inside: recovery -----------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        intent = self._bench.load()
        self.recovered = []
        if intent is None:
            return
        secret = self._secret(self._manifest(intent.snapshot)[0])
        before, after = (self._of_intent(intent, side) for side in ("before", "after"))
        found = self._bench.resume(intent, secret, lambda: self._set_live(intent.snapshot))
        self.recovered = describe(found, before, after, Names(), [secret])

    def _of_intent(self, intent: Intent, side: str) -> State:
        entries = {change.path: getattr(change, side) for change in intent.changes}
        known = {path: entry for path, entry in entries.items() if entry is not None}
        return State(self.watch, known, lambda _path, entry: self._repository.git.object(entry.blob))
