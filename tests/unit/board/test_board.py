# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The board as ansible-playbook shows it where there is no terminal. Only what the hosts answer is made up."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.unit.board.stage import Stage


@pytest.fixture(scope="module")
def bad_run(stage: Stage) -> subprocess.CompletedProcess[str]:
    return stage.play(True, "bad")


@pytest.fixture(scope="module")
def good_run(stage: Stage) -> subprocess.CompletedProcess[str]:
    return stage.play(False, "good", "--diff")


def lines_of(run: subprocess.CompletedProcess[str]) -> list[str]:
    """The board without its clock."""
    return [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in run.stdout.splitlines()]


def test_a_good_deploy_is_a_handful_of_lines(good_run: subprocess.CompletedProcess[str]) -> None:
    assert good_run.returncode == 0, good_run.stdout + good_run.stderr
    lines = lines_of(good_run)
    figures = "2 workers, drained in 1.2 s, switched in 0.1 s, started in 2.0 s"
    expected = [
        "== Deploy mailer ==",
        "mailer    no journal yet: nothing was ever deployed",
        "mailer    op-0001-deploy opened: to release 1 (2.0.0), from release 0",
        f"worker1   release 1 (2.0.0)     active         {figures}",
        f"worker2   release 1 (2.0.0)     active         {figures}",
        f"worker3   release 1 (2.0.0)     active         {figures}",
        "worker1   release 1 (2.0.0)     drained first",
        "worker1   release 1 (2.0.0)     nothing to do",
        "gate      PASS: 31 of 90 failed (34.4 %, limit 5.0 %)",
        "mail      31 of 31 matching tasks put back, 0 remain; conservation proven",
        "sms       31 of 31 matching tasks put back, 0 remain; conservation proven",
        "bulk      7 of 7 matching tasks treated by rules (park 5, requeue 2), 0 remain",
        "bulk      7 of 7 matching tasks treated by rules (park 5, requeue 2), 0 remain",
        "mail      12 queued, 3 executing, PAUSED",
        "workers   1 worker, of version 2.0.0",
        "mail-3.0  let in at the broker",
        "mail-3.0  shut out at the broker, 2 connections closed",
        "orders    divided: 1.0.0 90 %, 2.0.0 10 %; 10 % of the tasks go to another version",
        "orders    is divided so: 1.0.0 90 %, 2.0.0 10 %",
        "orders-2  10 %, active: 3 queued, 1 executing",
        "news      apart, in queue orders-news; 1 queued task moved",
        "news      divided like the others again; 1 queued task moved",
        "invoices  on for 10 % by customer, of release 1",
        "invoices  is on for 10 % by customer",
        "new-look  on for 2 targets and 1 % of the others",
        "new-look  on for 1 target",
        "new-look  off for all",
        "new-look  on for all",
        "new-look  taken away",
        "old-look  is not there",
        "mailer    op-0001-deploy closed: confirmed; the fleet is on release 1, known good is release 1",
        "worker1   hello from debug",
        "verdict   host     release wanted  release found  phase      reason",
        "verdict   worker1  1               1              confirmed  -",
        "verdict   All 3 hosts of fleet mailer are on release 1.",
        "worker3   ok           release 1 (2.0.0)",
    ]
    for line in expected:
        assert line in lines, f"{line!r} is not in\n{good_run.stdout}"


def test_every_line_of_the_board_has_the_time(good_run: subprocess.CompletedProcess[str]) -> None:
    assert re.match(r"\d\d:\d\d:\d\d  == Deploy mailer ==$", good_run.stdout.splitlines()[0])


def test_what_only_prepares_is_left_out(good_run: subprocess.CompletedProcess[str]) -> None:
    for noise in ("TASK", "Forget nothing", "Skip this", "skipping", "PLAY RECAP", "ok=", "Read the journal"):
        assert noise not in good_run.stdout


def test_differences_are_shown_on_request(good_run: subprocess.CompletedProcess[str], bad_run: subprocess.CompletedProcess[str]) -> None:
    assert "+open operation: op-0001-deploy to release 1" in good_run.stdout
    assert "open operation" not in bad_run.stdout


def test_a_task_can_put_its_own_lines_on_the_board(good_run: subprocess.CompletedProcess[str]) -> None:
    lines = lines_of(good_run)
    first = lines.index("broker    maxmemory is near")
    assert lines[first + 1] == "broker    look at it"


def test_warnings_are_never_hidden(good_run: subprocess.CompletedProcess[str]) -> None:
    assert "the broker is slow" in good_run.stderr


