# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the snapshot that a person means: by label, id or time."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Mapping, Sequence

from .._errors import NotFound, Refused
from .snapshots import Snapshot, iso, named
from .watch import printable

_SHORT_ID = re.compile(r"\A[0-9a-f]{4,40}\Z")
_MOMENT = re.compile(r"\A\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:?\d\d)?\Z")
_AGO = re.compile(r"\A(?=\d)(?:(\d+)w)? ?(?:(\d+)d)? ?(?:(\d+)h)? ?(?:(\d+)m)? ?(?:(\d+)s)? ago\Z")
_UNITS = (7 * 86400, 86400, 3600, 60, 1)

#: When a snapshot became live, in seconds since 1970, and its id; the oldest first.
Moments = Sequence["tuple[int, str]"]


class Known:
    """All that can be found.

    :param snapshots: the newest last.
    :param labels: ids by label.
    :param where: names the history in errors.
    :param damaged: ids of those that are there and cannot be read.
    """

    def __init__(
        self, snapshots: Sequence[Snapshot], labels: Mapping[str, str], moments: Moments, where: str, damaged: Sequence[str] = ()
    ) -> None:
        self.snapshots = snapshots
        self._by_id = {snapshot.id: snapshot for snapshot in snapshots}
        self._labels = labels
        self._moments = moments
        self._where = where
        self._damaged = damaged

    def find(self, ref: str, option: str) -> Snapshot:
        """The snapshot with this label; with an id that begins so; or that was live at this time.

        :param option: the module option that ``ref`` came from, for the error.
        :raises NotFound: there is none; the error names the known ones.
        :raises Refused: more than one snapshot's id begins so, it is damaged, or the time is not a time.
        """
        if self._labels.get(ref, "") in self._by_id:
            return self._by_id[self._labels[ref]]
        matching = [snapshot for snapshot in self.snapshots if snapshot.id.startswith(ref)] if _SHORT_ID.match(ref) else []
        if len(matching) > 1:
            raise Refused(
                f"More than one snapshot's id begins with {ref}: {named(matching)}", option=option, next_step="Give more of the id"
            )
        if matching:
            return matching[0]
        lost = [one for one in self._damaged if one == self._labels.get(ref) or (_SHORT_ID.match(ref) and one.startswith(ref))]
        if lost:
            raise Refused(
                f"The snapshot {lost[0]} of the config history {self._where} is damaged",
                option=option,
                next_step=f"Use another: {named(self.snapshots)}. See `git --git-dir {self._where} fsck`",
            )
        moment = _moment(ref, option)
        if moment is not None:
            return self._at(moment, ref, option)
        raise self.nothing(f"There is no snapshot {printable(ref)!r} (option `{option}`) in the config history {self._where}", option)

    def nothing(self, message: str, option: str) -> NotFound:
        """The error that names what there is instead."""
        return NotFound(
            message,
            option=option,
            next_step=f"Use one of the known: {named(self.snapshots)}"
            if self.snapshots
            else "No snapshot was recorded yet: run config_snapshot first",
            details={"known": [{"id": one.id, "label": one.label, "time": one.time} for one in self.snapshots[-20:]]},
        )

    def _at(self, moment: float, ref: str, option: str) -> Snapshot:
        came = [(one.unix, one.id) for one in self.snapshots if not one.planned] + list(self._moments)
        live = [ident for unix, ident in sorted(came, key=lambda row: row[0]) if unix <= moment and ident in self._by_id]
        if not live:
            raise self.nothing(
                f"Nothing was recorded yet {printable(ref)} ({iso(int(moment))}, option `{option}`) in the config history {self._where}",
                option,
            )
        return self._by_id[live[-1]]


def _moment(ref: str, option: str) -> float | None:
    """The time that is meant, in seconds since 1970, or None if it does not look like one."""
    ago = _AGO.match(ref)
    if ago:
        return time.time() - sum(int(number) * unit for number, unit in zip(ago.groups(), _UNITS) if number)
    found = _MOMENT.match(ref)
    if not found:
        return None
    seconds, zone = found.groups()
    if not zone:
        raise Refused(
            f"The time {ref!r} has no time zone (option `{option}`)", option=option, next_step=f"Write {ref}Z for UTC, or {ref}+02:00"
        )
    plain = ref[: -len(zone)].replace("T", " ") + ("" if seconds else ":00")
    try:
        return datetime.strptime(plain + zone.replace("Z", "+0000").replace(":", ""), "%Y-%m-%d %H:%M:%S%z").timestamp()
    except ValueError as error:
        raise Refused(f"The time {ref!r} does not exist: {error} (option `{option}`)", option=option) from error
