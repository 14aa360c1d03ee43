# Copyright (c) 2026, the queueops.fleet contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # How tasks are routed.
    DOCUMENTATION = r"""
options:
  route:
    description: The logical queue. On RabbitMQ the name of the exchange that is published to; with O(flags) the name of the flag.
    type: str
    required: true
  flags:
    description:
      - Where the flag is that the producers read. It is in flagd's JSON format, with the queue's name as its value.
      - Without it the broker routes, which only RabbitMQ and NATS are able to.
    type: dict
    suboptions:
      fleet:
        description: The fleet that the route belongs to. Another fleet's is refused.
        type: str
        required: true
      path:
        description:
          - A file of flags on the host that this runs on, as that of M(queueops.fleet.feature_gate).
          - Run it on each host that has producers.
          - It must not be a release's file of feature gates (O(queueops.fleet.worker_release#module:config.feature_gates)). The next
            release would be refused, and a rollback would take the route away.
        type: path
      redis_key:
        description: A key at the broker, which then has to be Redis or Valkey.
        type: str
      owner:
        description: The file's owner. Default is the one that it has, for a new file the user that runs the task.
        type: str
      group:
        description: The file's group. Default is the one that it has, for a new file that of the user that runs the task.
        type: str
      mode:
        description: The file's permissions as octal digits in quotation marks. Default are those that it has, for a new file V(0644).
        type: str
  nats:
    description: Where the subject mappings of a NATS server are, on the host that this runs on.
    type: dict
    suboptions:
      mappings:
        description:
          - The file of the route's mappings, one for each route. Make it, empty, and write C(mappings = { include "name" }) into the
            server's configuration, in the account where the streams are.
        type: path
        required: true
      config:
        description: The server's configuration, which is checked before it is reloaded.
        type: path
        default: /etc/nats-server.conf
      pid_file:
        description: The file with the server's pid (C(pid_file) in its configuration).
        type: path
        default: /run/nats-server/nats-server.pid
      monitor:
        description: The server's monitoring port (C(http) in its configuration), which tells what it routes.
        type: str
        default: http://127.0.0.1:8222
      account:
        description: The account in which the mappings are.
        type: str
        default: $G
      program:
        description: The server's program.
        type: str
        default: nats-server
"""
