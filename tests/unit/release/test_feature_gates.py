# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Feature gates as a part of a release, through the module: they come and go with it, and what cannot be is refused before."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._release.orders import Order
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext

from tests.unit.conftest import wait_for
from tests.unit.release.conftest import Host
from tests.unit.release.test_check_mode import Phase, fingerprint

KEYS = [f"customer-{number}" for number in range(200)]


class Gates:
    """A host whose releases have the gate new-invoice in a file of their own."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.file = host.config / "gates.json"

    def phase(self, phase: str, release: int, gates: list[dict[str, Any]] | None, check_mode: bool = False, **options: Any) -> Phase:
        """A phase under a specification with these gates; None: with no file of gates."""
        made = Phase(self.host, check_mode, phase=phase, release=release, **options)
        if gates is not None:
            full = [{"percent": None, "key": None, "targets": None, **gate} for gate in gates]
            made.config["feature_gates"] = [{"dest": str(self.file), "mode": "0644", "owner": None, "group": None, "gates": full}]
        return made

    def prepare(self, release: int, gates: list[dict[str, Any]] | None, check_mode: bool = False) -> Phase:
        version = f"{release}.0.0"
        path, checksum = self.host.artifact(version)
        return self.phase("prepared", release, gates, check_mode, version=version, artifact=path, checksum=checksum)

    def deploy(self, release: int, gates: list[dict[str, Any]] | None) -> bytes:
        """Make the release known good; returns the file's content."""
        self.prepare(release, gates).run()
        for phase in ("active", "confirmed"):
            self.phase(phase, release, gates).run()
        return self.file.read_bytes() if self.file.exists() else b""

    def refused(self, release: int, gates: list[dict[str, Any]]) -> str:
        """What is said of a release that cannot be, with nothing changed, and the same in check mode."""
        self.host.artifact(f"{release}.0.0")
        before = fingerprint(self.host)
        said = set()
        for check_mode in (True, False):
            with pytest.raises(Refused) as caught:
                self.prepare(release, gates, check_mode).run()
            said.add(caught.value.sentence())
        assert fingerprint(self.host) == before
        assert len(said) == 1
        return said.pop()


def invoice(state: str, percent: int | None = None) -> dict[str, Any]:
    return {"name": "new-invoice", "state": state, "percent": percent}


@pytest.fixture
def gates(host: Host) -> Gates:
    return Gates(host)


@pytest.fixture
def reader(gates: Gates) -> Iterator[Any]:
    """How many keys the gate lets in, as the real SDK says it that runs all the time."""
    providers = []

    def start(poll_ms: int) -> Any:
        provider = FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=str(gates.file), deadline_ms=poll_ms)
        providers.append(provider)
        api.set_provider_and_wait(provider, "release-gates")
        client = api.get_client("release-gates")
        return lambda: sum(client.get_boolean_value("new-invoice", False, EvaluationContext(key)) for key in KEYS)

    yield start
    for provider in providers:
        provider.shutdown()
    api.clear_providers()


def test_a_gate_goes_back_with_its_release_and_a_running_reader_sees_it(gates: Gates, reader: Any) -> None:
    first = gates.deploy(1, [invoice("off")])
    let_in = reader(poll_ms=500)
    assert let_in() == 0
    second = gates.deploy(2, [invoice("percent", 25)])
    assert wait_for(let_in, what="the reader's look at release 2") in range(30, 71)
    # Whatever the specification says by now, a rollback puts back what release 1 had.
    assert gates.phase("reverted", 1, [invoice("on")]).run()
    back = time.monotonic()
    assert gates.file.read_bytes() == first != second
    wait_for(lambda: let_in() == 0, what="the reader's look at release 1")
    # The interval, and some for a machine that has other work.
    assert time.monotonic() - back < 2.0
    assert gates.phase("reverted", 2, [invoice("on")]).run()
    assert gates.file.read_bytes() == second


def test_a_reader_sees_it_although_the_clock_was_ahead_before(gates: Gates, reader: Any) -> None:
    gates.deploy(1, [invoice("off")])
    gates.deploy(2, [invoice("on")])
    ahead = time.time() + 3600
    os.utime(gates.file, (ahead, ahead))
    let_in = reader(poll_ms=100)
    assert let_in() == len(KEYS)
    gates.phase("reverted", 1, [invoice("off")]).run()
    wait_for(lambda: let_in() == 0, what="the reader's look at release 1")


