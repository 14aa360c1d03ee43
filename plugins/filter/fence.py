# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of shutting a version out at the broker, for the journal and the verdict."""

from __future__ import annotations

from typing import Any


def fence_told(fenced: dict[str, Any], version: str) -> dict[str, Any]:
    """``events`` for the journal, a ``sentence`` for the verdict, and what is ``unsettled`` because it failed; all empty if nobody asked.

    :param fenced: what M(queueops.fleet.queue_fence) returned.
    :param version: the version that was to be shut out.
    """
    if not fenced or fenced.get("skipped"):
        return {"events": [], "sentence": "", "unsettled": []}
    if fenced.get("failed") or fenced.get("unreachable"):
        reason = str(fenced.get("msg") or "the broker's host was not reached")
        return {
            "events": [{"kind": "fence_failed", "reason": reason.splitlines()[0][:500], "data": {"version": version}}],
            "sentence": "",
            "unsettled": ["version %s should have been shut out at the broker: %s" % (version, reason)],
        }
    user = fenced["user"]
    return {
        "events": [{"kind": "version_fenced", "data": {"version": version, "user": user, "connections": fenced["connections"]}}],
        "sentence": "Version %s is shut out at the broker (user %s), so that a host that was not reached takes no task with it"
        % (version, user),
        "unsettled": [],
    }


class FilterModule:
    """The collection's filter over the fence."""

    def filters(self) -> dict[str, Any]:
        return {"fence_told": fence_told}
