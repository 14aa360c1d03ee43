# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where Dramatiq keeps things in Redis."""

from __future__ import annotations

from .redis_scripts import moved_key


class Keys:
    """Dramatiq's keys with the prefix (its ``namespace``), and ours."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.heartbeats = "%s:__heartbeats__" % prefix

    def queue(self, name: str) -> str:
        return "%s:%s" % (self._prefix, name)

    def delayed(self, name: str) -> str:
        return "%s:%s.DQ" % (self._prefix, name)

    def dead(self, name: str) -> str:
        return "%s:%s.XQ" % (self._prefix, name)

    def parked(self, name: str) -> str:
        return "queueops:parked:%s:%s" % (self._prefix, name)

    def moved(self, run: str | None) -> str:
        """The set of what ``run`` moved."""
        return moved_key(run, self._prefix)

    def fates(self, run: str | None, queue: str) -> list[str]:
        """Where is counted what became of the tasks that ``run`` moved of a queue: pending, failed again, completed."""
        return ["queueops:redrive:%s:%s:%s:%s" % (run, fate, self._prefix, queue) for fate in ("pending", "failed_again", "completed")]

    def acks(self, worker: str, list_name: str) -> str:
        """What ``worker`` has taken from the list: for delayed messages the queue's name with ``.DQ``."""
        return "%s:__acks__.%s.%s" % (self._prefix, worker, list_name)

    @staticmethod
    def messages(key: str) -> str:
        return key + ".msgs"
