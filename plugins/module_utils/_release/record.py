# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one host knows of its releases: which is live, which are there, and which change was under way."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Iterator

from .._errors import Conflict, FleetError, NotFound, Refused
from .._files import make_private_dir, read_json, write_json

#: The state of the host as it was found before the first deploy.
AS_FOUND = 0

#: Stands for the release that was confirmed last.
KNOWN_GOOD = "known_good"

SCHEMA = 1


@dataclass
class ReleaseRecord:
    """One release on this host. Immutable once it was activated.

    :ivar number: the fleet's number of the release; 0 is "as found before the first deploy".
    :ivar version: the worker version, or None when nothing was installed (release 0 only).
    :ivar checksum: of the version's artifact.
    :ivar snapshot: id of the config snapshot.
    :ivar tree: id of the snapshot's content; equal content has an equal id.
    :ivar prepared_at: unix time, s.
    :ivar activated: whether the release was ever live here.
    :ivar running: whether workers run under this release (False only where none ran when the host was found).
    """

    number: int
    version: str | None
    checksum: str | None
    snapshot: str
    tree: str
    prepared_at: float
    activated: bool = False
    running: bool = True

    @property
    def digest(self) -> str:
        """What the release is made of; two releases with one digest are the same release."""
        return "%s+%s+%s" % (self.version, self.checksum, self.tree)

    def is_made_of(self, version: str, checksum: str, tree: str) -> bool:
        """Whether these make the same release."""
        return (self.version, self.checksum, self.tree) == (version, checksum, tree)

    def public(self) -> dict[str, Any]:
        """The part that modules return."""
        return {
            "number": self.number,
            "version": self.version,
            "checksum": self.checksum,
            "snapshot": self.snapshot,
            "digest": self.digest,
        }


@dataclass
class HostState:
    """Where the host stands.

    :ivar live: number of the live release; None before the first prepare.
    :ivar phase: ``confirmed``, or ``active`` while the confirm timer runs.
    :ivar previous: the release to go back to while ``active``.
    :ivar epoch: the newest operation epoch that gave an order here.
    :ivar operation: the id of that operation.
    :ivar intent: the change under way (``{"from": n, "to": n, "at": unix time}``), None between changes.
    """

    live: int | None = None
    phase: str = "confirmed"
    previous: int | None = None
    epoch: int = 0
    operation: str | None = None
    since: float = 0.0
    intent: dict[str, Any] | None = None
    schema: int = field(default=SCHEMA)


class HostRecord:
    """Reads and writes the records under ``<state_dir>/<fleet>/``."""

    def __init__(self, state_dir: str, fleet: str) -> None:
        self.folder = os.path.join(state_dir, fleet)
        self.fleet = fleet
        self._state_path = os.path.join(self.folder, "state.json")
        self._killed_path = os.path.join(self.folder, "killed.json")
        self._releases = os.path.join(self.folder, "releases")

    @property
    def config_repo(self) -> str:
        return os.path.join(self.folder, "config.git")

    @property
    def events_path(self) -> str:
        return os.path.join(self.folder, "events.jsonl")

    def create(self) -> None:
        """Make the folders. Nothing else may write before this."""
        make_private_dir(os.path.dirname(self.folder))
        make_private_dir(self.folder)
        make_private_dir(self._releases)

    @contextlib.contextmanager
    def locked(self, patience: float = 30.0) -> Iterator[None]:
        """Hold the host's transaction lock; the confirm timer and the modules exclude each other by it."""
        path = os.path.join(self.folder, "transaction.lock")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor, path, patience)
            yield
        finally:
            os.close(descriptor)

    def state(self) -> HostState:
        found = read_json(self._state_path)
        if found is None:
            return HostState()
        if found.get("schema") != SCHEMA:
            raise FleetError(
                "%s was written by another version of queueops.fleet (schema %s, this one reads %s)"
                % (self._state_path, found.get("schema"), SCHEMA),
                still_true="Nothing was changed",
                next_step="Run the version of the collection that wrote it",
            )
        return HostState(**found)

    def save_state(self, state: HostState) -> None:
        write_json(self._state_path, asdict(state))

    def killed(self, operation: str | None) -> list[dict[str, Any]]:
        """The workers that were killed for an operation on this host, as :meth:`WorkerManager.seen_as` tells of them."""
        found = read_json(self._killed_path) or {}
        workers: list[dict[str, Any]] = found.get("workers") or []
        return workers if operation is not None and found.get("operation") == operation else []

    def save_killed(self, operation: str | None, workers: list[dict[str, Any]]) -> None:
        """Write down who is about to be killed: only so can a run that died be gone on with. Those of another operation are forgotten."""
        write_json(self._killed_path, {"operation": operation, "workers": self.killed(operation) + workers})

    def releases(self) -> list[ReleaseRecord]:
        """All releases that are recorded here, by number."""
        if not os.path.isdir(self._releases):
            return []
        names = [name for name in os.listdir(self._releases) if name.endswith(".json")]
        numbers = sorted(int(name[: -len(".json")]) for name in names)
        return [self.release(number) for number in numbers]

    def release(self, number: int) -> ReleaseRecord:
        found = read_json(self._path_of(number))
        if found is None:
            known = ", ".join(str(record.number) for record in self.releases()) or "none"
            raise NotFound(
                "Release %s of fleet %s is not on this host; known here: %s" % (number, self.fleet, known),
                option="release",
                next_step="Name one of the known releases, or deploy the version to this host first",
            )
        return ReleaseRecord(**found)

    def named(self, release: str | int | None, version: str | None) -> int:
        """The number of the release that a person means.

        :param release: a number, or ``known_good``: the release that was confirmed last here and not rolled back from, which is the
            live one unless it still waits for its confirmation. None: the newest release of ``version``, one that was live if any was.
        :raises Refused: neither is given, or it is not a number.
        :raises NotFound: there is none.
        """
        if release is not None and str(release).isdigit():
            return int(release)
        state = self.state()
        if release == KNOWN_GOOD:
            number = state.live if state.phase == "confirmed" else state.previous
        elif release is None and version:
            of_version = [record for record in self.releases() if record.version == version]
            number = max(of_version, key=lambda record: (record.activated, record.number)).number if of_version else None
        else:
            raise Refused(
                "%r does not name a release" % (release,),
                option="release",
                next_step="Give a number, `known_good`, or a version without a release",
            )
        if number is None:
            what = "known good release" if release == KNOWN_GOOD else "release of version %s" % version
            known = ", ".join("%d (%s)" % (record.number, record.version) for record in self.releases()) or "none"
            raise NotFound(
                "There is no %s of fleet %s on this host; known here: %s" % (what, self.fleet, known),
                option="release",
                next_step="Name one of the known releases, or deploy the version to this host first",
            )
        return number

    def save_release(self, record: ReleaseRecord) -> None:
        write_json(self._path_of(record.number), asdict(record))

    def _path_of(self, number: int) -> str:
        return os.path.join(self._releases, "%d.json" % number)


def _lock(descriptor: int, path: str, patience: float) -> None:
    end = time.monotonic() + patience
    pause = 0.05
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() > end:
                raise Conflict(
                    "Another run or the confirm timer has been changing this host for more than %d s (lock %s)" % (patience, path),
                    still_true="This run changed nothing",
                    next_step="Wait for it to end, then run again; `fuser %s` names the process" % path,
                ) from None
        time.sleep(pause)
        pause = min(pause * 2, 1.0)
