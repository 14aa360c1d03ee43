# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A feature gate that belongs to a release: deployed with it, seen by who runs, and rolled back with it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import RedisServer, wait_for
from tests.unit.playbooks.conftest import Fleet, must, new_fleet

POLL_S = 0.5

#: A machine that has other work lets who polls wait.
SOME_S = 1.5

# An application that is not restarted: each time another number of customers is let in, it says how many and when.
READER = """
import sys, time
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext
path, poll_s = sys.argv[1], float(sys.argv[2])
provider = FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=path, deadline_ms=int(poll_s * 1000))
api.set_provider_and_wait(provider)
client = api.get_client()
last = None
while True:
    let_in = sum(client.get_boolean_value("new-invoice", False, EvaluationContext("customer-%d" % number)) for number in range(200))
    if let_in != last:
        print(let_in, time.time(), flush=True)
    last = let_in
    time.sleep(0.02)
"""


def gates(*of_release: dict[str, Any]) -> dict[str, Any]:
    return {"feature_gates": [{"dest": "{{ root }}/etc/gates.json", "mode": "0644", "gates": list(of_release)}]}


# As an operator writes it in YAML, where off is false.
OFF = {"name": "new-invoice", "state": False}
QUARTER = {"name": "new-invoice", "state": "percent", "percent": 25}


@pytest.fixture
def gated(redis_server: RedisServer) -> Iterator[Fleet]:
    """A fleet whose specification has the gate, off; nothing is deployed."""
    with new_fleet(redis_server) as fleet:
        fleet.specification["config"].update(gates(OFF))
        yield fleet


def files(fleet: Fleet) -> list[Path]:
    return [host.config / "gates.json" for host in fleet.hosts.values()]


@pytest.fixture
def reader() -> Iterator[Callable[[Path], Callable[[], list[tuple[int, float]]]]]:
    """Starts an application that reads a file of gates, and gives what it has said so far: how many are let in, since when."""
    processes = []

    def start(path: Path) -> Callable[[], list[tuple[int, float]]]:
        said = path.parents[1] / "reader"
        with open(said, "wb") as output:
            processes.append(subprocess.Popen([sys.executable, "-c", READER, str(path), str(POLL_S)], stdout=output))

        def heard() -> list[tuple[int, float]]:
            lines = said.read_text().split("\n")[:-1]
            return [(int(line.split()[0]), float(line.split()[1])) for line in lines]

        wait_for(heard, 60, "the reader's first look")
        return heard

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_gate_is_deployed_with_its_release_and_goes_back_with_it(gated: Fleet, reader: Any) -> None:
    must(gated.run("deploy", version="1.0.0"))
    first = [path.read_bytes() for path in files(gated)]
    heard = reader(files(gated)[0])
    assert [let_in for let_in, _when in heard()] == [0]

    gated.specification["config"].update(gates(QUARTER))
    before = gated.everything()
    plan = must(gated.run("deploy", "--check", "--diff", version="2.0.0"))
    assert gated.everything() == before
    for word in ("gates.json", "+            25", '+      "targeting": {'):
        assert word in plan, plan

    must(gated.run("deploy", version="2.0.0"))
    assert gated.releases() == [2, 2]
    assert set(re.findall(r"changed=(\d+)", must(gated.run("deploy", version="2.0.0")))) == {"0"}
    second = [path.read_bytes() for path in files(gated)]
    assert second != first and len(set(second)) == 1
    # A count in the midst of which the file is read again is one of both releases.
    wait_for(lambda: 25 <= heard()[-1][0] <= 75, what="the reader's look at release 2")

    must(gated.run("rollback"))
    assert gated.releases() == [1, 1]
    assert [path.read_bytes() for path in files(gated)] == first
    wait_for(lambda: heard()[-1][0] == 0, what="the reader's look at release 1")
    # A rename is the last change of the file's own entry.
    put_back = files(gated)[0].stat().st_ctime
    assert 0 < heard()[-1][1] - put_back < POLL_S + SOME_S
    must(gated.run("status"))


def test_a_gate_alone_makes_a_release_of_the_same_version(gated: Fleet) -> None:
    must(gated.run("deploy", version="1.0.0"))
    first = [path.read_bytes() for path in files(gated)]
    gated.specification["config"].update(gates(QUARTER))
    must(gated.run("deploy", version="1.0.0"))
    assert (gated.releases(), gated.versions()) == ([2, 2], {"1.0.0"})
    # What feature_gate would do in between.
    changed = files(gated)[1]
    changed.write_bytes(changed.read_bytes().replace(b"25", b"50"))
    told = gated.run("status")
    assert told.returncode != 0 and "worker2: its files differ from release 2" in told.stdout, told.stdout
    must(gated.run("rollback"))
    assert (gated.releases(), gated.versions()) == ([1, 1], {"1.0.0"})
    assert [path.read_bytes() for path in files(gated)] == first


def test_gates_that_cannot_be_are_refused_before_anything_changes(gated: Fleet) -> None:
    must(gated.run("deploy", version="1.0.0"))
    theirs = {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "metadata": {"queueops.fleet": "billing"},
    }
    their_file = gated.hosts["worker2"].folder / "flags.json"
    their_file.write_text(json.dumps({"flags": {"charge": theirs}}))
    beside = {"dest": "{{ root }}/flags.json", "gates": [OFF]}
    for config, words in (
        (gates(QUARTER, OFF), ["new-invoice", "given twice", "feature_gates"]),
        (gates({**QUARTER, "percent": 250}), ["new-invoice", "percent", "250", "feature_gates"]),
        (gates({**QUARTER, "state": "some"}), ["state", "some", "targets", "feature_gates"]),
        ({"feature_gates": [{"dest": "{{ root }}/etc/worker.conf", "gates": [OFF]}]}, ["worker.conf", "given twice"]),
        (
            {"feature_gates": [*gates(OFF)["feature_gates"], beside], "paths": ["{{ root }}/etc", "{{ root }}/flags.json"]},
            ["worker2", "charge", "belongs to the fleet billing"],
        ),
    ):
        gated.specification["config"].update(config)
        before = gated.everything()
        done = gated.run("deploy", version="2.0.0")
        assert done.returncode != 0, done.stdout
        after = gated.everything()
        # What one host has unpacked beside while another one refuses is not live.
        beside_live = re.compile(r"/opt/versions/|/state/mailer/(config\.git|releases)/|/transaction\.lock$")
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        assert not [path for path in changed if not beside_live.search(path)], changed
        said = " ".join(done.stdout.split())
        assert not [word for word in words if word not in said], done.stdout
    assert os.path.exists(their_file) and gated.releases() == [1, 1]
