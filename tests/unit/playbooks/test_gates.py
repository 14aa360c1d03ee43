# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of a fleet: several of them, a person's decision, and what could not be decided. Only a pass promotes."""

from __future__ import annotations

import os
import pty
import select
import time
from typing import Any

import pytest

from tests.unit.playbooks.conftest import Fleet, must
from tests.unit.playbooks.test_resume import events

PASS, FAIL, UNDECIDED = 0, 1, 2


def judged_by_file(fleet: Fleet, name: str, outcome: int, **more: Any) -> dict[str, Any]:
    """A gate whose verdict is in a file of its name; it keeps a list of the versions that it was asked for."""
    verdict, asked = fleet.folder / name, fleet.folder / f"{name}.asked"
    verdict.write_text(str(outcome))
    argv = ["sh", "-c", f'echo "$1 $2" >>{asked}; exit $(cat {verdict})', "gate", "{version}", "{baseline_version}"]
    return {"name": name, "metric": "command", "command": {"argv": argv}, "bake": 0, "timeout": 2, "interval": 0.2, **more}


def use(fleet: Fleet, *gates: dict[str, Any]) -> None:
    fleet.specification.pop("gate", None)
    fleet.specification["gates"] = list(gates)


def of_kind(fleet: Fleet, kind: str) -> list[dict[str, Any]]:
    return [event for event in events(fleet) if event["kind"] == kind]


def verdicts(fleet: Fleet) -> list[tuple[str, str, int]]:
    """Gate, verdict and number of hosts in the wave."""
    return [(event["data"]["gate"], event["data"]["verdict"], len(event["data"]["wave"])) for event in of_kind(fleet, "gate_verdict")]


def on_one_line(output: str) -> str:
    return " ".join(output.split())


def test_each_gate_decides_after_its_waves_and_the_first_that_fails_takes_the_fleet_back(deployed: Fleet) -> None:
    use(
        deployed,
        judged_by_file(deployed, "every", PASS),
        judged_by_file(deployed, "canary", PASS, waves="first"),
        judged_by_file(deployed, "last", PASS),
    )
    must(deployed.run("deploy", version="1.1.0"))
    every, canary, last = "every", "canary", "last"
    assert verdicts(deployed) == [(name, "pass", 1) for name in (every, canary, last, every, last)]
    assert set((deployed.folder / "every.asked").read_text().splitlines()) == {"1.1.0 1.0.0"}
    (deployed.folder / "canary").write_text(str(FAIL))
    done = deployed.run("deploy", version="2.0.0")
    assert done.returncode == 2
    assert verdicts(deployed)[5:] == [(every, "pass", 1), (canary, "fail", 1)]
    assert (deployed.releases(), deployed.versions()) == ([2, 2], {"1.1.0"})
    assert "gate canary after wave 1: fail" in on_one_line(done.stdout)


@pytest.mark.sampled
def test_an_undecided_gate_pauses_and_resume_measures_it_again_but_not_what_had_passed(deployed: Fleet) -> None:
    use(deployed, judged_by_file(deployed, "first", PASS), judged_by_file(deployed, "second", UNDECIDED))
    done = deployed.run("deploy", version="2.0.0")
    assert done.returncode == 2
    assert deployed.releases() == [2, 1], done.stdout
    said = on_one_line(done.stdout)
    assert "Paused: fleet mailer (gate second after wave 1: inconclusive" in said and "-e approve=<gate>" in said
    assert events(deployed)[-1]["kind"] == "operation_paused"
    other = on_one_line(deployed.run("deploy", version="1.1.0").stdout)
    assert "paused at gate second since" in other and "queueops.fleet.resume" in other
    again = deployed.run("resume")
    assert (again.returncode, deployed.releases()) == (2, [2, 1]), again.stdout
    (deployed.folder / "second").write_text(str(PASS))
    must(deployed.run("resume"))
    assert (deployed.releases(), deployed.versions()) == ([2, 2], {"2.0.0"})
    assert [name for name, verdict, _hosts in verdicts(deployed) if verdict == "pass"] == ["first", "second", "first", "second"]
    must(deployed.run("status"))


