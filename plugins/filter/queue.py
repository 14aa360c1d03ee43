# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters over the part ``queue`` of a fleet specification."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.queueops.fleet.plugins.module_utils._queue.registry import capabilities_of
from ansible_collections.queueops.fleet.plugins.module_utils._queue_options import QUEUE_SPEC


def queue_connection(queue: dict[str, Any]) -> dict[str, Any]:
    """The options with which the queue modules reach the broker.

    :param queue: the part ``queue`` of the fleet specification.
    """
    return {name: queue[name] for name in QUEUE_SPEC if queue.get(name) is not None}


def queue_can(queue: dict[str, Any], *needs: str) -> bool:
    """Whether the fleet's queue system can do all of ``needs``.

    :param queue: the part ``queue`` of the fleet specification.
    :param needs: an ability (``counters``), or ``source:<source>``, ``action:<action>`` or ``match:<option>``.
    """
    able = capabilities_of(queue["backend"], queue.get("url") or "")
    kinds = {"source": able.sources, "action": able.actions, "match": able.match}
    for need in needs:
        kind, colon, name = need.partition(":")
        if colon and kind not in kinds:
            raise AnsibleFilterError("queue_can does not know %s; ask for an ability, source:, action: or match:" % need)
        if name not in kinds[kind] if colon else need not in able.can:
            return False
    return True


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"queue_can": queue_can, "queue_connection": queue_connection}
