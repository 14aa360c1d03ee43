# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a snapshot is: how a person names it, and how its commit says it."""

from __future__ import annotations

import os
import pwd
import re
import time
from dataclasses import dataclass
from typing import Sequence

from .._errors import Refused
from .watch import printable

LABEL_REFS = "refs/labels/"

#: Words that stand for a snapshot by themselves and cannot be labels.
RESERVED = ("previous", "live")


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
    :ivar who: name of the user who had it recorded, before any ``sudo``.
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
    who: str | None = None

    @property
    def short(self) -> str:
        return self.id[:12]


def who_runs() -> str | None:
    """The user who runs this, before any ``sudo``."""
    before = os.environ.get("SUDO_USER", "")
    if before.isprintable() and before:
        return before
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def message_of(snapshot: Snapshot, subject: str | None = None) -> bytes:
    """The commit message of a snapshot, which :func:`parse_commit` reads."""
    lines = [subject or snapshot.label or f"Snapshot of {snapshot.files} files", "", f"Files: {snapshot.files}"]
    lines += [f"Label: {snapshot.label}"] if snapshot.label is not None else []
    lines += [f"Release: {snapshot.release}"] if snapshot.release is not None else []
    lines += ["Planned: yes"] if snapshot.planned else []
    lines += [f"After: {snapshot.after}"] if snapshot.after else []
    lines += [f"Who: {snapshot.who}"] if snapshot.who else []
    return "\n".join(lines).encode("utf-8", "surrogateescape") + b"\n"


def label_ref(label: str) -> str:
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


def label_of(ref: str) -> str:
    """The label of a ref."""
    return re.sub(r"%([0-9A-F]{2})", lambda found: chr(int(found.group(1), 16)), ref[len(LABEL_REFS) :])


def parse_commit(ident: str, commit: bytes) -> Snapshot:
    """The inverse of :func:`message_of`."""
    header, _blank, message = commit.decode("utf-8", "surrogateescape").partition("\n\n")
    fields = dict(line.split(" ", 1) for line in header.split("\n") if " " in line)
    _subject, _blank, body = message.partition("\n\n")
    said = dict(line.split(": ", 1) for line in body.split("\n") if ": " in line)
    unix = int(fields["committer"].rsplit(" ", 2)[1])
    return Snapshot(
        id=ident,
        tree=fields["tree"],
        label=said.get("Label"),
        time=iso(unix),
        unix=unix,
        release=int(said["Release"]) if "Release" in said else None,
        files=int(said.get("Files", "0")),
        planned="Planned" in said,
        after=said.get("After"),
        who=said.get("Who"),
    )


def iso(unix: int) -> str:
    """Seconds since 1970 as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix))


def named(snapshots: Sequence[Snapshot]) -> str:
    """The newest few snapshots, for an error."""
    rows = [f"{one.short} ({printable(one.label)}, {one.time})" if one.label else f"{one.short} ({one.time})" for one in snapshots[-8:]]
    more = len(snapshots) - len(rows)
    return ", ".join(reversed(rows)) + (f" and {more} older" if more else "")
