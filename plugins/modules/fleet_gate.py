#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_gate
short_description: Decide whether a version does its work well enough
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - Watches one figure for a while and gives a verdict. The figure comes from the queue, from Prometheus, from an HTTP answer or from a
    command (O(metric)), and is held against a limit (O(limit)) or against the version that runs at the same time (O(compare)).
  - V(fail) comes as soon as enough was seen and the version does badly. V(pass) comes when it did well for the bake time, enough was
    seen, and the newest look was made and good. V(inconclusive) comes when the time is up before, or when it could not be measured.
    Failing is not could-not-measure, and neither of them ever passes.
  - Each look passes, fails, is inconclusive (the source answered, with nothing to judge by), or got no answer. For each kind of the
    last three there is a limit of its own (O(fail_limit), O(inconclusive_limit), O(errors_limit)).
  - A verdict of V(fail) or V(inconclusive) is a result, not a failure of this module. Decide by RV(verdict) what happens.
  - The looks are made on the host that the task runs on; they are judged on the controller.
  - While it watches, a line is shown at most every five seconds.
extends_documentation_fragment:
  - queueops.fleet.queue
  - queueops.fleet.gate
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
attributes:
  check_mode:
    support: full
    details:
      - Measures once and does not wait. Where that does not show a failing version, the verdict is V(inconclusive).
      - A command (O(command)) is run in check mode as well; it is to measure and to change nothing.
  diff_mode:
    support: N/A
    details: It changes nothing.
  idempotent:
    support: full
requirements:
  - For O(compare) the Python library C(scipy) on the controller (C(python3-scipy) of Debian and Ubuntu), in the Python that runs Ansible.
