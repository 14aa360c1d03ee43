# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The board as ansible-playbook shows it. Only what the hosts answer is made up; the journal and the verdict are real."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.queueops.fleet.plugins.callback import board

ANSWERING = """\
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        result.update(self._task.args["answer"])
        return result
"""

INVENTORY = """\
[mailer]
worker1
worker2
worker3

[mailer:vars]
ansible_connection=local
ansible_python_interpreter={python}
"""

PLAYBOOK = """\
- name: Deploy mailer
  hosts: mailer
  gather_facts: false
  vars:
    running:
      - {name: "mail:0", pid: 1, state: running, version: 2.0.0}
      - {name: "mail:1", pid: 2, state: running, version: 2.0.0}
    state_dir: "{{ folder }}/state"
  tasks:
    - name: Read the journal
      queueops.fleet.fleet_journal_info: {fleet: mailer, state_dir: "{{ state_dir }}"}
      run_once: true
    - name: Open the operation
      queueops.fleet.fleet_operation:
        {fleet: mailer, state_dir: "{{ state_dir }}", state: opened, kind: deploy, version: 2.0.0, actor: alice@ctl1}
      run_once: true
      register: opened
    - name: Forget nothing
      ansible.builtin.set_fact: {kept: true}
    - name: Skip this
      ansible.builtin.command: /bin/false
      when: false
    - name: Switch
      queueops.fleet.worker_release:
        phase: active
        answer:
          changed: true
          release: {number: 1, version: 2.0.0}
          live: {release: 1, version: 2.0.0, phase: confirmed, workers: "{{ running }}"}
          timings: {drain: 1.23, swap: 0.1, start: 2.0}
      register: answered
    - name: A warning
      queueops.fleet.worker_release:
        phase: confirmed
        answer: {changed: false, warnings: [the broker is slow], live: {release: 1, version: 2.0.0, phase: confirmed}}
      run_once: true
    - name: A line of its own
      queueops.fleet.worker_release: {answer: {board: {subject: broker, text: [maxmemory is near, look at it], tone: warn}}}
      run_once: true
    - name: A secret
      queueops.fleet.worker_release: {phase: active, answer: {changed: true, release: {number: 77}}}
      no_log: true
      run_once: true
    - name: Bad things
      when: bad | bool
      block:
        - name: A host that puts itself back
          queueops.fleet.worker_release:
            phase: active
            answer:
              failed: true
              msg: >-
                Switching worker2 to release 1 failed: the worker mail:0 ended with status 3 within 0.4 s of its start.
                worker2 is back on release 0 (version 0.9.0), code and config. Mend the cause, then run again.
              error: {code: put_back}
              live: {release: 0, version: 0.9.0, phase: confirmed}
          when: inventory_hostname == "worker2"
          ignore_errors: true
        - name: A host that is down
          queueops.fleet.worker_release: {phase: active, answer: {unreachable: true, msg: no route to host}}
          when: inventory_hostname == "worker3"
          ignore_unreachable: true
        - name: A broken command
          ansible.builtin.command: ls /does-not-exist
          ignore_errors: true
          check_mode: false
          run_once: true
        - name: A module that dies
          queueops.fleet.worker_release: {answer: {failed: true, msg: MODULE FAILURE, module_stderr: Traceback of ours}}
          ignore_errors: true
          run_once: true
        - name: One item that fails
          queueops.fleet.queue_redrive:
            queue: "{{ item }}"
            answer: {failed: true, msg: "The broker of {{ item }} did not answer.", error: {code: unavailable}}
          loop: [letters]
          ignore_errors: true
          run_once: true
        - name: A refusal of the playbook
          ansible.builtin.assert: {that: 1 == 2, fail_msg: "No version was named. Run with -e version=<version>.", quiet: true}
          ignore_errors: true
          run_once: true
    - name: Gate
      queueops.fleet.fleet_gate:
        answer: {verdict: "{{ bad | bool | ternary('fail', 'pass') }}", reason: "31 of 90 failed (34.4 %, limit 5.0 %)"}
      run_once: true
    - name: Put back
      queueops.fleet.queue_redrive:
        queue: "{{ item }}"
        answer: {changed: true, matched: 31, moved: 31, remaining: 0, conservation: {verdict: proven}}
      loop: [mail, sms]
      run_once: true
    - name: Treat by rules
      queueops.fleet.queue_redrive:
        queue: bulk
        answer: {changed: true, matched: 7, moved: 7, remaining: 0, by_action: {requeue: 2, park: 5}}
      run_once: true
    - name: Queues
      queueops.fleet.queue_info:
        answer: {queues: [{name: mail, queued: 12, executing: 3, dead_lettered: null, paused: true}], workers: [{version: 2.0.0}]}
      run_once: true
    - name: Close the operation
      queueops.fleet.fleet_operation:
        fleet: mailer
        state_dir: "{{ state_dir }}"
        state: closed
        operation: "{{ opened.operation }}"
        outcome: "{{ bad | bool | ternary('failed', 'confirmed') }}"
        hosts: "{{ dict(groups['mailer'] | product([{'release': 1}])) }}"
      run_once: true
      when: not ansible_check_mode
    - name: Say something
      ansible.builtin.debug: {msg: hello from debug}
      run_once: true
    - name: Compare
      queueops.fleet.fleet_verdict:
        fleet: mailer
        wanted: 1
        version: 2.0.0
        expected_hosts: "{{ groups['mailer'] }}"
        results: "{{ {'worker1': answered, 'worker2': answered, 'worker3': bad | bool | ternary({'unreachable': true}, answered)} }}"
      run_once: true
"""


