# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts a playbook of the collection is for.

Every play asks for it in ``hosts``, before Ansible forks: what the filters import is then there in each of its workers.
"""

from __future__ import annotations

from typing import Any

import ansible.context
from ansible.errors import AnsibleFilterError

#: In what is a pattern of hosts, and no name.
PATTERN = set(",:!&*?[~@")


def fleet_group(name: str, groups: dict[str, list[str]]) -> str:
    """``name``, if the inventory has hosts by that name. Ansible itself would end with success, and have done nothing.

    :param name: a group, a host, or a pattern, which is left to Ansible.
    :param groups: Ansible's variable of this name.
    :raises AnsibleFilterError: there is no such group, or no host in it.
    """
    if groups.get(name) or name in groups["all"] or PATTERN & set(name) or ansible.context.CLIARGS.get("syntax"):
        return name
    known = [group for group in sorted(groups) if group not in ("all", "ungrouped") and groups[group]]
    raise AnsibleFilterError(
        "The inventory has no hosts in a group %s, so that there is no fleet to work on. It has %s. Nothing was changed. Name the "
        "fleet's group with -e fleet=<group>, and the inventory with -i." % (name, ", ".join(known) or "no group with hosts")
    )


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Any]:
        return {"fleet_group": fleet_group}
