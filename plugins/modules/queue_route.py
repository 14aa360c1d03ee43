#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: queue_route
short_description: Divide the tasks of a logical queue among versions of the workers
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - Each version of the workers listens to a queue of its own. The route says which percentage of the tasks each of them gets.
  - Which version gets a task is decided by its O(key). A share that grows keeps the keys that it had, and one that shrinks gives back
    first what it got last, so that going back to an earlier share is going back to the same keys.
  - What is in a version's queue already stays there, and so does what is put back there to be tried again.
  - On RabbitMQ the route is an exchange of the name O(route), to which is published instead of to a queue. Behind it are a
    consistent-hash exchange (plugin C(rabbitmq_consistent_hash_exchange)) and a hundred more. One percent is moved by one binding, so that
    at no moment a task goes to two versions or to none. All of it is durable, and needs nothing of this collection to go on. Which bindings
    there are is read through the management plugin.
  - On NATS the route is a hundred subject mappings in a file that the server's configuration includes (O(nats)). The producers publish to
    C(<route>.<slot>.<anything>), where the slot is a number from 0 to 99 that they make of the task's key. A changed file is checked by the
    server's own program, and taken by a reload, all of it at once. Run it on the host of each server of a cluster.
  - Elsewhere the producers decide, by a flag of the name O(route) whose value is the name of the queue. They ask the OpenFeature SDK of
    their language for it with each task's key; see O(flags).
extends_documentation_fragment:
  - queueops.fleet.queue
  - queueops.fleet.route
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
attributes:
  check_mode:
    support: full
    details: Also looks whether the queues are there, and whether what is removed is drained.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  weights:
    description:
      - Percent of the tasks by version; whole numbers that sum to 100.
      - A version with the weight 0 gets no new task, and drains. One that has tasks routed to it cannot be left out.
    type: dict
    required: true
  queue:
    description:
      - The name of a version's queue. The queue has to exist when the version is first named; its workers declare it.
      - With O(backend=nats) it is C(<stream>/<consumer>), and C({version}) has underscores for dots, for example
        V(ORDERS-{version}/worker).
    type: str
    default: "{route}-{version}"
  key:
    description:
      - What of a task decides which version gets it. It cannot be changed once the route is made.
      - On RabbitMQ V(routing_key), which is the default, V(header:NAME), V(property:message_id) or V(property:correlation_id), which is
        Celery's id of the task.
      - With O(flags) an attribute of the evaluation context, by default C(targetingKey). On NATS it is the slot in the subject, always.
    type: str
  remove:
    description:
      - Versions whose queue is deleted. Only one that is drained and that no worker listens to is removed.
      - One that is not there any more is no error.
    type: list
    elements: str
    default: []
notes:
  - A reload of NATS may end the connections of producers, as it is made (measured with 2.15, a few of twenty). What was not
    acknowledged then has to be published again, with the same C(Nats-Msg-Id); if its slot went to another version in between, both may
    have it.
seealso:
  - module: queueops.fleet.queue_route_info
  - module: queueops.fleet.queue_fence
"""

EXAMPLES = r"""
- name: Give version 2.0.0 a tenth of the tasks
  queueops.fleet.queue_route:
    backend: celery
    url: amqp://fleet@broker/
    password: "{{ vault_fleet_password }}"
    route: mail
    key: property:correlation_id
    weights: {1.0.0: 90, 2.0.0: 10}

- name: Take all of it back
  queueops.fleet.queue_route:
    backend: celery
    url: amqp://fleet@broker/
    password: "{{ vault_fleet_password }}"
    route: mail
    key: property:correlation_id
    weights: {1.0.0: 100, 2.0.0: 0}

- name: Give version 2.0.0 a tenth of the tasks of RQ, on all hosts that enqueue some
  queueops.fleet.queue_route:
    backend: rq
    url: redis://broker:6379/0
    route: mail
    weights: {1.0.0: 90, 2.0.0: 10}
    flags:
      fleet: mailer
      path: /etc/mailer-flags/flags.json

- name: Give version 2.0.0 a tenth of the tasks that are published to orders.<slot>.<anything>
  queueops.fleet.queue_route:
    backend: nats
    url: nats://localhost:4222
    route: orders
    queue: ORDERS-{version}/worker
    weights: {1.0.0: 90, 2.0.0: 10}
    nats:
      mappings: /etc/nats/orders.route
      config: /etc/nats/nats.conf
      pid_file: /run/nats/nats.pid

- name: Remove version 2.0.0 once it is drained
  queueops.fleet.queue_route:
    backend: celery
    url: amqp://fleet@broker/
    password: "{{ vault_fleet_password }}"
    route: mail
    key: property:correlation_id
    weights: {1.0.0: 100}
    remove: [2.0.0]
"""

RETURN = r"""
weights:
  description: Percent of the tasks by version, as they are after it.
  returned: success
  type: dict
  sample: {1.0.0: 90, 2.0.0: 10}
ended:
  description: When it was done, in seconds since 1970.
  returned: success
  type: float
moved:
  description: Percent of the tasks, by their keys, that go to another version than before.
  returned: success
  type: int
  sample: 10
"""

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._queue_options import backend_of
from ansible_collections.queueops.fleet.plugins.module_utils._route.route import described, planned, require_drained, states, whole
from ansible_collections.queueops.fleet.plugins.module_utils._route.version_names import named
from ansible_collections.queueops.fleet.plugins.module_utils._route_options import ROUTE_SPEC, key_of, router_of

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def divide(module: AnsibleModule) -> Outcome:
    params = module.params
    name, key = params["route"], key_of(params)
    router = router_of(params)
    before = router.look(name)
    template = params["queue"].replace("{route}", name)
    change = planned(before, whole(params["weights"]), template, tuple(params["remove"]), partial(named, backend=params["backend"]))
    warnings = router.preflight(name, key, change)
    if before and change.removed:
        looked = backend_of(params).look([before.queues[version] for version in change.removed], missing_ok=True)
        require_drained([version for version in states(before, looked.queues) if version.version in change.removed], change)
    if change and not module.check_mode:
        router.apply(name, key, change)
    queues = dict(before.queues if before else {}, **change.added)
    after = change.after()
    diff = {"before": described(before.weights(), queues) if before else "", "after": described(after, queues)}
    return Outcome(bool(change), {"weights": after, "moved": change.moved(), "ended": time.time()}, diff, warnings)


def main() -> None:
    spec: dict[str, Any] = dict(
        ROUTE_SPEC,
        weights={"type": "dict", "required": True},
        queue={"type": "str", "default": "{route}-{version}"},
        key={"type": "str", "no_log": False},
        remove={"type": "list", "elements": "str", "default": []},
    )
    run_module(divide, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
