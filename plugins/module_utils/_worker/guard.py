# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The quarantine: a version in it cannot start, by whatever means, on this host.

`<root>/guard/quarantined/<version>.entry` is one entry; its first line is the unix time from which on it holds, its second says why.
`<root>/guard/may-start` is the check. The service manager runs it before each start, as the worker's user or as root, so that
both are readable by all; it needs nothing but /bin/sh.

The rule for a check that cannot be made: only an entry that is there keeps a version from starting. An entry that cannot be read
holds. A check that is gone keeps every version from starting.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from .._errors import Refused
from .._files import fsync_dir, remove_durably, write_atomic
from .artifact import FOLDER_MODE

FOLDER = "guard"
CHECK = "may-start"
ENTRIES = "quarantined"
ENTRY = ".entry"

#: Which version is about to start: the variable in a container, which has no link; else what the link names.
SCRIPT = """\
#!/bin/sh
# queueops.fleet: exits with 1 if the version that would start is quarantined; else runs its arguments, if it has any.
here=${0%/*}
version=${QUEUEOPS_VERSION_TO_START:-$(readlink "$here/../current")}
version=${version##*/}
entry=$here/quarantined/$version.entry
if [ -n "$version" ] && [ -e "$entry" ]; then
    from=0
    read -r from <"$entry" 2>/dev/null || from=0
    case $from in '' | *[!0-9]*) from=0 ;; esac
    if [ "$from" -eq 0 ] || [ "$(date +%s)" -ge "$from" ]; then
        echo "queueops.fleet: version $version is quarantined and does not start; see $entry" >&2
        exit 1
    fi
fi
[ $# -eq 0 ] || exec "$@"
"""


@dataclass(frozen=True)
class Entry:
    """One quarantined version.

    :ivar since: from when on it cannot start, seconds since 1970; in the future for one that has yet to be confirmed.
    :ivar went_back: a switch made it, as the host went back from the version; the next switch to the version ends it.
        Else a person did, and only a person ends it.
    """

    version: str
    why: str
    since: float
    by: str | None = None
    went_back: bool = False

    @property
    def holds(self) -> bool:
        """Whether it keeps the version from starting now."""
        return time.time() >= self.since

    def as_dict(self) -> dict[str, Any]:
        """As a module returns it."""
        return asdict(self)


def folder(root: str) -> str:
    """The folder of the check and the entries."""
    return os.path.join(root, FOLDER)


def check_path(root: str) -> str:
    """The program that a service manager runs before it starts a worker."""
    return os.path.join(root, FOLDER, CHECK)


def is_installed(root: str) -> bool:
    """Whether the check is there, as this release of the collection has it."""
    try:
        with open(check_path(root), encoding="utf-8") as stream:
            return stream.read() == SCRIPT
    except OSError:
        return False


def install(root: str) -> bool:
    """Put the check in its place, if it is not there already. Whether it was not."""
    entries = os.path.join(root, FOLDER, ENTRIES)
    for path in (root, os.path.join(root, FOLDER), entries):
        if not os.path.isdir(path):
            os.makedirs(path)
            os.chmod(path, FOLDER_MODE)
            fsync_dir(os.path.dirname(path))
    if is_installed(root):
        return False
    write_atomic(check_path(root), SCRIPT.encode(), 0o755)
    return True


def quarantined(root: str) -> list[Entry]:
    """All entries, by version; also those that do not hold yet."""
    try:
        names = os.listdir(os.path.join(root, FOLDER, ENTRIES))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [_read(root, name[: -len(ENTRY)]) for name in sorted(names) if name.endswith(ENTRY)]


def entry(root: str, version: str) -> Entry | None:
    """The entry of a version, if it has one."""
    return next((found for found in quarantined(root) if found.version == version), None)


def refuse_quarantined(root: str, version: str) -> None:
    """Refuse a version that cannot start.

    :raises Refused: it is quarantined; says since when and why.
    """
    _refuse(entry(root, version))


def refuse_ordered(root: str, version: str) -> None:
    """Refuse a version that a person quarantined. One that the host went back from may be switched to again.

    :raises Refused: it is quarantined; says since when and why.
    """
    found = entry(root, version)
    if found is not None and not found.went_back:
        _refuse(found)


def _refuse(found: Entry | None) -> None:
    if found is not None and found.holds:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found.since))
        raise Refused(
            f"Version {found.version} is quarantined since {since}: {found.why}",
            option="version",
            next_step="Name another version, or end the quarantine with queueops.fleet.worker_version, state=unquarantined",
        )


def add(root: str, entry_: Entry) -> None:
    """Quarantine a version durably; one that is quarantined already gets the new reason and time."""
    install(root)
    about = json.dumps({"why": entry_.why, "by": entry_.by, "went_back": entry_.went_back})
    write_atomic(_path(root, entry_.version), f"{int(entry_.since)}\n{about}\n".encode(), 0o644)


def remove(root: str, version: str) -> None:
    """End a quarantine durably; nothing happens if there is none."""
    remove_durably(_path(root, version))


def _path(root: str, version: str) -> str:
    return os.path.join(root, FOLDER, ENTRIES, version + ENTRY)


def _read(root: str, version: str) -> Entry:
    try:
        with open(_path(root, version), encoding="utf-8") as stream:
            first, _newline, rest = stream.read().partition("\n")
        about = json.loads(rest)
        return Entry(version, str(about["why"]), float(first), about.get("by"), bool(about.get("went_back")))
    except (OSError, ValueError, KeyError, TypeError):
        # As the check has it: an entry that cannot be read holds.
        return Entry(version, "its entry cannot be read", 0.0)
