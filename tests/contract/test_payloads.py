# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Payloads are data: a pickle that would write a file when loaded passes through look, match, redrive and park untouched."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from ansible_collections.queueops.fleet.plugins.module_utils._queue.api import Match, Rule
from dramatiq.encoder import PickleEncoder

from tests.contract.common import QUEUE, can, failed_count, redriven, state
from tests.contract.system import System

#: For each condition of a match, what fits no task.
NEVER: dict[str, Any] = {
    "ids": ("nobody",),
    "task": "never*",
    "version": "9.9.9",
    "error": "^never$",
    "older_than": 9e9,
    "header": {"never": "1"},
    "field": {"args.0": "never"},
}


class Bomb:
    """When its pickle is loaded, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_a_pickle_is_carried_and_not_loaded(system: System) -> None:
    mark = system.folder / "executed"
    data = pickle.dumps(Bomb(mark))
    PickleEncoder().decode(data)
    assert mark.exists(), "it does no harm, and would prove nothing"
    mark.unlink()
    system.declare(QUEUE)
    held = system.plant(QUEUE, data)

    def moved(*rules: Rule, **more: Any) -> int:
        count = redriven(system, *rules, **more).moved
        assert not mark.exists(), "the payload was executed"
        assert system.holding(QUEUE, held) == 1, "the payload was changed, lost or doubled"
        return count

    assert failed_count(state(system)) == 1
    able = system.open().capabilities
    for name in sorted(set(NEVER) & set(able.match)):
        for check in (True, False) if can(system, "check") else (False,):
            assert moved(Rule(Match(**{name: NEVER[name]}), "park"), check=check) == 0, name
    assert moved(Rule(action="park")) == 1
    assert failed_count(state(system)) == 0
    assert moved(source="parked") == 1
    assert state(system).queued == 1 and not mark.exists()