options:
  backend:
    description:
      - The queue system, see M(queueops.fleet.queue_info).
      - Needed for the metrics of the queue.
    type: str
    required: false
    choices: [bullmq, celery, dramatiq, nats, procrastinate, rabbitmq, redis_list, redis_stream, rq, sidekiq]
  url:
    description:
      - Where the broker is, as the host sees it that runs this task, for example V(redis://broker:6379/0). See
        M(queueops.fleet.queue_info).
      - Needed for the metrics of the queue.
      - Give a password in O(password), not here. One that is here all the same is masked in results and errors.
    type: str
    required: false
  queue:
    description:
      - The queue. Workers of O(version) that do not take tasks from it are not counted.
      - Needed for the metrics of the queue.
    type: str
  version:
    description:
      - The version that is judged.
      - Needed with O(metric=failed_ratio) and O(metric=throughput). Elsewhere it is only shown.
    type: str
  name:
    description: Name of the gate, for the lines that are shown. Default is the metric.
    type: str
  metric:
    description:
      - What is measured. A queue system that cannot tell it is refused by name, see the collection's C(docs/queues.md).
      - V(failed_ratio) is the share of finished attempts of the version that failed. With RQ an attempt that is then retried counts as
        failed.
      - V(depth) is how many tasks are queued, without those that are executing.
      - V(oldest_age) is how long the oldest queued task has waited, in seconds. Of an empty queue it is 0.
      - V(throughput) is how many tasks a second the version's workers finish, well or not, over all the time since the gate began, and not
        before the bake time is over. On RabbitMQ, which does not count by worker, it is the queue's rate, of all versions together.
      - V(prometheus) is what O(prometheus.query) gives.
      - V(http) is the status that O(http.url) answers with, or the number at O(http.field).
      - V(command) is how O(command.argv) ends, or with O(limit) the number that it writes.
    type: str
    choices: [failed_ratio, depth, oldest_age, throughput, prometheus, http, command]
    default: failed_ratio
  limit:
    description:
      - What the figure may be. For O(metric=failed_ratio) a share from V(0) to V(1), and V(0.05) by default.
      - Needed with the other metrics of the queue and with O(metric=prometheus), unless there is O(compare).
      - With O(metric=http) and O(metric=command) it says that there is a number to judge by. Without it the source judges by itself.
      - Not together with O(compare).
    type: float
  fail_when:
    description: On which side of O(limit) a look fails. Default is V(below) for O(metric=throughput), and V(above) for all others.
    type: str
    choices: [above, below]
  min_tasks:
    description:
      - Nothing is decided before this many tasks have finished. Only for O(metric=failed_ratio).
      - With O(compare) so many of each version; with O(compare.query) so many looks that gave a value for both.
    type: int
    default: 20
  bake:
    description: Seconds that the version has to do well before it passes, from the first look that was not inconclusive.
    type: float
    default: 10.0
  timeout:
    description: Seconds after which the verdict is V(inconclusive). Not less than O(bake).
    type: float
    default: 60.0
  interval:
    description:
      - Seconds between two looks. Default is a quarter of a second at first, and a second later on.
      - For Prometheus not less than its scrape interval, or the same sample is looked at again.
    type: float
  since:
    description:
      - When the version was switched to, in seconds since 1970. Workers that started since then are counted from their start.
      - Without it, and for workers that started before, only what they finish while the gate watches counts.
      - Only for O(metric=failed_ratio) without O(compare). Two versions are compared by what they finish at the same time.
    type: float
  fail_limit:
    description: So many looks may fail, in all. One more, and the verdict is V(fail).
    type: int
    default: 0
  inconclusive_limit:
    description:
      - So many looks may be inconclusive, in all. One more, and the verdict is V(inconclusive).
      - Default is as many as there are, until the time is up. The bake time begins anew after each of them.
    type: int
  errors_limit:
    description: After this many looks in a row that got no answer, the verdict is V(inconclusive).
    type: int
    default: 5
  dry_run:
    description:
      - Measure and judge, and pass whatever comes of it. What the verdict would have been is in RV(would_be).
      - An option that is wrong is refused all the same.
    type: bool
    default: false
seealso:
  - module: queueops.fleet.queue_info
"""

EXAMPLES = r"""
- name: Watch the canary
  queueops.fleet.fleet_gate:
    backend: rq
    url: redis://broker:6379/0
    queue: mail
    version: 2.0.0
    limit: 0.05
    min_tasks: 20
    bake: 30
    timeout: 300
  delegate_to: broker
  register: gate

- name: Stop here unless it passed
  ansible.builtin.assert:
    that: gate.verdict == 'pass'
    fail_msg: "{{ gate.reason }}"

- name: Does the canary fail more than the version that runs beside it?
  queueops.fleet.fleet_gate:
    backend: rq
    url: redis://broker:6379/0
    queue: mail
    version: 2.0.0
    compare:
      baseline_version: 1.9.0
    min_tasks: 50
    bake: 300
    timeout: 900
  delegate_to: broker

- name: The same where each version has a queue of its own
  queueops.fleet.fleet_gate:
    backend: rq
    url: redis://broker:6379/0
    queue: mail-2.0.0
    version: 2.0.0
    compare:
      baseline_version: 1.9.0
      baseline_queue: mail-1.9.0
    min_tasks: 50
    bake: 300
    timeout: 900
  delegate_to: broker

- name: The queue may not grow
  queueops.fleet.fleet_gate:
    backend: rabbitmq
    url: amqp://broker:5672/
    queue: mail
    metric: depth
    limit: 1000
    fail_limit: 3
    interval: 10
    bake: 120
    timeout: 300
  delegate_to: broker

- name: Is it slower? For now, only show it
  queueops.fleet.fleet_gate:
    name: latency
    metric: prometheus
    prometheus:
      url: http://prometheus:9090
      query: histogram_quantile(0.95, sum by (le) (rate(task_seconds_bucket{version="2.0.0"}[1m])))
    compare:
      query: histogram_quantile(0.95, sum by (le) (rate(task_seconds_bucket{version="1.9.0"}[1m])))
    interval: 60
    bake: 1800
    timeout: 3600
    dry_run: true

- name: The application's own opinion
  queueops.fleet.fleet_gate:
    metric: http
    http:
      url: http://127.0.0.1:8080/health
    bake: 30

- name: Rows that were written twice
  queueops.fleet.fleet_gate:
    name: duplicates
    metric: command
    command:
      argv: [/usr/local/bin/count-duplicates, --last, 5m]
    limit: 0
    interval: 30
    bake: 60
    timeout: 120
"""

RETURN = r"""
verdict:
  description: V(pass), V(fail) or V(inconclusive). With O(dry_run) always V(pass).
  returned: success
  type: str
would_be:
  description: With O(dry_run) what the verdict would have been. Null otherwise.
  returned: success
  type: str
reason:
  description: Why, in one clause.
  returned: success
  type: str
  sample: 7 of 21 failed (33.3 %, limit 5.0 %)
measured:
  description: Whether enough was seen to judge. False with V(inconclusive) means that nothing is known against the version.
  returned: success
  type: bool
metric:
  description: What was measured.
  returned: success
  type: str
  sample: failed_ratio
samples:
  description: What was measured since the gate began, thinned to the changes, the newest last, at most 200.
  returned: success
  type: list
  elements: dict
  contains:
    at:
      description: When, in seconds since 1970 by the broker's clock, or for a source by that of the host that asked it.
      type: float
    completed:
      description: Tasks of the version completed since the gate began.
      type: int
      returned: O(metric=failed_ratio)
    failed:
      description: Attempts of the version that failed since the gate began.
      type: int
      returned: O(metric=failed_ratio)
    ratio:
      description: The share that failed. Null before anything finished.
      type: float
      returned: O(metric=failed_ratio)
    baseline_completed:
      description: Tasks completed by the version that it is compared with.
      type: int
      returned: O(compare.baseline_version)
    baseline_failed:
      description: Attempts that failed of the version that it is compared with.
      type: int
      returned: O(compare.baseline_version)
    baseline_ratio:
      description: The share that failed of the version that it is compared with.
      type: float
      returned: O(compare.baseline_version)
    value:
      description: The figure. Null if this look gave none.
      type: float
      returned: other metrics with a number
    baseline_value:
      description: The figure of the version that it is compared with. Null if this look gave none.
      type: float
      returned: O(compare.query)
    outcome:
      description: What the source itself said, V(pass), V(fail) or V(inconclusive).
      type: str
      returned: O(metric=http) and O(metric=command) without O(limit)
limit:
  description: The limit that held. Null where there was none.
  returned: success
  type: float
decided_at:
  description: When it was decided, in seconds since 1970 by the controller's clock.
  returned: success
  type: float
began_at:
  description: When the gate began, in seconds since 1970 by the controller's clock.
  returned: success
  type: float
looks:
  description: How often was looked.
  returned: success
  type: int
errors:
  description: How many looks got no answer.
  returned: success
  type: int
failing_looks:
  description: How many looks failed.
  returned: success
  type: int
inconclusive_looks:
  description: How many looks were inconclusive.
  returned: success
  type: int
readings:
  description: What the last look that got an answer read.
  returned: success
  type: dict
  contains:
    at:
      description: When, as in RV(samples).
      type: float
    workers:
      description:
        - For the metrics by version, its workers with RV(queueops.fleet.queue_info#module:workers[].name), C(started), C(completed) and
          C(failed).
      type: list
      elements: dict
    baseline_workers:
      description: The same of the version that it is compared with.
      type: list
      elements: dict
    value:
      description: The figure of the other metrics. Null with a reason in C(said).
      type: float
    outcome:
      description: What the source itself said.
      type: str
    said:
      description: What the source said, in words.
      type: str
"""

import time
from typing import TYPE_CHECKING, Any, Mapping

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._gate_options import (
    GATE_SPEC,
    OF_QUEUE,
    limit_of,
    meter_of,
    rule_of,
)
from ansible_collections.queueops.fleet.plugins.module_utils._judge.sources import open_source
from ansible_collections.queueops.fleet.plugins.module_utils._judge.verdict import single_look
from ansible_collections.queueops.fleet.plugins.module_utils._queue_options import backend_of

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def look(module: AnsibleModule) -> Outcome:
    """One look, judged by itself; the looks that follow are folded on the controller, by the action plugin."""
    params = module.params
    rule, meter = rule_of(params), meter_of(params)
    reading = _of_queue(params) if params["metric"] in OF_QUEUE else _of_source(params)
    sample = meter.fold(reading)
    # Two versions are compared on the controller alone, which has SciPy.
    finding = None if params["compare"] else meter.find()
    verdict = single_look(finding, meter.told(), rule)
    now = time.time()
    result = dict(
        verdict.as_dict(params["dry_run"]),
        metric=params["metric"],
        samples=[sample],
        limit=limit_of(params),
        decided_at=now,
        began_at=now,
        looks=1,
        errors=0,
        failing_looks=int(finding is not None and finding.state == "fail"),
        inconclusive_looks=int(finding is not None and finding.state == "inconclusive"),
        readings=reading,
    )
    return Outcome(result=result)


def _of_queue(params: Mapping[str, Any]) -> dict[str, Any]:
    """What the queue's own look gives for the metric; what the system never tells is refused."""
    backend, metric = backend_of(params), params["metric"]
    able = backend.capabilities
    if metric == "oldest_age":
        able.require("oldest_age", "metric")
    elif metric == "failed_ratio" or (metric == "throughput" and "rate" not in able.can):
        able.require("counters", "metric")
    compare = params["compare"] or {}
    queue, baseline_queue = params["queue"], compare.get("baseline_queue") or params["queue"]
    # Both in one look: what ails the broker then shows in both versions.
    found = backend.look(list(dict.fromkeys([queue, baseline_queue])))
    state = found.queues[0]
    if metric == "depth":
        return {"at": found.at, "value": state.queued, "said": found.unknown.get("queues.queued")}
    if metric == "oldest_age":
        # Where nothing waits, nothing waits for long.
        age = 0.0 if state.queued == 0 else state.oldest_task_age_s
        return {"at": found.at, "value": age, "said": found.unknown.get("queues.oldest_task_age_s")}
    if metric == "throughput" and "counters" not in able.can:
        said = found.unknown.get("queues.rate_per_s") if state.rate_per_s is None else None
        return {"at": found.at, "rate": state.rate_per_s, "said": said}

    def of_version(version: str, queue: str) -> list[dict[str, Any]]:
        return [
            {"name": worker.name, "started": worker.started, "completed": worker.completed, "failed": worker.failed}
            for worker in found.workers
            if worker.version == version and (worker.queues is None or queue in worker.queues)
        ]

    reading: dict[str, Any] = {"at": found.at, "workers": of_version(params["version"], queue)}
    if compare:
        reading["baseline_workers"] = of_version(compare["baseline_version"], baseline_queue)
    return reading


def _of_source(params: Mapping[str, Any]) -> dict[str, Any]:
    """What the source says for the metric; with ``compare`` also what it says of the version to compare with."""
    metric, compare = params["metric"], params["compare"]
    options = params[metric]
    wants_number = compare is not None or params["limit"] is not None
    answer = open_source(metric, options, wants_number).ask()
    if not wants_number:
        return {"at": time.time(), "outcome": answer.outcome or "inconclusive", "said": answer.said}
    reading = {"at": time.time(), "value": answer.value, "said": answer.said}
    if compare is not None:
        other = open_source(metric, dict(options, query=compare["query"]), True).ask()
        reading["baseline"] = other.value
        if answer.value is not None and other.value is None:
            reading["said"] = "for the version to compare with, %s" % other.said
    return reading


def main() -> None:
    run_module(look, GATE_SPEC, supports_check_mode=True)


if __name__ == "__main__":
    main()
