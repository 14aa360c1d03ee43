#!/usr/bin/python
# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: queue_fence
short_description: Let a version's workers in at the broker, or shut them out
version_added: 0.1.0
author: The queueops.fleet contributors (@queueops)
description:
  - For workers that log in at the broker as a user of their version's own, for example C(mailer-2.0.0). With O(state=open) the user is
    made, with the password and the rights of O(like). With O(state=fenced) it is deleted, and its connections are closed.
  - So a host that nobody reaches takes no task with that version, whether it runs, comes back later, or is restarted.
  - A user is one of the whole broker, whichever vhost, database or prefix O(url) and O(key_prefix) name. Where several fleets use one
    broker, the users of each need names of their own. RabbitMQ's may use the vhosts in which O(like) has rights.
  - A task that a worker has in hand when it is shut out is to the broker like that of a worker whose host has died.
  - On Redis the users have to be kept in a file (C(aclfile)), or a restart would forget them. Redis does not replicate its users, so that
    an O(url) with sentinels is refused. RabbitMQ is asked through its management plugin.
extends_documentation_fragment:
  - queueops.fleet.queue
  - queueops.fleet.attributes
  - queueops.fleet.attributes.actiongroup_fleet
attributes:
  check_mode:
    support: full
    details: Also looks whether all that is needed is allowed.
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  user:
    description: The version's user at the broker. It belongs to this module, which makes and deletes it.
    type: str
    required: true
  like:
    description: The broker's user whose password and rights O(user) gets. It has to exist, and is not changed.
    type: str
    required: true
  state:
    description: V(open) lets the user in, V(fenced) shuts it out.
    type: str
    choices: [open, fenced]
    required: true
seealso:
  - module: queueops.fleet.queue_drain
  - module: queueops.fleet.worker_version
"""

EXAMPLES = r"""
- name: Let version 2.0.0 in, before the first of its workers starts
  queueops.fleet.queue_fence:
    backend: rq
    url: redis://broker:6379/0
    username: fleet
    password: "{{ vault_fleet_password }}"
    user: mailer-2.0.0
    like: mailer
    state: open

- name: Shut it out, wherever it still runs
  queueops.fleet.queue_fence:
    backend: rq
    url: redis://broker:6379/0
    username: fleet
    password: "{{ vault_fleet_password }}"
    user: mailer-2.0.0
    like: mailer
    state: fenced
"""

RETURN = r"""
user:
  description: The user.
  returned: success
  type: str
  sample: mailer-2.0.0
exists:
  description: Whether the user existed before, and so whether anybody could log in as it.
  returned: success
  type: bool
connections:
  description: How many connections were logged in as it before, from all hosts together. With O(state=fenced) they are closed.
  returned: success
  type: int
"""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ansible_collections.queueops.fleet.plugins.module_utils._adapter import Outcome, run_module
from ansible_collections.queueops.fleet.plugins.module_utils._errors import Refused
from ansible_collections.queueops.fleet.plugins.module_utils._queue.fence import open_fence
from ansible_collections.queueops.fleet.plugins.module_utils._queue_options import QUEUE_SPEC

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


def fence(module: AnsibleModule) -> Outcome:
    user, like, wanted = module.params["user"], module.params["like"], module.params["state"]
    if user in (like, module.params["username"], urlsplit(module.params["url"]).username, "default"):
        raise Refused(
            "The user %s is not one version's own, so that shutting it out would shut out others" % user,
            option="user",
            next_step="Name the user after the version, for example mailer-2.0.0",
        )
    broker = open_fence(module.params)
    warnings = broker.preflight()
    before = broker.look(user)
    alike = broker.is_like(user, like)
    pending = before.exists if wanted == "fenced" else not alike
    if pending and not module.check_mode:
        if wanted == "fenced":
            broker.shut_out(user)
        else:
            broker.let_in(user, like)
    result = {"user": user, "exists": before.exists, "connections": before.connections}
    known = "open" if alike else "unlike %s" % like if before.exists else "fenced"
    return Outcome(pending, result, {"before": known + "\n", "after": (wanted if pending else known) + "\n"}, warnings)


def main() -> None:
    spec: dict[str, Any] = dict(
        QUEUE_SPEC,
        user={"type": "str", "required": True},
        like={"type": "str", "required": True},
        state={"type": "str", "choices": ["open", "fenced"], "required": True},
    )
    run_module(fence, spec, supports_check_mode=True)


if __name__ == "__main__":
    main()
