# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters that the roles count with."""

from __future__ import annotations

import math
from typing import Any

from ansible.errors import AnsibleFilterError


def waves(hosts: list[str], shares: list[Any]) -> list[list[str]]:
    """Split ``hosts`` into the parts that are switched together.

    :param hosts: the fleet's hosts in their order.
    :param shares: numbers of hosts or percentages (``"25%"``, rounded up), each counted from the first host on.
    :returns: one list of hosts a wave; waves that would add no host are left out.
    """
    parts: list[list[str]] = []
    done = 0
    for share in shares:
        reach = min(_reach(str(share).strip(), len(hosts)), len(hosts))
        if reach > done:
            parts.append(list(hosts[done:reach]))
            done = reach
    return parts


def _reach(share: str, total: int) -> int:
    try:
        if share.endswith("%"):
            return math.ceil(float(share[:-1]) * total / 100)
        return int(share)
    except ValueError as error:
        raise AnsibleFilterError(
            f"queueops_fleet.waves has the entry {share!r}; it takes numbers of hosts and percentages, such as [1, '25%', '100%']"
        ) from error


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Any]:
        return {"waves": waves}
