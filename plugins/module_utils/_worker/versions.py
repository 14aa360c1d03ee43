# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The versions on a host: unpacked side by side under `<root>/versions`, one of them named by the link `<root>/current`.

Layout:

- `versions/<version>/`: one whole version; its marker file says version, checksum and when it was unpacked.
- `versions/.<version>.partial/`: one that is being made, or whose making was broken off. Never used, never counted. What only
  works in the folder it was made in (a virtual environment) is made in `versions/<version>/`, and has no marker until it is whole;
  the file `in-place` here says that it is ours.
- `versions/.<version>.dropped/`: one that is being removed. Never used, never counted.
- `guard/`: which versions are quarantined, and the check that runs before a worker starts; see `guard.py`.
- `current`: a relative link to `versions/<version>`; what is started next. It does not tell what runs.
- `previous`: a link like it, to what `current` named before it was switched last.
"""

from __future__ import annotations

import fcntl
import grp
import json
import os
import pwd
import re
import shutil
import time
from contextlib import contextmanager
from typing import Any, Collection, Iterator, Sequence

from .._errors import Conflict, FleetError, NotFound, Refused
from .._files import fsync_dir, write_atomic
from . import guard
from .artifact import FOLDER_MODE, MARKER, Artifact, Tools, forget, open_artifact, parse_checksum

CURRENT, PREVIOUS = "current", "previous"
_PARTIAL = re.compile(r"\.(.+)\.partial\Z")
_DROPPED = re.compile(r"\.(.+)\.dropped\Z")
_IN_PLACE = "in-place"


class VersionStore:
    """The versions under one root folder.

    :param root: absolute path, for example `/opt/mailer`; made when it is not there.
    :param owner: user name or number that unpacked files belong to; default: who runs this.
    :param group: group name or number likewise; default: the owner's.
    :param tools: what some kinds of artifact need; default: the host's usual ones.
    """

    def __init__(self, root: str, owner: str | None = None, group: str | None = None, tools: Tools | None = None) -> None:
        self.root = os.path.normpath(root)
        self._tools = tools or Tools(name=os.path.basename(self.root))
        self._owner = owner
        self._group = group
        self._versions = os.path.join(self.root, "versions")
        self._link = os.path.join(self.root, CURRENT)

    @property
    def name(self) -> str:
        """What the store's images are tagged with, besides their version."""
        return self._tools.name

    def prepare(self, version: str, artifact: str | None, checksum: str | None) -> bool:
        """Fetch, verify and unpack `version`, unless it is there already. Whether it was not.

        Crash-safe: the folder gets its name when all of it is on the disk. `{version}` in `artifact` stands for the version.
        Without an artifact the version must be there.

        :raises Refused: wrong checksum (`checksum`), there with another checksum, unsafe archive; nothing is unpacked then.
        :raises NotFound: no such artifact; or none given and no such version.
        :raises Unavailable: the artifact's server does not answer.
        """
        if not self._missing(version, artifact, checksum):
            return False
        source = self._artifact(version, artifact, checksum)
        ids = self._ids()
        with self._explained():
            self._make_folders()
            guard.install(self.root)
        with self._locked(), self._explained():
            # Another run may have been quicker while this one waited.
            if not self._missing(version, artifact, checksum):
                return False
            self._clear(version)
            try:
                self._fill(version, source, ids)
            finally:
                self._clear(version)
        return True

    def check(self, version: str, artifact: str | None, checksum: str | None) -> bool:
        """What :meth:`prepare` would return or refuse, as far as reading can tell. Writes nothing."""
        if not self._missing(version, artifact, checksum):
            return False
        self._ids()
        above = self._versions
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        if not os.path.isdir(above):
            raise Refused(f"{above} is not a folder, so {self._versions} cannot be made", option="worker.root")
        if not os.access(above, os.W_OK | os.X_OK):
            raise Refused(f"No permission to write in {above}", option="worker.root", next_step="Run with become")
        self._artifact(version, artifact, checksum).examine()
        return True

    def require(self, version: str) -> None:
        """Refuse a version that could not be started.

        :raises NotFound: it is missing or its unpacking was broken off; the message names those that are here.
        :raises Refused: not a name of a version, or one that a person quarantined.
        """
        self._require_whole(version)
        guard.refuse_ordered(self.root, version)

    def _require_whole(self, version: str) -> None:
        check_name(version)
        if self.marker(version) is not None:
            return
        whole = ", ".join(self.whole()) or "none"
        folder = os.path.join(self._versions, version)
        unfinished = os.path.lexists(folder) or os.path.lexists(os.path.join(self._versions, f".{version}.partial"))
        raise NotFound(
            f"Version {version} is {'unfinished' if unfinished else 'not'} in {self._versions}; there are: {whole}",
            option="version",
            next_step="Give its artifact and checksum to unpack it, or name a version that is there",
        )

    def marker(self, version: str) -> dict[str, Any] | None:
        """What was written when `version` was whole: `version`, `checksum`, `unpacked_at`; None if it is not."""
        try:
            with open(os.path.join(self._versions, version, MARKER), "rb") as stream:
                marker = json.loads(stream.read().decode())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        except OSError as error:
            raise self._explain(error) from None
        return marker if isinstance(marker, dict) and marker.get("version") == version else None

    def current(self) -> str | None:
        """The version that the link names, read as a link; None when there is no link.

        :raises Refused: `current` is no link, or leads elsewhere than to a folder in `versions`.
        """
        try:
            target = os.readlink(self._link)
        except FileNotFoundError:
            return None
        except OSError as error:
            if os.path.lexists(self._link) and not os.path.islink(self._link):
                raise Refused(
                    f"{self._link} is not a link, so it is not queueops.fleet's",
                    option="worker.root",
                    next_step="Move it away, or name another root",
                ) from None
            raise self._explain(error) from None
        path = os.path.normpath(os.path.join(self.root, target))
        folder, version = os.path.split(path)
        if os.path.realpath(folder) != os.path.realpath(self._versions):
            raise Refused(
                f"{self._link} leads to {target}, which is not a version in {self._versions}",
                option="worker.root",
                next_step="Move that folder into versions/, or name another root",
            )
        return version

    def activate(self, version: str | None) -> bool:
        """Let `current` name `version`, in one durable step; None removes the link. Whether that changed anything.

        :raises NotFound: the version is not here as a whole.
        :raises Refused: a person quarantined it.
        """
        if version is not None:
            self.require(version)
        before = self.current()
        if before == version:
            return False
        with self._explained():
            if before is not None:
                self._point(PREVIOUS, before)
            if version is None:
                os.unlink(self._link)
                fsync_dir(self.root)
            else:
                self._point(CURRENT, version)
        return True

    def previous(self) -> str | None:
        """The version that was live before the one that is."""
        try:
            return os.path.basename(os.readlink(os.path.join(self.root, PREVIOUS))) or None
        except OSError:
            return None

    def _point(self, link: str, version: str) -> None:
        beside = os.path.join(self.root, f".{link}.new")
        if os.path.lexists(beside):
            os.unlink(beside)
        os.symlink(os.path.join("versions", version), beside)
        os.replace(beside, os.path.join(self.root, link))
        fsync_dir(self.root)

    def list(self) -> list[dict[str, Any]]:
        """All versions here, in order of unpacking.

        Each has `version`, `live` (the link names it), `unfinished`, `unpacked_at`, `checksum` and `kind` (of its artifact).
        """
        found: dict[str, dict[str, Any]] = {}
        names = self._names()
        live = self.current()
        for name in names:
            if _DROPPED.match(name):
                continue
            partial = _PARTIAL.match(name)
            version = partial.group(1) if partial else name
            marker = None if partial else self.marker(version)
            # A whole version outweighs what a broken off attempt at it left.
            if (name.startswith(".") and not partial) or (partial and version in names):
                continue
            found[version] = {
                "version": version,
                "live": version == live,
                "unfinished": marker is None,
                "unpacked_at": marker.get("unpacked_at") if marker else None,
                "checksum": marker.get("checksum") if marker else None,
                "kind": marker.get("kind", "tar") if marker else None,
            }
        return sorted(found.values(), key=lambda entry: (entry["unpacked_at"] or "", entry["version"]))

    def whole(self) -> Sequence[str]:
        """The names of the versions that are here as a whole, sorted."""
        return sorted(name for name in self._names() if not name.startswith(".") and self.marker(name) is not None)

    def droppable(self, keep: int, protect: Collection[str], coming: str | None = None, live: str | None = None) -> Sequence[str]:
        """The versions that are too many, oldest first: all but the `keep` newest whole ones, and those that are never dropped.

        These are the live one and the one before, and `protect`: what runs, is known good, or is needed by a release.

        :param coming: a version that is yet to be prepared, and so will be the newest.
        :param live: the version that the link will name by then; default: the one it names now.
        """
        now = self.current()
        # After a switch the one before is what is live now.
        spared = {*protect, now, coming, live if live and live != now else self.previous()}
        whole = [entry["version"] for entry in self.list() if not entry["unfinished"]]
        if coming and coming not in whole:
            whole.append(coming)
        return [version for version in whole[: max(0, len(whole) - keep)] if version not in spared]

    def drop(self, version: str) -> None:
        """Remove a version. Whatever dies on the way, it is either there as a whole or gone.

        :raises Refused: the link names it.
        """
        self._require_whole(version)
        if self.current() == version:
            raise Refused(f"Version {version} is what {self._link} names, so it is not dropped", option="version")
        marker = self.marker(version) or {}
        with self._locked(), self._explained():
            for name in self._names():
                # What an earlier run did not come to remove.
                if _DROPPED.match(name):
                    _remove_tree(os.path.join(self._versions, name))
            away = os.path.join(self._versions, f".{version}.dropped")
            os.rename(os.path.join(self._versions, version), away)
            fsync_dir(self._versions)
            _remove_tree(away)
        forget(marker, version, self._tools)

    def _names(self) -> Sequence[str]:
        try:
            return os.listdir(self._versions)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._explain(error) from None

    def _missing(self, version: str, artifact: str | None, checksum: str | None) -> bool:
        """Whether `version` has yet to be unpacked; refuses what can be told from the arguments and from what is here."""
        check_name(version)
        if not artifact:
            self._require_whole(version)
        wanted = "sha256:" + parse_checksum(checksum) if artifact or checksum else None
        marker = self.marker(version)
        folder = os.path.join(self._versions, version)
        if marker is not None:
            if wanted and marker.get("checksum") != wanted:
                raise Refused(
                    f"Version {version} is in {self._versions} already, from an artifact with the checksum "
                    f"{marker.get('checksum')}, not {wanted}",
                    option="checksum",
                    next_step="Give what was built anew a version of its own",
                )
            return False
        if os.path.lexists(folder) and not self._is_ours_unfinished(version):
            raise Refused(
                f"{folder} is there, but was not unpacked by queueops.fleet",
                option="version",
                next_step="Move it away, or choose another version",
            )
        return True

    def _artifact(self, version: str, artifact: str | None, checksum: str | None) -> Artifact:
        return open_artifact((artifact or "").replace("{version}", version), checksum, version, self._tools)

    def _partial(self, version: str) -> str:
        return os.path.join(self._versions, f".{version}.partial")

    def _is_ours_unfinished(self, version: str) -> bool:
        return os.path.exists(os.path.join(self._partial(version), _IN_PLACE))

    def _clear(self, version: str) -> None:
        """Remove what an attempt at `version` left that was broken off."""
        # The sign that the folder is ours goes last.
        if self._is_ours_unfinished(version) and self.marker(version) is None:
            _remove_tree(os.path.join(self._versions, version))
        _remove_tree(self._partial(version))

    def _fill(self, version: str, source: Artifact, ids: tuple[int, int]) -> None:
        partial, final = self._partial(version), os.path.join(self._versions, version)
        os.mkdir(partial, 0o700)
        tree = os.path.join(partial, "tree")
        if source.in_place:
            tree = final
            write_atomic(os.path.join(partial, _IN_PLACE), b"")
            fsync_dir(self._versions)
        os.mkdir(tree)
        os.chmod(tree, FOLDER_MODE)
        extra = source.fill(tree, partial)
        _give_to(tree, *ids)
        # The marker says that the rest is whole, so the rest has to be on the disk before it.
        _sync_file_system(tree)
        now = time.time()
        # With milliseconds, as versions are listed in this order.
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
        marker = {"version": version, "checksum": source.checksum, "unpacked_at": stamp, "kind": source.kind, **extra}
        write_atomic(os.path.join(tree, MARKER), (json.dumps(marker) + "\n").encode(), 0o644)
        if not source.in_place:
            os.rename(tree, final)
            fsync_dir(self._versions)

    def _ids(self) -> tuple[int, int]:
        """Numbers of the owner and the group of unpacked files; -1 leaves them."""
        uid = gid = -1
        if self._owner:
            try:
                entry = pwd.getpwuid(int(self._owner)) if self._owner.isdigit() else pwd.getpwnam(self._owner)
            except KeyError:
                raise NotFound(f"There is no user {self._owner} on this host", option="worker.owner", next_step="Create it first") from None
            uid, gid = entry.pw_uid, entry.pw_gid
        if self._group:
            try:
                gid = (grp.getgrgid(int(self._group)) if self._group.isdigit() else grp.getgrnam(self._group)).gr_gid
            except KeyError:
                raise NotFound(
                    f"There is no group {self._group} on this host", option="worker.group", next_step="Create it first"
                ) from None
        if os.geteuid() != 0:
            if uid not in (-1, os.geteuid()):
                raise Refused(
                    f"Only root can give files to {self._owner}", option="worker.owner", next_step="Run with become, or leave owner out"
                )
            if gid != -1 and gid != os.getegid() and gid not in os.getgroups():
                raise Refused(f"Only root can give files to group {self._group}", option="worker.group", next_step="Run with become")
        return uid, gid

    def _make_folders(self) -> None:
        for folder in (self.root, self._versions):
            if os.path.isdir(folder):
                continue
            os.makedirs(folder)
            os.chmod(folder, FOLDER_MODE)
            fsync_dir(os.path.dirname(folder))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one run at a time unpack below this root; the lock ends with the process."""
        descriptor = os.open(self._versions, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Conflict(
                f"Another run is unpacking a version in {self._versions}",
                still_true="Nothing was changed",
                next_step="Wait until it has ended",
            ) from None
        try:
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._explain(error) from error

    def _explain(self, error: OSError) -> FleetError:
        return Refused(
            f"{error.filename or self.root}: {error.strerror or error}",
            option="worker.root",
            still_true="The versions and the link are as they were",
            next_step="Make room" if error.errno == 28 else "Look at the folder's permissions and its file system",
        )


def check_name(version: str) -> None:
    """Refuse what cannot be the name of a version."""
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9._+-]*\Z", version or "") or len(version) > 128:
        raise Refused(
            f"{version!r} is not a name of a version",
            option="version",
            next_step="Use letters, digits and . _ + -, beginning with a letter or digit, at most 128",
        )


def _give_to(folder: str, uid: int, gid: int) -> None:
    """Let `folder` and everything in it belong to these; -1 leaves either."""
    if uid == -1 and gid == -1:
        return
    os.chown(folder, uid, gid)
    for where, folders, files in os.walk(folder):
        for name in folders + files:
            os.chown(os.path.join(where, name), uid, gid, follow_symlinks=False)


def _remove_tree(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _sync_file_system(path: str) -> None:
    """Put everything that was written to the file system of `path` on its disk; one call, however many files."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            import ctypes

            if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) == 0:
                return
        except (ImportError, AttributeError, OSError):
            pass
        os.sync()
    finally:
        os.close(descriptor)