class Stage:
    """A copy of the collection by links, in which the modules that need hosts and brokers answer what the playbook says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        real = Path(board.__file__).parents[2]
        staged = folder / "ansible_collections" / "queueops" / "fleet"
        (staged / "plugins" / "action").mkdir(parents=True)
        for name in ("galaxy.yml", "meta"):
            (staged / name).symlink_to(real / name)
        for name in ("callback", "doc_fragments", "filter", "module_utils", "modules"):
            (staged / "plugins" / name).symlink_to(real / "plugins" / name)
        actions = staged / "plugins" / "action"
        (actions / "fleet_verdict.py").symlink_to(real / "plugins" / "action" / "fleet_verdict.py")
        for name in ("worker_release", "fleet_gate", "queue_redrive", "queue_info"):
            (actions / f"{name}.py").write_text(ANSWERING)
        (folder / "inventory.ini").write_text(INVENTORY.format(python=sys.executable))
        (folder / "play.yml").write_text(PLAYBOOK)

    def command(self, bad: bool, run: str, *options: str) -> list[str]:
        own = self.folder / run
        own.mkdir()
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        return [program, "-i", "inventory.ini", "play.yml", "-e", f"folder={own}", "-e", f"bad={bad}", *options]

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TERM") if name in os.environ}
        return dict(
            kept,
            LC_ALL="C.UTF-8",
            ANSIBLE_COLLECTIONS_PATH=str(self.folder),
            ANSIBLE_STDOUT_CALLBACK="queueops.fleet.board",
            ANSIBLE_HOME=str(self.folder / "home"),
        )

    def play(self, bad: bool, run: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = self.command(bad, run, *options)
        return subprocess.run(command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return Stage(tmp_path_factory.mktemp("stage"))


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
        "gate      PASS: 31 of 90 failed (34.4 %, limit 5.0 %)",
        "mail      31 of 31 matching tasks put back, 0 remain; conservation proven",
        "sms       31 of 31 matching tasks put back, 0 remain; conservation proven",
        "bulk      7 of 7 matching tasks treated by rules (park 5, requeue 2), 0 remain",
        "mail      12 queued, 3 executing, PAUSED",
        "workers   1 worker, of version 2.0.0",
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


def test_on_a_terminal_it_has_colour_and_keeps_to_the_width(stage: Stage) -> None:
    leader, follower = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 84, 0, 0))
    process = subprocess.Popen(
        stage.command(True, "terminal"), cwd=stage.folder, env=stage.environment(), stdin=follower, stdout=follower, stderr=follower
    )
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(leader)
    assert process.wait(60) == 2
    text = shown.decode()
    assert "\033[" in text
    plain = re.sub(r"\033\[[0-9;]*m", "", text)
    start = plain.index("PUT BACK")
    sentence = plain[plain.rindex("\n", 0, start) + 1 : plain.index("the run goes on", start)]
    assert max(len(line.rstrip()) for line in sentence.splitlines()[:-1]) <= 84
