# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The names of a fleet's queues where each version of the workers has queues of its own."""

from __future__ import annotations

from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._route.version_names import named

#: What stands in a queue's name for the version.
VERSION = "{version}"


def versioned(name: str, version: str, backend: str) -> str:
    """A queue's name with C({version}) replaced by the version as the queue system writes it; any other name is left as it is.

    :param name: the queue's name in the fleet specification.
    :param backend: the queue system, as in the option C(backend).
    """
    return name.replace(VERSION, named(version, backend))


def fleet_queues(queue: dict[str, Any], versions: list[str]) -> list[str]:
    """The queues that workers of the versions listen to, each once.

    :param queue: the part C(queue) of the fleet specification.
    :param versions: the versions. One that is empty is left out.
    """
    found = []
    for name in queue["names"]:
        if VERSION in name:
            found += [versioned(name, str(version), queue["backend"]) for version in versions if version]
        else:
            found.append(name)
    return list(dict.fromkeys(found))


class FilterModule:
    """The collection's filters."""

    def filters(self) -> dict[str, Any]:
        return {"fleet_queues": fleet_queues}
