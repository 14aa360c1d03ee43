# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # What a gate can hold a figure against besides a limit, and where it can get one besides the queue.
    DOCUMENTATION = r"""
options:
  compare:
    description:
      - Hold the version against another one that runs at the same time, instead of against a limit.
      - It fails if it is worse than chance explains, and worse by enough to matter. For shares of failed tasks that is Fisher's exact test
        and O(compare.tolerance), for values the Mann-Whitney test and O(compare.superiority), both one-sided.
      - For O(metric=failed_ratio) give O(compare.baseline_version), for O(metric=prometheus) O(compare.query).
      - Where the other version does not run, as after the last wave, it is never decided.
    type: dict
    suboptions:
      baseline_version:
        description: The version to compare with. Its workers take tasks from O(compare.baseline_queue).
        type: str
      baseline_queue:
        description:
          - The queue of the version to compare with, for O(metric=failed_ratio), where each version has a queue of its own, see
            M(queueops.fleet.queue_route). Default is O(queue).
          - Workers of that version which do not take tasks from it are not counted. Both queues have to exist.
        type: str
      query:
        description:
          - The query that gives the other version's value. A larger value is worse, with O(fail_when=below) a smaller one.
          - O(interval) is then needed, and not shorter than the time that both queries look back. Looks that see the same data are no
            evidence of their own.
        type: str
      alpha:
        description:
          - The risk that a version which is as good as the other fails, over all looks together, from V(0) to V(1).
          - Each look is held against its share of it (alpha spending after Lan and DeMets, of Pocock's type).
        type: float
        default: 0.02
      tolerance:
        description: By how much the share of failed tasks may be larger. V(0.01) is one percentage point.
        type: float
        default: 0.01
      superiority:
        description:
          - The probability that a value of the version is larger than one of the other, up to which it does not matter.
          - V(0.5) is no difference. By Vargha and Delaney 0.56 is a small one, 0.64 medium, 0.71 large.
        type: float
        default: 0.64
  prometheus:
    description: Where to ask, for O(metric=prometheus).
    type: dict
    suboptions:
      url:
        description: The address of Prometheus, or of what has its HTTP API, as the host sees it that runs this task.
        type: str
        required: true
      query:
        description:
          - A query for this moment, which gives a vector with one sample, or a scalar.
          - No sample, several, C(NaN), infinity or an answer with a warning are an inconclusive look, never a good one.
        type: str
        required: true
      username:
        description: User for basic authentication.
        type: str
      password:
        description: Password for basic authentication.
        type: str
      token:
        description: Bearer token.
        type: str
      headers:
        description: Further headers. They are not taken for secrets, and are logged with the other options.
        type: dict
      tls_ca:
        description: File on the host with the CA that signed the server's certificate. Default is the system's CAs.
        type: path
      tls_verify:
        description: Whether the server's certificate and name are checked.
        type: bool
        default: true
      timeout:
        description: Seconds that an answer may take.
        type: float
        default: 10.0
  http:
    description: What to ask, for O(metric=http). By GET; redirects are not followed.
    type: dict
    suboptions:
      url:
        description: The address, as the host sees it that runs this task. What follows a C(?) is not shown in messages.
        type: str
        required: true
      status:
        description:
          - The status that is wanted. Without O(http.field) a look with any other fails.
          - With O(http.field) any other is no answer.
        type: int
        default: 200
      field:
        description:
          - Where the number is in the JSON of the answer, names and positions joined by dots, for example V(latency.p95) or
            V(results.0.value).
          - It needs O(limit). What is not there, or not a number, is an inconclusive look.
        type: str
      username:
        description: User for basic authentication.
        type: str
      password:
        description: Password for basic authentication.
        type: str
      token:
        description: Bearer token.
        type: str
      headers:
        description: Further headers. They are not taken for secrets, and are logged with the other options.
        type: dict
      tls_ca:
        description: File on the host with the CA that signed the server's certificate. Default is the system's CAs.
        type: path
      tls_verify:
        description: Whether the server's certificate and name are checked.
        type: bool
        default: true
      timeout:
        description: Seconds that an answer may take.
        type: float
        default: 10.0
  command:
    description: What to run, for O(metric=command).
    type: dict
    suboptions:
      argv:
        description:
          - The program and its arguments, without a shell. Put no secret into them; what it writes is never shown.
          - It judges by its exit code, V(0) pass, V(1) fail, V(2) inconclusive. Any other is no answer.
          - With O(limit) it ends with V(0) and writes one number, or ends with V(2). Any other exit code is no answer.
        type: list
        elements: str
        required: true
      chdir:
        description: The folder to run it in.
        type: path
      timeout:
        description: Seconds after which it is killed, with its children. That is no answer.
        type: float
        default: 10.0
"""