def test_a_person_may_pass_the_gate_that_could_not_decide_and_no_other(deployed: Fleet) -> None:
    use(deployed, judged_by_file(deployed, "first", UNDECIDED), judged_by_file(deployed, "second", UNDECIDED, waves="first"))
    assert deployed.run("deploy", version="2.0.0", approve="first").returncode == 2
    paused = of_kind(deployed, "operation_paused")
    assert [event["data"]["gate"] for event in paused] == ["first"]
    assert deployed.run("resume", approve="second").returncode == 2
    assert [event["data"]["gate"] for event in of_kind(deployed, "operation_paused")] == ["first", "first"]
    assert deployed.run("resume", approve="first").returncode == 2
    assert [event["data"]["gate"] for event in of_kind(deployed, "operation_paused")] == ["first", "first", "second"]
    approved = [event for event in of_kind(deployed, "gate_verdict") if event["data"]["verdict"] == "pass"]
    assert approved[0]["reason"].startswith("approved by ")
    assert deployed.releases() == [2, 1]
    must(deployed.run("resume", do="undo"))
    assert (deployed.releases(), deployed.versions()) == ([1, 1], {"1.0.0"})


def test_a_rollback_need_not_take_a_paused_deploy_by_force(deployed: Fleet) -> None:
    use(deployed, judged_by_file(deployed, "first", UNDECIDED))
    assert deployed.run("deploy", version="2.0.0").returncode == 2
    assert deployed.releases() == [2, 1]
    must(deployed.run("rollback"))
    assert (deployed.releases(), deployed.versions()) == ([1, 1], {"1.0.0"})


def test_an_undecided_gate_takes_the_fleet_back_where_the_specification_says_so(deployed: Fleet) -> None:
    use(deployed, judged_by_file(deployed, "first", UNDECIDED, on_inconclusive="roll_back"))
    assert deployed.run("deploy", version="2.0.0").returncode == 2
    assert (deployed.releases(), deployed.versions()) == ([1, 1], {"1.0.0"})
    assert events(deployed)[-1]["data"]["outcome"] == "rolled_back"


def test_a_wave_that_took_itself_back_during_the_pause_is_switched_and_judged_anew(deployed: Fleet) -> None:
    use(deployed, judged_by_file(deployed, "first", PASS), judged_by_file(deployed, "second", UNDECIDED))
    assert deployed.run("deploy", version="2.0.0").returncode == 2
    canary = deployed.hosts["worker1"].transaction()
    armed = canary.timer.armed()
    assert armed is not None
    # The confirm timer's own act, at the moment of its deadline.
    assert canary.take_back(armed["token"]) == "taken back"
    assert deployed.releases() == [1, 1]
    (deployed.folder / "second").write_text(str(PASS))
    must(deployed.run("resume"))
    assert deployed.releases() == [2, 2]
    assert [entry for entry in verdicts(deployed) if entry[0] == "first"] == [("first", "pass", 1)] * 3


def test_a_comparison_without_another_version_is_skipped_and_said(deployed: Fleet) -> None:
    use(deployed, {"name": "beside", "compare": {}, "bake": 0, "timeout": 5})
    must(deployed.run("deploy", release=1, version="1.0.0", reason="nothing to do"))
    (deployed.project / "templates" / "worker.conf.j2").write_text("setting=edited\n")
    must(deployed.run("deploy", version="1.0.0"))
    (skipped,) = of_kind(deployed, "gate_skipped")
    assert skipped["data"]["gate"] == "beside" and "no other version runs beside 1.0.0" in skipped["reason"]


