# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the snapshots that are left of a history with a damaged commit, which hides all that came before it from git."""

from __future__ import annotations

from typing import Collection, Iterable

from .._errors import Refused
from .git import Git


def survivors(git: Git, newest: str, shallow: Collection[str], named: Iterable[str]) -> tuple[list[str], list[str]]:
    """The ids of the commits that can be read, the oldest first, and of those that cannot.

    :param newest: what the branch leads to.
    :param shallow: the commits whose parents are gone on purpose.
    :param named: what other refs lead to.
    """
    listed = git.run("cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)").decode("ascii")
    idents = [line.split()[0] for line in listed.splitlines() if line.endswith(" commit")]
    parents: dict[str, str | None] = {}
    times: dict[str, int] = {}
    for ident in idents:
        try:
            header = git.object(ident).partition(b"\n\n")[0].decode("utf-8", "surrogateescape")
        except Refused:
            continue
        fields = dict(line.split(" ", 1) for line in header.split("\n") if " " in line)
        parents[ident] = None if ident in shallow else fields.get("parent")
        times[ident] = int(fields["committer"].rsplit(" ", 2)[1])
    wanted = {*idents, newest, *named, *(parent for parent in parents.values() if parent is not None)}
    order: list[str] = []
    # Each piece of the line begins at a commit that no other has for its parent; times have seconds, so that two may have the same.
    for tip in sorted(set(parents) - set(parents.values()), key=lambda ident: (ident == newest, times[ident])):
        piece: list[str] = []
        at: str | None = tip
        while at in parents and at not in order:
            piece.append(str(at))
            at = parents[str(at)]
        order += reversed(piece)
    return order, sorted(wanted - set(parents))
