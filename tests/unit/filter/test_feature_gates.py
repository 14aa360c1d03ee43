# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles say of a release's feature gates in Redis: which they are, what would change, and what became of it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.queueops.fleet.plugins.filter.feature_gates import (
    gates_astray,
    gates_foreseen,
    gates_put,
    gates_unseen,
    release_gates,
)

GATE = {"name": "new-invoice", "state": "on"}
DONE: dict[str, Any] = {
    "changed": True,
    "set_gates": ["new-invoice"],
    "removed_gates": ["new-charge"],
    "where": ["the key flags"],
    "ended": 0.5,
}
SAME = {**DONE, "changed": False, "set_gates": [], "removed_gates": []}
DEAD = {"unreachable": True, "msg": "no route to host"}


def test_the_first_host_that_answers_says_which_gates_the_release_has() -> None:
    answer = {"feature_gates": [{"dest": "/etc/other.json", "gates": []}, {"dest": "/etc/gates.json", "gates": [GATE]}]}
    assert release_gates({"w1": DEAD, "w2": {"failed": True}, "w3": answer}, "/etc/gates.json") == [GATE]
    assert release_gates({"w3": answer}, "/etc/other.json") == []
    with pytest.raises(AnsibleFilterError, match="no host said which feature gates the release has in /etc/gates"):
        release_gates({"w1": DEAD, "w2": {}}, "/etc/gates.json")


def test_the_plan_says_what_would_change_and_what_could_not_be_seen() -> None:
    (note,) = gates_foreseen(DONE, "flags", "after the last wave")
    assert note == "feature gates in the key flags, after the last wave: to be set: new-invoice; to be taken away: new-charge"
    assert gates_foreseen(SAME, "flags", "after the last wave") == []
    assert gates_foreseen(DEAD, "flags", "later") == [] and gates_unseen(DONE, "flags") == []
    assert gates_unseen(DEAD, "flags") == ["the feature gates in the key flags could not be looked at: no route to host"]


def test_what_became_of_it_goes_into_the_journal_and_only_what_failed_into_the_verdict() -> None:
    assert gates_put(SAME, 2) == {"events": [], "failures": []}
    data = {"release": 2, "where": ["the key flags"], "set": ["new-invoice"], "removed": ["new-charge"]}
    assert gates_put(DONE, 2) == {"events": [{"kind": "feature_gates_set", "at": "1970-01-01T00:00:00.500Z", "data": data}], "failures": []}
    told = gates_put({"failed": True, "msg": "it is a replica\nand so on"}, 2)
    assert told["failures"] == ["the feature gates in Redis should have become those of release 2: it is a replica\nand so on"]
    (event,) = told["events"]
    assert event == {"kind": "feature_gates_failed", "reason": told["failures"][0].splitlines()[0]}


def test_the_verdict_of_status_names_what_is_not_as_the_release_has_it() -> None:
    assert gates_astray(SAME, "flags", 2) == []
    (sentence,) = gates_astray(DONE, "flags", 2)
    assert sentence == (
        "the feature gates in the key flags are not those of release 2 (to be set: new-invoice; to be taken away: new-charge):"
        " deploy it again, with -e release=2"
    )
    assert gates_astray(DEAD, "flags", 2) == ["the feature gates in the key flags could not be looked at: no route to host"]
