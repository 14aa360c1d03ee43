#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: queue_isolate
short_description: Move a task type out of a live queue into a queue of its own, and back
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - So that a new task type fails alone. With O(state=isolated) its tasks go to a queue of their own from now on, whatever version of the
    workers the others go to, and those that are queued already are moved there. With O(state=joined) they are divided like the others
    again, and what is left in its own queue is given to the version that has the rest of the route.
  - The way of new tasks is changed first, and in one step. What is queued is moved as M(queueops.fleet.queue_redrive) does it, so that
    no task is lost, and workers may go on meanwhile.
  - A task that a worker has in hand stays with it, and is tried again in the queue in which it began. Run again to move it, too.
  - It needs a route (M(queueops.fleet.queue_route)), which the producers publish to.
  - The task type's own queue is in the same namespace as the others, that is the same vhost, database or account. Nothing moves tasks
    into another namespace. To bring a task type there, start its workers there, let its producers connect to it, and let what is still
    queued be worked off where it is.
  - Refused on NATS, which maps subjects and knows nothing of headers. A subject that a slot's mapping takes cannot be taken out of it
    by a second mapping, for which of two counts is another one at each start of the server (seen with 2.15). There give the type a
    subject that no route takes, with a stream and a consumer of its own.
extends_documentation_fragment:
  - queueops.fleet.queue
  - queueops.fleet.route
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
attributes:
  check_mode:
    support: full
    details: Counts what would be moved where the system is able to without taking it; RabbitMQ's quorum queues are not.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  task:
    description: The task type, as it is in the messages' O(header), or with O(flags) in that attribute of the evaluation context.
    type: str
    required: true
  queue:
    description: The task type's own queue. It has to exist; its workers declare it.
    type: str
    default: "{route}-{task}"
  header:
    description:
      - The message header, or with O(flags) the attribute of the evaluation context, that tells the task type.
      - V(task) is Celery's header. What is queued is then told by the name that the queue system knows, where it knows one.
    type: str
    default: task
  state:
    description: V(isolated) moves the tasks out, V(joined) moves them back.
    type: str
    choices: [isolated, joined]
    required: true
  state_dir:
    description: A folder on the host that this runs on, in which is noted what is being moved.
    type: path
    default: /var/lib/queueops
seealso:
  - module: queueops.fleet.queue_route
  - module: queueops.fleet.queue_redrive
"""

EXAMPLES = r"""
- name: Let the new newsletter fail alone
  queueops.fleet.queue_isolate:
    backend: celery
    url: amqp://fleet@broker/
    password: "{{ vault_fleet_password }}"
    route: mail
    task: mailer.newsletter
    queue: mail-newsletter
    state: isolated

- name: It works; let it be one of many
  queueops.fleet.queue_isolate:
    backend: celery
    url: amqp://fleet@broker/
    password: "{{ vault_fleet_password }}"
    route: mail
    task: mailer.newsletter
    queue: mail-newsletter
    state: joined
"""

RETURN = r"""
queue:
  description: The task type's own queue.
  returned: success
  type: str
  sample: mail-newsletter
routed:
  description: Whether new tasks of the type went to that queue before.
  returned: success
  type: bool
moved:
  description: How many queued tasks were moved, by the queue that they were moved out of.
  returned: success
  type: dict
  sample: {mail-1.0.0: 212, mail-2.0.0: 24}
"""

from typing import TYPE_CHECKING, Any

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._queue_options import backend_of
from ansible_collections.queueops.fleet.plugins.module_utils._route.moving import moved
from ansible_collections.queueops.fleet.plugins.module_utils._route.route import Apart, isolation, known
from ansible_collections.queueops.fleet.plugins.module_utils._route_options import ROUTE_SPEC, router_of

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def isolate(module: AnsibleModule) -> Outcome:
    params = module.params
    name, task = params["route"], params["task"]
    queue = params["queue"].replace("{route}", name).replace("{task}", task)
    wanted = Apart(params["header"], task, queue)
    router, backend = router_of(params), backend_of(params)
    route = known(router.look(name), name)
    present = isolation(route, wanted)
    backend.look([queue])
    out = params["state"] == "isolated"
    change = (present is None) == out
    if change and not module.check_mode:
        (router.isolate if out else router.join)(name, wanted)
    sources = sorted(route.queues.values()) if out else [queue]
    target = queue if out else route.queues[route.rest or min(route.queues)]
    only = wanted if out else None
    counts = {source: moved(backend, source, target, only, params["state_dir"], module.check_mode) for source in sources}
    before, after = ("apart, in %s\n" % queue if apart else "divided among the versions\n" for apart in (present, out))
    result = {"queue": queue, "routed": present is not None, "moved": counts}
    return Outcome(change or any(counts.values()), result, {"before": before, "after": after})


def main() -> None:
    spec: dict[str, Any] = dict(
        ROUTE_SPEC,
        task={"type": "str", "required": True},
        queue={"type": "str", "default": "{route}-{task}"},
        header={"type": "str", "default": "task"},
        state={"type": "str", "choices": ["isolated", "joined"], "required": True},
        state_dir={"type": "path", "default": "/var/lib/queueops"},
    )
    run_module(isolate, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
