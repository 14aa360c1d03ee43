# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Never green and mixed: each fault, in a deploy and in a rollback. The exit code is right, the table tells the truth, and once the fault
is gone a resume brings the fleet to one release.

The hosts are folders on this machine. The network between them and the controller is a script in the place of ssh, which can be cut:
a real one cannot be cut without containers. All else is real.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.conftest import RedisServer
from tests.unit.playbooks.conftest import Fleet, must, new_fleet
from tests.unit.playbooks.test_playbooks import sick_under_version_2

SSH = r"""#!/bin/sh
for command; do :; done
if [ -e "%(link)s/down" ]; then echo "no route to host" >&2; exit 255; fi
sent=$(mktemp)
trap 'rm -f "$sent"' EXIT
cat >"$sent"
for when in before after; do
    if [ -e "%(link)s/lost_$when" ] && grep -Eq -f "%(link)s/lost_$when" "$sent"; then
        touch "%(link)s/down"
        if [ $when = after ]; then sh -c "$command" <"$sent" >/dev/null 2>&1; fi
        echo "connection lost" >&2
        exit 255
    fi
done
sh -c "$command" <"$sent"
"""


class Network:
    """The way from the controller to each host, which can be cut."""

    def __init__(self, fleet: Fleet) -> None:
        self._folder = fleet.folder / "network"
        for name, variables in [*((name, fleet.more.setdefault(name, {})) for name in fleet.hosts), *fleet.others.items()]:
            link = self._folder / name
            link.mkdir(parents=True)
            (link / "ssh").write_text(SSH % {"link": link})
            (link / "ssh").chmod(0o755)
            variables.update(ansible_connection="ssh", ansible_ssh_executable=str(link / "ssh"), ansible_pipelining=True)

    def cut(self, host: str) -> None:
        (self._folder / host / "down").touch()

    def cut_at(self, host: str, when: str, option: str, value: str) -> None:
        """Cut it ``before`` or ``after`` a module with this value of this option has run."""
        (self._folder / host / ("lost_" + when)).write_text(r"\b%s\W{1,9}%s\b" % (option, value))

    def mend(self) -> None:
        for pattern in ("*/down", "*/lost_*"):
            for left in self._folder.glob(pattern):
                left.unlink()


@pytest.fixture
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    """Release 1 on two hosts, with the home and the broker's client on hosts of their own."""
    with new_fleet(redis_server) as made:
        made.specification["home"] = "home1"
        made.specification["queue"]["via"] = "broker1"
        made.others = {"home1": {}, "broker1": {}}
        must(made.run("deploy", version="1.0.0"))
        yield made


Fault = Callable[[Fleet, Network], Callable[[], object]]


def _nothing() -> None:
    pass


def down_before(fleet: Fleet, network: Network) -> Callable[[], object]:
    network.cut("worker2")
    return _nothing


def down_in_the_switch(fleet: Fleet, network: Network) -> Callable[[], object]:
    network.cut_at("worker2", "before", "phase", "(active|reverted)")
    return _nothing


def lost_after_the_switch(fleet: Fleet, network: Network) -> Callable[[], object]:
    network.cut_at("worker2", "after", "phase", "(active|reverted)")
    return _nothing


def canary_lost_after_the_switch(fleet: Fleet, network: Network) -> Callable[[], object]:
    network.cut_at("worker1", "after", "phase", "(active|reverted)")
    return _nothing


def lost_in_the_confirmation(fleet: Fleet, network: Network) -> Callable[[], object]:
    network.cut_at("worker2", "after", "phase", "(confirmed|reverted)")
    return _nothing


def down_in_the_way_back(fleet: Fleet, network: Network) -> Callable[[], object]:
    network.cut_at("worker1", "before", "phase", "reverted")
    return sick_under_version_2(fleet, "worker2").unlink


def sick(fleet: Fleet, network: Network) -> Callable[[], object]:
    return sick_under_version_2(fleet, "worker2").unlink


def home_down_in_the_waves(fleet: Fleet, network: Network) -> Callable[[], object]:
    network.cut_at("home1", "before", "kind", "host_switched")
    return _nothing


def home_down_at_the_end(fleet: Fleet, network: Network) -> Callable[[], object]:
    network.cut_at("home1", "before", "state", "closed")
    return _nothing


def home_lost_at_the_end(fleet: Fleet, network: Network) -> Callable[[], object]:
    network.cut_at("home1", "after", "state", "closed")
    return _nothing


def gate_cannot_measure(fleet: Fleet, network: Network) -> Callable[[], object]:
    fleet.specification["gate"] = {"min_tasks": 5, "bake": 0, "timeout": 3}
    return lambda: fleet.specification.update(gate={"min_tasks": 0, "bake": 0, "timeout": 5})


def broker_out_of_reach(fleet: Fleet, network: Network) -> Callable[[], object]:
    fleet.specification["gate"] = {"min_tasks": 5, "bake": 0, "timeout": 3}
    network.cut_at("broker1", "before", "metric", "failed_ratio")
    return lambda: fleet.specification.update(gate={"min_tasks": 0, "bake": 0, "timeout": 5})


