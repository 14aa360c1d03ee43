# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What differs between two states, as a person reads it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Iterable

from . import xattrs
from .entries import DIRECTORY, FILE, SYMLINK, Change, Entry, Names, State
from .watch import Watch, printable

#: Texts longer than this are shown by size and checksum, as ansible.builtin.copy does.
LONGEST_TEXT = 104448

HIDDEN = "changed (sensitive: content not shown)\n"

_KIND_WORDS = {FILE: "file", DIRECTORY: "directory", SYMLINK: "symbolic link"}


@dataclass(frozen=True)
class FileDiff:
    """One path that differs.

    :ivar path: the path as shown: control characters and other than UTF-8 are escaped.
    :ivar before: the text before; its first line tells kind, mode, owner and group where these differ.
    :ivar after: the text after, in the same way.
    :ivar before_header: the path, with "(absent)" where there is nothing. The same for ``after_header``.
    """

    path: str
    before: str
    after: str
    before_header: str
    after_header: str

    def as_ansible(self) -> dict[str, str]:
        """One element of a module's ``diff``."""
        return {
            "before": self.before,
            "after": self.after,
            "before_header": self.before_header,
            "after_header": self.after_header,
        }


def describe(found: Iterable[Change], before: State, after: State, names: Names, watches: Iterable[Watch]) -> list[FileDiff]:
    """The changes as diffs. A path that is sensitive in any of the ``watches`` shows no content."""
    return [_describe(change, before, after, names, any(watch.is_sensitive(change.path) for watch in watches)) for change in found]


def _describe(change: Change, before: State, after: State, names: Names, sensitive: bool) -> FileDiff:
    path, old, new = change.path, change.before, change.after
    shown = printable(path)
    texts = ["", ""]
    dressed = old is None or new is None or old.kind != new.kind or names.same_content(old, new) or not names.same_dress(old, new)
    if dressed:
        texts = ["" if entry is None else _dress(entry, sensitive) for entry in (old, new)]
    if not names.same_content(old, new):
        if sensitive:
            texts[1 if new is not None else 0] += HIDDEN
        else:
            texts[0] += _content(path, old, before)
            texts[1] += _content(path, new, after)
    return FileDiff(shown, texts[0], texts[1], shown if old else f"{shown} (absent)", shown if new else f"{shown} (absent)")


def _dress(entry: Entry, secret: bool) -> str:
    owner = f"owner {entry.owner or entry.uid}, group {entry.group or entry.gid}"
    mode = "" if entry.kind == SYMLINK else f"mode {entry.mode:04o}, "
    link = f"one file with {printable(entry.link)}\n" if entry.link else ""
    return f"{_KIND_WORDS[entry.kind]}, {mode}{owner}\n{xattrs.shown(entry.xattrs, secret)}{link}"


def _content(path: str, entry: Entry | None, state: State) -> str:
    if entry is None or entry.kind == DIRECTORY:
        return ""
    if entry.kind == SYMLINK:
        return f"leads to {printable(entry.target)}\n"
    data = state.content(path, entry)
    if b"\0" not in data:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = None
        if text is not None and len(data) <= LONGEST_TEXT:
            return text
        if text is not None:
            return _sum("text too long to show", data)
    return _sum("binary", data)


def _sum(what: str, data: bytes) -> str:
    return f"{what}, {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}\n"
