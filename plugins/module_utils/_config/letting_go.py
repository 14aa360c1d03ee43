# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets go of the oldest snapshots.

What stays keeps its id. Where a snapshot's parent goes, git's ``shallow`` file says that history begins there, so that ``git log``
and ``git fsck`` are content; snapshots that are not connected to the newest any more are kept by refs of their own.
"""

from __future__ import annotations

from typing import Collection, Sequence

from .git import ZERO
from .repository import AFTER_REFS, Refs, Repository, kept_refs
from .snapshots import Snapshot, label_ref

#: Labels that say that a release needs the snapshot.
RELEASE_LABEL = "release-"


def dropped(known: Sequence[Snapshot], keep: int, needed: Collection[str]) -> list[Snapshot]:
    """Which snapshots go: all but the newest ``keep``, those that a release is made of, and those that are ``needed``."""
    older = known[: max(len(known) - keep, 0)]
    return [one for one in older if one.id not in needed and not _of_a_release(one)]


def let_go(repository: Repository, refs: Refs, known: Sequence[Snapshot], gone: Collection[str]) -> None:
    """Forget the snapshots ``gone`` and remove what only they held. Crash-safe: run again, it ends the same.

    The caller holds the history's lock, and no change is pending.
    """
    kept = [one.id for one in known if one.id not in gone]
    order = [one.id for one in known]
    begun = repository.shallow()
    parent = {ident: before for before, ident in zip(order, order[1:]) if ident not in begun}
    connected = set()
    ident = refs.main
    while ident is not None and ident not in gone:
        connected.add(ident)
        ident = parent.get(ident)
    updates: list[tuple[str, str, str | None]] = [(name, ZERO, None) for name in refs.kept]
    apart = [ident for ident in kept if ident not in connected]
    numbered = kept_refs(apart)
    updates = [update for update in updates if update[0] not in {name for name, _ident, _old in numbered}] + numbered
    updates += [(label_ref(label), ZERO, None) for label, ident in refs.labels.items() if ident in gone]
    updates += [(AFTER_REFS + ident, ZERO, None) for ident in refs.after if ident in gone]
    if updates:
        repository.update(updates)
    begins = [ident for ident in kept if parent.get(ident, ident) in gone or ident in begun]
    repository.set_shallow(begins)
    repository.git.run("repack", "-a", "-d", "-q")
    repository.git.run("prune", "--expire=now")


def _of_a_release(snapshot: Snapshot) -> bool:
    return snapshot.release is not None or any(label.startswith(RELEASE_LABEL) for label in snapshot.labels)