def truth(fleet: Fleet) -> dict[str, int | None]:
    return dict(zip(fleet.hosts, fleet.releases(), strict=True))


def told(output: str) -> dict[str, int | None]:
    """The verdict's table: host to release found, None where that is not known."""
    line = next(line for line in reversed(output.splitlines()) if '"agree": false' in line)
    return {row["host"]: row["found"] for row in json.loads(line[line.index("{") :])["table"]}


def heal(fleet: Fleet, network: Network, end: Callable[[], object]) -> None:
    network.mend()
    end()
    done = fleet.run("resume", takeover="true")
    after = fleet.run("status")
    assert after.returncode == 0, done.stdout + after.stdout
    assert len(set(fleet.releases())) == 1 and len(fleet.versions()) == 1


#: What is tried every day; all of them with QUEUEOPS_EXHAUSTIVE, which ``make faults`` sets.
SAMPLE: tuple[Fault, ...] = (lost_after_the_switch, home_lost_at_the_end)


def chosen(faults: list[Fault]) -> list[Fault]:
    return faults if os.environ.get("QUEUEOPS_EXHAUSTIVE") else [fault for fault in faults if fault in SAMPLE]


DEPLOY_FAULTS: list[Fault] = [
    down_in_the_switch,
    lost_after_the_switch,
    canary_lost_after_the_switch,
    lost_in_the_confirmation,
    down_in_the_way_back,
    sick,
    home_down_in_the_waves,
    home_down_at_the_end,
    home_lost_at_the_end,
    gate_cannot_measure,
    broker_out_of_reach,
]


@pytest.mark.parametrize("fault", chosen(DEPLOY_FAULTS))
@pytest.mark.sampled
def test_a_deploy_with_a_fault_is_never_green_and_mixed(fleet: Fleet, fault: Fault) -> None:
    network = Network(fleet)
    end = fault(fleet, network)
    done = fleet.run("deploy", version="2.0.0")
    assert done.returncode != 0, done.stdout
    found = told(done.stdout)
    assert {host: release for host, release in found.items() if release is not None}.items() <= truth(fleet).items(), done.stdout
    heal(fleet, network, end)


def test_a_deploy_to_a_host_that_is_down_is_refused(fleet: Fleet) -> None:
    network = Network(fleet)
    end = down_before(fleet, network)
    done = fleet.run("deploy", version="2.0.0")
    assert done.returncode != 0 and "worker2" in done.stdout
    assert fleet.releases() == [1, 1]
    network.mend()
    end()
    must(fleet.run("deploy", version="2.0.0"))
    assert len(set(fleet.releases())) == 1 and fleet.versions() == {"2.0.0"}


ROLLBACK_FAULTS: list[Fault] = [
    down_before,
    down_in_the_switch,
    lost_after_the_switch,
    canary_lost_after_the_switch,
    home_down_at_the_end,
    home_lost_at_the_end,
]


@pytest.mark.parametrize("fault", chosen(ROLLBACK_FAULTS))
@pytest.mark.sampled
def test_a_rollback_with_a_fault_is_never_green_and_mixed(fleet: Fleet, fault: Fault) -> None:
    must(fleet.run("deploy", version="2.0.0"))
    network = Network(fleet)
    end = fault(fleet, network)
    done = fleet.run("rollback")
    assert done.returncode != 0, done.stdout
    found = told(done.stdout)
    assert {host: release for host, release in found.items() if release is not None}.items() <= truth(fleet).items(), done.stdout
    if fault is not canary_lost_after_the_switch:
        assert fleet.releases()[0] == 1, "the host that could be reached went back"
    heal(fleet, network, end)
    assert fleet.versions() == {"1.0.0"}


@pytest.mark.parametrize(("playbook", "after"), [("deploy", {"2.0.0"}), ("rollback", {"1.0.0"})])
def test_a_home_lost_as_the_operation_is_opened_ends_the_run_with_nothing_changed(fleet: Fleet, playbook: str, after: set[str]) -> None:
    if playbook == "rollback":
        must(fleet.run("deploy", version="2.0.0"))
    before = fleet.releases()
    network = Network(fleet)
    network.cut_at("home1", "after", "state", "opened")
    done = fleet.run(playbook, **({"version": "2.0.0"} if playbook == "deploy" else {}))
    assert done.returncode != 0 and "worker1 -> home1]: UNREACHABLE" in done.stdout, done.stdout
    assert fleet.releases() == before
    heal(fleet, network, _nothing)
    assert fleet.versions() == after


def test_a_service_that_does_not_start_on_the_way_back_stops_the_rollback(fleet: Fleet) -> None:
    must(fleet.run("deploy", version="2.0.0"))
    worker = fleet.hosts["worker2"].root / "versions" / "1.0.0" / "worker.py"
    aside = Path(shutil.copy(worker, fleet.folder / "aside"))
    worker.write_text("raise SystemExit(1)\n")
    done = fleet.run("rollback")
    assert done.returncode != 0
    assert told(done.stdout) == truth(fleet) == {"worker1": 1, "worker2": 2}, done.stdout
    shutil.copy(aside, worker)
    heal(fleet, Network(fleet), _nothing)
    assert fleet.versions() == {"1.0.0"}
