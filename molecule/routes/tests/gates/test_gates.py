# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A feature gate in a file on each host, changed through ansible, and read by a process there with the OpenFeature SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from lab import WORKERS, module, on, tell, wait_until

FLAGS, RESULT = "/var/lib/flags/flags.json", "/var/lib/mailer/gate.json"
ALL = {f"customer-{number}" for number in range(500)}


def change(state: str, **more: Any) -> bool:
    """Set the gate on all hosts; whether anything changed, on each alike."""
    told = module("workers", "feature_gate", {"fleet": "mailer", "name": "new-invoice", "path": FLAGS, "state": state, **more})
    changed = {host: bool(returned["changed"]) for host, returned in told.items()}
    assert set(changed) == set(WORKERS) and len(set(changed.values())) == 1, changed
    return changed["worker1"]


def seen() -> list[set[str]]:
    """For whom the feature is on, as the worker of each host has it from the SDK."""
    return [set(json.loads(on(host, f"cat {RESULT}"))) for host in WORKERS]


def have_looked(before: list[set[str]]) -> bool:
    """Whether all have seen another share than before."""
    return all(now != then for now, then in zip(seen(), before, strict=True))


@pytest.fixture
def readers() -> Iterator[None]:
    """A process on each host that reads the gate over and over again."""
    assert change("off")
    for host in WORKERS:
        on(host, f"systemd-run --quiet --unit=reader --uid=mailer /opt/rq/bin/python /usr/local/bin/reader.py {FLAGS} {RESULT}")
    wait_until(lambda: all(on(host, f"test -e {RESULT} && echo yes", check=False) for host in WORKERS), "the readers' first look")
    yield
    for host in WORKERS:
        on(host, "systemctl stop reader")


@pytest.mark.usefixtures("readers")
def test_on_a_share_and_off_are_seen_alike_on_all_hosts() -> None:
    assert seen() == [set()] * 3
    assert change("on") and not change("on")
    wait_until(lambda: seen() == [ALL] * 3, "on for all")
    shares = []
    for percent in (10, 25, 10):
        before = seen()
        assert change("percent", percent=percent)
        wait_until(partial(have_looked, before), "another share")
        first, *others = seen()
        assert others == [first] * 2 and abs(len(first) - 5 * percent) <= 25
        shares.append(first)
    assert shares[0] < shares[1] and shares[2] == shares[0]
    assert change("off")
    wait_until(lambda: seen() == [set()] * 3, "off for all")
    ten, more, again = map(len, shares)
    tell(f"a gate on three hosts: on for 500 of 500, for {ten} at 10 %, {more} at 25 %, the same {again} at 10 %, nobody when off")
