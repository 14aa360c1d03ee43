# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal's modules as ansible-playbook runs them: check, run, check again, run again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ansible_collections.queueops.fleet.plugins.modules import fleet_operation

PLAYBOOK = """\
- name: The life of an operation
  hosts: localhost
  connection: local
  gather_facts: false
  vars:
    ansible_python_interpreter: {python}
    hosts_on_1: {{worker1: {{release: 1, phase: confirmed, ok: true}}}}
  module_defaults:
    group/queueops.fleet.fleet: {{fleet: mailer, state_dir: "{folder}/state"}}
  tasks:
    - name: Nothing is there
      queueops.fleet.fleet_journal_info:
      register: empty
    - name: Open, in check mode
      queueops.fleet.fleet_operation: &open
        state: opened
        kind: deploy
        version: 1.0.0
        checksum: sha256:aa
        actor: alice@ctl1
        reason: ""
        digests: {{worker1: d1, worker2: null}}
        expect_head: "{{{{ empty.head }}}}"
      check_mode: true
      diff: true
      register: open_check
    - name: Look whether anything was written
      ansible.builtin.stat: {{path: "{folder}/state"}}
      register: written
    - name: Open
      queueops.fleet.fleet_operation: *open
      diff: true
      register: opened
    - name: Open again
      queueops.fleet.fleet_operation: {{state: opened, kind: rollback}}
      register: held
      ignore_errors: true
    - name: Append, in check mode
      queueops.fleet.fleet_journal: &append
        operation: "{{{{ opened.operation }}}}"
        epoch: "{{{{ opened.epoch }}}}"
        events: [{{kind: host_switched, host: worker1, data: {{release: 1}}}}]
      check_mode: true
      register: append_check
    - name: Append
      queueops.fleet.fleet_journal: *append
      register: appended
    - name: Close, in check mode
      queueops.fleet.fleet_operation: &close
        state: closed
        operation: "{{{{ opened.operation }}}}"
        outcome: confirmed
        hosts: "{{{{ hosts_on_1 }}}}"
        events: [{{kind: gate_verdict, reason: 2 of 90 failed, data: {{verdict: pass}}, at: "2026-03-01T07:41:22+00:00"}}]
      check_mode: true
      diff: true
      register: close_check
    - name: Close
      queueops.fleet.fleet_operation: *close
      diff: true
      register: closed
    - name: Close again
      queueops.fleet.fleet_operation: *close
      register: closed_again
    - name: Append after the end
      queueops.fleet.fleet_journal: *append
      register: late
      ignore_errors: true
    - name: Read all
      queueops.fleet.fleet_journal_info: {{events: all}}
      register: all_events
    - name: Read the newest two of one operation
      queueops.fleet.fleet_journal_info: {{events: op-0001-deploy, limit: 2}}
      register: newest
    - name: A wrong fleet
      queueops.fleet.fleet_journal_info: {{fleet: ../etc}}
      register: wrong
      ignore_errors: true
    - name: Judge
      ansible.builtin.assert:
        that:
          - not empty.exists and empty.state.next_release == 1 and empty.state.current == 0 and empty is not changed
          - open_check is changed and not written.stat.exists
          - opened is changed and opened.operation == "op-0001-deploy" and opened.epoch == 1 and opened.target == 1
          - open_check.operation == opened.operation and open_check.epoch == opened.epoch
          - open_check.diff == opened.diff
          - opened.events[0].reason is none
          - opened.state.releases["1"].digests | length == 1 and opened.state.releases["1"].digests.worker1 == "d1"
          - held is failed and held.error.code == "conflict" and held.held_by.actor == "alice@ctl1"
          - append_check is changed and appended is changed and appended.events[0].seq == 2 and append_check.head == opened.head
          - close_check is changed and closed is changed and close_check.diff == closed.diff and close_check.head == appended.head
          - closed.outcome == "confirmed" and closed.state.known_good == 1 and closed.version == "1.0.0"
          - closed_again is not changed and closed_again.head == closed.head
          - late is failed and late.error.code == "conflict"
          - all_events.head == closed.head and all_events.count == 6
          - all_events.events[2].at == "2026-03-01T07:41:22.000Z"
          - newest.events | map(attribute="kind") | list == ["release_confirmed", "operation_closed"]
          - newest.operations[0].outcome == "confirmed"
          - all_events.state.releases["1"].state == "confirmed"
          - wrong is failed and wrong.error.option == "fleet"
"""


def test_the_life_of_an_operation(tmp_path: Path) -> None:
    playbook = tmp_path / "play.yml"
    playbook.write_text(PLAYBOOK.format(folder=tmp_path, python=sys.executable))
    collections = Path(fleet_operation.__file__).parents[5]
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    run = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", str(playbook)],
        env=dict(kept, LC_ALL="C.UTF-8", ANSIBLE_COLLECTIONS_PATH=str(collections), ANSIBLE_HOME=str(tmp_path / "home")),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert run.returncode == 0, run.stdout + run.stderr
