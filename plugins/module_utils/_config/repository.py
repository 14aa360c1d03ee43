# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The bare repository of a config history: its refs, its commits, and who may change it.

A snapshot is a commit on ``refs/heads/main``, or kept by a ``refs/queueops/kept/*`` once what was between them is gone. Labels are
``refs/labels/*``; the snapshot that was last known to be live is ``refs/queueops/live``. All else is under
``<repository>/queueops/``: the lock, the mark that the repository is whole, the intent of a change that is under way, the stat
cache, the watched ``paths``, and ``moments``, which remembers when which snapshot became live.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Iterator, Sequence

from .._errors import Conflict, FleetError, Refused
from .._files import read_json, write_atomic, write_json
from .entries import State
from .git import ZERO, Git, GitFailed
from .recording import INCOMING, store
from .snapshots import LABEL_REFS, Snapshot, iso, label_of, label_ref, message_of, parse_commit, who_runs
from .staging import sync, sync_all
from .survivors import survivors
from .watch import to_bytes

MAIN = "refs/heads/main"
LIVE_REF = "refs/queueops/live"
AFTER_REFS = "refs/queueops/after/"
KEPT_REFS = "refs/queueops/kept/"
PUSHED_REFS = "refs/queueops/pushed/"

#: How long another process may hold the history before this one gives up.
LOCK_SECONDS = 60


@dataclass
class Refs:
    """The repository's refs, read at once."""

    main: str | None = None
    live: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    pushed: dict[str, str] = field(default_factory=dict)


class Repository:
    """The repository in ``repo_dir``, created (0700) by the first :meth:`locked`.

    :ivar git: runs git on it.
    :ivar own: the directory of everything that is not git's.
    :ivar damaged: ids of the snapshots whose commits :meth:`snapshots` last found missing or unreadable.
    """

    def __init__(self, repo_dir: str) -> None:
        self.repo_dir = repo_dir
        self.git = Git(repo_dir)
        self.own = os.path.join(repo_dir, "queueops")
        self.damaged: list[str] = []

    def exists(self) -> bool:
        """Whether it was created whole."""
        return os.path.exists(os.path.join(self.own, "complete"))

    def refs(self) -> Refs:
        """All refs as they are now."""
        refs = Refs()
        if not self.exists():
            return refs
        for line in self.git.run("for-each-ref", "--format=%(objectname) %(refname)").splitlines():
            ident, name = line.decode("utf-8", "surrogateescape").split(" ", 1)
            if name == MAIN:
                refs.main = ident
            elif name == LIVE_REF:
                refs.live = ident
            elif name.startswith(LABEL_REFS):
                refs.labels[label_of(name)] = ident
            elif name.startswith(AFTER_REFS):
                refs.after[name[len(AFTER_REFS) :]] = ident
            elif name.startswith(KEPT_REFS):
                refs.kept[name] = ident
            elif name.startswith(PUSHED_REFS):
                refs.pushed[name] = ident
        return refs

    def snapshots(self, refs: Refs) -> list[Snapshot]:
        """All snapshots, the newest last. One that is damaged makes the others neither useless nor unknown."""
        self.damaged = []
        if refs.main is None:
            return []
        try:
            idents = self.git.run("rev-list", "--first-parent", "--reverse", refs.main).decode("ascii").split()
            idents = [ident for ident in refs.kept.values() if ident not in idents] + idents
        except GitFailed:
            idents, self.damaged = survivors(self.git, refs.main, self.shallow(), [*refs.labels.values(), *refs.kept.values()])
        labels: dict[str, list[str]] = {}
        for label, ident in refs.labels.items():
            labels.setdefault(ident, []).append(label)
        known = []
        for ident, (_kind, commit) in zip(idents, self.git.objects(idents)):
            snapshot = parse_commit(ident, commit)
            known.append(replace(snapshot, labels=tuple(sorted(labels.get(ident, []))), after=refs.after.get(ident, snapshot.after)))
        return known

    def record(
        self, state: State, refs: Refs, label: str | None, release: int | None, planned: bool, subject: str | None = None
    ) -> Snapshot:
        """Write the content, the commit and the refs. All objects are on the disk before a ref moves.

        :raises Torn: a live file is not any more what ``state`` says; no ref has moved.
        """
        began = time.time()
        now, labels = int(began), (label,) if label is not None else ()
        known = self.snapshots(refs) if refs.main in self.damaged else []
        parent = None if refs.main in self.damaged else refs.main
        coming = Snapshot("", "", label, iso(now), now, release, state.files(), labels, planned, refs.live, who_runs())
        try:
            ident, tree = store(self.git, state, message_of(coming, subject), f"{now} +0000", parent)
        except FleetError:
            self._clear_away()
            raise
        self._sync_objects(began)
        updates: list[tuple[str, str, str | None]] = [(MAIN, ident, refs.main or ZERO), (INCOMING, ZERO, None)]
        if label is not None:
            updates.append((label_ref(label), ident, None))
        if not planned:
            updates.append((LIVE_REF, ident, None))
        if refs.main in self.damaged:
            # A new beginning: what was before it has no other way to be found, and what is damaged none at all.
            updates += kept_refs([one.id for one in known])
            updates += [(label_ref(name), ZERO, None) for name, lost in refs.labels.items() if lost in self.damaged and name != label]
            self.set_shallow([*self.shallow(), ident])
        self.update(updates)
        return replace(coming, id=ident, tree=tree)

    def update(self, updates: list[tuple[str, str, str | None]]) -> None:
        """Move refs together; with an old value only if it is still that."""
        for name, new, _old in updates:
            if name == LIVE_REF:
                self._remember(new)
        words: list[str] = []
        for name, new, old in updates:
            words += [f"delete {name}", ""] if new == ZERO else [f"update {name}", new, old or ""]
        self.git.run("update-ref", "-z", "--stdin", stdin=b"".join(to_bytes(word) + b"\0" for word in words))
        sync_all(sorted({to_bytes(os.path.join(self.repo_dir, os.path.dirname(name))) for name, _new, _old in updates}))

    def moments(self) -> list[tuple[int, str]]:
        """When which snapshot became live: seconds since 1970 and id, the oldest first. Some may be gone."""
        try:
            with open(os.path.join(self.own, "moments"), encoding="ascii") as stream:
                rows = [line.split() for line in stream if line.endswith("\n")]
        except FileNotFoundError:
            return []
        return [(int(row[0]), row[1]) for row in rows if len(row) == 2]

    def _remember(self, ident: str) -> None:
        # Before the ref moves: a crash in between leaves a moment that the next run repeats, never one that is missing.
        with open(os.path.join(self.own, "moments"), "a", encoding="ascii", opener=_open_private) as stream:
            stream.write(f"{int(time.time())} {ident}\n")
            stream.flush()
            os.fsync(stream.fileno())

    def shallow(self) -> list[str]:
        """The snapshots whose parents are gone."""
        try:
            with open(os.path.join(self.repo_dir, "shallow"), encoding="ascii") as stream:
                return stream.read().split()
        except FileNotFoundError:
            return []

    def set_shallow(self, idents: Sequence[str]) -> None:
        """Say which snapshots' parents are gone."""
        write_atomic(os.path.join(self.repo_dir, "shallow"), "".join(f"{ident}\n" for ident in sorted(set(idents))).encode("ascii"))

    def claim(self, paths: Sequence[str]) -> None:
        """Write down what this fleet watches, for the other fleets on this host to see."""
        if read_json(os.path.join(self.own, "paths")) != list(paths):
            write_json(os.path.join(self.own, "paths"), list(paths))

    def claims_of_others(self) -> dict[str, list[str]]:
        """What the other fleets on this host watch, by the directory of their history."""
        fleets, name = os.path.split(os.path.dirname(self.repo_dir))
        found = {}
        for other in sorted(os.listdir(fleets)) if os.path.isdir(fleets) else []:
            repo_dir = os.path.join(fleets, other, os.path.basename(self.repo_dir))
            claimed = read_json(os.path.join(repo_dir, "queueops", "paths")) if other != name and os.path.isdir(repo_dir) else None
            if claimed:
                found[repo_dir] = claimed
        return found

    def one(self, ident: str, refs: Refs) -> tuple[Snapshot, str]:
        """One snapshot by its full id, and the id of its manifest."""
        (_kind, commit), (_kind, tree) = self.git.objects([ident, f"{ident}^{{tree}}"])
        snapshot = parse_commit(ident, commit)
        labels = sorted(label for label, labelled in refs.labels.items() if labelled == ident)
        return replace(snapshot, labels=tuple(labels), after=refs.after.get(ident, snapshot.after)), _manifest_in(tree)

    def manifest_ids(self, idents: Sequence[str]) -> list[str]:
        """The id of each snapshot's manifest; empty where that is damaged."""
        names = [f"{ident}^{{tree}}" for ident in idents]
        try:
            return [_manifest_in(tree) for _kind, tree in self.git.objects(names)]
        except Refused:
            return [self._manifest_id(name) for name in names]

    def _manifest_id(self, tree: str) -> str:
        try:
            return _manifest_in(self.git.object(tree))
        except Refused:
            return ""

    def _sync_objects(self, began: float) -> None:
        """git syncs its objects' content; the directories that lead to them are synced here."""
        objects = os.path.join(self.repo_dir, "objects")
        folders = [os.path.join(objects, name) for name in os.listdir(objects)] + [objects]
        sync_all([to_bytes(folder) for folder in folders if os.path.isdir(folder) and os.stat(folder).st_mtime >= began - 3600])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the history alone; make the repository if need be, and clear away what a dead process left in it."""
        try:
            _make_private(self.own)
            descriptor = os.open(os.path.join(self.own, "lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise Refused(
                f"The state directory {os.path.dirname(self.repo_dir)} cannot be written: {error.strerror}",
                option="state_dir",
                next_step="Run as root (`become: true`), or name another directory",
            ) from error
        try:
            self._wait_for_lock(descriptor)
            self.git.inherited = (descriptor,)
            if not self.exists():
                self._create()
            else:
                self._clear_away()
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            raise Refused(
                f"The config history {self.repo_dir} cannot be written: {error.strerror}",
                option="state_dir",
                next_step="See to space and quota there, then run again",
            ) from error
        finally:
            self.git.inherited = ()
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
        self.git.run("init", "--quiet", "--bare", "--template=", "--shared=0600", self.repo_dir)
        self.git.run("symbolic-ref", "HEAD", MAIN)
        self._clear_away()
        # git does not sync its config, nor any directory.
        for path in ("config", "HEAD", "refs/heads", "refs", "objects", "."):
            sync(to_bytes(os.path.join(self.repo_dir, path)))
        write_atomic(os.path.join(self.own, "complete"), b"1\n")
        sync(to_bytes(os.path.dirname(self.repo_dir)))

    def _clear_away(self) -> None:
        """Remove temporary and lock files: whoever holds this history's lock knows that nobody is using them."""
        for name in ("intent.json.new", "complete.new", "paths.new", "stat-cache.new"):
            _remove(os.path.join(self.own, name))
        for pattern in ("fast_import_crash_*", "objects/*/tmp_*", "objects/pack/.tmp-*", "objects/pack/*.keep", INCOMING):
            for path in glob.glob(os.path.join(glob.escape(self.repo_dir), pattern)):
                _remove(path)
        for name in ("HEAD.lock", "config.lock", "packed-refs.lock", "shallow.lock", "shallow.new"):
            _remove(os.path.join(self.repo_dir, name))
        for folder, _folders, files in os.walk(os.path.join(self.repo_dir, "refs")):
            for name in files:
                if name.endswith(".lock"):
                    _remove(os.path.join(folder, name))


def kept_refs(idents: Sequence[str]) -> list[tuple[str, str, str | None]]:
    """Updates that keep snapshots which are not connected to the newest; by number, as two may be of the same second."""
    return [(f"{KEPT_REFS}{number:06d}-{ident[:12]}", ident, None) for number, ident in enumerate(idents)]


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
        sync(to_bytes(parent))


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _manifest_in(tree: bytes) -> str:
    """The id of the manifest, read from a snapshot's top tree as git has it."""
    _before, _name, rest = tree.partition(b" manifest.json\0")
    return rest[:20].hex()