def test_a_release_with_the_same_gates_is_the_same_release(gates: Gates) -> None:
    gates.deploy(1, [invoice("off")])
    assert gates.prepare(1, [invoice("off")]).run() is False
    changed = gates.prepare(1, [invoice("percent", 25)])
    assert changed.run() is False
    # A change of a gate needs a new number, as any change of the config does.
    path, checksum = gates.host.artifact("1.0.0")
    again = gates.phase("prepared", 2, [invoice("percent", 25)], version="1.0.0", artifact=path, checksum=checksum)
    assert again.run() is True
    assert json.loads(gates.file.read_bytes())["flags"]["new-invoice"]["metadata"] == {"queueops.fleet": "mailer"}


def test_a_broken_specification_does_not_keep_a_host_from_going_back(gates: Gates) -> None:
    first = gates.deploy(1, [invoice("off")])
    gates.deploy(2, [invoice("on")])
    gates.file.write_text("{")
    assert gates.phase("reverted", 1, [invoice("percent", 400)]).run()
    assert gates.file.read_bytes() == first


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([invoice("percent", 101)], ["new-invoice", "101", "percent"]),
        ([invoice("off"), invoice("on")], ["new-invoice", "given twice"]),
    ],
)
def test_a_wrong_gate_is_refused(gates: Gates, wrong: list[dict[str, Any]], words: list[str]) -> None:
    said = gates.refused(1, wrong)
    assert not [word for word in [*words, "config.feature_gates", "Nothing was changed"] if word not in said], said


def test_a_file_of_gates_that_is_a_config_file_too_is_refused(gates: Gates) -> None:
    phase = gates.prepare(1, [invoice("off")])
    phase.config["files"] = [{"dest": str(gates.file), "content": "", "mode": None, "owner": None, "group": None}]
    before = fingerprint(gates.host)
    with pytest.raises(Refused, match="given twice") as caught:
        phase.run()
    assert str(gates.file) in caught.value.sentence() and fingerprint(gates.host) == before


def test_a_file_with_somebody_elses_flag_is_refused(gates: Gates) -> None:
    theirs = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "off"}
    gates.file.write_text(json.dumps({"flags": {"theme": theirs}}))
    said = gates.refused(1, [invoice("off")])
    assert "theme" in said and str(gates.file) in said


def test_a_gate_that_no_rollback_could_take_back_is_refused(gates: Gates) -> None:
    gates.deploy(1, None)
    said = gates.refused(2, [invoice("percent", 25)])
    assert "new-invoice" in said and "Deploy it first" in said
    gates.deploy(2, [invoice("off")])
    gates.deploy(3, [invoice("percent", 25)])
    gates.phase("reverted", 2, [invoice("percent", 25)]).run()
    assert json.loads(gates.file.read_bytes())["flags"]["new-invoice"]["defaultVariant"] == "off"


def test_the_first_release_of_all_may_begin_with_any_gate(gates: Gates) -> None:
    gates.deploy(1, [invoice("on")])
    # Also where the file is gone: the release that is live has it.
    gates.file.unlink()
    gates.deploy(2, [invoice("percent", 25)])


def test_without_paths_the_file_is_watched(gates: Gates) -> None:
    first = None
    for number, state in ((1, "off"), (2, "on")):
        for phase in (
            gates.prepare(number, [invoice(state)]),
            *(gates.phase(name, number, [invoice(state)]) for name in ("active", "confirmed")),
        ):
            phase.config["paths"] = []
            phase.run()
        first = first or gates.file.read_bytes()
    back = gates.phase("reverted", 1, [invoice("on")])
    back.config["paths"] = []
    assert back.run() and gates.file.read_bytes() == first


def test_a_gate_changed_in_place_is_a_difference_from_the_release(gates: Gates) -> None:
    gates.deploy(1, [invoice("off")])
    assert gates.phase("prepared", 1, [invoice("off")]).run() is False
    document = json.loads(gates.file.read_bytes())
    document["flags"]["new-invoice"]["defaultVariant"] = "on"
    gates.file.write_text(json.dumps(document))
    found = gates.host.transaction().examine(1, Order())
    assert found.pending and [diff.path for diff in found.diffs] == [str(gates.file)]