def test_secrets_stay_hidden(good_run: subprocess.CompletedProcess[str]) -> None:
    assert "release 77" not in good_run.stdout


def test_without_a_terminal_there_is_no_colour(bad_run: subprocess.CompletedProcess[str]) -> None:
    assert "\033" not in bad_run.stdout


def test_a_failure_is_told_with_its_whole_sentence(bad_run: subprocess.CompletedProcess[str]) -> None:
    joined = " ".join(line.strip() for line in lines_of(bad_run))
    assert (
        "worker2   PUT BACK  Switching worker2 to release 1 failed: the worker mail:0 ended with status 3 within 0.4 s of its start. "
        "worker2 is back on release 0 (version 0.9.0), code and config. Mend the cause, then run again. worker2   the run goes on"
    ) in joined
    assert max(len(line) for line in bad_run.stdout.splitlines() if "Switching" in line) <= 120
    assert "letters   The broker" not in joined
    assert "worker1   NO ANSWER  The broker of letters did not answer." in joined


def test_an_unreachable_host_is_told(bad_run: subprocess.CompletedProcess[str]) -> None:
    assert "worker3   UNREACHABLE  no route to host" in lines_of(bad_run)


def test_a_failed_built_in_task_is_shown_in_full(bad_run: subprocess.CompletedProcess[str]) -> None:
    assert "TASK [A broken command]" in bad_run.stdout
    assert '"stderr": "ls: cannot access' in bad_run.stdout


def test_a_module_of_ours_that_dies_is_shown_in_full(bad_run: subprocess.CompletedProcess[str]) -> None:
    assert "TASK [A module that dies]" in bad_run.stdout
    assert "Traceback of ours" in bad_run.stdout


def test_a_playbooks_refusal_is_a_sentence(bad_run: subprocess.CompletedProcess[str]) -> None:
    lines = lines_of(bad_run)
    first = lines.index("worker1   FAILED  No version was named. Run with -e version=<version>.")
    assert lines[first + 1] == "worker1   checked: 1 == 2"


def test_a_mixed_fleet_fails_with_its_table(bad_run: subprocess.CompletedProcess[str]) -> None:
    assert bad_run.returncode == 2
    lines = lines_of(bad_run)
    assert "mailer    op-0001-deploy closed: FAILED; the hosts may differ, no release is known good" in lines
    assert "gate      FAIL: 31 of 90 failed (34.4 %, limit 5.0 %)" in lines
    assert "verdict   worker3  1               not known      -          unreachable: not known" in lines
    assert any(line.startswith("verdict   FAILED  1 of 3 hosts of fleet mailer are not proven to be on release 1.") for line in lines)
    # The recap: proven hosts are well although the verdict failed the run, and although a task failed on the way.
    recap = lines[lines.index("== hosts ==") + 1 :]
    assert recap[0].startswith("worker1   ok           release 1 (2.0.0)")
    assert recap[1] == "worker2   ok           release 1 (2.0.0), 1 failure on the way"
    assert recap[2] == "worker3   unreachable  release not known, wanted 1: unreachable: not known"


def test_check_mode_says_would_and_v_names_the_tasks(stage: Stage) -> None:
    run = stage.play(False, "check", "--check", "-v")
    assert run.returncode == 0, run.stdout + run.stderr
    lines = lines_of(run)
    assert "== Deploy mailer ==  (check mode: nothing is changed)" in lines
    assert {"invoices  would be on for 10 % by customer, of release 1", "invoices  is on for 10 % by customer"} <= set(lines)
    assert {"new-look  would be taken away", "old-look  is not there"} <= set(lines)
    assert "mail      31 of 31 matching tasks would be put back, 0 remain" in lines
    assert "task      Open the operation" in lines
    assert "mailer    op-0001-deploy would be opened: to release 1 (2.0.0), from release 0" in lines
    assert any(line.startswith("worker1   release 1 (2.0.0)     would be active") for line in lines)
    assert list((stage.folder / "check").iterdir()) == []


def test_vvv_shows_what_the_default_callback_shows(stage: Stage) -> None:
    run = stage.play(False, "verbose", "-vvv")
    assert run.returncode == 0, run.stdout + run.stderr
    for part in ("PLAY [Deploy mailer]", "TASK [Skip this]", "skipping: [worker1]", "PLAY RECAP", "task path:", "changed: [worker2] =>"):
        assert part in run.stdout
