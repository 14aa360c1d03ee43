# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pushes the history to a git remote. A remote that cannot be reached is told of, and is no failure."""

from __future__ import annotations

import hashlib
import re
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

from .._errors import Refused
from .git import GitFailed
from .repository import PUSHED_REFS, Refs, Repository

#: How long a push may take.
PUSH_SECONDS = 60

_BRANCH = re.compile(r"\A(?!.*(?:\.\.|//|\.lock(?:/|\Z)|\.(?:/|\Z)|/\.))[A-Za-z0-9_](?:[A-Za-z0-9._/-]*[A-Za-z0-9_-])?\Z")


class Remote(NamedTuple):
    """Where the history is pushed to.

    :ivar url: anything that git pushes to; without a password, for that would be in the argument lists of git's helpers.
    :ivar branch: the branch that is this history there, and nobody else's.
    """

    url: str
    branch: str

    @property
    def pushed_ref(self) -> str:
        """The ref that remembers what is there already."""
        return PUSHED_REFS + hashlib.sha256(f"{self.url}\n{self.branch}".encode()).hexdigest()[:16]


class Pushed(NamedTuple):
    """How a push went.

    :ivar done: something was pushed.
    :ivar behind: how many snapshots the remote lacks.
    :ivar error: why, or None.
    """

    done: bool
    behind: int
    error: str | None


def remote_of(url: str, branch: str | None, fleet: str) -> Remote:
    """The remote that the options name; by default the branch is this fleet's on this host.

    :raises Refused: the URL has a secret in it, or the branch's name is not valid.
    """
    if not url.strip() or url.startswith("-") or not url.isprintable():
        raise Refused("The remote is not the address of a git repository", option="remote", next_step="Give a URL or a path")
    parsed = urlsplit(url) if "://" in url else None
    if parsed is not None and (parsed.password is not None or (parsed.scheme in ("http", "https") and parsed.username is not None)):
        raise Refused(
            f"The remote at {parsed.hostname} is given with a user or a password in its URL, which other processes could read",
            option="remote",
            next_step="Give it without, and let a credential helper of git's, or an SSH key, give the secret",
        )
    host = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname()).strip("-") or "host"
    chosen = branch or f"queueops/{fleet}/{host}"
    if not _BRANCH.match(chosen):
        raise Refused(f"The branch {chosen!r} is not valid", option="remote_branch", next_step="Use letters, digits, hyphens and slashes")
    return Remote(url, chosen)


def behind(repository: Repository, refs: Refs, remote: Remote) -> list[str]:
    """The snapshots that the remote lacks, as far as is known here."""
    if refs.main is None:
        return []
    known = refs.pushed.get(remote.pushed_ref)
    without = [f"^{known}"] if known is not None else []
    return repository.git.run("rev-list", "--first-parent", refs.main, *without).decode("ascii").split()


def push(repository: Repository, remote: Remote) -> Pushed:
    """Push what the remote lacks. The history may be used by others meanwhile: nothing that is pushed ever changes."""
    refs = repository.refs()
    lacking = behind(repository, refs, remote)
    if not lacking or refs.main is None:
        return Pushed(False, 0, None)
    try:
        repository.git.push(remote.url, f"{refs.main}:refs/heads/{remote.branch}", PUSH_SECONDS)
    except GitFailed as error:
        return Pushed(False, len(lacking), _explained(error.message))
    with repository.locked():
        repository.update([(remote.pushed_ref, refs.main, None)])
    return Pushed(True, 0, None)


def _explained(said: str) -> str:
    if "shallow update not allowed" not in said:
        return said
    return (
        "snapshots were forgotten here that the remote never had, and it takes no history without its beginning; "
        "set receive.shallowUpdate to true in the remote repository"
    )