@pytest.mark.parametrize(
    ("gates", "words"),
    [
        ([{"name": "a", "metric": "prometheus", "prometheus": {"url": "http://127.0.0.1:1", "query": "up"}, "limit": 1}], "127.0.0.1:1"),
        ([{"name": "a", "metric": "depth"}], "The metric depth needs the option limit"),
        ([{"name": "a"}, {"name": "a"}], "more than one gate a"),
        ([{"name": "a", "bake": [1, 90], "timeout": 60}], "gates[0].timeout is 60 s"),
        ([{"name": "a", "metric": "http", "http": {"url": "ftp://x"}}], "http"),
        ([{"name": "a", "timeout": 800}], "The operation may take"),
    ],
)
def test_a_gate_that_cannot_be_asked_is_refused_before_anything_changes(standing: Fleet, gates: list[dict[str, Any]], words: str) -> None:
    use(standing, *gates)
    before = standing.everything()
    done = standing.run("deploy", version="2.0.0")
    assert done.returncode == 2 and words in on_one_line(done.stdout), done.stdout
    assert standing.everything() == before


def test_gate_and_gates_together_are_refused(standing: Fleet) -> None:
    standing.specification["gates"] = [{"name": "a", "limit": 0.1}]
    done = standing.run("deploy", version="2.0.0")
    assert done.returncode == 2 and "has gate and gates" in on_one_line(done.stdout), done.stdout


def test_without_a_terminal_a_person_is_not_waited_for(deployed: Fleet) -> None:
    use(deployed, {"name": "release-manager", "metric": "approval", "waves": "first", "timeout": 300})
    done = deployed.run("deploy", version="2.0.0")
    assert done.returncode == 2 and deployed.releases() == [2, 1], done.stdout
    assert "there is no terminal to ask on" in on_one_line(done.stdout)
    must(deployed.run("resume", approve="release-manager"))
    assert deployed.releases() == [2, 2]
    must(deployed.run("deploy", version="1.1.0", approve=["release-manager"]))
    assert deployed.releases() == [3, 3]


class Terminal:
    """A playbook that is run on a terminal."""

    def __init__(self, fleet: Fleet, playbook: str, **variables: Any) -> None:
        command = fleet.command(playbook, **variables)
        self.output = ""
        self._pid, self._screen = pty.fork()
        if self._pid == 0:
            os.chdir(fleet.project)
            os.execve(command[0], command, fleet.environment())

    def wait_for(self, words: str, times: int = 1, limit: float = 120, typing: str = "") -> None:
        """Until the words were shown so often. What is typed before the prompt listens is lost, so that it is typed again."""
        end, typed = time.monotonic() + limit, 0.0
        while self.output.count(words) < times:
            assert time.monotonic() < end, f"{words!r} did not come in {limit} s:\n{self.output}"
            if typing and time.monotonic() > typed + 2:
                typed = time.monotonic()
                os.write(self._screen, typing.encode() + b"\r")
            if select.select([self._screen], [], [], 0.1)[0]:
                self._read()

    def ended(self) -> int:
        while self._read():
            pass
        os.close(self._screen)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self) -> bool:
        try:
            found = os.read(self._screen, 65536)
        except OSError:
            # Linux says so when the other side has closed.
            return False
        self.output += found.decode(errors="replace")
        return bool(found)


@pytest.mark.parametrize(("answer", "code", "releases"), [("yes", 0, [2, 2]), ("no", 2, [1, 1])])
def test_on_a_terminal_a_person_is_asked(deployed: Fleet, answer: str, code: int, releases: list[int]) -> None:
    use(deployed, {"name": "release-manager", "metric": "approval", "waves": "first", "question": "Do the mails look right?"})
    terminal = Terminal(deployed, "deploy", version="2.0.0")
    terminal.wait_for("gate release-manager: Do the mails look right?")
    terminal.wait_for("yes or no", times=2, typing="perhaps")
    terminal.wait_for("what was decided", typing=answer)
    assert terminal.ended() == code, terminal.output
    assert deployed.releases() == releases
    (verdict,) = of_kind(deployed, "gate_verdict")
    assert verdict["data"]["metric"] == "approval" and verdict["reason"].split(" by ")[0] in ("approved", "declined")
