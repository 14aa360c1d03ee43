# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The history of a host's config: snapshots in a bare git repository, and the way back to any of them.

A snapshot is a commit on ``refs/heads/main``. Its tree holds the files under ``files/`` by their real paths, for people
and their tools, and ``manifest.json`` with all that git does not keep. Labels are ``refs/labels/*``; the snapshot that
was last known to be live is ``refs/queueops/live``. All else is under ``<repository>/queueops/``: the lock, the intent of
a change that is under way, and the mark that the repository is complete.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Iterable, Iterator, Sequence, Union

from .._errors import Conflict, NotFound, Refused
from .._files import write_atomic
from . import apply as applying
from .apply import Intent, Validate, Workbench
from .diff import FileDiff, describe
from .git import ZERO, Git
from .tree import DIRECTORY, FILE, SYMLINK, Change, Entry, Known, Names, State, changes, parse_manifest, read_live, with_parents
from .watch import Watch, printable, to_bytes

__all__ = ["LIVE", "ConfigHistory", "DesiredFile", "FileDiff", "Snapshot"]

MAIN = "refs/heads/main"
LIVE_REF = "refs/queueops/live"
AFTER_REFS = "refs/queueops/after/"
LABEL_REFS = "refs/labels/"

#: How long another process may hold the history before this one gives up.
LOCK_SECONDS = 60

FLEET_NAME = re.compile(r"\A[a-z0-9][a-z0-9-]*\Z")
_SHORT_ID = re.compile(r"\A[0-9a-f]{4,40}\Z")

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")

#: Words that stand for a snapshot by themselves and cannot be labels.
RESERVED = ("previous", "live")


@dataclass(frozen=True)
class DesiredFile:
    """A file as it is to be.

    :ivar dest: absolute path, within the watched paths.
    :ivar content: the whole content.
    :ivar mode: permission bits; None: as the live file has them, else 0644.
    :ivar owner: name or number; None: as the live file has it, else the user of this process. ``group`` the same.
    """

    dest: str
    content: bytes
    mode: int | None = None
    owner: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """One recorded state of the watched paths.

    :ivar id: commit id, 40 hexadecimal digits; empty for one that check mode did not record.
    :ivar tree: git's tree id.
    :ivar label: the label it was recorded with, or None.
    :ivar labels: every label that leads to it now.
    :ivar time: when it was recorded, ISO 8601 in UTC.
    :ivar unix: the same in seconds since 1970.
    :ivar release: number of the release it was recorded for, or None.
    :ivar files: number of files and symbolic links.
    :ivar planned: it was prepared, not found on the host.
    :ivar after: id of the snapshot that was live before this one, or None for the first.
    """

    id: str
    tree: str
    label: str | None
    time: str
    unix: int
    release: int | None
    files: int
    labels: tuple[str, ...] = ()
    planned: bool = False
    after: str | None = None

    @property
    def short(self) -> str:
        return self.id[:12]


class _Live:
    """Stands for what is on the host now."""

    def __repr__(self) -> str:
        return "LIVE"


LIVE = _Live()

#: The class has a method of this name, which would hide it in the class's own annotations.
_list = list

#: What can be compared: a snapshot, what is live, or what would be live with these files.
Side = Union[Snapshot, _Live, State, Sequence[DesiredFile]]


@dataclass
class _Refs:
    """The repository's refs, read at once."""

    main: str | None = None
    live: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)


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
        self._own = os.path.join(repo_dir, "queueops")
        self._git = Git(repo_dir)
        self._bench = Workbench(self._git, self._own)
        self._manifests: dict[str, tuple[Watch, dict[str, Entry]]] = {}
        # What was read once in this process; ``stored``: and is in the repository.
        self._hashed: Known = {}
        self._stored: Known = {}

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
        self._git.check()
        self.watch.check(os.path.dirname(self.repo_dir))

    def list(self) -> _list[Snapshot]:
        """All snapshots, the newest last."""
        return self._read_list(self._refs())

    def resolve(self, ref: str, option: str = "to") -> Snapshot:
        """The snapshot that a person means.

        :param ref: a label; ``previous``: the one that was live before the one that is live now (see :meth:`previous`);
            an id, or at least four digits of one. A label goes before an id.
        :param option: the module option that ``ref`` came from, for the error.
        :raises NotFound: there is none; the error names the known ones.
        :raises Refused: more than one snapshot's id begins so.
        """
        refs = self._refs()
        known = self._read_list(refs)
        by_id = {snapshot.id: snapshot for snapshot in known}
        if ref == "previous":
            return self.previous(option)
        if ref in refs.labels and refs.labels[ref] in by_id:
            return by_id[refs.labels[ref]]
        matching = [snapshot for snapshot in known if snapshot.id.startswith(ref)] if _SHORT_ID.match(ref) else []
        if len(matching) > 1:
            raise Refused(
                f"More than one snapshot's id begins with {ref}: {_named(matching)}", option=option, next_step="Give more of the id"
            )
        if not matching:
            raise NotFound(
                f"There is no snapshot {printable(ref)!r} (option `{option}`) in the config history {self.repo_dir}",
                option=option,
                next_step=f"Use one of the known: {_named(known)}" if known else "No snapshot was recorded yet: run config_snapshot first",
                details={"known": [{"id": snapshot.id, "label": snapshot.label, "time": snapshot.time} for snapshot in known[-20:]]},
            )
        return matching[0]

    def previous(self, option: str = "to") -> Snapshot:
        """The snapshot that was live before the one that is live now.

        If what is live was never recorded (somebody edited it), it is the snapshot that was last live: the edits are what
        goes. Each snapshot remembers what was live when it came, so repeated use walks back in time and never to and fro.

        :raises NotFound: what is live is the first there is.
        """
        refs = self._refs()
        known = self._read_list(refs)
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
                next_step=f"Use one of the known: {_named(known)}" if known else "No snapshot was recorded yet: run config_snapshot first",
            )
        return before

    def live(self) -> Snapshot | None:
        """The snapshot that what is on the host now equals, or None."""
        refs = self._refs()
        return self._at(self._read_list(refs), refs)

    def last_live(self) -> Snapshot | None:
        """The snapshot that was last known to be live, whatever is on the host now."""
        refs = self._refs()
        return next((one for one in self._read_list(refs) if one.id == refs.live), None)

    def nothing(self) -> State:
        """The state in which all watched paths are absent."""
        return State(self.watch, {}, lambda _path, _entry: b"")

    def entries(self, snapshot: Snapshot) -> dict[str, Entry]:
        """What a snapshot holds, by path."""
        return self._manifest(snapshot.id)[1]

    def desired_tree(self, overlay: Sequence[DesiredFile]) -> State:
        """What would be at the watched paths with these files in place; nothing is recorded or touched."""
        return self._overlaid(self._live(), overlay, write=False)

    def tree_of(self, overlay: Sequence[DesiredFile]) -> str:
        """The ``tree`` that a snapshot with this overlay would have now. Nothing is recorded, not even in the state directory."""
        state = self.desired_tree(overlay)
        folder = tempfile.mkdtemp(prefix="queueops-")
        try:
            scratch = Git(os.path.join(folder, "scratch.git"))
            scratch.run("init", "--quiet", "--bare", "--template=", scratch.repo_dir)
            return self._write_tree(state, scratch, folder, write=False)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def holds(self, snapshot: Snapshot, overlay: Sequence[DesiredFile]) -> bool:
        """Whether the snapshot has each of these files with this content, and with the mode and owner where one is given.

        Unlike comparing trees this does not ask about the other files that are watched.
        """
        entries, names = self.entries(snapshot), Names()
        for wanted in overlay:
            there = entries.get(os.path.normpath(wanted.dest))
            if there is None or there.kind != FILE or there.blob != self._git.hash_bytes(wanted.content, write=False):
                return False
            if not names.same_dress(there, _desired_entry(wanted, there, names)):
                return False
        return True

    def diff(self, before: Side, after: Side) -> _list[FileDiff]:
        """What differs, at the paths that both sides and this history watch. Reads only."""
        one = self._side(before)
        # Both sides of a live comparison come from one reading, so that they cannot differ by when they were read.
        other = self._overlaid(one, after, write=False) if before is LIVE and isinstance(after, (list, tuple)) else self._side(after)
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
        name = None if label is None else _label_ref(label)
        if dry_run:
            state = self._settled()
            if overlay is not None:
                state = self._overlaid(state, overlay, write=False)
            refs = self._refs()
            intent = self._bench.load()
            if intent is not None and intent.phase == applying.RENAMING:
                refs.live = intent.snapshot  # where the recovery will have brought it
            found = self._recorded(state, refs)
            if found is None:
                return self._unrecorded(state, label, release, overlay is not None), True
            return found, label is not None and label not in found.labels
        with self._locked():
            self._recover()
            state = self._live(write=True)
            if overlay is not None:
                state = self._overlaid(state, overlay, write=True)
            refs = self._refs()
            found = self._recorded(state, refs)
            if found is None:
                return self._record(state, refs, label, release, overlay is not None), True
            if name is None or label is None or label in found.labels:
                return found, False
            self._update_refs([(name, found.id, None)])
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
        with self._locked():
            # Seen before the recovery: this is what check mode shows, and what a person finds changed afterwards.
            shown = self.diff(LIVE, target) if self._bench.load() is not None else None
            self._recover()
            live = self._live(write=True)
            found = self._changes(live, wanted)
            if found:
                diffs = self._describe(found, live, wanted)
                refs = self._refs()
                applying.preflight(found, Names())
                if not self._is_kept(found, refs):
                    self.saved = self._record(live, refs, None, None, False, f"As found before {target.short} was put in place")
                self._bench.run(found, target.id, validate, self._secret(wanted.watch), lambda: self._set_live(target.id))
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
            self._git.check()
            with self._locked():
                self._recover()
        return self.recovered

    # -- inside: states -------------------------------------------------------------------------------------------------

    def _live(self, write: bool = False) -> State:
        return read_live(self.watch, self._git, Names(), write, self._stored if write else self._hashed)

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
        return State(self.watch, entries, lambda path, entry: self._git.object(entry.blob), live.holding)

    def _state(self, snapshot: Snapshot) -> State:
        watch, entries = self._manifest(snapshot.id)
        return State(watch, entries, lambda _path, entry: self._git.object(entry.blob))

    def _manifest(self, ident: str) -> tuple[Watch, dict[str, Entry]]:
        if ident not in self._manifests:
            self._manifests[ident] = parse_manifest(self._git.object(f"{ident}:manifest.json"), f"The snapshot {ident[:12]}")
        return self._manifests[ident]

    def _side(self, side: Side) -> State:
        if isinstance(side, State):
            return side
        if isinstance(side, Snapshot):
            return self._state(side)
        if isinstance(side, _Live):
            return self._live()
        return self.desired_tree(side)

    def _overlaid(self, base: State, overlay: Iterable[DesiredFile], write: bool) -> State:
        names = Names()
        entries = dict(base.entries)
        contents: dict[str, bytes] = {}
        for wanted in overlay:
            dest = os.path.normpath(wanted.dest)
            if not wanted.dest.startswith("/") or not self.watch.covers(dest):
                raise Refused(
                    f"{printable(wanted.dest)} is not within the watched paths, so it could not be put back",
                    option="files",
                    next_step="Add it, or the folder that it is in, to the watched paths",
                )
            if dest in contents:
                raise Refused(f"{printable(dest)} is given twice", option="files")
            old = entries.get(dest)
            if old is not None and old.kind == DIRECTORY:
                raise Refused(f"{printable(dest)} is a directory on the host and cannot become a file", option="files")
            entry = _desired_entry(wanted, old, names)
            for parent in _covered_parents(dest, self.watch):
                if parent in entries and entries[parent].kind != DIRECTORY:
                    raise Refused(f"{printable(dest)} cannot be written: {printable(parent)} is a {entries[parent].kind}", option="files")
            like = Entry(DIRECTORY, 0o755, os.geteuid(), os.getegid(), names.owner(os.geteuid()), names.group(os.getegid()))
            with_parents(entries, dest, self.watch, like)
            entries[dest] = replace(entry, blob=self._git.hash_bytes(wanted.content, write), size=len(wanted.content))
            contents[dest] = wanted.content
        return State(
            self.watch, entries, lambda path, entry: contents[path] if path in contents else base.content(path, entry), base.holding
        )

    def _changes(self, before: State, after: State) -> _list[Change]:
        return changes(before, after, Names(), self.watch)

    def _describe(self, found: _list[Change], before: State, after: State) -> _list[FileDiff]:
        return describe(found, before, after, Names(), [self.watch, before.watch, after.watch])

    def _secret(self, other: Watch) -> Watch:
        return Watch(self.watch.paths, (), self.watch.sensitive + other.sensitive)

    def _at(self, known: _list[Snapshot], refs: _Refs) -> Snapshot | None:
        """The snapshot that what is live equals: the one last known to be live, else the newest."""
        live = self._live()
        candidates = sorted(known, key=lambda one: one.id == refs.live)
        return next((one for one in reversed(candidates) if not self._changes(live, self._state(one))), None)

    def _is_kept(self, found: _list[Change], refs: _Refs) -> bool:
        """Whether one snapshot of what was live holds everything that the changes are about to overwrite."""
        for snapshot in reversed(self._read_list(refs)):
            if snapshot.planned and snapshot.id != refs.live:
                continue
            watch, entries = self._manifest(snapshot.id)
            names = Names()
            if all(watch.covers(change.path) and names.same(change.before, entries.get(change.path)) for change in found):
                return True
        return False

    # -- inside: git ----------------------------------------------------------------------------------------------------

    def _exists(self) -> bool:
        return os.path.exists(os.path.join(self._own, "complete"))

    def _refs(self) -> _Refs:
        refs = _Refs()
        if not self._exists():
            return refs
        for line in self._git.run("for-each-ref", "--format=%(objectname) %(refname)").splitlines():
            ident, name = line.decode("utf-8", "surrogateescape").split(" ", 1)
            if name == MAIN:
                refs.main = ident
            elif name == LIVE_REF:
                refs.live = ident
            elif name.startswith(LABEL_REFS):
                refs.labels[_label_of(name)] = ident
            elif name.startswith(AFTER_REFS):
                refs.after[name[len(AFTER_REFS) :]] = ident
        return refs

    def _read_list(self, refs: _Refs) -> _list[Snapshot]:
        if refs.main is None:
            return []
        idents = self._git.run("rev-list", "--first-parent", "--reverse", refs.main).decode("ascii").split()
        labels: dict[str, _list[str]] = {}
        for label, ident in refs.labels.items():
            labels.setdefault(ident, []).append(label)
        known = []
        for ident, (_kind, commit) in zip(idents, self._git.objects(idents)):
            snapshot = _parse_commit(ident, commit)
            known.append(replace(snapshot, labels=tuple(sorted(labels.get(ident, []))), after=refs.after.get(ident, snapshot.after)))
        return known

    def _recorded(self, state: State, refs: _Refs) -> Snapshot | None:
        """The snapshot that holds just this: what was last live, or the newest, going back over what was only planned."""
        known = self._read_list(refs)
        candidates = [one for one in known if one.id == refs.live]
        for one in reversed(known):
            candidates.append(one)
            if not one.planned:
                break
        for one in candidates:
            watch, entries = self._manifest(one.id)
            if entries == state.entries and watch.to_json() == state.watch.to_json():
                return one
        return None

    def _unrecorded(self, state: State, label: str | None, release: int | None, planned: bool) -> Snapshot:
        now = int(time.time())
        return Snapshot("", "", label, _iso(now), now, release, state.files(), (label,) if label else (), planned)

    def _record(
        self, state: State, refs: _Refs, label: str | None, release: int | None, planned: bool, subject: str | None = None
    ) -> Snapshot:
        """Write the tree, the commit and the refs. All objects are on the disk before a ref moves."""
        began = time.time()
        tree = self._write_tree(state, self._git, self._own, write=True)
        now = int(began)
        files = state.files()
        lines = [subject or label or f"Snapshot of {files} files", "", f"Files: {files}"]
        lines += [f"Label: {label}"] if label is not None else []
        lines += [f"Release: {release}"] if release is not None else []
        lines += ["Planned: yes"] if planned else []
        lines += [f"After: {refs.live}"] if refs.live else []
        parents = ["-p", refs.main] if refs.main else []
        message = "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n"
        ident = self._git.line("commit-tree", tree, *parents, stdin=message, when=f"@{now} +0000")
        self._sync_objects(began)
        updates: _list[tuple[str, str, str | None]] = [(MAIN, ident, refs.main or ZERO)]
        if label is not None:
            updates.append((_label_ref(label), ident, None))
        if not planned:
            updates.append((LIVE_REF, ident, None))
        self._update_refs(updates)
        labels = (label,) if label is not None else ()
        return Snapshot(ident, tree, label, _iso(now), now, release, files, labels, planned, refs.live)

    @staticmethod
    def _write_tree(state: State, git: Git, folder: str, write: bool) -> str:
        """Write the snapshot's tree. Not ``write``: only the tree objects, without the content that they name."""
        index = os.path.join(folder, "index.tmp")
        links = [path for path in state.entries if state.entries[path].kind == SYMLINK]
        targets = os.path.join(folder, "links.tmp")
        rows = [f"100644 {git.hash_bytes(state.manifest(), write)}\tmanifest.json".encode("ascii")]
        try:
            # git hashes many files in one process, but standard input only once: the links' targets become files.
            os.mkdir(targets, 0o700)
            sources = []
            for number, path in enumerate(links):
                sources.append(to_bytes(os.path.join(targets, str(number))))
                with open(sources[-1], "wb") as stream:
                    stream.write(to_bytes(state.entries[path].target))
            blobs = dict(zip(links, git.hash_files(sources, write)))
            for path, entry in state.entries.items():
                if entry.kind != DIRECTORY:
                    mode = "120000" if entry.kind == SYMLINK else "100755" if entry.mode & 0o100 else "100644"
                    name = b"/".join(_git_name(part) for part in to_bytes(path).strip(b"/").split(b"/"))
                    rows.append(f"{mode} {blobs.get(path, entry.blob)}\t".encode("ascii") + b"files/" + name)
            git.run("update-index", "-z", "--index-info", stdin=b"".join(row + b"\0" for row in rows), index=index)
            return git.line("write-tree", *([] if write else ["--missing-ok"]), index=index)
        finally:
            shutil.rmtree(targets, ignore_errors=True)
            _remove(index)

    def _update_refs(self, updates: _list[tuple[str, str, str | None]]) -> None:
        """Move refs together; with an old value only if it is still that."""
        words: _list[str] = []
        for name, new, old in updates:
            words += [f"update {name}", new, old or ""]
        self._git.run("update-ref", "-z", "--stdin", stdin=b"".join(to_bytes(word) + b"\0" for word in words))
        for name, _new, _old in updates:
            applying.sync(to_bytes(os.path.join(self.repo_dir, os.path.dirname(name))))

    def _set_live(self, ident: str) -> None:
        refs = self._refs()
        if refs.live == ident:
            return
        updates: _list[tuple[str, str, str | None]] = [(LIVE_REF, ident, None)]
        order = [one.id for one in self._read_list(refs)]
        # Only a newer snapshot remembers what was live before it: going back must not become the way forward.
        if refs.live in order and ident in order and order.index(refs.live) < order.index(ident):
            updates.append((AFTER_REFS + ident, refs.live or ZERO, None))
        self._update_refs(updates)

    def _sync_objects(self, began: float) -> None:
        """git syncs its objects' content; the directories that lead to them are synced here."""
        objects = os.path.join(self.repo_dir, "objects")
        for folder in [os.path.join(objects, name) for name in os.listdir(objects)] + [objects]:
            if os.path.isdir(folder) and os.stat(folder).st_mtime >= began - 3600:
                applying.sync(to_bytes(folder))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the history alone; make the repository if need be, and clear away what a dead process left in it."""
        try:
            _make_private(self._own)
            descriptor = os.open(os.path.join(self._own, "lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise Refused(
                f"The state directory {os.path.dirname(self.repo_dir)} cannot be written: {error.strerror}",
                option="state_dir",
                next_step="Run as root (`become: true`), or name another directory",
            ) from error
        try:
            self._wait_for_lock(descriptor)
            self._git.inherited = (descriptor,)
            if not self._exists():
                self._create()
            else:
                self._clear_away()
            yield
        finally:
            self._git.inherited = ()
            os.close(descriptor)

    def _wait_for_lock(self, descriptor: int) -> None:
        end = time.monotonic() + LOCK_SECONDS
        pause = 0.05
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Conflict(
                        f"Another process has held the config history {self.repo_dir} for {LOCK_SECONDS} s",
                        still_true="Nothing was changed",
                        next_step="Let it finish, then run again",
                    ) from None
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)

    def _create(self) -> None:
        # Anything up to the mark may be left by a crash; git init makes it whole, but stops at a lock file and at a torn HEAD or config.
        self._clear_away()
        for name in ("HEAD", "config"):
            _remove(os.path.join(self.repo_dir, name))
        self._git.run("init", "--quiet", "--bare", "--template=", "--shared=0600", self.repo_dir)
        self._git.run("symbolic-ref", "HEAD", MAIN)
        self._clear_away()
        # git does not sync its config, nor any directory.
        for path in ("config", "HEAD", "refs/heads", "refs", "objects", "."):
            applying.sync(to_bytes(os.path.join(self.repo_dir, path)))
        write_atomic(os.path.join(self._own, "complete"), b"1\n")
        applying.sync(to_bytes(os.path.dirname(self.repo_dir)))

    def _clear_away(self) -> None:
        """Remove temporary and lock files: whoever holds this history's lock knows that nobody is using them."""
        for name in ("index.tmp", "index.tmp.lock", "intent.json.new", "complete.new"):
            _remove(os.path.join(self._own, name))
        shutil.rmtree(os.path.join(self._own, "links.tmp"), ignore_errors=True)
        for name in ("HEAD.lock", "config.lock", "packed-refs.lock"):
            _remove(os.path.join(self.repo_dir, name))
        for folder, _folders, files in os.walk(os.path.join(self.repo_dir, "refs")):
            for name in files:
                if name.endswith(".lock"):
                    _remove(os.path.join(folder, name))

    def _recover(self) -> None:
        intent = self._bench.load()
        self.recovered = []
        if intent is None:
            return
        before, after = (self._of_intent(intent, side) for side in ("before", "after"))
        found = self._bench.resume(intent, lambda: self._set_live(intent.snapshot))
        self.recovered = describe(found, before, after, Names(), [self._secret(self._sensitive_of(intent))])

    def _of_intent(self, intent: Intent, side: str) -> State:
        entries = {change.path: getattr(change, side) for change in intent.changes}
        known = {path: entry for path, entry in entries.items() if entry is not None}
        return State(self.watch, known, lambda _path, entry: self._git.object(entry.blob))

    def _sensitive_of(self, intent: Intent) -> Watch:
        return self._manifest(intent.snapshot)[0]


def _desired_entry(wanted: DesiredFile, old: Entry | None, names: Names) -> Entry:
    """The entry of a wanted file, what was left open taken from the old one."""
    uid = names.uid(old) if old is not None else os.geteuid()
    gid = names.gid(old) if old is not None else os.getegid()
    mode = old.mode if old is not None and old.kind == FILE else 0o644
    entry = Entry(FILE, mode if wanted.mode is None else wanted.mode, uid, gid)
    for what, given in (("owner", wanted.owner), ("group", wanted.group)):
        if given is None:
            continue
        named = replace(entry, owner=given, uid=-1, group=given, gid=-1)
        number = int(given) if given.isdigit() else names.uid(named) if what == "owner" else names.gid(named)
        if number < 0:
            raise Refused(
                f"There is no {'user' if what == 'owner' else 'group'} {given!r} on this host, for {printable(wanted.dest)}",
                option=what,
                next_step="Create it, or name another",
            )
        entry = replace(entry, uid=number) if what == "owner" else replace(entry, gid=number)
    return replace(entry, owner=names.owner(entry.uid), group=names.group(entry.gid))


def _covered_parents(path: str, watch: Watch) -> Iterator[str]:
    parent = path.rpartition("/")[0]
    while parent and watch.covers(parent):
        yield parent
        parent = parent.rpartition("/")[0]


def _git_name(name: bytes) -> bytes:
    """A path component as git's tree has it: itself, unless git (or a fsck of it) would not take a name like ``.git``."""
    plain = re.sub(rb"[^a-z0-9.~]", b"", name.lower())
    if b".git" not in plain and b"git~" not in plain and not plain.startswith(b"gi7") and not name.startswith(b"%"):
        return name
    return b"".join(b"%%%02X" % byte if number == 0 or byte not in _PLAIN else bytes([byte]) for number, byte in enumerate(name))


def _label_ref(label: str) -> str:
    """The ref of a label.

    :raises Refused: it is empty, too long, or a word that means something else.
    """
    if not label.strip() or label != label.strip() or not label.isprintable():
        raise Refused(f"The label {label!r} is not valid", option="label", next_step="Use printable characters, without spaces at the ends")
    if label in RESERVED:
        raise Refused(f"The label {label!r} has a meaning of its own", option="label", next_step="Choose another")
    quoted = "".join(char if ord(char) > 127 or char.isalnum() or char in "-_" else f"%{ord(char):02X}" for char in label)
    if len(quoted.encode("utf-8")) > 200:
        raise Refused(f"The label {label!r} is too long", option="label", next_step="Keep it under 60 characters")
    return LABEL_REFS + quoted


def _label_of(ref: str) -> str:
    return re.sub(r"%([0-9A-F]{2})", lambda found: chr(int(found.group(1), 16)), ref[len(LABEL_REFS) :])


def _parse_commit(ident: str, commit: bytes) -> Snapshot:
    header, _blank, message = commit.decode("utf-8", "surrogateescape").partition("\n\n")
    fields = dict(line.split(" ", 1) for line in header.split("\n") if " " in line)
    _subject, _blank, body = message.partition("\n\n")
    said = dict(line.split(": ", 1) for line in body.split("\n") if ": " in line)
    unix = int(fields["committer"].rsplit(" ", 2)[1])
    return Snapshot(
        id=ident,
        tree=fields["tree"],
        label=said.get("Label"),
        time=_iso(unix),
        unix=unix,
        release=int(said["Release"]) if "Release" in said else None,
        files=int(said.get("Files", "0")),
        planned="Planned" in said,
        after=said.get("After"),
    )


def _iso(unix: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix))


def _named(snapshots: Sequence[Snapshot]) -> str:
    """The newest few snapshots, for an error."""
    rows = [f"{one.short} ({printable(one.label)}, {one.time})" if one.label else f"{one.short} ({one.time})" for one in snapshots[-8:]]
    more = len(snapshots) - len(rows)
    return ", ".join(reversed(rows)) + (f" and {more} older" if more else "")


def _make_private(folder: str) -> None:
    """Make the directory and those above it that are missing, all of them 0700."""
    if not os.path.isdir(folder):
        parent = os.path.dirname(folder)
        _make_private(parent)
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            if not os.path.isdir(folder):
                raise
        applying.sync(to_bytes(parent))


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
