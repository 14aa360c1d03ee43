# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The history of a host's config: snapshots in a bare git repository, and the way back to any of them.

A snapshot is a commit. Its tree holds the files under ``files/`` by their real paths, for people and their tools, and
``manifest.json`` with all that git does not keep.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from typing import Sequence

from .._errors import NotFound, Refused
from . import apply as applying
from .apply import Intent
from .desired import DesiredFile, overlaid
from .diff import FileDiff, describe
from .entries import Change, Names, State, companions
from .git import blob_id
from .letting_go import dropped, let_go
from .live import ATTEMPTS, Looked, look, read_live
from .looking import FLEET_NAME, LIVE, HistoryReader
from .preflight import preflight
from .recording import Torn
from .remote import Pushed, Remote, behind, push
from .repository import AFTER_REFS, LIVE_REF, Refs
from .snapshots import Snapshot, iso, label_ref
from .validate import Validate
from .watch import Watch, printable

__all__ = ["LIVE", "ConfigHistory", "DesiredFile", "FileDiff", "Snapshot"]


class ConfigHistory(HistoryReader):
    """The config history of one fleet on this host.

    :param repo_dir: the bare repository, created (0700) when the first snapshot is recorded.
    :param watch: what is watched. With no paths nothing is recorded but that.
    :ivar recovered: what :meth:`recover` last had to put right, empty if nothing.
    :ivar was: the snapshot that what was live before :meth:`apply` equalled, or None.
    :ivar saved: the snapshot that :meth:`apply` made of what was live and not yet recorded, or None.
    """

    def __init__(self, repo_dir: str, watch: Watch) -> None:
        super().__init__(repo_dir, watch)
        self.recovered: list[FileDiff] = []
        self.was: Snapshot | None = None
        self.saved: Snapshot | None = None

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
            self._repository.claim(self.watch.paths)
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

    def apply(self, snapshot: Snapshot | str, validate: Validate = None, dry_run: bool = False) -> list[FileDiff]:
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
            live, refs = self._live(), self._repository.refs()
            self.was = self._equal(live, self._repository.snapshots(refs), refs)
            found = self._changes(live, wanted)
            preflight(found, Names())
            return self._describe(found, live, wanted)
        with self._repository.locked():
            # Seen before the recovery: this is what check mode shows, and what a person finds changed afterwards.
            shown, was = (self.diff(LIVE, target), self.live()) if self._bench.load() is not None else (None, None)
            self._recover()
            refs = self._repository.refs()
            looked = look(self.watch)
            recorded = self._unchanged(looked, refs)
            live = self._live_as(looked, recorded)
            self.was = was if shown is not None else recorded or self._equal(live, self._repository.snapshots(refs), refs)
            found = self._changes(live, wanted)
            if found:
                diffs = self._describe(found, live, wanted)
                preflight(found, Names())
                if recorded is None and not self._is_kept(found, refs):
                    self.saved = self._repository.record(live, refs, None, None, False, f"As found before {target.short} was put in place")
                whole = companions(found, live, wanted, self.watch)
                self._bench.run(whole, target.id, validate, self._secret(wanted.watch), lambda: self._set_live(target.id))
            else:
                diffs = []
            return diffs if shown is None else shown

    def recover(self) -> list[FileDiff]:
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

    def let_go(self, keep: int, remote: Remote | None = None, coming: int = 0, dry_run: bool = False) -> list[Snapshot]:
        """Forget the oldest snapshots, and remove what only they held.

        Never forgotten are the newest ``keep``, what is live, what ``previous`` leads to, and what a release is made of.

        :param remote: what was not pushed to it yet is not forgotten either.
        :param coming: how many snapshots a run in check mode would have recorded before.
        :returns: what was (or would be) forgotten.
        """
        if dry_run:
            return self._dropped(self._repository.refs(), keep - coming, remote)
        with self._repository.locked():
            self._recover()
            refs = self._repository.refs()
            gone = self._dropped(refs, keep, remote)
            if gone:
                let_go(self._repository, refs, self._repository.snapshots(refs), {one.id for one in gone})
            return gone

    def _dropped(self, refs: Refs, keep: int, remote: Remote | None) -> list[Snapshot]:
        known = self._repository.snapshots(refs)
        # What a damaged snapshot leads to cannot be told, so that nothing is let go of.
        if len(known) <= keep or self._repository.damaged:
            return []
        needed = {refs.live or "", *(behind(self._repository, refs, remote) if remote is not None else ())}
        with suppress(NotFound):
            needed.add(self.previous().id)
        return dropped(known, keep, needed)

    def push(self, remote: Remote, dry_run: bool = False) -> Pushed:
        """Push what the remote lacks. A remote that is down is told of in the answer, and caught up with next time."""
        if dry_run:
            return Pushed(False, len(behind(self._repository, self._repository.refs(), remote)), None)
        return push(self._repository, remote)

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
        recorded = self._repository.manifest_ids([one.id for one in candidates])
        return next((one for one, known in zip(candidates, recorded) if known == manifest), None)

    def _set_live(self, ident: str) -> None:
        refs = self._repository.refs()
        if refs.live == ident:
            return
        updates: list[tuple[str, str, str | None]] = [(LIVE_REF, ident, None)]
        order = [one.id for one in self._repository.snapshots(refs)]
        # Only a newer snapshot remembers what was live before it: going back must not become the way forward.
        if refs.live is not None and refs.live in order and ident in order and order.index(refs.live) < order.index(ident):
            updates.append((AFTER_REFS + ident, refs.live, None))
        self._repository.update(updates)

    def _is_kept(self, found: list[Change], refs: Refs) -> bool:
        """Whether one snapshot of what was live holds everything that the changes are about to overwrite."""
        for snapshot in reversed(self._repository.snapshots(refs)):
            if snapshot.planned and snapshot.id != refs.live:
                continue
            try:
                watch, entries = self._manifest(snapshot.id)
            except Refused:
                continue  # damaged: what is live is recorded once more
            names = Names()
            if all(watch.covers(change.path) and names.same(change.before, entries.get(change.path)) for change in found):
                return True
        return False

    def _secret(self, other: Watch) -> Watch:
        return Watch(self.watch.paths, (), self.watch.sensitive + other.sensitive)

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
