# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks under the board. What the hosts and brokers answer is made up; the journal and the verdict are real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ansible_collections.queueops.fleet.plugins.callback import board

ANSWERING = """\
import os
import time

from ansible_collections.queueops.fleet.plugins.plugin_utils._waiting import WaitingAction


class ActionModule(WaitingAction):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        for told in self._task.args.get("tells", []):
            self._shown = float("-inf")
            self.line(told["line"], facts=told["facts"])
        # However long it takes, until the test makes the file.
        until = self._task.args.get("until")
        while until and not os.path.exists(until):
            time.sleep(0.02)
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
    - name: Workers that are not done in time
      queueops.fleet.worker_release:
        phase: "{{ item }}"
        answer: {changed: "{{ item != 'killed' }}", release: {number: 1, version: 2.0.0}}
      loop: [drained, killed]
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
    - name: Fence
      queueops.fleet.queue_fence:
        state: "{{ item }}"
        answer: {changed: true, user: mail-3.0, connections: 2}
      loop: [open, fenced]
      run_once: true
    - name: Divide the tasks
      queueops.fleet.queue_route:
        route: orders
        answer: {changed: "{{ item | bool }}", weights: {1.0.0: 90, 2.0.0: 10}, moved: 10}
      loop: [true, false]
      run_once: true
    - name: Show how they are divided
      queueops.fleet.queue_route_info:
        route: orders
        answer: {exists: true, versions: [{queue: orders-2, weight: 10, state: active, queued: 3, executing: 1, scheduled: null}]}
      run_once: true
    - name: Set apart
      queueops.fleet.queue_isolate:
        task: news
        state: "{{ item }}"
        answer: {changed: true, queue: orders-news, moved: {orders-1.0.0: 1}}
      loop: [isolated, joined]
      run_once: true
    - name: Let some in
      queueops.fleet.feature_gate:
        name: invoices
        answer: {changed: "{{ item | bool }}", gate: {name: invoices, state: percent, percent: 10, key: customer, release: 1}}
      loop: [true, false]
      run_once: true
    - name: Let two in, and nobody, and all
      queueops.fleet.feature_gate: {answer: {changed: true, gate: "{{ dict(item, name='new-look') }}"}}
      loop:
        - {state: targets, targets: [acme, initech], percent: 1, key: customer}
        - {state: targets, targets: [acme]}
        - {state: "off"}
        - {state: "on"}
        - {state: absent}
      run_once: true
    - name: A gate that is not there
      queueops.fleet.feature_gate: {answer: {changed: false, gate: {name: old-look, state: absent}}}
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

#: A deploy whose steps take as long as the test lets them: until the file of the step's name is in the folder.
SLOW = """\
- name: Deploy mailer
  hosts: mailer
  gather_facts: false
  tasks:
    - name: Read the journal
      queueops.fleet.fleet_journal_info: {fleet: mailer, state_dir: "{{ folder }}/state"}
      run_once: true
    - name: Look at the queues
      queueops.fleet.queue_info: {answer: {queues: [{name: mail, queued: 12, executing: 3, failed: 1}]}}
      run_once: true
    - name: Prepare
      queueops.fleet.worker_release:
        phase: prepared
        answer: {changed: true, pending: true, release: {number: 1, version: 2.0.0}, live: {release: 0, version: 1.0.0}}
    - name: Open the operation
      queueops.fleet.fleet_operation:
        {fleet: mailer, state_dir: "{{ folder }}/state", state: opened, kind: deploy, version: 2.0.0, actor: alice@ctl1}
      run_once: true
    - name: Switch this wave
      queueops.fleet.worker_release:
        phase: active
        until: "{{ folder }}/switched"
        answer: >-
          {{ {'failed': true, 'msg': 'The worker mail:0 ended with status 3.', 'error': {'code': 'put_back'}}
             if inventory_hostname == 'worker2' else
             {'changed': true, 'release': {'number': 1, 'version': '2.0.0'}, 'live': {'release': 1, 'version': '2.0.0'}} }}
      ignore_errors: true
    - name: Ask
      ansible.builtin.pause: {prompt: Shall it go on}
      when: asks | default(false)
    - name: Warn
      queueops.fleet.worker_release: {answer: {warnings: ["{{ rude | default('the broker is slow') }}"]}}
      run_once: true
    - name: Watch the gate
      queueops.fleet.fleet_gate:
        name: canary
        tells:
          - {line: "gate canary on mail: 0 of 3 failed", facts: {kind: gate, title: gate canary on mail, text: 0 of 3 failed}}
          - line: "gate canary on mail: 1 of 9 failed"
            facts: {kind: gate, title: gate canary on mail, text: "1 of 9 failed (11.1 %, limit 20.0 %)", bake_left: 300.0}
        until: "{{ folder }}/judged"
        answer: {verdict: pass, reason: 1 of 90 failed}
      run_once: true
    - name: Drain
      queueops.fleet.queue_drain:
        queues: [mail]
        tells:
          - line: "drain mail: 2 executing, 1 queued"
            facts:
              {kind: drain, title: mail, text: "2 executing, 1 queued", left: 3, most: 40, seconds_left: 500.0,
               queues: [{name: mail, queued: 1, executing: 2, failed: 1}]}
        until: "{{ folder }}/drained"
        answer: {drained: true, executing: 0, queued: 0, waited_s: 4.2}
      run_once: true
"""


QUEUES = ("queue_redrive", "queue_info", "queue_drain", "queue_fence", "queue_isolate", "queue_route", "queue_route_info", "feature_gate")


class Stage:
    """A copy of the collection by links, in which the modules that need hosts and brokers answer what the playbook says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        real = Path(board.__file__).parents[2]
        staged = folder / "ansible_collections" / "queueops" / "fleet"
        (staged / "plugins" / "action").mkdir(parents=True)
        for name in ("galaxy.yml", "meta"):
            (staged / name).symlink_to(real / name)
        for name in ("callback", "doc_fragments", "filter", "module_utils", "modules", "plugin_utils"):
            (staged / "plugins" / name).symlink_to(real / "plugins" / name)
        actions = staged / "plugins" / "action"
        (actions / "fleet_verdict.py").symlink_to(real / "plugins" / "action" / "fleet_verdict.py")
        for name in ("worker_release", "fleet_gate", *QUEUES):
            (actions / f"{name}.py").write_text(ANSWERING)
        (folder / "inventory.ini").write_text(INVENTORY.format(python=sys.executable))
        (folder / "play.yml").write_text(PLAYBOOK)
        (folder / "slow.yml").write_text(SLOW)

    def command(self, bad: bool, run: str, *options: str, playbook: str = "play.yml") -> list[str]:
        """``run`` names a folder for the playbook's own files, which is made."""
        own = self.folder / run
        own.mkdir()
        program = str(Path(sys.executable).with_name("ansible-playbook"))
        return [program, "-i", "inventory.ini", playbook, "-e", f"folder={own}", "-e", f"bad={bad}", *options]

    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
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
