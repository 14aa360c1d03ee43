# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be asked of a config history without changing anything."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Mapping, Sequence, Union

from .._errors import Refused
from . import apply as applying
from .apply import Workbench
from .desired import DesiredFile, desired_entry, overlaid
from .diff import FileDiff, describe
from .entries import FILE, Change, Entry, Names, State, changes, parse_manifest, regrouped
from .finding import Known
from .git import blob_id
from .live import Looked, live_content, look, read_live
from .recording import tree_id
from .repository import Refs, Repository
from .snapshots import Snapshot
from .statcache import StatCache
from .watch import Watch, printable

FLEET_NAME = re.compile(r"\A[a-z0-9][a-z0-9-]*\Z")


class _Live:
    """Stands for what is on the host now."""

    def __repr__(self) -> str:
        return "LIVE"


LIVE = _Live()

#: The class has a method of this name, which would hide it in the class's own annotations.
_list = list

#: What can be compared: a snapshot, what is live, or what would be live with these files.
Side = Union[Snapshot, _Live, State, Sequence[DesiredFile]]


class HistoryReader:
    """The config history of one fleet on this host, to look at.

    :param repo_dir: the bare repository. It need not be there yet.
    :param watch: what is watched. With no paths nothing is compared.
    """

    def __init__(self, repo_dir: str, watch: Watch) -> None:
        self.repo_dir = repo_dir
        self.watch = watch
        self._repository = Repository(repo_dir)
        self._bench = Workbench(self._repository.git, self._repository.own)
        self._cache = StatCache(os.path.join(self._repository.own, "stat-cache"))
        self._manifests: dict[str, tuple[Watch, Mapping[str, Entry]]] = {}

    def check(self) -> None:
        """See that everything needed is there, reading only.

        :raises MissingLibrary: git is not on the host.
        :raises Refused: a watched path cannot be watched.
        """
        self._repository.git.check()
        self.watch.check(os.path.dirname(self.repo_dir))
        for repo_dir, paths in self._repository.claims_of_others().items():
            self.watch.check_apart(paths, os.path.basename(os.path.dirname(repo_dir)), repo_dir)

    def list(self) -> _list[Snapshot]:
        """All snapshots, the newest last."""
        return self._repository.snapshots(self._repository.refs())

    @property
    def damaged(self) -> _list[str]:
        """The ids of the snapshots that were found missing or unreadable when they were last listed; the others can still be used."""
        return self._repository.damaged

    def resolve(self, ref: str, option: str = "to") -> Snapshot:
        """The snapshot that a person means.

        :param ref: a label; ``previous``: the one that was live before the one that is live now (see :meth:`previous`);
            an id, or at least four digits of one; or a time: what was live then (``2026-01-31T20:00:00Z``, ``1d12h ago``).
            A label goes before an id.
        :param option: the module option that ``ref`` came from, for the error.
        :raises NotFound: there is none; the error names the known ones.
        :raises Refused: more than one snapshot's id begins so.
        """
        return self.previous(option) if ref == "previous" else self._known(self._repository.refs()).find(ref, option)

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
            raise self._known(refs).nothing(
                f"There is no snapshot before the one that is live{live} in the config history {self.repo_dir}", option
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

    def entries(self, snapshot: Snapshot) -> Mapping[str, Entry]:
        """What a snapshot holds, by path."""
        return self._manifest(snapshot.id)[1]

    def content(self, snapshot: Snapshot, path: str) -> bytes | None:
        """What a file holds in a snapshot; None if there is no file there."""
        there = self.entries(snapshot).get(os.path.normpath(path))
        return self._repository.git.object(there.blob) if there is not None and there.kind == FILE else None

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

    def _known(self, refs: Refs) -> Known:
        known = self._repository.snapshots(refs)
        return Known(known, refs.labels, self._repository.moments(), self.repo_dir, self._repository.damaged)

    # -- inside: states -------------------------------------------------------------------------------------------------

    def _live(self) -> State:
        looked = look(self.watch)
        return self._live_as(looked, self._unchanged(looked, self._repository.refs()))

    def _live_as(self, looked: Looked, recorded: Snapshot | None) -> State:
        """What is live; if it is known to be as recorded, nothing of it is read."""
        if recorded is None:
            return read_live(self.watch, Names(), self._cache, looked)[0]
        return State(self.watch, self._manifest(recorded.id)[1], live_content, looked.holding)

    def _unchanged(self, looked: Looked, refs: Refs) -> Snapshot | None:
        """The snapshot that was last live, or the newest, if by the stamps alone nothing has changed since it was seen to be there."""
        manifest = self._cache.manifest_of(self.watch, looked.seen)
        candidates = [ident for ident in (refs.live, refs.main) if ident is not None] if manifest is not None else []
        for ident in candidates:
            with suppress(Refused):  # damaged: then it is not known
                snapshot, recorded = self._repository.one(ident, refs)
                if recorded == manifest:
                    return snapshot
        return None

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
        return State(self.watch, regrouped(entries), lambda path, entry: self._repository.git.object(entry.blob), live.holding)

    def _state(self, snapshot: Snapshot) -> State:
        watch, entries = self._manifest(snapshot.id)
        return State(watch, entries, lambda _path, entry: self._repository.git.object(entry.blob))

    def _manifest(self, ident: str) -> tuple[Watch, Mapping[str, Entry]]:
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
        if not found:
            return []
        with self._repository.git.reading():
            return describe(found, before, after, Names(), [self.watch, before.watch, after.watch])

    def _at(self, known: _list[Snapshot], refs: Refs) -> Snapshot | None:
        """The snapshot that what is live equals: the one last known to be live, else the newest."""
        return self._equal(self._live(), known, refs)

    def _equal(self, live: State, known: _list[Snapshot], refs: Refs) -> Snapshot | None:
        for one in [one for one in known if one.id == refs.live] + [one for one in reversed(known) if one.id != refs.live]:
            with suppress(Refused):  # a damaged snapshot must not make the others useless
                if not self._changes(live, self._state(one)):
                    return one
        return None
