# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which slot of a route belongs to which version. A hundred slots, so that one is one percent of the keys."""

from __future__ import annotations

from typing import Mapping, Sequence

from .._errors import Refused

SLOTS = 100


def checked(weights: Mapping[str, int]) -> dict[str, int]:
    """The weights in percent, if they are a division of all tasks.

    :raises Refused: none, one out of range, or they do not sum to 100.
    """
    for version, weight in weights.items():
        if not 0 <= weight <= SLOTS:
            raise Refused(
                "The weight of version %s is %d" % (version, weight), option="weights", next_step="Use whole numbers from 0 to 100"
            )
    total = sum(weights.values())
    if total != SLOTS:
        raise Refused(
            "The weights %s sum to %d, and not to 100"
            % (", ".join("%s: %d" % pair for pair in sorted(weights.items())) or "(none)", total),
            option="weights",
            next_step="Say for each version which percentage of the tasks it gets",
        )
    return dict(weights)


def counted(owners: Sequence[str]) -> dict[str, int]:
    """How many slots each version has."""
    return {version: owners.count(version) for version in sorted(set(owners))}


def heaviest(weights: Mapping[str, int]) -> str:
    """The version with most of the tasks; of several the one that is named first."""
    return max(weights, key=lambda version: weights[version])


def divided(owners: Sequence[str], weights: Mapping[str, int], rest: str) -> list[str]:
    """The owners of the slots by ``weights``, with as few moved as can be.

    A version that shrinks gives back its highest slots to ``rest``; one that grows takes the lowest of ``rest`` above its own. So of two
    versions the one that grows keeps what it had, and gives back last what it got first.

    :param owners: who has each slot now.
    :param weights: percent by version; a version that is not named keeps nothing.
    :param rest: the version that has what the others have not.
    """
    found = list(owners)
    others = [version for version in {**weights, **counted(owners)} if version != rest]
    for version in others:
        own = [slot for slot, owner in enumerate(found) if owner == version]
        for slot in own[weights.get(version, 0) :]:
            found[slot] = rest
    for version in others:
        own = [slot for slot, owner in enumerate(found) if owner == version]
        above = own[-1] if own else -1
        free = sorted((slot for slot, owner in enumerate(found) if owner == rest), key=lambda slot: (slot < above, slot))
        for slot in free[: max(0, weights.get(version, 0) - len(own))]:
            found[slot] = version
    return found
