# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # How a queue module reaches its broker.
    DOCUMENTATION = r"""
options:
  backend:
    description:
      - The queue system.
      - V(rq) is Python RQ.
      - V(redis_list) is a plain Redis list with a processing list per worker, the pattern that Redis calls a reliable queue.
    type: str
    required: true
    choices: [redis_list, rq]
  url:
    description:
      - Where the broker is, as the host sees it that runs this task.
      - For example V(redis://broker:6379/0), V(rediss://broker:6380/0) with TLS, or V(unix:///run/redis/redis.sock?db=0).
      - Give a password in O(password), not here. One that is here all the same is masked in results and errors.
    type: str
    required: true
  username:
    description: User at the broker, where it has users (Redis ACL).
    type: str
  password:
    description: Password at the broker.
    type: str
  tls_ca:
    description: File on the host with the CA that signed the broker's certificate. Default is the system's CAs.
    type: path
  tls_verify:
    description: Whether the broker's certificate and name are checked.
    type: bool
    default: true
  connect_timeout:
    description: Seconds to wait for a connection, and for each answer.
    type: float
    default: 5.0
  key_prefix:
    description: For O(backend=rq), the prefix of RQ's keys, as in its E(RQ_KEY_PREFIX).
    type: str
    default: rq
  processing:
    description:
      - For O(backend=redis_list), the lists that hold what workers are executing. C({queue}) stands for the queue's name.
      - A pattern (C(*), C(?), C([)) makes each look walk over the key names of the database; name the lists where it holds many keys.
      - What follows the first colon after C({queue}:processing) is taken as the worker's name.
    type: list
    elements: str
    default: ["{queue}:processing*"]
  failed_list:
    description: For O(backend=redis_list), the list that holds failed tasks. C({queue}) stands for the queue's name.
    type: str
    default: "{queue}:failed"
requirements:
  - The Python library C(redis), 4.3 or newer, on the host that runs the task. Debian and Ubuntu have it as C(python3-redis).
notes:
  - Run it on a host that reaches the broker, for example with C(delegate_to). RQ itself is neither needed nor imported.
  - A worker's version is read from its name, by the convention C(<app>@<version>:<host>:<anything>), for example
    C(mailer@1.0.0:worker1:1). RQ's own record of a version is that of RQ.
  - Payloads are never read, so never unpickled.
"""
