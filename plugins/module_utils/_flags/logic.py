# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What gates and routes say alike in a flag's targeting, in JSON logic."""

from __future__ import annotations

import json
from typing import Any, Sequence

#: The context attribute by which the SDKs tell one user, tenant or task from another.
TARGETING_KEY = "targetingKey"


def fractional(weights: Sequence[Sequence[Any]], key: str, without: str) -> dict[str, Any]:
    """The rule that divides the values of the context attribute ``key`` among variants.

    :param weights: variant and weight, in the order of the buckets; to keep who was in, the sum has to stay.
    :param without: the variant of who has no such attribute. With :data:`TARGETING_KEY` that is the flag's default variant.
    """
    if key == TARGETING_KEY:
        # Flagd's own short form, by the flag's name and the targeting key; without one the default variant is taken.
        return {"fractional": list(weights)}
    # The flag's name is in it, so that it is not the same ones who are first in each flag.
    salted = {"cat": [{"var": "$flagd.flagKey"}, {"var": key}]}
    return {"if": [{"var": key}, {"fractional": [salted, *weights]}, without]}


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON, where true is not 1 and the order of keys means nothing."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
