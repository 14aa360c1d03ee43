# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one host can tell of its fleet, for a journal that was lost. Reads only."""

from __future__ import annotations

from typing import Any

from .._journal.journal import Journal
from .record import AS_FOUND, HostRecord

#: A testimony travels through the controller, so that it has an end; the newest events count.
EVENTS = 200


def testify(record: HostRecord) -> dict[str, Any]:
    """Where the host is, which releases it has, and what it wrote down itself.

    :returns: ``release`` (None where nothing was ever deployed), ``phase``, ``epoch``, ``operation``, ``releases`` (``number``,
        ``version``, ``checksum``, ``digest``, ``activated``) and ``events`` (dictionaries, the oldest first, at most :data:`EVENTS`).
    :raises Damaged: the host's own events are not what was written.
    """
    state = record.state()
    releases = [dict(release.public(), activated=release.activated) for release in record.releases() if release.number != AS_FOUND]
    return {
        "release": state.live,
        "phase": "interrupted" if state.intent else state.phase,
        "epoch": state.epoch,
        "operation": state.operation,
        "releases": releases,
        "events": [event.as_dict() for event in Journal(record.events_path).read()[-EVENTS:]],
    }
