# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the board says of each host when all is over. Plain Python."""

from __future__ import annotations

from collections.abc import Mapping

from .line import Line
from .seen import Seen, entries, part
from .words import known, many, release_name


class Recap:
    """How each host ended, and where it stands."""

    def __init__(self) -> None:
        #: host -> what its last answer said of its release.
        self._stands: dict[str, str] = {}
        #: host -> how its last task of ours ended, when it did not end well.
        self._ill: dict[str, str] = {}
        self._troubles: dict[str, int] = {}
        #: host -> whether the verdict found it on the wanted release.
        self._judged: dict[str, bool] = {}

    def well(self, host: str) -> None:
        """A task of ours ended well."""
        self._ill.pop(host, None)

    def remember(self, seen: Seen) -> None:
        """Keep what a result of ours says of its host's release, or of every host's."""
        if seen.name == "worker_release":
            live = part(seen.data, "live")
            if live.get("release") is not None:
                phase = live.get("phase")
                self._stands[seen.host] = release_name(live["release"], live.get("version")) + (
                    f", {phase}" if phase not in (None, "confirmed") else ""
                )
        elif seen.name == "fleet_verdict":
            for row in entries(seen.data, "table"):
                host = str(row.get("host"))
                self._judged[host] = bool(row.get("ok"))
                if row.get("ok"):
                    self._stands[host] = release_name(row.get("found"), seen.args.get("version"))
                else:
                    self._stands[host] = f"release {known(row.get('found'))}, wanted {row.get('wanted')}: {row.get('reason')}"
                    if self._ill.get(host) != "unreachable":
                        self._ill[host] = "differs"

    def trouble(self, seen: Seen, how: str, lasting: bool) -> None:
        """A task did not end well. ``lasting``: its host is not well until another one does."""
        # A verdict fails for the fleet, not for the host that happened to run it.
        if seen.name == "fleet_verdict":
            return
        self._troubles[seen.host] = self._troubles.get(seen.host, 0) + 1
        if lasting and seen.where == seen.host:
            self._ill[seen.host] = how
            if how == "unreachable":
                self._stands.pop(seen.host, None)

    def line(self, host: str, summary: Mapping[str, int]) -> Line:
        """:param summary: Ansible's own counts for the host."""
        how = self._ill.get(host) or ("failed" if summary.get("failures") else "ok")
        if summary.get("unreachable"):
            how = "unreachable"
        elif self._judged.get(host):
            # Proven to be well, even where the verdict on the others failed the run.
            how = "ok"
        tone = {"ok": "good", "unreachable": "lost"}.get(how, "bad")
        stands = self._stands.get(host) or ("release not known" if how == "unreachable" else "")
        troubles = self._troubles.get(host, 0)
        if troubles and how == "ok":
            stands = ", ".join(part for part in (stands, f"{many(troubles, 'failure')} on the way") if part)
        return Line(f"{how:<11}  {stands}".rstrip(), tone, host)
