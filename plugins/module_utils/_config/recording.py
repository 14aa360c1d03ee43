# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes a state into the repository as a commit, with all content that is not in there yet; and tells its tree's id without."""

from __future__ import annotations

import re
from typing import IO, Any

from .._errors import Unavailable
from .entries import DIRECTORY, SYMLINK, State
from .git import Git, blob_id, object_sum
from .watch import printable, to_bytes

#: What a commit is written to before the refs that count move to it.
INCOMING = "refs/queueops/incoming"

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class Torn(Unavailable):
    """A file changed between being looked at and being stored; nothing of it was recorded."""


def tree_id(state: State) -> str:
    """The id of the tree that :func:`store` would write."""
    root: dict[bytes, Any] = {}
    for mode, blob, name in _rows(state):
        *folders, leaf = name.split(b"/")
        folder = root
        for each in folders:
            folder = folder.setdefault(each, {})
        folder[leaf] = (mode, blob)
    return _tree_sum(root).hex()


def store(git: Git, state: State, message: bytes, when: str, parent: str | None) -> tuple[str, str]:
    """Write the commit; return its id and its tree's.

    :param when: date of the commit in git's ``<unix> +0000`` form.
    :raises Torn: a live file is not any more what ``state`` says.
    """
    links = {blob_id(to_bytes(entry.target)): to_bytes(entry.target) for entry in state.entries.values() if entry.kind == SYMLINK}
    manifest = state.manifest()
    small = dict(links, **{blob_id(manifest): manifest})
    files = {entry.blob: path for path, entry in state.entries.items() if entry.blob}
    missing = git.missing([*small, *files])
    with git.importing() as stream:
        stream.write(b"feature done\n")
        for blob in missing:
            _send(stream, b"blob\n", small[blob] if blob in small else _content(state, files[blob], blob))
        stream.write(f"commit {INCOMING}\nmark :1\ncommitter {git.IDENTITY} {when}\n".encode("ascii"))
        _send(stream, b"", message)
        if parent is not None:
            stream.write(f"from {parent}\n".encode("ascii"))
        stream.write(b"deleteall\n")
        for mode, blob, name in _rows(state):
            stream.write(f"M {mode} {blob} ".encode("ascii") + quoted(name) + b"\n")
        stream.write(b"\nget-mark :1\ndone\n")
    commit = git.imported()
    return commit, git.line("rev-parse", f"{commit}^{{tree}}")


def _rows(state: State) -> list[tuple[str, str, bytes]]:
    """Mode, blob and name of all that is in the tree."""
    rows = [("100644", blob_id(state.manifest()), b"manifest.json")]
    for path, entry in state.entries.items():
        if entry.kind != DIRECTORY:
            mode = "120000" if entry.kind == SYMLINK else "100755" if entry.mode & 0o100 else "100644"
            name = b"/".join(_git_name(part) for part in to_bytes(path).strip(b"/").split(b"/"))
            rows.append((mode, entry.blob or blob_id(to_bytes(entry.target)), b"files/" + name))
    return rows


def _content(state: State, path: str, blob: str) -> bytes:
    try:
        content = state.content(path, state.entries[path])
    except OSError as error:
        raise Torn(f"{printable(path)} could not be read again: {error.strerror}", next_step="Run again") from error
    if blob_id(content) != blob:
        raise Torn(f"{printable(path)} changed while it was recorded", next_step="Run again")
    return content


def _send(stream: IO[bytes], head: bytes, content: bytes) -> None:
    stream.write(head + b"data %d\n" % len(content))
    stream.write(content)
    stream.write(b"\n")


def _tree_sum(folder: dict[bytes, Any]) -> bytes:
    rows = []
    for name, what in folder.items():
        if isinstance(what, dict):
            rows.append((name + b"/", b"40000 " + name + b"\0" + _tree_sum(what)))
        else:
            rows.append((name, what[0].encode("ascii") + b" " + name + b"\0" + bytes.fromhex(what[1])))
    body = b"".join(row for _key, row in sorted(rows))
    summed = object_sum("tree", len(body))
    summed.update(body)
    return bytes(summed.digest())


def quoted(path: bytes) -> bytes:
    """A path in C-style quotes, as git reads it: that is how a newline in a name gets through."""
    plain = bytearray(b'"')
    for byte in path:
        if byte < 0x20 or byte >= 0x7F or byte in b'"\\':
            plain += b"\\%03o" % byte
        else:
            plain.append(byte)
    return bytes(plain + b'"')


def _git_name(name: bytes) -> bytes:
    """A path component as git's tree has it: itself, unless git (or a fsck of it) would not take a name like ``.git``."""
    plain = re.sub(rb"[^a-z0-9.~]", b"", name.lower())
    if b".git" not in plain and b"git~" not in plain and not plain.startswith(b"gi7") and not name.startswith(b"%"):
        return name
    return b"".join(b"%%%02X" % byte if number == 0 or byte not in _PLAIN else bytes([byte]) for number, byte in enumerate(name))
